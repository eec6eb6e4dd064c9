"""Morphology of masks: squares by shifted views, and pieces and holes by runs of pixels.

Both are several times faster than filters and labels of SciPy, whose loops visit each pixel of the
picture with a general footprint or an integer label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.runtime.threads import in_slices

STRIP = 1_000_000
"""Pixels to work on at a time. Fewer stay in the cache of a core, but then threads wait for the
lock of Python more than they gain."""

Mask = NDArray[np.bool_]
Integers = NDArray[np.int64]


def dilated(mask: Mask, radius: int) -> Mask:
    """Return where a square of ``2 * radius + 1`` pixels meets `mask`."""
    return _filtered(mask, radius, np.logical_or)


def eroded(mask: Mask, radius: int) -> Mask:
    """Return where a square lies within `mask`, which goes on beyond the rim of the picture."""
    return _filtered(mask, radius, np.logical_and)


def _filtered(mask: Mask, radius: int, join: np.ufunc) -> Mask:
    """Join the pixels of the square around each pixel, where there are any of `mask`."""
    height, width = mask.shape
    step = max(1, STRIP // max(1, width), 4 * radius)
    out = np.zeros(mask.shape, bool)  # unlike zeros_like, this touches no memory

    def call(rows: slice) -> None:
        first = max(0, rows.start - radius)
        part = mask[first : rows.stop + radius]
        columns = np.flatnonzero(part.any(axis=0))
        if not len(columns):
            return
        left, right = max(0, columns[0] - radius), min(width, columns[-1] + 1 + radius)
        shape = rows.stop - rows.start + 2 * radius, right - left + 2 * radius
        padded = np.full(shape, join.identity, bool)
        above = first - rows.start + radius
        padded[above : above + len(part), radius : -radius or None] = part[:, left:right]
        for axis in (1, 0):
            padded = _spread(padded, radius, axis, join)
        out[rows, left:right] = padded

    in_slices(call, height, step)
    return out


def _spread(mask: Mask, radius: int, axis: int, join: np.ufunc) -> Mask:
    """Join the views of `mask` that are ``2 * radius`` pixels shorter."""
    span, whole = 1, 2 * radius + 1
    while span < whole:  # views of `span` pixels join to views of twice as many
        step = min(span, whole - span)
        along: Any = (slice(None),) * axis
        mask = join(mask[(*along, slice(None, -step))], mask[(*along, slice(step, None))])
        span += step
    return mask


def closed(mask: Mask, radius: int) -> Mask:
    """Return `mask` without gaps of up to ``2 * radius`` pixels."""
    return eroded(dilated(mask, radius), radius) if radius > 0 else mask


def opened(mask: Mask, radius: int) -> Mask:
    """Return `mask` without parts of up to ``2 * radius`` pixels width."""
    return dilated(eroded(mask, radius), radius) if radius > 0 else mask


@dataclass(frozen=True)
class Regions:
    """The connected regions of a mask, as runs of pixels along its rows."""

    shape: tuple[int, int]
    starts: Integers
    """(n,) first pixels of the runs, in a flat picture with one empty column before each row."""
    ends: Integers
    """(n,) the pixels after their last ones."""
    region: Integers
    """(n,) number of the region of each run."""
    count: int

    def sums(self, weights: Integers | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum (count,) of `weights` (n,) of the runs of each region."""
        return np.asarray(np.bincount(self.region, weights, self.count), np.float64)

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """(count,) pixels of each region."""
        return self.sums(self.ends - self.starts)

    def touching(self) -> Mask:
        """Return (count,) which regions touch the rim of the picture."""
        height, width = self.shape
        stride = width + 1
        row = self.starts // stride
        at_rim = (row == 0) | (row == height - 1)
        at_rim |= (self.starts % stride == 1) | (self.ends % stride == 0)
        return self.sums(at_rim) > 0

    def count_in(self, mask: Mask) -> NDArray[np.float64]:
        """Return (count,) how many pixels of each region are in `mask`, a part of the regions."""
        starts, ends = _runs(mask)
        region = self.region[np.searchsorted(self.starts, starts, "right") - 1]
        return np.asarray(np.bincount(region, ends - starts, self.count), np.float64)

    def totals(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return (count,) the sums of `values` (height, width) over each region."""
        before = np.zeros(values.size + len(values) + 1)
        np.cumsum(np.pad(values, ((0, 0), (1, 0))), out=before[1:], dtype=np.float64)
        return self.sums(before[self.ends] - before[self.starts])

    def means(self, values: Sequence[NDArray[Any]], side: int) -> NDArray[np.float64]:
        """Return (c, count) the means of c `values` (rows, columns) of cells of `side` pixels.

        Each run counts with the cell of its middle.
        """
        row, column = np.divmod((self.starts + self.ends) // 2, self.shape[1] + 1)
        lengths = self.ends - self.starts
        sums = [self.sums(v[row // side, (column - 1) // side] * lengths) for v in values]
        return np.stack(sums) / self.areas

    def mask(self, chosen: Mask) -> Mask:
        """Return the mask of the regions for which `chosen` (count,) is True."""
        height, width = self.shape
        edges = np.empty(2 * len(self.starts) + 2, np.int64)
        edges[0], edges[-1] = 0, height * (width + 1)
        edges[1:-1:2], edges[2:-1:2] = self.starts, self.ends
        values = np.zeros(len(edges) - 1, bool)
        values[1::2] = chosen[self.region]
        flat = np.repeat(values, np.diff(edges))
        return np.asarray(flat.reshape(height, width + 1)[:, 1:])


def regions(mask: Mask, diagonal: bool) -> Regions:
    """Return the connected regions of `mask`; `diagonal` neighbours connect too if True."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    stride = mask.shape[1] + 1
    starts, ends = _runs(mask)
    reach = stride + int(diagonal)
    # the runs of the next row that each run touches follow each other
    first = np.searchsorted(ends, starts + (2 * stride - reach), "right")
    last = np.searchsorted(starts, ends + reach, "left")
    counts = np.maximum(last - first, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    below = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], counts)
    graph = csr_array((np.ones(len(below), np.int8), below, offsets), shape=(len(starts),) * 2)
    count, region = connected_components(graph, directed=False)
    return Regions(mask.shape, starts, ends, region, int(count))


def _runs(mask: Mask) -> tuple[Integers, Integers]:
    """Return the starts and ends (n,) of the runs along the rows of `mask`."""
    height, stride = mask.shape[0], mask.shape[1] + 1
    step = max(1, STRIP // stride)
    found: list[Integers] = [np.empty(0, np.int64)] * -(-height // step)

    def call(rows: slice) -> None:
        part = mask[rows]
        padded = np.zeros((len(part), stride), bool)
        padded[:, 1:] = part
        flat = padded.reshape(-1)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        if flat[-1]:  # a run ends with the last row
            edges = np.append(edges, flat.size)
        found[rows.start // step] = edges + rows.start * stride

    in_slices(call, height, step)
    edges = np.concatenate([*found, np.empty(0, np.int64)])
    return edges[0::2], edges[1::2]


def without_holes(mask: Mask, pixels: float) -> Mask:
    """Fill the holes of fewer than `pixels` that do not touch the rim of the picture."""
    found = regions(~mask, diagonal=False)
    filled = found.mask((found.areas < pixels) & ~found.touching())
    filled |= mask
    return filled
