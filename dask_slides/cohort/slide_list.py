"""Find the slides of a run from paths, folders, patterns and tables."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dask_slides.cohort.names import folded, safe_name
from dask_slides.cohort.tables import NAMED, is_table, read_table, values_in
from dask_slides.core.limits import Limits
from dask_slides.core.plain_values import Plain
from dask_slides.errors import SlideArgumentError, SlideFormatError, SlideNotFoundError
from dask_slides.readers.registry import UNREAD, cures, is_dicom_folder, optional_suffixes
from dask_slides.readers.tables import folder_of, is_frame
from dask_slides.slide import Slide, open_slide

SUFFIXES = (
    ".svs", ".tif", ".tiff", ".btf", ".tf8", ".ndpi", ".scn", ".bif", ".qptiff", ".lsm", ".zarr",
    ".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".bmp",
    ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Suffixes of slides in a folder; patterns and paths may name any file."""


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
    columns: Mapping[str, Any] | None = None
    """Values of the user's columns in the table, plain; None if the slide is in no table."""

    def open(self) -> Slide:
        """Open the slide; no pixel is read."""
        return open_slide(self.path, mpp=self.mpp, on_bad_tile=self.on_bad_tile, limits=self.limits)


@dataclass(frozen=True)
class SlideList:
    """The slides that a user names, and what is left out."""

    entries: tuple[SlideEntry, ...]
    """Sorted by path, without duplicates."""
    left_out: tuple[str, ...] = ()
    """Files of folders and rows of tables that are not slides, each with the reason."""


def read_list(
    slides: Any,
    mpp: float | None = None,
    on_bad_tile: str = "raise",
    limits: Limits = Limits(),
) -> SlideList:
    """Return the slides that paths, folders, patterns and tables name.

    Parameters
    ----------
    slides : str, path, DataFrame, or sequence of them
        A file or store, a folder (the slides in it, but not in its subfolders), a pattern
        (``**`` includes subfolders), or a table: a ``.csv`` or ``.parquet`` file or a DataFrame of
        pandas with the column path and, if needed, mpp and name. Paths in a table are relative to
        its folder, those in a DataFrame to the current one.
    mpp : float, optional
        For slides without an mpp in a table.
    on_bad_tile : {"raise", "mask"}
        For all slides.
    limits : Limits
        For all slides.

    Raises
    ------
    SlideNotFoundError
        A path does not exist, or a pattern, folder or table has no slide.
    SlideFormatError
        A table cannot be read.
    SlideArgumentError
        A name in a table is not valid or not unique, or a slide is listed twice with other values.
    """
    single = isinstance(slides, str | os.PathLike) or is_frame(slides)
    found: dict[str, SlideEntry] = {}
    left_out: list[str] = []
    for one in [slides] if single else list(slides):
        entries, skipped = _table(one) if is_table(one) else _named(os.fspath(one))
        left_out += skipped
        for entry in entries:
            entry = replace(
                entry,
                mpp=mpp if entry.mpp is None else entry.mpp,
                on_bad_tile=on_bad_tile,
                limits=limits,
            )
            if found.setdefault(entry.path, entry) != entry:
                raise SlideArgumentError(
                    f"{entry.path}: is listed twice with different mpp, name or other columns; "
                    "list it once"
                )
    _check_names(found.values())
    entries = sorted(found.values(), key=lambda entry: entry.path)
    return SlideList(tuple(entries), tuple(sorted(set(left_out))))


Found = tuple[list[SlideEntry], list[str]]
"""Slides, and what is left out."""


def _named(text: str) -> Found:
    """Return the slides of a path, a folder, or a pattern."""
    path = text if "://" in text else os.path.abspath(text)
    if os.path.isdir(path) and not _is_slide_folder(path):
        return _folder(path)
    if "://" in text or os.path.lexists(path):
        return [SlideEntry(path)], []
    if not glob.has_magic(text):
        raise SlideNotFoundError(f"{text}: No such file or directory; check the path")
    names = [one for one in glob.glob(path, recursive=True) if _is_slide(one)]
    if not names:
        raise SlideNotFoundError(f"{text}: no slide matches; check the pattern")
    return [SlideEntry(name) for name in names], []


def _is_slide_folder(path: str) -> bool:
    return path.lower().endswith(".zarr") or is_dicom_folder(path)


def _folder(path: str) -> Found:
    """Return the slides of a folder, by their suffixes, and its other files."""
    inside = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
    known = SUFFIXES + optional_suffixes()
    slides = [
        one.path
        for one in inside
        if one.name.lower().endswith(known) or (one.is_dir() and is_dicom_folder(one.path))
    ]
    others = [one.path for one in inside if one.is_file() and one.path not in set(slides)]
    if not slides:
        unread = next((_reason(one) for one in others if _unread(one)), "it")
        which = "" if unread == "it" else f" that are read (such as {unread})"
        raise SlideNotFoundError(f"{path}: this folder has no slides{which}; give a pattern")
    left_out = [_reason(one) for one in others]
    # a MIRAX slide keeps its pixels in a folder of its name
    taken = {*slides, *(os.path.splitext(one)[0] for one in slides)}
    deeper = sum(one.is_dir() and one.path not in taken for one in inside)
    if deeper:
        pattern = os.path.join(path, "**", "*.svs")
        count = f"{deeper:,} subfolder{'s' * (deeper > 1)}"
        left_out.append(f"{path}: {count}; give a pattern such as {pattern!r} to read slides there")
    return [SlideEntry(slide) for slide in slides], left_out


def _unread(path: str) -> tuple[str, str] | None:
    """Return the description of a format that is not read, and the advice; None for others."""
    return UNREAD.get(os.path.splitext(path)[1].lower())


def _reason(path: str) -> str:
    """Return why the file at `path` is left out."""
    known = _unread(path)
    if known is None:
        return f"{path}: does not have the suffix of a slide; name the file to read it"
    description, advice = known
    stem = os.path.splitext(os.path.basename(path))[0]
    return f"{path}: {description.format(stem=stem)}; {', or '.join([*cures(path), advice])}"


def _is_slide(path: str) -> bool:
    return os.path.isfile(path) or _is_slide_folder(path)


def _table(table: Any) -> Found:
    """Return the slides of a table; rows without a path are left out."""
    folder = folder_of(table)
    entries: list[SlideEntry] = []
    left_out: list[str] = []
    for where, row in read_table(table):
        if row["path"] in (None, ""):
            left_out.append(f"{where}: has no path; give one or remove it")
        else:
            entries.append(_entry(row, folder, where))
    if not entries:
        name = "the table" if is_frame(table) else os.fspath(table)
        raise SlideFormatError(left_out[0] if left_out else f"{name}: has no rows; list the slides")
    return entries, left_out


def _entry(row: Mapping[str, Plain], folder: str, where: str) -> SlideEntry:
    path, mpp, name = ("" if row[key] is None else str(row[key]).strip() for key in NAMED)
    if "://" not in path:
        path = os.path.abspath(os.path.join(folder, path))
    try:
        number = float(mpp) if mpp else None
    except ValueError:
        number = math.nan
    if number is not None and not 0 < number < math.inf:
        raise SlideFormatError(
            f"{where}: mpp {mpp!r} is not a number above 0; correct it or leave it empty"
        )
    if name and name != safe_name(name):
        raise SlideArgumentError(
            f"{where}: {name!r} is not a valid folder name; use {safe_name(name)!r} "
            "or leave it empty"
        )
    return SlideEntry(path, number, name or None, columns=dict(values_in(row)))


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
