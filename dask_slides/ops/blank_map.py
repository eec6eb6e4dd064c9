"""The blank map: which cells of a grid hold nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import BadTile
from dask_slides.core.geometry import Region, bounds
from dask_slides.core.grid import TileGrid, cells_a_side, tile_pair
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.bad_tiles import bad_tiles_of_cells
from dask_slides.graph.blocks import Block, map_blocks
from dask_slides.graph.statistics import StatsBlock, stats_block, stats_bytes_of_task
from dask_slides.numerics.detectors import Contrast, Detector, checked_detector
from dask_slides.numerics.statistics import FIELDS, CellStats, fields_of, record_length, unpacked
from dask_slides.plots import pictures
from dask_slides.runtime.scheduler import check_memory, compute
from dask_slides.runtime.threads import override_settings
from dask_slides.slide import Slide, as_slide

BLANK_LADDER = (40, 20, 10, 8)
"""Cells a side by the longest side of the slide: above 50,000 px, 25,000, 10,000, else."""
SMALL_GRID = 4096
"""Grids up to this many cells keep their histograms, so that any detector can be tried."""


@dataclass(frozen=True)
class BlankBlock:
    """Statistics of a block of cells and the verdict on them, in one task."""

    stats: StatsBlock
    detector: Detector

    def window(self, block: Block) -> tuple[int, Region]:
        """Return what the statistics read."""
        return self.stats.window(block)

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return (rows, cols) bool."""
        stats = unpacked(self.stats(source, block_id), self.stats.fields)
        return _judged(stats, self.detector) & stats.known


@dataclass(frozen=True)
class BlankMap:
    """Which cells of a slide's grid are blank, with the statistics that tell it.

    Lazy as `blank_map` returns it; `compute` gives the same in memory.
    """

    blank: Any = field(repr=False)
    """(rows, cols) bool, True = blank: a dask array, or numpy once computed.

    A cell that touches an absent or corrupt tile is never blank: nobody saw all of it. Nodata and
    masked pixels show nothing, so a cell of nothing else is blank.
    """
    statistics: Any = field(repr=False)
    """(rows, cols, record) float64: dask or numpy; `stats` unpacks it."""
    grid: TileGrid
    detector: Detector
    fields: tuple[str, ...]
    """What the statistics hold beyond the moments."""
    name: str = ""
    """Of the slide."""
    mpp_yx: tuple[float, float] | None = None
    task_bytes: int = field(repr=False, default=0)
    """Peak bytes of a task of the statistics."""
    source: Source | None = field(repr=False, default=None)
    """What the statistics are of."""
    bad_tiles: tuple[BadTile, ...] = field(repr=False, default=())
    """The absent and corrupt tiles that cells touch, once computed."""

    @property
    def computed(self) -> bool:
        """Whether the map is in memory."""
        return isinstance(self.statistics, np.ndarray)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.grid.rows, self.grid.cols

    @property
    def stats(self) -> CellStats:
        """The statistics of the cells; computed if they are not yet."""
        return unpacked(np.asarray(self.compute().statistics), self.fields)

    @property
    def tissue_share(self) -> float:
        """Share of the cells that are tissue: neither blank nor unknown."""
        found = self.compute()
        tissue = ~(found.blank | found.unknown)
        return float(tissue.mean()) if tissue.size else 0.0

    @property
    def unknown(self) -> Any:
        """(rows, cols) bool: cells that touch a bad tile, and the rest of which shows no tissue.

        A dask array, or numpy once computed.
        """
        if self.computed:
            return _judge_records(self.statistics, self.detector, self.fields, known=False)
        return _judged_lazily(self.detector, self.statistics, self.fields, known=False)

    def compute(self, **kwargs: Any) -> BlankMap:
        """Return the map in memory; the slide is read once.

        Parameters
        ----------
        **kwargs
            As those of ``compute`` of a dask array: ``scheduler="threads"``, ``num_workers=4``,
            and others that the scheduler takes.

        Raises
        ------
        SlideMemoryError
            A task would need more memory than a thread of a worker has.
        WorkerKilledError, ClusterLostError
            Tasks ended every worker that took them, or the scheduler was lost.
        """
        if self.computed:
            return self
        with override_settings(kwargs):
            check_memory(self.task_bytes, self.name)
            found = self.with_statistics(
                compute(self.statistics, "blank map", None, self._place_of_block)
            )
            if isinstance(self.blank, np.ndarray):  # given by the caller: it is obeyed
                found = replace(found, blank=self.blank)
            if self.source is None:
                return found
            chunks = self.statistics.chunks[:2]
            bad_tiles = bad_tiles_of_cells(self.source, self.grid, chunks, found.stats.known)
            return replace(found, bad_tiles=bad_tiles)

    def _place_of_block(self, block: Block) -> str:
        rows, columns = (bounds(lengths) for lengths in self.statistics.chunks[:2])
        i, j = block[:2]
        cells = self.grid.span(rows[i], rows[i + 1], columns[j], columns[j + 1])
        return f"{self.name}: level 0, y {cells.y}, x {cells.x}, {cells.height} x {cells.width} px"

    def with_statistics(self, statistics: Array) -> BlankMap:
        """Return the map in memory that these statistics make."""
        blank = _judge_records(statistics, self.detector, self.fields)
        return replace(self, statistics=statistics, blank=blank)

    def with_detector(self, detector: Detector) -> BlankMap:
        """Return the map that another detector makes of the same statistics: no read.

        Raises
        ------
        SlideArgumentError
            The detector needs what the statistics do not hold.
        """
        detector = checked_detector(detector)
        missing = [name for name in detector.needs if name not in self.fields]
        if missing:
            raise SlideArgumentError(
                f"{self.name}: the statistics hold no {missing[0]}, which {detector!r} needs; "
                "make the blank map with that detector from the start"
            )
        if self.computed:
            return replace(self, detector=detector).with_statistics(self.statistics)
        blank = _judged_lazily(detector, self.statistics, self.fields)
        return replace(self, detector=detector, blank=blank)

    def plot(self, ax: Any = None) -> Any:
        """Draw the map with matplotlib (the extra ``plot``); return the axes."""
        picture = pictures.grid_picture(np.asarray(self.compute().blank))
        return pictures.plot_image(picture, self.grid.shape, f"{self.name}: blank cells", ax)

    def _repr_html_(self) -> str:
        tile = self.grid.tile
        facts = {
            "grid": f"{self.grid.rows} x {self.grid.cols} cells of {tile[0]:,} x {tile[1]:,} px",
            "detector": str(self.detector),
            "mpp": "not known" if self.mpp_yx is None else f"{sum(self.mpp_yx) / 2:.4g} µm",
        }
        if not self.computed:
            facts["tasks"] = f"{self.blank.npartitions:,}"
            return pictures.facts_html(f"Blank map of {self.name}, not computed", facts, None)
        facts["tissue"] = f"{self.tissue_share:.1%} of the cells"
        if self.unknown.any():
            facts["unknown"] = f"{self.unknown.mean():.1%} of the cells, of absent or corrupt tiles"
        facts["memory"] = pictures.bytes_text(self.statistics.nbytes)
        picture = pictures.grid_picture(self.blank, side=256) if self.blank.size else None
        return pictures.facts_html(f"Blank map of {self.name}", facts, picture)


