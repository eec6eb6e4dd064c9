"""Read arrays in .npy files, which the operating system maps into memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dask_slides.core.arguments import is_remote
from dask_slides.core.geometry import Region
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Opened, Source
from dask_slides.core.types import Array
from dask_slides.errors import SlideFormatError, SlideUnsupportedError
from dask_slides.readers.array_axes import array_plane
from dask_slides.readers.ome_zarr import check_levels, pixels_yxc
from dask_slides.readers.remote.identity import Identity, check_identity, identify
from dask_slides.readers.selection import ImageSelection, Plane
from dask_slides.readers.tile_status import fill_for

UNIT = 64
"""Side of a tile in pixels: a region of any size is read without the pixels around it."""


@dataclass(frozen=True)
class NpySource(Source):
    """An array in a .npy file; each process maps the file by its path."""

    path: str
    identity: Identity
    plane: Plane
    levels: tuple[Level, ...]
    channels: int
    dtype: np.dtype[Any]
    background: float
    on_bad_tile: str = "raise"

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def fill(self) -> Any:
        """The value of pixels without data in derived images."""
        return self.dtype.type(self.background)

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region`, which are copied from the file."""
        check_identity(self.path, self.identity)
        array = _mapped(self.path, self.identity)
        pixels = pixels_yxc(array, self.plane, region, slice(None), self.dtype)
        return np.array(pixels, order="C")  # not a view of the file


@lru_cache(maxsize=64)
def _mapped(path: str, identity: Identity) -> Array:
    return _open(path)


def _open(path: str) -> Array:
    """Map the array; no pixel is read."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0]
    raise SlideFormatError(
        f"{path}: cannot be opened as an array ({reason}); the file may be damaged, fetch it again"
    )


def open_npy(
    path: str, fill: float | None, limits: Limits, choice: ImageSelection = ImageSelection()
) -> Opened:
    """Read the header of the .npy file at `path`."""
    if is_remote(path):
        raise SlideUnsupportedError(
            f"{path}: a .npy file is mapped into memory, which needs a local file; download it "
            "first, or save the array as Zarr"
        )
    array = _open(path)
    if array.dtype.kind not in "uif":
        raise SlideUnsupportedError(
            f"{path}: dtype {array.dtype}; integer and float images are read"
        )
    plane, properties = array_plane(path, array.shape, None, choice)
    size = dict(zip(plane.axes, array.shape, strict=True))
    shape, channels = (size["Y"], size["X"]), size.get("C", 1)
    level = Level(shape, (1.0, 1.0), (min(UNIT, shape[0]), min(UNIT, shape[1])))
    dtype = array.dtype.newbyteorder("=")
    check_levels(path, (level,), channels * dtype.itemsize, limits)
    background = fill_for(path, fill, dtype, colour=dtype == np.uint8 and channels == 3)
    source = NpySource(path, identify(path), plane, (level,), channels, dtype, background)
    return Opened(source, None, {"format": "NumPy", "reader": "memory map"} | properties)
