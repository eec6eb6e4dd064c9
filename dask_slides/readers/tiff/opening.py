"""Opening a TIFF: the checks of its directories and tags, and the source that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dask_slides.core.geometry import snapped_factor
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Opened
from dask_slides.errors import SlideError, SlideUnsupportedError
from dask_slides.readers.orientation import TURNS, UPRIGHT
from dask_slides.readers.remote.byte_ranges import stream
from dask_slides.readers.remote.identity import Identity, identify
from dask_slides.readers.remote.object_store import is_remote
from dask_slides.readers.selection import ImageSelection, plane_of
from dask_slides.readers.tiff.companions import companions_of, keep_open, names_in, structures_of
from dask_slides.readers.tiff.directories import Structure, check_structure
from dask_slides.readers.tiff.file import damaged, tiff_file
from dask_slides.readers.tiff.masks import checked_mask, nodata_of, told_of
from dask_slides.readers.tiff.page_checks import (
    check_alike,
    check_declared,
    check_level,
    check_tables,
    conversion_of,
    orientation_of,
)
from dask_slides.readers.tiff.series import chosen_series, one_plane, series_of
from dask_slides.readers.tiff.source import TiffSource
from dask_slides.readers.tiff.tags import (
    channels_of,
    complete_tables,
    mpp_of,
    properties_of,
    tile_of,
)
from dask_slides.readers.tiff.tiled_page import coarseness_of, factors_of, span_of
from dask_slides.readers.tile_status import fill_for

_COLOUR = {2, 3, 5, 6}
"""Photometric tags of RGB, palettes, CMYK and YCbCr."""
_LARGEST_PIECE = 2**26
"""Bytes of a strip that may be fetched for one row of it: some writers make one of all."""


def open_tiff(
    path: str,
    fill: float | None,
    limits: Limits,
    companions: bool = False,
    choice: ImageSelection = ImageSelection(),
) -> Opened:
    """Read the tags of the file at `path`.

    With `companions` the files beside it are read too that its metadata name.
    """
    identity = identify(path)
    with stream(path) as file:
        structure = check_structure(path, file, identity.size, limits)
        file.seek(0)  # tifffile takes where it stands for the beginning
        with tiff_file(path, file, companions) as tiff:
            try:
                beside = companions_of(path, tiff) if companions else ()
                structures = structures_of(path, structure, beside, limits)
                found = series_of(tiff, choice.axes)
                index, page, name, names = chosen_series(path, found, choice)
                series = found[index]
                keep_open(path, series, beside)
                plane = replace(plane_of(path, series.axes, series.shape, choice), page=page)
                others = plane.check(path, series.shape)
                read, axes = one_plane(path, series, plane)
                for number, level in enumerate(read.levels):
                    _check(path, number, level, structures, limits)
                mask = checked_mask(path, found, read, structures, limits)
                source = replace(
                    _source(path, identity, index, read, axes, fill, mask),
                    companions=beside,
                    plane=plane,
                )
                told = properties_of(tiff, series) | _told(tiff, companions) | others
                told |= told_of(source.nodata, source.mask)
                if names:
                    told["image"] = name
                channels = channels_of(tiff, series, plane.axes, source.channels)
                mpp = mpp_of(tiff, series)
                return Opened(source, mpp and source.turn.sides(mpp), told, names, channels)
            except SlideError:
                raise
            except Exception as error:  # tags that contradict each other fail in many ways
                raise damaged(path, error) from None


def _told(tiff: Any, read: bool) -> dict[str, str]:
    """Return what is told of the files that the slide names, if there are any."""
    names = ", ".join(names_in(tiff))
    if not names:
        return {}
    return {"companions": names if read else f"{names}: not read, companions=True asks for them"}


def _check(
    path: str, number: int, level: Any, files: Mapping[str, Structure], limits: Limits
) -> None:
    """Refuse a level that would not be read right; `files` are those that its pages lie in."""
    where = f"{path}: level {number}"
    check_level(where, level)
    complete_tables(level)
    check_declared(where, level, limits)
    check_alike(where, level)
    for page in level.pages or (None,):
        if page is None or page.parent is page.parent.root:
            check_tables(where, level.keyframe, page, files[path])
        else:
            of = page.parent.filehandle
            check_tables(f"{where} in {of.name}", level.keyframe, page, files[of.path])


def _source(
    path: str,
    identity: Identity,
    index: int,
    series: Any,
    axes: str,
    fill: float | None,
    mask: tuple[int, int] | None,
) -> TiffSource:
    sizes = dict(zip(axes, series.shape, strict=True))
    if sizes.get("C", 1) != 1 and sizes.get("S", 1) != 1:
        raise SlideUnsupportedError(f"{path}: channels of colour images; save them one by one")
    if "C" in sizes and "S" in sizes:  # the one of length 1 is dropped like any other
        axes = axes.replace("C" if sizes["C"] == 1 else "S", "Q")
    turn = TURNS[orientation_of(path, series.keyframe)]
    full = turn.sides((sizes["Y"], sizes["X"]))
    channels = next((sizes[axis] for axis in axes if axis in "CS"), 1)
    conversion = conversion_of(path, series.keyframe, channels, 0)
    nodata = nodata_of(series.keyframe)
    colour = conversion.channels(channels) == 3 and int(series.keyframe.photometric) in _COLOUR
    dtype = conversion.dtype(series.dtype)
    # an index of a palette, or a number that comes out as another one, is no fill
    shown = None if conversion.mixes or conversion.invert else nodata
    fill = fill_for(path, fill, dtype, colour=colour, nodata=shown)
    levels = []
    for number, level in enumerate(series.levels):
        piece = max(level.keyframe.databytecounts)
        if is_remote(path) and piece > _LARGEST_PIECE:
            raise SlideUnsupportedError(
                f"{path}: level {number} lies in pieces of {piece / 1e6:,.0f} MB, which can only "
                "be fetched whole; fetch the file first, or save it in tiles"
            )
        same = conversion_of(path, level.keyframe, channels, 0) == conversion
        if not same or TURNS[orientation_of(path, level.keyframe)] != turn:
            raise SlideUnsupportedError(
                f"{path}: level {number} is of another orientation, colour space, palette or "
                "alpha than level 0; save it without that level"
            )
        size = dict(zip(axes, level.shape, strict=True))
        stored = (size["Y"], size["X"])
        shape = turn.sides(stored)
        factors = (snapped_factor(full[0], shape[0]), snapped_factor(full[1], shape[1]))
        levels.append(Level(shape, factors, turn.sides(tile_of(level, stored))))
    conversion = replace(conversion, fill=fill)
    # the last means of a mirrored image would be those of other pixels
    plain = conversion.plain and turn == UPRIGHT and nodata is None and mask is None
    if mask is not None:  # smaller levels without a mask of their own would show what it leaves out
        levels = levels[: mask[1]]
    reductions = tuple(factors_of(level) if plain else () for level in series.levels[: len(levels)])
    coarse = tuple(
        coarseness_of(level) if factors else 1
        for level, factors in zip(series.levels, reductions, strict=False)
    )
    return TiffSource(
        path,
        identity,
        index,
        axes,
        tuple(levels),
        channels,
        series.dtype,
        conversion,
        reductions,
        coarse,
        tuple(
            0 if turn.swaps else span_of(level, is_remote(path))
            for level in series.levels[: len(levels)]
        ),
        turn=turn,
        nodata=nodata,
        mask=None if mask is None else mask[0],
    )
