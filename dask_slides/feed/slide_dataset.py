"""All tiles of many slides and packs, by number."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import BlankSlideError, SlideArgumentError, TileDecodeError
from dask_slides.feed.entries import SlideEntry, entries_of
from dask_slides.feed.members import check_pack, crop_size, reduced_image
from dask_slides.feed.pixels import (
    Integers,
    PixelReader,
    SlidePixels,
    log_bad_tiles,
    noting_bad_tiles,
    pixels_of_pack,
)
from dask_slides.feed.places import Packed
from dask_slides.numerics.detectors import Detector, checked_detector
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR, MaskDetector
from dask_slides.ops.blank_map import blank_map as make_blank_map
from dask_slides.ops.pack import TilePack, pack_tiles

Item = dict[str, Any]


@dataclass(frozen=True)
class _Tiles:
    """The tiles of one slide or pack."""

    name: str
    label: Any
    pixels: PixelReader
    at: Packed
    y: Packed
    x: Packed
    classes: Packed | None
    """(n,) str: the class of each tile; None if the pack has no annotations."""

    @classmethod
    def of(cls, entry: SlideEntry, pack: TilePack, reduced: bool) -> _Tiles:
        pixels, at = pixels_of_pack(pack)
        if reduced and isinstance(pixels, SlidePixels) and pack.slide is not None:
            image = replace(pack.slide, source=pixels.sources[0])
            source = reduced_image(pack.slide, image).source
            pixels = SlidePixels.of([source], pixels.size, pixels.fill, pixels.mpp)
        where, y, x = (Packed.of(one) for one in (at, pack.y, pack.x))
        classes = None if pack.labels is None else Packed.of(pack.labels)
        return cls(entry.name, entry.label, pixels, where, y, x, classes)

    def __len__(self) -> int:
        return self.y.shape[0]

    def items(
        self, numbers: Integers, transform: Callable[[Any], Any] | None
    ) -> tuple[list[Item | None], list[str]]:
        """Read tiles, None for those that are corrupt, and name the bad tiles of the file."""
        pixels = self.pixels.read(self.at.array()[numbers])
        y, x = self.y.array()[numbers].tolist(), self.x.array()[numbers].tolist()
        names = [""] * len(numbers)
        if self.classes is not None:
            names = self.classes.array()[numbers].tolist()
        mpp = self.pixels.mpp[0]
        items = [
            None if crop is None else {
                "pixels": crop[0] if transform is None else transform(crop[0]),
                "slide": self.name, "y": y[i], "x": x[i],
                "mpp": float("nan") if mpp is None else mpp,
                "label": self.label, "class": names[i],
            }
            for i, crop in enumerate(pixels.crops)
        ]  # fmt: skip
        return items, pixels.bad


class SlideDataset:
    """All tiles of many slides and packs, as a map-style dataset.

    Files are opened by the process that reads a tile, a few at a time. A pickle holds paths and
    numbers. To draw tiles in a balanced order that can be resumed, give the packs to `CropStream`.

    Parameters
    ----------
    slides : path, Slide, TilePack, table, or sequence of them
        Packs (``*.tiles.zarr``), of which all tiles are taken as they are; slides, which are packed
        as `pack_tiles` does, without the tiles that are known to touch a corrupt tile of the file;
        or a table: a `SlideTable`, or what `read_table` reads. A path may be a folder of slides or
        a pattern, such as ``job/*/*.tiles.zarr``.
    size : int or (int, int), optional
        Height and width of the tiles of slides.
    downsample, mpp, magnification : float, optional
        Scale of the tiles of slides; give at most one, with the default of `pack_tiles`.
    reduced : bool
        Whether to read slides as `CropStream` does with it.
    min_tissue : float
        Smallest share of the area of a tile of a slide that is tissue.
    detector : Detector
        Finds the tissue of slides without a blank map.
    blank_maps, labels, annotations : sequence or mapping, optional
        One per slide, in their order or by name or path, as for `CropStream`. With `annotations`,
        each tile of a slide has its class.
    transform : callable, optional
        Gets the array (h, w, c) of a tile, and returns what replaces it.

    Raises
    ------
    SlideError
        An argument is wrong, or a slide or a pack cannot be opened.
    BlankSlideError
        There are no tiles.

    Examples
    --------
    >>> import dask_slides as ds
    >>> from dask_slides import feed
    >>> tiles = feed.SlideDataset([ds.sample_slide("a.tif", shape=(2048, 2048))], size=64)
    >>> tiles[0]["pixels"].shape
    (64, 64, 3)
    """

    def __init__(
        self,
        slides: Any,
        *,
        size: int | Sequence[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        magnification: float | None = None,
        reduced: bool = False,
        min_tissue: float = 0.5,
        detector: Detector = DEFAULT_DETECTOR,
        blank_maps: Any = None,
        labels: Any = None,
        annotations: Any = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        entries = entries_of(slides, labels=labels, blank_maps=blank_maps, annotations=annotations)
        options = {
            "tile_size": size, "downsample": downsample, "mpp": mpp,
            "magnification": magnification, "min_tissue": min_tissue, "detector": detector,
        }  # fmt: skip
        found = [_Tiles.of(entry, _pack_of(entry, options), reduced) for entry in entries]
        self._left_out = tuple(one.name for one in found if not len(one))
        self._parts = tuple(one for one in found if len(one))
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self._transform = transform
        self._skipped = 0
        self._bad_tiles: dict[str, None] = {}
        _check_parts(self._parts, self._left_out)

    @property
    def slides(self) -> tuple[str, ...]:
        """Names of the slides and packs that have tiles."""
        return tuple(one.name for one in self._parts)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the slides and packs without tiles."""
        return self._left_out

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) the label of each tile, for samplers."""
        return np.repeat(np.array([one.label for one in self._parts]), np.diff(self._starts))

    @property
    def skipped(self) -> int:
        """Number of corrupt tiles that this process left out of what `__getitems__` returned."""
        return self._skipped

    def __len__(self) -> int:
        """Return the number of tiles."""
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Item:
        """Read a tile.

        Returns
        -------
        dict
            ``pixels`` (h, w, c); ``slide``, its name; ``y`` and ``x``, top left in pixels of level
            0; ``mpp``; ``label``; ``class``; ``number``.

        Raises
        ------
        IndexError
            There is no such tile.
        TileDecodeError
            The tile is corrupt.
        """
        number = self._checked(number)
        (item,) = self._read([number])
        if item is None:
            part, inside = self._at(number)
            raise TileDecodeError(
                f"{part.name}: tile {inside:,} is corrupt; leave it out, or read batches"
            )
        return item

    def __getitems__(self, numbers: Sequence[int]) -> list[Item]:
        """Read tiles; each tile of a file is decoded once for all. Corrupt tiles are left out."""
        items = self._read([self._checked(number) for number in numbers])
        good = [item for item in items if item is not None]
        self._skipped += len(items) - len(good)
        return good

    def __iter__(self) -> Iterator[Item]:
        """Iterate over the tiles."""
        for number in range(len(self)):
            yield self[number]

    def _checked(self, number: int) -> int:
        number = operator.index(number)
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no tile {number:,} in a dataset of {len(self):,}")
        return number % len(self)

    def _at(self, number: int) -> tuple[_Tiles, int]:
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._parts[part], number - int(self._starts[part])

    def _read(self, numbers: Sequence[int]) -> list[Item | None]:
        array = np.asarray(numbers, np.int64)
        of_part = np.searchsorted(self._starts, array, side="right") - 1
        items: dict[int, Item | None] = {}
        for part in np.unique(of_part).tolist():
            where = np.flatnonzero(of_part == part)
            inside = array[where] - self._starts[part]
            found, bad = self._parts[part].items(inside, self._transform)
            log_bad_tiles(self._bad_tiles, self._parts[part].name, bad, "tiles")
            for i, item in zip(where.tolist(), found, strict=True):
                items[i] = None if item is None else item | {"number": int(array[i])}
        return [items[i] for i in range(len(array))]


def _pack_of(entry: SlideEntry, options: dict[str, Any]) -> TilePack:
    opened = entry.open()
    if isinstance(opened, TilePack):
        scale = {name: options[name] for name in ("downsample", "mpp", "magnification")}
        check_pack(entry, opened, crop_size(options["tile_size"]), scale)
        return opened
    if options["tile_size"] is None:
        raise SlideArgumentError(f"{entry.name}: tiles of a slide need size=, such as size=256")
    found = entry.blank_map
    if found is None:
        # corrupt tiles are missing in the map, and do not end the search for tissue
        noting = replace(opened, source=noting_bad_tiles(opened.source))
        if not isinstance(checked_detector(options["detector"]), MaskDetector):
            return pack_tiles(noting, labels=entry.annotations, **options)
        found = make_blank_map(noting, detector=options["detector"])
    chosen = options | {"detector": DEFAULT_DETECTOR}
    return pack_tiles(opened, labels=entry.annotations, blank_map=found, **chosen)


def _check_parts(parts: Sequence[_Tiles], left_out: Sequence[str]) -> None:
    """Raise unless there are tiles, all of one kind. `pack_tiles` warns of slides without any."""
    if not parts:
        raise BlankSlideError(f"{', '.join(left_out[:8])}: no slide has a tile with tissue")
    first = parts[0]
    for other in parts:
        one, two = ((*part.pixels.shape, str(part.pixels.dtype)) for part in (first, other))
        if one != two:
            raise SlideArgumentError(
                f"{other.name}: its tiles are {two}, and those of {first.name} are {one}; feed "
                "slides of one kind"
            )
