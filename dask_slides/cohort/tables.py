"""Read tables of slides: CSV, Parquet, and data frames."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dask_slides.cohort.plain_values import Plain, plain_or_text
from dask_slides.errors import SlideArgumentError, SlideFormatError, SlideNotFoundError

SUFFIXES = (".csv", ".parquet")
NAMED = ("path", "mpp", "name")
"""Columns that say which slide it is."""
OWN = ("status", "seconds", "error", "message")
"""Columns that every process list has beside those."""
Row = tuple[str, dict[str, Plain]]
"""Where a row is, for messages, and its values by column."""


def is_table(one: Any) -> bool:
    """Return whether `one` is a data frame, or the path of a table.

    Raises SlideArgumentError if it is neither of these, nor another path.
    """
    if is_frame(one):
        return True
    if not isinstance(one, str | os.PathLike):
        raise SlideArgumentError(
            f"slides: a {type(one).__name__} is neither a path nor a DataFrame of pandas; give one"
        )
    text = os.fspath(one)
    return text.lower().endswith(SUFFIXES) and "://" not in text


def is_frame(one: Any) -> bool:
    """Return whether `one` is a data frame of pandas."""
    return hasattr(one, "iloc") and hasattr(one, "columns")


def read_table(table: Any) -> list[Row]:
    """Return the rows of a table that have a value; values are plain.

    Raises
    ------
    SlideNotFoundError
        There is no such file.
    SlideFormatError
        The file is not a table, or has no column path.
    SlideArgumentError
        A column has the name of one of the process list.
    ImportError
        pyarrow is not installed, and the table is Parquet.
    """
    if is_frame(table):
        kept = _kept_columns("the table", list(table.columns))
        return _numbered("the table, row", kept, table.to_dict("records"))
    path = os.fspath(table)
    try:
        return _read_csv(path) if path.lower().endswith(".csv") else _read_parquet(path)
    except FileNotFoundError:
        raise SlideNotFoundError(f"{path}: No such file or directory; check the path") from None


def _read_csv(path: str) -> list[Row]:
    try:
        # spreadsheets put a byte order mark before the first column
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            kept = _kept_columns(path, list(reader.fieldnames or ()))
            rows = [(reader.line_num, _stripped(row)) for row in reader]
            lines = [number for number, _ in rows]
            return _numbered(f"{path}, line", kept, [row for _, row in rows], lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlideFormatError(f"{path}: is not a CSV table in UTF-8 ({error})") from error


def _read_parquet(path: str) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow; pip install 'dask-slides[export]'") from error
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise SlideFormatError(f"{path}: is not a Parquet table ({error})") from error
    kept = _kept_columns(path, table.column_names)
    return _numbered(f"{path}, row", kept, table.to_pylist())


def _stripped(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return the texts of a line of CSV; fields beyond the last column are a list under None."""
    return {name: (text or "").strip() for name, text in row.items() if name is not None}


def _kept_columns(what: str, columns: Sequence[Any]) -> tuple[str, ...]:
    """Return `NAMED` and the columns of the user; raise if the columns cannot be used."""
    names = [str(column) for column in columns]
    if "path" not in names:
        raise SlideFormatError(
            f"{what}: has no column path; name the column with the files so, or put the names of "
            f"columns in the first line (it has {', '.join(names[:8]) or 'no columns'})"
        )
    kept = (*NAMED, *user_columns(names))
    for name in kept:
        if name in OWN or kept.count(name) > 1:
            reason = "is one of the process list" if name in OWN else "is there twice"
            raise SlideArgumentError(f"{what}: the column {name!r} {reason}; rename it")
    return kept


def _numbered(
    what: str,
    kept: Sequence[str],
    rows: Sequence[Mapping[Any, Any]],
    numbers: Sequence[int] | None = None,
) -> list[Row]:
    """Return the rows that are not empty with the `kept` columns; `what` and a number say where."""
    found = []
    for number, row in zip(numbers or range(1, len(rows) + 1), rows, strict=True):
        values = {str(name): plain_or_text(value) for name, value in row.items()}
        if any(value not in (None, "") for value in values.values()):
            found.append((f"{what} {number}", {name: values.get(name) for name in kept}))
    return found


def user_columns(names: Sequence[str]) -> list[str]:
    """Return the columns of the user among those of a table or of a process list.

    In a process list they come before the status. A column without a name, such as the index that
    pandas writes, is none of them.
    """
    own = set(OWN) <= set(names)
    given = names[: names.index(OWN[0])] if own else names
    return [name for name in given if name and name not in NAMED]


def values_in(row: Mapping[str, Plain]) -> Iterator[tuple[str, Plain]]:
    """Yield the columns of the user, and their values in a row."""
    return ((name, value) for name, value in row.items() if name not in NAMED)
