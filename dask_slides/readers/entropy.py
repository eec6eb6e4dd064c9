"""The scans of a JPEG gone through without decoding them, where no library tells of damage.

libjpeg makes the most of what it gets: what is missing is zeros, what is no code is left out,
and its warnings are kept by whoever called it. simplejpeg raises them, for 8 bits a sample. For
others everything that libjpeg would warn of, or guess, is looked for here, by ITU-T T.81
(ISO/IEC 10918-1): markers are in its annex B, the order of blocks in A.2, sequential Huffman
coding in F, the lossless one in H.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dask_slides.readers.frames import END, FRAMES, START
from dask_slides.readers.huffman import (
    SHORT,
    TOO_FAR,
    TOO_WIDE,
    UNKNOWN,
    ZIGZAG,
    first_look,
    lookup,
    walk,
    words,
)

_TABLES, _STEPS, _RESTARTS, _SCAN, _END = 0xC4, 0xDB, 0xDD, 0xDA, 0xD9
"""Markers: DHT, DQT, DRI, SOS, EOI."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a segment."""
_LOSSLESS = 0xC3
_FOLLOWED = frozenset({0xC0, 0xC1, _LOSSLESS})
"""Frames whose scans are gone through here: sequential or lossless, with Huffman codes."""
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_NEXT = re.compile(rb"\xff+([^\x00\xff])")
"""A marker with the fill bytes before it."""
_FILL, _STUFFED = re.compile(rb"\xff\xff"), re.compile(rb"\xff\x00")
"""Three times faster than ``in`` and ``replace``, which look for two bytes at every place."""
_WHOLE = bytes((0, 63, 0))
"""What the header of a sequential scan ends with: all coefficients, all bits of them."""
_KEPT = 4
"""Sets of tables that a process keeps, of a megabyte for colours."""
_SEGMENTS = 16
"""Segments of each kind that it keeps read: the tiles of a page mostly have the same ones."""

_WRONG = {
    SHORT: "less data than its blocks take",
    UNKNOWN: "a code that is in none of its tables",
    TOO_WIDE: "a number too large for its samples",
    TOO_FAR: "a block of more than 64 coefficients",
}
Codes = dict[int, tuple[bytes, bytes]]
"""Huffman tables by class and number, as the stream has them: counts by length, and symbols."""
Steps = NDArray[np.float64]
"""Of the quantisation of 64 coefficients."""


class Reader(Protocol):
    """What goes through the data of scans."""

    def data(self, stream: bytes, at: int) -> tuple[Any, int, int]:
        """Return what is coded from `at` on, its bytes, and where the marker behind it is.

        ValueError if there is none, or fill bytes are within.
        """

    def begun(self, frame: Frame, scan: Scan) -> Callable[[Any, int, int, int], int]:
        """Return what goes through a part of a scan.

        It is called with what is coded, its bits, the number of the first unit, and how many
        units there are. It returns the bits that they take, or what is wrong.
        """


def check_scans(stream: bytes, tables: bytes | None) -> None:
    """Raise ValueError unless the scans of a JPEG are whole.

    `tables` may hold tables that the stream lacks.
    """
    read_scans(stream, tables, Checker())


def read_scans(stream: bytes, tables: bytes | None, reader: Reader) -> None:
    """Let `reader` go through the scans of a JPEG; ValueError unless they are whole."""
    known = _Tables()
    if tables is not None:
        for marker, segment in _Segments(tables.removesuffix(END) + END, reader):
            known.learn(marker, segment)
    frame: Frame | None = None
    interval, left = 0, set[int]()
    segments = _Segments(stream, reader)
    for marker, segment in segments:
        known.learn(marker, segment)
        if marker == _RESTARTS:
            interval = int.from_bytes(segment)
        elif marker in FRAMES:
            if frame is not None:
                raise ValueError("the JPEG stream has a second frame header")
            frame = _frame(marker, segment)
            left = set(range(len(frame.components)))
        elif marker == _SCAN:
            if frame is None:
                raise ValueError("the JPEG stream has no frame header before its scan")
            scan = _scan(frame, segment, left, known)
            left -= {*scan.numbers}
            _read_scan(segments, scan, interval, reader.begun(frame, scan))
    if frame is None or left:
        raise ValueError(f"the JPEG stream lacks {len(left)} of its components")


class Checker:
    """Goes through scans and makes nothing of them."""

    def data(self, stream: bytes, at: int) -> tuple[bytes, int, int]:
        """Return what is coded from `at` on, its bytes, and where the marker behind it is."""
        found = _MARKER.search(stream, at)
        if found is None:
            raise ValueError(NO_END)
        coded = stream[at : found.start()].rstrip(b"\xff")  # fill bytes
        if _FILL.search(coded):
            raise ValueError(FILLED)
        coded = _STUFFED.sub(b"\xff", coded)
        return coded, len(coded), found.start()

    def begun(self, frame: Frame, scan: Scan) -> Callable[[bytes, int, int, int], int]:
        """Return `walk` for the blocks of a scan."""
        # a memoryview is indexed several times faster than an array
        first, tables = ([row.data for row in rows] for rows in scan.tables)
        order, size = scan.order, 1 if frame.lossless else 64
        return lambda coded, bits, start, units: walk(
            words(coded).data, bits, units, order, first, tables, size
        )


