"""The slides and packs of a feed: where their crops lie, and how they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import is_several
from dask_slides.core.geometry import Region
from dask_slides.core.grid import tile_pair
from dask_slides.core.source import replace_root, root_of
from dask_slides.errors import SlideArgumentError
from dask_slides.feed.entries import SlideEntry
from dask_slides.feed.pixels import (
    Integers,
    PixelReader,
    SlidePixels,
    noting_bad_tiles,
    pixels_of_pack,
)
from dask_slides.feed.places import CropPlaces, Packed
from dask_slides.feed.schedule import permuted
from dask_slides.graph.resized import ResizedSource
from dask_slides.graph.stored_level import ReducedLevelSource
from dask_slides.numerics.detectors import Detector, checked_detector
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR
from dask_slides.numerics.tissue_mask import TissueMask
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.blank_map import blank_map as make_blank_map
from dask_slides.ops.pack import NEAR_ENOUGH, TilePack, fill_of, map_or_detector, pack_image
from dask_slides.slide import Slide

TILE_STREAM = 5
"""Stream of the random numbers that order the tiles of a pack."""


@dataclass(frozen=True, eq=False)
class Chances:
    """The random numbers of one attempt each to place crops of one member."""

    seed: int
    uniform: NDArray[np.float64]
    """(3, n): along the places, and within a pixel along y and x; in [0, 1)."""
    occurrence: Integers
    """(n,) number of crops that the member gave before."""
    attempt: Integers
    """(n,) number of attempts before."""
    strict: NDArray[np.bool_]
    """(n,) whether the crop must have `min_tissue`."""


@dataclass(frozen=True)
class Place:
    """The place of a crop."""

    at: tuple[int, ...]
    """What the reader is asked for: top left in pixels of the image, or the number of a tile."""
    y: int
    """Top in pixels of level 0."""
    x: int
    """Left in pixels of level 0."""


class Places(Protocol):
    """Where the crops of a member lie."""

    @property
    def weight(self) -> float:
        """The area of the tissue in crops, or the number of tiles."""
        ...

    def find(self, chances: Chances) -> list[Place | None]:
        """Return the place of each crop; None if this attempt finds none."""
        ...


@dataclass(frozen=True)
class RandomPlaces:
    """Crops anywhere on the tissue of a slide."""

    places: CropPlaces

    @property
    def weight(self) -> float:
        """The area of the centres in crops."""
        return self.places.weight / self.places.crop_area

    def find(self, chances: Chances) -> list[Place | None]:
        """Return the places of crops of which no pixel is known to be missing."""
        places = self.places
        corners = places.corners(places.centres_of(chances.uniform))
        least = np.where(chances.strict, places.min_tissue, 0)
        enough = places.tissue_fractions(corners) >= least  # False for NaN
        columns = corners.tolist(), places.on_level0(corners).tolist(), enough.tolist()
        return [
            Place(tuple(at), y, x) if good else None
            for at, (y, x), good in zip(*columns, strict=True)
        ]


@dataclass(frozen=True)
class TilePlaces:
    """Tiles of a pack, each once before any of them comes again."""

    at: Packed
    """(n,) or (n, 2) what the reader is asked for."""
    y: Packed
    x: Packed
    member: int
    """Tells packs apart in the random order."""

    @classmethod
    def of(cls, pack: TilePack, at: Integers, chosen: Any, member: int) -> TilePlaces:
        """Return the places of the `chosen` tiles of `pack`."""
        where, y, x = (Packed.of(one[chosen]) for one in (at, pack.y, pack.x))
        return cls(where, y, x, member)

    @property
    def weight(self) -> float:
        """The number of tiles."""
        return float(self.y.shape[0])

    def find(self, chances: Chances) -> list[Place | None]:
        """Return the next tiles of the random order, or any tiles if those are corrupt."""
        count, seed = self.y.shape[0], chances.seed
        numbers = (chances.uniform[0] * count).astype(np.int64)
        for i in np.flatnonzero(chances.attempt == 0).tolist():
            turn, position = divmod(int(chances.occurrence[i]), count)
            numbers[i] = permuted(position, count, seed, TILE_STREAM, self.member, turn)
        at, y, x = (one.array()[numbers].tolist() for one in (self.at, self.y, self.x))
        if self.at.array().ndim == 1:
            at = [(one,) for one in at]
        return [Place(tuple(one), *corner) for one, *corner in zip(at, y, x, strict=True)]


@dataclass(frozen=True)
class Member:
    """A slide or a pack, or what one has of a class."""

    name: str
    path: str
    """"" for a dask array."""
    label: Any
    """Of the table; "" if there is none."""
    pixels: PixelReader
    places: Places
    class_name: str = ""
    """The class of the annotations in which the centres of the crops lie."""


@dataclass(frozen=True)
class CropOptions:
    """How crops are placed and read, the same for all slides of a feed."""

    size: tuple[int, int] | None = None
    scale: Mapping[str, Any] = field(default_factory=dict)
    """downsample, mpp or magnification, each one value or several for one centre."""
    min_tissue: float = 0.5
    detector: Detector = DEFAULT_DETECTOR
    reduced: bool = False
    """Whether to take the means that a decoder gives, where they have the scale."""
    by_class: bool = False
    """Whether each class of the annotations of a slide is a member of its own."""


def members_of(
    entry: SlideEntry, opened: Slide | TilePack, options: CropOptions, number: int
) -> list[Member]:
    """Return the members of a slide or of a pack: one, or one per class. None if it is blank."""
    if isinstance(opened, TilePack):
        found = _members_of_pack(entry, opened, options, number)
    else:
        found = _members_of_slide(entry, opened, options)
    return [one for one in found if one.places.weight > 0]


def _members_of_pack(
    entry: SlideEntry, pack: TilePack, options: CropOptions, number: int
) -> list[Member]:
    check_pack(entry, pack, options.size, options.scale)
    pixels, at = pixels_of_pack(pack)
    if not options.by_class:
        places = TilePlaces.of(pack, at, slice(None), number)
        return [Member(entry.name, entry.path, entry.label, pixels, places)]
    if pack.labels is None:
        raise SlideArgumentError(
            f"{entry.name}: has no classes to balance; make the pack with labels="
        )
    return [
        Member(
            entry.name, entry.path, entry.label, pixels,
            TilePlaces.of(pack, at, pack.labels == name, number), name,
        )
        for name in pack.attributes["classes"]
    ]  # fmt: skip


def check_pack(
    entry: SlideEntry, pack: TilePack, size: tuple[int, int] | None, scale: Mapping[str, Any]
) -> None:
    """Raise SlideArgumentError unless a pack has this size and scale, and no argument of slides."""
    height, width = pack.tiles.shape[1:3]
    if size not in (None, (height, width)):
        raise SlideArgumentError(
            f"{entry.name}: its tiles have {height} x {width} px, not size={size}; pack "
            "tiles of this size"
        )
    for name in ("blank_map", "weights", "annotations"):
        if getattr(entry, name) is not None:
            raise SlideArgumentError(
                f"{entry.name}: {name} is for slides; a pack has its own tiles and classes"
            )
    own = {
        "mpp": pack.mpp,
        "magnification": None if pack.mpp is None else 10 / pack.mpp,
        "downsample": pack.attributes.get("downsample"),
    }
    for name, value in scale.items():
        if value is None:
            continue
        known = own[name]
        try:
            near = known is not None and np.allclose(value, known, rtol=NEAR_ENOUGH, atol=0)
        except (TypeError, ValueError):
            near = False
        if not near or np.ndim(value) > 0:
            has = "is not known" if known is None else f"is {np.mean(known):.4g}"
            raise SlideArgumentError(
                f"{entry.name}: {name} of its tiles {has}, not {value!r}; pack tiles at this "
                "scale, or leave it out"
            )


def _members_of_slide(entry: SlideEntry, slide: Slide, options: CropOptions) -> list[Member]:
    if options.size is None:
        raise SlideArgumentError(f"{entry.name}: crops of a slide need size=, such as size=256")
    images = images_at(slide, options.scale, options.reduced)
    height, width = images[0].shape[:2]
    if height < options.size[0] or width < options.size[1]:
        raise SlideArgumentError(
            f"{entry.name}: a crop of {options.size[0]} x {options.size[1]} px does not fit the "
            f"image of {height} x {width} px; use smaller crops"
        )
    mask = mask_of(slide, options.detector, entry.blank_map)
    sources = [image.source for image in images]
    pixels = SlidePixels.of(sources, options.size, fill_of(slide), [one.mpp for one in images])
    holes = absent_tiles(images[0])
    return [
        Member(
            entry.name, entry.path, entry.label, pixels,
            RandomPlaces(CropPlaces.of(
                mask, centres, shape=(height, width), size=options.size,
                min_tissue=options.min_tissue, weights=entry.weights, holes=holes,
            )),
            name,
        )
        for name, centres in _centres(entry, mask, options.by_class)
    ]  # fmt: skip


def _centres(
    entry: SlideEntry, mask: TissueMask, by_class: bool
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the classes of a slide, and where centres of their crops may lie."""
    if not by_class:
        yield "", mask.tissue
        return
    if entry.annotations is None:
        raise SlideArgumentError(f"{entry.name}: has no annotations to balance; give them")
    for name in entry.annotations.classes:
        inside = entry.annotations.mask(mask.y_edges, mask.x_edges, name=name)
        yield name, mask.tissue & inside


