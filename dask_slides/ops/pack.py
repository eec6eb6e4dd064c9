"""Tile packs: the dense tiles of a slide, ready for training."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from dask_slides.core.bad_tiles import bad_tiles_to_json
from dask_slides.core.grid import EDGES, Edge, TileGrid, tile_pair, tiles_per_side
from dask_slides.core.source import root_of
from dask_slides.core.types import Array
from dask_slides.errors import BlankSlideWarning, SlideArgumentError
from dask_slides.graph.blocks import map_blocks
from dask_slides.graph.tiles import MIN_TASKS, SlideTileReader, TileReader, plan_tile_blocks
from dask_slides.numerics.detectors import Contrast, Detector
from dask_slides.ops.blank_map import BlankMap, map_of_grid
from dask_slides.ops.resize import output_shape, resized
from dask_slides.plots import pictures
from dask_slides.readers.dask_array import ArraySource
from dask_slides.readers.tile_status import fill_for
from dask_slides.runtime.scheduler import compute
from dask_slides.runtime.threads import in_threads
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide

DENSE = Contrast(0.35)
"""Default detector of packs and crops."""

PACK_LADDER = (20, 10, 5, 4)
"""Tiles per side, for a longest side above 50,000 px, 25,000 px, 10,000 px, and below."""


@dataclass(frozen=True, eq=False, repr=False)  # == of arrays is not a bool
class TilePack:
    """Tiles of one size, with their positions in the source and their scores.

    Two packs are equal only if they are the same object.
    """

    __array_ufunc__: ClassVar[None] = None
    """Prevents NumPy from reading all tiles for ``array == pack``."""

    tiles: da.Array
    """(n, h, w, c), of the dtype of the slide; lazy."""
    y: NDArray[np.int64]
    """(n,) top of each tile, in pixels of level 0 of the source."""
    x: NDArray[np.int64]
    """(n,) left of each tile, in pixels of level 0 of the source."""
    score: NDArray[np.float64]
    """(n,) standard deviation of the samples of each tile: higher is more informative."""
    attributes: Mapping[str, Any]
    """source, source_shape, mpp, downsample, tile_size, stride, detector, version.

    If tiles of the slide are absent or corrupt, also `bad_tiles`, the list of these tiles, and
    `skipped`, the number of tiles that were left out of the pack because they touch one.
    """
    reader: TileReader | None = None
    """Reads tiles without dask; if None, they are read through `tiles`."""

    def __repr__(self) -> str:
        facts = [
            str(self.attributes.get("source")), f"shape={self.tiles.shape}",
            f"dtype={self.tiles.dtype}", f"mpp={self.mpp and f'{self.mpp:.4g}'}",
            f"detector={self.attributes.get('detector')}", f"chunksize={self.tiles.chunksize}",
        ]  # fmt: skip
        return f"TilePack<{', '.join(facts)}>"

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.y)

    def __getitem__(self, i: Any) -> Array:
        """Read tile `i` (h, w, c), and no other tile of its chunk.

        A slice, a list of numbers in any order, or a mask of n booleans reads several tiles
        (n, h, w, c), in threads of this process. So a pack is a map-style dataset for PyTorch's
        DataLoader, with any kind of workers.

        Raises
        ------
        IndexError
            `i` is not the number of a tile.
        """
        if isinstance(i, slice) or np.ndim(i) == 1:
            return self._read_several(np.arange(len(self))[i])
        number = operator.index(i)
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no tile {number:,} in a pack of {len(self):,}")
        number %= len(self)
        if self.reader is None:
            return np.asarray(self.tiles[number].compute(scheduler="sync"))
        return np.asarray(self.reader(number, number + 1)[0])

    def _read_several(self, numbers: NDArray[np.int64]) -> Array:
        if self.reader is None:
            return compute(self.tiles[numbers], "read tiles")
        reader = self.reader
        out = np.empty((len(numbers), *self.tiles.shape[1:]), self.tiles.dtype)
        order = np.argsort(numbers, kind="stable")  # neighbours share decoded tiles of the slide

        def read(part: NDArray[np.int64]) -> None:
            reader.read(numbers[part], [out[i] for i in part])

        in_threads(read, order)
        return out

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of the tiles; None if unknown."""
        value = self.attributes.get("mpp")
        return None if value is None else float(value)

    def contact_sheet(self, count: int = 64, columns: int = 8, side: int = 128) -> Array:
        """Return a picture of up to `count` evenly chosen tiles, (y, x, 3) uint8."""
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
    """Return the pack of tiles at `yx` of `image`, which is `slide` at another scale."""
    source = image.source
    task, lengths = plan_tile_blocks(source, yx, tile, fill, tasks)
    shape = (len(yx), *tile, source.channels)
    if len(yx):
        chunks = (lengths, *((side,) for side in shape[1:]))
        tiles = map_blocks(task, source, chunks, source.dtype, "pack")
    else:
        tiles = da.empty(shape, dtype=source.dtype, chunks=(1, *shape[1:]))
    level0 = np.rint(yx * _factors(slide, image)).astype(np.int64)
    reader = None if isinstance(root_of(source), ArraySource) else SlideTileReader(task, source)
    return TilePack(tiles, level0[:, 0], level0[:, 1], score, attributes, reader)


