"""Reduce tiles by means of boxes of pixels, if their codec cannot reduce them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dask_slides.core.types import Array
from dask_slides.runtime.numba_loader import numba_kernels

SAVED = 0.2e-9
"""Seconds per sample that the Numba kernel saves."""


def box_mean(pixels: Array, factor: int, samples: int = 0) -> Array:
    """Return the rounded means of boxes of `factor` x `factor` of `pixels` (h, w, c), uint8.

    Boxes that the edges cut are averaged over their pixels inside. `samples` is the number of
    samples of the whole image, of which `pixels` are a part.
    """
    height, width, channels = pixels.shape
    means = np.empty((-(-height // factor), -(-width // factor), channels), np.uint8)
    whole = height % factor == width % factor == 0
    kernels = numba_kernels(samples * SAVED) if whole else None
    if kernels is not None and factor in (2, 4, 8):
        rows = np.ascontiguousarray(pixels).reshape(height, width * channels)
        kernels.box_means(rows, channels, factor, means.reshape(len(means), -1))
        return means
    for top, bottom, box_height in _boxes(height, factor):
        for left, right, box_width in _boxes(width, factor):
            into = means[top // factor : -(-bottom // factor), left // factor : -(-right // factor)]
            _means(pixels[top:bottom, left:right], box_height, box_width, into)
    return means


def _boxes(size: int, factor: int) -> Iterator[tuple[int, int, int]]:
    """Yield the start and stop of all whole boxes along an axis and their length, then the rest."""
    rest = size % factor
    if size > rest:
        yield 0, size - rest, factor
    if rest:
        yield size - rest, size, rest


def _means(pixels: Array, box_height: int, box_width: int, means: Array) -> None:
    """Write the means of whole boxes to `means`, adding rows first, then columns."""
    height, width, channels = pixels.shape
    sums = pixels[::box_height].astype(np.uint16)
    for row in range(1, box_height):
        sums += pixels[row::box_height]
    columns = sums.reshape(height // box_height, width // box_width, box_width, channels)
    for channel in range(channels):
        mean = columns[:, :, 0, channel] + np.uint16(box_height * box_width // 2)
        for column in range(1, box_width):
            mean += columns[:, :, column, channel]
        mean //= np.uint16(box_height * box_width)
        means[..., channel] = mean
