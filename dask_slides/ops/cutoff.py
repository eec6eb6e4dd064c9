"""Cut off the blank parts of a slide: rows and columns of the grid, or all around islands."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import as_number, checked_size
from dask_slides.core.geometry import level_size
from dask_slides.core.intervals import kept_intervals
from dask_slides.core.layout import CutoffMapping, GridLayout, IslandLayout, Layout
from dask_slides.core.types import Array
from dask_slides.errors import BlankSlideWarning, SlideArgumentError
from dask_slides.graph.cut import CutSource
from dask_slides.graph.islands import IslandsSource, lattice_step
from dask_slides.numerics.detectors import Detector, checked_detector
from dask_slides.numerics.island_layout import island_layout
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR, MaskDetector
from dask_slides.ops.blank_map import BlankMap, GivenMap, checked_map
from dask_slides.ops.blank_map import blank_map as make_blank_map
from dask_slides.ops.overlays import plot_on_slide
from dask_slides.ops.resize import output_shape, resized
from dask_slides.plots import pictures
from dask_slides.readers.tile_status import fill_for
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide

CUT_UM, CUT_PX = 16.0, 64
"""Height of the rows that are cut off in µm, and in pixels if the pixel size is not known."""
MOST_CELLS = 1024
"""Rows or columns along the longest side, at most."""
LAYOUTS = ("grid", "islands")
"""How `cutoff_resize` arranges what is left."""
GUTTER = 4.0
"""Pixels of the image between two islands, at least: no kernel reaches further than 3."""
ROUNDS = 8
"""Times that islands are placed at most, until gutters are wide enough for the size of the image.
They never are in an image of a few pixels."""


@dataclass(frozen=True, repr=False)
class Cutoff:
    """A slide without its blank parts.

    It converts coordinates to and from its source, the slide that was cut.
    """

    image: Slide
    """The cut and resized image; lazy."""
    blank_map: BlankMap
    """Blank map of the source, in memory."""
    layout: Layout
    """What was not cut off, and where it lies: a `GridLayout` or an `IslandLayout`."""
    source_shape: tuple[int, int]
    """Height and width of the source."""

    @property
    def mapping(self) -> CutoffMapping:
        """The coordinates of the image and of the source, without pixels."""
        height, width = self.image.shape[:2]
        return CutoffMapping(self.layout, (height, width), self.source_shape)

    @property
    def factors(self) -> tuple[float, float]:
        """Source pixels per image pixel, along y and x."""
        return self.mapping.factors

    @property
    def gain(self) -> float:
        """Factor by which the cut raises the resolution, for the same longest side."""
        longest = max(self.layout.shape)
        return max(self.source_shape) / longest if longest else 1.0

    @property
    def islands(self) -> Array:
        """The rectangles of the islands, a structured array of int64 with one row each.

        Its fields are ``island``, the number of the island from 1; ``y``, ``x``, ``height`` and
        ``width``, the rectangle on the source; ``canvas_y`` and ``canvas_x``, its place on the
        canvas. All are in pixels of level 0 of the source: divide by `factors` for pixels of the
        image. The rectangles do not overlap, and ``pandas.DataFrame(cut.islands)`` is a table.

        Raises
        ------
        SlideArgumentError
            The layout is "grid", which has no islands.
        """
        return self._island_layout().table

    def island_mask(self, max_size: int = 1024) -> Array:
        """Return which island each pixel of the image belongs to.

        Parameters
        ----------
        max_size : int
            Longest side of the mask in pixels, at most; it is never larger than the image.

        Returns
        -------
        ndarray, (h, w), int32
            The number of the island at the centre of each pixel, and 0 in gutters.

        Raises
        ------
        SlideArgumentError
            The layout is "grid", which has no islands.
        """
        layout = self._island_layout()
        size = output_shape(self.image, max_size=max_size)
        y, x = (
            (np.arange(count) + 0.5) * (full / max(1, count))
            for count, full in zip(size, layout.shape, strict=True)
        )
        return layout.islands_at(y[:, None], x[None, :])

    def _island_layout(self) -> IslandLayout:
        if isinstance(self.layout, IslandLayout):
            return self.layout
        raise SlideArgumentError(
            f'{self.image.name}: the layout "grid" has no islands; give layout="islands"'
        )

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
            In pixels of level 0 of the source; NaN for points outside the image and in gutters
            between islands. An island does not hold its lower and right edge.
        """
        return self.mapping.to_source(yx)

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
        return self.mapping.from_source(yx)

    def plot(self, ax: Any = None, *, max_size: int = 1024) -> Any:
        """Draw what was not cut off on the slide with matplotlib; return the axes.

        It needs the extra ``plot``. ``cut.image.plot()`` draws the cut image.
        """
        slide = self.blank_map.slide
        title = f"{slide.name}: cut off, gain {self.gain:.2f}"
        return plot_on_slide(slide, title, ax, max_size, mask=self.kept_mask(max_size))

    def kept_mask(self, max_size: int = 1024) -> NDArray[np.bool_]:
        """Return where the slide was not cut off, (h, w) bool, of at most `max_size` pixels."""
        max_size = checked_size(max_size, "max_size")
        height, width = self.source_shape
        ratio = max(1.0, max(height, width) / max_size)
        y, x = ((np.arange(level_size(n, ratio)) + 0.5) * ratio for n in (height, width))
        points = np.stack(np.meshgrid(np.minimum(y, height - 0.5), np.minimum(x, width - 0.5),
                                      indexing="ij"), axis=-1)  # fmt: skip
        return ~np.isnan(self.from_source(points)[..., 0])

    def __repr__(self) -> str:
        height, width = self.source_shape
        image = repr(self.image).removeprefix("Slide<").removesuffix(">")
        return f"Cutoff<{image}, source_shape=({height}, {width}), gain={self.gain:.3g}>"

    def _repr_html_(self) -> str:
        height, width = self.image.shape[:2]
        blank = np.asarray(self.blank_map.blank)
        facts = {
            "source": f"{self.source_shape[0]:,} x {self.source_shape[1]:,} px",
            "layout": "islands" if isinstance(self.layout, IslandLayout) else "grid",
            "after the cut": "{:,} x {:,} px".format(*self.layout.shape),
            "image": f"{height:,} x {width:,} px, {self.image.dtype}",
            "mpp": "not known" if self.image.mpp is None else f"{self.image.mpp:.4g} µm",
            "gain": f"{self.gain:.2f} times the resolution at the same longest side",
            "detector": str(self.blank_map.detector),
            "tasks": f"{self.image.data.npartitions:,}",
            "memory": pictures.bytes_text(self.image.data.nbytes) + " in all",
        }
        picture = pictures.grid_picture(blank, side=256) if blank.size else None
        return pictures.facts_html(f"Cut-off of {self.image.name}", facts, picture)