NO_END = "the JPEG stream has no end"
FILLED = "the JPEG stream has fill bytes within its data"


class _Segments:
    """The markers of a stream up to its end, each with its segment."""

    def __init__(self, stream: bytes, reader: Reader) -> None:
        self._stream = stream
        self._reader = reader
        self._at = len(START)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            found = _NEXT.match(self._stream, self._at)
            if found is None:
                raise ValueError(f"the JPEG stream has no marker at byte {self._at}")
            marker, self._at = found[1][0], found.end()
            if marker == _END:
                return
            segment = b""
            if marker not in _ALONE:
                start = self._at + 2
                self._at += int.from_bytes(self._stream[self._at : start])
                segment = self._stream[start : self._at]
                if start > self._at or self._at > len(self._stream):
                    raise ValueError(f"the JPEG stream has a broken segment at byte {start - 4}")
            yield marker, segment

    def data(self) -> tuple[Any, int, int]:
        """Return what is coded up to the next marker, its bytes, and this one; it comes again."""
        coded, length, self._at = self._reader.data(self._stream, self._at)
        return coded, length, self._stream[self._at + 1]

    def skip(self) -> None:
        """Go on behind a marker without a segment."""
        self._at += 2


@dataclass
class _Tables:
    """Those that a stream had up to now; they may come again."""

    codes: Codes = field(default_factory=dict)
    steps: dict[int, Steps] = field(default_factory=dict)

    def learn(self, marker: int, segment: bytes) -> None:
        """Keep the tables of a segment, if it has any."""
        if marker == _TABLES:
            self.codes |= _codes(segment)
        elif marker == _STEPS:
            self.steps |= _steps(segment)


@lru_cache(maxsize=_SEGMENTS)
def _codes(segment: bytes) -> Codes:
    """Return the Huffman tables of a segment (B.2.4.2)."""
    codes, at = Codes(), 0
    while at < len(segment):
        counts = segment[at + 1 : at + 17]
        stop = at + 17 + sum(counts)
        if stop > len(segment):
            raise ValueError("the JPEG stream has a Huffman table that is cut off")
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
        if len(values) < 64 * size or size > 2:
            break  # libjpeg says so
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
def _frame(marker: int, segment: bytes) -> Frame:
    """Return what a frame header says (B.2.2)."""
    if marker not in _FOLLOWED:
        raise ValueError(
            f"the JPEG stream is progressive, hierarchical or arithmetic (SOF{marker - 0xC0}), "
            "which is read in grey or colour of 8 bits only; save it as sequential JPEG"
        )
    if len(segment) < 6 or len(segment) != 6 + 3 * segment[5] or not segment[5]:
        raise ValueError("the JPEG stream has a broken frame header")
    components = tuple(
        Component(segment[at], segment[at + 1] >> 4, segment[at + 1] & 15, segment[at + 2])
        for at in range(6, len(segment), 3)
    )
    if not all(1 <= n <= 4 for one in components for n in (one.across, one.down)):
        raise ValueError("the JPEG stream has sampling factors that are none")
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
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


def _scan(frame: Frame, segment: bytes, left: set[int], known: _Tables) -> Scan:
    """Return what the header of a scan says (B.2.3), of components that are `left`."""
    count = segment[0] if segment else 0
    if not 1 <= count <= 4 or len(segment) != 4 + 2 * count:
        raise ValueError("the JPEG stream has a broken scan header")
    if not frame.lossless and segment[-3:] != _WHOLE:
        raise ValueError("the JPEG stream has a scan of some of the coefficients")
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
    codes = known.codes
    found = tuple((*codes[key], key < 16, widest) for key, widest in rows if key in codes)
    tables = _lookups(found) if found else None  # what is wrong with those comes first
    if tables is None or len(found) < len(rows):
        raise ValueError("the JPEG stream lacks one of its Huffman tables")
    steps = [known.steps.get(one.table) for one in chosen]
    return Scan(
        numbers, frame.units(chosen), order, tables, steps, segment[-3], segment[-1] & 15
    )  # fmt: skip


@lru_cache(maxsize=_KEPT)
def _lookups(
    rows: tuple[tuple[bytes, bytes, bool, int], ...],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    tables = np.stack([lookup(*row) for row in rows])
    first = first_look(tables)
    first.flags.writeable = tables.flags.writeable = False
    return first, tables


def _read_scan(
    segments: _Segments, scan: Scan, interval: int, taken: Callable[[Any, int, int, int], int]
) -> None:
    """Go through the data of a scan, in intervals of so many units."""
    restarts, start, stop = 0, 0, scan.units[0] * scan.units[1]
    while True:
        coded, length, marker = segments.data()
        some = min(stop - start, interval or stop)
        bits = taken(coded, 8 * length, start, some)
        if bits < 0:
            raise ValueError(f"the JPEG stream has {_WRONG[bits]}")
        more = length - -(-bits // 8)
        if more:
            raise ValueError(f"the JPEG stream has {more} bytes more than its blocks take")
        start += some
        if start == stop:
            return
        expected = 0xD0 + restarts % 8
        if marker != expected:
            raise ValueError(
                f"the JPEG stream has marker FF{marker:02X} where FF{expected:02X} must be"
            )
        segments.skip()
        restarts += 1
