"""Read whole-slide DICOM with wsidicom: one series, in one file for each level."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dask_slides.core.channels import Channel, described
from dask_slides.core.geometry import Region, snapped_factor
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
from dask_slides.readers.codecs.headers import has_end, jpeg2000_frame, jpeg_frame
from dask_slides.readers.library_source import Files, LibrarySource, OpenHandles, check_levels
from dask_slides.readers.physical_units import number_above_zero
from dask_slides.readers.selection import ImageSelection, Plane, image_index, unique_names
from dask_slides.readers.tile_status import fill_for
from dask_slides.runtime.fork_safety import fork_safe_lock

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""The storage class of whole-slide images."""
_JPEG = "1.2.840.10008.1.2.4.5"
_JPEG_2000 = "1.2.840.10008.1.2.4.9"
_LAST_TAG = 0x00480105
"""The last attribute that the choice of a series needs; thousands of tiles follow."""
_PYDICOM_LOCK = fork_safe_lock()


@dataclass(frozen=True)
class DicomSource(LibrarySource):
    """One series of whole-slide images. Tiles that are not stored are absent."""

    path: str
    files: Files
    levels: tuple[Level, ...]
    numbers: tuple[int, ...]
    """Number of each level in the pyramid of wsidicom."""
    paths: tuple[str, ...]
    """Identifiers of the optical paths, whose samples are the channels."""
    z: float
    """The focal plane in micrometres."""
    channels: int
    dtype: np.dtype[Any]
    background: float
    on_bad_tile: str = "raise"

    @property
    def masked(self) -> bool:
        """False: no single pixel is without a value."""
        return False

    def with_channels(self, numbers: tuple[int, ...]) -> DicomSource | None:
        """Return the source of the optical paths `numbers`; None for a colour image."""
        if self.channels != len(self.paths):
            return None
        paths = tuple(self.paths[number] for number in numbers)
        return replace(self, paths=paths, channels=len(paths))

    def part(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`, tile by tile."""
        shape = (region.height, region.width, len(self.paths), self.channels // len(self.paths))
        pixels = np.empty(shape, self.dtype)
        for number, image in enumerate(self._images(level)):
            for tile, row, column in self._tiles(level, region):
                part = tile.intersect(region)
                pixels[part.slices(region.y, region.x)][:, :, number] = self._samples(
                    image, number, row, column
                )[part.slices(tile.y, tile.x)]
        return pixels.reshape(region.height, region.width, self.channels), None

    def _tiles(self, level: int, region: Region) -> Iterator[tuple[Region, int, int]]:
        """Yield each tile that `region` touches, and its row and column."""
        height, width = self.levels[level].tile
        for row in range(region.y // height, -(-region.stop_y // height)):
            for column in range(region.x // width, -(-region.stop_x // width)):
                yield Region(row * height, column * width, height, width), row, column

    def _images(self, level: int) -> list[Any]:
        """Return the images of wsidicom with the optical paths of `level`."""
        images = _HANDLES.get(self.files).levels[self.numbers[level]].image_data_map
        return [images[path, self.z] for path in self.paths]

    def _samples(self, image: Any, path: int, row: int, column: int) -> Array:
        """Return the samples (h, w, samples) of a tile; absent tiles show the fill."""
        from wsidicom.geometry import Point

        where = Point(column, row), self.z, self.paths[path]
        size = image.tile_size
        shape = (size.height, size.width, int(image.samples_per_pixel))
        if image.tiles.get_frame_index(*where) == -1:
            return np.full(shape, self.fill)
        frame = image.get_encoded_tile(*where)
        _check_frame(frame, str(image.transfer_syntax), shape)
        samples = _decode(image.decoder, frame)
        if samples.size != shape[0] * shape[1] * shape[2] or samples.shape[:2] != shape[:2]:
            raise ValueError(f"the tile is of shape {samples.shape}")
        return samples.reshape(shape)

    def absent(self, level: int) -> Array | None:
        """Return which tiles (rows, columns) of `level` the file does not hold in some channel."""
        from wsidicom.geometry import Point
        from wsidicom.instance import TileType

        images = self._images(level)
        if all(self._tile_type(level, path) == TileType.FULL for path in self.paths):
            return None
        info = self.levels[level]
        rows, columns = (-(-n // side) for n, side in zip(info.shape, info.tile, strict=True))
        return np.array([
            [
                any(image.tiles.get_frame_index(Point(column, row), self.z, path) == -1
                    for image, path in zip(images, self.paths, strict=True))
                for column in range(columns)
            ]
            for row in range(rows)
        ])  # fmt: skip

    def _tile_type(self, level: int, path: str) -> Any:
        found = _HANDLES.get(self.files).levels[self.numbers[level]]
        return found.instance_at(path, self.z).datasets[0].tile_type


def _decode(decoder: Any, frame: bytes) -> Array:
    """Decode a tile; any thread may do it."""
    from wsidicom.codec.decoder import PydicomDecoder

    if not isinstance(decoder, PydicomDecoder):
        return np.asarray(decoder.decode(frame))
    # it decodes all tiles through one dataset, so that a thread would get the tile of another
    with _PYDICOM_LOCK:
        return np.asarray(decoder.decode(frame))


def _check_frame(frame: bytes, syntax: str, shape: tuple[int, int, int]) -> None:
    """Raise ValueError if a compressed tile is cut off or of another size; decoders guess."""
    if syntax.startswith(_JPEG):
        found = jpeg_frame(frame)
        if not has_end(frame):
            raise ValueError("the JPEG stream has no end")
    elif syntax.startswith(_JPEG_2000):
        found = jpeg2000_frame(frame)
    else:
        return
    if (found.height, found.width) != shape[:2]:
        raise ValueError(f"the tile is of {found.height} x {found.width} px")


class _OpenSeries:
    """The levels of the files of a series, open; closed when nothing refers to it."""

    def __init__(self, files: Files) -> None:
        from wsidicom import WsiDicom
        from wsidicom.config import Settings
        from wsidicom.errors import WsiDicomNotFoundError

        # tiles are read once for each block: caches of wsidicom would only hold memory
        settings = Settings(
            decoded_frame_cache_size=0, encoded_frame_cache_size=0, strict_tile_size_check=False
        )
        left_out = set(files.paths)
        with suppress(WsiDicomNotFoundError):
            slide = WsiDicom.open(files.paths, settings=settings)
            weakref.finalize(self, slide.close)
            left_out -= {str(file) for file in slide.files or ()}
        # it leaves files out that it cannot read or that do not fit the others, and only logs it
        if left_out:
            raise SlideFormatError(
                f"{min(left_out)}: is damaged, of a transfer syntax that wsidicom does not decode, "
                "or no level of the slide beside it; fetch it again, or move it elsewhere"
            )
        self.pyramids = len(slide.pyramids)
        self.levels = list(slide.pyramid)


_HANDLES = OpenHandles(_OpenSeries)


@dataclass(frozen=True)
class _Header:
    """What the header of a file says about its series."""

    path: str
    series: str
    name: str
    pixels: int
    optical_paths: tuple[tuple[str, str], ...]
    """Identifier and description of each optical path."""


def open_dicom(
    path: str, fill: float | None, limits: Limits, choice: ImageSelection = ImageSelection()
) -> Opened:
    """Read the metadata of a file and the others of its series, or of a folder of files."""
    headers, images, number = _series(path, choice)
    try:
        opened = _open(path, headers, fill, limits, choice)
    except (SlideError, OSError, ImportError):
        raise
    except Exception as error:  # wsidicom and pydicom raise errors of many classes
        reason = reason_of(error)
    else:
        if images:
            opened.properties["image"] = images[number]
        return Opened(opened.source, opened.mpp, opened.properties, images, opened.channels)
    raise SlideFormatError(f"{path}: wsidicom cannot open it ({reason}); check the files")


def _open(
    path: str, headers: list[_Header], fill: float | None, limits: Limits, choice: ImageSelection
) -> Opened:
    files = Files.of(header.path for header in headers)
    series = _HANDLES.get(files)
    base = series.levels[0]
    # a set in wsidicom: the order is that of the file
    names = {identifier: name for header in headers for identifier, name in header.optical_paths}
    paths = tuple(sorted(base.optical_paths, key=[*names, *sorted(base.optical_paths)].index))
    z, properties = _focal_plane(path, base.focal_planes, choice)
    image = base.image_data_map[paths[0], z]
    samples, dtype = int(image.samples_per_pixel), np.dtype(image.dtype)
    if samples > 1 and len(paths) > 1:
        raise SlideUnsupportedError(
            f"{path}: holds {len(paths)} colour images of different optical paths; save each as a "
            "series of its own"
        )
    channels = samples * len(paths)
    if channels > limits.channels:
        raise SlideLimitError(f"{path}: declares {channels} channels; change limits=Limits(...)")
    # smaller levels may lack focal planes
    kept = [
        (number, level)
        for number, level in enumerate(series.levels)
        if all((one, z) in level.image_data_map for one in paths)
    ]
    full = (base.size.height, base.size.width)
    levels = check_levels(
        path, (_level(full, level) for _, level in kept), channels * dtype.itemsize, limits
    )
    colour = samples == 3
    source = DicomSource(
        path, files, levels, tuple(number for number, _ in kept), paths, z, channels, dtype,
        fill_for(path, fill, dtype, colour=colour),
    )  # fmt: skip
    if series.pyramids > 1:
        properties["pyramids"] = f"{series.pyramids}, the first is read"
    described_as: tuple[Channel, ...] = ()
    if not colour:
        described_as = described(channels, [names.get(one, one) for one in paths])
    return Opened(
        source, _mpp(base), {"format": "DICOM", "reader": "wsidicom"} | properties, (), described_as
    )


def _level(full: tuple[int, int], level: Any) -> Level:
    shape = (level.size.height, level.size.width)
    downsample = (snapped_factor(full[0], shape[0]), snapped_factor(full[1], shape[1]))
    return Level(shape, downsample, (level.tile_size.height, level.tile_size.width))


def _mpp(level: Any) -> tuple[float, float] | None:
    spacing = level.mpp
    y, x = number_above_zero(spacing.height), number_above_zero(spacing.width)
    return None if y is None or x is None else (round(y, 9), round(x, 9))


def _focal_plane(
    path: str, planes: list[float], choice: ImageSelection
) -> tuple[float, dict[str, str]]:
    if choice.axes is not None:
        raise SlideArgumentError(f"{path}: axes={choice.axes!r}: DICOM names its axes")
    plane = Plane("ZYX" if len(planes) > 1 else "YX", choice.z, choice.t)
    properties = plane.check(path, (len(planes), 1, 1)[-len(plane.axes) :])
    return planes[choice.z], properties


def _series(path: str, choice: ImageSelection) -> tuple[list[_Header], tuple[str, ...], int]:
    """Return the headers of the chosen series, the names of all if several, and its number.

    A file stands for its series. Of the series in a folder the largest is chosen by default.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    with os.scandir(folder) as entries:
        names = sorted(entry.path for entry in entries if entry.is_file())
    headers = [one for one in map(_header, names) if one is not None]
    if path != folder:
        own = next((one.series for one in headers if one.path == path), None)
        headers = [one for one in headers if one.series == own]
    groups: dict[str, list[_Header]] = {}
    for header in headers:
        groups.setdefault(header.series, []).append(header)
    if not groups:
        raise SlideUnsupportedError(
            f"{path}: holds no level of a whole-slide image in DICOM; open one"
        )
    series = list(groups.values())
    images = unique_names([group[0].name for group in series])
    number = image_index(path, images, choice.image)
    if number is None:
        sizes = [max(header.pixels for header in group) for group in series]
        number = sizes.index(max(sizes))
    return series[number], images if len(images) > 1 else (), number


def _header(path: str) -> _Header | None:
    """Return the header of a file with a level of a slide; None for other files."""
    from pydicom.filereader import read_partial

    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
    try:
        with open(path, "rb") as file:
            found = read_partial(file, stop_when=lambda tag, vr, length: tag > _LAST_TAG)
        stored = found.get("SOPClassUID") or found.file_meta.MediaStorageSOPClassUID
        if str(stored) != _WHOLE_SLIDE or found.ImageType[2] != "VOLUME":
            return None
        return _Header(
            path,
            str(found.SeriesInstanceUID),
            str(found.get("SeriesDescription") or found.SeriesInstanceUID),
            int(found.TotalPixelMatrixRows) * int(found.TotalPixelMatrixColumns),
            tuple(_optical_paths(found.get("OpticalPathSequence") or ())),
        )
    except Exception as error:  # pydicom raises errors of many classes
        reason = reason_of(error)
    # it may be a level of the slide, which would be missing without a word
    raise SlideFormatError(f"{path}: is damaged DICOM ({reason}); fetch it again")


def _optical_paths(sequence: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for item in sequence:
        identifier = str(item.get("OpticalPathIdentifier", ""))
        yield identifier, str(item.get("OpticalPathDescription") or identifier)
