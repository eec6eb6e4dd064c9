"""Read Zarr arrays without the metadata of OME-Zarr, of format 2 and 3."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Opened
from dask_slides.errors import (
    RemoteAccessError,
    RemoteError,
    SlideFormatError,
    SlideNotFoundError,
    SlideUnsupportedError,
)
from dask_slides.readers.array_axes import array_plane
from dask_slides.readers.ome_zarr import (
    NotAGroupError,
    OmeZarrSource,
    check_chunks,
    check_levels,
    open_ome_zarr,
)
from dask_slides.readers.remote.identity import Identity, identify
from dask_slides.readers.remote.object_store import open_array
from dask_slides.readers.selection import ImageSelection
from dask_slides.readers.tile_status import fill_for


def open_zarr(
    path: str, fill: float | None, limits: Limits, choice: ImageSelection = ImageSelection()
) -> Opened:
    """Open the OME-Zarr image, or the plain array, at `path`."""
    try:
        return open_ome_zarr(path, fill, limits, choice)
    except NotAGroupError as error:
        found = _array_at(path)
        if found is None:
            raise SlideFormatError(str(error)) from None
    return _open(path, *found, fill, limits, choice)


def _array_at(path: str) -> tuple[Any, str, Identity] | None:
    """Return the array at `path` and its metadata file; None if there is no array."""
    for name in ("zarr.json", ".zarray"):
        with suppress(SlideNotFoundError):
            metadata = f"{path}/{name}"
            identity = identify(metadata)
            try:
                return open_array(path), metadata, identity
            except (RemoteError, RemoteAccessError):
                raise
            except Exception:  # Zarr raises many classes for what is not an array
                return None
    return None


def _open(
    path: str,
    array: Any,
    metadata: str,
    identity: Identity,
    fill: float | None,
    limits: Limits,
    choice: ImageSelection,
) -> Opened:
    """Return the array as an image of one level."""
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "uif":
        raise SlideUnsupportedError(f"{path}: dtype {dtype}; integer and float images are read")
    plane, properties = array_plane(path, array.shape, _names_of(array), choice)
    check_chunks(path, array, limits)
    size = dict(zip(plane.axes, array.shape, strict=True))
    tile = dict(zip(plane.axes, array.chunks, strict=True))
    level = Level((size["Y"], size["X"]), (1.0, 1.0), (tile["Y"], tile["X"]))
    channels = size.get("C", 1)
    check_levels(path, (level,), channels * dtype.itemsize, limits)
    background = fill_for(path, fill, dtype, colour=dtype == np.uint8 and channels == 3)
    source = OmeZarrSource(
        path,
        metadata,
        identity,
        ("",),
        (level,),
        channels,
        dtype.newbyteorder("="),
        background,
        plane=plane,
    )
    version = array.metadata.zarr_format
    return Opened(source, None, {"format": f"Zarr {version}", "reader": "Zarr"} | properties)


def _names_of(array: Any) -> Any:
    """Return the names of the axes: of Zarr 3, or those that xarray writes into Zarr 2."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    valid = isinstance(names, list | tuple) and len(names) == array.ndim
    return [name if isinstance(name, str) else None for name in names] if valid else None
