"""What the headers of a JPEG say of its scans: tables, frame, order of blocks (T.81, annex B).

What libjpeg refuses there is refused here too, and what it warns of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from dask_slides.numerics.loops.huffman import ZIGZAG, first_look, lookup

_TABLES, _STEPS, _RESTARTS, SCAN = 0xC4, 0xDB, 0xDD, 0xDA
"""Markers: DHT, DQT, DRI, SOS."""
_JFIF, _ADOBE = 0xE0, 0xEE
"""Markers that tell of colours: APP0, APP14."""
_LOSSLESS = 0xC3
_FOLLOWED = frozenset({0xC0, 0xC1, _LOSSLESS})
"""Frames whose scans are gone through: sequential or lossless, with Huffman codes."""
_WHOLE = bytes((0, 63, 0))
"""What the header of a sequential scan ends with: all coefficients, all bits of them."""
_MOST_BLOCKS = 10
"""Of a unit of several components."""
_KEPT = 4
"""Sets of tables that a process keeps, of a megabyte for colours."""
_SEGMENTS = 16
"""Segments of each kind that it keeps read: the tiles of a page mostly have the same ones."""

Codes = dict[int, tuple[bytes, bytes]]
"""Huffman tables by class and number, as the stream has them: counts by length, and symbols."""
Steps = NDArray[np.float64]
"""Of the quantisation of 64 coefficients."""


@dataclass
class Known:
    """What a stream said up to now; tables may come again."""

    codes: Codes = field(default_factory=dict)
    steps: dict[int, Steps] = field(default_factory=dict)
    interval: int = 0
    """Units between restart markers; 0 for none."""
    jfif: bool = False
    adobe: int | None = None
    """How Adobe's marker says that colours are transformed."""

    def learn(self, marker: int, segment: bytes) -> None:
        """Keep what a segment says, if it is of such."""
        if marker == _TABLES:
            self.codes |= _codes(segment)
        elif marker == _STEPS:
            self.steps |= _steps(segment)
        elif marker == _RESTARTS:
            if len(segment) != 2:
                raise ValueError("the JPEG stream has a restart interval that is none")
            self.interval = int.from_bytes(segment)
        elif marker == _JFIF and segment[:5] == b"JFIF\0" and len(segment) >= 14:
            if segment[5] != 1:
                raise ValueError(f"the JPEG stream is JFIF of version {segment[5]}, not 1")
            self.jfif = True
        elif marker == _ADOBE and segment[:5] == b"Adobe" and len(segment) >= 12:
            self.adobe = segment[11]

    def transformed(self, frame: Frame) -> bool:
        """Return whether libjpeg takes the components for YCbCr or YCCK, if nobody tells it."""
        names = [one.name for one in frame.components]
        if len(names) == 3 and self.jfif:
            return True
        if len(names) in (3, 4) and self.adobe is not None:
            if self.adobe not in (0, len(names) - 2):
                raise ValueError(f"the JPEG stream has colours of an unknown kind, {self.adobe}")
            return self.adobe != 0
        return len(names) == 3 and names != [*b"RGB"]


@lru_cache(maxsize=_SEGMENTS)
def _codes(segment: bytes) -> Codes:
    """Return the Huffman tables of a segment (B.2.4.2)."""
    codes, at = Codes(), 0
    while at < len(segment):
        counts = segment[at + 1 : at + 17]
        stop = at + 17 + sum(counts)
        if stop > len(segment):
            raise ValueError("the JPEG stream has a Huffman table that is cut off")
        if segment[at] & 0xEF > 3 or sum(counts) > 256:
            raise ValueError("the JPEG stream has a Huffman table that is none")
        codes[segment[at]] = counts, segment[at + 17 : stop]
        at = stop
    return codes


@lru_cache(maxsize=_SEGMENTS)
def _steps(segment: bytes) -> dict[int, Steps]:
    """Return the quantisation tables of a segment (B.2.4.1), row by row."""
    steps, at = dict[int, Steps](), 0
    while at < len(segment):
        size, number = 1 + (segment[at] >> 4), segment[at] & 15
        values = segment[at + 1 : at + 1 + 64 * size]
        if len(values) < 64 * size or size > 2 or number > 3:
            raise ValueError("the JPEG stream has a quantisation that is none")
        table = np.zeros(64)
        table[[*ZIGZAG]] = np.frombuffer(values, f">u{size}")
        table.flags.writeable = False
        steps[number] = table
        at += 1 + 64 * size
    return steps


@dataclass(frozen=True)
class Component:
    """One of a frame."""

    name: int
    across: int
    down: int
    """Samples for those of the others (sampling factors)."""
    table: int
    """Number of its quantisation."""


