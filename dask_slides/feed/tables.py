"""Read the rows of tables: CSV, Parquet, and data frames."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dask_slides.errors import SlideFormatError, SlideNotFoundError

SUFFIXES = (".csv", ".parquet")
Row = tuple[str, dict[str, Any]]
"""Where a row is, for messages, and its values by column; None for a missing one."""


def is_frame(one: Any) -> bool:
    """Return whether `one` is a data frame of pandas."""
    return hasattr(one, "iloc") and hasattr(one, "columns")


def is_table(one: Any) -> bool:
    """Return whether `one` is a data frame, or the path of a table."""
    if is_frame(one):
        return True
    return isinstance(one, str | os.PathLike) and os.fspath(one).lower().endswith(SUFFIXES)


def folder_of(table: Any) -> str:
    """Return the folder to which the paths in a table are relative."""
    return os.getcwd() if is_frame(table) else os.path.dirname(os.path.abspath(table))


def read_rows(table: Any) -> list[Row]:
    """Return the rows of a table that have a value.

    Raises
    ------
    SlideNotFoundError
        There is no such file.
    SlideFormatError
        The file is not a table, or has no column path.
    ImportError
        pyarrow is not installed, and the table is Parquet.
    """
    if is_frame(table):
        rows = [dict(row) for row in table.to_dict("records")]
        return _checked("the table", list(table.columns), rows, range(1, len(rows) + 1), "row")
    path = os.fspath(table)
    try:
        return _read_csv(path) if path.lower().endswith(".csv") else _read_parquet(path)
    except FileNotFoundError:
        raise SlideNotFoundError(f"{path}: No such file or directory; check the path") from None


def _read_csv(path: str) -> list[Row]:
    rows: list[dict[Any, Any]] = []
    lines: list[int] = []
    try:
        # spreadsheets put a byte order mark before the first column
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                rows.append({name: (value or "").strip() for name, value in row.items() if name})
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlideFormatError(f"{path}: is not a CSV table in UTF-8 ({error})") from error
    return _checked(path, list(reader.fieldnames or ()), rows, lines, "line")


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
    return _checked(path, table.column_names, table.to_pylist(), range(1, len(table) + 1), "row")


def _checked(
    what: str,
    columns: Sequence[Any],
    rows: Sequence[dict[Any, Any]],
    numbers: Sequence[int],
    unit: str,
) -> list[Row]:
    names = [str(column) for column in columns]
    if "path" not in names:
        raise SlideFormatError(
            f"{what}: has no column path; name the column with the files so, or put the names of "
            f"columns in the first line (it has {', '.join(names[:8]) or 'no columns'})"
        )
    found = []
    for number, row in zip(numbers, rows, strict=True):
        values = {str(name): _plain(value) for name, value in row.items()}
        if any(value is not None for value in values.values()):
            found.append((f"{what}, {unit} {number}", values))
    return found


def _plain(value: Any) -> Any:
    """Return a value of a table as one of Python; None if it is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    missing = type(value).__name__ in ("NAType", "NaTType") or value == "" or value != value
    return None if missing else value
