"""Encoded tiles of a TIFF: tasks write them to files of many, which are then joined in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.geometry import Region
from dask_slides.core.types import Array
from dask_slides.writers.pyramid import shards_in, whole_tile
from dask_slides.writers.store.manifest import Record, write_file

HEAD = np.dtype("<i8")
"""Type of the head of a file: planes, rows and columns of tiles, then the bytes of each tile."""
ZSTD_LEVEL, DEFLATE_LEVEL = 3, 6


@dataclass(frozen=True)
class TileCodec:
    """Compress tiles as tifffile declares them in the tags of a page."""

    name: str
    """"jpeg", "zstd" or "deflate"."""
    quality: int
    """Of JPEG, 1 to 100."""
    subsampling: str
    """Of the colours of JPEG: "4:4:4" or "4:2:0"."""
    predictor: bool
    """Whether differences along x are stored, which integers compress better as."""

    def encode(self, tile: Array) -> bytes:
        """Encode a tile (h, w, c)."""
        import imagecodecs

        if self.name == "jpeg":
            return self._jpeg(tile)
        little = np.ascontiguousarray(tile, tile.dtype.newbyteorder("<"))
        if self.predictor:
            little = imagecodecs.delta_encode(little, axis=1)
        if self.name == "zstd":
            return bytes(imagecodecs.zstd_encode(little.tobytes(), level=ZSTD_LEVEL))
        return bytes(imagecodecs.deflate_encode(little.tobytes(), level=DEFLATE_LEVEL))

    def _jpeg(self, tile: Array) -> bytes:
        import imagecodecs

        options: dict[str, Any] = {"level": self.quality}
        if tile.shape[2] == 1:
            tile = tile[..., 0]
        else:  # as the tags say that tifffile writes
            options |= {"colorspace": "RGB", "outcolorspace": "YCBCR"}
            options["subsampling"] = self.subsampling.replace(":", "")
        return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), **options))


@dataclass(frozen=True)
class PutTiles:
    """Write the tiles of whole shards of a level, one file per shard."""

    codec: TileCodec
    tile: int
    """Side of a tile."""
    shards: tuple[int, ...]
    """Side of a shard of each level, a multiple of `tile`."""
    planar: bool
    """Whether each channel has tiles of its own."""

    def __call__(
        self,
        store: str,
        name: str,
        region: Region,
        image: Array,
        missing: tuple[MissingRegion, ...] = (),
    ) -> list[Record]:
        """Write `image`, the pixels (h, w, c) of `region` of the level `name`."""
        return [
            write_file(store, _file(name, row, column), self._encode(pixels))
            for row, column, pixels in shards_in(region, image, self.shards[int(name)])
        ]

    def _encode(self, pixels: Array) -> bytes:
        """Return the file of a shard: its head and its tiles, row by row, plane by plane."""
        planes = np.split(pixels, pixels.shape[2], axis=2) if self.planar else [pixels]
        side = self.tile
        rows, columns = (-(-n // side) for n in pixels.shape[:2])
        tiles = [
            self.codec.encode(whole_tile(plane[row : row + side, column : column + side], side))
            for plane in planes
            for row in range(0, rows * side, side)
            for column in range(0, columns * side, side)
        ]
        head = np.array([len(planes), rows, columns, *map(len, tiles)], HEAD)
        return b"".join([head.tobytes(), *tiles])

    def tiles(self, store: str, level: int, shape: tuple[int, int], planes: int) -> Iterator[bytes]:
        """Yield the tiles of a level in the order of TIFF. Memory holds one row of a shard."""
        side = self.shards[level]
        for plane in range(planes if self.planar else 1):
            for y in range(0, shape[0], self.tile):
                for column in range(-(-shape[1] // side)):
                    file = os.path.join(store, _file(str(level), y // side, column))
                    yield from _row_of(file, plane, y % side // self.tile)


def _file(level: str, row: int, column: int) -> str:
    return f"{level}/{row}.{column}"


def _row_of(file: str, plane: int, row: int) -> list[bytes]:
    """Return the tiles of one row of a file of tiles."""
    with open(file, "rb") as stream:
        planes, rows, columns = np.frombuffer(stream.read(3 * HEAD.itemsize), HEAD).tolist()
        count = planes * rows * columns
        lengths = np.frombuffer(stream.read(count * HEAD.itemsize), HEAD)
        first = (plane * rows + row) * columns
        stream.seek(int(lengths[:first].sum()), os.SEEK_CUR)
        return [stream.read(n) for n in lengths[first : first + columns].tolist()]
