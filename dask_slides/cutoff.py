"""Cut wholly blank rows and columns of the grid off, and find the way back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides import display
from dask_slides.blank import BlankMap
from dask_slides.blank import blank_map as make_blank_map
from dask_slides.detectors import Contrast, Detector
from dask_slides.errors import BlankSlideWarning, SlideArgumentError
from dask_slides.geometry import Placement, Region, reduced_size
from dask_slides.readers.bad_tiles import Hole
from dask_slides.readers.batch import read_each
from dask_slides.readers.protocol import (
    Level,
    Shrinking,
    Source,
    holes_in,
    is_masked,
    read_valid,
)
from dask_slides.resample import STRIP_PIXELS
from dask_slides.resize import output_shape, resized
from dask_slides.runs import Runs, kept_runs
from dask_slides.slide import Mpp, Slide, as_slide

Array = NDArray[Any]

SNAP = 2.0**20
"""Points are kept to this fraction of a pixel, so that scaling there and back is exact."""


@dataclass(frozen=True)
class CutSource:
    """`parent` without the rows and columns that were cut off."""

    parent: Source
    rows: Runs
    columns: Runs

    @property
    def name(self) -> str:
        """The name of the parent."""
        return self.parent.name

    @property
    def channels(self) -> int:
        """As the parent."""
        return self.parent.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """As the parent."""
        return self.parent.dtype

    def _scaled(self, number: int, factor: int = 1) -> tuple[Runs, Runs] | None:
        """Return the runs on a level of the parent, None where a cut falls inside a pixel."""
        full, level = self.parent.levels[0].shape, self.parent.levels[number]
        rows, columns = (
            runs.scaled(level.downsample[i] * factor, reduced_size(level.shape[i], factor), full[i])
            for i, runs in enumerate((self.rows, self.columns))
        )
        return None if rows is None or columns is None else (rows, columns)

    @cached_property
    def _kept(self) -> list[tuple[int, Runs, Runs]]:
        """The levels of the parent on which the cuts fall between pixels."""
        scaled = [(number, self._scaled(number)) for number in range(len(self.parent.levels))]
        return [(number, *runs) for number, runs in scaled if runs is not None]

    @property
    def levels(self) -> tuple[Level, ...]:
        """Level 0, and the parent's levels on which every cut falls between pixels."""
        return tuple(
            replace(self.parent.levels[number], shape=(rows.length, columns.length))
            for number, rows, columns in self._kept
        )

    @property
    def placement(self) -> Placement:
        """Begins where the first kept row and column do; what follows a cut lies further off."""
        first = (runs.starts[0] if runs.starts else 0 for runs in (self.rows, self.columns))
        y, x = first
        return Placement(offset=(float(y), float(x)))

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the smallest region of the parent that holds every piece of `region`."""
        number, rows, columns = self._kept[level]
        tops = rows.pieces(region.y, region.stop_y)
        lefts = columns.pieces(region.x, region.stop_x)
        top, left = tops[0][0], lefts[0][0]
        bottom, right = (pieces[-1][0] + pieces[-1][2] for pieces in (tops, lefts))
        return number, Region(top, left, bottom - top, right - left)

    def read(self, level: int, region: Region) -> Array:
        """Read the pieces of `region` that lie together in the parent."""
        number, rows, columns = self._kept[level]
        if number:
            return self._joined(
                rows, columns, region, lambda piece, _: self.parent.read(number, piece)
            )
        # one strip or tile may hold parts of several pieces
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        regions, places = [], []
        for top, y, height in rows.pieces(region.y, region.stop_y):
            for left, x, width in columns.pieces(region.x, region.stop_x):
                regions.append(Region(top, left, height, width))
                places.append(out[Region(y, x, height, width).slices(region.y, region.x)])
        read_each(self.parent, number, regions, places, min(region.area, STRIP_PIXELS))
        return out

    @property
    def masked(self) -> bool:
        """As the parent."""
        return is_masked(self.parent)

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read the same, and which of the pixels have a value."""
        number, rows, columns = self._kept[level]
        valid = np.ones((region.height, region.width), bool)

        def read(piece: Region, place: tuple[slice, slice]) -> Array:
            pixels, known = read_valid(self.parent, number, piece)
            if known is not None:
                valid[place] = known
            return pixels

        pixels = self._joined(rows, columns, region, read)
        return pixels, None if valid.all() else valid

    def holes(self, level: int, region: Region) -> tuple[Hole, ...]:
        """Return what is kept of the holes of the parent."""
        number, rows, columns = self._kept[level]
        found = []
        for top, y, height in rows.pieces(region.y, region.stop_y):
            for left, x, width in columns.pieces(region.x, region.stop_x):
                for hole in holes_in(self.parent, number, Region(top, left, height, width)):
                    own = hole.region
                    place = replace(own, y=own.y - top + y, x=own.x - left + x)
                    found.append(Hole(place, hole.tile))
        return tuple(found)

    def factors(self, level: int) -> tuple[int, ...]:
        """Return the reductions of the parent at which every cut falls between pixels."""
        if not isinstance(self.parent, Shrinking):
            return ()
        number = self._kept[level][0]
        return tuple(f for f in self.parent.factors(number) if self._scaled(number, f))

    def coarseness(self, level: int) -> int:
        """As the parent."""
        assert isinstance(self.parent, Shrinking)
        return self.parent.coarseness(self._kept[level][0])

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Read the pieces of `region` of `level` reduced by `factor`."""
        number = self._kept[level][0]
        runs = self._scaled(number, factor)
        assert runs is not None
        assert isinstance(self.parent, Shrinking)
        read_reduced = self.parent.read_reduced
        return self._joined(*runs, region, lambda piece, _: read_reduced(number, factor, piece))

    def _joined(
        self,
        rows: Runs,
        columns: Runs,
        region: Region,
        read: Callable[[Region, tuple[slice, slice]], Array],
    ) -> Array:
        """Join what `read` gives of each piece of the parent, and of its place in the result."""
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        for top, y, height in rows.pieces(region.y, region.stop_y):
            for left, x, width in columns.pieces(region.x, region.stop_x):
                place = Region(y, x, height, width).slices(region.y, region.x)
                out[place] = read(Region(top, left, height, width), place)
        return out

    def working_bytes(self, level: int, region: Region) -> int:
        """Return the bytes of the result, and of pieces that are read at once."""
        together = region.area if level else region.area + min(region.area, STRIP_PIXELS)
        return together * self.channels * self.dtype.itemsize

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return a piece as high and wide as any."""
        number, rows, columns = self._kept[level]
        top, _, height = max(rows.pieces(region.y, region.stop_y), key=lambda piece: piece[2])
        left, _, width = max(columns.pieces(region.x, region.stop_x), key=lambda piece: piece[2])
        return number, Region(top, left, height, width)


