"""Cache reduced tiles of a blank map in a temporary file, for the resize that follows.

A blank map decodes every tile at full size. A resize of the same slide reads tiles reduced. For
every codec but JPEG it would repeat the full decode and average its pixels. JPEG tiles are not
cached: they are decoded directly to a reduced size, with other pixels than the means.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tiff.source import TiffSource
from dask_slides.readers.tiff.tiled_page import TiledPage

_FREE_SPACE = 2
"""The cache is created only where this many times its size is free, as outputs need space too."""


class ReducedTileCache:
    """Tiles of one page at some reductions. Threads may share it.

    The file has no name, so the system removes it however the process ends. Tiles that cannot be
    written or read back are decoded again.
    """

    def __init__(self, folder: str, decoder: TileDecoder, count: int, sizes: dict[int, int]):
        """Create the file in `folder` for `count` tiles; `sizes` are bytes by reduction."""
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        # closed with the last reference, as another thread may read after the context ends
        self._close = weakref.finalize(self, self._file.close)
        self._decoder = decoder
        self._sizes = sizes
        self._written = {factor: bytearray(count) for factor in sizes}
        ends = np.cumsum([0, *(size * count for size in sizes.values())]).tolist()
        self._starts = dict(zip(sizes, ends, strict=False))

    def put(self, number: int, factor: int, tile: Array) -> None:
        """Write a tile that was decoded at `factor`; write all reductions of a full tile."""
        for wanted in tuple(self._written) if factor == 1 else (factor,):
            written = self._written.get(wanted)
            if written is not None and not written[number]:
                reduced = self._decoder.reduced(number, tile, wanted) if factor == 1 else tile
                if reduced is not None and self._write(number, wanted, reduced):
                    written[number] = 1

    def _write(self, number: int, factor: int, tile: Array) -> bool:
        data = np.ascontiguousarray(tile).data
        try:
            offset = self._offset(number, factor)
            return os.pwrite(self._file.fileno(), data, offset) == data.nbytes
        except OSError:
            self._written = {}  # the disk is full: stop writing
            return False

    def take(self, number: int, factor: int) -> Array | None:
        """Return a tile, read-only; None if it is not in the cache."""
        written = self._written.get(factor)
        if written is None or not written[number]:
            return None
        shape = self._decoder.shape(number, factor)
        try:
            offset = self._offset(number, factor)
            data = os.pread(self._file.fileno(), math.prod(shape), offset)
        except OSError:
            return None
        return (
            np.frombuffer(data, np.uint8).reshape(shape) if len(data) == math.prod(shape) else None
        )

    def _offset(self, number: int, factor: int) -> int:
        return int(self._starts[factor] + number * self._sizes[factor])


@contextmanager
def cached_reduced_tiles(source: Source, folder: str, reads: Sequence[int]) -> Iterator[None]:
    """Decode each tile of level 0 once for several reads of it in this process.

    `reads` are the reductions at which level 0 will be read, 1 for full size. Nothing is cached
    for JPEG, for sources without plain tiles, or if `folder` has too little free space.
    """
    wanted = {n for n in reads if n > 1 and (1 in reads or list(reads).count(n) > 1)}
    page = source.tiled_page() if isinstance(source, TiffSource) and wanted else None
    if page is None or page.reduced_tiles is not None:  # another thread already caches them
        yield
        return
    page.reduced_tiles = _create(page, folder, sorted(wanted))
    try:
        yield
    finally:
        page.reduced_tiles = None


def _create(page: TiledPage, folder: str, factors: Sequence[int]) -> ReducedTileCache | None:
    if not page.decoder.averages or not hasattr(os, "pwrite"):
        return None
    sizes = {factor: math.prod(page.decoder.shape(0, factor)) for factor in factors}
    try:
        if shutil.disk_usage(folder).free < _FREE_SPACE * page.tile_count * sum(sizes.values()):
            return None
        return ReducedTileCache(folder, page.decoder, page.tile_count, sizes)
    except OSError:
        return None
