"""Read OME-Zarr 0.4, 0.5 and 0.6."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np

from dask_slides.core.arguments import is_remote
from dask_slides.core.bad_tiles import MARK, MissingRegion, missing_from_json, missing_within
from dask_slides.core.channels import Channel, described, is_rgb, plain_channels
from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.geometry import Placement, Region, hull, snapped_factor
from dask_slides.core.georeference import reference_from_json
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Opened, Source
from dask_slides.core.types import Array
from dask_slides.errors import (
    RemoteAccessError,
    RemoteError,
    SlideArgumentError,
    SlideError,
    SlideFormatError,
    SlideLimitError,
    SlideUnsupportedError,
    known_reason,
)
from dask_slides.readers.codecs.jpeg import FACTORS
from dask_slides.readers.encoded_array import EncodedArray, encoded_array, encoded_page
from dask_slides.readers.physical_units import micrometres, number_above_zero
from dask_slides.readers.remote.identity import Identity, check_identity, identify
from dask_slides.readers.remote.object_store import exists, open_array, open_group
from dask_slides.readers.selection import (
    FIRST_PLANE,
    ImageSelection,
    Plane,
    image_index,
    plane_of,
    read_channels,
    unique_names,
)
from dask_slides.readers.tiff.tiled_page import TiledPage
from dask_slides.readers.tile_status import (
    TileStatus,
    decode_error,
    fill_for,
    is_nodata,
    parse_nodata,
    text_of,
)
from dask_slides.runtime.fork_safety import cleared_after_fork

Item = TypeVar("Item")

SHARD_ENTRY = 16
"""Bytes per chunk in the index of a shard, which is read as a whole."""
WHOLE = Placement()
"""The placement of an image that is a whole slide."""
_MOST_ARRAYS = 6
"""Most arrays that a message lists."""


class NotAGroupError(SlideFormatError):
    """A folder that holds no Zarr group; it may hold a single array."""


@dataclass(frozen=True)
class OmeZarrSource(Source):
    """The arrays of one multiscale image of an OME-Zarr store, or a single array."""

    path: str
    metadata: str
    """The metadata file of the image; it changes when the store is written again."""
    identity: Identity
    arrays: tuple[str, ...]
    """Path of each level's array in the store; empty for the array that is the store."""
    levels: tuple[Level, ...]
    channels: int
    dtype: np.dtype[Any]
    background: float = 255
    """The value that masked pixels show."""
    on_bad_tile: str = "raise"
    recorded_holes: tuple[MissingRegion, ...] = ()
    """Missing regions that the attributes of a dask_slides store list, in pixels of level 0."""
    plane: Plane = FIRST_PLANE
    """The plane that is read."""
    nodata: int | float | None = None
    """The value of pixels without a value; only stores of dask_slides declare one."""
    placement: Placement = WHOLE
    """Where level 0 lies on the slide whose coordinates the store uses."""
    encoded: tuple[EncodedArray | None, ...] = ()
    """For each level, how it is read if its chunks are encoded images; None if Zarr reads it."""

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        return self.read_valid(level, region)[0]

    def with_channels(self, numbers: tuple[int, ...]) -> OmeZarrSource:
        """Return the source of these channels; chunks without any of them are not read."""
        plane = replace(self.plane, channels=numbers if "C" in self.plane.axes else None)
        return replace(self, channels=len(numbers), plane=plane)

    @property
    def masked(self) -> bool:
        """Whether the store has a nodata value."""
        return self.nodata is not None

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the pixels of `region` of `level`, and which of them have a value."""
        pixels = self._read(level, region)
        empty = None if self.nodata is None else is_nodata(pixels, self.nodata)
        if empty is None or not empty.any():
            return pixels, None
        if self.fill != self.nodata:
            pixels = np.where(empty[..., None], self.fill, pixels)
        return pixels, ~empty

    def _read(self, level: int, region: Region) -> Array:
        check_identity(self.metadata, self.identity)
        try:
            if self.on_bad_tile == "raise":
                return self._pixels(level, region)
            read, status = partial(self._pixels, level), _tile_status(self, level)
            return status.read_masked(region, read, self.channels, self.fill)
        except Exception as error:
            failure = self._failure(level, region, error)
        raise failure

    def _pixels(self, level: int, region: Region) -> Array:
        page = self._page(level)
        if page is not None:
            return page.read(region)
        array = _arrays(self)[level]
        at = self.plane.axes.find("C")
        return read_channels(
            lambda part: pixels_yxc(array, self.plane, region, part, self.dtype),
            self.plane.channels,
            array.chunks[at] if at >= 0 else 1,
        )

    @property
    def fill(self) -> Any:
        """The value that masked pixels show."""
        return self.dtype.type(self.background)

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` that are masked or listed as missing in the attributes.

        A chunk that is not stored is not missing: Zarr omits chunks that hold only the fill value.
        """
        found = missing_within(
            self.recorded_holes, region, round(max(self.levels[level].downsample))
        )
        if self.on_bad_tile == "raise":
            return found
        status = _tile_status(self, level)
        for chunk in status.undecoded(region):
            self.read(level, chunk)
        return found + status.holes(region)

    def _page(self, level: int) -> TiledPage | None:
        """Return the page of tiles of a level whose chunks are encoded images, if all are read."""
        array = self.encoded[level] if self.encoded else None
        if array is None or self.plane.channels is not None:
            return None
        return _pages(self)[level]

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the factors by which encoded chunks can be reduced while they are decoded."""
        if self.masked or self.dtype != np.uint8 or self._page(level) is None:
            return ()
        height, width = self.levels[level].tile
        return tuple(factor for factor in FACTORS if height % factor == width % factor == 0)

    def coarseness(self, level: int) -> int:
        """Return how many times coarser the colours of a reduced level are."""
        page = self._page(level)
        return 1 if page is None else page.coarseness

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Return `region` of `level` reduced by `factor`."""
        page = self._page(level)
        assert page is not None
        check_identity(self.metadata, self.identity)
        try:
            return page.read(region, factor)
        except Exception as error:
            full = Region(*(n * factor for n in (region.y, region.x, region.height, region.width)))
            failure = self._failure(level, full, error)
        raise failure

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Return the parts of `region` in each chunk that is not missing."""
        page = None if self.masked else self._page(level)
        if page is None:
            return None
        # a copy leaves out blank chunks, which have a value, and corrupt ones, which are holes
        holes = [hole.region for hole in self.known_holes(level, region)]
        found = (
            (part, pixels)
            for part, pixels in page.tiles(region)
            if not any(part.intersect(hole) == part for hole in holes)
        )
        return self._checked(level, region, found)

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Return the parts of `regions` in each encoded chunk."""
        page = None if self.masked else self._page(level)
        return None if page is None else self._checked(level, hull(regions), page.gather(regions))

    def _checked(self, level: int, region: Region, items: Iterator[Item]) -> Iterator[Item]:
        """Yield `items`, which are read from `region`; raise errors that name the chunk."""
        check_identity(self.metadata, self.identity)
        while True:
            try:
                item = next(items, None)
            except Exception as error:
                failure = self._failure(level, region, error)
                break
            if item is None:
                return
            yield item
        raise failure

    def _failure(self, level: int, region: Region, error: Exception) -> Exception:
        """Return the error to raise for an `error` of reading `region`; it names the chunk."""
        page = self._page(level)
        if page is not None:
            for tile, _ in _tile_status(self, level).tiles(region):
                try:
                    page.read(tile)
                except Exception as own:
                    return decode_error(self.path, level, tile, own)
        return decode_error(self.path, level, region, error)

    def encoding(self, level: int) -> TileEncoding | None:
        """Return how the chunks of `level` are encoded."""
        page = self._page(level)
        return None if page is None else page.encoding

    def streams(self, level: int, numbers: list[int]) -> Iterator[tuple[int, bytes | None]]:
        """Yield the streams of encoded chunks."""
        page = self._page(level)
        assert page is not None
        return self._checked(level, page.region_of(numbers), page.streams(numbers))

    def known_holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the missing regions that are known without decoding a chunk."""
        factor = round(max(self.levels[level].downsample))
        found = missing_within(self.recorded_holes, region, factor)
        return found + _tile_status(self, level).holes(region)


def pixels_yxc(
    array: Any, plane: Plane, region: Region, channels: slice, dtype: np.dtype[Any]
) -> Array:
    """Return `region` of a `plane` of an array as (y, x, c) in native byte order."""
    rows, columns = region.slices()
    index = {"Y": rows, "X": columns, "C": channels}
    where = tuple(index.get(axis, plane.index(axis)) for axis in plane.axes)
    axes = [axis for axis in plane.axes if axis in index]
    pixels = np.asarray(array[where], dtype)
    if "C" not in axes:
        axes.append("C")
        pixels = pixels[..., None]
    return pixels.transpose([axes.index(axis) for axis in "YXC"])


@lru_cache(maxsize=64)
def _tile_status(source: OmeZarrSource, level: int) -> TileStatus:
    return TileStatus(level, source.levels[level].shape, source.levels[level].tile)


@cleared_after_fork
@lru_cache(maxsize=16)
def _pages(source: OmeZarrSource) -> list[TiledPage | None]:
    """Return the levels whose chunks are encoded images as pages of tiles."""
    masks = source.on_bad_tile != "raise"
    return [
        None
        if array is None
        else encoded_page(
            array, source.fill, number > 0, _tile_status(source, number) if masks else None
        )
        for number, array in enumerate(source.encoded)
    ]


@lru_cache(maxsize=16)
def _arrays(source: OmeZarrSource) -> list[Any]:
    if source.arrays == ("",):
        return [open_array(source.path)]
    group = open_group(source.path)
    return [group[name] for name in source.arrays]


def marker_of(path: str) -> str | None:
    """Return the metadata file at the root of the store at `path`; None if there is none."""
    is_file = exists if is_remote(path) else os.path.exists
    names = (f"{path}/{name}" for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"))
    return next((name for name in names if is_file(name)), None)


def open_ome_zarr(
    path: str, fill: float | None, limits: Limits, choice: ImageSelection = ImageSelection()
) -> Opened:
    """Read the metadata of the store at `path`."""
    path, group, attributes, scales, images, number = _image_group(path, choice)
    try:
        _check_is_image(path, group, attributes)
        opened = _open(path, group, attributes, scales, limits, choice)
        source = opened.source
        assert isinstance(source, OmeZarrSource)
        declared = _declared_fill(source, group, attributes)
    except SlideError:
        raise
    except Exception as error:  # metadata can be anything, and Zarr has many errors
        raise SlideFormatError(
            f"{path}: the multiscales metadata cannot be read ({error!r}); "
            "give an OME-Zarr 0.4, 0.5 or 0.6 image"
        ) from None
    channels = opened.channels or plain_channels(source.channels)
    colour = source.dtype == np.uint8 and is_rgb(channels)
    fill = fill_for(path, fill, source.dtype, colour=colour, nodata=declared)
    properties = opened.properties
    if source.nodata is not None:
        properties["nodata"] = text_of(source.nodata)
    if images:
        properties["image"] = images[number]
    return replace(opened, source=replace(source, background=fill), images=images)


def _declared_fill(source: OmeZarrSource, group: Any, attributes: Mapping[str, Any]) -> Any:
    """Return the nodata value of a store, or the fill of a copy of a slide; None without one.

    Other stores declare 0 as the value of chunks without tissue too, so theirs says nothing.
    """
    own = attributes.get(MARK)
    if source.nodata is None and isinstance(own, Mapping) and "copied" in own:
        return group[source.arrays[0]].metadata.fill_value.item()
    return source.nodata


def _check_is_image(path: str, group: Any, attributes: Mapping[str, Any]) -> None:
    """Refuse a group that is no image; the message says what to open instead."""
    if attributes.get("ome", attributes).get("multiscales"):
        return
    own = attributes.get(MARK)
    if isinstance(own, Mapping) and own.get("kind") == "pack":
        raise SlideFormatError(
            f"{path}: is a tile pack; give its slide, or use open_pack in Python"
        )
    try:
        names = [f"{path}/{name}" for name in sorted(group.array_keys())[:_MOST_ARRAYS]]
    except Exception:  # a web server does not list what it holds
        names = []
    advice = f"open an array in it: {', '.join(names)}" if names else "give an OME-Zarr image"
    raise SlideFormatError(f"{path}: has no multiscales metadata of OME-Zarr; {advice}")


def _open(
    path: str,
    group: Any,
    attributes: Mapping[str, Any],
    scales: int,
    limits: Limits,
    choice: ImageSelection,
) -> Opened:
    """Return the image of one multiscale. Invalid metadata may raise any error."""
    ome = attributes.get("ome", attributes)
    multiscale = _with_axes(ome["multiscales"][scales])
    names = [str(dataset["path"]) for dataset in multiscale["datasets"]]
    arrays = [group[name] for name in names]
    for array in arrays:
        check_chunks(path, array, limits)
    first = arrays[0]
    plane = _plane(path, multiscale["axes"], first.shape, choice)
    other_planes = plane.check(path, first.shape)
    axes = tuple(plane.axes.lower())
    # if z is downsampled too, the smaller levels do not hold the planes of level 0
    same = [n for n, array in enumerate(arrays) if _planes(axes, array) == _planes(axes, first)]
    levels, channels = _levels(
        axes, [arrays[n].shape for n in same], [arrays[n].chunks for n in same]
    )
    mpp, placement = _coordinates(multiscale, axes)
    version = attributes.get("ome", {}).get("version") or multiscale.get("version", "0.4")
    dtype = np.dtype(first.dtype)
    check_levels(path, levels, channels * dtype.itemsize, limits)
    if dtype.kind not in "uif":
        raise SlideUnsupportedError(f"{path}: dtype {dtype}; integer and float images are read")
    own = attributes.get(MARK)
    own = own if isinstance(own, Mapping) else {}
    metadata = marker_of(path)
    assert metadata is not None  # Zarr has just read it
    source = OmeZarrSource(
        path,
        metadata,
        identify(metadata),
        tuple(names[n] for n in same),
        levels,
        channels,
        dtype.newbyteorder("="),
        recorded_holes=missing_from_json(own.get("holes", ())),
        plane=plane,
        nodata=parse_nodata(str(own.get("nodata", "")), dtype),
        placement=placement,
        encoded=tuple(
            encoded_array(f"{path}/{names[n]}", arrays[n]) if axes == ("c", "y", "x") else None
            for n in same
        ),
    )
    properties = {"format": f"OME-Zarr {version}", "reader": "Zarr"} | other_planes
    reference = reference_from_json(own.get("geotiff"))
    if reference is not None:
        properties |= reference.to_properties()
    return Opened(source, mpp, properties, channels=_channels(ome, channels))


def check_chunks(path: str, array: Any, limits: Limits) -> None:
    """Raise SlideLimitError if the metadata of `array` declare chunks beyond `limits`."""
    chunk = math.prod(array.chunks) * array.dtype.itemsize
    shard = math.prod(array.shards or array.chunks) // max(1, math.prod(array.chunks))
    if chunk > limits.tile_bytes or shard * SHARD_ENTRY > limits.tile_bytes:
        raise SlideLimitError(
            f"{path}: array {array.path or '/'!r} declares chunks of {chunk:,} bytes, "
            f"{shard:,} per shard; if that is right, open it with limits=Limits(...)"
        )


def check_levels(path: str, levels: tuple[Level, ...], pixel_bytes: int, limits: Limits) -> None:
    """Refuse levels beyond `limits`."""
    for number, level in enumerate(levels):
        (height, width), (rows, columns) = level.shape, level.tile
        if min(height, width, rows, columns) < 1:
            raise SlideFormatError(
                f"{path}: level {number} has {height} x {width} px in chunks of {rows} x "
                f"{columns}; the store is damaged, fetch it again"
            )
        if height * width > limits.pixels or rows * columns * pixel_bytes > limits.tile_bytes:
            raise SlideLimitError(
                f"{path}: level {number} declares {height:,} x {width:,} px in chunks of {rows:,} "
                f"x {columns:,}; if that is right, open it with limits=Limits(...)"
            )


def _image_group(
    path: str, choice: ImageSelection
) -> tuple[str, Any, Mapping[str, Any], int, tuple[str, ...], int]:
    """Return the group of the chosen image, by default the first.

    The result is the path of the group, the group, its attributes and the number of the
    multiscale; then the names of all images if there are several, and the number of the image.
    """
    try:
        group = open_group(path)
        attributes = group.attrs.asdict()
        scales = len(attributes.get("ome", attributes).get("multiscales", ()))
        if "bioformats2raw.layout" in attributes.get("ome", attributes):
            paths = _image_paths(path, group)
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
    except Exception as error:  # Zarr raises errors of several classes if this is not a group
        reason = known_reason(error)
    # outside of the `except` block: Zarr's error would be the context, and cannot be unpickled
    raise NotAGroupError(
        f"{path}: is a folder that is not an OME-Zarr image{reason}; give "
        "the folder that holds zarr.json or .zattrs"
    )


def _image_paths(path: str, group: Any) -> list[str]:
    """Return the paths of the images in the layout of bioformats2raw."""
    try:
        attributes = group["OME"].attrs.asdict()
        names = [str(name) for name in attributes.get("ome", attributes)["series"]]
    except (KeyError, TypeError):  # without a list the images are numbered
        names = []
    # other names could be paths outside of the store
    names = [name for name in names if re.fullmatch(r"\w[\w.-]*", name)]
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
    except Exception:  # reading that image raises the error
        return None


def _name(attributes: Mapping[str, Any], number: int) -> str | None:
    try:
        name = attributes.get("ome", attributes)["multiscales"][number].get("name")
    except (KeyError, IndexError, AttributeError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _axis_name(axis: Any) -> str:
    return str(axis["name"] if isinstance(axis, Mapping) else axis)


def _with_axes(multiscale: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a multiscale of version 0.6 in the form of earlier versions, and others unchanged.

    Since 0.6 there are several systems of coordinates. The transformations of the datasets lead to
    one of them, the intrinsic one, which the specification recommends for viewing and processing.
    Those of the whole image lead from there to other systems, and are left out.
    """
    if "axes" in multiscale or "coordinateSystems" not in multiscale:
        return multiscale
    output = multiscale["datasets"][0]["coordinateTransformations"][0]["output"]
    intrinsic = output["name"] if isinstance(output, Mapping) else output
    system = next(one for one in multiscale["coordinateSystems"] if one["name"] == intrinsic)
    datasets = [
        one | {"coordinateTransformations": [*_single_steps(one["coordinateTransformations"])]}
        for one in multiscale["datasets"]
    ]
    rest = {key: value for key, value in multiscale.items() if key != "coordinateTransformations"}
    return rest | {"axes": _usual_names(system["axes"]), "datasets": datasets}


