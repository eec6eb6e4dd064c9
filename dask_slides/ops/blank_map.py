"""Blank maps: which tiles of a slide show no tissue."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import checked_share
from dask_slides.core.bad_tiles import BadTile
from dask_slides.core.equality import EqualByFields
from dask_slides.core.geometry import bounds
from dask_slides.core.grid import TileGrid, tile_pair
from dask_slides.core.source import provenance
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.bad_tiles import bad_tiles_of_cells
from dask_slides.graph.blocks import Block, map_blocks
from dask_slides.graph.overview import overview_bytes, overview_shape, overview_source
from dask_slides.graph.statistics import cell_chunks, stats_block, stats_bytes_of_task
from dask_slides.graph.tissue import (
    area_blocks,
    areas_of_cells,
    find_in_slide,
    spans_of_grid,
)
from dask_slides.numerics.detectors import (
    Contrast,
    Detector,
    StatisticsDetector,
    checked_detector,
    counts_alpha,
)
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR, MaskDetector
from dask_slides.numerics.statistics import CellStats, fields_of, record_length, unpacked
from dask_slides.numerics.tissue_mask import (
    BLANK,
    MISSING,
    TISSUE,
    TissueMask,
    edges_of_grid,
    edges_of_mask,
)
from dask_slides.ops.map_editing import EditableMap
from dask_slides.ops.map_outlines import OutlinedMap
from dask_slides.ops.map_tiles import map_tile
from dask_slides.ops.overlays import plot_on_slide
from dask_slides.plots import pictures
from dask_slides.runtime.scheduler import check_memory, compute
from dask_slides.runtime.threads import override_settings
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide, mpp_text

MIN_TISSUE = 0.05
"""Tiles with a smaller share of tissue are blank."""
LARGEST_MPP = 1000.0
"""Pixels from this size on are those of a satellite: detectors assume their usual pixel size."""


@dataclass(frozen=True, eq=False, repr=False)
class BlankMap(EditableMap, OutlinedMap, EqualByFields):
    """The blank tiles of a slide.

    `blank_map` returns a lazy one; `compute` returns the same in memory. The other operations take
    a blank map at any tile size and scale: the area of its tissue in a tile decides.

    A map of a detector such as `Tissue` holds a mask of a few micrometres per pixel. A map of a
    detector of statistics, such as `Contrast`, holds the statistics of its tiles; its tissue is
    that of whole tiles.
    """

    grid: TileGrid
    """The tiles, in pixels of level 0."""
    detector: Any
    """The detector, or a text that says where the mask comes from."""
    slide: Slide
    areas: Any = None
    """(rows, cols, 3) float64, dask or numpy: pixels of level 0 of tissue, of absent and corrupt
    tiles of the file, and of the tile. None for detectors of statistics."""
    statistics: Any = None
    """(rows, cols, record) float64, dask or numpy; `stats` has them by name. None for detectors
    that find a mask."""
    fields: tuple[str, ...] = ()
    """Names of the statistics beyond count, sum and sum of squares."""
    min_tissue: float = MIN_TISSUE
    """Tiles with a smaller share of tissue are blank."""
    found: Any = None
    """The lazy mask; None once computed."""
    fine_mask: TissueMask | None = None
    """The mask in memory; None for detectors of statistics."""
    task_bytes: int = 0
    """Peak memory in bytes of one task."""
    bad_tiles: tuple[BadTile, ...] = ()
    """The absent and corrupt tiles of the file that the grid touches; empty until computed."""

    @property
    def name(self) -> str:
        """Name of the slide."""
        return self.slide.name

    @property
    def mpp_yx(self) -> tuple[float, float] | None:
        """Micrometres per pixel of level 0 of the slide, along y and x."""
        return self.slide.mpp_yx

    @property
    def blank(self) -> Any:
        """(rows, cols) bool, True = blank: a dask array, or numpy once computed.

        A tile that touches an absent or corrupt tile of the file is never blank, as some of its
        pixels are missing. Nodata and masked pixels show no tissue.
        """
        return self._decide("blank")

    @property
    def unknown(self) -> Any:
        """(rows, cols) bool: tiles that touch a bad tile of the file and show no tissue elsewhere.

        A dask array, or numpy once computed.
        """
        return self._decide("unknown")

    @property
    def tissue(self) -> Any:
        """(rows, cols) bool: tiles that are neither blank nor unknown; dask or numpy."""
        return ~(self.blank | self.unknown)

    @property
    def tissue_fraction(self) -> Any:
        """(rows, cols) float64: share of the area of each tile that is tissue; dask or numpy.

        For detectors of statistics, 1 where a tile is tissue and else 0.
        """
        if self.areas is None:
            return self.tissue.astype(float)
        return self.areas[..., 0] / self.areas[..., 2]

    def _decide(self, what: str) -> Any:
        """Return which tiles are blank, or unknown, as a dask or numpy array.

        The tasks take the areas or statistics, so that computing several of these arrays together
        reads the slide once.
        """
        if self.areas is None:
            return _decide(self.statistics, self.detector, self.fields, what)
        if isinstance(self.areas, np.ndarray):
            return _decide_areas(self.areas, self.min_tissue, what)
        return self.areas.map_blocks(
            _decide_areas, self.min_tissue, what,
            drop_axis=2, dtype=bool, meta=np.empty((0, 0), bool), token=f"{what}-tiles",
        )  # fmt: skip

    @property
    def computed(self) -> bool:
        """Whether the map is in memory."""
        return isinstance(self.statistics if self.areas is None else self.areas, np.ndarray)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.grid.rows, self.grid.cols

    @property
    def stats(self) -> CellStats:
        """The statistics of the tiles at level 0; computed if the map is lazy.

        A map of a mask does not hold them: the whole slide is read each time you ask.
        """
        if self.statistics is None:
            return map_of_grid(self.slide, self.grid, Contrast()).stats
        return unpacked(np.asarray(self.compute().statistics), self.fields)

    @property
    def tissue_share(self) -> float:
        """Share of the area of the slide that is tissue."""
        found = self.compute()
        areas = found.with_mask(found.mask).areas if found.areas is None else found.areas
        return float(areas[..., 0].sum() / max(1.0, areas[..., 2].sum()))

    @property
    def mask(self) -> TissueMask:
        """The tissue as a mask of the slide; computed if the map is lazy.

        For detectors of statistics, its pixels are the tiles.
        """
        found = self.compute()
        if found.fine_mask is not None:
            return found.fine_mask
        kinds = np.where(found.unknown, MISSING, np.where(found.blank, BLANK, TISSUE))
        return TissueMask(kinds.astype(np.uint8), *edges_of_grid(self.grid))

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Rows and columns of `mask`, and about those of a lazy one; nothing is computed."""
        if self.fine_mask is not None:
            rows, columns = self.fine_mask.kinds.shape
            return rows, columns
        if self.found is not None:
            return overview_shape(self.grid.shape, self.slide.mpp_yx, self.detector.mpp)
        return self.shape

    def compute(self, **kwargs: Any) -> BlankMap:
        """Return the map in memory; the slide is read once.

        Parameters
        ----------
        **kwargs
            Arguments of ``compute`` of a dask array: ``scheduler="threads"``, ``num_workers=4``,
            and options of the scheduler.

        Returns
        -------
        BlankMap
            Its arrays are numpy arrays.

        Raises
        ------
        SlideMemoryError
            A task needs more memory than a thread of a worker has.
        WorkerKilledError, ClusterLostError
            Tasks killed every worker that ran them, or the scheduler was lost.

        Examples
        --------
        >>> import dask.array as da, dask_slides as ds
        >>> ds.blank_map(da.full((4, 6), 9, dtype="uint8"), tile_size=2).compute().blank
        array([[ True,  True,  True],
               [ True,  True,  True]])
        """
        if self.computed:
            return self
        with override_settings(kwargs):
            check_memory(self.task_bytes, self.name)
            if self.found is None:
                records = compute(self.statistics, "blank map", None, self._describe_block)
                computed = replace(self, statistics=records)
                complete = computed.stats.known
            else:
                item = compute(self.found, "blank map").item()
                computed = replace(self, found=None, detector=item.detector).with_mask(item.mask)
                complete = computed.areas[..., 1] == 0
            chunks = cell_chunks(self.grid)
            bad_tiles = bad_tiles_of_cells(self.slide.source, self.grid, chunks, complete)
            return replace(computed, bad_tiles=bad_tiles)

    def _describe_block(self, block: Block) -> str:
        rows, columns = (bounds(lengths) for lengths in self.statistics.chunks[:2])
        i, j = block[:2]
        region = self.grid.span(rows[i], rows[i + 1], columns[j], columns[j + 1])
        size = f"{region.height} x {region.width} px"
        return f"{self.name}: level 0, y {region.y}, x {region.x}, {size}"

    def with_mask(self, mask: TissueMask, detector: Any = None) -> BlankMap:
        """Return the computed map with this mask, found by `detector` (None: as before)."""
        rows, columns = (spans_of_grid(self.grid, axis) for axis in (0, 1))
        return replace(
            self,
            areas=areas_of_cells(mask, rows, columns),
            fine_mask=mask,
            statistics=None,
            fields=(),
            found=None,
            detector=self.detector if detector is None else detector,
        )

    @classmethod
    def of_mask(
        cls, slide: Slide, mask: NDArray[np.bool_], tile: tuple[int, int], detector: str
    ) -> BlankMap:
        """Return the computed map of a mask (h, w) that covers the slide, True = tissue."""
        empty = cls(TileGrid(slide.shape[:2], tile, tile), detector, slide)
        return empty.with_mask(TissueMask.of(mask, edges_of_mask(slide.shape[:2], mask.shape)))

    def with_detector(self, detector: StatisticsDetector) -> BlankMap:
        """Apply another detector to the same statistics; nothing is read.

        A map holds the statistics that its detector needs. Those for `Contrast` are always there.
        A map of `Otsu`, `Brightness` or `Saturation` serves any threshold; one of a combination,
        such as ``Otsu() | Saturation()``, serves each of its detectors too.

        A map of `Tissue` holds no statistics. Use `with_min_tissue`, `remove_small` and
        `fill_holes` to change it.

        Parameters
        ----------
        detector : StatisticsDetector
            `Contrast`, `Otsu`, `Brightness`, `Saturation`, or a combination.

        Returns
        -------
        BlankMap
            Lazy if this one is.

        Raises
        ------
        SlideArgumentError
            The detector needs statistics that this map does not hold.

        Examples
        --------
        >>> import numpy as np, dask_slides as ds
        >>> image = np.arange(36, dtype="uint8").reshape(6, 6)
        >>> found = ds.blank_map(image, tile_size=3, detector=ds.Contrast(0.05)).compute()
        >>> found.with_detector(ds.Contrast(0.5)).blank
        array([[False,  True],
               [ True,  True]])
        """
        checked = checked_detector(detector)
        missing = [name for name in getattr(checked, "needs", ()) if name not in self.fields]
        if self.statistics is None or missing or isinstance(checked, MaskDetector):
            what = missing[0] if missing and self.statistics is not None else "statistics"
            raise SlideArgumentError(
                f"{self.name}: the map holds no {what} for {checked!r}; "
                "make the blank map with that detector from the start"
            )
        return replace(self, detector=checked)

    def with_min_tissue(self, min_tissue: float) -> BlankMap:
        """Return the map whose tiles are blank below another share of tissue; nothing is read.

        Parameters
        ----------
        min_tissue : float
            0 to 1. It does not change a map of a detector of statistics.
        """
        return replace(self, min_tissue=checked_share(min_tissue, "min_tissue"))

    def with_tile_size(self, tile_size: int | Sequence[int]) -> BlankMap:
        """Return the map of tiles of another size; nothing is read again.

        Parameters
        ----------
        tile_size : int or (int, int)
            Height and width in pixels of level 0.
        """
        tile = tile_pair(tile_size)
        mask = self.mask
        grid = TileGrid(self.grid.shape, tile, tile)
        return replace(self.compute(), grid=grid).with_mask(mask)

    def plot(self, ax: Any = None, *, max_size: int = 1024) -> Any:
        """Draw the map on the slide with matplotlib (the extra ``plot``); return the axes."""
        title = f"{self.name}: {self.tissue_share:.1%} tissue"
        return plot_on_slide(self.slide, title, ax, max_size, mask=self.mask)

    def __repr__(self) -> str:
        facts = [
            provenance(self.slide.source, self.name), f"shape={self.shape}", "dtype=bool",
            f"tile_size={self.grid.tile}", f"mpp={mpp_text(self.mpp_yx)}",
            f"detector={self.detector!r}",
        ]  # fmt: skip
        if self.areas is not None:
            facts.append(f"min_tissue={self.min_tissue:g}")
        if self.computed:
            facts.append(f"tissue={self.tissue_share:.1%}")
        else:
            facts.append(f"chunksize={self.blank.chunksize}")
        return f"BlankMap<{', '.join(facts)}>"

    def _repr_html_(self) -> str:
        tile = self.grid.tile
        facts = {
            "grid": f"{self.grid.rows} x {self.grid.cols} tiles of {tile[0]:,} x {tile[1]:,} px",
            "detector": str(self.detector),
            "mpp": "not known" if self.mpp_yx is None else f"{sum(self.mpp_yx) / 2:.4g} µm",
        }
        if not self.computed:
            facts["tasks"] = f"{self.blank.npartitions:,}"
            return pictures.facts_html(f"Blank map of {self.name}, not computed", facts, None)
        facts["tissue"] = f"{self.tissue_share:.1%} of the area"
        if self.unknown.any():
            facts["unknown"] = (
                f"{self.unknown.mean():.1%} of the tiles: corrupt or absent in the file"
            )
        picture = pictures.grid_picture(self.blank, side=256) if self.blank.size else None
        return pictures.facts_html(f"Blank map of {self.name}", facts, picture)