@dataclass(frozen=True)
class Frame:
    """What its header says."""

    lossless: bool
    bits: int
    height: int
    width: int
    components: tuple[Component, ...]

    @property
    def side(self) -> int:
        """Samples along a side of a block."""
        return 1 if self.lossless else 8

    @cached_property
    def most(self) -> tuple[int, int]:
        """The largest sampling factors, down and across."""
        return (
            max(one.down for one in self.components),
            max(one.across for one in self.components),
        )

    def size(self, one: Component) -> tuple[int, int]:
        """Return the samples of a component, down and across (A.1.1)."""
        down, across = self.most
        return -(-self.height * one.down // down), -(-self.width * one.across // across)

    def units(self, chosen: list[Component]) -> tuple[int, int]:
        """Return how many units a scan has, down and across (A.2)."""
        down, across = self.most
        if len(chosen) > 1:
            side = self.side
            return -(-self.height // (side * down)), -(-self.width // (side * across))
        # a component by itself has no more blocks than its samples take
        height, width = self.size(chosen[0])
        return -(-height // self.side), -(-width // self.side)


@lru_cache(maxsize=_SEGMENTS)
def frame_header(marker: int, segment: bytes) -> Frame:
    """Return what a frame header says (B.2.2)."""
    if marker not in _FOLLOWED:
        raise ValueError(
            f"the JPEG stream is of a kind that is not read (SOF{marker - 0xC0}): hierarchical, "
            "arithmetic, or progressive in other than grey or colour of 8 bits and the usual "
            "subsampling; save it as sequential JPEG"
        )
    if len(segment) < 6 or len(segment) != 6 + 3 * segment[5] or not 1 <= segment[5] <= 10:
        raise ValueError("the JPEG stream has a broken frame header")
    components = tuple(
        Component(segment[at], segment[at + 1] >> 4, segment[at + 1] & 15, segment[at + 2])
        for at in range(6, len(segment), 3)
    )
    if not all(1 <= n <= 4 for one in components for n in (one.across, one.down)):
        raise ValueError("the JPEG stream has sampling factors that are none")
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    if not (height and width):
        raise ValueError("the JPEG stream has a frame without a size")
    return Frame(marker == _LOSSLESS, segment[0], height, width, components)


@dataclass(frozen=True)
class Scan:
    """What its header says, and the tables that hold for it."""

    numbers: list[int]
    """Of the components in it."""
    units: tuple[int, int]
    """Down and across."""
    order: list[tuple[int, int]]
    """Of each block of a unit, the rows of `tables` for its difference and for what follows."""
    tables: tuple[NDArray[np.uint32], NDArray[np.uint32]]
    """For the first bits of a code, and for all: (rows, 1024) and (rows, 65536)."""
    steps: list[Steps | None]
    """Of the quantisation of each component."""
    predictor: int
    shift: int
    """Of a lossless scan: how samples are predicted, and how many bits are left out."""
    transformed: bool
    """Whether libjpeg takes the components for YCbCr or YCCK, if nobody tells it."""


def scan_header(frame: Frame, segment: bytes, left: set[int], known: Known) -> Scan:
    """Return what the header of a scan says (B.2.3), of components that are `left`."""
    count = segment[0] if segment else 0
    if not 1 <= count <= 4 or len(segment) != 4 + 2 * count:
        raise ValueError("the JPEG stream has a broken scan header")
    if not frame.lossless and segment[-3:] != _WHOLE:
        raise ValueError("the JPEG stream has a scan of some of the coefficients")
    if frame.lossless and (segment[-2] or segment[-1] >> 4):
        raise ValueError("the JPEG stream has a lossless scan of coefficients")
    numbers, rows, order = list[int](), dict[tuple[int, int], int](), list[tuple[int, int]]()
    for at in range(1, 1 + 2 * count, 2):
        name, pair = segment[at : at + 2]
        fitting = (n for n in sorted(left - {*numbers}) if frame.components[n].name == name)
        number = next(fitting, None)
        if number is None:
            raise ValueError(f"the JPEG stream has a scan of component {name} too many")
        numbers.append(number)
        # differences of samples have up to 16 bits, those of a DCT 3 more than samples (F.1.2)
        first = pair >> 4, 16 if frame.lossless else frame.bits + 3
        then = first if frame.lossless else (16 + (pair & 15), frame.bits + 2)
        one = frame.components[number]
        order += [(rows.setdefault(first, len(rows)), rows.setdefault(then, len(rows)))] * (
            one.across * one.down if count > 1 else 1
        )
    chosen = [frame.components[number] for number in numbers]
    if len(order) > _MOST_BLOCKS and count > 1:
        raise ValueError(f"the JPEG stream has units of {len(order)} blocks, more than any has")
    codes = known.codes
    found = tuple((*codes[key], key < 16, widest) for key, widest in rows if key in codes)
    if any(max(row[1], default=0) > (16 if frame.lossless else 15) for row in found if row[2]):
        raise ValueError("the JPEG stream has a Huffman table that is none")
    tables = _lookups(found) if found else None  # what is wrong with those comes first
    if tables is None or len(found) < len(rows):
        raise ValueError("the JPEG stream lacks one of its Huffman tables")
    steps = [known.steps.get(one.table) for one in chosen]
    return Scan(
        numbers, frame.units(chosen), order, tables, steps, segment[-3], segment[-1] & 15,
        known.transformed(frame),
    )  # fmt: skip


@lru_cache(maxsize=_KEPT)
def _lookups(
    rows: tuple[tuple[bytes, bytes, bool, int], ...],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    tables = np.stack([lookup(*row) for row in rows])
    first = first_look(tables)
    first.flags.writeable = tables.flags.writeable = False
    return first, tables
