"""Resize a slide as a whole, lazily: the scale arguments, the size ladder, the new slide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dask_slides.core.geometry import level_size
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.resized import ResizedSource
from dask_slides.numerics.kernels import kernel_named
from dask_slides.slide import Mpp, Slide, as_slide


def ladder(longest: int) -> int:
    """Return the downsample of the size ladder for an image whose longest side is `longest`."""
    if longest > 50_000:
        return 10
    if longest > 25_000:
        return 5
    return 2 if longest > 10_000 else 1


def output_shape(
    slide: Slide,
    downsample: float | None = None,
    mpp: Mpp = None,
    max_size: int | None = None,
    shape: tuple[int, int] | None = None,
    ladder_of: int | None = None,
) -> tuple[int, int]:
    """Return height and width that the scale arguments ask for: plain numbers.

    `ladder_of` is the longest side that the size ladder looks at when no argument is given.
    """
    given = {"downsample": downsample, "mpp": mpp, "max_size": max_size, "shape": shape}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise SlideArgumentError(
            f"{slide.name}: {' and '.join(named)} exclude each other; give one"
        )
    height, width = slide.shape[:2]
    if shape is not None:
        return _checked_shape(slide, shape)
    if mpp is not None:
        old = slide.require_mpp("a target mpp")
        new = tuple(mpp) if isinstance(mpp, Sequence) else (mpp, mpp)
        if len(new) != 2:
            raise SlideArgumentError(f"{slide.name}: mpp={mpp!r}; give one number, or (y, x)")
        factors = tuple(_checked_factor(slide, "mpp", n) / o for n, o in zip(new, old, strict=True))
    elif max_size is not None:
        longest = _checked_factor(slide, "max_size", max_size)
        factors = (max(1.0, max(height, width) / longest),) * 2
    elif downsample is not None:
        factors = (_checked_factor(slide, "downsample", downsample),) * 2
    else:
        factors = (float(ladder(ladder_of or max(height, width))),) * 2
    if not height * width:
        return (0, 0)
    size = (level_size(height, factors[0]), level_size(width, factors[1]))
    if max(size) > 2**31:
        raise SlideArgumentError(f"{slide.name}: {size[0]:,} x {size[1]:,} px; enlarge less")
    return size


def _checked_factor(slide: Slide, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf or isinstance(value, bool):
        raise SlideArgumentError(f"{slide.name}: {name}={value!r}; give a number above 0")
    return number


def _checked_shape(slide: Slide, shape: Any) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in tuple(shape)[:2])
        good = height == shape[0] and width == shape[1] and min(height, width) > 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise SlideArgumentError(f"{slide.name}: shape={shape!r}; give (height, width) above 0")
    return height, width


def resized(slide: Slide, shape: tuple[int, int], kernel: str, gap: float | None) -> Slide:
    """Return `slide` resampled as a whole to `shape`."""
    kernel = kernel_named(kernel).name
    if gap is not None and (not isinstance(gap, int | float) or not 1 <= gap < math.inf):
        raise SlideArgumentError(f"{slide.name}: gap={gap!r}; give 1 or more, or None for level 0")
    old = slide.shape[:2]
    if shape == old:
        return slide
    mpp = slide.mpp_yx
    if mpp is not None:
        mpp = (mpp[0] * old[0] / shape[0], mpp[1] * old[1] / shape[1])
    return replace(slide, source=ResizedSource(slide.source, shape, kernel, gap), mpp_yx=mpp)


def resize(
    slide: Any,
    *,
    downsample: float | None = None,
    mpp: Mpp = None,
    max_size: int | None = None,
    shape: tuple[int, int] | None = None,
    kernel: str = "lanczos",
    gap: float | None = 2.0,
) -> Slide:
    """Resize a slide as a whole: antialiased, without seams, lazily.

    With ``gap=None`` an 8-bit image has the very pixels of Pillow's resize of the whole
    image with the same kernel, columns first and then rows, however it is chunked. (Up to 12
    Pillow always takes that order; 13 starts with the rows where that is less work.)
    Other dtypes are summed in float64 in each direction and rounded to the dtype, halves to the
    even number. Integers of 64 bits are summed as differences of neighbours, so that a flat image
    stays flat and no more than the last bits of the differences are lost (2**-46 of them). Results
    are kept in the range of the dtype: no finite pixels make an infinite one.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    downsample : float, optional
        How many times smaller; below 1 enlarges.
    mpp : float or (float, float), optional
        Micrometres per pixel wanted.
    max_size : int, optional
        Longest side at most, in pixels; a smaller image stays as it is.
    shape : (int, int), optional
        Height and width wanted. Without any of the four the size ladder decides: a longest
        side above 50,000 px becomes 1/10, above 25,000 1/5, above 10,000 1/2, else it stays.
    kernel : {"lanczos", "cubic", "linear", "area", "nearest"}
        Lanczos with three lobes, Keys' cubic, triangle, mean of the area, nearest pixel.
    gap : float or None
        Start from the smallest stored level that leaves at least this much to shrink, and
        decode it at 1/2, 1/4 or 1/8 where that still does; None starts from level 0 always.

    Returns
    -------
    Slide
        Lazy; its pixels are computed region by region, in one task each.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or two of the four are given.
    SlideMppError
        `mpp` is asked for and the slide has none.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> ds.resize(da.zeros((3000, 2000, 3), dtype="uint8"), downsample=2.5).shape
    (1200, 800, 3)
    """
    slide = as_slide(slide)
    return resized(slide, output_shape(slide, downsample, mpp, max_size, shape), kernel, gap)


def level0_reduction(image: Slide) -> int:
    """Return how many times reduced an `image` that is or was resized reads level 0.

    1 if in full, 0 if it is made from a smaller level.
    """
    source = image.source
    if not isinstance(source, ResizedSource):
        return 1
    return 0 if source.from_level else source.factor