GivenMap = BlankMap | str | os.PathLike[str] | None
"""What operations take as a blank map: one, or the path of its outlines as GeoJSON."""


def _decide(
    statistics: Any, detector: StatisticsDetector, fields: tuple[str, ...], what: str
) -> Any:
    if isinstance(statistics, np.ndarray):
        return _decide_block(statistics, detector, fields, what)
    if detector.pooled:  # it needs all tiles in one block
        statistics = statistics.rechunk(statistics.shape)
    return statistics.map_blocks(
        _decide_block, detector, fields, what,
        drop_axis=2, dtype=bool, meta=np.empty((0, 0), bool), token=f"{what}-tiles",
    )  # fmt: skip


def _decide_block(
    records: Array, detector: StatisticsDetector, fields: tuple[str, ...], what: str
) -> Array:
    """Return which tiles show no tissue: those without missing pixels, or the others."""
    stats = unpacked(records, fields)
    empty = detector.fit(stats)(stats) | (stats.count == 0)
    return np.asarray(empty & (stats.known == (what == "blank")))


def _decide_areas(areas: Array, min_tissue: float, what: str) -> Array:
    tissue, missing, pixels = np.moveaxis(areas, -1, 0)
    empty = (tissue < min_tissue * pixels) | (tissue == 0)
    return np.asarray(empty & ((missing == 0) == (what == "blank")))


