"""What a step of a run is, and what the steps of one slide share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from dask_slides.core.grid import TileGrid
from dask_slides.core.types import Array
from dask_slides.numerics.detectors import Detector
from dask_slides.numerics.mask_detectors import MaskDetector
from dask_slides.ops.blank_map import MIN_TISSUE, BlankMap, blank_map
from dask_slides.ops.map_tiles import map_tile
from dask_slides.ops.pack import TilePack
from dask_slides.ops.resize import level0_reduction, resize
from dask_slides.slide import Slide
from dask_slides.writers.estimate import Estimate
from dask_slides.writers.store.transaction import Target, facts_of
from dask_slides.writers.write import write_to

PICTURE = 1024
"""Longest side of the pictures of results, in pixels."""
MAY_ENLARGE = ("downsample", "mpp", "magnification")
"""Arguments that may enlarge a slide."""
METADATA = "metadata"
"""Attribute of a pack with the columns that the user's table has for its slide."""
Built = tuple[Any, dict[str, Any]]
"""The object to write and its counts for the process list."""


class BlankMaps:
    """What the steps of one slide share, each computed once: masks, statistics, and a picture."""

    def __init__(
        self, slide: Slide, folder: str = "", metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.slide = slide
        self.folder = folder
        """The folder of the slide in the job."""
        self.name = os.path.basename(folder)
        """The name of the slide in the job."""
        self._metadata = metadata
        self._masks: dict[MaskDetector, BlankMap] = {}
        self._statistics: dict[TileGrid, BlankMap] = {}
        self._built: list[tuple[Step, Built]] = []

    def build(self, step: Step) -> Built:
        """Return what `step` builds, which is the same object for the step and its exports."""
        for other, built in self._built:
            if other == step:
                return built
        obj, counts = step.build(self.slide, self)
        if isinstance(obj, TilePack) and self._metadata:
            attributes = {**obj.attributes, METADATA: dict(self._metadata)}
            obj = replace(obj, attributes=attributes)
        self._built.append((step, (obj, counts)))
        return obj, counts

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
    """An operation that runs on each slide and writes one store, or one file."""

    kind: ClassVar[str]
    """What the user calls steps of this class."""
    makes: ClassVar[str]
    """Class name of the object that `build` returns."""
    draws: ClassVar[bool] = True
    """Whether there is a picture beside the store."""

    @property
    def name(self) -> str:
        """The name of the step, which no other step of the run has."""
        return self.kind

    @property
    @abstractmethod
    def counts(self) -> tuple[str, ...]:
        """Names of its counts in the process list; a function of a user may add others."""

    @property
    @abstractmethod
    def suffix(self) -> str:
        """Suffix of the name of the output, after the name of the slide."""

    @property
    def is_store(self) -> bool:
        """Whether it writes a Zarr store, whose attributes record what it was made with."""
        return True

    @property
    def shares_path(self) -> bool:
        """Whether `path` is a folder that other slides or steps use too."""
        return False

    def path(self, job: str, name: str) -> str:
        """Return the path of the output for the slide `name`."""
        return os.path.join(job, name, name + self.suffix)

    def facts(self) -> dict[str, Any]:
        """Return the arguments of the step as plain values by dotted name."""
        return facts_of(self, self.name)

    def scale_arguments(self) -> dict[str, Any]:
        """Return the arguments that may enlarge a slide."""
        return {name: getattr(self, name, None) for name in MAY_ENLARGE}

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

    def write(self, obj: Any, target: Target, maps: BlankMaps) -> str | None:
        """Write what `build` returned; return the path of what was written."""
        return write_to(obj, target)

    def outputs(self, path: str | None, name: str) -> list[str]:
        """Return the paths that show that the slide `name` is done, given what `write` returned."""
        return [] if path is None else [path]


def picture_reduction(slide: Slide) -> int:
    """Return the reduction at which the picture of the slide reads level 0."""
    return level0_reduction(resize(slide, max_size=PICTURE, gap=1.0))


def picture_path(store: str) -> str:
    """Return the path of the picture beside a store: NAME.mask.png for NAME.mask.ome.zarr."""
    return store.removesuffix(".zarr").removesuffix(".tif").removesuffix(".ome") + ".png"
