"""OME-Zarr 0.4 and 0.5 as a source."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import (
    RemoteAccessError,
    RemoteError,
    SlideError,
    SlideFormatError,
    SlideLimitError,
    SlideUnsupportedError,
)
from dask_slides.geometry import Region, snapped_factor
from dask_slides.readers.bad_tiles import MARK, Hole, holes_of, within
from dask_slides.readers.limits import Limits
from dask_slides.readers.protocol import Identity, Level, check_identity, decoded, identify
from dask_slides.readers.remote import exists, group_at, is_remote
from dask_slides.readers.units import Units, fill_for, shown

Array = NDArray[Any]

_MICROMETRES = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4,
                "meter": 1e6, "angstrom": 1e-4}  # fmt: skip

SHARD_ENTRY = 16
"""Bytes of a chunk in the index of its shard, which is read whole."""


@dataclass(frozen=True)
class NgffSource:
    """The arrays of one multiscale image of an OME-Zarr store."""

    path: str
    metadata: str
    """The file that holds the metadata of the image; it is rewritten when the store is."""
    identity: Identity
    arrays: tuple[str, ...]
    """Path of each level's array in the store."""
    axes: tuple[str, ...]
    levels: tuple[Level, ...]
    channels: int
    dtype: np.dtype[Any]
    background: float = 255
    """What masked pixels show, in units of the dtype."""
    on_bad_tile: str = "raise"
    recorded: tuple[Hole, ...] = ()
    """What a store of ours says that it shows the fill for, in pixels of level 0."""

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        check_identity(self.metadata, self.identity)
        if self.on_bad_tile == "raise":
            return decoded(self.path, level, region, lambda: self._pixels(level, region))
        read, units = partial(self._pixels, level), _units(self, level)
        whole = partial(units.masked, region, read, self.channels, self.fill)
        return decoded(self.path, level, region, whole)

    def _pixels(self, level: int, region: Region) -> Array:
        rows, columns = region.slices()
        index = {"y": rows, "x": columns, "c": slice(None)}
        stored = _arrays(self)[level][tuple(index.get(axis, 0) for axis in self.axes)]
        kept = [axis for axis in self.axes if axis in index]
        pixels = np.asarray(stored, self.dtype)  # of the byte order of this machine
        if "c" not in kept:
            kept.append("c")
            pixels = pixels[..., None]
        return pixels.transpose([kept.index(axis) for axis in "yxc"])

    @property
    def fill(self) -> Any:
        """What a masked pixel shows."""
        return shown(self.background, self.dtype)

    def holes(self, level: int, region: Region) -> tuple[Hole, ...]:
        """Return the parts of `region` that are masked, or that the store says show the fill.

        A chunk that is missing is no hole: it is how Zarr writes one that is all fill value.
        """
        found = within(self.recorded, region, round(max(self.levels[level].downsample)))
        if self.on_bad_tile == "raise":
            return found
        units = _units(self, level)
        for part in units.unknown(region):
            self.read(level, part)
        return found + units.holes(region)


@lru_cache(maxsize=64)
def _units(source: NgffSource, level: int) -> Units:
    return Units(level, source.levels[level].shape, source.levels[level].tile)


@lru_cache(maxsize=16)
def _arrays(source: NgffSource) -> list[Any]:
    group = group_at(source.path)
    return [group[name] for name in source.arrays]


def marker_of(path: str) -> str | None:
    """Return which file holds the metadata of the root of the store at `path`; None if none."""
    there = exists if is_remote(path) else os.path.exists
    names = (f"{path}/{name}" for name in ("zarr.json", ".zattrs", ".zgroup"))
    return next((name for name in names if there(name)), None)


def open_ngff(
    path: str, fill: float | None, limits: Limits
) -> tuple[NgffSource, tuple[float, float] | None, dict[str, str]]:
    """Read the metadata of the store at `path`: source, mpp (y, x) if given, properties."""
    path, group, attributes = _image_group(path)
    try:
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        names = tuple(str(dataset["path"]) for dataset in multiscale["datasets"])
        axes = tuple(_axis_name(axis) for axis in multiscale["axes"])
        arrays = [group[name] for name in names]
        for array in arrays:
            check_chunks(path, array, limits)
        levels, channels = _levels(
            path, axes, [a.shape for a in arrays], [a.chunks for a in arrays]
        )
        mpp = _mpp(multiscale)
        version = attributes.get("ome", {}).get("version") or multiscale.get("version", "0.4")
        dtype = np.dtype(arrays[0].dtype)
        _check_limits(path, levels, channels * dtype.itemsize, limits)
        recorded = _recorded(attributes)
    except SlideError:
        raise
    except Exception as error:  # metadata can be anything, and zarr has errors of its own
        raise SlideFormatError(
            f"{path}: no multiscales metadata that can be read ({error!r}); "
            "give an OME-Zarr 0.4 or 0.5 image"
        ) from None
    if dtype.kind not in "uif":
        raise SlideUnsupportedError(f"{path}: dtype {dtype}; integer and float images are read")
    fill = fill_for(path, fill, dtype, colour=dtype == np.uint8 and channels == 3)
    metadata = marker_of(path)
    assert metadata is not None  # Zarr has just read it
    source = NgffSource(
        path, metadata, identify(metadata), names, axes, levels, channels, dtype.newbyteorder("="),
        background=fill, recorded=recorded,
    )  # fmt: skip
    return source, mpp, {"format": f"OME-Zarr {version}"}


