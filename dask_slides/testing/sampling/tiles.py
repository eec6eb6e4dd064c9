"""The encoded tiles of a slide, made in threads, and only once where they are alike."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.testing.sampling.canvas import Canvas, padded

_CACHE_BYTES = 30_000_000
_THREADS = 2
_AHEAD = 16


class _Kept:
    """What was used last, up to _CACHE_BYTES."""

    def __init__(self) -> None:
        self._items: OrderedDict[Hashable, Any] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Hashable, item: Any) -> None:
        with self._lock:
            if key in self._items:
                return
            self._items[key] = item
            self._held += memoryview(item).nbytes
            while self._held > _CACHE_BYTES:
                self._held -= memoryview(self._items.popitem(last=False)[1]).nbytes


class Levels:
    """Encoded tiles of a canvas and of its reduced levels, each distinct one made about once."""

    def __init__(self, canvas: Canvas, encode: Callable[[Array], bytes]) -> None:
        self._canvas, self._encode = canvas, encode
        self._encoded, self._fine, self._coarse = _Kept(), _Kept(), _Kept()
        self._uses = np.bincount(canvas.ids.ravel())

    def tiles(self, level: int) -> Iterator[bytes]:
        """Yield the tiles of `level` row by row, made in threads a few ahead."""
        ahead: deque[tuple[Hashable, Any]] = deque()
        pending: dict[Hashable, Future[bytes]] = {}

        def finished() -> bytes:
            key, made = ahead.popleft()
            if isinstance(made, bytes):
                return made
            encoded: bytes = made.result()
            if key is not None:
                self._encoded.put(key, encoded)
                pending.pop(key, None)
            return encoded

        pool = ThreadPoolExecutor(_THREADS)
        try:
            for key, make in self._jobs(level):
                made = self._encoded.get(key) or pending.get(key) or pool.submit(make)
                if key is not None and not isinstance(made, bytes):
                    pending[key] = made
                ahead.append((key, made))
                if len(ahead) > _AHEAD:
                    yield finished()
            while ahead:
                yield finished()
        finally:
            pool.shutdown(cancel_futures=True)

    def _jobs(self, level: int) -> Iterator[tuple[Hashable, Callable[[], bytes]]]:
        """Yield what each tile is known by, or None if it is the only one, and what makes it."""
        canvas, step = self._canvas, 4**level
        size = reduced(canvas.shape, level)
        for row, col in np.ndindex(-(-size[0] // canvas.tile), -(-size[1] // canvas.tile)):
            if level:
                ids = canvas.ids[row * step :, col * step :][:step, :step]
                key = (level, ids.shape, ids.tobytes())
                yield key, partial(self._mean, level, row, col, ids)
            else:
                ident = int(canvas.ids[row, col])
                yield ident if self._uses[ident] > 1 else None, partial(self._base, ident)

    def _base(self, ident: int) -> bytes:
        return self._encode(self._canvas.render(ident))

    def _mean(self, level: int, row: int, col: int, ids: Array) -> bytes:
        step, tile = 4**level, self._canvas.tile
        fine = math.gcd(step, tile)
        part, whole = tile // fine, step // fine
        kind = np.uint32 if level <= 5 else np.uint64
        total = np.zeros((*(-(-n * part // whole) * whole for n in ids.shape), 3), kind)
        for (i, j), ident in np.ndenumerate(ids):
            square = np.s_[i * part : (i + 1) * part, j * part : (j + 1) * part]
            total[square] = self._sums(int(ident), level)
        total = _halved(total, whole)
        spans = []
        for n, size, at in zip(
            self._canvas.shape, reduced(self._canvas.shape, level), (row, col), strict=True
        ):
            starts = np.arange(at * tile, min((at + 1) * tile, size)) * step
            spans.append(np.minimum(n - starts, step))
        total = total[: len(spans[0]), : len(spans[1])]
        if min(span[-1] for span in spans) == step:
            # A division by the same power of two everywhere, at a tenth of the cost.
            total += kind(step * step // 2)
            mean = total >> kind(4 * level)
        else:
            count = np.multiply.outer(spans[0], spans[1])[..., None]
            mean = (2 * total.astype(np.int64) + count) // (2 * count)
        return self._encode(padded(mean.astype(np.uint8), tile))

    def _sums(self, ident: int, level: int) -> Array:
        """Return sums over squares of gcd(4**level, tile) pixels, of those inside the slide."""
        canvas = self._canvas
        if level == 0:
            *_, rows, cols = canvas.extent(ident)
            pixels = canvas.render(ident).astype(np.uint16)
            pixels[rows:] = 0
            pixels[:, cols:] = 0
            return pixels
        kept = self._fine if level == 1 else self._coarse
        found: Array | None = kept.get((ident, level))
        if found is not None:
            return found
        # 16 x 16 values of 255 are the most that 16 bits hold.
        kind = np.uint16 if level <= 2 else np.uint32 if level <= 5 else np.uint64
        times = math.gcd(4**level, canvas.tile) // math.gcd(4 ** (level - 1), canvas.tile)
        found = _halved(self._sums(ident, level - 1).astype(kind), times)
        kept.put((ident, level), found)
        if level == 1:
            # The second level is small enough to be kept for all tiles: else all are drawn again.
            self._coarse.put((ident, 2), self._second(found))
        return found

    def _second(self, sums: Array) -> Array:
        return _halved(sums, math.gcd(16, self._canvas.tile) // 4)


def reduced(shape: tuple[int, int], level: int) -> tuple[int, int]:
    """Return the rows and columns of a level of the pyramid."""
    step = 4**level
    return max(1, (shape[0] + step // 2) // step), max(1, (shape[1] + step // 2) // step)


def _halved(sums: Array, times: int) -> Array:
    while times > 1:
        sums = sums[::2] + sums[1::2]
        sums, times = sums[:, ::2] + sums[:, 1::2], times // 2
    return sums
