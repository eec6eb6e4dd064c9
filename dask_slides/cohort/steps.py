"""The steps of a run: each one calls a function of dask_slides with fixed arguments.

To add a step, write a class here and add it to `STEPS`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import dask.array as da
import numpy as np

from dask_slides.core.grid import Edge, TileGrid, tile_pair
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.overview import overview_source
from dask_slides.numerics.detectors import Detector, checked_detector
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR, MaskDetector
from dask_slides.ops.blank_map import MIN_TISSUE, BlankMap, blank_map, checked_share
from dask_slides.ops.cutoff import Cutoff as CutoffResult
from dask_slides.ops.cutoff import cells_to_cut, check_compact, check_layout, cutoff_resize
from dask_slides.ops.map_tiles import map_tile
from dask_slides.ops.overlays import picture_on_slide
from dask_slides.ops.pack import TILE_SIZE, TilePack, check_top_k, pack_tiles, plan_pack
from dask_slides.ops.resize import level0_reduction, resize
from dask_slides.ops.scale import resize_arguments
from dask_slides.slide import Mpp, Slide, from_dask
from dask_slides.writers.estimate import (
    Estimate,
    estimate_blank_map,
    estimate_image,
    estimate_tiles,
)
from dask_slides.writers.store.arrays import check_version
from dask_slides.writers.store.transaction import Target
from dask_slides.writers.write import write_to

PICTURE = 1024
"""Longest side of the pictures of results, in pixels."""
PLACED = ("layout", "margin", "compact")
"""Arguments of `cutoff_resize` that say where what is left is placed."""
Built = tuple[Any, dict[str, Any]]
"""The object to write and its counts for the process list."""


class BlankMaps:
    """What the steps of one slide share, each computed once: masks, statistics, and a picture."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self._masks: dict[MaskDetector, BlankMap] = {}
        self._statistics: dict[TileGrid, BlankMap] = {}

    @cached_property
    def thumbnail(self) -> Array:
        """The picture of the slide on which the results are drawn."""
        return self.slide.thumbnail(PICTURE)

    def compute(
        self, tile_size: Any, detector: Detector, min_tissue: float = MIN_TISSUE
    ) -> BlankMap:
        """Return the computed blank map with tiles of `tile_size`."""
        return self._computed(tile_size, detector).with_min_tissue(min_tissue)

    def _computed(self, tile_size: Any, detector: Detector) -> BlankMap:
        tile = map_tile(self.slide, tile_size, None)
        if isinstance(detector, MaskDetector):
            if detector not in self._masks:
                self._masks[detector] = blank_map(
                    self.slide, tile_size=tile, detector=detector
                ).compute()
            found = self._masks[detector]
            return found if found.grid.tile == tile else found.with_tile_size(tile)
        lazy = blank_map(self.slide, tile_size=tile, detector=detector)
        earlier = self._statistics.get(lazy.grid)
        if earlier is not None and set(lazy.fields) <= set(earlier.fields):
            return earlier.with_detector(detector)
        computed = self._statistics[lazy.grid] = lazy.compute()
        return computed


class Step(ABC):
    """An operation that runs on each slide and writes one store."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    """Suffix of the store name, after the name of the slide."""
    counts: ClassVar[tuple[str, ...]]
    """Names of its counts in the process list."""
    draws: ClassVar[bool] = True
    """Whether there is a picture beside the store."""

    @abstractmethod
    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""

    @abstractmethod
    def estimate(self, slide: Slide) -> Estimate:
        """Estimate the step without reading pixels; the values may be upper bounds."""

    @abstractmethod
    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return the reductions at which the step reads level 0; 1 is full resolution."""

    @abstractmethod
    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the lazy object to write and its counts."""

    def picture(self, obj: Any, maps: BlankMaps) -> Array:
        """Return a picture of the object that `build` returned on the slide."""
        raise NotImplementedError(f"{self.name} draws nothing")

    def write(self, obj: Any, target: Target) -> None:
        """Write the object that `build` returned."""
        write_to(obj, target, getattr(self, "ome_zarr", "0.5"))


@dataclass(frozen=True)
class _Scaled(Step):
    """Base of the steps with the scale arguments of `resize`."""

    ome_zarr: str = "0.5"
    downsample: float | None = None
    mpp: Mpp = None
    magnification: float | None = None
    max_size: int | None = None
    shape: tuple[int, int] | None = None
    kernel: str = "lanczos"
    gap: float | None = 2.0

    def scale(self, slide: Slide) -> dict[str, Any]:
        """Return the scale arguments of `resize` for this slide, by name."""
        given = {one.name: getattr(self, one.name) for one in fields(_Scaled)[1:]}
        return resize_arguments(slide, **given)

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        check_version(self.ome_zarr)
        self.resized(_any_slide())

    def resized(self, slide: Slide) -> Slide:
        """Return the whole slide at the scale."""
        return resize(slide, **self.scale(slide))

    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return the reduction at which the image reads level 0."""
        return (level0_reduction(self.resized(slide)),)