def cells_to_cut(slide: Slide, tile_size: Any, detector: Detector, layout: str) -> Any:
    """Return the tile size of the blank map by which `slide` is cut; None for that of `blank_map`.

    A mask can be measured in small cells, which cut off more than tiles do.
    """
    small = layout == "grid" and isinstance(checked_detector(detector), MaskDetector)
    if tile_size is not None or not small:
        return tile_size
    own = slide.mpp_yx
    sides = (CUT_PX, CUT_PX) if own is None else (CUT_UM / own[0], CUT_UM / own[1])
    least = max(slide.shape[:2]) / MOST_CELLS
    return tuple(max(1, math.ceil(max(side, least) / 8)) * 8 for side in sides)


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
    blank_map: GivenMap = None,
    layout: str = "grid",
    margin: int = 0,
    compact: float | None = 1.3,
) -> Cutoff:
    """Cut off the blank parts of a slide, then resize the rest.

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
        As in `blank_map`. By default the rows and columns of "grid" have 16 µm with a detector that
        finds a mask, or 64 px if the pixel size is not known, and there are at most 1,024 of them.
    blank_map : BlankMap or path, optional
        A blank map of this slide, or the path of its outlines as GeoJSON, used instead of
        `detector`. Give `tile_size` to cut by tiles of another size than those of the map.
    layout : {"grid", "islands"}
        "grid" cuts off the rows and columns of the grid that are entirely blank. "islands" finds
        connected tissue (cells that touch each other, diagonally too), and moves each island to a
        place on a small canvas. Islands keep their orientation. They consist of whole tiles of the
        file and lie on its tile grid, on the slide as well as on the canvas, so that only tiles
        with tissue are read. For strips and dask arrays the cells of the blank map take the place
        of tiles. Of more than 256 islands, neighbours count as one.

        Different islands have a gutter between them of at least one tile and 4 pixels of the
        image, in the fill of the slide (for an array white if it has three channels, else 0).
        Gutters are background: blank maps of the image do not count their pixels, and packs and
        crops take no tile that touches one. In a resized image, tissue blends into the fill at the
        edge of an island, as it does into glass. Over a slide with nodata or masks, gutters are
        nodata, which is never mixed.
    margin : int
        Pixels of level 0 around the cells that belong to an island too, with ``layout="islands"``.
        They are rounded up to whole tiles.
    compact : float or None
        If the canvas would be larger than this many times the area of the tiles with tissue,
        islands are cut along tiles into pieces, which may touch other pieces of the island on the
        canvas. Of more than 6 islands, those at most six tiles apart may then count as one. A
        disc alone needs 1.27 times its area, and several sections 1.5. None keeps islands whole.

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
    check_layout(slide, layout, margin)
    check_compact(slide, compact)
    output_shape(slide, downsample, mpp, max_size, shape)
    resized(slide, slide.shape[:2], kernel, gap)
    if blank_map is None:
        tile_size = cells_to_cut(slide, tile_size, detector, layout)
        blank_map = make_blank_map(slide, tile_size=tile_size, detector=detector)
    else:
        blank_map = checked_map(slide, blank_map)
        if blank_map.grid.tile != blank_map.grid.stride:
            raise SlideArgumentError(
                f"{slide.name}: the tiles of the blank map overlap; make one whose tiles do not"
            )
        if tile_size is not None:
            blank_map = blank_map.with_tile_size(tile_size)
    blank_map = blank_map.compute()
    blank = np.asarray(blank_map.blank)
    full = slide.shape[:2]
    if blank.all():
        warnings.warn(
            f"{slide.name}: every tile is blank under {blank_map.detector}; the image is empty",
            BlankSlideWarning,
            stacklevel=2,
        )

    def size_of(cut: Slide) -> tuple[int, int]:
        return output_shape(cut, downsample, mpp, max_size, shape, ladder_of=max(full))

    if layout == "grid" or blank.all():
        cut, found = _cut_rows_and_columns(slide, blank_map)
    else:
        cut, found = _cut_islands(
            slide, blank_map, margin, math.inf if compact is None else compact, size_of
        )
    if all(found.shape):
        cut = resized(cut, size_of(cut), kernel, gap)
    return Cutoff(cut, blank_map, found, full)


def check_layout(slide: Slide, layout: Any, margin: Any) -> None:
    """Raise SlideArgumentError unless there is such a layout, and it has such a margin."""
    if layout not in LAYOUTS:
        raise SlideArgumentError(
            f"{slide.name}: layout={layout!r} is not known; use 'grid' or 'islands'"
        )
    if isinstance(margin, bool) or not isinstance(margin, int | np.integer) or margin < 0:
        raise SlideArgumentError(f"{slide.name}: margin={margin!r}; give whole pixels, 0 or more")
    if margin and layout == "grid":
        raise SlideArgumentError(
            f'{slide.name}: margin={margin} is for islands; give layout="islands" too'
        )


def check_compact(slide: Slide, compact: Any) -> None:
    """Raise SlideArgumentError unless `compact` is None or a number of at least 1."""
    if compact is not None and not as_number(compact) >= 1:
        raise SlideArgumentError(f"{slide.name}: compact={compact!r}; give 1 or more, or None")


def _cut_rows_and_columns(slide: Slide, blank_map: BlankMap) -> tuple[Slide, Layout]:
    """Return the slide without its blank rows and columns, not resized, and its layout."""
    grid, blank = blank_map.grid, np.asarray(blank_map.blank)
    rows, columns = (
        kept_intervals(
            np.asarray(blank.all(axis=1 - axis)), grid.starts(axis), grid.tile[axis],
            grid.shape[axis],
        )
        for axis in (0, 1)
    )  # fmt: skip
    layout = GridLayout(rows, columns)
    if layout.shape == slide.shape[:2]:
        return slide, layout
    return replace(slide, source=CutSource(slide.source, rows, columns)), layout


def _cut_islands(
    slide: Slide,
    blank_map: BlankMap,
    margin: int,
    compact: float,
    size_of: Callable[[Slide], tuple[int, int]],
) -> tuple[Slide, Layout]:
    """Return the slide as islands on a canvas, not resized, and its layout.

    The width of the gutters depends on the scale of the image, which depends on the size of the
    canvas if the size of the image is given. So the islands may be placed again.
    """
    source = slide.source
    step = lattice_step(source, blank_map.grid.tile)
    fill = fill_for(slide.name, None, slide.dtype, colour=slide.shape[2] == 3)
    gutter = (0.0, 0.0)
    for _ in range(ROUNDS):
        layout = island_layout(
            np.asarray(blank_map.blank), blank_map.grid, step, margin, gutter, compact
        )
        cut = replace(slide, source=IslandsSource(source, layout, fill))
        height, width = size_of(cut)
        needed = GUTTER * layout.shape[0] / height, GUTTER * layout.shape[1] / width
        if all(n <= max(g, s) for n, g, s in zip(needed, gutter, step, strict=True)):
            break
        gutter = max(gutter[0], needed[0]), max(gutter[1], needed[1])
    return cut, layout