def check_chunks(path: str, array: Any, limits: Limits) -> None:
    """Raise SlideLimitError if `array` of Zarr declares chunks or shards beyond `limits`."""
    chunk = math.prod(array.chunks) * array.dtype.itemsize
    shard = math.prod(array.shards or array.chunks) // max(1, math.prod(array.chunks))
    if chunk > limits.tile_bytes or shard * SHARD_ENTRY > limits.tile_bytes:
        raise SlideLimitError(
            f"{path}: array {array.path or '/'!r} declares chunks of {chunk:,} bytes, {shard:,} to "
            "a shard; if that is right, open it with limits=Limits(...)"
        )


def _check_limits(path: str, levels: tuple[Level, ...], pixel: int, limits: Limits) -> None:
    """Refuse what the metadata declares beyond `limits`; a pixel has so many bytes."""
    for number, level in enumerate(levels):
        (height, width), (rows, columns) = level.shape, level.tile
        if min(height, width, rows, columns) < 1:
            raise SlideFormatError(
                f"{path}: level {number} is of {height} x {width} px in chunks of {rows} x "
                f"{columns}; the store is damaged, fetch it again"
            )
        if height * width > limits.pixels or rows * columns * pixel > limits.tile_bytes:
            raise SlideLimitError(
                f"{path}: level {number} declares {height:,} x {width:,} px in chunks of {rows:,} "
                f"x {columns:,}; if that is right, open it with limits=Limits(...)"
            )


def _recorded(attributes: Mapping[str, Any]) -> tuple[Hole, ...]:
    """Return the holes that a store of ours has in its attributes."""
    mark = attributes.get(MARK)
    rows = mark.get("holes", ()) if isinstance(mark, Mapping) else ()
    return holes_of(rows)


def _image_group(path: str) -> tuple[str, Any, Mapping[str, Any]]:
    """Return the group of the image at `path`, of a collection the first, and its attributes."""
    try:
        group = group_at(path)
        attributes = group.attrs.asdict()
        if "bioformats2raw.layout" in attributes.get("ome", attributes):
            path = f"{path}/0"
            group = group_at(path)
            attributes = group.attrs.asdict()
        return path, group, attributes
    except (RemoteError, RemoteAccessError):
        raise
    except Exception as error:  # zarr has no one class for "this is not a group"
        kind = type(error).__name__
    # raised here, not from zarr's error: that cannot be unpickled, and workers open slides too
    raise SlideFormatError(
        f"{path}: a folder that is not an OME-Zarr image ({kind}); "
        "give the folder that holds zarr.json or .zattrs"
    )


def _axis_name(axis: Any) -> str:
    return str(axis["name"] if isinstance(axis, Mapping) else axis)


def _levels(
    path: str, axes: tuple[str, ...], shapes: list[Any], chunks: list[Any]
) -> tuple[tuple[Level, ...], int]:
    first = dict(zip(axes, shapes[0], strict=True))
    if not {"y", "x"} <= set(axes):
        raise SlideFormatError(f"{path}: axes {axes} have no y and x")
    for axis, length in first.items():
        if axis not in "yxc" and length != 1:
            raise SlideUnsupportedError(
                f"{path}: {length} planes along {axis}; write one plane to a store of its own"
            )
    levels = []
    for shape, chunk in zip(shapes, chunks, strict=True):
        size = dict(zip(axes, shape, strict=True))
        tile = dict(zip(axes, chunk, strict=True))
        factors = tuple(snapped_factor(first[axis], size[axis]) for axis in "yx")
        levels.append(Level((size["y"], size["x"]), factors, (tile["y"], tile["x"])))  # type: ignore[arg-type]
    return tuple(levels), int(first.get("c", 1))


def _mpp(multiscale: Mapping[str, Any]) -> tuple[float, float] | None:
    axes = multiscale["axes"]
    scale = [1.0] * len(axes)
    steps = list(multiscale["datasets"][0].get("coordinateTransformations", ()))
    for step in steps + list(multiscale.get("coordinateTransformations", ())):
        if step.get("type") == "scale":
            scale = [a * b for a, b in zip(scale, step["scale"], strict=True)]
    found = {}
    for axis, value in zip(axes, scale, strict=True):
        unit = axis.get("unit") if isinstance(axis, Mapping) else None
        if unit in _MICROMETRES:
            found[_axis_name(axis)] = float(value) * _MICROMETRES[unit]
    return (found["y"], found["x"]) if {"y", "x"} <= set(found) else None
