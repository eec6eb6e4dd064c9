"""OME-Zarr 0.4 and 0.5 as a source."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import MARK, MissingRegion, missing_from_json, missing_within
from dask_slides.core.channels import Channel, described
from dask_slides.core.geometry import Region, snapped_factor
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Opened, Source, read_or_raise
from dask_slides.core.types import Array
from dask_slides.errors import (
    RemoteAccessError,
    RemoteError,
    SlideArgumentError,
    SlideError,
    SlideFormatError,
    SlideLimitError,
    SlideUnsupportedError,
)
from dask_slides.readers.physical_units import micrometres, number_above_zero
from dask_slides.readers.remote.identity import Identity, check_identity, identify
from dask_slides.readers.remote.object_store import exists, is_remote, open_group
from dask_slides.readers.selection import (
    FIRST_PLANE,
    ImageSelection,
    Plane,
    image_index,
    plane_of,
    unique_names,
)
from dask_slides.readers.tile_status import (
    TileStatus,
    fill_for,
    lacks_value,
    shown,
    text_of,
    value_in,
)

SHARD_ENTRY = 16
"""Bytes of a chunk in the index of its shard, which is read whole."""


@dataclass(frozen=True)
class OmeZarrSource(Source):
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
    recorded: tuple[MissingRegion, ...] = ()
    """What a store of ours says that it shows the fill for, in pixels of level 0."""
    plane: Plane = FIRST_PLANE
    """Which plane is read where there are several."""
    nodata: int | float | None = None
    """The number that stands for no value in a store of ours."""

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        return self.read_valid(level, region)[0]

    @property
    def masked(self) -> bool:
        """Whether the store has a nodata value."""
        return self.nodata is not None

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the pixels of `region` of `level`, and which of them have a value."""
        pixels = self._read(level, region)
        lacks = None if self.nodata is None else lacks_value(pixels, self.nodata)
        if lacks is None or not lacks.any():
            return pixels, None
        if self.fill != self.nodata:
            pixels = np.where(lacks[..., None], self.fill, pixels)
        return pixels, ~lacks

    def _read(self, level: int, region: Region) -> Array:
        check_identity(self.metadata, self.identity)
        if self.on_bad_tile == "raise":
            return read_or_raise(self.path, level, region, lambda: self._pixels(level, region))
        read, units = partial(self._pixels, level), _units(self, level)
        whole = partial(units.masked, region, read, self.channels, self.fill)
        return read_or_raise(self.path, level, region, whole)

    def _pixels(self, level: int, region: Region) -> Array:
        rows, columns = region.slices()
        index = {"y": rows, "x": columns, "c": slice(None)}
        where = tuple(index.get(axis, self.plane.at(axis)) for axis in self.axes)
        stored = _arrays(self)[level][where]
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

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` that are masked, or that the store says show the fill.

        A chunk that is missing is no hole: it is how Zarr writes one that is all fill value.
        """
        found = missing_within(self.recorded, region, round(max(self.levels[level].downsample)))
        if self.on_bad_tile == "raise":
            return found
        units = _units(self, level)
        for part in units.unknown(region):
            self.read(level, part)
        return found + units.holes(region)


@lru_cache(maxsize=64)
def _units(source: OmeZarrSource, level: int) -> TileStatus:
    return TileStatus(level, source.levels[level].shape, source.levels[level].tile)


@lru_cache(maxsize=16)
def _arrays(source: OmeZarrSource) -> list[Any]:
    group = open_group(source.path)
    return [group[name] for name in source.arrays]


def marker_of(path: str) -> str | None:
    """Return which file holds the metadata of the root of the store at `path`; None if none."""
    there = exists if is_remote(path) else os.path.exists
    names = (f"{path}/{name}" for name in ("zarr.json", ".zattrs", ".zgroup"))
    return next((name for name in names if there(name)), None)


def open_ngff(
    path: str, fill: float | None, limits: Limits, choice: ImageSelection = ImageSelection()
) -> Opened:
    """Read the metadata of the store at `path`."""
    path, group, attributes, scales, images, number = _image_group(path, choice)
    try:
        multiscale = attributes.get("ome", attributes)["multiscales"][scales]
        names = tuple(str(dataset["path"]) for dataset in multiscale["datasets"])
        arrays = [group[name] for name in names]
        for array in arrays:
            check_chunks(path, array, limits)
        plane = _plane(path, multiscale["axes"], arrays[0].shape, choice)
        others = plane.check(path, arrays[0].shape)
        axes = tuple(plane.axes.lower())
        # of a pyramid in z too, the smaller levels show no plane of level 0
        kept = [
            n for n, array in enumerate(arrays) if _planes(axes, array) == _planes(axes, arrays[0])
        ]
        arrays, names = [arrays[n] for n in kept], tuple(names[n] for n in kept)
        levels, channels = _levels(axes, [a.shape for a in arrays], [a.chunks for a in arrays])
        mpp = _mpp(multiscale, axes)
        version = attributes.get("ome", {}).get("version") or multiscale.get("version", "0.4")
        dtype = np.dtype(arrays[0].dtype)
        _check_limits(path, levels, channels * dtype.itemsize, limits)
        recorded = _recorded(attributes)
        told = _channels(attributes.get("ome", attributes), channels)
    except SlideError:
        raise
    except Exception as error:  # metadata can be anything, and zarr has errors of its own
        raise SlideFormatError(
            f"{path}: no multiscales metadata that can be read ({error!r}); "
            "give an OME-Zarr 0.4 or 0.5 image"
        ) from None
    if dtype.kind not in "uif":
        raise SlideUnsupportedError(f"{path}: dtype {dtype}; integer and float images are read")
    mark = attributes.get(MARK)
    nodata = value_in(str(mark.get("nodata", "")), dtype) if isinstance(mark, Mapping) else None
    colour = dtype == np.uint8 and channels == 3
    fill = fill_for(path, fill, dtype, colour=colour, nodata=nodata)
    metadata = marker_of(path)
    assert metadata is not None  # Zarr has just read it
    source = OmeZarrSource(
        path, metadata, identify(metadata), names, axes, levels, channels, dtype.newbyteorder("="),
        background=fill, recorded=recorded, plane=plane, nodata=nodata,
    )  # fmt: skip
    properties = {"format": f"OME-Zarr {version}"} | others
    if nodata is not None:
        properties["nodata"] = text_of(nodata)
    if images:
        properties["image"] = images[number]
    return Opened(source, mpp, properties, images, told)


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


def _recorded(attributes: Mapping[str, Any]) -> tuple[MissingRegion, ...]:
    """Return the holes that a store of ours has in its attributes."""
    mark = attributes.get(MARK)
    rows = mark.get("holes", ()) if isinstance(mark, Mapping) else ()
    return missing_from_json(rows)


def _image_group(
    path: str, choice: ImageSelection
) -> tuple[str, Any, Mapping[str, Any], int, tuple[str, ...], int]:
    """Return the group of the image that is wanted, by default the first.

    That is its path, the group, its attributes, which of its multiscales it is; then the names of
    all images if there are several, and which of them it is.
    """
    try:
        group = open_group(path)
        attributes = group.attrs.asdict()
        scales = len(attributes.get("ome", attributes).get("multiscales", ()))
        if "bioformats2raw.layout" in attributes.get("ome", attributes):
            paths = _collected(path, group)
            names = unique_names([_name_at(one) for one in paths])
            number = image_index(path, names, choice.image) or 0
            path, scales = paths[number], 0
            group = open_group(path)
            attributes = group.attrs.asdict()
        else:
            names = unique_names([_name(attributes, n) for n in range(scales)] or [None])
            number = scales = image_index(path, names, choice.image) or 0
        return path, group, attributes, scales, names if len(names) > 1 else (), number
    except (RemoteError, RemoteAccessError, SlideArgumentError):
        raise
    except Exception as error:  # zarr has no one class for "this is not a group"
        kind = type(error).__name__
    # raised here, not from zarr's error: that cannot be unpickled, and workers open slides too
    raise SlideFormatError(
        f"{path}: a folder that is not an OME-Zarr image ({kind}); "
        "give the folder that holds zarr.json or .zattrs"
    )


def _collected(path: str, group: Any) -> list[str]:
    """Return where the images of a collection lie, as bioformats2raw writes it."""
    try:
        attributes = group["OME"].attrs.asdict()
        names = [str(name) for name in attributes.get("ome", attributes)["series"]]
    except (KeyError, TypeError):  # without a list they are numbered
        names = []
    names = [name for name in names if re.fullmatch(r"\w[\w.-]*", name)]  # not out of the store
    if names:
        return [f"{path}/{name}" for name in names]
    found = [f"{path}/0"]
    while marker_of(f"{path}/{len(found)}") is not None:
        found.append(f"{path}/{len(found)}")
    return found


def _name_at(path: str) -> str | None:
    try:
        return _name(open_group(path).attrs.asdict(), 0)
    except (RemoteError, RemoteAccessError):
        raise
    except Exception:  # of that one it is told when it is read
        return None


def _name(attributes: Mapping[str, Any], number: int) -> str | None:
    try:
        name = attributes.get("ome", attributes)["multiscales"][number].get("name")
    except (KeyError, IndexError, AttributeError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _axis_name(axis: Any) -> str:
    return str(axis["name"] if isinstance(axis, Mapping) else axis)


def _plane(path: str, axes: list[Any], shape: tuple[int, ...], choice: ImageSelection) -> Plane:
    """Return the plane that is wanted; axes of other names than x, y, z, c, t are Q."""
    names = [_axis_name(axis) for axis in axes]
    stored = "".join(name.upper() if name in list("xyzct") else "Q" for name in names)
    if not {"Y", "X"} <= set(stored):
        raise SlideFormatError(f"{path}: axes {tuple(names)} have no y and x")
    return plane_of(path, stored, shape, choice)


def _planes(axes: tuple[str, ...], array: Any) -> list[int]:
    return [n for axis, n in zip(axes, array.shape, strict=True) if axis not in "yx"]


def _levels(
    axes: tuple[str, ...], shapes: list[Any], chunks: list[Any]
) -> tuple[tuple[Level, ...], int]:
    first = dict(zip(axes, shapes[0], strict=True))
    levels = []
    for shape, chunk in zip(shapes, chunks, strict=True):
        size = dict(zip(axes, shape, strict=True))
        tile = dict(zip(axes, chunk, strict=True))
        factors = tuple(snapped_factor(first[axis], size[axis]) for axis in "yx")
        levels.append(Level((size["y"], size["x"]), factors, (tile["y"], tile["x"])))  # type: ignore[arg-type]
    return tuple(levels), int(first.get("c", 1))


def _mpp(multiscale: Mapping[str, Any], names: tuple[str, ...]) -> tuple[float, float] | None:
    axes = multiscale["axes"]
    scale = [1.0] * len(axes)
    steps = list(multiscale["datasets"][0].get("coordinateTransformations", ()))
    for step in steps + list(multiscale.get("coordinateTransformations", ())):
        if step.get("type") == "scale":
            sizes = [number_above_zero(size) or math.nan for size in step["scale"]]
            scale = [a * b for a, b in zip(scale, sizes, strict=True)]
    found = {}
    for name, axis, value in zip(names, axes, scale, strict=True):
        unit = micrometres(axis.get("unit")) if isinstance(axis, Mapping) else None
        if unit is not None and math.isfinite(value):
            found[name] = value * unit
    return (found["y"], found["x"]) if {"y", "x"} <= set(found) else None


def _channels(attributes: Mapping[str, Any], count: int) -> tuple[Channel, ...]:
    """Return what `omero` says of the channels; () if there is none, or it is of others."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, list) or len(channels) != count:
        return ()
    told = [one if isinstance(one, Mapping) else {} for one in channels]
    colors = [str(one.get("color", "")).lstrip("#").upper() for one in told]
    windows = [one.get("window") for one in told]
    return described(
        count,
        [one.get("label") for one in told],
        [color if re.fullmatch("[0-9A-F]{6}", color) else None for color in colors],
        [
            (window.get("start"), window.get("end")) if isinstance(window, Mapping) else None
            for window in windows
        ],
    )
