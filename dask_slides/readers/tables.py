"""Read the rows of tables of slides: CSV, Parquet, and data frames."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask_slides.core.arguments import absolute, is_remote
from dask_slides.core.plain_values import Plain, plain_or_text
from dask_slides.errors import SlideArgumentError, SlideError, SlideFormatError, SlideNotFoundError
from dask_slides.readers.remote.object_store import read_whole

SUFFIXES = (".csv", ".parquet")
Row = tuple[str, dict[str, Plain]]
"""Where a row is, for messages, and its values by column."""


@dataclass(frozen=True)
class Table:
    """The rows of a table that have a value."""

    name: str
    """The path, or "the table"."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        columns: Sequence[Any],
        rows: Sequence[Mapping[Any, Any]],
        numbers: Sequence[int] | None = None,
    ) -> Table:
        """Return the table of `rows`; `unit` and a number say where each is."""
        names = checked_columns(name, columns)
        found = []
        for number, row in zip(numbers or range(1, len(rows) + 1), rows, strict=True):
            values = {str(key).strip(): plain_or_text(value) for key, value in row.items()}
            if any(value not in (None, "") for value in values.values()):
                found.append((f"{name}, {unit} {number}", values))
        return cls(name, names, tuple(found))


def checked_columns(table: str, columns: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of columns; raise if path is not among them, or one is there twice."""
    names = tuple(str(column).strip() for column in columns)
    if "path" not in names:
        raise SlideFormatError(
            f"{table}: has no column path; name the column with the files so, or put the names of "
            f"columns in the first line (it has {', '.join(names[:8]) or 'no columns'})"
        )
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise SlideArgumentError(f"{table}: the column {twice[0]!r} is there twice; rename it")
    return names


def is_table(one: Any) -> bool:
    """Return whether `one` is a data frame, or the path of a table."""
    if is_frame(one):
        return True
    if not isinstance(one, str | os.PathLike):
        return False
    return os.fspath(one).lower().endswith(SUFFIXES)


def is_frame(one: Any) -> bool:
    """Return whether `one` is a data frame of pandas."""
    return hasattr(one, "iloc") and hasattr(one, "columns")


def path_in(table: Any, path: str) -> str:
    """Return a path of a row as an absolute one; it is relative to the folder of the table."""
    if is_remote(path):
        return path
    folder = os.getcwd() if is_frame(table) else os.path.dirname(absolute(os.fspath(table)))
    return absolute(os.path.join(folder, path))


def read_rows(table: Any) -> Table:
    """Return the rows of a table; values are plain.

    Raises
    ------
    SlideNotFoundError
        There is no such file.
    SlideFormatError
        The file is not a table, or has no column path.
    SlideArgumentError
        Two columns have one name.
    ImportError
        pyarrow is not installed, and the table is Parquet.
    """
    if is_frame(table):
        columns = checked_columns("the table", list(table.columns))  # to_dict drops doubles
        return Table.of("the table", "row", columns, table.to_dict("records"))
    path = os.fspath(table)
    try:
        return _read_csv(path) if path.lower().endswith(".csv") else _read_parquet(path)
    except SlideError:  # of a bucket, or of the content
        raise
    except FileNotFoundError:
        raise SlideNotFoundError(f"{path}: No such file or directory; check the path") from None
    except OSError as error:
        raise SlideFormatError(
            f"{path}: cannot be read as a table ({error.strerror or error}); check the path"
        ) from error


def _read_csv(path: str) -> Table:
    try:
        # spreadsheets put a byte order mark before the first column
        reader = csv.DictReader(io.StringIO(read_whole(path).decode("utf-8-sig"), newline=""))
        columns = list(reader.fieldnames or ())
        rows = [(reader.line_num, _stripped(row)) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlideFormatError(f"{path}: is not a CSV table in UTF-8 ({error})") from error
    lines = [number for number, _ in rows]
    return Table.of(path, "line", columns, [row for _, row in rows], lines)


def _read_parquet(path: str) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow; pip install 'dask-slides[export]'") from error
    try:
        file = pyarrow.BufferReader(read_whole(path)) if is_remote(path) else path
        table = parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise SlideFormatError(f"{path}: is not a Parquet table ({error})") from error
    return Table.of(path, "row", table.column_names, table.to_pylist())


def _stripped(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return the texts of a line of CSV; fields beyond the last column are a list under None."""
    return {name: (text or "").strip() for name, text in row.items() if name is not None}
