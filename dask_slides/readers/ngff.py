"""OME-Zarr 0.4 and 0.5 as a source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
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
from dask_slides.readers.limits import Limits
from dask_slides.readers.protocol import Identity, Level, check_identity, decoded, identify
from dask_slides.readers.remote import exists, group_at, is_remote

Array = NDArray[Any]

_MICROMETRES = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4,
                "meter": 1e6, "angstrom": 1e-4}  # fmt: skip


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

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        rows, columns = region.slices()
        index = {"y": rows, "x": columns, "c": slice(None)}
        check_identity(self.metadata, self.identity)
        where = tuple(index.get(axis, 0) for axis in self.axes)
        stored = decoded(self.path, level, region, lambda: _arrays(self)[level][where])
        kept = [axis for axis in self.axes if axis in index]
        pixels = np.asarray(stored, self.dtype)  # of the byte order of this machine
        if "c" not in kept:
            kept.append("c")
            pixels = pixels[..., None]
        return pixels.transpose([kept.index(axis) for axis in "yxc"])


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
    path: str, limits: Limits
) -> tuple[NgffSource, tuple[float, float] | None, dict[str, str]]:
    """Read the metadata of the store at `path`: source, mpp (y, x) if given, properties."""
    path, group, attributes = _image_group(path)
    try:
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        names = tuple(str(dataset["path"]) for dataset in multiscale["datasets"])
        axes = tuple(_axis_name(axis) for axis in multiscale["axes"])
        arrays = [group[name] for name in names]
        levels, channels = _levels(
            path, axes, [a.shape for a in arrays], [a.chunks for a in arrays]
        )
        mpp = _mpp(multiscale)
        version = attributes.get("ome", {}).get("version") or multiscale.get("version", "0.4")
        dtype = np.dtype(arrays[0].dtype)
        _check_limits(path, levels, channels * dtype.itemsize, limits)
    except SlideError:
        raise
    except Exception as error:  # metadata can be anything, and zarr has errors of its own
        raise SlideFormatError(
            f"{path}: no multiscales metadata that can be read ({error!r}); "
            "give an OME-Zarr 0.4 or 0.5 image"
        ) from None
    if dtype.kind not in "uif":
        raise SlideUnsupportedError(f"{path}: dtype {dtype}; integer and float images are read")
    metadata = marker_of(path)
    assert metadata is not None  # Zarr has just read it
    source = NgffSource(
        path, metadata, identify(metadata), names, axes, levels, channels, dtype.newbyteorder("=")
    )
    return source, mpp, {"format": f"OME-Zarr {version}"}


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
