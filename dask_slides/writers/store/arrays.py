"""Creating and opening the Zarr arrays of a store that is being written."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import Any

from dask_slides.core.bad_tiles import BLANK, OK, MissingRegion, status_of_region
from dask_slides.core.geometry import Region
from dask_slides.errors import SlideArgumentError, SlideNotFoundError
from dask_slides.readers.remote.identity import Identity, identify
from dask_slides.readers.remote.object_store import is_remote, zarr_store
from dask_slides.writers.store.manifest import Record, location_of, record, record_of

VERSIONS = ("0.5", "0.4")
"""OME-Zarr versions written: 0.5 is Zarr v3 with shards, 0.4 is Zarr v2 without."""
ZSTD_LEVEL = 1
"""Twice as fast as 3, and files of slides are at most 1 % larger."""


def check_version(version: str) -> None:
    """Raise SlideArgumentError unless `version` is one that is written."""
    if version not in VERSIONS:
        raise SlideArgumentError(f"ome_zarr={version!r} is not written; use '0.5' or '0.4'")


def create_level(
    group: Any, name: str, shape: tuple[int, ...], side: tuple[int, int], dtype: Any, dims: str
) -> None:
    """Create an array whose last axes are y, x; `side` is (chunk, shard)."""
    chunk, shard = side
    leading = shape[:-2]
    v2 = group.metadata.zarr_format == 2
    sharded = shard > chunk and not v2
    options: dict[str, Any] = {}
    if v2:
        from numcodecs import Zstd

        options["compressors"] = Zstd(ZSTD_LEVEL)
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    else:
        options["compressors"] = compressors()
        options["dimension_names"] = list(dims)
        options["shards"] = (*leading, shard, shard) if sharded else None
    group.create_array(
        name,
        shape=shape,
        chunks=(*leading, chunk, chunk),
        dtype=dtype,
        fill_value=0,
        # a shard that is all fill is written too: what is absent was not done
        config={"write_empty_chunks": True},
        **options,
    )


def writable(path: str) -> Any:
    """Return the array at `path` of a store that is being written."""
    # the hidden folder of a store has the same name each time: another array may lie there now
    for version, name in ((3, "zarr.json"), (2, ".zarray")):
        with suppress(SlideNotFoundError):
            return _opened(path, identify(f"{path}/{name}"), version)
    raise SlideNotFoundError(f"{path}: there is no array; somebody else removed it, write it again")


def compressors() -> list[Any]:
    """Return the codecs of what is written: zstd alone does not notice a flipped bit."""
    import zarr  # whole, as its parts import each other, and another thread may be at it

    return [zarr.codecs.ZstdCodec(level=ZSTD_LEVEL), zarr.codecs.Crc32cCodec()]


@lru_cache(maxsize=64)
def _opened(path: str, identity: Identity, version: Any) -> Any:
    import zarr

    # the setting that the array was created with is not stored with it
    mode: Any = "r" if is_remote(path) else "r+"  # in a bucket its chunks are put one by one
    array = zarr.open_array(zarr_store(path), mode=mode, zarr_format=version)
    return array.with_config({"write_empty_chunks": True})


def put(path: str, index: Any, values: Any) -> None:
    """Set ``array[index] = values`` of the array at `path`, all of it in this thread.

    Zarr hands every chunk from its one event loop to threads of its own: more threads than
    the scheduler was given, each of which leaves holes in a heap of its own (measured: 64 MB
    instead of 55 for a slide of any size), while the worker's thread waits.
    """
    array = writable(path)
    if is_remote(path):
        for chunk, data in _encoded(array, index, values).items():
            location_of(path).write(chunk, data)
    else:
        _set(array, index, values)


def _set(array: Any, index: Any, values: Any) -> None:
    if _runs_a_loop():
        array[index] = values
    else:
        _run(array.async_array.setitem(index, values))


def _encoded(array: Any, index: Any, values: Any) -> dict[str, bytes]:
    """Return the files that ``array[index] = values`` writes, by name below the array."""
    from zarr import Array, AsyncArray
    from zarr.storage import MemoryStore, StorePath

    files: dict[str, Any] = {}
    here: Any = StorePath(MemoryStore(files), "")
    config: Any = {"write_empty_chunks": True}
    _set(Array(AsyncArray(array.metadata, here, config)), index, values)
    return {name: buffer.to_bytes() for name, buffer in files.items()}


def put_shards(
    store: str,
    name: str,
    index: tuple[slice, ...],
    values: Any,
    holes: tuple[MissingRegion, ...] = (),
) -> list[Record]:
    """Set whole shards of the array `name` of `store`; return the records of their files.

    `holes` of an array (..., y, x) are the parts of it that show the fill.
    """
    array = writable(f"{store}/{name}")  # looked for once: in a bucket that is a request
    files: dict[str, bytes] = {}
    if is_remote(store):
        files = _encoded(array, index, values)
    else:
        _set(array, index, values)
    sides = array.shards or array.chunks
    # an axis that is not cut is one shard
    ranges = [
        range((part.start or 0) // side, -(-(size if part.stop is None else part.stop) // side))
        for part, side, size in zip(index, sides, array.shape, strict=True)
    ]
    records = []
    for place in itertools.product(*ranges):
        inside = tuple(
            slice(n * side - (part.start or 0), (n + 1) * side - (part.start or 0))
            for n, side, part in zip(place, sides, index, strict=True)
        )
        pixels = values[inside]
        status = BLANK if pixels.min() == pixels.max() else OK
        if holes:
            height, width = sides[-2:]
            shard = Region(place[-2] * height, place[-1] * width, height, width)
            status = status_of_region(holes, shard) or status
        chunk = array.metadata.encode_chunk_key(place)
        file = f"{name}/{chunk}"
        if chunk in files:
            records.append(record_of(store, file, files.pop(chunk), status))
        else:
            records.append(record(store, file, status))
    return records


def shards_of(store: str, name: str) -> int:
    """Return how many shards the array `name` of `store` has."""
    array = writable(f"{store}/{name}")
    sides = array.shards or array.chunks
    return math.prod(-(-n // side) for n, side in zip(array.shape, sides, strict=True))


def get(path: str, index: Any) -> Any:
    """Return ``array[index]`` of the array at `path`, read in this thread."""
    array = writable(path)
    return array[index] if _runs_a_loop() else _run(array.async_array.getitem(index))


def _runs_a_loop() -> bool:
    """Return whether this thread runs one already, a notebook's: it cannot run two."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run(work: Any) -> Any:
    loop = asyncio.new_event_loop()
    try:
        loop.set_default_executor(_InPlace())
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)  # of chunks beside one that failed
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()


class _InPlace(ThreadPoolExecutor):
    """Runs what it is given at once, in the thread that gives it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call `fn` and return what has ended already."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