def _single_steps(steps: list[Any]) -> Iterator[Any]:
    """Yield the transformations, with those of a sequence one by one."""
    for step in steps:
        if step["type"] == "sequence":
            yield from _single_steps(step["transformations"])
        else:
            yield step


def _usual_names(axes: list[Any]) -> list[Any]:
    """Return axes whose names say what they are; in version 0.6 only their types have to."""
    if {"y", "x"} <= {_axis_name(axis) for axis in axes}:
        return axes
    space = [n for n, axis in enumerate(axes) if axis.get("type") == "space"]
    names = dict(zip(reversed(space), "xyz", strict=False))
    letters = {"time": "t", "channel": "c"}
    return [
        axis | {"name": names.get(n) or letters.get(axis.get("type"), axis["name"])}
        for n, axis in enumerate(axes)
    ]


def _plane(path: str, axes: list[Any], shape: tuple[int, ...], choice: ImageSelection) -> Plane:
    """Return the chosen plane; axes with other names than x, y, z, c, t are Q."""
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


def _coordinates(
    multiscale: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[tuple[float, float] | None, Placement]:
    """Return micrometres per pixel, and where level 0 lies on the slide of its coordinates.

    The centre of pixel i is at ``translation + scale * i``. Without a unit these are pixels of the
    slide from which the image was made. With one, only the translation says where it lies.
    """
    axes = multiscale["axes"]
    scale, shift = [1.0] * len(axes), [0.0] * len(axes)
    steps = list(multiscale["datasets"][0].get("coordinateTransformations", ()))
    for step in steps + list(multiscale.get("coordinateTransformations", ())):
        if step.get("type") == "scale":
            sizes = [number_above_zero(size) or math.nan for size in step["scale"]]
            scale = [a * b for a, b in zip(scale, sizes, strict=True)]
            shift = [a * b for a, b in zip(shift, sizes, strict=True)]
        elif step.get("type") == "translation":
            shift = [a + _number(b) for a, b in zip(shift, step["translation"], strict=True)]
    units = [micrometres(axis.get("unit")) if isinstance(axis, Mapping) else None for axis in axes]
    y, x = names.index("y"), names.index("x")
    if not math.isfinite(scale[y] * scale[x]):
        return None, WHOLE
    if (unit_y := units[y]) is not None and (unit_x := units[x]) is not None:
        mpp = (scale[y] * unit_y, scale[x] * unit_x)
        size, at = (1.0, 1.0), (shift[y] / scale[y], shift[x] / scale[x])
    else:
        mpp, size = None, (scale[y], scale[x])
        at = (shift[y] - (scale[y] - 1) / 2, shift[x] - (scale[x] - 1) / 2)
    return mpp, Placement(size, at) if math.isfinite(at[0] + at[1]) else WHOLE


def _number(value: Any) -> float:
    """Return a number of the metadata as a float; nan if it is none."""
    return float(value) if isinstance(value, int | float) else math.nan


def _channels(attributes: Mapping[str, Any], count: int) -> tuple[Channel, ...]:
    """Return the channels in `omero`; () unless it describes `count` channels."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, list) or len(channels) != count:
        return ()
    entries = [one if isinstance(one, Mapping) else {} for one in channels]
    colors = [str(one.get("color", "")).lstrip("#").upper() for one in entries]
    windows = [one.get("window") for one in entries]
    return described(
        count,
        [one.get("label") for one in entries],
        [color if re.fullmatch("[0-9A-F]{6}", color) else None for color in colors],
        [
            (window.get("start"), window.get("end")) if isinstance(window, Mapping) else None
            for window in windows
        ],
    )