@dataclass(frozen=True)
class Mask(Step):
    """Compute the blank map; the arguments are those of `blank_map`."""

    name: ClassVar[str] = "mask"
    suffix: ClassVar[str] = ".mask.ome.zarr"
    counts: ClassVar[tuple[str, ...]] = ("tiles", "blank")

    ome_zarr: str = "0.5"
    tile_size: Any = None
    detector: Detector = DEFAULT_DETECTOR
    min_tissue: float = MIN_TISSUE

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        check_version(self.ome_zarr)
        _check_blank_map(self.tile_size, self.detector, self.min_tissue)

    def estimate(self, slide: Slide) -> Estimate:
        """Estimate the step without reading pixels."""
        return estimate_blank_map(
            blank_map(slide, tile_size=self.tile_size, detector=self.detector), slide
        )

    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return the reduction at which the blank map reads level 0."""
        return map_reductions(slide, self.detector)

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the object to write and its counts."""
        found = maps.compute(self.tile_size, self.detector, self.min_tissue)
        blank = np.asarray(found.blank)
        return found, {"tiles": blank.size, "blank": int(blank.sum())}

    def picture(self, obj: BlankMap, maps: BlankMaps) -> Array:
        """Return the mask on the slide."""
        return _picture_of_map(obj, maps)


