"""Read tables of slides for a run, with the columns of the user."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dask_slides.core.plain_values import Plain
from dask_slides.errors import SlideArgumentError
from dask_slides.readers import tables
from dask_slides.readers.tables import Row, is_frame

NAMED = ("path", "mpp", "name")
"""Columns that say which slide it is."""
OWN = ("status", "seconds", "error", "message")
"""Columns that every process list has beside those."""


def is_table(one: Any) -> bool:
    """Return whether `one` is a data frame, or the path of a table.

    Raises SlideArgumentError if it is neither of these, nor another path.
    """
    if not (is_frame(one) or isinstance(one, str | os.PathLike)):
        raise SlideArgumentError(
            f"slides: a {type(one).__name__} is neither a path nor a DataFrame of pandas; give one"
        )
    return tables.is_table(one)


def read_table(table: Any) -> list[Row]:
    """Return the rows of a table that have a value, with `NAMED` and the columns of the user.

    Raises
    ------
    SlideError
        The table cannot be read, or a column has the name of one of the process list.
    ImportError
        pyarrow is not installed, and the table is Parquet.
    """
    found = tables.read_rows(table)
    kept = _kept_columns(found.name, found.columns)
    return [(where, {name: row.get(name) for name in kept}) for where, row in found.rows]


def _kept_columns(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return `NAMED` and the columns of the user; raise if the columns cannot be used."""
    kept = (*NAMED, *user_columns(names))
    for name in kept:
        if name in OWN:
            raise SlideArgumentError(
                f"{what}: the column {name!r} is one of the process list; rename it"
            )
    return kept


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
