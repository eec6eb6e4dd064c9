"""What the formats of coordinates need to know of a pack: the slide, the scale, the tiles in it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import SlideArgumentError
from dask_slides.ops.pack import TilePack
from dask_slides.runtime.write_permission import permission_errors

COMPOUND = (".ome.tif", ".ome.tiff", ".ome.zarr")
"""Suffixes of two parts."""


def source_name(pack: TilePack) -> str:
    """Return the name of the slide, with its suffix."""
    return str(pack.attributes.get("source", "pack"))


def stem(name: str) -> str:
    """Return the name of a slide without its folder and suffix."""
    base = os.path.basename(name)
    for suffix in COMPOUND:
        if base.lower().endswith(suffix):
            return base[: -len(suffix)]
    return os.path.splitext(base)[0] or base


def checked_stem(name: str | None, source: str) -> str:
    """Return the `name` that a user gives, or that of the slide; both name a file in a folder."""
    if name is None:
        return stem(source)
    if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", ".."):
        raise SlideArgumentError(f"{source}: name={name!r}; give the slide's name without a folder")
    return name


def corners_xy(pack: TilePack) -> NDArray[np.int64]:
    """Return the top left of each tile (n, 2), x before y, in pixels of level 0."""
    return np.stack((pack.x, pack.y), axis=1).astype(np.int64)


def downsample_of(pack: TilePack) -> tuple[float, float]:
    """Return the pixels of level 0 per pixel of a tile, along y and x."""
    y, x = (float(value) for value in pack.attributes["downsample"])
    return y, x


def slide_mpp(pack: TilePack) -> float | None:
    """Return the micrometres per pixel of level 0; None if unknown."""
    if pack.slide is not None:
        return pack.slide.mpp
    return None if pack.mpp is None else pack.mpp / float(np.mean(downsample_of(pack)))


def slide_size(pack: TilePack) -> tuple[int, int]:
    """Return the height and width of level 0."""
    height, width = pack.attributes["source_shape"][:2]
    return int(height), int(width)


def square_tiles(pack: TilePack, tool: str) -> tuple[int, int]:
    """Return the side of the tiles in pixels of the pack and of level 0.

    Raises SlideArgumentError for what `tool`, which cuts squares from the file of the slide, cannot
    have.
    """
    name = source_name(pack)
    height, width = pack.tiles.shape[1:3]
    tall, wide = np.rint(np.multiply((height, width), downsample_of(pack))).astype(int).tolist()
    if height != width or abs(tall - wide) > 1:
        raise SlideArgumentError(
            f"{name}: {tool} has square tiles only, and these are {height} x {width} px from "
            f"{tall} x {wide} px of the slide; pack square tiles, or export to parquet"
        )
    read_from = str(pack.attributes.get("read_from", "level 0"))
    moved = downsample_of(pack) == (1.0, 1.0) and not read_from.startswith("level")
    if moved or " and " in read_from:
        raise SlideArgumentError(
            f"{name}: its tiles are {read_from}, and {tool} cuts from the file itself; pack the "
            "slide as it is opened, at the downsample that you want"
        )
    return int(height), max(tall, wide)


def stride_of(pack: TilePack) -> tuple[int, int]:
    """Return the distance of tiles along y and x in pixels of the pack; crops have their side."""
    y, x = pack.attributes.get("stride") or pack.tiles.shape[1:3]
    return int(y), int(x)


def job_file(path: str, tool: str, *parts: str) -> str:
    """Return the path of a file in the job folder `path` of `tool`, whose folders are made."""
    if os.path.splitext(path)[1].lower() in (".h5", ".hdf5", ".geojson"):
        raise SlideArgumentError(
            f"{path}: {tool} has a folder with one file per slide; give the name of that folder"
        )
    folder = os.path.join(path, *parts[:-1])
    try:
        with permission_errors(os.path.abspath(path)):
            os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise SlideArgumentError(f"{path}: is a file; give the folder of the {tool} job") from None
    return os.path.join(folder, parts[-1])


def import_h5py() -> Any:
    """Return h5py; raise ImportError with the name of the extra if it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("files of HDF5 need h5py; pip install 'dask-slides[export]'") from error
    return h5py