def _judged(stats: CellStats, detector: Detector) -> Array:
    """Return where the detector sees nothing, and where there is nothing to see."""
    return np.asarray(detector(stats) | (stats.count == 0))


def _judge_records(
    records: Array, detector: Detector, fields: tuple[str, ...], known: bool = True
) -> Array:
    """Return where the detector sees nothing: in cells without bad tiles, or in the others."""
    stats = unpacked(records, fields)
    return np.asarray(_judged(stats, detector.fit(stats)) & (stats.known == known))


def _judged_lazily(
    detector: Detector, statistics: Any, fields: tuple[str, ...], known: bool = True
) -> da.Array:
    if detector.pooled:  # it must see every cell at once
        statistics = statistics.rechunk(statistics.shape)
    return statistics.rechunk({2: -1}).map_blocks(
        _judge_records, detector, fields, known,
        drop_axis=2, dtype=bool, meta=np.empty((0, 0), bool),
    )  # fmt: skip


def blank_map(
    slide: Any, *, tile_size: Any = None, detector: Detector = Contrast(0.05)
) -> BlankMap:
    """Find the blank cells of a slide, exactly, at level 0.

    A cell is judged by the pixels that the file holds. Where tiles are absent, or corrupt and
    masked, it is blank for nobody: ``.unknown`` says where the rest of it shows no tissue.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    tile_size : int or (int, int), optional
        Height and width of a cell in pixels; any size, cells at the right and bottom edge
        are what is left. By default 40, 20, 10 or 8 cells a side for a longest side above
        50,000, 25,000, 10,000 px, or less.
    detector : Detector
        `Contrast`, `Otsu`, `Brightness`, `Saturation`, a union ``a | b`` or an intersection
        ``a & b``.

    Returns
    -------
    BlankMap
        Lazy; ``.blank`` is a dask array (rows, cols) of bool, True = blank.

    Raises
    ------
    SlideArgumentError
        The tile size or the detector is none.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> ds.blank_map(da.full((400, 600, 3), 240, dtype="uint8")).compute().blank.all()
    np.True_
    """
    slide = as_slide(slide)
    height, width, _ = slide.shape
    if tile_size is None:
        cells = cells_a_side(max(height, width), BLANK_LADDER)
        tile = (_cell_side(height, cells), _cell_side(width, cells))
    else:
        tile = tile_pair(tile_size)
    return map_of_grid(slide, TileGrid((height, width), tile, tile), detector)


def _cell_side(size: int, cells: int) -> int:
    """Return the side of one of `cells` cells: of a large image a multiple of 8.

    What is cut off at such sides can be read at 1/8, and the number of cells stays.
    """
    side = max(1, -(-size // cells))
    whole = -(-side // 8) * 8
    return whole if -(-size // whole) == cells else side


def map_of_grid(slide: Slide, grid: TileGrid, detector: Any) -> BlankMap:
    """Return the lazy blank map of any grid, overlapping tiles included."""
    detector = checked_detector(detector)
    keep = detector.needs if grid.rows * grid.cols > SMALL_GRID else FIELDS[:1] + detector.needs
    fields = fields_of(keep, slide.dtype)
    task, chunks = stats_block(grid, fields, slide.source)
    if not grid.rows * grid.cols:
        empty = np.zeros((grid.rows, grid.cols, record_length(fields)))
        none = np.zeros((grid.rows, grid.cols), bool)
        return BlankMap(none, empty, grid, detector, fields, slide.name, slide.mpp_yx)
    statistics = map_blocks(
        task, slide.source, (*chunks, (record_length(fields),)), np.dtype(float), "statistics"
    )
    if detector.pooled:
        blank = _judged_lazily(detector, statistics, fields)
    else:
        blank = map_blocks(
            BlankBlock(task, detector), slide.source, chunks, np.dtype(bool), "blank-map"
        )
    return BlankMap(
        blank, statistics, grid, detector, fields, slide.name, slide.mpp_yx,
        stats_bytes_of_task(grid, slide.source), slide.source,
    )  # fmt: skip
