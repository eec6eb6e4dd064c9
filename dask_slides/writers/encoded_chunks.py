"""Encode the chunks of levels that a slide lacks, beside chunks that are copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import BLANK, OK, MissingRegion, status_of_region
from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.geometry import Region
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.writers.image_plan import LevelPlan
from dask_slides.writers.pyramid import shards_in, whole_tile
from dask_slides.writers.store.manifest import Record, write_file
from dask_slides.writers.store.shards import Data, compress, shard_of

JPEG, JPEG_XL = "JPEG", "JPEG XL"


@dataclass(frozen=True)
class PutEncoded:
    """Write pixels as whole shards of encoded chunks, array (c, y, x)."""

    names: tuple[str | None, ...]
    """Arrays of the levels of the plan; None for a level that is not written."""
    levels: tuple[LevelPlan, ...]
    quality: int | None
    """Quality of JPEG; None for zstd, which loses nothing."""

    def __call__(
        self,
        store: str,
        name: str,
        region: Region,
        image: Array,
        missing: tuple[MissingRegion, ...] = (),
    ) -> list[Record]:
        """Write `image`, the pixels (h, w, c) of `region` of the level `name` of the plan."""
        array, level = self.names[int(name)], self.levels[int(name)]
        if array is None:
            return []
        side, records = level.shard, []
        for row, column, pixels in shards_in(region, image, side):
            status = BLANK if pixels.min() == pixels.max() else OK
            shard = Region(row * side, column * side, side, side)
            status = status_of_region(missing, shard) or status
            file = f"{array}/c/0/{row}/{column}"
            records.append(write_file(store, file, self._shard(pixels, level), status))
        return records

    def _shard(self, pixels: Array, level: LevelPlan) -> list[Data]:
        chunk, count = level.chunk, level.shard // level.chunk
        parts = (
            pixels[row * chunk : (row + 1) * chunk, column * chunk : (column + 1) * chunk]
            for row in range(count)
            for column in range(count)
        )
        return shard_of(self._encoded(part, chunk) if part.size else None for part in parts)

    def _encoded(self, part: Array, chunk: int) -> bytes:
        part = whole_tile(part, chunk)
        if self.quality is None:
            planes = part.transpose(2, 0, 1)
            return compress(planes, planes.shape)
        return encode_jpeg(part, self.quality)


def encode_jpeg(pixels: Array, quality: int) -> bytes:
    """Return 8-bit grey or RGB pixels (h, w, c) as a JPEG whose colours are 4:2:0."""
    import simplejpeg

    space = "GRAY" if pixels.shape[2] == 1 else "RGB"
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, space, colorsubsampling="420")
    )


def encode_jpeg_xl(pixels: Array, quality: int) -> bytes:
    """Return grey or RGB pixels (h, w, c) as JPEG XL; quality 100 loses nothing."""
    import imagecodecs

    samples = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    how: dict[str, Any] = {"level": quality, "effort": 3}
    if quality == 100:
        # effort 1 is another encoder in libjxl, ten times as fast: up to 0.11 it changes the pixels
        # of some noisy tiles, and writes beyond its memory for some of 16 bits. Effort 3 saves up
        # to 10 %, and takes twice as long.
        how = {"lossless": True, "effort": 2}
    return bytes(imagecodecs.jpegxl_encode(samples, **how, numthreads=1))


def made_encoding(encoding: TileEncoding, source: Source, side: int) -> TileEncoding:
    """Return how chunks are encoded beside copied tiles of `encoding`: as JPEG, or without loss.

    JPEG would blur the value of pixels without data.
    """
    size, dtype = (side, side), source.dtype
    blurs = source.masked or dtype != np.uint8 or source.channels not in (1, 3)
    if encoding.lossy and not blurs:
        return TileEncoding(JPEG, size, {"name": "imagecodecs_jpeg"})
    zstd = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    return TileEncoding("zstd", size, {"name": "bytes", **endian}, (zstd,), False, False)
