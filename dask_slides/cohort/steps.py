"""The steps of a run: each one calls a function of dask_slides with fixed arguments.

To add a step, write a class here and add it to `STEPS`. Exports and functions of users are steps
too, in `file_steps`; `chosen_steps` makes steps of what the user gives.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import dask.array as da
import numpy as np

from dask_slides.cohort.step import MAY_ENLARGE, BlankMaps, Built, Step
from dask_slides.core.arguments import checked_seed, checked_share
from dask_slides.core.grid import Edge, TileGrid, tile_pair
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.overview import overview_source
from dask_slides.numerics.detectors import Detector, checked_detector
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR, MaskDetector
from dask_slides.ops.aligned_tiles import check_align
from dask_slides.ops.blank_map import MIN_TISSUE, BlankMap, blank_map
from dask_slides.ops.crops import plan_crops, random_crops
from dask_slides.ops.cutoff import Cutoff as CutoffResult
from dask_slides.ops.cutoff import cells_to_cut, check_compact, check_layout, cutoff_resize
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
from dask_slides.writers.export import export
from dask_slides.writers.exports.registry import exporter_for
from dask_slides.writers.pack_chunks import PACK_CODECS
from dask_slides.writers.source_copy import QUALITY, SourceCodec
from dask_slides.writers.store.arrays import check_version
from dask_slides.writers.store.transaction import Target
from dask_slides.writers.write import write_to

PLACED = ("layout", "margin", "compact")
"""Arguments of `cutoff_resize` that say where what is left is placed."""
SCALE = (*MAY_ENLARGE, "max_size", "shape", "kernel", "gap")
"""Arguments of `resize`, and `magnification`."""
FORMATS = ("ome.zarr", "ome.tif")
"""Formats of images, which are the ends of their names."""


@dataclass(frozen=True)
class _Image(Step):
    """Base of the steps that write an image: OME-Zarr, or a file of another format."""

    ome_zarr: str = "0.5"
    shards: bool = True
    format: str = FORMATS[0]

    @property
    def suffix(self) -> str:
        """Suffix of the name of the image."""
        return f".{self.kind}.{self.format}"

    @property
    def is_store(self) -> bool:
        """Whether the image is a Zarr store."""
        return self.format == FORMATS[0]

    @property
    def sharded(self) -> bool:
        """Whether a file of the store holds several chunks."""
        return self.shards and self.ome_zarr != "0.4"

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        check_version(self.ome_zarr)
        if self.format not in FORMATS:
            raise SlideArgumentError(
                f"step {self.name}: format={self.format!r} is not known; use {' or '.join(FORMATS)}"
            )
        if not self.is_store:
            if not self.shards:
                raise SlideArgumentError(f"step {self.name}: shards=False is for Zarr stores")
            exporter_for(f"NAME{self.suffix}", None, self.makes)

    def write(self, obj: Any, target: Target, maps: BlankMaps) -> str | None:
        """Write the image; return its path."""
        if self.is_store:
            return write_to(obj, target, self.ome_zarr, self.shards)
        return export(obj, target.path, overwrite=target.overwrite)


@dataclass(frozen=True)
class _Scaled(_Image):
    """Base of the steps with the scale arguments of `resize`."""

    downsample: float | None = None
    mpp: Mpp = None
    magnification: float | None = None
    max_size: int | None = None
    shape: tuple[int, int] | None = None
    kernel: str = "lanczos"
    gap: float | None = 2.0

    def scale(self, slide: Slide) -> dict[str, Any]:
        """Return the scale arguments of `resize` for this slide, by name."""
        return resize_arguments(slide, **{name: getattr(self, name) for name in SCALE})

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        super().check()
        self.resized(_any_slide())

    def resized(self, slide: Slide) -> Slide:
        """Return the whole slide at the scale."""
        return resize(slide, **self.scale(slide))

    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return the reduction at which the image reads level 0."""
        return (level0_reduction(self.resized(slide)),)


