"""The tissue label: an image computed from a blank map, region by region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dask_slides.core.geometry import Region
from dask_slides.core.layout import Layout
from dask_slides.core.types import Array
from dask_slides.ops.blank_map import BlankMap


@dataclass(frozen=True)
class TissueLabel:
    """Label each pixel of an image by the cell of a blank map that holds its centre."""

    layout: Layout
    """Where the pixels of the image lie on the source."""
    factors: tuple[float, float]
    """Source pixels per image pixel, along y and x."""
    tile: tuple[int, int]
    shape: tuple[int, int]
    """Rows and columns of cells."""
    blank: bytes
    """The blank cells, one bit per cell."""
    unknown: bytes
    """The unknown cells, one bit per cell."""

    @property
    def has_unknown(self) -> bool:
        """Whether any cell is unknown."""
        return any(self.unknown)

    def pixels(self, level: int, region: Region) -> Array:
        """Return the label of `region` of `level`, (h, w) uint8: 1 tissue, 2 unknown."""
        blank, unknown = (_unpacked(bits, self.shape) for bits in (self.blank, self.unknown))
        tissue = (1 - blank + unknown).astype(np.uint8)
        y = self._centres(0, region.y, region.stop_y, level)
        x = self._centres(1, region.x, region.stop_x, level)
        out = np.zeros((region.height, region.width), np.uint8)
        for rows, columns, source_y, source_x in self.layout.lines(y, x):
            cells = self._cells(0, source_y), self._cells(1, source_x)
            out[rows, columns] = tissue[np.ix_(*cells)]
        return out

    def _centres(self, axis: int, start: int, stop: int, level: int) -> Array:
        """Return the centres of the rows or columns of a level, in pixels of the layout."""
        centre = (np.arange(start, stop) + 0.5) * 2**level * self.factors[axis]
        # the centre of a partial last pixel of a level may lie beyond the image
        return np.asarray(np.minimum(centre, np.nextafter(self.layout.shape[axis], 0)))

    def _cells(self, axis: int, source: Array) -> Array:
        """Return the row or column of cells at coordinates of the source."""
        return np.minimum(source.astype(np.int64) // self.tile[axis], self.shape[axis] - 1)


def tissue_label(blank_map: BlankMap, layout: Layout, factors: tuple[float, float]) -> TissueLabel:
    """Return the label of an image with this `layout` of the parts of its source."""
    blank, unknown = (
        np.packbits(np.asarray(cells).reshape(-1)).tobytes()
        for cells in (blank_map.blank, blank_map.unknown)
    )
    return TissueLabel(layout, factors, blank_map.grid.tile, blank_map.shape, blank, unknown)


def _unpacked(bits: bytes, shape: tuple[int, int]) -> Array:
    count = shape[0] * shape[1]
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count).reshape(shape)
