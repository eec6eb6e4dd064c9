"""Blank maps: which tiles of a slide show no tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import BadTile
from dask_slides.core.equality import EqualByFields
from dask_slides.core.geometry import bounds
from dask_slides.core.grid import TileGrid, tile_pair, tiles_per_side
from dask_slides.core.source import Source, provenance
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.bad_tiles import bad_tiles_of_cells
from dask_slides.graph.blocks import Block, map_blocks
from dask_slides.graph.statistics import stats_block, stats_bytes_of_task
from dask_slides.numerics.detectors import Contrast, Detector, checked_detector
from dask_slides.numerics.statistics import FIELDS, CellStats, fields_of, record_length, unpacked
from dask_slides.plots import pictures
from dask_slides.runtime.scheduler import check_memory, compute
from dask_slides.runtime.threads import override_settings
from dask_slides.slide import Slide, SlideLike, as_slide, mpp_text

BLANK_LADDER = (40, 20, 10, 8)
"""Tiles per side, for a longest side above 50,000 px, 25,000, 10,000, and below."""
SMALL_GRID = 4096
"""Grids of up to this many tiles store histograms, so that you can change the detector later."""


@dataclass(frozen=True, eq=False, repr=False)
class BlankMap(EqualByFields):
    """The blank tiles of a slide, and the statistics that a detector decides by.

    `blank_map` returns a lazy one; `compute` returns the same in memory.
    """

    blank: Any
    """(rows, cols) bool, True = blank: a dask array, or numpy once computed.

    A tile that touches an absent or corrupt tile of the file is never blank, as some of its pixels
    are missing. Nodata and masked pixels show no tissue: a tile without other pixels is blank.
    """
    statistics: Any
    """(rows, cols, record) float64, dask or numpy; `stats` has them by name."""
    grid: TileGrid
    """The tiles, in pixels of level 0."""
    detector: Detector
    fields: tuple[str, ...]
    """Names of the statistics beyond count, sum and sum of squares."""
    name: str = ""
    """Name of the slide."""
    mpp_yx: tuple[float, float] | None = None
    """Micrometres per pixel of level 0 of the slide, along y and x."""
    task_bytes: int = 0
    """Peak memory in bytes of one task that computes statistics."""
    source: Source | None = None
    """The pixels that the statistics are computed from."""
    bad_tiles: tuple[BadTile, ...] = ()
    """The absent and corrupt tiles of the file that the grid touches; empty until computed."""

    @property
    def computed(self) -> bool:
        """Whether the map is in memory."""
        return isinstance(self.statistics, np.ndarray)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.grid.rows, self.grid.cols

    @property
    def stats(self) -> CellStats:
        """The statistics of the tiles; computed if the map is lazy."""
        return unpacked(np.asarray(self.compute().statistics), self.fields)

    @property
    def tissue_share(self) -> float:
        """Share of the tiles that are tissue: neither blank nor unknown."""
        found = self.compute()
        tissue = ~(found.blank | found.unknown)
        return float(tissue.mean()) if tissue.size else 0.0

    @property
    def unknown(self) -> Any:
        """(rows, cols) bool: tiles that touch a bad tile of the file and show no tissue elsewhere.

        A dask array, or numpy once computed.
        """
        return _decide(self.statistics, self.detector, self.fields, known=False)

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
            `blank` and `statistics` are numpy arrays.

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
            found = self.with_statistics(
                compute(self.statistics, "blank map", None, self._describe_block)
            )
            if isinstance(self.blank, np.ndarray):  # set by the caller, so it is not replaced
                found = replace(found, blank=self.blank)
            if self.source is None:
                return found
            chunks = self.statistics.chunks[:2]
            bad_tiles = bad_tiles_of_cells(self.source, self.grid, chunks, found.stats.known)
            return replace(found, bad_tiles=bad_tiles)

    def _describe_block(self, block: Block) -> str:
        rows, columns = (bounds(lengths) for lengths in self.statistics.chunks[:2])
        i, j = block[:2]
        region = self.grid.span(rows[i], rows[i + 1], columns[j], columns[j + 1])
        size = f"{region.height} x {region.width} px"
        return f"{self.name}: level 0, y {region.y}, x {region.x}, {size}"

    def with_statistics(self, statistics: Array) -> BlankMap:
        """Return the computed map with these statistics; the detector decides what is blank."""
        blank = _decide(statistics, self.detector, self.fields)
        return replace(self, statistics=statistics, blank=blank)

    def with_detector(self, detector: Detector) -> BlankMap:
        """Apply another detector to the same statistics; nothing is read.

        Parameters
        ----------
        detector : Detector
            As in `blank_map`.

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
        >>> found = ds.blank_map(image, tile_size=3).compute()
        >>> found.with_detector(ds.Contrast(0.5)).blank
        array([[False,  True],
               [ True,  True]])
        """
        detector = checked_detector(detector)
        missing = [name for name in detector.needs if name not in self.fields]
        if missing:
            raise SlideArgumentError(
                f"{self.name}: the statistics hold no {missing[0]}, which {detector!r} needs; "
                "make the blank map with that detector from the start"
            )
        blank = _decide(self.statistics, detector, self.fields)
        return replace(self, detector=detector, blank=blank)

    def plot(self, ax: Any = None) -> Any:
        """Draw the map with matplotlib (the extra ``plot``); return the axes."""
        picture = pictures.grid_picture(np.asarray(self.compute().blank))
        return pictures.plot_image(picture, self.grid.shape, f"{self.name}: blank tiles", ax)

    def __repr__(self) -> str:
        source = self.name if self.source is None else provenance(self.source, self.name)
        facts = [
            source, f"shape={self.shape}", "dtype=bool", f"tile_size={self.grid.tile}",
            f"mpp={mpp_text(self.mpp_yx)}", f"detector={self.detector!r}",
        ]  # fmt: skip
        if self.computed:
            facts.append(f"tissue={self.tissue_share:.1%}")
        else:
            facts.append(f"chunksize={self.statistics.chunksize[:2]}")
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
        facts["tissue"] = f"{self.tissue_share:.1%} of the tiles"
        if self.unknown.any():
            facts["unknown"] = (
                f"{self.unknown.mean():.1%} of the tiles: corrupt or absent in the file"
            )
        facts["memory"] = pictures.bytes_text(self.statistics.nbytes)
        picture = pictures.grid_picture(self.blank, side=256) if self.blank.size else None
        return pictures.facts_html(f"Blank map of {self.name}", facts, picture)


def _decide(
    statistics: Any, detector: Detector, fields: tuple[str, ...], known: bool = True
) -> Any:
    """Return which tiles are blank, or which are unknown if `known` is False.

    The array is a dask or numpy array, as `statistics` is. Its tasks take `statistics`, so that
    computing several of these arrays together reads the slide once.
    """
    if isinstance(statistics, np.ndarray):
        return _decide_block(statistics, detector, fields, known)
    if detector.pooled:  # it needs all tiles in one block
        statistics = statistics.rechunk(statistics.shape)
    label = "blank-map" if known else "unknown-tiles"
    return statistics.map_blocks(
        _decide_block, detector, fields, known,
        drop_axis=2, dtype=bool, meta=np.empty((0, 0), bool), token=label,
    )  # fmt: skip


def _decide_block(
    records: Array, detector: Detector, fields: tuple[str, ...], known: bool
) -> Array:
    """Return which tiles show no tissue: those without missing pixels, or the others."""
    stats = unpacked(records, fields)
    empty = detector.fit(stats)(stats) | (stats.count == 0)
    return np.asarray(empty & (stats.known == known))


def blank_map(
    slide: SlideLike,
    *,
    tile_size: int | Sequence[int] | None = None,
    detector: Detector = Contrast(0.05),
) -> BlankMap:
    """Find the blank tiles of a slide from all its pixels at level 0.

    Only pixels with data count. A tile that touches an absent or a masked corrupt tile of the file
    is never blank; ``.unknown`` is True for it if its other pixels show no tissue.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    tile_size : int or (int, int), optional
        Height and width of a tile in pixels of the slide. Tiles at the right and bottom edge may
        be smaller. By default there are 40 tiles per side if the longest side is above 50,000 px,
        20 above 25,000 px, 10 above 10,000 px, and 8 otherwise.
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
        `tile_size` or `detector` is not valid.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> ds.blank_map(da.full((400, 600, 3), 240, dtype="uint8")).compute().blank.all()
    np.True_
    """
    slide = as_slide(slide)
    height, width, _ = slide.shape
    if tile_size is None:
        count = tiles_per_side(max(height, width), BLANK_LADDER)
        tile = (_tile_side(height, count), _tile_side(width, count))
    else:
        tile = tile_pair(tile_size)
    return map_of_grid(slide, TileGrid((height, width), tile, tile), detector)


def _tile_side(size: int, count: int) -> int:
    """Return the side of `count` tiles that cover `size`, a multiple of 8 if possible.

    A slide that is cut at multiples of 8 can be decoded at 1/8.
    """
    side = max(1, -(-size // count))
    multiple = -(-side // 8) * 8
    return multiple if -(-size // multiple) == count else side


def map_of_grid(slide: Slide, grid: TileGrid, detector: Any) -> BlankMap:
    """Return the lazy blank map of any grid, overlapping tiles included."""
    detector = checked_detector(detector)
    stored = detector.needs if grid.rows * grid.cols > SMALL_GRID else FIELDS[:1] + detector.needs
    fields = fields_of(stored, slide.dtype)
    length = record_length(fields)
    if not grid.rows * grid.cols:
        statistics: Any = np.zeros((grid.rows, grid.cols, length))
        blank = np.zeros((grid.rows, grid.cols), bool)
        return BlankMap(blank, statistics, grid, detector, fields, slide.name, slide.mpp_yx)
    task, chunks = stats_block(grid, fields, slide.source)
    statistics = map_blocks(task, slide.source, (*chunks, (length,)), np.dtype(float), "statistics")
    return BlankMap(
        _decide(statistics, detector, fields), statistics, grid, detector, fields,
        slide.name, slide.mpp_yx, stats_bytes_of_task(grid, slide.source), slide.source,
    )  # fmt: skip