@dataclass(frozen=True)
class Cutoff:
    """A slide without its wholly blank rows and columns, and the way back to the source."""

    image: Slide
    """The cut image at the scale asked for; lazy."""
    blank_map: BlankMap
    """Of the source, in memory."""
    rows: Runs
    """Kept rows, in pixels of the source."""
    columns: Runs
    """Kept columns."""
    source_shape: tuple[int, int]

    @property
    def factors(self) -> tuple[float, float]:
        """Source pixels for one of the image, along y and x."""
        height, width = self.image.shape[:2]
        if not height * width:
            return 1.0, 1.0
        return self.rows.length / height, self.columns.length / width

    @property
    def gain(self) -> float:
        """How many times finer this is than the whole slide at the same longest side."""
        kept = max(self.rows.length, self.columns.length)
        return max(self.source_shape) / kept if kept else 1.0

    def to_source(self, yx: Any) -> Array:
        """Return where points of the image lie in the source.

        Parameters
        ----------
        yx : array_like, (..., 2)
            Points (y, x) in pixels of the image; (0, 0) is the top left corner of its first
            pixel, whose centre is (0.5, 0.5).

        Returns
        -------
        ndarray, (..., 2), float64
            In pixels of level 0 of the source; NaN for points outside of the image.
        """
        points = _points(yx)
        fy, fx = self.factors
        return np.stack(
            (
                self.rows.to_source(_snapped(points[..., 0] * fy)),
                self.columns.to_source(_snapped(points[..., 1] * fx)),
            ),
            axis=-1,
        )

    def from_source(self, yx: Any) -> Array:
        """Return where points of the source lie in the image; NaN where they were cut off.

        Parameters
        ----------
        yx : array_like, (..., 2)
            Points (y, x) in pixels of level 0 of the source.

        Returns
        -------
        ndarray, (..., 2), float64
            In pixels of the image; ``to_source`` of it is the point again.
        """
        points = _points(yx)
        fy, fx = self.factors
        y = self.rows.from_source(points[..., 0]) / fy
        x = self.columns.from_source(points[..., 1]) / fx
        cut = np.isnan(y) | np.isnan(x)
        return np.where(cut[..., None], np.nan, np.stack((y, x), axis=-1))

    def plot(self, ax: Any = None, max_size: int = 1024) -> Any:
        """Draw the cut image with matplotlib (the extra ``plot``); return the axes."""
        return self.image.plot(ax, max_size)

    def _repr_html_(self) -> str:
        height, width = self.image.shape[:2]
        blank = np.asarray(self.blank_map.blank)
        facts = {
            "source": f"{self.source_shape[0]:,} x {self.source_shape[1]:,} px",
            "kept": f"{self.rows.length:,} x {self.columns.length:,} px",
            "image": f"{height:,} x {width:,} px, {self.image.dtype}",
            "mpp": "not known" if self.image.mpp is None else f"{self.image.mpp:.4g} µm",
            "gain": f"{self.gain:.2f} times finer at the same longest side",
            "detector": str(self.blank_map.detector),
            "tasks": f"{self.image.data.npartitions:,}",
            "memory": display.bytes_text(self.image.data.nbytes) + " in all",
        }
        picture = display.grid_picture(blank, side=256) if blank.size else None
        return display.facts_html(f"Cut-off of {self.image.name}", facts, picture)


