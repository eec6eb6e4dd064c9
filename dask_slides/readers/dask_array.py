"""A dask array as a source; and the window of it that a task was handed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.equality import EqualByFields
from dask_slides.core.geometry import Region
from dask_slides.core.source import Level, Source
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError


@dataclass(frozen=True)
class WindowSource(Source):
    """Pixels in memory: `pixels` (h, w, c) lies at (y, x) of an image of known levels."""

    name: str
    levels: tuple[Level, ...]
    channels: int
    dtype: np.dtype[Any]
    pixels: Array | None = None
    y: int = 0
    x: int = 0

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region`; it must lie in the window."""
        assert level == 0
        assert self.pixels is not None
        return self.pixels[region.slices(self.y, self.x)]


@dataclass(frozen=True, eq=False)
class ArraySource(EqualByFields, Source):
    """A dask array (y, x, c); tasks get the windows they need as dependencies."""

    array: da.Array
    name: str = "dask array"

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level: the array."""
        height, width = self.array.shape[:2]
        tile = (max(self.array.chunks[0]), max(self.array.chunks[1]))
        return (Level((height, width), (1.0, 1.0), tile),)

    @property
    def channels(self) -> int:
        """Length of the last axis."""
        return int(self.array.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array."""
        # numpy has two types of 64 bits that are equal, and Zarr knows one of them
        result: np.dtype[Any] = np.dtype(self.array.dtype.newbyteorder("=").str)
        return result

    def read(self, level: int, region: Region) -> Array:
        """Compute `region` of the array."""
        return np.asarray(self.array[region.slices()].compute())

    def hollow(self) -> WindowSource:
        """Return a source of the same shape without pixels, small to pickle."""
        return WindowSource(self.name, self.levels, self.channels, self.dtype)


def array_source(array: Any) -> ArraySource:
    """Check `array` (y, x) or (y, x, c) and wrap it."""
    if isinstance(array, np.ndarray):
        array = da.from_array(array, chunks="auto")
    if not isinstance(array, da.Array):
        raise SlideArgumentError(
            f"{type(array).__name__} is not an image; give a path, a Slide, or a dask array"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise SlideArgumentError(
            f"dask array of shape {array.shape} is not an image; give (y, x) or (y, x, c)"
        )
    if np.isnan(sum(array.shape)):
        raise SlideArgumentError(
            "dask array has chunks of unknown size; call compute_chunk_sizes() on it first"
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "uif":
        raise SlideArgumentError(
            f"dask array of dtype {array.dtype} is not an image; use an integer or float dtype"
        )
    return ArraySource(array.rechunk({2: -1}))
