"""Tile packs: the dense tiles of a slide, ready for training."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import as_number, checked_share, checked_size
from dask_slides.core.bad_tiles import BadTile, bad_tiles_to_json
from dask_slides.core.channels import Channel, channels_from_json, channels_to_json
from dask_slides.core.grid import EDGES, Edge, TileGrid, tile_pair
from dask_slides.core.source import root_of
from dask_slides.core.types import Array
from dask_slides.errors import BlankSlideWarning, SlideArgumentError
from dask_slides.graph.blocks import map_blocks
from dask_slides.graph.stored_level import read_from
from dask_slides.graph.tiles import MIN_TASKS, SlideTileReader, TileReader, plan_tile_blocks
from dask_slides.numerics.detectors import Detector, StatisticsDetector, checked_detector
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR, MaskDetector
from dask_slides.ops.aligned_tiles import aligned_grid, aligned_level, check_align, level_slide
from dask_slides.ops.annotations import Labels, check_labels, class_coverage
from dask_slides.ops.blank_map import BlankMap, GivenMap, checked_map
from dask_slides.ops.blank_map import blank_map as make_blank_map
from dask_slides.ops.chosen_tiles import (
    Candidates,
    JudgedTiles,
    tiles_by_map,
    tiles_by_statistics,
)
from dask_slides.ops.georeference import georeference
from dask_slides.ops.overlays import plot_on_slide
from dask_slides.ops.resize import checked_mpp, output_shape, resized
from dask_slides.plots import pictures
from dask_slides.readers.dask_array import ArraySource
from dask_slides.readers.tile_status import fill_for
from dask_slides.runtime.scheduler import compute
from dask_slides.runtime.threads import in_threads
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide

TILE_SIZE = 256
"""Default height and width of a tile."""
USUAL_MPP = 0.5
"""Default micrometres per pixel of tiles, if the pixel size of the slide is known."""
NEAR_ENOUGH = 0.05
"""Relative difference of pixel sizes up to which a stored resolution is not resampled."""


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
    """(n,) how informative each tile is: the standard deviation of the grey values of its tissue,
    in the picture in which the tissue was found. For detectors of statistics it is that of all
    samples of the tile. For blank maps without a picture it is the area of tissue in pixels."""
    attributes: Mapping[str, Any]
    """source, source_shape, mpp, downsample, tile_size, stride, channels, detector, version.

    For a slide of a GeoTIFF also `geotiff`, the place of level 0 on the map: ``crs``, ``unit``,
    ``pixel_size`` (x, y) and ``transform``, the six numbers of rasterio's ``Affine``.

    If tiles of the slide are absent or corrupt, also `bad_tiles`, the list of these tiles, and
    `skipped`, the number of tiles that were left out of the pack because they touch one.
    """
    reader: TileReader | None = None
    """Reads tiles without dask; if None, they are read through `tiles`."""
    tissue_fraction: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """(n,) share of the area of each tile that is tissue; 1 for detectors of statistics."""
    labels: NDArray[np.str_] | None = None
    """(n,) class of each tile; "" if no class covers half of it. None without annotations."""
    coverage: NDArray[np.float64] | None = None
    """(n, classes) share of each tile that each class covers; ``attributes["classes"]`` names
    them."""
    slide: Slide | None = None
    """The slide; None for a pack that was opened from a store."""
    judged: JudgedTiles | None = None
    """All tiles of the grid, or all crops, and what decided; None if opened from a store."""

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

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Name, colour and display range of each channel of the tiles."""
        return channels_from_json(self.attributes.get("channels"), self.tiles.shape[3])

    def to_frame(self) -> Any:
        """Return the columns of the tiles, one row per tile, as a pandas DataFrame.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("a frame needs pandas; pip install pandas") from error

        columns: dict[str, Any] = {"y": self.y, "x": self.x, "score": self.score}
        columns["tissue_fraction"] = self.tissue_fraction
        if self.labels is not None and self.coverage is not None:
            columns["label"] = self.labels
            classes = self.attributes["classes"]
            columns |= {f"coverage_{one}": self.coverage[:, i] for i, one in enumerate(classes)}
        return pd.DataFrame(columns)

    @property
    def boxes(self) -> NDArray[np.int64]:
        """(n, 4) y, x, height and width of each tile in pixels of level 0."""
        factors = np.array(self.attributes["downsample"])
        size = np.rint(np.array(self.tiles.shape[1:3]) * factors).astype(np.int64)
        corners = np.stack((self.y, self.x), axis=1)
        return np.concatenate((corners, np.broadcast_to(size, corners.shape)), axis=1)

    def contact_sheet(self, count: int = 64, columns: int = 8, side: int = 128) -> Array:
        """Return a picture of up to `count` evenly chosen tiles, (y, x, 3) uint8.

        They are in rows of `columns`, each shrunk to at most `side` pixels.
        """
        count, columns, side = (
            checked_size(value, name)
            for name, value in (("count", count), ("columns", columns), ("side", side))
        )
        chosen = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))
        return pictures.contact_sheet(list(self[chosen]), columns, side, self.channels)

    def plot(self, ax: Any = None, *, slide: Slide | None = None, max_size: int = 1024) -> Any:
        """Draw the tiles on the slide with matplotlib (the extra ``plot``); return the axes.

        Parameters
        ----------
        ax : matplotlib axes, optional
            By default those of a new figure.
        slide : Slide, optional
            The slide, for a pack that was opened from a store. Without it, such a pack is drawn as
            a contact sheet.
        max_size : int
            Longest side of the picture in pixels.
        """
        slide = slide or self.slide
        title = f"{self.attributes.get('source')}: {len(self):,} tiles"
        if slide is not None:
            return plot_on_slide(slide, title, ax, max_size, boxes=self.boxes)
        ax = pictures.axes_or_new(ax)
        ax.imshow(self.contact_sheet())
        ax.set_title(title)
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
    fraction: NDArray[np.float64] | None = None,
    labels: Labels | None = None,
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
    fraction = np.ones(len(yx)) if fraction is None else fraction
    pack = TilePack(
        tiles, level0[:, 0], level0[:, 1], score, attributes, reader, fraction, slide=slide
    )
    return pack if labels is None else _labelled(pack, labels)


def _labelled(pack: TilePack, labels: Labels) -> TilePack:
    """Return the pack with the class of each tile, and the share that each class covers."""
    names, coverage = class_coverage(labels, pack.boxes)
    attributes = dict(pack.attributes) | {"classes": list(labels.classes)}
    return replace(pack, labels=names, coverage=coverage, attributes=attributes)


def fill_of(slide: Slide, fill: Any = None) -> Any:
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


def pack_attributes(
    slide: Slide, image: Slide, tile: tuple[int, int], detector: Any
) -> dict[str, Any]:
    """Return the attributes of a pack: plain values for JSON."""
    from dask_slides.core.version import __version__

    reference = georeference(slide)
    geotiff = {} if reference is None else {"geotiff": reference.to_json()}
    return geotiff | {
        "source": slide.name,
        "source_shape": list(slide.shape),
        "mpp": image.mpp,
        "downsample": _factors(slide, image),
        "read_from": read_from(image.source),
        "tile_size": list(tile),
        "channels": channels_to_json(image.channels),
        "detector": detector if isinstance(detector, str) else repr(detector),
        "version": __version__,
    }


def bad_attributes(skipped: int, bad_tiles: tuple[BadTile, ...]) -> dict[str, Any]:
    """Return the attributes that tell of tiles that were left out, if there are any."""
    return {"skipped": skipped, "bad_tiles": bad_tiles_to_json(bad_tiles)} if skipped else {}


def pack_image(
    slide: Slide, downsample: float | None, mpp: Mpp, magnification: float | None = None
) -> Slide:
    """Return the slide at a scale: by default at about 0.5 µm per pixel if that can be told."""
    named = {"downsample": downsample, "mpp": mpp, "magnification": magnification}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise SlideArgumentError(
            f"{slide.name}: {' and '.join(given)} exclude each other; give one"
        )
    if magnification is not None:
        mpp = 10 / checked_magnification(slide, magnification)
    elif not given:
        if slide.mpp_yx is None or min(slide.mpp_yx) > USUAL_MPP * (1 - NEAR_ENOUGH):
            return slide
        mpp = USUAL_MPP
    if mpp is not None:
        stored = _stored_near(slide, mpp)
        if stored is not None:
            return stored
    return resized(slide, output_shape(slide, downsample, mpp), "lanczos", 2.0)


def checked_magnification(slide: Slide, value: Any) -> float:
    """Return the magnification of an objective; raise SlideArgumentError if it is not one."""
    number = as_number(value)
    if not 0 < number < np.inf:
        raise SlideArgumentError(f"{slide.name}: magnification={value!r}; give a number such as 20")
    slide.require_mpp("a magnification")
    return float(number)


def _stored_near(slide: Slide, mpp: Mpp) -> Slide | None:
    """Return the slide, or a stored level of it, if its pixel size is within 5 % of `mpp`."""
    own = slide.require_mpp("a target mpp")
    wanted = checked_mpp(slide, mpp)
    for number, level in enumerate(slide.levels):
        sizes = [o * n / m for o, n, m in zip(own, slide.shape, level.shape, strict=False)]
        if all(abs(s / w - 1) <= NEAR_ENOUGH for s, w in zip(sizes, wanted, strict=True)):
            return level_slide(slide, number)
    return None


def plan_pack(
    slide: Slide,
    tile_size: Any,
    stride: Any,
    downsample: float | None,
    mpp: Mpp,
    edge: Edge,
    magnification: float | None = None,
    align: str | None = None,
) -> tuple[Slide, TileGrid]:
    """Return the slide at the scale of the pack, and the grid of its tiles. Nothing is read."""
    if edge not in EDGES:
        raise SlideArgumentError(f"edge={edge!r} is not known; use one of {', '.join(EDGES)}")
    check_align(align)
    image = pack_image(slide, downsample, mpp, magnification)
    if align is not None:
        image = aligned_level(slide, image, NEAR_ENOUGH)
    height, width = image.shape[:2]
    tile = tile_pair(tile_size)
    step = tile if stride is None else tile_pair(stride, "stride")
    if edge != "pad" and height * width and (height < tile[0] or width < tile[1]):
        raise SlideArgumentError(
            f"{slide.name}: a tile of {tile[0]} x {tile[1]} px does not fit the image of "
            f"{height} x {width} px; use smaller tiles, or choose pad for the edge"
        )
    grid = TileGrid((height, width), tile, step, edge)
    return image, grid if align is None else aligned_grid(image, grid)


def check_top_k(top_k: Any) -> None:
    """Raise SlideArgumentError unless `top_k` is a count or None."""
    if top_k is not None and (not isinstance(top_k, int | np.integer) or top_k < 1):
        raise SlideArgumentError(f"top_k={top_k!r} is not a count; give 1 or more")


def pack_tiles(
    slide: SlideLike,
    *,
    tile_size: Any = TILE_SIZE,
    stride: Any = None,
    downsample: float | None = None,
    mpp: Mpp = None,
    magnification: float | None = None,
    min_tissue: float = 0.5,
    detector: Detector = DEFAULT_DETECTOR,
    edge: Edge = "drop",
    align: str | None = None,
    top_k: int | None = None,
    fill: float | None = None,
    blank_map: GivenMap = None,
    labels: Labels | None = None,
) -> TilePack:
    """Pack the tiles of a slide that show tissue.

    The tissue is found immediately; the tiles stay lazy. A tile that touches an absent or a masked
    corrupt tile of the slide is never packed.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    tile_size : int or (int, int)
        Height and width of a tile in pixels of the pack.
    stride : int or (int, int), optional
        Distance between tiles; by default the tile size, so that they do not overlap.
    downsample, mpp, magnification
        Scale of the tiles; give at most one. A magnification of 20 is 0.5 µm per pixel. By default
        about 0.5 µm per pixel, or full resolution if the pixel size is not known or is larger. A
        stored level within 5 % of the pixel size is read as it is; `attributes["read_from"]` says
        what the tiles are read from.
    min_tissue : float
        Smallest share of the area of a tile that is tissue. Detectors of statistics decide without
        it.
    detector : Detector
        `Tissue` finds a mask of the slide. Detectors of statistics, such as `Contrast`, judge each
        tile by its pixels at the scale of the pack, which reads the whole slide.
    edge : {"drop", "pad", "shift"}
        What to do with a tile that reaches beyond the edge of the image: leave it out, pad it with
        `fill`, or move it back until it fits.
    align : {None, "source"}
        "source" moves the tiles to the grid of the slide's compressed tiles, so that
        ``write(codec="source")`` can copy these: the stride becomes the nearest multiple of the
        slide's tile. It needs the scale of a stored level, a `tile_size` that is a multiple of the
        slide's tile, and ``edge="drop"``.
    top_k : int, optional
        Pack only the `top_k` tiles with the highest scores. If scores are equal, upper tiles are
        preferred, then left ones.
    fill : float, optional
        Value of the pixels that ``edge="pad"`` adds. By default the fill value of the slide; for a
        dask array, white if it has three channels of uint8, else 0.
    blank_map : BlankMap or path, optional
        A blank map of this slide, of any tile size, or the path of its outlines as GeoJSON, used
        instead of `detector`: the exact area of its tissue in a tile decides. If it is computed, no
        pixel is read.
    labels : Annotations or LabelImage, optional
        From `read_geojson` or `label_mask`. They give each tile its class, ``.labels``, and the
        share of it that each class covers, ``.coverage``.

    Returns
    -------
    TilePack
        ``.tiles`` (n, h, w, c); ``.y`` and ``.x`` in pixels of level 0; ``.score`` and
        ``.tissue_fraction`` of each tile. Ordered by position. If all tiles are blank, or none has
        `min_tissue`, the pack is empty and BlankSlideWarning is issued.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or the blank map is of another slide.
    SlideMppError
        `mpp` or `magnification` is given, and the micrometres per pixel of the slide are not known.
    SlideUnsupportedError
        With ``align="source"``: the tiles of the slide cannot be copied.

    Examples
    --------
    >>> import dask_slides as ds
    >>> slide = ds.open_slide(ds.sample_slide("a.tif", shape=(2048, 2048)))
    >>> pack = ds.pack_tiles(slide, tile_size=64, mpp=0.5)
    >>> pack.tiles.shape[1:], bool((pack.tissue_fraction >= 0.5).all())
    ((64, 64, 3), True)
    """
    slide = as_slide(slide)
    check_top_k(top_k)
    if labels is not None:
        check_labels(slide.name, labels)
    min_tissue = checked_share(min_tissue, "min_tissue")
    image, grid = plan_pack(slide, tile_size, stride, downsample, mpp, edge, magnification, align)
    fill = fill_of(slide, fill)
    found = map_or_detector(slide, detector, blank_map)
    if isinstance(found, BlankMap):
        tiles = tiles_by_map(slide, image, grid, found, min_tissue)
    else:
        tiles = tiles_by_statistics(image, grid, found)
    if top_k is not None:
        tiles = tiles.best(top_k)
    if not len(tiles.yx):
        warn_blank(slide, tiles, min_tissue if isinstance(found, BlankMap) else None)
    attributes = pack_attributes(slide, image, grid.tile, tiles.detector)
    attributes |= {"stride": list(grid.stride), "edge": edge}
    if isinstance(found, BlankMap):
        attributes["min_tissue"] = min_tissue
    attributes |= bad_attributes(tiles.skipped, tiles.bad_tiles)
    pack = pack_at(
        slide,
        image,
        tiles.yx,
        grid.tile,
        tiles.score,
        attributes,
        fill,
        tiles.tissue_fraction,
        labels,
    )
    return replace(pack, judged=tiles.judged)


def map_or_detector(
    slide: Slide, detector: Detector, blank_map: GivenMap
) -> BlankMap | StatisticsDetector:
    """Return the blank map that decides, computed, or the detector of statistics."""
    if blank_map is None:
        checked = checked_detector(detector)
        if not isinstance(checked, MaskDetector):
            return checked
        return make_blank_map(slide, detector=checked).compute()
    if detector is not DEFAULT_DETECTOR:
        raise SlideArgumentError(
            f"{slide.name}: give either detector or blank_map, not both; to change the detector "
            "of a map, use blank_map.with_detector(detector)"
        )
    return checked_map(slide, blank_map).compute()


def warn_blank(slide: Slide, tiles: Candidates, min_tissue: float | None = None) -> None:
    """Issue BlankSlideWarning at the line that calls the public function.

    With `min_tissue`, the shares of tissue in the tiles decided.
    """
    bad = " or touches absent or corrupt tiles of the slide" if tiles.skipped else ""
    reason = f"every tile is blank under {tiles.detector}{bad}"
    if min_tissue is not None and 0 < (most := tiles.largest_value) < min_tissue:
        reason = (
            f"no tile has min_tissue {min_tissue:g} of tissue, the largest share is {most:.2g}; "
            "lower min_tissue or use smaller tiles"
        )
    warnings.warn(
        f"{slide.name}: {reason}; the pack is empty",
        BlankSlideWarning,
        stacklevel=3,
    )