def _points(yx: Any) -> Array:
    points = np.asarray(yx, np.float64)
    if points.ndim < 1 or points.shape[-1] != 2:
        raise SlideArgumentError(f"points of shape {points.shape}; give (..., 2), that is (y, x)")
    return points


def _snapped(points: Array) -> Array:
    return np.rint(points * SNAP) / SNAP


def cutoff_resize(
    slide: Any,
    downsample: float | None = None,
    mpp: Mpp = None,
    max_size: int | None = None,
    shape: tuple[int, int] | None = None,
    kernel: str = "lanczos",
    gap: float | None = 2.0,
    tile_size: Any = None,
    detector: Detector = Contrast(0.05),
    blank_map: BlankMap | None = None,
) -> Cutoff:
    """Drop the rows and columns of the grid that are wholly blank, then resize the rest.

    The scale applies after the cut, so the objects come out at a higher resolution for the
    same size. The blank map is computed here; the image stays lazy.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    downsample, mpp, max_size, shape, kernel, gap
        As in `resize`, of the cut image. The size ladder looks at the whole slide.
    tile_size, detector
        As in `blank_map`.
    blank_map : BlankMap, optional
        A map of this slide that there is already; `tile_size` and `detector` are not used.

    Returns
    -------
    Cutoff
        `image`, `blank_map`, `to_source`, `from_source`, `gain`. Of a slide that is blank
        all over the image is 0 x 0 px, and BlankSlideWarning says so.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or the blank map is of another slide or grid.

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
    # wrong arguments are told before the slide is read
    output_shape(slide, downsample, mpp, max_size, shape)
    resized(slide, slide.shape[:2], kernel, gap)
    if blank_map is None:
        blank_map = make_blank_map(slide, tile_size, detector)
    elif not isinstance(blank_map, BlankMap):
        raise SlideArgumentError(
            f"{slide.name}: blank_map={type(blank_map).__name__}; give what blank_map() returns"
        )
    elif blank_map.grid.shape != slide.shape[:2] or blank_map.grid.tile != blank_map.grid.stride:
        raise SlideArgumentError(
            f"{slide.name}: the blank map is of an image of {blank_map.grid.shape[0]} x "
            f"{blank_map.grid.shape[1]} px; make one of this slide"
        )
    blank_map = blank_map.compute()
    grid, blank = blank_map.grid, np.asarray(blank_map.blank)
    rows = kept_runs(np.asarray(blank.all(axis=1)), grid.starts(0), grid.tile[0], grid.shape[0])
    columns = kept_runs(np.asarray(blank.all(axis=0)), grid.starts(1), grid.tile[1], grid.shape[1])
    full = slide.shape[:2]
    if blank.all():
        warnings.warn(
            f"{slide.name}: every cell is blank under {blank_map.detector}; nothing is left",
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
