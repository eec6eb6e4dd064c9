"""Open a TIFF: check its directories and tags, and create the source."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from dask_slides.core.arguments import is_remote
from dask_slides.core.geometry import snapped_factor
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Opened
from dask_slides.errors import SlideError, SlideUnsupportedError
from dask_slides.readers.codecs.colour import Conversion
from dask_slides.readers.orientation import ORIENTATIONS, UPRIGHT, Orientation
from dask_slides.readers.remote.byte_ranges import stream
from dask_slides.readers.remote.identity import Identity, identify
from dask_slides.readers.selection import ImageSelection, plane_of
from dask_slides.readers.tiff.directories import Structure, check_structure
from dask_slides.readers.tiff.file import damaged, tiff_file
from dask_slides.readers.tiff.masks import checked_mask, nodata_of, nodata_properties
from dask_slides.readers.tiff.ome_xml import check_single_file
from dask_slides.readers.tiff.own_facts import recorded_holes
from dask_slides.readers.tiff.page_checks import (
    check_alike,
    check_declared,
    check_level,
    check_tables,
    conversion_of,
    orientation_of,
)
from dask_slides.readers.tiff.series import chosen_series, select_plane, series_of
from dask_slides.readers.tiff.source import TiffSource
from dask_slides.readers.tiff.tags import (
    channels_of,
    fit_tables,
    is_mapped,
    mpp_of,
    properties_of,
    tile_of,
)
from dask_slides.readers.tiff.tiled_page import can_read_directly, ways_to_read
from dask_slides.readers.tile_status import fill_for

_COLOUR = {2, 3, 5, 6}
"""Photometric tags of RGB, palettes, CMYK and YCbCr."""
_LARGEST_STRIP = 2**26
"""Largest strip, in bytes, that is fetched from a server: some images are one large strip."""


def open_tiff(
    path: str,
    fill: float | None,
    limits: Limits,
    choice: ImageSelection = ImageSelection(),
) -> Opened:
    """Read the tags of the file at `path`. No other file is opened."""
    identity = identify(path)
    with stream(path) as file, ExitStack() as closing:
        structure = check_structure(path, file, identity.size, limits)
        file.seek(0)  # tifffile starts at the current position
        tiff = closing.enter_context(tiff_file(path, file))
        try:
            found = _open(path, identity, tiff, structure, fill, limits, choice)
        except SlideError:
            raise
        except Exception as error:  # tags that contradict each other fail in many ways
            raise damaged(path, error) from None
        if isinstance(found.source, TiffSource) and not is_remote(path):
            found.source.keep_open(tiff)
            closing.pop_all()  # it stays open
    return found


def _open(
    path: str,
    identity: Identity,
    tiff: Any,
    structure: Structure,
    fill: float | None,
    limits: Limits,
    choice: ImageSelection,
) -> Opened:
    check_single_file(path, tiff)
    all_series = series_of(tiff, choice.axes)
    index, page, name, names = chosen_series(path, all_series, choice)
    series = all_series[index]
    plane = replace(plane_of(path, series.axes, series.shape, choice), page=page)
    other_planes = plane.check(path, series.shape)
    selected, chosen = select_plane(path, series, plane)
    for number, level in enumerate(selected.levels):
        _check(path, number, level, structure, limits)
    mask = checked_mask(path, all_series, selected, structure, limits)
    source = _source(path, identity, index, selected, chosen.axes, fill, mask)
    source = replace(source, plane=plane, recorded_holes=recorded_holes(tiff))
    properties = properties_of(tiff, series) | {"reader": _reader_of(selected)} | other_planes
    properties |= nodata_properties(source.nodata, source.mask)
    if names:
        properties["image"] = name
    channels = channels_of(tiff, series, plane.axes, source.channels)
    mpp = mpp_of(tiff, series)
    return Opened(source, mpp and source.orientation.sides(mpp), properties, names, channels)


def _reader_of(series: Any) -> str:
    """Return how the pixels of level 0 are read, for users."""
    if is_mapped(series.levels[0]):
        return "memory map"
    return "direct" if can_read_directly(series.levels[0]) else "tifffile Zarr store"


def _check(path: str, number: int, level: Any, structure: Structure, limits: Limits) -> None:
    """Refuse a level that cannot be read correctly."""
    where = f"{path}: level {number}"
    check_level(where, level)
    fit_tables(level)
    check_declared(where, level, limits)
    check_alike(where, level)
    for page in level.pages or (None,):
        check_tables(where, level.keyframe, page, structure)


@dataclass(frozen=True)
class _SampleFormat:
    """The format of the stored samples of all levels."""

    axes: str
    channels: int
    orientation: Orientation
    conversion: Conversion


def _sample_format(path: str, series: Any, axes: str) -> _SampleFormat:
    sizes = dict(zip(axes, series.shape, strict=True))
    if {"C", "S"} <= set(sizes):
        raise SlideUnsupportedError(
            f"{path}: has several colour images as channels; save each as a file of its own"
        )
    channels = next((sizes[axis] for axis in axes if axis in "CS"), 1)
    orientation = ORIENTATIONS[orientation_of(path, series.keyframe)]
    conversion = conversion_of(path, series.keyframe, channels, 0)
    return _SampleFormat(axes, channels, orientation, conversion)


def _level(path: str, number: int, series: Any, samples: _SampleFormat) -> Level:
    """Return the size of level `number`; refuse a level with another sample format."""
    level = series.levels[number]
    largest = max(level.keyframe.databytecounts)
    if is_remote(path) and largest > _LARGEST_STRIP:
        raise SlideUnsupportedError(
            f"{path}: level {number} has strips of {largest / 1e6:,.0f} MB, which can only "
            "be fetched whole; download the file first, or save it in tiles"
        )
    conversion = conversion_of(path, level.keyframe, samples.channels, 0)
    orientation = ORIENTATIONS[orientation_of(path, level.keyframe)]
    if (conversion, orientation) != (samples.conversion, samples.orientation):
        raise SlideUnsupportedError(
            f"{path}: level {number} has another orientation, colour space, palette or "
            "alpha than level 0; save it without that level"
        )
    full, stored = (
        (size["Y"], size["X"])
        for size in (dict(zip(samples.axes, one.shape, strict=True)) for one in (series, level))
    )
    downsample = (snapped_factor(full[0], stored[0]), snapped_factor(full[1], stored[1]))
    sides = orientation.sides
    return Level(sides(stored), sides(downsample), sides(tile_of(level, stored)))


def _source(
    path: str,
    identity: Identity,
    index: int,
    series: Any,
    axes: str,
    fill: float | None,
    mask: tuple[int, int] | None,
) -> TiffSource:
    samples = _sample_format(path, series, axes)
    conversion, orientation = samples.conversion, samples.orientation
    nodata = nodata_of(series.keyframe)
    has_three = conversion.channels(samples.channels) == 3
    colour = has_three and int(series.keyframe.photometric) in _COLOUR
    # palette indices and inverted values are converted, so nodata cannot be the fill
    default = None if conversion.mixes or conversion.invert else nodata
    fill = fill_for(path, fill, conversion.dtype(series.dtype), colour=colour, nodata=default)
    levels = [_level(path, number, series, samples) for number in range(len(series.levels))]
    if mask is not None:  # levels without a mask of their own would show masked pixels
        levels = levels[: mask[1]]
    stored = series.levels[: len(levels)]
    conversion = replace(conversion, fill=fill)
    # in a mirrored image the means of fewer pixels would be at the wrong end
    plain = conversion.plain and orientation == UPRIGHT and nodata is None and mask is None
    return TiffSource(
        path,
        identity,
        index,
        tuple(levels),
        samples.channels,
        series.dtype,
        conversion,
        **ways_to_read(stored, plain=plain, swaps=orientation.swaps, remote=is_remote(path)),
        orientation=orientation,
        nodata=nodata,
        mask=None if mask is None else mask[0],
    )
