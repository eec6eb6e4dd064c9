"""Tables of slides with labels and groups, and their split into parts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dask_slides.core.arguments import as_number, checked_seed
from dask_slides.errors import SlideArgumentError, SlideFormatError
from dask_slides.feed.schedule import permutation
from dask_slides.readers.tables import path_in, read_rows

SHARES = MappingProxyType({"train": 0.7, "val": 0.15, "test": 0.15})
"""Default share of the slides of each part."""
SPLIT_STREAM = 6
"""Stream of the random numbers that order the groups."""


@dataclass(frozen=True)
class SlideRow:
    """A slide of a table."""

    path: str
    """Absolute path or address of a slide or a pack."""
    label: Any = ""
    split: str = ""
    """The part to which it belongs, such as "train"."""
    group: Any = ""
    """Slides of one group, such as those of a patient, stay in one part."""
    mpp: float | None = None
    """Micrometres per pixel; replaces the value of the file."""
    name: str = ""


@dataclass(frozen=True)
class SlideTable:
    """Slides with their labels, parts and groups. `read_table` makes one."""

    rows: tuple[SlideRow, ...]

    def __len__(self) -> int:
        """Return the number of slides."""
        return len(self.rows)

    def __iter__(self) -> Iterator[SlideRow]:
        """Iterate over the slides."""
        return iter(self.rows)

    def part(self, name: str) -> SlideTable:
        """Return the slides of one part, such as "train".

        Raises
        ------
        SlideArgumentError
            No slide belongs to it.
        """
        rows = tuple(row for row in self.rows if row.split == name)
        if not rows:
            parts = ", ".join(sorted({repr(row.split) for row in self.rows}))
            raise SlideArgumentError(f"no slide is in the part {name!r}; there are {parts}")
        return SlideTable(rows)

    def split(
        self, *, by: str = "group", seed: int = 0, shares: Mapping[str, float] = SHARES
    ) -> SlideTable:
        """Divide the slides into parts that have about the same shares of labels.

        Groups are taken in a random order, those with more slides first, and each goes to the
        part that then lacks most of its labels. A small part may have no slide of a rare label.

        Parameters
        ----------
        by : {"group", "path"}
            Slides with one value stay together. A slide without a group is a group of its own.
        seed : int
            Another seed divides the slides in another way.
        shares : mapping
            Names of the parts, and the share of the slides of each.

        Returns
        -------
        SlideTable
            In the same order, with ``split`` set.

        Raises
        ------
        SlideArgumentError
            An argument is not valid.
        """
        if by not in ("group", "path"):
            raise SlideArgumentError(f"by={by!r} is not known; use 'group' or 'path'")
        return SlideTable(_split(self.rows, by, checked_seed(seed), _checked_shares(shares)))


def are_shares(shares: Any) -> bool:
    """Return whether `shares` is a mapping to numbers above 0."""
    return isinstance(shares, Mapping) and all(
        0 < as_number(share) < math.inf for share in shares.values()
    )


def _checked_shares(shares: Mapping[str, float]) -> dict[str, float]:
    if not are_shares(shares) or not shares:
        raise SlideArgumentError(
            f"shares={shares!r}; give each part a number above 0, such as {SHARES!r}"
        )
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def _split(
    rows: tuple[SlideRow, ...], by: str, seed: int, shares: dict[str, float]
) -> tuple[SlideRow, ...]:
    groups: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        value = row.group if by == "group" else row.path
        groups.setdefault(row.path if value == "" else ("group", str(value)), []).append(number)
    wanted = Counter(row.label for row in rows)
    left = {
        part: {label: share * count for label, count in wanted.items()}
        for part, share in shares.items()
    }
    members = list(groups.values())
    order = permutation(len(members), seed, SPLIT_STREAM).tolist()
    out = list(rows)
    for index in sorted(order, key=lambda i: -len(members[i])):
        labels = Counter(rows[number].label for number in members[index])
        part = max(shares, key=lambda name: _lack(left[name], labels, wanted))
        for number in members[index]:
            out[number] = replace(rows[number], split=part)
            left[part][rows[number].label] -= 1
    return tuple(out)


def _lack(
    left: Mapping[Any, float], labels: Mapping[Any, int], wanted: Mapping[Any, int]
) -> tuple[float, float]:
    """Return how much a part lacks the labels of a group, and slides of any label."""
    lacks = sum(count * left[label] / wanted[label] for label, count in labels.items())
    return round(lacks, 9), sum(left.values())


def read_table(table: Any) -> SlideTable:
    r"""Read a table of slides.

    Parameters
    ----------
    table : path or DataFrame
        A ``.csv`` or ``.parquet`` file, or a DataFrame of pandas, with the column path and, if
        needed, label, split, group, mpp and name; other columns are ignored. Paths of slides and
        packs are relative to the folder of the file, or to the current one.

    Returns
    -------
    SlideTable

    Raises
    ------
    SlideNotFoundError
        There is no such file.
    SlideFormatError
        The file is not a table, has no column path or no rows, or a value is not valid.

    Examples
    --------
    >>> with open("cohort.csv", "w") as file:
    ...     _ = file.write("path,label,split\na.tif,tumour,train\nb.tif,normal,test\n")
    >>> [row.label for row in read_table("cohort.csv").part("train")]
    ['tumour']
    """
    rows = tuple(_row(where, values, table) for where, values in read_rows(table).rows)
    if not rows:
        raise SlideFormatError("the table has no rows; list the slides, one per row")
    return SlideTable(rows)


def _row(where: str, values: Mapping[str, Any], table: Any) -> SlideRow:
    values = {name: value for name, value in values.items() if value not in (None, "")}
    path = values.get("path")
    if path is None:
        raise SlideFormatError(f"{where}: has no path; give one or remove it")
    path = path_in(table, str(path))
    mpp = values.get("mpp")
    try:
        number = None if mpp is None else float(mpp)
    except (TypeError, ValueError):
        number = math.nan
    if number is not None and not 0 < number < math.inf:
        raise SlideFormatError(
            f"{where}: mpp {mpp!r} is not a number above 0; correct it or leave it empty"
        )
    label, group = (values.get(key, "") for key in ("label", "group"))
    split, name = (str(values.get(key, "")) for key in ("split", "name"))
    return SlideRow(path, label, split, group, number, name)