def checked_map(slide: Slide, blank_map: Any) -> BlankMap:
    """Return a blank map of `slide`; a path is that of its outlines in GeoJSON.

    Raises SlideArgumentError if it is none, or of another slide.
    """
    if isinstance(blank_map, str | os.PathLike):
        if os.fspath(blank_map).endswith(".zarr"):
            raise SlideArgumentError(
                f"{blank_map}: a path is that of outlines in GeoJSON; open the store first, with "
                "ds.open_blank_map"
            )
        return BlankMap.from_geojson(blank_map, slide)
    if not isinstance(blank_map, BlankMap):
        raise SlideArgumentError(
            f"{slide.name}: blank_map={type(blank_map).__name__}; give a BlankMap, or the path of "
            "its outlines as GeoJSON"
        )
    if blank_map.grid.shape != slide.shape[:2]:
        raise SlideArgumentError(
            f"{slide.name}: the blank map is of an image of {blank_map.grid.shape[0]} x "
            f"{blank_map.grid.shape[1]} px, and the slide has {slide.shape[0]} x "
            f"{slide.shape[1]} px; make the map of this slide"
        )
    return blank_map


def blank_map(
    slide: SlideLike,
    *,
    tile_size: int | Sequence[int] | None = None,
    detector: Detector = DEFAULT_DETECTOR,
    mpp: Mpp = None,
    min_tissue: float = MIN_TISSUE,
) -> BlankMap:
    """Find the blank tiles of a slide.

    Only pixels with data count. A tile that touches an absent or a masked corrupt tile of the file
    is never blank; ``.unknown`` is True for it if its other pixels show no tissue.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    tile_size : int or (int, int), optional
        Height and width of a tile in pixels of the slide, or in pixels of `mpp` if you give it.
        Tiles at the right and bottom edge may be smaller. By default 64 µm, or 256 px if the pixel
        size of the slide is not known.
    detector : Detector
        `Tissue` finds a mask in a reduced picture of the slide. `Contrast`, `Otsu`, `Brightness`,
        `Saturation`, a union ``a | b`` or an intersection ``a & b`` judge each tile by the
        statistics of all its pixels at level 0.
    mpp : float or (float, float), optional
        Micrometres per pixel in which `tile_size` counts.
    min_tissue : float
        A tile is blank if a smaller share of its area is tissue.

    Returns
    -------
    BlankMap
        Lazy; ``.blank`` is a dask array (rows, cols) of bool, True = blank.

    Raises
    ------
    SlideArgumentError
        `tile_size`, `detector` or `min_tissue` is not valid.
    SlideMppError
        `mpp` is given, and the micrometres per pixel of the slide are not known.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> ds.blank_map(da.full((400, 600, 3), 240, dtype="uint8")).compute().blank.all()
    np.True_
    """
    slide = as_slide(slide)
    tile = map_tile(slide, tile_size, mpp)
    found = map_of_grid(slide, TileGrid(slide.shape[:2], tile, tile), detector)
    return found.with_min_tissue(min_tissue)


