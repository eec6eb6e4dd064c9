"""Write a sample whole-slide image, drawn from a histology picture that scikit-image includes."""

from __future__ import annotations

import math
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np

from dask_slides.core.arguments import local_path
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.runtime.write_permission import check_parent, exists_error, permission_errors
from dask_slides.testing.scene import Scene, draw_scene

CODECS: dict[str, dict[str, Any]] = {
    "jpeg": {"level": 80},
    "none": {},
    "lzw": {},
    "deflate": {},
    "zstd": {},
    "jpeg2000": {"level": 40},
    "webp": {"level": 80, "lossless": False},
}
"""Options of each compression: the quality of the lossy ones."""
MAX_TILES = 4_000_000
THREADS = 2
BATCH_BYTES = 2**25
"""Bytes of tiles that are drawn at once before they are encoded."""


def sample_slide(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, int] = (20480, 20480),
    tile: int = 256,
    compression: str | None = "jpeg",
    pyramid: bool = False,
    mpp: float = 0.25,
    seed: int = 0,
    overwrite: bool = False,
) -> str | os.PathLike[str]:
    """
    Write a slide of stained tissue, with a pen mark and a fold, as a tiled BigTIFF.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write. It appears only when it is complete.
    shape : tuple of int
        Rows and columns. The scene is the same at every size.
    tile : int
        Side of the tiles in pixels, a multiple of 16 from 16 to 4096.
    compression : str or None
        ``"jpeg"``, ``"none"``, ``"lzw"``, ``"deflate"``, ``"zstd"``, ``"jpeg2000"`` or ``"webp"``.
    pyramid : bool
        Whether to add levels of 1/4, 1/16 ... as SubIFDs, down to a longest side of 1024.
    mpp : float
        Micrometres per pixel, written to the resolution tags.
    seed : int
        Seed that determines the islands of tissue.
    overwrite : bool
        Whether to replace an existing file.

    Returns
    -------
    str or os.PathLike
        The path, as given.

    Raises
    ------
    SlideArgumentError
        If an argument is out of range.
    SlideNotFoundError
        If the folder to write to does not exist.
    OutputDeniedError
        If the folder cannot be written to.
    OutputExistsError
        If the path exists and `overwrite` is false.

    Examples
    --------
    >>> import os, tempfile
    >>> from dask_slides import open_slide
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = sample_slide(os.path.join(folder, "sample.tif"), shape=(600, 800))
    ...     open_slide(path).shape
    (600, 800, 3)
    """
    name, codec = os.fspath(path), compression or "none"
    local_path(name, "a sample slide")
    _check(name, shape, tile, codec, mpp, seed)
    folder, base = os.path.split(os.path.abspath(name))
    check_parent(name)
    if os.path.isdir(name) or (os.path.lexists(name) and not overwrite):
        raise exists_error(name)
    scene = draw_scene((int(shape[0]), int(shape[1])), seed)
    hidden = os.path.join(folder, f".{base}.{secrets.token_hex(4)}.tmp")
    try:
        with permission_errors(os.path.join(folder, base)):
            _write(hidden, scene, tile, codec, pyramid, mpp)
            os.replace(hidden, name)
    finally:
        if os.path.exists(hidden):
            os.remove(hidden)
    return path


def _check(path: str, shape: Any, tile: Any, codec: Any, mpp: Any, seed: Any) -> None:
    def is_whole(value: Any, least: int) -> bool:
        return isinstance(value, (int, np.integer)) and bool(value >= least)

    pair = isinstance(shape, (tuple, list)) and len(shape) == 2
    if not (pair and all(is_whole(n, 1) for n in shape)):
        wrong = f"shape {shape!r} is not two whole numbers of 1 or more; give (rows, columns)"
    elif not (is_whole(tile, 16) and tile <= 4096 and tile % 16 == 0):
        wrong = f"tile {tile!r} is not a multiple of 16 from 16 to 4096; use 256 or 512"
    elif -(-shape[0] // tile) * -(-shape[1] // tile) > MAX_TILES:
        wrong = f"shape {shape!r} has over {MAX_TILES:,} tiles of {tile}; use larger tiles"
    elif codec not in CODECS:
        wrong = f"unknown compression {codec!r}; use one of {', '.join(CODECS)}"
    elif not (isinstance(mpp, (int, float)) and 0 < mpp < math.inf):
        wrong = f"mpp {mpp!r} is not a positive number; give micrometres per pixel, such as 0.25"
    elif not is_whole(seed, 0):
        wrong = f"seed {seed!r} is not a whole number of 0 or more; use 0"
    else:
        return
    raise SlideArgumentError(f"{path}: {wrong}")


def _write(path: str, scene: Scene, tile: int, codec: str, pyramid: bool, mpp: float) -> None:
    """Write the levels one by one, and compute the next level while the tiles are drawn."""
    from tifffile import TiffWriter

    sizes = [scene.shape]
    while pyramid and max(sizes[-1]) > 1024:
        sizes.append((-(-sizes[-1][0] // 4), -(-sizes[-1][1] // 4)))
    read = scene.tile
    with ExitStack() as stack:
        # For x.ome.tif tifffile would add OME-XML, which contains a random identifier.
        writer = stack.enter_context(TiffWriter(path, bigtiff=True, ome=False))
        for n, size in enumerate(sizes):
            smaller = None
            if n + 1 < len(sizes):
                file = stack.enter_context(tempfile.TemporaryFile(dir=os.path.dirname(path)))
                rows, columns = (-(-side // tile) * tile // 4 for side in size)
                smaller = np.memmap(file, np.uint8, "w+", shape=(rows, columns, 3))
            writer.write(
                _tiles(read, size, tile, smaller),
                shape=(*size, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb",
                compression=codec,
                compressionargs=CODECS[codec],
                subsampling=(2, 2) if codec == "jpeg" else None,
                resolution=(10000 / mpp / 4**n,) * 2,
                resolutionunit="CENTIMETER",
                software="dask_slides",
                metadata=None,
                subifds=None if n else len(sizes) - 1,
                subfiletype=1 if n else 0,
                maxworkers=THREADS,
                buffersize=BATCH_BYTES,
            )
            if smaller is not None:
                read = partial(_cut, smaller)


def _tiles(
    read: Callable[[int, int, int], Array],
    size: tuple[int, int],
    side: int,
    smaller: Array | None,
) -> Iterator[Array]:
    """Yield the tiles of a level row by row, and fill `smaller`, the level of 1/4 its size."""
    from PIL import Image

    def tile(at: tuple[int, int]) -> Array:
        pixels = read(*at, side)
        if smaller is not None:
            y, x, part = at[0] // 4, at[1] // 4, side // 4
            smaller[y : y + part, x : x + part] = Image.fromarray(pixels).reduce(4)
        return pixels

    corners = product(range(0, size[0], side), range(0, size[1], side))
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(corners, max(THREADS, BATCH_BYTES // (3 * side**2)))):
            yield from pool.map(tile, batch)


def _cut(image: Array, top: int, left: int, side: int) -> Array:
    """Return a square of an image; repeat the last pixels beyond its edge."""
    pixels = image[top : top + side, left : left + side]
    rest = ((0, side - pixels.shape[0]), (0, side - pixels.shape[1]), (0, 0))
    return np.pad(pixels, rest, mode="edge")
