"""What the viewer shows: slides, and the layers that belong to each of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.layout import CutoffMapping
from dask_slides.errors import SlideArgumentError
from dask_slides.ops.annotations import Annotations
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.cutoff import Cutoff
from dask_slides.ops.geojson import read_geojson
from dask_slides.ops.pack import TilePack
from dask_slides.readers.dask_array import array_source
from dask_slides.slide import Slide, open_slide
from dask_slides.writers.blank_map_reader import open_blank_map
from dask_slides.writers.mapping_reader import open_mapping
from dask_slides.writers.pack_reader import open_pack
from dask_slides.writers.store.attributes import may_be_store, read_own_attributes

GEOJSON = (".geojson", ".geojson.gz", ".json")
"""Endings of files of annotations."""


@dataclass(frozen=True, eq=False)
class CutImage:
    """A cut-off, which is shown beside its source."""

    name: str
    image: Slide
    mapping: CutoffMapping


@dataclass(frozen=True, eq=False)
class Shown:
    """A slide and its layers."""

    slide: Slide
    has_pixels: bool = True
    """False for the slide of a pack or blank map whose file is not known."""
    blank_map: BlankMap | None = None
    """None if a detector finds it."""
    packs: tuple[tuple[str, TilePack], ...] = ()
    """Names and packs."""
    annotations: tuple[Annotations, ...] = ()
    cuts: tuple[CutImage, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """A line about each of the annotations of which polygons lie outside the slide."""
        found = []
        for one in self.annotations:
            low, high = np.split(one.polygons.bounds, 2, axis=1)
            inside = np.asarray(((low < self.slide.shape[:2]) & (high > 0)).all(axis=1))
            if not inside.all():
                found.append(
                    f"{one.name}: {(~inside).sum():,} of {len(inside):,} polygons lie outside "
                    f"{self.slide.name}; are they of another slide?"
                )
        return tuple(found)

    def plus(self, name: str, layer: Any) -> Shown:
        """Return this with another layer: a BlankMap, TilePack, Cutoff, Annotations or GeoJSON."""
        size = self.slide.shape[:2]
        if isinstance(layer, str):
            layer = read_geojson(layer, slide_shape=size)
        if isinstance(layer, BlankMap):
            _check_size(self, name, layer.grid.shape)
            return replace(self, blank_map=replace(layer, slide=self.slide))
        if isinstance(layer, TilePack):
            _check_size(self, name, layer.attributes.get("source_shape", size))
            return replace(self, packs=(*self.packs, (name, layer)))
        if isinstance(layer, Annotations):
            return replace(self, annotations=(*self.annotations, layer))
        if isinstance(layer, Cutoff):
            layer = CutImage(name, layer.image, layer.mapping)
        if isinstance(layer, CutImage):
            _check_size(self, name, layer.mapping.source_shape)
            return replace(self, cuts=(*self.cuts, layer))
        raise SlideArgumentError(
            f"{self.slide.name}: a {type(layer).__name__} is no layer; give a BlankMap, a "
            "TilePack, a Cutoff, Annotations, or paths of them"
        )


def _check_size(shown: Shown, name: str, shape: Sequence[int]) -> None:
    if tuple(shape[:2]) != shown.slide.shape[:2]:
        size = " x ".join(str(side) for side in shape[:2])
        raise SlideArgumentError(
            f"{name}: is of an image of {size} px, and {shown.slide.name} has "
            f"{shown.slide.shape[0]} x {shown.slide.shape[1]} px; give the slide that it is of"
        )


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that was opened from a path."""

    path: str
    layer: Any
    source: str
    """Name of its slide; "" if it does not say."""
    shape: tuple[int, ...]
    """Height and width of its slide; () if it does not say."""

    @property
    def name(self) -> str:
        return os.path.basename(self.path.rstrip("/"))


def open_paths(paths: Iterable[str | os.PathLike[str]]) -> tuple[Shown, ...]:
    """Open slides, stores, packs, blank maps, cut-offs and GeoJSON.

    Each layer belongs to the slide among them that it is of, by its name and size, or to the only
    one. A pack, a blank map or a cut-off without its slide is shown alone.

    Raises
    ------
    SlideArgumentError
        A layer does not fit the slide, or it is not known which one it belongs to.
    SlideNotFoundError, SlideFormatError
        A path cannot be opened.
    """
    opened = [_open(os.fspath(path)) for path in paths]
    shown = [Shown(one) for one in opened if isinstance(one, Slide)]
    for layer in (one for one in opened if isinstance(one, _Layer)):
        at = _slide_of(layer, [one.slide for one in shown])
        if at is None:
            shown.append(_alone(layer))
        else:
            shown[at] = shown[at].plus(layer.name, layer.layer)
    return tuple(shown)


def with_layers(shown: Shown, layers: Iterable[Any]) -> Shown:
    """Return `shown` with layers, which are objects or paths of them."""
    for layer in layers:
        name = type(layer).__name__
        if isinstance(layer, str | os.PathLike):
            opened = _open(os.fspath(layer))
            if isinstance(opened, Slide):
                raise SlideArgumentError(f"{layer}: is a slide, and no layer of one")
            name, layer = opened.name, opened.layer
        shown = shown.plus(name, layer)
    return shown


def _open(path: str) -> Slide | _Layer:
    if path.lower().endswith(GEOJSON):
        return _Layer(path, path, "", ())
    own = read_own_attributes(path) if may_be_store(path) else None
    kind = None if own is None else own.get("kind")
    if kind == "pack":
        pack = open_pack(path)
        shape = tuple(pack.attributes["source_shape"][:2])
        return _Layer(path, pack, str(pack.attributes["source"]), shape)
    if kind == "blank map":
        found = open_blank_map(path)
        return _Layer(path, found, found.slide.name, found.grid.shape)
    slide = open_slide(path, on_bad_tile="mask")  # a damaged slide is shown, too
    if own is not None and kind == "cutoff":
        mapping = open_mapping(path)
        name = os.path.basename(path.rstrip("/"))
        return _Layer(path, CutImage(name, slide, mapping), str(own["source"]),
                      mapping.source_shape)  # fmt: skip
    return slide


def _slide_of(layer: _Layer, slides: list[Slide]) -> int | None:
    """Return which of `slides` a layer belongs to; None if it is shown alone."""
    stem = layer.name.split(".")[0]
    if len(slides) == 1 and not isinstance(layer.layer, CutImage):
        return 0
    for fits in (
        [slide.name == layer.source for slide in slides],
        [slide.shape[:2] == layer.shape for slide in slides],
        [slide.name.split(".")[0] == stem for slide in slides],
    ):
        if sum(fits) == 1:
            return fits.index(True)
    if isinstance(layer.layer, str):
        raise SlideArgumentError(
            f"{layer.path}: which slide is it of? give the path of one slide with it, or a slide "
            f"whose name begins with {stem!r}"
        )
    return None


def _alone(layer: _Layer) -> Shown:
    """Return a layer whose slide is not given."""
    if isinstance(layer.layer, CutImage):
        return Shown(layer.layer.image)
    height, width = layer.shape
    nothing = array_source(da.zeros((height, width), dtype=np.uint8, chunks=4096))
    shown = Shown(Slide(nothing, layer.source, None), has_pixels=False)
    return shown.plus(layer.name, layer.layer)
