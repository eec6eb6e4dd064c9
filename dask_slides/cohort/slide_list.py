"""Find the slides of a run from paths, folders, patterns and tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dask_slides.cohort.names import folded, safe_name
from dask_slides.cohort.tables import NAMED, is_table, read_table, values_in
from dask_slides.core.limits import Limits
from dask_slides.core.plain_values import Plain
from dask_slides.errors import SlideArgumentError, SlideFormatError
from dask_slides.readers.slide_paths import slide_paths
from dask_slides.readers.tables import is_frame, path_in
from dask_slides.slide import Slide, open_slide


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
        pandas with the column path and, if needed, mpp and name. All may lie in a bucket. Paths in
        a table are relative to its folder, those in a DataFrame to the current one.
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
        entries, skipped = _table(one) if is_table(one) else _named(one)
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


def _named(path: Any) -> Found:
    """Return the slides of a path, a folder, or a pattern."""
    found, left_out = slide_paths(os.fspath(path))
    return [SlideEntry(one) for one in found], left_out


def _table(table: Any) -> Found:
    """Return the slides of a table; rows without a path are left out."""
    entries: list[SlideEntry] = []
    left_out: list[str] = []
    for where, row in read_table(table):
        if row["path"] in (None, ""):
            left_out.append(f"{where}: has no path; give one or remove it")
        else:
            entries.append(_entry(row, table, where))
    if not entries:
        name = "the table" if is_frame(table) else os.fspath(table)
        raise SlideFormatError(left_out[0] if left_out else f"{name}: has no rows; list the slides")
    return entries, left_out


def _entry(row: Mapping[str, Plain], table: Any, where: str) -> SlideEntry:
    path, mpp, name = ("" if row[key] is None else str(row[key]).strip() for key in NAMED)
    path = path_in(table, path)
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
