"""Choose the image of a TIFF file and the pages of it that are read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from dask_slides.errors import SlideArgumentError, SlideFormatError, SlideUnsupportedError
from dask_slides.readers.selection import (
    ImageSelection,
    Plane,
    examples_of_axes,
    image_index,
    unique_names,
)
from dask_slides.readers.tiff.tags import ASSOCIATED_IMAGES, MASK


def chosen_series(
    path: str, all_series: list[Any], choice: ImageSelection
) -> tuple[int, int | None, str, tuple[str, ...]]:
    """Choose a series: return its index, the page if only one is read, its name, all names.

    The default is the largest image that is not a label, a macro image or similar. Pages that are
    stacked along an unnamed axis count as separate images, which `image` chooses.
    """
    areas, images = {}, []
    for index, series in enumerate(all_series):
        sizes = dict(zip(series.axes, series.shape, strict=True))
        is_mask = int(series.keyframe.subfiletype) & MASK
        if is_mask or 0 in series.shape or not {"Y", "X"} <= set(sizes):
            continue
        areas[index] = sizes["Y"] * sizes["X"]
        other = [n for axis, n in zip(series.axes, series.shape, strict=True)
                 if axis not in "YXSCZT" and n > 1]  # fmt: skip
        is_separate = len(other) == 1 and choice.axes is None
        images += [(index, page) for page in (range(other[0]) if is_separate else [None])]
    if not areas:
        raise SlideFormatError(f"{path}: the file holds no image; check the file")
    names = unique_names([all_series[index].name for index, _ in images])
    number = image_index(path, names, choice.image)
    if number is None:
        slides = [
            n for n, (index, _) in enumerate(images)
            if len(areas) == 1 or all_series[index].name.lower() not in ASSOCIATED_IMAGES
        ]  # fmt: skip
        if not slides:
            raise SlideArgumentError(
                f"{path}: holds {len(images)} images ({', '.join(names)}), none of which is "
                "the slide itself; choose one with image="
            )
        number = max(slides, key=lambda n: areas[images[n][0]])
        if images[number][1] is not None:
            of_it = [n for n, (index, _) in enumerate(images) if index == images[number][0]]
            series = all_series[images[number][0]]
            raise SlideUnsupportedError(
                f"{path}: holds {len(of_it)} pages of one size along an unnamed axis; "
                f"choose one with image={of_it[0]} to {of_it[-1]}, or name the axis: "
                f"{examples_of_axes(series.axes, series.shape)}"
            )
    return (*images[number], names[number], names if len(names) > 1 else ())


def series_of(tiff: Any, axes: str | None) -> list[Any]:
    """Return the series of a file, joined to one stack if `axes` names an axis for it."""
    found: list[Any] = tiff.series
    kinds = {(one.kind, one.axes, one.shape, one.dtype) for one in found}
    pages = [page for one in found for page in one.pages]
    if len(kinds) != 1 or not 1 < len(found) == len(pages) or found[0].kind != "shaped":
        return found
    first = found[0]
    if (
        axes is None
        or len(axes) != len(first.axes) + 1
        or any(len(one.levels) > 1 for one in found)
    ):
        return found
    import tifffile

    # the pages were written one at a time, each as an image
    shape = (len(pages), *first.shape)
    return [tifffile.TiffPageSeries(pages, shape, first.dtype, f"I{first.axes}", kind="shaped")]


def select_plane(path: str, series: Any, plane: Plane) -> tuple[Any, Plane]:
    """Return the pages of a series that hold `plane`, as a series, and the plane of that series.

    Only these pages are checked, and they are read as fast as a file of one plane. If one page
    holds all planes, return the whole series: the plane is selected when pixels are read.
    """
    depth = series.keyframe.imagedepth
    if depth > 1:
        raise SlideUnsupportedError(
            f"{path}: its pages hold {depth} planes each (ImageDepth); save each plane as a page"
        )
    found = [_pages_of(path, level, plane) for level in series.levels]
    levels = [level for level in found if level is not None]
    if len(levels) < len(found):
        return series, replace(plane, axes=_with_one_channel_axis(plane.axes, series.shape))
    levels[0].levels = levels
    axes = _with_one_channel_axis(levels[0].axes, levels[0].shape)
    if "C" in plane.axes[: len(plane.axes) - len(series.keyframe.shape)]:
        plane = replace(plane, channels=None)  # each channel is a page, which was chosen
    return levels[0], replace(plane, axes=axes)


def _with_one_channel_axis(axes: str, shape: tuple[int, ...]) -> str:
    """Return `axes` with Q in place of C or S if it has both and one of them has length 1."""
    sizes = dict(zip(axes, shape, strict=True))
    if {"C", "S"} <= set(sizes) and 1 in (sizes["C"], sizes["S"]):
        return axes.replace("C" if sizes["C"] == 1 else "S", "Q")
    return axes


def _pages_of(path: str, level: Any, plane: Plane) -> Any:
    """Return the pages of `plane` of one level as a level; None if planes are not whole pages."""
    import tifffile

    axes, shape = plane.axes, level.shape
    stacked = len(axes) - len(level.keyframe.shape)
    chosen = None if plane.channels is None or "C" not in axes[:stacked] else list(plane.channels)
    others = any(n > 1 and axis not in "YXSC" for axis, n in zip(axes, shape, strict=True))
    if not others and chosen is None:
        return None
    if (
        len(level.pages) != math.prod(shape[:stacked])
        or shape[stacked:] != level.keyframe.shape
        or level.is_truncated
    ):
        return None
    index = tuple(
        slice(None) if axis in "YXSC" else plane.index(axis) if n > 1 else 0
        for axis, n in zip(axes[:stacked], shape, strict=False)
    )
    numbers = np.arange(len(level.pages)).reshape(shape[:stacked])[index].ravel()
    if chosen is not None:
        numbers = numbers[chosen]
        shape = tuple(len(chosen) if axes[at] == "C" else n for at, n in enumerate(shape))
    pages = [level.pages[int(number)] for number in numbers]
    if any(page is None or page.is_virtual for page in pages):
        if all(page is None for page in pages):
            raise SlideFormatError(
                f"{path}: plane z={plane.z}, t={plane.t} is not in the file; choose another"
            )
        return None
    first = pages[0].aspage()  # other pages share the tags of the keyframe
    # tifffile may have corrected the tables, as for LSM
    first.dataoffsets, first.databytecounts = pages[0].dataoffsets, pages[0].databytecounts
    pages[0] = first
    remaining = [
        (axis, n) for at, (axis, n) in enumerate(zip(axes, shape, strict=True))
        if not (at < stacked and (axis not in "YXSC" or n == 1))
    ]  # fmt: skip
    return tifffile.TiffPageSeries(
        pages,
        tuple(n for _, n in remaining),
        level.dtype,
        "".join(axis for axis, _ in remaining),
        parent=level.parent,
        name=level.name,
        kind=level.kind,
        multifile=level.is_multifile,
        transform=level.transform,
    )