@dataclass(frozen=True)
class Resize(_Scaled):
    """Resize the whole slide; the arguments are those of `resize`."""

    name: ClassVar[str] = "resize"
    suffix: ClassVar[str] = ".resize.ome.zarr"
    counts: ClassVar[tuple[str, ...]] = ("height", "width")
    draws: ClassVar[bool] = False

    def estimate(self, slide: Slide) -> Estimate:
        """Estimate the step without reading pixels."""
        return estimate_image(self.resized(slide), slide)

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the lazy object to write and its counts."""
        image = self.resized(slide)
        return image, dict(zip(self.counts, image.shape[:2], strict=True))


@dataclass(frozen=True)
class Cutoff(_Scaled):
    """Cut off blank rows and columns; the arguments are those of `cutoff_resize`."""

    name: ClassVar[str] = "cutoff"
    suffix: ClassVar[str] = ".cutoff.ome.zarr"
    counts: ClassVar[tuple[str, ...]] = ("height", "width", "gain")

    tile_size: Any = None
    detector: Detector = DEFAULT_DETECTOR
    min_tissue: float = MIN_TISSUE
    layout: str = "grid"
    margin: int = 0
    compact: float | None = 1.3

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        super().check()
        _check_blank_map(self.tile_size, self.detector, self.min_tissue)
        check_layout(_any_slide(), self.layout, self.margin)
        check_compact(_any_slide(), self.compact)

    def estimate(self, slide: Slide) -> Estimate:
        """Return an upper bound without reading pixels."""
        return estimate_image(self.resized(slide), slide, upper_bound=True)

    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return the reductions of the blank map and of the image, as if nothing were cut off."""
        return (*map_reductions(slide, self.detector), *super().reductions(slide))

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the lazy object to write and its counts."""
        tile_size = cells_to_cut(slide, self.tile_size, self.detector, self.layout)
        found = maps.compute(tile_size, self.detector, self.min_tissue)
        placed: dict[str, Any] = {name: getattr(self, name) for name in PLACED}
        cut = cutoff_resize(slide, **self.scale(slide), blank_map=found, **placed)
        height, width = cut.image.shape[:2]
        return cut, {"height": height, "width": width, "gain": round(cut.gain, 4)}

    def picture(self, obj: CutoffResult, maps: BlankMaps) -> Array:
        """Return the mask on the slide."""
        return _picture_of_map(obj.blank_map, maps)


@dataclass(frozen=True)
class Pack(Step):
    """Pack the dense tiles; the arguments are those of `pack_tiles`."""

    name: ClassVar[str] = "pack"
    suffix: ClassVar[str] = ".tiles.zarr"
    counts: ClassVar[tuple[str, ...]] = ("tiles",)

    tile_size: Any = TILE_SIZE
    stride: Any = None
    downsample: float | None = None
    mpp: Mpp = None
    magnification: float | None = None
    min_tissue: float = 0.5
    detector: Detector = DEFAULT_DETECTOR
    edge: Edge = "drop"
    top_k: int | None = None
    fill: float | None = None

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        self._plan(_any_slide())
        checked_detector(self.detector)
        checked_share(self.min_tissue, "min_tissue")
        check_top_k(self.top_k)

    def _plan(self, slide: Slide) -> tuple[Slide, TileGrid]:
        return plan_pack(
            slide, self.tile_size, self.stride, self.downsample, self.mpp, self.edge,
            self.magnification,
        )  # fmt: skip

    def estimate(self, slide: Slide) -> Estimate:
        """Return an upper bound without reading pixels."""
        image, grid = self._plan(slide)
        count = grid.rows * grid.cols
        count = min(count, self.top_k or count)
        return estimate_tiles(count, grid, image, slide, self.detector)

    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return the reductions of the blank map; packed tiles are read only once."""
        return map_reductions(slide, self.detector)

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the lazy object to write and its counts."""
        options = {one.name: getattr(self, one.name) for one in fields(self)}
        detector = checked_detector(options.pop("detector"))
        if isinstance(detector, MaskDetector):
            pack = pack_tiles(slide, **options, blank_map=maps.compute(None, detector))
        else:
            pack = pack_tiles(slide, **options, detector=detector)
        return pack, {"tiles": len(pack)}

    def picture(self, obj: TilePack, maps: BlankMaps) -> Array:
        """Return the boxes of the tiles on the slide."""
        return picture_on_slide(maps.slide, boxes=obj.boxes, thumbnail=maps.thumbnail)


def _picture_of_map(found: BlankMap, maps: BlankMaps) -> Array:
    return picture_on_slide(maps.slide, mask=found.mask, thumbnail=maps.thumbnail)


def _check_blank_map(tile_size: Any, detector: Any, min_tissue: Any) -> None:
    if tile_size is not None:
        tile_pair(tile_size)
    checked_detector(detector)
    checked_share(min_tissue, "min_tissue")


def map_reductions(slide: Slide, detector: Detector) -> tuple[int, ...]:
    """Return the reduction at which a blank map reads level 0, if it does."""
    if not isinstance(detector, MaskDetector):
        return (1,)
    small = overview_source(slide.source, slide.mpp_yx, detector.mpp)
    return (level0_reduction(replace(slide, source=small)),)


def _any_slide() -> Slide:
    """Return a slide that is large enough for every valid argument."""
    return from_dask(da.zeros((2**20, 2**20, 3), np.uint8, chunks=2**16), mpp=1.0)


STEPS: dict[str, type[Any]] = {step.name: step for step in (Mask, Resize, Cutoff, Pack)}
"""Step classes by name, in the order in which they run."""


def checked_steps(steps: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> tuple[Step, ...]:
    """Return the steps with these names and arguments, in the order of `STEPS`.

    Raises
    ------
    SlideArgumentError
        A step or an argument does not exist, or the value of an argument is wrong.
    """
    given = steps if isinstance(steps, Mapping) else {name: {} for name in steps}
    for name, arguments in given.items():
        if name not in STEPS:
            raise SlideArgumentError(f"step {name!r} is not known; use {', '.join(STEPS)}")
        known = {one.name for one in fields(STEPS[name])}
        wrong = sorted(set(arguments) - known)
        if wrong:
            raise SlideArgumentError(
                f"step {name} has no argument {wrong[0]!r}; use {', '.join(sorted(known))}"
            )
    if not given:
        raise SlideArgumentError(f"no step is given; use {', '.join(STEPS)}")
    chosen: tuple[Step, ...]
    chosen = tuple(step(**given[name]) for name, step in STEPS.items() if name in given)
    for step in chosen:
        step.check()
    return chosen


def store_path(job: str, name: str, step: Step) -> str:
    """Return the path of the store of a step."""
    return os.path.join(job, name, name + step.suffix)


def picture_reduction(slide: Slide) -> int:
    """Return the reduction at which the picture of the slide reads level 0."""
    return level0_reduction(resize(slide, max_size=PICTURE, gap=1.0))


def picture_path(store: str) -> str:
    """Return the path of the picture beside a store: NAME.mask.png for NAME.mask.ome.zarr."""
    return store.removesuffix(".zarr").removesuffix(".ome") + ".png"