def _fill_of(slide: Slide, fill: Any) -> Any:
    """Return the value of pixels beyond the image; raise if `fill` does not fit the dtype."""
    if fill is None and slide.source.fill is not None:
        return slide.source.fill
    if fill is not None and not isinstance(fill, int | float | np.number):
        raise SlideArgumentError(f"{slide.name}: fill={fill!r} is not a number; give one, or None")
    colour = slide.dtype == np.uint8 and slide.shape[2] == 3
    return fill_for(slide.name, fill, slide.dtype, colour=colour)


def _factors(slide: Slide, image: Slide) -> list[float]:
    """Return the pixels of `slide` per pixel of `image`, (y, x); 1 if `image` is empty."""
    return [a / b if b else 1.0 for a, b in zip(slide.shape[:2], image.shape[:2], strict=True)]


def pack_attributes(slide: Slide, image: Slide, found: BlankMap, stride: Any) -> dict[str, Any]:
    """Return the attributes of a pack: plain values for JSON."""
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
    """Return the slide at a scale, by default at full resolution."""
    if downsample is None and mpp is None:
        return slide
    return resized(slide, output_shape(slide, downsample, mpp), "lanczos", 2.0)


def plan_pack(
    slide: Slide, tile_size: Any, stride: Any, downsample: float | None, mpp: Mpp, edge: Edge
) -> tuple[Slide, TileGrid]:
    """Return the slide at the scale of the pack, and the grid of its tiles. Nothing is read."""
    if edge not in EDGES:
        raise SlideArgumentError(f"edge={edge!r} is not known; use one of {', '.join(EDGES)}")
    image = pack_image(slide, downsample, mpp)
    height, width = image.shape[:2]
    if tile_size is None:
        count = tiles_per_side(max(height, width), PACK_LADDER)
        tile_size = max(1, (height + width) // 2 // count)
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
    slide: SlideLike,
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

    The statistics of the tiles are computed immediately, in one pass; the tiles stay lazy. A tile
    that touches an absent or a masked corrupt tile of the slide is never packed.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    tile_size : int or (int, int), optional
        Height and width of a tile in pixels of the pack. By default tiles are square. There are 20
        along the mean of both sides if the longest side is above 50,000 px, 10 above 25,000 px,
        5 above 10,000 px, and 4 otherwise.
    stride : int or (int, int), optional
        Distance between tiles; by default the tile size, so that they do not overlap.
    downsample, mpp
        Scale of the tiles, as in `resize`; by default full resolution.
    detector : Detector
        Decides which tiles are blank, from their pixels at the scale of the pack.
    edge : {"drop", "pad", "shift"}
        What to do with a tile that reaches beyond the edge of the image: leave it out, pad it with
        `fill`, or move it back until it fits.
    top_k : int, optional
        Pack only the `top_k` tiles with the highest scores. If scores are equal, upper tiles are
        preferred, then left ones.
    fill : float, optional
        Value of the pixels that ``edge="pad"`` adds. By default the fill value of the slide; for a
        dask array, white if it has three channels of uint8, else 0.
    blank_map : BlankMap, optional
        Used instead of `detector`: tiles where ``.blank`` is False are packed. It must be of this
        slide, or of its `resize` if the pack has a scale, and its cells must be the tiles of the
        pack. `tile_size` is by default the size of its cells. If it is computed, no pixel is read.

    Returns
    -------
    TilePack
        ``.tiles`` (n, h, w, c); ``.y`` and ``.x`` in pixels of level 0; ``.score``, the standard
        deviation of each tile. Ordered by position. If all tiles are blank, the pack is empty and
        BlankSlideWarning is issued.

    Raises
    ------
    SlideArgumentError
        An argument is wrong.
    SlideMppError
        `mpp` is given, and the micrometres per pixel of the slide are not known.
    """
    slide = as_slide(slide)
    check_top_k(top_k)
    if blank_map is not None:
        check_blank_map(slide, blank_map, detector)
        tile_size = blank_map.grid.tile if tile_size is None else tile_size
    image, grid = plan_pack(slide, tile_size, stride, downsample, mpp, edge)
    fill = _fill_of(slide, fill)
    if blank_map is None:
        found = map_of_grid(image, grid, detector).compute()
    else:
        found = _cells_of_grid(slide, blank_map, grid)
    chosen = np.flatnonzero(found.stats.whole & ~np.asarray(found.blank))
    score = found.stats.std.reshape(-1)[chosen]
    if top_k is not None:
        best = np.sort(np.argsort(-score, kind="stable")[:top_k])
        chosen, score = chosen[best], score[best]
    if not len(chosen):
        warn_blank(slide, found)
    rows, columns = np.divmod(chosen, max(1, grid.cols))
    yx = np.stack((grid.starts(0)[rows], grid.starts(1)[columns]), axis=1)
    attributes = pack_attributes(slide, image, found, list(grid.stride))
    attributes["edge"] = edge
    return pack_at(slide, image, yx, grid.tile, score, attributes, fill)


def check_blank_map(slide: Slide, blank_map: Any, detector: Detector) -> None:
    """Raise SlideArgumentError unless `blank_map` is a blank map, given without a detector."""
    if not isinstance(blank_map, BlankMap):
        raise SlideArgumentError(
            f"{slide.name}: blank_map={type(blank_map).__name__}; give a BlankMap"
        )
    if detector is not DENSE:
        raise SlideArgumentError(
            f"{slide.name}: give either detector or blank_map, not both; to change the detector "
            "of a map, use blank_map.with_detector(detector)"
        )


def _cells_of_grid(slide: Slide, blank_map: BlankMap, grid: TileGrid) -> BlankMap:
    """Return the part of `blank_map` whose cells are the tiles of `grid`, computed."""
    cells = blank_map.grid
    if not cells.has(grid):
        raise SlideArgumentError(
            f"{slide.name}: the tiles of the blank map, {cells.tile[0]} x {cells.tile[1]} px of an "
            f"image of {cells.shape[0]} x {cells.shape[1]}, are not those of the pack, "
            f"{grid.tile[0]} x {grid.tile[1]} px of {grid.shape[0]} x {grid.shape[1]}; make the "
            "map with the tile size and at the scale of the pack"
        )
    found = blank_map.compute()
    part = slice(grid.rows), slice(grid.cols)
    return replace(
        found, grid=grid, blank=np.asarray(found.blank)[part], statistics=found.statistics[part]
    )


def warn_blank(slide: Slide, found: BlankMap) -> None:
    """Issue BlankSlideWarning at the line that calls the public function."""
    bad = "" if found.stats.whole.all() else " or touches absent or corrupt tiles of the slide"
    warnings.warn(
        f"{slide.name}: every tile is blank under {found.detector}{bad}; the pack is empty",
        BlankSlideWarning,
        stacklevel=3,
    )
