"""The tissue label: an image computed from a blank map, region by region."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region
from dask_slides.core.intervals import Intervals
from dask_slides.core.layout import GridLayout, Layout
from dask_slides.core.types import Array
from dask_slides.numerics.tissue_mask import MISSING, TISSUE, TissueMask
from dask_slides.ops.blank_map import BlankMap
from dask_slides.slide import Slide
from dask_slides.writers import ome_metadata
from dask_slides.writers.image_plan import SMALLEST_LEVEL
from dask_slides.writers.store.arrays import create_level

LONGEST_LABEL = 4096
"""Longest side of the label of a copied image, in pixels."""
LABEL_STEP = 4
"""Ratio of its levels."""
CHUNK = 512
"""Side of its chunks in pixels."""


@dataclass(frozen=True)
class PackedMask:
    """A mask of tissue in few bytes, as it is part of every task."""

    shape: tuple[int, int]
    """Rows and columns of the mask."""
    tissue: bytes
    """One bit per pixel, compressed with zlib; every row starts a byte."""
    missing: bytes
    """The same for missing pixels; empty if there are none."""
    heights: bytes
    """Source pixels that each row covers, int64, compressed with zlib."""
    widths: bytes
    """The same for the columns."""

    @classmethod
    def of(cls, mask: TissueMask) -> PackedMask:
        """Return `mask` without its grey values."""
        rows, columns = mask.kinds.shape
        return cls(
            (rows, columns),
            _packed(mask.tissue),
            b"" if mask.missing is None else _packed(mask.missing),
            zlib.compress(np.diff(mask.y_edges).astype(np.int64).tobytes()),
            zlib.compress(np.diff(mask.x_edges).astype(np.int64).tobytes()),
        )

    def at(self, y: Array, x: Array) -> Array:
        """Return the values (len(y), len(x)) uint8 at ascending coordinates of the source."""
        rows, columns = _positions(self.heights, y), _positions(self.widths, x)
        kinds = np.zeros((len(y), len(x)), np.uint8)
        for bits, value in ((self.tissue, TISSUE), (self.missing, MISSING)):
            if bits and kinds.size:
                kinds[self._unpacked(bits, rows, columns)] = value
        return kinds

    def _unpacked(self, bits: bytes, rows: Array, columns: Array) -> Array:
        """Return some rows and columns as booleans; only these rows are unpacked."""
        packed = np.frombuffer(_decompressed(bits), np.uint8).reshape(self.shape[0], -1)
        used, index = np.unique(rows, return_inverse=True)
        unpacked = np.unpackbits(packed[used], axis=1, count=self.shape[1])
        return np.asarray(unpacked[np.ix_(index, columns)].view(bool))


@lru_cache(maxsize=8)
def _decompressed(data: bytes) -> bytes:
    """Return the bytes; kept, as an image of islands asks for many parts."""
    return zlib.decompress(data)


def _packed(values: Array) -> bytes:
    return zlib.compress(np.packbits(values, axis=1).tobytes())


def _positions(sizes: bytes, points: Array) -> Array:
    """Return the row or column of the mask that holds each point."""
    ends = np.cumsum(np.frombuffer(_decompressed(sizes), np.int64))
    return np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1)


@dataclass(frozen=True)
class TissueLabel:
    """Label each pixel of an image by the pixel of a mask that holds its centre."""

    layout: Layout
    """Where the pixels of the image lie on the source."""
    factors: tuple[float, float]
    """Source pixels per image pixel, along y and x."""
    mask: PackedMask

    @property
    def has_unknown(self) -> bool:
        """Whether the tissue of any pixel of the mask is unknown."""
        return bool(self.mask.missing)

    def pixels(self, level: int, region: Region) -> Array:
        """Return the label of `region` of `level`, (h, w) uint8: 1 tissue, 2 unknown."""
        y = self._centres(0, region.y, region.stop_y, level)
        x = self._centres(1, region.x, region.stop_x, level)
        out = np.zeros((region.height, region.width), np.uint8)
        for rows, columns, source_y, source_x in self.layout.lines(y, x):
            out[rows, columns] = self.mask.at(source_y, source_x)
        return out

    def _centres(self, axis: int, start: int, stop: int, level: int) -> Array:
        """Return the centres of the rows or columns of a level, in pixels of the layout."""
        centre = (np.arange(start, stop) + 0.5) * 2**level * self.factors[axis]
        # the centre of a partial last pixel of a level may lie beyond the image
        return np.asarray(np.minimum(centre, np.nextafter(self.layout.shape[axis], 0)))


def tissue_label(blank_map: BlankMap, layout: Layout, factors: tuple[float, float]) -> TissueLabel:
    """Return the label of an image with this `layout` of the parts of its source.

    It shows the mask of the blank map; for detectors of statistics these are its tiles.
    """
    return TissueLabel(layout, factors, PackedMask.of(blank_map.mask))


def label_of_slide(slide: Slide, blank_map: BlankMap) -> TissueLabel:
    """Return the label of a whole slide, at any scale; `blank_map` is that of its source."""
    whole = blank_map.grid.shape
    layout = GridLayout(*(Intervals((0,), (n,)) for n in whole))
    factors = (whole[0] / slide.shape[0], whole[1] / slide.shape[1])
    return tissue_label(blank_map, layout, factors)


def create_label_group(group: Any, version: str) -> Any:
    """Create the group of the tissue label of an image; return it."""
    labels = group.create_group("labels")
    labels.attrs.update(ome_metadata.attributes(version, {"labels": ["tissue"]}))
    return labels.create_group("tissue")


def write_small_label(group: Any, label: TissueLabel, slide: Slide) -> None:
    """Write the label of `slide` with levels of at most `LONGEST_LABEL` px, a quarter each.

    The mask is coarser than these, and a label of full size would take longer than a copy.
    """
    tissue = create_label_group(group, "0.5")
    factor = 1
    while max(slide.shape[:2]) > LONGEST_LABEL * factor:
        factor *= 2
    downsamples: list[tuple[float, float]] = []
    while not downsamples or max(slide.shape[:2]) >= SMALLEST_LEVEL * factor:
        shape = (-(-slide.shape[0] // factor), -(-slide.shape[1] // factor))
        scaled = replace(label, factors=(label.factors[0] * factor, label.factors[1] * factor))
        name, side = str(len(downsamples)), (CHUNK, LONGEST_LABEL)
        array = create_level(tissue, name, shape, side, "uint8", "yx")
        array[...] = scaled.pixels(0, Region(0, 0, *shape))
        downsamples.append((float(factor), float(factor)))
        factor *= LABEL_STEP
    placement = ome_metadata.placement_on_slide(slide.source)
    parts: dict[str, Any] = {
        "multiscales": ome_metadata.multiscales(
            "tissue", "yx", placement, slide.mpp_yx, downsamples
        ),
        "image-label": ome_metadata.image_label(label.has_unknown),
    }
    tissue.attrs.update(ome_metadata.attributes("0.5", parts))
