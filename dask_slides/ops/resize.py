"""Resize a slide: the scale arguments, the size ladder and the new slide."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from dask_slides.core.arguments import as_number, as_pair, as_shape, as_whole
from dask_slides.core.geometry import level_size
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.resized import ResizedSource
from dask_slides.graph.stored_level import LevelSource, ReducedLevelSource
from dask_slides.numerics.kernels import kernel_named
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide


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
    """Return the height and width of the result for the scale arguments.

    Without any, the size ladder is applied to `ladder_of`, or to the longest side of the slide.
    """
    given = {"downsample": downsample, "mpp": mpp, "max_size": max_size, "shape": shape}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise SlideArgumentError(
            f"{slide.name}: {' and '.join(named)} exclude each other; give one"
        )
    height, width = slide.shape[:2]
    if shape is not None:
        return _possible(slide, _checked_shape(slide, shape))
    if mpp is not None:
        own = slide.require_mpp("a target mpp")
        factors = tuple(new / old for new, old in zip(checked_mpp(slide, mpp), own, strict=True))
    elif max_size is not None:
        longest = as_whole(max_size)
        if longest is None or longest < 1:
            raise SlideArgumentError(
                f"{slide.name}: max_size={max_size!r}; give whole pixels above 0"
            )
        factors = (max(1.0, max(height, width) / longest),) * 2
    elif downsample is not None:
        factors = (_checked_factor(slide, "downsample", downsample),) * 2
    else:
        factors = (float(ladder(ladder_of or max(height, width))),) * 2
    if not height * width:
        return (0, 0)
    return _possible(slide, (level_size(height, factors[0]), level_size(width, factors[1])))


def _possible(slide: Slide, size: tuple[int, int]) -> tuple[int, int]:
    if max(size) > 2**31:
        raise SlideArgumentError(
            f"{slide.name}: {size[0]:,} x {size[1]:,} px are too many; enlarge less"
        )
    return size


def checked_mpp(slide: Slide, mpp: Any) -> tuple[float, float]:
    """Return the micrometres per pixel (y, x) that are asked for, one number or two."""
    target = as_pair(mpp)
    if len(target) != 2:
        raise SlideArgumentError(f"{slide.name}: mpp={mpp!r}; give one number, or (y, x)")
    y, x = (_checked_factor(slide, "mpp", value) for value in target)
    return y, x


def _checked_factor(slide: Slide, name: str, value: Any) -> float:
    number = as_number(value)
    if not 0 < number < math.inf:
        raise SlideArgumentError(f"{slide.name}: {name}={value!r}; give a number above 0")
    return number


def _checked_shape(slide: Slide, shape: Any) -> tuple[int, int]:
    found = as_shape(shape)
    if found is None:
        raise SlideArgumentError(f"{slide.name}: shape={shape!r}; give (height, width) above 0")
    return found


def resized(slide: Slide, shape: tuple[int, int], kernel: str, gap: float | None) -> Slide:
    """Return `slide` resampled as a whole to `shape`."""
    kernel = kernel_named(kernel).name
    if gap is not None:
        least = as_number(gap)
        if not 1 <= least < math.inf:
            raise SlideArgumentError(
                f"{slide.name}: gap={gap!r}; give 1 or more, or None for level 0"
            )
        gap = least
    old = slide.shape[:2]
    if shape == old:
        return slide
    mpp = slide.mpp_yx
    if mpp is not None:
        mpp = (mpp[0] * old[0] / shape[0], mpp[1] * old[1] / shape[1])
    return replace(slide, source=ResizedSource(slide.source, shape, kernel, gap), mpp_yx=mpp)


def resize(
    slide: SlideLike,
    *,
    downsample: float | None = None,
    mpp: Mpp = None,
    max_size: int | None = None,
    shape: tuple[int, int] | None = None,
    kernel: str = "lanczos",
    gap: float | None = 2.0,
) -> Slide:
    """Resize a slide, lazily, antialiased and without seams between chunks.

    With ``gap=None``, the result of an 8-bit image is equal to Pillow's resize of the whole image
    with the same kernel, if Pillow resizes the width before the height. Pillow up to 12 always
    does; Pillow 13 starts with the height if that is less work.
    Other dtypes are summed in float64 along each axis and rounded to the dtype, halves to even.
    64-bit integers are summed as differences of neighbours: a flat image stays flat, and the error
    is at most 2**-46 of the differences. Results are clipped to the range of the dtype.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    downsample : float, optional
        How many times smaller; below 1 enlarges.
    mpp : float or (float, float), optional
        Micrometres per pixel of the result.
    max_size : int, optional
        Longest side of the result in pixels, at most. A smaller image is not enlarged.
    shape : (int, int), optional
        Height and width of the result. Give at most one of these four arguments. Without any, an
        image whose longest side is above 50,000 px is resized to 1/10, above 25,000 px to 1/5, and
        above 10,000 px to 1/2. A smaller image is not resized.
    kernel : {"lanczos", "cubic", "linear", "area", "nearest"}
        Lanczos with three lobes, Keys' cubic, triangle, mean of the area, or nearest pixel.
    gap : float or None
        The kernel is applied to a stored level, or to level 0 decoded at 1/2, 1/4 or 1/8, that is
        at least this many times larger than the result. A larger gap is slower, and the result is
        closer to that from level 0. None always uses level 0 in full.

    Returns
    -------
    Slide
        Lazy; each chunk of its pixels is computed in one task.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or you gave more than one of the four.
    SlideMppError
        `mpp` is given, and the micrometres per pixel of the slide are not known.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> ds.resize(da.zeros((3000, 2000, 3), dtype="uint8"), downsample=2.5).shape
    (1200, 800, 3)
    """
    slide = as_slide(slide)
    return resized(slide, output_shape(slide, downsample, mpp, max_size, shape), kernel, gap)


def level0_reduction(image: Slide) -> int:
    """Return the factor by which level 0 is reduced when the pixels of `image` are read.

    It is 1 for level 0 in full, and 0 if a smaller stored level is read instead.
    """
    source = image.source
    if isinstance(source, ResizedSource):
        return 0 if source.from_level else source.factor
    if isinstance(source, LevelSource | ReducedLevelSource) and source.number:
        return 0
    return source.factor if isinstance(source, ReducedLevelSource) else 1
