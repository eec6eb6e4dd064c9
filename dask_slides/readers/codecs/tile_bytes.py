"""Read the streams of a page's tiles from the file, many of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dask_slides.core.types import Array
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
        self.counts: Any = page.databytecounts
        """Bytes of each tile."""
        offsets, counts = (np.array(one, np.int64) for one in (self._offsets, self.counts))
        self.present: Array = (offsets != 0) & (counts != 0)
        """Which tiles the file may hold."""

    def fetch(self, numbers: list[int]) -> Iterator[tuple[int, Data | None]]:
        """Yield number and stream of each tile; None for a tile that the file does not hold."""
        return self.read_streams(self._file, numbers, self._offsets, self.counts)

    def read_streams(
        self, file: ByteFile, numbers: list[int], offsets: Any, counts: Any
    ) -> Iterator[tuple[int, Data | None]]:
        """Yield number and stream of tiles that lie at these `offsets` of a file."""
        present = []
        for number in numbers:
            if offsets[number] and counts[number]:
                present.append(number)
            else:
                yield number, None
        groups = _groups(present, offsets, counts)
        ranges = [(offsets[one[0]], offsets[one[-1]] + counts[one[-1]]) for one in groups]
        for group, (start, _), read in zip(groups, ranges, file.ranges(ranges), strict=True):
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
