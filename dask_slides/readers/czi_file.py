"""Read Zeiss CZI with pylibCZIrw: one scene, and the levels of its stored pyramid."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

import numpy as np

from dask_slides.core.channels import Channel, described
from dask_slides.core.geometry import Region, strips
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Opened
from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideArgumentError,
    SlideError,
    SlideFormatError,
    SlideLimitError,
    SlideUnsupportedError,
    reason_of,
)
from dask_slides.readers.library_source import Files, LibrarySource, OpenHandles, check_levels
from dask_slides.readers.physical_units import number_above_zero
from dask_slides.readers.selection import ImageSelection, Plane, image_index, unique_names
from dask_slides.readers.tile_status import fill_for

CACHE_BYTES = 2**25
"""Decoded tiles that libCZI keeps for each open file: those that the next region touches too."""
_GRID = 512
"""Side of the parts in which levels of the pyramid are read, where libCZI rounds positions."""
_PIXELS_AT_ONCE = 2**20
"""Pixels of level 0 that are read at once, unless a row of tiles has more; they are copied."""
_LARGEST_PIXEL = 1e-3
"""Metres per pixel from which a pixel size is ignored: some programs write micrometres."""
_SAMPLES_TO_TRY = 64
"""Points along each axis at which a level must have a tile where level 0 has one."""
_PIXEL_TYPES = {
    "Gray8": (1, "u1"), "Gray16": (1, "u2"), "Gray32Float": (1, "f4"),
    "Bgr24": (3, "u1"), "Bgr48": (3, "u2"), "Bgr96Float": (3, "f4"),
}  # fmt: skip
"""Samples per pixel and channel, and the dtype, by the name of the type in CZI."""
_TILE_HEADER = 80
"""Bytes of a segment up to the number of dimensions of a tile."""
_DIMENSIONS = 40
"""Most dimensions of a tile that libCZI knows."""
_COLUMNS = ("y", "x", "height", "width", "stored_height", "stored_width", "C", "Z", "T", "S")


@dataclass(frozen=True)
class CziSource(LibrarySource):
    """One scene of a CZI. Places of a mosaic without a tile have no value."""

    path: str
    files: Files
    levels: tuple[Level, ...]
    factors: tuple[int, ...]
    """Pixels of level 0 per pixel of each level."""
    origin: tuple[int, int]
    """Row and column of the scene in the coordinates of the file."""
    scene: int | None
    """Number of the scene; None if the file has no scenes."""
    z: int
    t: int
    samples: int
    """Samples of a channel: 3 for colour."""
    numbers: tuple[int, ...]
    """The channels of the file that are read."""
    dtype: np.dtype[Any]
    background: float
    on_bad_tile: str = "raise"

    @property
    def channels(self) -> int:
        """Samples per pixel."""
        return self.samples * len(self.numbers)

    def with_channels(self, numbers: tuple[int, ...]) -> CziSource | None:
        """Return the source of the channels `numbers`; None for a colour image."""
        if self.samples > 1:
            return None
        return replace(self, numbers=tuple(self.numbers[number] for number in numbers))

    @property
    def masked(self) -> bool:
        """True: a mosaic may have empty places."""
        return True

    def part(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`; the mask is False where a channel has no tile.

        libCZI takes the nearest pixel of a level of the pyramid, so such levels are read in parts
        whose corners do not depend on the region.
        """
        pixels = np.empty((region.height, region.width, self.channels), self.dtype)
        for whole in self._pieces(level, region):
            part = whole.intersect(region)
            found = self._pixels(level, whole)[part.slices(whole.y, whole.x)]
            pixels[part.slices(region.y, region.x)] = found
        valid = self._valid(level, region)
        if valid is not None:
            pixels[~valid] = self.fill
        return pixels, valid

    def _pieces(self, level: int, region: Region) -> Iterator[Region]:
        """Yield what is read at once: strips of level 0, or squares of a fixed grid."""
        if level == 0:
            yield from strips(region, self.levels[0].tile[0], _PIXELS_AT_ONCE)
            return
        whole = Region(0, 0, *self.levels[level].shape)
        for y in range(region.y // _GRID * _GRID, region.stop_y, _GRID):
            for x in range(region.x // _GRID * _GRID, region.stop_x, _GRID):
                yield Region(y, x, _GRID, _GRID).intersect(whole)

    def _pixels(self, level: int, region: Region) -> Array:
        """Return the pixels of all channels, with zeros where there is no tile."""
        factor = self.factors[level]
        sides = region.width * factor, region.height * factor
        corner = self.origin[1] + region.x * factor, self.origin[0] + region.y * factor
        # libCZI cuts the size of the result to an integer, in single precision
        zoom = None if factor == 1 else float(np.nextafter(np.float32(1 / factor), np.float32(1)))
        reader = _HANDLES.get(self.files).reader
        pixels = np.empty((region.height, region.width, self.channels), self.dtype)
        for place, number in enumerate(self.numbers):
            channel = place * self.samples
            found = reader.read(
                roi=(*corner, *sides),
                plane={"C": number, "Z": self.z, "T": self.t},
                scene=self.scene,
                zoom=zoom,
            )
            # colours are stored as blue, green, red
            pixels[..., channel : channel + self.samples] = found[..., ::-1]
        return pixels

    def _valid(self, level: int, region: Region) -> Array | None:
        """Return which pixels of `region` have a tile in every channel; None for all."""
        valid = None
        for rectangles in _rectangles_of_channels(self, self.factors[level]):
            mask = _covered(rectangles, self.origin, self.factors[level], region)
            if mask is not None:
                valid = mask if valid is None else valid & mask
        return valid


@lru_cache(maxsize=64)
def _rectangles_of_channels(source: CziSource, factor: int) -> list[Array]:
    """Return the rectangles (n, 4) of each channel; channels of equal ones once."""
    table = _HANDLES.get(source.files).tiles
    chosen = table[
        (_factors(table) == factor)
        & (table["S"] == (-1 if source.scene is None else source.scene))
        & (table["Z"] == source.z)
        & (table["T"] == source.t)
    ]
    found: dict[bytes, Array] = {}
    for channel in source.numbers:
        rows = chosen[chosen["C"] == channel]
        edges = np.stack([rows[name] for name in _COLUMNS[:4]], axis=-1)
        found[np.sort(edges, axis=0).tobytes()] = edges
    return list(found.values())


def _covered(
    rectangles: Array, origin: tuple[int, int], factor: int, region: Region
) -> Array | None:
    """Return which pixels of `region` have their centre in a rectangle; None for all."""
    near = np.asarray(origin * 2)
    starts = rectangles[:, :2] - near[:2]
    # pixel i is covered if start <= (i + 1/2) * factor < stop
    first, stop = (
        np.ceil(edges / factor - 0.5).astype(np.int64)
        for edges in (starts, starts + rectangles[:, 2:])
    )
    touched = (
        (first[:, 0] < region.stop_y) & (stop[:, 0] > region.y)
        & (first[:, 1] < region.stop_x) & (stop[:, 1] > region.x)
    )  # fmt: skip
    mask = np.zeros((region.height, region.width), bool)
    for (top, left), (bottom, right) in zip(first[touched], stop[touched], strict=True):
        rows = slice(max(0, top - region.y), bottom - region.y)
        mask[rows, max(0, left - region.x) : right - region.x] = True
    return None if mask.all() else mask


def _factors(table: Array) -> Array:
    """Return how many pixels of level 0 a stored pixel of each tile stands for."""
    wide = table["width"] >= table["height"]
    shown = np.where(wide, table["width"], table["height"])
    stored = np.where(wide, table["stored_width"], table["stored_height"])
    return np.rint(shown / np.maximum(stored, 1)).astype(np.int64)


class _OpenCzi:
    """An open file and the table of its tiles."""

    def __init__(self, files: Files) -> None:
        from pylibCZIrw.czi import CacheOptions, CziReader

        cache = CacheOptions(max_memory_usage=CACHE_BYTES)
        self.reader = CziReader(files.paths[0], cache_options=cache)
        rows: list[tuple[int, ...]] = []

        def add(index: int, tile: Any) -> bool:
            place, size, at = tile.logicalRect, tile.physicalSize, tile.coordinate.to_dict()
            rows.append((place.y, place.x, place.h, place.w, size.h, size.w, at.get("C", 0),
                         at.get("Z", 0), at.get("T", 0), at.get("S", -1)))  # fmt: skip
            return True

        self.reader.enumerate_subblocks(add)
        self.tiles = np.array(rows, [(name, np.int64) for name in _COLUMNS])


_HANDLES = OpenHandles(_OpenCzi, limit=4)  # each has a cache of its own


def open_czi(
    path: str, fill: float | None, limits: Limits, choice: ImageSelection = ImageSelection()
) -> Opened:
    """Read the metadata of the file at `path`."""
    files = Files.of([path])
    _check_tile_headers(path)
    try:
        return _open(path, files, fill, limits, choice)
    except (SlideError, OSError, ImportError):
        raise
    except Exception as error:  # libCZI raises errors of several classes
        reason = reason_of(error)
    raise SlideFormatError(f"{path}: libCZI cannot open it ({reason}); check the file")


def _check_tile_headers(path: str) -> None:
    """Raise SlideFormatError if the header of a tile is impossible: libCZI would end the process.

    A file is a chain of segments: a name, the bytes that follow, and the bytes in use. Valid files
    may have other bytes between them, at which the check ends.
    """
    with open(path, "rb", buffering=0) as file:
        at = 0
        while True:
            file.seek(at)
            head = file.read(_TILE_HEADER)
            if len(head) < _TILE_HEADER:
                return
            name, length, _ = struct.unpack_from("<16sqq", head)
            if not name.startswith((b"ZISRAW", b"DELETED")) or length < 0:
                return
            if name.startswith(b"ZISRAWSUBBLOCK"):
                sizes = struct.unpack_from("<iiq", head, 32)
                (dimensions,) = struct.unpack_from("<i", head, 76)
                if min(sizes) < 0 or sum(sizes) > length or not 0 <= dimensions <= _DIMENSIONS:
                    raise SlideFormatError(
                        f"{path}: the header of the tile at byte {at} is damaged; fetch the file "
                        "again"
                    )
            at += 32 + length


def _open(
    path: str, files: Files, fill: float | None, limits: Limits, choice: ImageSelection
) -> Opened:
    handle = _HANDLES.get(files)
    sizes = {axis: stop for axis, (_, stop) in handle.reader.total_bounding_box.items()}
    samples, dtype = _pixel_type(path, handle.reader.pixel_types)
    channels = samples * sizes["C"]
    if channels > limits.channels:
        raise SlideLimitError(f"{path}: declares {channels} channels; change limits=Limits(...)")
    properties = {"format": "CZI", "reader": "libCZI"} | _planes(path, sizes, choice)
    metadata = _metadata(path, handle.reader.raw_metadata, limits)
    tiles = handle.tiles[handle.tiles["S"] >= 0] if (handle.tiles["S"] >= 0).any() else handle.tiles
    scenes = sorted({int(scene) for scene in tiles["S"]})
    images = unique_names([_scene_name(metadata, scene) for scene in scenes])
    places = [_bounds(tiles[(tiles["S"] == scene) & (_factors(tiles) == 1)]) for scene in scenes]
    number = image_index(path, images, choice.image)
    if number is None:
        areas = [height * width for _, _, height, width in places]
        number = areas.index(max(areas))
    y, x, height, width = places[number]
    of_scene = tiles[tiles["S"] == scenes[number]]
    factors, levels = _levels(of_scene, (y, x), (height, width))
    levels = list(check_levels(path, levels, channels * dtype.itemsize, limits))
    source = CziSource(
        path, files, tuple(levels), tuple(factors), (y, x),
        None if scenes[number] < 0 else scenes[number], choice.z, choice.t, samples,
        tuple(range(sizes["C"])), dtype,
        fill_for(path, fill, dtype, colour=channels == 3 == samples),
    )  # fmt: skip
    if len(images) > 1:
        properties["image"] = images[number]
    described_as = () if samples == 3 else _channels(metadata, channels, dtype)
    names = images if len(images) > 1 else ()
    return Opened(source, _mpp(metadata), properties, names, described_as)


def _pixel_type(path: str, types: dict[int, str]) -> tuple[int, np.dtype[Any]]:
    """Return the samples and the dtype of every channel; refuse mixed and unknown ones."""
    names = set(types.values())
    if len(names) != 1 or not names <= set(_PIXEL_TYPES):
        raise SlideUnsupportedError(
            f"{path}: its channels are of {', '.join(sorted(names)) or 'no type'}; save those of "
            "one type as a file of their own"
        )
    samples, code = _PIXEL_TYPES[names.pop()]
    return samples, np.dtype(code)


def _planes(path: str, sizes: dict[str, int], choice: ImageSelection) -> dict[str, str]:
    """Check the chosen plane; return the properties that count all planes."""
    if choice.axes is not None:
        raise SlideArgumentError(f"{path}: axes={choice.axes!r}: CZI names its axes")
    others = [axis for axis, size in sizes.items() if axis not in "YXCZT" and size > 1]
    if others:
        raise SlideUnsupportedError(
            f"{path}: has several images along {', '.join(others)} (rotation, illumination, phase "
            "or view); process it to one image and save that"
        )
    stacked = "".join(axis for axis in "TZ" if sizes[axis] > 1)
    plane = Plane(f"{stacked}YX", choice.z, choice.t)
    return plane.check(path, [sizes[axis] for axis in stacked] + [1, 1])


def _bounds(tiles: Array) -> tuple[int, int, int, int]:
    """Return y, x, height and width of the rectangle around `tiles`."""
    if not len(tiles):
        return 0, 0, 0, 0
    y, x = int(tiles["y"].min()), int(tiles["x"].min())
    bottom, right = (tiles["y"] + tiles["height"]).max(), (tiles["x"] + tiles["width"]).max()
    return y, x, int(bottom) - y, int(right) - x


def _levels(
    tiles: Array, origin: tuple[int, int], shape: tuple[int, int]
) -> tuple[list[int], list[Level]]:
    """Return the factor and the size of level 0 and of each level that covers the scene."""
    factors, levels = [], []
    of_tiles = _factors(tiles)
    for factor in sorted({int(one) for one in of_tiles}):
        own = tiles[of_tiles == factor]
        if factor > 1 and not _covers(own, tiles[of_tiles == 1], origin, shape, factor):
            continue
        sides = []
        for start, stop, full in zip(
            origin, _stops(own), shape, strict=True
        ):  # a pyramid may end one pixel before or behind level 0
            found = -int(-((stop - start) / factor - 0.5) // 1)
            sides.append(min(max(found, full // factor), -(-full // factor)))
        stored = (int(own["stored_height"].max()), int(own["stored_width"].max()))
        tile = (min(stored[0], sides[0]), min(stored[1], sides[1]))
        factors.append(factor)
        levels.append(Level((sides[0], sides[1]), (float(factor), float(factor)), tile))
    return factors, levels


def _stops(tiles: Array) -> tuple[int, int]:
    y, x, height, width = _bounds(tiles)
    return y + height, x + width


def _covers(
    tiles: Array, full: Array, origin: tuple[int, int], shape: tuple[int, int], factor: int
) -> bool:
    """Return whether `tiles` cover the scene where the tiles of level 0 do, but for its edges."""
    step = [max(2 * factor, n // _SAMPLES_TO_TRY) for n in shape]
    points = [np.arange(start + factor, start + n - factor, pace)
              for start, n, pace in zip(origin, shape, step, strict=True)]  # fmt: skip
    needed, found = (_hit(one, *points) for one in (full, tiles))
    missing = int((needed & ~found).sum())
    return missing <= 0.01 * int(needed.sum())


def _hit(tiles: Array, rows: Array, columns: Array) -> Array:
    """Return which of the points at `rows` x `columns` lie in a tile."""
    hit = np.zeros((len(rows), len(columns)), bool)
    for tile in tiles:
        down = slice(*np.searchsorted(rows, (tile["y"], tile["y"] + tile["height"])))
        across = slice(*np.searchsorted(columns, (tile["x"], tile["x"] + tile["width"])))
        hit[down, across] = True
    return hit


def _metadata(path: str, text: str, limits: Limits) -> ElementTree.Element:
    if len(text) > limits.description_bytes:
        raise SlideLimitError(
            f"{path}: declares {len(text):,} bytes of XML; change limits=Limits(description_bytes=)"
        )
    return ElementTree.fromstring(text)


def _scene_name(metadata: ElementTree.Element, scene: int) -> str | None:
    found = metadata.find(
        f"./Metadata/Information/Image/Dimensions/S/Scenes/Scene[@Index='{scene}']"
    )
    return None if found is None else found.get("Name")


def _mpp(metadata: ElementTree.Element) -> tuple[float, float] | None:
    sizes = [
        number_above_zero(
            metadata.findtext(f"./Metadata/Scaling/Items/Distance[@Id='{axis}']/Value")
        )
        for axis in "YX"
    ]
    y, x = (None if size is None or size >= _LARGEST_PIXEL else size * 1e6 for size in sizes)
    return None if y is None or x is None else (round(y, 9), round(x, 9))


def _channels(
    metadata: ElementTree.Element, count: int, dtype: np.dtype[Any]
) -> tuple[Channel, ...]:
    """Return names, colours and windows, which the display settings give as shares."""
    information = metadata.findall("./Metadata/Information/Image/Dimensions/Channels/Channel")
    settings = metadata.findall("./Metadata/DisplaySetting/Channels/Channel")
    by_id = {one.get("Id"): one for one in settings if one.get("Id")}
    names, colors, windows = [], [], []
    for number, channel in enumerate(information):
        shown = by_id.get(channel.get("Id"), settings[number] if number < len(settings) else None)
        shown = channel if shown is None else shown
        names.append(channel.get("Name"))
        color = (shown.findtext("Color") or "").lstrip("#").upper()[-6:]
        colors.append(color if len(color) == 6 and not set(color) - set("0123456789ABCDEF")
                      else None)  # fmt: skip
        windows.append(_window(shown.findtext("Low"), shown.findtext("High"), dtype))
    return described(count, names, colors, windows)


def _window(low: str | None, high: str | None, dtype: np.dtype[Any]) -> Any:
    if dtype.kind != "u" or high is None:
        return None
    top = np.iinfo(dtype).max
    try:
        return float(low or 0) * top, float(high) * top
    except ValueError:
        return None
