"""Find the slides of a run from paths, folders, patterns and tables."""

from __future__ import annotations

import csv
import glob
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dask_slides.cohort.names import folded, safe_name
from dask_slides.core.limits import Limits
from dask_slides.errors import SlideArgumentError, SlideFormatError, SlideNotFoundError
from dask_slides.readers.registry import UNREAD, is_dicom_folder, optional_suffixes
from dask_slides.slide import Slide, open_slide

SUFFIXES = (
    ".svs", ".tif", ".tiff", ".btf", ".tf8", ".ndpi", ".scn", ".bif", ".qptiff", ".lsm", ".zarr",
    ".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".bmp",
    ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Suffixes of slides in a folder; patterns and paths may name any file."""

log = logging.getLogger("dask_slides.cohort")


@dataclass(frozen=True)
class SlideEntry:
    """One slide of the list."""

    path: str
    """Absolute path or URL."""
    mpp: float | None = None
    """Micrometres per pixel; replaces the value of the file."""
    name: str | None = None
    """Folder name in the job; None derives it from the file name."""
    on_bad_tile: str = "raise"
    """How corrupt tiles are treated, as in `open_slide`."""
    limits: Limits = field(default_factory=Limits)
    """Limits for the values that the file declares."""

    def open(self) -> Slide:
        """Open the slide; no pixel is read."""
        return open_slide(self.path, mpp=self.mpp, on_bad_tile=self.on_bad_tile, limits=self.limits)


def read_list(
    slides: Any,
    mpp: float | None = None,
    on_bad_tile: str = "raise",
    limits: Limits = Limits(),
) -> list[SlideEntry]:
    """Return the slides that paths, folders, patterns and tables name, sorted, without duplicates.

    Parameters
    ----------
    slides : str, path or sequence of them
        A file or store, a folder (the slides in it, but not in its subfolders), a pattern
        (``**`` includes subfolders), or a ``.csv`` with the columns path, mpp, name. Paths in a
        table are relative to its folder.
    mpp : float, optional
        For slides without an mpp in a table.
    on_bad_tile : {"raise", "mask"}
        For all slides.
    limits : Limits
        For all slides.

    Raises
    ------
    SlideNotFoundError
        A path does not exist, or a pattern or folder has no slide.
    SlideFormatError
        A table cannot be read.
    SlideArgumentError
        A name in a table is not valid or not unique, or a slide is listed twice with other values.
    """
    many = [slides] if isinstance(slides, str | os.PathLike) else list(slides)
    found: dict[str, SlideEntry] = {}
    for one in many:
        text = os.fspath(one)
        is_table = text.lower().endswith(".csv") and "://" not in text
        entries = _read_table(text) if is_table else map(SlideEntry, _paths(text))
        for entry in entries:
            entry = replace(
                entry,
                mpp=mpp if entry.mpp is None else entry.mpp,
                on_bad_tile=on_bad_tile,
                limits=limits,
            )
            if found.setdefault(entry.path, entry) != entry:
                raise SlideArgumentError(
                    f"{entry.path}: is listed twice with different mpp or name; list it once"
                )
    _check_names(found.values())
    return sorted(found.values(), key=lambda entry: entry.path)


def _paths(text: str) -> Sequence[str]:
    if "://" in text:
        return [text]
    path = os.path.abspath(text)
    if os.path.isdir(path) and not (path.lower().endswith(".zarr") or is_dicom_folder(path)):
        files = [entry.path for entry in os.scandir(path) if not entry.name.startswith(".")]
        known = SUFFIXES + optional_suffixes()
        names = [one for one in files if one.lower().endswith(known) or is_dicom_folder(one)]
        unread = tuple(suffix for suffix in UNREAD if suffix not in known)
        skipped = [file for file in files if file.lower().endswith(unread)]
        if skipped:
            reason = f"{len(skipped):,} files of formats that are not read, such as {skipped[0]}"
            log.warning("%s: skipped %s; open it to see why", text, reason)
        if not names:
            raise SlideNotFoundError(f"{text}: this folder has no slides; give a pattern")
        return names
    if os.path.lexists(path):
        return [path]
    if not glob.has_magic(text):
        raise SlideNotFoundError(f"{text}: No such file or directory; check the path")
    names = [one for one in glob.glob(path, recursive=True) if _is_slide(one)]
    if not names:
        raise SlideNotFoundError(f"{text}: no slide matches; check the pattern")
    return names


def _is_slide(path: str) -> bool:
    return os.path.isfile(path) or path.lower().endswith(".zarr")


def _read_table(path: str) -> list[SlideEntry]:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        # spreadsheets put a byte order mark before the first column
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if "path" not in (reader.fieldnames or ()):
                raise SlideFormatError(
                    f"{path}: has no column path; its first line must name the columns"
                )
            return [_entry(row, folder, f"{path}, line {reader.line_num}") for row in reader]
    except FileNotFoundError:
        raise SlideNotFoundError(f"{path}: No such file or directory; check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlideFormatError(f"{path}: is not a CSV table in UTF-8 ({error})") from error


def _entry(row: dict[str, Any], folder: str, where: str) -> SlideEntry:
    path, mpp, name = ((row.get(key) or "").strip() for key in ("path", "mpp", "name"))
    if not path:
        raise SlideFormatError(f"{where}: has no path; give one or remove the line")
    if "://" not in path:
        path = os.path.abspath(os.path.join(folder, path))
    try:
        number = float(mpp) if mpp else None
    except ValueError:
        raise SlideFormatError(
            f"{where}: mpp {mpp!r} is not a number; correct it or leave it empty"
        ) from None
    if name and name != safe_name(name):
        raise SlideArgumentError(
            f"{where}: {name!r} is not a valid folder name; use {safe_name(name)!r} "
            "or leave it empty"
        )
    return SlideEntry(path, number, name or None)


def _check_names(entries: Iterable[SlideEntry]) -> None:
    seen: dict[str, SlideEntry] = {}
    for entry in entries:
        if entry.name is None:
            continue
        other = seen.setdefault(folded(entry.name), entry)
        if other is not entry:
            raise SlideArgumentError(
                f"{entry.path}: the name {entry.name!r} is also used for {other.path}, or differs "
                "in case only; use another name"
            )