@dataclass(frozen=True)
class Mask(_Image):
    """Compute the blank map; the arguments are those of `blank_map`."""

    kind: ClassVar[str] = "mask"
    makes: ClassVar[str] = "BlankMap"

    tile_size: Any = None
    detector: Detector = DEFAULT_DETECTOR
    min_tissue: float = MIN_TISSUE

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of its counts."""
        return ("tiles", "blank")

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        super().check()
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

    kind: ClassVar[str] = "resize"
    makes: ClassVar[str] = "Slide"
    draws: ClassVar[bool] = False

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of its counts."""
        return ("height", "width")

    def estimate(self, slide: Slide) -> Estimate:
        """Estimate the step without reading pixels."""
        return estimate_image(self.resized(slide), slide, sharded=self.sharded)

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the lazy object to write and its counts."""
        image = self.resized(slide)
        return image, dict(zip(self.counts, image.shape[:2], strict=True))


@dataclass(frozen=True)
class Cutoff(_Scaled):
    """Cut off blank rows and columns; the arguments are those of `cutoff_resize`."""

    kind: ClassVar[str] = "cutoff"
    makes: ClassVar[str] = "Cutoff"

    tile_size: Any = None
    detector: Detector = DEFAULT_DETECTOR
    min_tissue: float = MIN_TISSUE
    layout: str = "grid"
    margin: int = 0
    compact: float | None = 1.3

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of its counts."""
        return ("height", "width", "gain")

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        super().check()
        _check_blank_map(self.tile_size, self.detector, self.min_tissue)
        check_layout(_any_slide(), self.layout, self.margin)
        check_compact(_any_slide(), self.compact)

    def estimate(self, slide: Slide) -> Estimate:
        """Return an upper bound without reading pixels."""
        return estimate_image(self.resized(slide), slide, True, self.sharded)

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
class _Tiles(Step):
    """Base of the steps that write a pack."""

    makes: ClassVar[str] = "TilePack"

    downsample: float | None = None
    mpp: Mpp = None
    magnification: float | None = None
    min_tissue: float = 0.5
    detector: Detector = DEFAULT_DETECTOR
    shards: bool = True
    codec: str | None = None
    quality: int = QUALITY

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of its counts."""
        return ("tiles",)

    @abstractmethod
    def plan(self, slide: Slide) -> tuple[Slide, TileGrid]:
        """Return the slide at the scale of the tiles, and the grid that has their size."""

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        self.plan(_any_slide())
        checked_detector(self.detector)
        checked_share(self.min_tissue, "min_tissue")
        SourceCodec(self.quality)  # checks it
        if self.codec is not None and (self.codec not in PACK_CODECS or not self.shards):
            names = " or ".join(PACK_CODECS)
            raise SlideArgumentError(
                f"step {self.name}: codec={self.codec!r}; use {names} with shards, or None for zstd"
            )

    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return the reductions of the blank map; packed tiles are read only once."""
        return map_reductions(slide, self.detector)

    def _chosen(self, maps: BlankMaps) -> dict[str, Any]:
        """Return the arguments of the step, with the shared blank map instead of the detector."""
        options = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("shards", "codec", "quality"):
            del options[name]
        detector = checked_detector(options.pop("detector"))
        if isinstance(detector, MaskDetector):
            return options | {"blank_map": maps.compute(None, detector)}
        return options | {"detector": detector}

    def write(self, obj: Any, target: Target, maps: BlankMaps) -> str | None:
        """Write the pack; return its path."""
        return write_to(obj, target, shards=self.shards, codec=self.codec, quality=self.quality)

    def picture(self, obj: TilePack, maps: BlankMaps) -> Array:
        """Return the boxes of the tiles on the slide."""
        return picture_on_slide(maps.slide, boxes=obj.boxes, thumbnail=maps.thumbnail)


@dataclass(frozen=True)
class Pack(_Tiles):
    """Pack the dense tiles; the arguments are those of `pack_tiles`."""

    kind: ClassVar[str] = "pack"

    tile_size: Any = TILE_SIZE
    stride: Any = None
    edge: Edge = "drop"
    align: str | None = None
    top_k: int | None = None
    fill: float | None = None

    @property
    def suffix(self) -> str:
        """Suffix of the name of the pack."""
        return ".tiles.zarr"

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        check_align(self.align)
        if self.align is not None:  # only the tiles of a file can be aligned to
            replace(self, align=None).check()
            return
        super().check()
        check_top_k(self.top_k)

    def plan(self, slide: Slide) -> tuple[Slide, TileGrid]:
        """Return the slide at the scale of the pack, and the grid of its tiles."""
        return plan_pack(
            slide, self.tile_size, self.stride, self.downsample, self.mpp, self.edge,
            self.magnification, self.align,
        )  # fmt: skip

    def estimate(self, slide: Slide) -> Estimate:
        """Return an upper bound without reading pixels."""
        image, grid = self.plan(slide)
        count = grid.rows * grid.cols
        count = min(count, self.top_k or count)
        return estimate_tiles(count, grid, image, slide, self.detector, self.codec)

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the lazy object to write and its counts."""
        pack = pack_tiles(slide, **self._chosen(maps))
        return pack, {"tiles": len(pack)}


@dataclass(frozen=True)
class Crops(_Tiles):
    """Draw random crops; the arguments are those of `random_crops`."""

    kind: ClassVar[str] = "crops"

    n: int = field(kw_only=True)
    size: Any = field(kw_only=True)
    seed: int = 0

    @property
    def suffix(self) -> str:
        """Suffix of the name of the pack."""
        return ".crops.zarr"

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        super().check()
        checked_seed(self.seed)

    def plan(self, slide: Slide) -> tuple[Slide, TileGrid]:
        """Return the slide at the scale of the crops, and a grid of cells of their size."""
        return plan_crops(slide, self.n, self.size, self.downsample, self.mpp, self.magnification)

    def estimate(self, slide: Slide) -> Estimate:
        """Estimate the step without reading pixels."""
        image, grid = self.plan(slide)
        return estimate_tiles(self.n, grid, image, slide, self.detector)

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the lazy object to write and its counts."""
        crops = random_crops(slide, **self._chosen(maps))
        return crops, {"tiles": len(crops)}


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


STEPS: dict[str, type[Step]] = {step.kind: step for step in (Mask, Resize, Cutoff, Pack, Crops)}
"""Classes of the steps that write stores, by name, in the order in which they run."""
USUAL = ("mask", "resize", "cutoff", "pack")
"""Names of the steps of a run for which no steps are given."""
