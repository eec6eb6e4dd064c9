"""JPEG that simplejpeg does not read, by the compiled loops: 12 bits, lossless, two samples.

It is read as libjpeg reads it, to the bit, and what libjpeg would warn of is told on the way:
going through the codes before, as `entropy.Checker` does, takes as long as decoding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.numerics.loops.huffman import LANES, PADDING
from dask_slides.readers.codecs.entropy import FILLED, NO_END, Checker, read_scans
from dask_slides.readers.codecs.scan_headers import Frame, Scan, Steps
from dask_slides.runtime.buffer_pool import POOL
from dask_slides.runtime.numba_loader import numba_kernels

SAVED, SAVED_OF_LOSSLESS = 0.1e-6, 0.4e-6
"""Seconds a sample that the loops are faster than Python, which keeps other threads waiting too."""
_PASS = {8: 2, 12: 1}
"""Bits that libjpeg keeps between the passes of its transform, by bits of a sample."""
_MOST = 2**22
"""Samples of a stream that are decoded here: so many take 24 MB beside what comes out."""
_COARSE = 2**12
"""Steps of the quantisation from which on sums may not fit; no encoder has use for them."""
_own = threading.local()
"""The arrays that a thread uses again and again: new ones cost their page faults."""


def decode_scans(
    stream: bytes, tables: bytes | None, *, of_image: int, guessed: bool
) -> Array | None:
    """Return the samples (h, w, s) of a JPEG as they are stored; None if libjpeg is to make them.

    `guessed`, they are red, green and blue if libjpeg takes them for YCbCr. ValueError unless
    the stream is whole. The image it is a part of has `of_image` samples.
    """
    reader = _Decoding(of_image, 8 * len(stream), _own.__dict__)
    read_scans(stream, tables, reader)
    return reader.pixels(guessed)


@dataclass
class _Part:
    """Where the blocks of a component begin, how many are beside each other, and their steps."""

    start: int
    across: int
    steps: Steps | None


class _Decoding:
    """Keeps what the scans of one stream are decoded to; only checks it if that is all it can."""

    def __init__(self, of_image: int, bits: int, memory: dict[str, Array]) -> None:
        self._of_image = of_image
        self._bits = bits
        self._memory = memory
        self._check = Checker()
        self._codes: Any = None
        self._samples: Any = None
        self._frame: Frame | None = None
        self._parts: list[_Part] = []
        self._blocks: Any = None
        self._found: Array | None = None
        self._is_known = self._is_right = True
        self._is_transformed = False

    def _room(self, name: str, size: int, dtype: Any) -> Array:
        """Return an array of this thread; what is in it is left over from the last one."""
        if size > 2 * _MOST:  # not for ever
            return np.empty(size, dtype)
        kept = self._memory.get(name)
        if kept is None or len(kept) < size:
            self._memory[name] = kept = POOL.array((size,), dtype)
        return kept[:size]

    def data(self, stream: bytes, at: int) -> tuple[Any, int, int]:
        """Return what is coded from `at` on, its bytes, and where the marker behind it is."""
        if not self._is_known:
            return self._check.data(stream, at)
        out = self._room("data", len(stream) - at + PADDING + 8, np.uint8)
        marker, length = self._codes.unstuff(np.frombuffer(stream, np.uint8), at, out)
        if marker < 0:
            raise ValueError(NO_END)
        if length < 0:
            raise ValueError(FILLED)
        return out, length, marker

    def begun(self, frame: Frame, scan: Scan) -> Callable[[Any, int, int, int], int]:
        """Return what decodes a part of a scan."""
        self._frame = frame
        self._is_transformed = scan.transformed
        seconds = self._of_image * (SAVED_OF_LOSSLESS if frame.lossless else SAVED)
        self._codes = numba_kernels("codes", seconds)
        self._samples = self._codes and numba_kernels("samples", seconds)
        decode = None
        if self._is_known and self._samples is not None:
            decode = self._lossless(frame, scan) if frame.lossless else self._blockwise(frame, scan)
        self._is_known = decode is not None
        return decode or self._check.begun(frame, scan)

    def _blockwise(self, frame: Frame, scan: Scan) -> Callable[[Array, int, int, int], int]:
        """Return what decodes blocks of coefficients."""
        if not self._parts:
            self._lay_out(frame)
        order, rows = [], iter(scan.order)
        for slot, (number, steps) in enumerate(zip(scan.numbers, scan.steps, strict=True)):
            part, one = self._parts[number], frame.components[number]
            part.steps = steps
            # a component by itself has units of one block
            down, across = (one.down, one.across) if len(scan.numbers) > 1 else (1, 1)
            order += [
                [*next(rows), slot, part.start, part.across, across, down, x, y]
                for y in range(down)
                for x in range(across)
            ]
        places = np.array(order, np.int64)
        if not self._is_right:  # all of them go to the first block
            places[:, 3:] = 0
        fixed = scan.units[1], places, *scan.tables, self._blocks
        decode = self._codes.coefficients
        return lambda coded, bits, start, units: int(decode(coded, bits, start, units, *fixed))

    def _lay_out(self, frame: Frame) -> None:
        """Say where the blocks of each component go, and make room for them."""
        down, across = frame.most
        units = -(-frame.height // (8 * down)), -(-frame.width // (8 * across))
        start = 0
        for one in frame.components:
            self._parts.append(_Part(start, units[1] * one.across, None))
            start += -(-units[0] * one.down * units[1] * one.across // LANES) * LANES * 64
        # each takes some bits
        self._is_right = start <= min(_MOST, 64 * self._bits)
        self._blocks = self._room("blocks", start if self._is_right else LANES * 64, np.int16)
        self._blocks.fill(0)

    def _lossless(self, frame: Frame, scan: Scan) -> Callable[[Array, int, int, int], int] | None:
        """Return what decodes differences of samples; None if libjpeg is to do it."""
        across, samples = frame.width, len(frame.components)
        middle = frame.bits - scan.shift - 1
        if frame.most != (1, 1) or not 1 <= scan.predictor <= 7 or not 0 <= middle < 16:
            return None
        if frame.height * across * samples > self._bits:  # each takes one at least
            return None
        if self._found is None:
            dtype = np.uint8 if frame.bits <= 8 else np.uint16
            self._found = np.empty((frame.height, across, samples), dtype)
        order = np.array(
            [[row, n] for (row, _), n in zip(scan.order, scan.numbers, strict=True)], np.int64
        )
        fixed = across, order, *scan.tables, scan.predictor, 1 << middle, scan.shift
        pixels = self._found.reshape(-1, samples)
        decode = self._codes.differences

        def taken(coded: Array, bits: int, start: int, units: int) -> int:
            if start % across:  # an interval that begins within a row
                self._is_right = False
            return int(decode(coded, bits, start, units, *fixed, pixels))

        return taken

    def pixels(self, guessed: bool) -> Array | None:
        """Return the samples (h, w, s) that were decoded; None if libjpeg is to do it."""
        frame = self._frame
        if frame is None or not (self._is_known and self._is_right):
            return None
        converted = guessed and self._is_transformed
        if frame.lossless:
            return None if converted else self._found
        down, across = frame.most
        samples, bits = len(frame.components), frame.bits
        ratios = [
            (down // one.down, across // one.across)
            for one in frame.components
            if down % one.down == 0 == across % one.across
        ]
        steps = [
            part.steps.repeat(LANES)
            for part in self._parts
            if part.steps is not None and (part.steps < _COARSE).all()
        ]
        if bits not in _PASS or not len(ratios) == len(steps) == samples:
            return None
        if converted and (samples, bits) != (3, 12):
            return None
        out = np.empty((frame.height, frame.width, samples), np.uint8 if bits == 8 else np.uint16)
        planes = []
        for number, (one, ratio) in enumerate(zip(frame.components, ratios, strict=True)):
            direct = ratio == (1, 1) and not converted
            plane = out[..., number] if direct else self._plane(f"{number}", frame.size(one))
            if not self._transform(bits, self._parts[number], steps[number], plane):
                return None
            if ratio != (1, 1):
                plane = self._enlarged(f"{number} whole", plane, ratio, out.shape[:2])
            planes.append(plane)
            if not (direct or converted):
                out[..., number] = plane
        if converted:
            self._samples.colours(*planes, 1 << bits - 1, out)
        return out

    def _plane(self, name: str, size: tuple[int, int]) -> Array:
        return self._room(name, size[0] * size[1], np.uint16).reshape(size)

    def _transform(self, bits: int, part: _Part, steps: Steps, plane: Array) -> bool:
        """Put the samples of a component into `plane`; return whether libjpeg has the same."""
        kept = _PASS[bits]
        reached = self._samples.transform(
            self._blocks[part.start :], part.across, steps,
            2.0 ** (kept - 13), 2.0 ** -(13 + kept + 3), 1 << bits - 1, (1 << bits) - 1, plane,
        )  # fmt: skip
        # it cuts samples of up to four times the range, and those beyond come round
        return bool(reached < 1 << bits + 1)

    def _enlarged(
        self, name: str, plane: Array, ratio: tuple[int, int], size: tuple[int, int]
    ) -> Array:
        """Enlarge a plane as libjpeg does: smoothly by 2, unless it is very narrow."""
        if ratio == (2, 1) or (ratio in ((1, 2), (2, 2)) and plane.shape[1] > 2):
            whole = self._plane(name, size)
            self._samples.enlarge(plane, ratio[1], ratio[0], whole)
            return whole
        whole = plane.repeat(ratio[0], axis=0).repeat(ratio[1], axis=1)
        return np.ascontiguousarray(whole[: size[0], : size[1]])
