"""A whole-slide image to try things on, drawn offline from one bundled histology picture."""

from __future__ import annotations

import io
import math
import os
import secrets
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideNotFoundError
from dask_slides.testing.sampling.canvas import canvas
from dask_slides.testing.sampling.tiles import Levels, reduced

_CODECS = ("jpeg", "none", "lzw", "deflate", "zstd", "jpeg2000", "webp")
_MOST_TILES = 4_000_000


def _check(
    path: str, shape: Any, tile: Any, codec: Any, quality: Any, mpp: Any, seed: Any
) -> tuple[int, int]:
    whole = (int, np.integer)
    if not (isinstance(shape, (tuple, list)) and len(shape) == 2):
        wrong = f"shape {shape!r} is not two numbers; give (rows, columns)"
    elif not all(isinstance(n, whole) and n >= 1 for n in shape):
        wrong = f"shape {shape!r} is not of whole numbers from 1; give (rows, columns)"
    elif not (isinstance(tile, whole) and 16 <= tile <= 4096 and tile % 16 == 0):
        wrong = f"tile {tile!r} is not a multiple of 16 from 16 to 4096; take 256 or 512"
    elif -(-shape[0] // tile) * -(-shape[1] // tile) > _MOST_TILES:
        wrong = f"shape {shape!r} has over {_MOST_TILES:,} tiles of {tile}; take larger tiles"
    elif codec not in _CODECS:
        wrong = f"unknown compression {codec!r}; take one of {', '.join(_CODECS)}"
    elif not (isinstance(quality, whole) and 1 <= quality <= 100):
        wrong = f"quality {quality!r} is not a whole number from 1 to 100; take 80"
    elif not (isinstance(mpp, (int, float)) and 0 < mpp < math.inf):
        wrong = f"mpp {mpp!r} is not a positive number; take 0.25, micrometres per pixel"
    elif not (isinstance(seed, whole) and seed >= 0):
        wrong = f"seed {seed!r} is not a whole number from 0; take 0"
    else:
        return int(shape[0]), int(shape[1])
    raise SlideArgumentError(f"{path}: {wrong}")


def _encoder(tile: int, compression: str, quality: int) -> tuple[dict[str, Any], Any]:
    """Return the arguments of TiffWriter.write, and what makes the bytes of one tile by them."""
    from tifffile import TiffFile, TiffWriter

    options: dict[str, Any] = {
        "tile": (tile, tile),
        "compression": compression,
        "photometric": "rgb",
    }
    args: dict[str, Any] = {}
    if compression == "jpeg":
        options["subsampling"] = (2, 2)
        args = {"level": quality}
    elif compression == "jpeg2000" and quality < 100:
        args = {"level": 20 + quality // 4}
    elif compression == "webp":
        args = {"level": quality, "lossless": quality == 100}

    def encode(pixels: Array) -> bytes:
        held = io.BytesIO()
        with TiffWriter(held) as writer:
            writer.write(pixels, **options, compressionargs=dict(args), metadata=None)
        held.seek(0)
        with TiffFile(held) as tiff:
            start, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        return held.getvalue()[start : start + size]

    return options, encode


def sample_slide(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, int] = (20480, 20480),
    tile: int = 256,
    compression: str | None = "jpeg",
    quality: int = 80,
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
        Rows and columns. The picture is the same at every size.
    tile : int
        Side of the tiles in pixels, a multiple of 16 from 16 to 4096.
    compression : str or None
        ``"jpeg"``, ``"none"``, ``"lzw"``, ``"deflate"``, ``"zstd"``, ``"jpeg2000"`` or ``"webp"``.
    quality : int
        From 1 to 100, for the lossy codecs; 100 is lossless with JPEG 2000 and WebP.
    pyramid : bool
        Whether to add levels of 1/4, 1/16 ... as SubIFDs, down to a longest side of 1024.
    mpp : float
        Micrometres per pixel, kept in the resolution tags.
    seed : int
        Another seed draws other islands of tissue.
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
    OutputExistsError
        If the path is taken and `overwrite` is false.

    Examples
    --------
    >>> import os, tempfile
    >>> from dask_slides import open_slide
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = sample_slide(os.path.join(folder, "sample.tif"), (600, 800))
    ...     open_slide(path).shape
    (600, 800, 3)
    """
    from tifffile import TiffWriter

    name = os.fspath(path)
    codec = compression or "none"
    size = _check(name, shape, tile, codec, quality, mpp, seed)
    folder, base = os.path.split(os.path.abspath(name))
    if not os.path.isdir(folder):
        raise SlideNotFoundError(f"{name}: the folder {folder} does not exist; create it first")
    if os.path.isdir(name) or (os.path.lexists(name) and not overwrite):
        raise OutputExistsError(f"{name}: the path is taken; pass overwrite=True or another path")
    options, encode = _encoder(tile, codec, quality)
    levels = Levels(canvas(size, tile, seed), encode)
    depth = 0
    while pyramid and max(reduced(size, depth)) > 1024:
        depth += 1
    hidden = os.path.join(folder, f".{base}.{secrets.token_hex(4)}.tmp")
    try:
        # With a name of x.ome.tif tifffile would add OME-XML, which has a random identifier.
        with TiffWriter(hidden, bigtiff=True, ome=False) as writer:
            for n in range(depth + 1):
                writer.write(
                    levels.tiles(n),
                    shape=(*reduced(size, n), 3),
                    dtype=np.uint8,
                    resolution=(10000 / mpp / 4**n,) * 2,
                    resolutionunit="CENTIMETER",
                    software="dask_slides",
                    metadata=None,
                    subifds=None if n else depth,
                    subfiletype=1 if n else 0,
                    **options,
                )
        os.replace(hidden, name)
    finally:
        if os.path.exists(hidden):
            os.remove(hidden)
    return path
