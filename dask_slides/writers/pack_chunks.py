"""Chunks of a pack that are images: the slide's own compressed tiles, or tiles encoded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.source import Source
from dask_slides.core.tile_origins import TileOrigins
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError, SlideUnsupportedError
from dask_slides.graph.stored_level import stored_level
from dask_slides.graph.tiles import SlideTileReader, TileReader
from dask_slides.ops.pack import TilePack
from dask_slides.writers.encoded_chunks import JPEG, JPEG_XL, encode_jpeg, encode_jpeg_xl


class PackChunks(Protocol):
    """Returns the encoded chunks of the tiles of a pack. It is frozen and small."""

    @property
    def encoding(self) -> TileEncoding:
        """How a chunk is encoded, and its size."""
        ...

    def chunks(self, start: int, stop: int) -> Iterator[bytes | None]:
        """Yield the chunks of tiles [start, stop), row by row of each tile; None is not stored."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what the attributes of the pack say about the codec."""
        ...


@dataclass(frozen=True)
class CopiedChunks:
    """The compressed tiles of a level of a slide, as they are."""

    source: Source
    level: int
    encoding: TileEncoding
    origins: TileOrigins
    """Top left of each tile of the pack, in pixels of the level."""
    tile: tuple[int, int]
    """Height and width of a tile of the pack."""

    def chunks(self, start: int, stop: int) -> Iterator[bytes | None]:
        """Yield the streams of the slide's tiles in tiles [start, stop)."""
        height, width = self.encoding.tile
        across = -(-self.source.levels[self.level].shape[1] // width)
        down, right = np.arange(self.tile[0] // height), np.arange(self.tile[1] // width)
        corners = self.origins.yx()[start:stop] // (height, width)
        rows = corners[:, :1, None] + down[:, None]
        columns = corners[:, None, 1:] + right
        numbers = (rows * across + columns).reshape(-1).tolist()
        # a tile of the slide may lie in several overlapping tiles of the pack
        found = dict(self.source.streams(self.level, sorted(set(numbers))))
        for number in numbers:
            yield found[number]

    def describe(self) -> dict[str, Any]:
        """Return the name of the codec, and the level that is copied."""
        return {"codec": self.encoding.name, "copied_from_level": self.level}


@dataclass(frozen=True)
class ImageCodec:
    """A codec that encodes any tiles, whatever the slide has."""

    name: str
    zarr: str
    """Name of the codec in the metadata of an array."""
    encode: Callable[[Array, int], bytes]
    """Encodes pixels (h, w, c) with a quality from 1 to 100."""
    dtypes: tuple[str, ...]


IMAGE_CODECS = {
    "jpeg": ImageCodec(JPEG, "imagecodecs_jpeg", encode_jpeg, ("uint8",)),
    "jpegxl": ImageCodec(JPEG_XL, "imagecodecs_jpegxl", encode_jpeg_xl, ("uint8", "uint16")),
}


COPY = "source"
"""The codec that copies the compressed tiles of a slide."""
PACK_CODECS = (COPY, *IMAGE_CODECS)
"""Codecs of packs whose chunks are images."""


@dataclass(frozen=True)
class EncodedChunks:
    """Tiles that are encoded as images."""

    reader: TileReader | None
    """Reads the tiles; None for tiles of a dask array, which are given to `encoded`."""
    tile: tuple[int, int]
    codec: ImageCodec
    quality: int

    @property
    def encoding(self) -> TileEncoding:
        """One chunk per tile."""
        return TileEncoding(self.codec.name, self.tile, {"name": self.codec.zarr})

    def chunks(self, start: int, stop: int) -> Iterator[bytes | None]:
        """Yield tiles [start, stop), encoded."""
        assert self.reader is not None
        return self.encoded(self.reader(start, stop))

    def encoded(self, tiles: Array) -> Iterator[bytes]:
        """Yield `tiles` (n, h, w, c), encoded."""
        return (self.codec.encode(tile, self.quality) for tile in tiles)

    def describe(self) -> dict[str, Any]:
        """Return the name of the codec and the quality."""
        return {"codec": self.codec.name, "quality": self.quality}


def pack_chunks(pack: TilePack, codec: str, quality: int) -> PackChunks:
    """Return the chunks of `pack` for a codec of images; raise if they cannot be made."""
    name = str(pack.attributes.get("source", "pack"))
    height, width, channels = pack.tiles.shape[1:]
    if codec == COPY:
        return _copied(pack, name)
    image = IMAGE_CODECS[codec]
    if str(pack.tiles.dtype) not in image.dtypes or channels not in (1, 3):
        kinds = " or ".join(image.dtypes)
        raise SlideArgumentError(
            f"{name}: {image.name} holds grey or RGB of {kinds}; leave codec out"
        )
    return EncodedChunks(pack.reader, (height, width), image, quality)


def _copied(pack: TilePack, name: str) -> CopiedChunks:
    reader = pack.reader
    if not isinstance(reader, SlideTileReader):
        raise not_copied(name)
    source, level = stored_level(reader.source)
    encoding = source.encoding(level)
    if encoding is None:
        raise not_copied(name)
    _check_places(name, reader, source.levels[level].shape, encoding.tile)
    return CopiedChunks(source, level, encoding, reader.task.origins, reader.task.tile)


def not_copied(name: str) -> SlideUnsupportedError:
    """Return the error for tiles of the slide `name` that cannot be copied."""
    return SlideUnsupportedError(
        f"{name}: its tiles cannot be copied, as they are resampled or of a codec that is not "
        "copied; use codec='jpeg', or leave codec out"
    )


def _check_places(
    name: str, reader: SlideTileReader, shape: tuple[int, int], unit: tuple[int, int]
) -> None:
    """Raise unless every tile of a pack consists of whole tiles of the slide, inside the image."""
    yx, tile = reader.task.origins.yx(), np.array(reader.task.tile)
    if (tile % unit).any() or (yx % unit).any() or (yx + tile > shape).any():
        height, width = unit
        raise SlideUnsupportedError(
            f"{name}: codec='source' copies whole tiles of the slide, which are {height} x {width} "
            "px: pack them with align='source' and a tile_size that is a multiple of that; or "
            "use codec='jpeg'"
        )