def images_at(slide: Slide, scale: Mapping[str, Any], reduced: bool) -> list[Slide]:
    """Return the slide at one scale, or at several."""
    images = [pack_image(slide, **one) for one in _scales(scale)]
    return [reduced_image(slide, image) for image in images] if reduced else images


def _scales(scale: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of `pack_image` for each scale."""
    for name, value in scale.items():
        if is_several(value):
            if not len(value):
                raise SlideArgumentError(f"{name}={value!r} has no scales; give one or more")
            return [{**_NO_SCALE, **scale, name: one} for one in value]
    return [{**_NO_SCALE, **scale}]


_NO_SCALE: dict[str, Any] = {"downsample": None, "mpp": None, "magnification": None}


def reduced_image(slide: Slide, image: Slide) -> Slide:
    """Return `image`, or a level of `slide` that is reduced to about its size while decoding."""
    if not isinstance(image.source, ResizedSource):
        return image
    for number in reversed(range(len(slide.levels))):
        for factor in slide.source.reductions(number):
            source = ReducedLevelSource(slide.source, number, factor)
            shape = source.levels[0].shape
            sides = zip(shape, image.shape, strict=False)
            if all(abs(one / other - 1) <= NEAR_ENOUGH for one, other in sides):
                mpp = slide.mpp_yx and (
                    slide.mpp_yx[0] * slide.shape[0] / shape[0],
                    slide.mpp_yx[1] * slide.shape[1] / shape[1],
                )
                return replace(slide, source=source, mpp_yx=mpp)
    return image


def mask_of(slide: Slide, detector: Detector, blank_map: BlankMap | str | None) -> TissueMask:
    """Return the mask of the tissue of `slide`, in which corrupt tiles are missing."""
    noting = replace(slide, source=noting_bad_tiles(slide.source))
    if blank_map is None:
        return make_blank_map(noting, detector=checked_detector(detector)).mask
    found = map_or_detector(noting, DEFAULT_DETECTOR, blank_map)
    assert isinstance(found, BlankMap)
    return found.mask


def absent_tiles(image: Slide) -> tuple[tuple[int, int, int, int], ...]:
    """Return the parts of `image` that need a tile that the file does not hold."""
    source, root = image.source, root_of(image.source)
    if root.on_bad_tile == "mask":  # would decode all tiles to find the corrupt ones
        source = replace_root(source, replace(root, on_bad_tile="raise"))  # type: ignore[type-var]
    holes = source.holes(0, Region(0, 0, *image.shape[:2]))
    regions = [hole.region for hole in holes]
    return tuple((one.y, one.x, one.stop_y, one.stop_x) for one in regions)


def crop_size(size: Any) -> tuple[int, int] | None:
    """Return the height and width of crops; None means those of the packs."""
    return None if size is None else tile_pair(size, "size")
