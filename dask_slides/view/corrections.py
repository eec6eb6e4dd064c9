"""Corrections of a blank map: areas that a user marks as tissue or as blank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.polygons import Outline
from dask_slides.core.types import Array
from dask_slides.graph.overview import overview_shape
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR
from dask_slides.numerics.outlines import outlines_mask
from dask_slides.numerics.tissue_mask import TissueMask, edges_of_mask
from dask_slides.ops.blank_map import BlankMap


@dataclass(frozen=True, eq=False)
class Correction:
    """An area that is tissue, or that is not."""

    rows: slice
    columns: slice
    inside: NDArray[np.bool_]
    """The pixels of the mask in `rows` and `columns` that are changed."""
    tissue: bool


class Corrections:
    """A list of corrections of the blank maps of one slide, of which the last can be undone.

    They are made in the pixels of the mask that `BlankMap.from_geojson` makes, so that the outlines
    of the corrected map give the same map again.
    """

    def __init__(self, shape: tuple[int, int], mpp_yx: tuple[float, float] | None) -> None:
        self._edges = edges_of_mask(shape, overview_shape(shape, mpp_yx, DEFAULT_DETECTOR.mpp))
        self.made: list[Correction] = []

    def polygon(self, yx: Array, tissue: bool) -> None:
        """Mark the inside of a polygon (n, 2) in pixels of level 0."""
        if len(yx) >= 3:
            rows, columns, y_edges, x_edges = self._around(yx, 0)
            inside = outlines_mask([Outline(yx)], y_edges, x_edges)
            self.made.append(Correction(rows, columns, inside, tissue))

    def stroke(self, yx: Array, width: float, tissue: bool) -> None:
        """Mark what is nearer than half of `width` to a line (n, 2), in pixels of level 0."""
        rows, columns, y_edges, x_edges = self._around(yx, width / 2)
        y, x = ((edges[:-1] + edges[1:]) / 2 for edges in (y_edges, x_edges))
        inside = np.zeros((len(y), len(x)), bool)
        for start, stop in zip(yx, [*yx[1:], yx[-1]], strict=True):
            inside |= _distance(y[:, None], x[None, :], start, stop) <= width / 2
        self.made.append(Correction(rows, columns, inside, tissue))

    def _around(self, yx: Array, margin: float) -> tuple[slice, slice, Array, Array]:
        """Return the rows and columns of the mask around points, and their edges."""
        spans = []
        for axis, edges in enumerate(self._edges):
            low, high = yx[:, axis].min() - margin, yx[:, axis].max() + margin
            start = int(np.clip(np.searchsorted(edges, low, side="right") - 1, 0, len(edges) - 2))
            stop = int(np.clip(np.searchsorted(edges, high), start + 1, len(edges) - 1))
            spans.append(slice(start, stop))
        y, x = (edges[one.start : one.stop + 1] for edges, one in zip(self._edges, spans,
                                                                       strict=True))  # fmt: skip
        return spans[0], spans[1], y, x

    def undo(self) -> None:
        """Take the last correction back, if there is one."""
        del self.made[-1:]

    def applied(self, found: BlankMap) -> BlankMap:
        """Return the computed map with all corrections."""
        mask = self._resampled(found.mask)
        tissue = mask.tissue.copy()
        for one in self.made:
            tissue[one.rows, one.columns][one.inside] = one.tissue
        return found.compute().with_mask(mask.with_tissue(tissue))

    def _resampled(self, mask: TissueMask) -> TissueMask:
        """Return the mask in the pixels of the corrections: each has the value of its centre."""
        y, x = (np.append((edges[:-1] + edges[1:]) / 2, edges[-1]) for edges in self._edges)
        centres = mask.resampled(y, x)
        return TissueMask(centres.kinds, *self._edges, centres.grey)


def _distance(y: Array, x: Array, start: Array, stop: Array) -> Array:
    """Return the distances of the points (y, x) from the line between two points."""
    dy, dx = stop - start
    length = dy * dy + dx * dx
    along = np.clip(((y - start[0]) * dy + (x - start[1]) * dx) / (length or 1.0), 0, 1)
    return np.asarray(np.hypot(y - start[0] - along * dy, x - start[1] - along * dx))
