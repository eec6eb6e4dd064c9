"""The bytes of a page's tiles as they lie in the file: few reads, each of many tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dask_slides.readers.codecs.headers import JPEG, has_end
from dask_slides.readers.remote.byte_ranges import ByteFile, Data

_LARGEST_GAP = 2**14
"""Bytes between two tiles that are read and thrown away, where that saves a read."""
_LONGEST_READ = 2**22
"""Bytes read at a time, at the most."""


class TileByteReader:
    """The tiles of one page by number, in rows from the top left. Threads may share it."""

    def __init__(self, file: ByteFile, page: Any) -> None:
        self._file = file
        self._offsets = page.dataoffsets
        self._counts = page.databytecounts
        self._ends = int(page.compression) in JPEG

    def fetch(self, numbers: list[int]) -> Iterator[tuple[int, Data | None]]:
        """Yield the bytes of tiles, None if the file does not hold them; few, long reads."""
        offsets, counts = self._offsets, self._counts
        present = []
        for number in numbers:
            if offsets[number] and counts[number]:
                present.append(number)
            else:
                yield number, None
        groups = _runs(present, offsets, counts)
        ranges = [(offsets[one[0]], offsets[one[-1]] + counts[one[-1]]) for one in groups]
        for group, (start, _), read in zip(groups, ranges, self._file.ranges(ranges), strict=True):
            data = memoryview(read)
            for number in group:
                own = data[offsets[number] - start :][: counts[number]]
                if len(own) != counts[number]:
                    raise ValueError(f"the file ends within tile {number}")
                if self._ends and not has_end(own):
                    raise ValueError(f"the JPEG stream of tile {number} has no end")
                yield number, own


def _runs(numbers: list[int], offsets: Any, counts: Any) -> list[list[int]]:
    """Group tiles that lie close behind each other in the file: one read brings all of them."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups:
            last = groups[-1][-1]
            gap = offsets[number] - offsets[last] - counts[last]
            length = offsets[number] + counts[number] - offsets[groups[-1][0]]
            if 0 <= gap <= _LARGEST_GAP and length <= _LONGEST_READ:
                groups[-1].append(number)
                continue
        groups.append([number])
    return groups
