"""Read the streams of a page's tiles from the file, many of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dask_slides.readers.remote.byte_ranges import ByteFile, Data

_LARGEST_GAP = 2**14
"""Largest gap between two tiles, in bytes, that is read along to save a second read."""
_LONGEST_READ = 2**22
"""Most bytes of one read."""


class TileByteReader:
    """Read the streams of one page by tile number. Threads may share it."""

    def __init__(self, file: ByteFile, page: Any) -> None:
        self._file = file
        self._offsets = page.dataoffsets
        self._counts = page.databytecounts

    def fetch(self, numbers: list[int]) -> Iterator[tuple[int, Data | None]]:
        """Yield number and stream of each tile; None for a tile that the file does not hold."""
        offsets, counts = self._offsets, self._counts
        present = []
        for number in numbers:
            if offsets[number] and counts[number]:
                present.append(number)
            else:
                yield number, None
        groups = _groups(present, offsets, counts)
        ranges = [(offsets[one[0]], offsets[one[-1]] + counts[one[-1]]) for one in groups]
        for group, (start, _), read in zip(groups, ranges, self._file.ranges(ranges), strict=True):
            data = memoryview(read)
            for number in group:
                own = data[offsets[number] - start :][: counts[number]]
                if len(own) != counts[number]:
                    raise ValueError(f"the file ends within tile {number}")
                yield number, own


def _groups(numbers: list[int], offsets: Any, counts: Any) -> list[list[int]]:
    """Group tiles that lie close together in the file, to fetch each group in one read."""
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