def map_of_grid(slide: Slide, grid: TileGrid, detector: Any) -> BlankMap:
    """Return the lazy blank map of any grid, overlapping tiles included."""
    checked = checked_detector(detector)
    if isinstance(checked, MaskDetector):
        return _map_of_mask(slide, grid, checked)
    if counts_alpha(checked) and (slide.dtype != np.uint8 or slide.shape[2] != 3):
        raise SlideArgumentError(
            f"{slide.name}: with_alpha is for RGB images of 8 bits, and this one has "
            f"{slide.shape[2]} channels of {slide.dtype}; use Contrast without it"
        )
    fields = fields_of(checked.needs, slide.dtype)
    length = record_length(fields)
    found = BlankMap(grid, checked, slide, fields=fields)
    if not grid.rows * grid.cols:
        return replace(found, statistics=np.zeros((grid.rows, grid.cols, length)))
    task, chunks = stats_block(grid, fields, slide.source)
    statistics = map_blocks(task, slide.source, (*chunks, (length,)), np.dtype(float), "statistics")
    task_bytes = stats_bytes_of_task(grid, slide.source)
    return replace(found, statistics=statistics, task_bytes=task_bytes)


def _map_of_mask(slide: Slide, grid: TileGrid, detector: MaskDetector) -> BlankMap:
    _check_pixels(slide, detector)
    empty = BlankMap(grid, detector, slide)
    if not grid.rows * grid.cols:
        return replace(empty, areas=np.zeros((grid.rows, grid.cols, 3)))
    size = slide.shape[:2]
    small = overview_source(slide.source, slide.mpp_yx, detector.mpp)
    mpp = mpp_of_picture(slide, small.levels[0].shape[0])
    found = find_in_slide(small, size, mpp, detector)
    areas = area_blocks(found, grid)
    return replace(empty, areas=areas, found=found, task_bytes=overview_bytes(small))


def mpp_of_picture(slide: Slide, rows: int) -> float | None:
    """Return micrometres per pixel of a picture of `slide`; None if they tell nothing."""
    if slide.mpp is None or slide.mpp >= LARGEST_MPP:
        return None
    return slide.mpp * slide.shape[0] / rows


def _check_pixels(slide: Slide, detector: MaskDetector) -> None:
    check = getattr(detector, "check", None)  # optional in the protocol
    if check is not None:
        try:
            check(slide.shape[2], slide.dtype)
        except SlideArgumentError as error:
            raise SlideArgumentError(f"{slide.name}: {error}") from None
