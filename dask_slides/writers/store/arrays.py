"""Create, open and write the Zarr arrays of an unfinished store."""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import BLANK, OK, MissingRegion, status_of_region
from dask_slides.core.geometry import Region, tiles_of
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError, SlideNotFoundError, StoreDamagedError
from dask_slides.readers.remote.identity import Identity, identify
from dask_slides.readers.remote.object_store import zarr_store
from dask_slides.writers.store import shards
from dask_slides.writers.store.location import location_of
from dask_slides.writers.store.manifest import Record, write_file

VERSIONS = ("0.5", "0.4")
"""OME-Zarr versions written: 0.5 is Zarr v3 with shards, 0.4 is Zarr v2 without."""


def check_version(version: str) -> None:
    """Raise SlideArgumentError unless `version` of OME-Zarr can be written."""
    if version not in VERSIONS:
        raise SlideArgumentError(f"ome_zarr={version!r} is not supported; use '0.5' or '0.4'")


def create_level(
    group: Any,
    name: str,
    shape: tuple[int, ...],
    side: tuple[int, int],
    dtype: Any,
    dims: str,
    plain: bool = False,
) -> Any:
    """Create an array whose last axes are y, x; `side` is (chunk, shard).

    `plain` is that of `compressors`.
    """
    chunk, shard = side
    leading = shape[:-2]
    v2 = group.metadata.zarr_format == 2
    sharded = shard > chunk and not v2
    options: dict[str, Any] = {}
    if v2:
        from numcodecs import Zstd

        options["compressors"] = Zstd(shards.ZSTD_LEVEL)
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    else:
        options["compressors"] = compressors(plain)
        options["dimension_names"] = list(dims)
        options["shards"] = (*leading, shard, shard) if sharded else None
    return group.create_array(
        name,
        shape=shape,
        chunks=(*leading, chunk, chunk),
        dtype=dtype,
        fill_value=0,
        # write shards of zeros too: an absent shard was not written yet
        config={"write_empty_chunks": True},
        **options,
    )


def compressors(plain: bool = False) -> list[Any]:
    """Return zstd and a checksum, as zstd alone does not detect a flipped bit.

    The checksum is a codec of its own, which keeps the bytes of zstd; if `plain`, it is part of
    zstd, as some readers know no other codec.
    """
    import zarr  # all of it: its modules import each other, and another thread may import it too

    if plain:
        return [zarr.codecs.ZstdCodec(level=shards.ZSTD_LEVEL, checksum=True)]
    return [zarr.codecs.ZstdCodec(level=shards.ZSTD_LEVEL), zarr.codecs.Crc32cCodec()]


def open_array(path: str) -> Any:
    """Return the array at `path` of an unfinished store."""
    # the identity is part of the cache key: the path may hold another array than before
    for version, name in ((3, "zarr.json"), (2, ".zarray")):
        with suppress(SlideNotFoundError):
            return _open_cached(path, identify(f"{path}/{name}"), version)
    raise SlideNotFoundError(f"{path}: the array was deleted by another process; write it again")


@lru_cache(maxsize=64)
def _open_cached(path: str, identity: Identity, version: Any) -> Any:
    import zarr

    from dask_slides.readers.codecs.zarr_codecs import register

    register()  # the codecs of copied tiles
    return zarr.open_array(zarr_store(path), mode="r", zarr_format=version)


def put_shards(
    store: str,
    name: str,
    index: tuple[slice, ...],
    values: Any,
    holes: tuple[MissingRegion, ...] = (),
) -> list[Record]:
    """Write whole shards of the array `name` of `store`; return the records of their files.

    `holes` are the parts of an array (..., y, x) that show the fill.
    """
    array = open_array(f"{store}/{name}")
    sides = array.shards or array.chunks
    # slice(None) selects all shards of an axis
    ranges = [
        range((part.start or 0) // side, -(-(size if part.stop is None else part.stop) // side))
        for part, side, size in zip(index, sides, array.shape, strict=True)
    ]
    records = []
    for position in itertools.product(*ranges):
        inside = tuple(
            slice(n * side - (part.start or 0), (n + 1) * side - (part.start or 0))
            for n, side, part in zip(position, sides, index, strict=True)
        )
        pixels = values[inside]
        status = BLANK if pixels.min() == pixels.max() else OK
        if holes:
            height, width = sides[-2:]
            shard = Region(position[-2] * height, position[-1] * width, height, width)
            status = status_of_region(holes, shard) or status
        chunk = array.metadata.encode_chunk_key(position)
        records.append(write_file(store, f"{name}/{chunk}", _encode(array, pixels), status))
    return records


def _encode(array: Any, pixels: Any) -> bytes:
    """Return the file of a whole shard, or of a chunk of an array without shards."""
    if array.shards is not None:
        return shards.encode_shard(pixels, array.shards, array.chunks)
    if array.metadata.zarr_format == 2:
        return shards.compress(pixels, array.chunks)
    if has_checksum_codec(array):
        return shards.add_checksum(shards.compress(pixels, array.chunks))
    return shards.compress(pixels, array.chunks, checksum=True)


def has_checksum_codec(array: Any) -> bool:
    """Return whether the chunks of a Zarr v3 array without shards end with a crc32c."""
    return any(codec["name"] == "crc32c" for codec in array.metadata.to_dict()["codecs"])


def read_region(path: str, region: Region) -> Array:
    """Return the part (c, h, w) of an array (c, y, x) without shards, in this thread."""
    array, location = open_array(path), location_of(path)
    height, width = array.chunks[-2:]
    out = np.empty((array.shape[0], region.height, region.width), array.dtype)
    chunk = np.empty(array.chunks, array.dtype)
    touched = tiles_of(region, (height, width))
    for row, column in np.ndindex(touched.height, touched.width):
        row, column = touched.y + row, touched.x + column
        data = location.read(array.metadata.encode_chunk_key((0, row, column)))
        content: shards.Data = data
        if array.metadata.zarr_format == 3:
            try:
                content = shards.remove_checksum(data)
            except ValueError:
                raise StoreDamagedError(
                    f"{path}: a file has another checksum; write the store again"
                ) from None
        shards.decompress(content, chunk)
        place = Region(row * height, column * width, height, width)
        part = place.intersect(region)
        inside = chunk[(slice(None), *part.slices(place.y, place.x))]
        out[(slice(None), *part.slices(region.y, region.x))] = inside
    return out


def shards_of(store: str, name: str) -> int:
    """Return how many shards the array `name` of `store` has."""
    array = open_array(f"{store}/{name}")
    sides = array.shards or array.chunks
    return math.prod(-(-n // side) for n, side in zip(array.shape, sides, strict=True))
