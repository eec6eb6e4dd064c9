"""Cut off the rows and columns of the grid that are entirely blank."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dask_slides.core.intervals import Intervals, kept_intervals
from dask_slides.core.types import Array
from dask_slides.errors import BlankSlideWarning, SlideArgumentError
from dask_slides.graph.cut import CutSource
from dask_slides.numerics.detectors import Detector
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.blank_map import blank_map as make_blank_map
from dask_slides.ops.resize import output_shape, resized
from dask_slides.plots import pictures
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide

SNAP = 2.0**20
"""Points are rounded to 1/SNAP of a pixel, so that `to_source` inverts `from_source` exactly."""


@dataclass(frozen=True, repr=False)
class Cutoff:
    """A slide without its entirely blank rows and columns.

    It converts coordinates to and from its source, the slide that was cut.
    """

    image: Slide
    """The cut and resized image; lazy."""
    blank_map: BlankMap
    """Blank map of the source, in memory."""
    rows: Intervals
    """Rows that were not cut off, in pixels of the source."""
    columns: Intervals
    """Columns that were not cut off."""
    source_shape: tuple[int, int]
    """Height and width of the source."""

    @property
    def factors(self) -> tuple[float, float]:
        """Source pixels per image pixel, along y and x."""
        height, width = self.image.shape[:2]
        if not height * width:
            return 1.0, 1.0
        return self.rows.length / height, self.columns.length / width

    @property
    def gain(self) -> float:
        """Factor by which the cut raises the resolution, for the same longest side."""
        longest = max(self.rows.length, self.columns.length)
        return max(self.source_shape) / longest if longest else 1.0

    def to_source(self, yx: Any) -> Array:
        """Convert points of the image to points of the source.

        Parameters
        ----------
        yx : array_like, (..., 2)
            Points (y, x) in pixels of the image. (0, 0) is the top left corner of the first
            pixel, and (0.5, 0.5) its centre.

        Returns
        -------
        ndarray, (..., 2), float64
            In pixels of level 0 of the source; NaN for points outside the image.
        """
        points = _checked_points(yx)
        fy, fx = self.factors
        return np.stack(
            (
                self.rows.to_source(_rounded(points[..., 0] * fy)),
                self.columns.to_source(_rounded(points[..., 1] * fx)),
            ),
            axis=-1,
        )

    def from_source(self, yx: Any) -> Array:
        """Convert points of the source to points of the image.

        Parameters
        ----------
        yx : array_like, (..., 2)
            Points (y, x) in pixels of level 0 of the source.

        Returns
        -------
        ndarray, (..., 2), float64
            In pixels of the image; NaN for points that were cut off. `to_source` is the exact
            inverse.
        """
        points = _checked_points(yx)
        fy, fx = self.factors
        y = self.rows.from_source(points[..., 0]) / fy
        x = self.columns.from_source(points[..., 1]) / fx
        cut = np.isnan(y) | np.isnan(x)
        return np.where(cut[..., None], np.nan, np.stack((y, x), axis=-1))

    def plot(self, ax: Any = None, *, max_size: int = 1024) -> Any:
        """Draw the cut image with matplotlib (the extra ``plot``); return the axes."""
        return self.image.plot(ax, max_size=max_size)

    def __repr__(self) -> str:
        height, width = self.source_shape
        image = repr(self.image).removeprefix("Slide<").removesuffix(">")
        return f"Cutoff<{image}, source_shape=({height}, {width}), gain={self.gain:.3g}>"

    def _repr_html_(self) -> str:
        height, width = self.image.shape[:2]
        blank = np.asarray(self.blank_map.blank)
        facts = {
            "source": f"{self.source_shape[0]:,} x {self.source_shape[1]:,} px",
            "after the cut": f"{self.rows.length:,} x {self.columns.length:,} px",
            "image": f"{height:,} x {width:,} px, {self.image.dtype}",
            "mpp": "not known" if self.image.mpp is None else f"{self.image.mpp:.4g} µm",
            "gain": f"{self.gain:.2f} times the resolution at the same longest side",
            "detector": str(self.blank_map.detector),
            "tasks": f"{self.image.data.npartitions:,}",
            "memory": pictures.bytes_text(self.image.data.nbytes) + " in all",
        }
        picture = pictures.grid_picture(blank, side=256) if blank.size else None
        return pictures.facts_html(f"Cut-off of {self.image.name}", facts, picture)


def _checked_points(yx: Any) -> Array:
    points = np.asarray(yx, np.float64)
    if points.ndim < 1 or points.shape[-1] != 2:
        raise SlideArgumentError(f"points of shape {points.shape}; give (..., 2), which is (y, x)")
    return points


def _rounded(points: Array) -> Array:
    return np.rint(points * SNAP) / SNAP


def cutoff_resize(
    slide: SlideLike,
    *,
    downsample: float | None = None,
    mpp: Mpp = None,
    max_size: int | None = None,
    shape: tuple[int, int] | None = None,
    kernel: str = "lanczos",
    gap: float | None = 2.0,
    tile_size: int | Sequence[int] | None = None,
    detector: Detector = DEFAULT_DETECTOR,
    blank_map: BlankMap | None = None,
) -> Cutoff:
    """Cut off the rows and columns of the grid that are entirely blank, then resize the rest.

    The scale applies after the cut, so that you get a higher resolution for the same image size.
    The blank map is computed immediately; the image stays lazy.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    downsample, mpp, max_size, shape, kernel, gap
        As in `resize`, applied to the cut image. Without a scale, the scale follows from the size
        of the whole slide.
    tile_size, detector
        As in `blank_map`.
    blank_map : BlankMap, optional
        A blank map of this slide, used instead of `tile_size` and `detector`.

    Returns
    -------
    Cutoff
        With `image`, `blank_map`, `to_source`, `from_source` and `gain`. If the whole slide is
        blank, the image has 0 x 0 pixels, and a BlankSlideWarning is issued.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or the blank map is of another slide or of overlapping tiles.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> x = da.random.default_rng(0).integers(0, 255, (400, 300, 3), dtype="uint8")
    >>> glass = da.full((400, 300, 3), 240, dtype="uint8")
    >>> cut = ds.cutoff_resize(da.concatenate([glass, x]), downsample=2, tile_size=100)
    >>> cut.image.shape
    (200, 150, 3)
    >>> cut.to_source([0, 0])
    array([400.,   0.])
    """
    slide = as_slide(slide)
    # check the arguments before the slide is read
    output_shape(slide, downsample, mpp, max_size, shape)
    resized(slide, slide.shape[:2], kernel, gap)
    if blank_map is None:
        blank_map = make_blank_map(slide, tile_size=tile_size, detector=detector)
    elif not isinstance(blank_map, BlankMap):
        raise SlideArgumentError(
            f"{slide.name}: blank_map={type(blank_map).__name__}; give a BlankMap"
        )
    elif blank_map.grid.shape != slide.shape[:2] or blank_map.grid.tile != blank_map.grid.stride:
        raise SlideArgumentError(
            f"{slide.name}: the blank map is of an image of {blank_map.grid.shape[0]} x "
            f"{blank_map.grid.shape[1]} px, or its tiles overlap; make one of this slide"
        )
    blank_map = blank_map.compute()
    grid, blank = blank_map.grid, np.asarray(blank_map.blank)
    rows = kept_intervals(
        np.asarray(blank.all(axis=1)), grid.starts(0), grid.tile[0], grid.shape[0]
    )
    columns = kept_intervals(
        np.asarray(blank.all(axis=0)), grid.starts(1), grid.tile[1], grid.shape[1]
    )
    full = slide.shape[:2]
    if blank.all():
        warnings.warn(
            f"{slide.name}: every tile is blank under {blank_map.detector}; the image is empty",
            BlankSlideWarning,
            stacklevel=2,
        )
    cut = slide
    if (rows.length, columns.length) != full:
        cut = replace(slide, source=CutSource(slide.source, rows, columns))
    if rows.length:
        size = output_shape(cut, downsample, mpp, max_size, shape, ladder_of=max(full))
        cut = resized(cut, size, kernel, gap)
    return Cutoff(cut, blank_map, rows, columns, full)
