"""Packs of tiles: the dense tiles of a slide's grid, ready for a network."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from dask_slides.core.bad_tiles import bad_tiles_to_json
from dask_slides.core.grid import EDGES, Edge, TileGrid, cells_a_side, tile_pair
from dask_slides.core.source import root_of
from dask_slides.core.types import Array
from dask_slides.errors import BlankSlideWarning, SlideArgumentError
from dask_slides.graph.block_array import block_array
from dask_slides.graph.blocks import map_blocks
from dask_slides.graph.tiles import MIN_TASKS, SlideTileReader, plan_tile_blocks
from dask_slides.numerics.detectors import Contrast, Detector
from dask_slides.ops.blank_map import BlankMap, map_of_grid
from dask_slides.ops.resize import output_shape, resized
from dask_slides.plots import pictures
from dask_slides.readers.dask_array import ArraySource
from dask_slides.readers.tile_status import fill_for
from dask_slides.runtime.scheduler import compute
from dask_slides.runtime.threads import in_threads
from dask_slides.slide import Mpp, Slide, as_slide

DENSE = Contrast(0.35)
"""The detector of packs and crops by default."""

PACK_LADDER = (20, 10, 5, 4)
"""Tiles a side (of the mean side) by the longest side: above 50,000 px, 25,000, 10,000, else."""


@dataclass(frozen=True)
class TilePack:
    """Tiles of one size, with their place in the source and their score."""

    tiles: da.Array = field(repr=False)
    """(n, h, w, c), the dtype of the slide; lazy."""
    y: NDArray[np.int64] = field(repr=False)
    """(n,) top of each tile, in pixels of level 0 of the source."""
    x: NDArray[np.int64] = field(repr=False)
    """(n,) left of each tile, in pixels of level 0 of the source."""
    score: NDArray[np.float64] = field(repr=False)
    """(n,) standard deviation of the samples of each tile: more is more informative."""
    attributes: Mapping[str, Any] = field(repr=False)
    """source, source_shape, mpp, downsample, tile_size, stride, detector, version.

    And where tiles of the slide are absent or corrupt, how many tiles were `skipped` as they
    touch one, and the list of those, `bad_tiles`.
    """
    reader: Any = field(repr=False, default=None)
    """What a worker reads tiles with (TileReader); None reads through `tiles`."""

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.y)

    def __getitem__(self, i: Any) -> Array:
        """Read tile `i` (h, w, c) now and alone, where a chunk of `tiles` holds many.

        Or several (n, h, w, c), by a slice, numbers in any order, or a mask of n booleans: in
        threads of this process, and without the second copy that a task's results are put
        together with. With this and its length a pack is a map-style dataset, as PyTorch's
        DataLoader takes it, in workers of any kind.

        Raises
        ------
        IndexError
            The pack has fewer tiles.
        """
        if isinstance(i, slice) or np.ndim(i) == 1:
            return self._several(np.arange(len(self))[i])
        number = operator.index(i)
        if not -len(self) <= number < len(self):
            raise IndexError(f"tile {number:,} of a pack of {len(self):,}")
        number %= len(self)
        if self.reader is None:
            return np.asarray(self.tiles[number].compute(scheduler="sync"))
        return np.asarray(self.reader(number, number + 1)[0])

    def _several(self, numbers: NDArray[np.int64]) -> Array:
        if self.reader is None:
            return compute(self.tiles[numbers], "read tiles")
        out = np.empty((len(numbers), *self.tiles.shape[1:]), self.tiles.dtype)
        order = np.argsort(numbers, kind="stable")  # neighbours share what is decoded

        def read(part: NDArray[np.int64]) -> None:
            self.reader.read(numbers[part], [out[at] for at in part])

        in_threads(read, order)
        return out

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of the tiles; None if not known."""
        value = self.attributes.get("mpp")
        return None if value is None else float(value)

    def contact_sheet(self, count: int = 64, columns: int = 8, side: int = 128) -> Array:
        """Return a picture (y, x, 3), uint8, of up to `count` tiles spread over the pack."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))
        return pictures.contact_sheet(list(self[chosen]), columns, side)

    def plot(self, ax: Any = None, count: int = 64) -> Any:
        """Draw a contact sheet with matplotlib (the extra ``plot``); return the axes."""
        ax = pictures.axes_or_new(ax)
        ax.imshow(self.contact_sheet(count))
        ax.set_title(f"{self.attributes.get('source')}: {len(self):,} tiles")
        ax.set_axis_off()
        return ax

    def _repr_html_(self) -> str:
        count, height, width, channels = self.tiles.shape
        facts = {
            "tiles": f"{count:,} of {height:,} x {width:,} px, {channels} channels, "
            f"{self.tiles.dtype}",
            "mpp": "not known" if self.mpp is None else f"{self.mpp:.4g} µm",
            "detector": str(self.attributes.get("detector")),
            "score": "{:.1f} to {:.1f}".format(*np.sort(self.score)[[0, -1]]) if count else "none",
            "tasks": f"{self.tiles.npartitions:,}",
            "memory": pictures.bytes_text(self.tiles.nbytes) + " in all",
        }
        picture = self.contact_sheet(16, 4, 64) if 0 < height * width <= 2**21 else None
        return pictures.facts_html(f"Tiles of {self.attributes.get('source')}", facts, picture)


def pack_at(
    slide: Slide,
    image: Slide,
    yx: NDArray[np.int64],
    tile: tuple[int, int],
    score: NDArray[np.float64],
    attributes: Mapping[str, Any],
    fill: float,
    tasks: int = MIN_TASKS,
) -> TilePack:
    """Return the pack of tiles at `yx` of `image`, a resized `slide`."""
    source = image.source
    task, lengths = plan_tile_blocks(source, yx, tile, fill, tasks)
    shape = (len(yx), *tile, source.channels)
    if len(yx):
        chunks = (lengths, *((side,) for side in shape[1:]))
        tiles = block_array(map_blocks(task, source, chunks, source.dtype, "tiles"))
    else:
        tiles = da.empty(shape, dtype=source.dtype, chunks=(1, *shape[1:]))
    level0 = np.rint(yx * _factors(slide, image)).astype(np.int64)
    reader = None if isinstance(root_of(source), ArraySource) else SlideTileReader(task, source)
    return TilePack(tiles, level0[:, 0], level0[:, 1], score, attributes, reader)


def _fill_of(slide: Slide, fill: Any) -> Any:
    """Return what tiles beyond the image are filled up with; a `fill` of the dtype, if given."""
    if fill is None and slide.source.fill is not None:
        return slide.source.fill
    if fill is not None and not isinstance(fill, int | float | np.number):
        raise SlideArgumentError(f"{slide.name}: fill={fill!r} is not a number; give one, or None")
    colour = slide.dtype == np.uint8 and slide.shape[2] == 3
    return fill_for(slide.name, fill, slide.dtype, colour=colour)


def _factors(slide: Slide, image: Slide) -> list[float]:
    """Return pixels of `slide` for one of `image`; 1 where all was cut off and none is left."""
    return [a / b if b else 1.0 for a, b in zip(slide.shape[:2], image.shape[:2], strict=True)]


def pack_attributes(slide: Slide, image: Slide, found: BlankMap, stride: Any) -> dict[str, Any]:
    """Return what a pack says of itself; plain values for JSON."""
    from dask_slides.core.version import __version__

    attributes = {
        "source": slide.name,
        "source_shape": list(slide.shape),
        "mpp": image.mpp,
        "downsample": _factors(slide, image),
        "tile_size": list(found.grid.tile),
        "stride": stride,
        "detector": repr(found.detector),
        "version": __version__,
    }
    skipped = int(np.count_nonzero(~found.stats.known))
    if skipped:
        attributes |= {"skipped": skipped, "bad_tiles": bad_tiles_to_json(found.bad_tiles)}
    return attributes


def pack_image(slide: Slide, downsample: float | None, mpp: Mpp) -> Slide:
    """Return the slide at the scale asked for; full resolution without a scale argument."""
    if downsample is None and mpp is None:
        return slide
    return resized(slide, output_shape(slide, downsample, mpp), "lanczos", 2.0)


def plan_pack(
    slide: Slide, tile_size: Any, stride: Any, downsample: float | None, mpp: Mpp, edge: Edge
) -> tuple[Slide, TileGrid]:
    """Return the slide at the scale of the pack, and the grid of its tiles: plain numbers."""
    if edge not in EDGES:
        raise SlideArgumentError(f"edge={edge!r} is not known; use one of {', '.join(EDGES)}")
    image = pack_image(slide, downsample, mpp)
    height, width = image.shape[:2]
    if tile_size is None:
        cells = cells_a_side(max(height, width), PACK_LADDER)
        tile_size = max(1, (height + width) // 2 // cells)
    tile = tile_pair(tile_size)
    step = tile if stride is None else tile_pair(stride, "stride")
    if edge != "pad" and height * width and (height < tile[0] or width < tile[1]):
        raise SlideArgumentError(
            f"{slide.name}: a tile of {tile[0]} x {tile[1]} px does not fit the image of "
            f"{height} x {width} px; use smaller tiles or edge='pad'"
        )
    return image, TileGrid((height, width), tile, step, edge)


def check_top_k(top_k: Any) -> None:
    """Raise SlideArgumentError unless `top_k` is a count or None."""
    if top_k is not None and (not isinstance(top_k, int | np.integer) or top_k < 1):
        raise SlideArgumentError(f"top_k={top_k!r} is not a count; give 1 or more")


def pack_tiles(
    slide: Any,
    *,
    tile_size: Any = None,
    stride: Any = None,
    downsample: float | None = None,
    mpp: Mpp = None,
    detector: Detector = DENSE,
    edge: Edge = "drop",
    top_k: int | None = None,
    fill: float | None = None,
    blank_map: BlankMap | None = None,
) -> TilePack:
    """Pack the tiles of a slide that are not blank.

    The statistics of the tiles are computed here, in one pass; the tiles stay lazy. A tile that
    touches an absent or a masked corrupt tile of the slide is never packed.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    tile_size : int or (int, int), optional
        Height and width of a tile in pixels of the pack. By default square tiles, 20, 10, 5
        or 4 along the mean side for a longest side above 50,000, 25,000, 10,000 px, or less.
    stride : int or (int, int), optional
        Distance between tiles; by default the tile size, so that they do not overlap.
    downsample, mpp
        Scale of the tiles, as in `resize`; by default full resolution.
    detector : Detector
        Judges each tile by its own pixels, as they are packed.
    edge : {"drop", "pad", "shift"}
        What becomes of a last tile that does not fit: it is left out, filled up with `fill`,
        or moved back until it fits.
    top_k : int, optional
        Only the k tiles of the highest score; of equal ones those further up, then left.
    fill : float, optional
        What `edge="pad"` fills up with; by default what pixels of the slide without a value show,
        of a dask array white if it has three channels of bytes, else 0.
    blank_map : BlankMap, optional
        A map whose cells are the tiles of the pack, made of this slide, or of its `resize` if the
        pack has a scale. It decides, instead of `detector`: a tile is packed where ``.blank`` is
        False, and no pixel is read to find out. `tile_size` is that of its cells by default.

    Returns
    -------
    TilePack
        ``.tiles`` (n, h, w, c), ``.y``, ``.x`` in pixels of level 0, ``.score`` the standard
        deviation of each tile; in order of position. n is 0 where all is blank, and
        BlankSlideWarning says so.

    Raises
    ------
    SlideArgumentError
        An argument is wrong.
    SlideMppError
        `mpp` is asked for and the slide has none.
    """
    slide = as_slide(slide)
    check_top_k(top_k)
    if blank_map is not None:
        check_obeyed(slide, blank_map, detector is DENSE)
        tile_size = blank_map.grid.tile if tile_size is None else tile_size
    image, grid = plan_pack(slide, tile_size, stride, downsample, mpp, edge)
    fill = _fill_of(slide, fill)
    if blank_map is None:
        found = map_of_grid(image, grid, detector).compute()
    else:
        found = _of_tiles(slide, blank_map, grid)
    kept = np.flatnonzero(found.stats.whole & ~np.asarray(found.blank))
    score = found.stats.std.reshape(-1)[kept]
    if top_k is not None:
        best = np.sort(np.argsort(-score, kind="stable")[:top_k])
        kept, score = kept[best], score[best]
    if not len(kept):
        warn_blank(slide, found)
    rows, columns = np.divmod(kept, max(1, grid.cols))
    yx = np.stack((grid.starts(0)[rows], grid.starts(1)[columns]), axis=1)
    attributes = pack_attributes(slide, image, found, list(grid.stride))
    attributes["edge"] = edge
    return pack_at(slide, image, yx, grid.tile, score, attributes, fill)


def check_obeyed(slide: Slide, blank_map: Any, alone: bool) -> None:
    """Raise SlideArgumentError unless `blank_map` is one, and `alone`: without a detector."""
    if not isinstance(blank_map, BlankMap):
        raise SlideArgumentError(
            f"{slide.name}: blank_map={type(blank_map).__name__}; give what blank_map() returns"
        )
    if not alone:
        raise SlideArgumentError(
            f"{slide.name}: detector and blank_map exclude each other, as the map decides; give "
            "one, or blank_map.with_detector(detector)"
        )


def _of_tiles(slide: Slide, blank_map: BlankMap, grid: TileGrid) -> BlankMap:
    """Return what `blank_map` says of the tiles of `grid`, which are its cells."""
    cells = blank_map.grid
    if not cells.has(grid):
        raise SlideArgumentError(
            f"{slide.name}: the cells of the blank map, {cells.tile[0]} x {cells.tile[1]} px of an "
            f"image of {cells.shape[0]} x {cells.shape[1]}, are not the tiles, {grid.tile[0]} x "
            f"{grid.tile[1]} px of {grid.shape[0]} x {grid.shape[1]}; make the map with the tile "
            "size and at the scale of the pack"
        )
    found = blank_map.compute()
    own = slice(grid.rows), slice(grid.cols)
    return replace(
        found, grid=grid, blank=np.asarray(found.blank)[own], statistics=found.statistics[own]
    )


def warn_blank(slide: Slide, found: BlankMap) -> None:
    """Tell the caller of a public function that nothing was found."""
    bad = "" if found.stats.whole.all() else " or touches absent or corrupt tiles of the slide"
    warnings.warn(
        f"{slide.name}: every tile is blank under {found.detector}{bad}; the pack is empty",
        BlankSlideWarning,
        stacklevel=3,
    )
