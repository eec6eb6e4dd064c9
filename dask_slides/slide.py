"""The slide: an image of any size, as metadata and a source of pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import MODES, BadTile
from dask_slides.core.channels import Channel, plain_channels
from dask_slides.core.geometry import Region, level_size
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Source
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError, SlideMppError, SlideUnsupportedError
from dask_slides.graph.bad_tiles import bad_tiles_of_level
from dask_slides.graph.blocks import image_blocks
from dask_slides.graph.chunks import default_chunks, even_chunks, task_bytes
from dask_slides.graph.resized import ResizedSource
from dask_slides.plots import pictures
from dask_slides.readers.dask_array import array_source
from dask_slides.readers.registry import open_source
from dask_slides.readers.remote.byte_ranges import check_digest
from dask_slides.readers.remote.identity import check_identity
from dask_slides.readers.remote.object_store import checked_address, is_remote
from dask_slides.readers.selection import ImageSelection
from dask_slides.runtime.scheduler import compute

Mpp = float | Sequence[float] | None


@dataclass(frozen=True)
class Slide:
    """An image of any size; nothing is read until pixels are asked for.

    Made by `open_slide` and `from_dask`, and by `resize` and `cutoff_resize`, whose results
    are slides again. Immutable and picklable.
    """

    source: Source = field(repr=False)
    name: str
    """What messages and pictures call it."""
    mpp_yx: tuple[float, float] | None
    """Micrometres per pixel of level 0 along y and x."""
    path: str | None = None
    """Where it was opened from, None for a dask array."""
    details: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    images: tuple[str, ...] = field(default=(), repr=False)
    """Names of the images of the file, if it has several: what ``open_slide(image=)`` takes."""
    described: tuple[Channel, ...] = field(default=(), repr=False)
    """What the file says of the channels; see `channels`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of level 0."""
        return (*self.source.levels[0].shape, self.source.channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        return self.source.dtype

    @property
    def levels(self) -> tuple[Level, ...]:
        """Resolutions that can be read, the full one first."""
        return self.source.levels

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of level 0; the mean of both axes, None if not known."""
        return None if self.mpp_yx is None else sum(self.mpp_yx) / 2

    @property
    def properties(self) -> Mapping[str, str]:
        """What the file tells of itself: format, compression, scanner."""
        return MappingProxyType(dict(self.details))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Name, colour and window of each channel, as far as the file tells them."""
        count = self.source.channels
        return self.described if len(self.described) == count else plain_channels(count)

    @property
    def data(self) -> da.Array:
        """Level 0 as a dask array (y, x, c); of `from_dask` the array that was given."""
        return self.to_dask()

    def to_dask(self, level: int = 0, chunks: Any = None) -> da.Array:
        """Return a level as a dask array (y, x, c); the pixels do not depend on `chunks`.

        Parameters
        ----------
        level : int
            Which of `levels`.
        chunks : int, tuple or None
            As in dask, along y and x; by default about 4,096 x 4,096 pixels of the file a
            chunk, and at most 1,000 chunks.

        Returns
        -------
        dask.array.Array
            Shape (y, x, c), the dtype of the slide.

        Raises
        ------
        SlideArgumentError
            There is no such level, or the chunks do not fit.
        """
        return image_blocks(self.source, self._level(level), chunks)

    def read(self, y: int, x: int, height: int, width: int, *, level: int = 0) -> Array:
        """Read a region now, in this process.

        Parameters
        ----------
        y, x : int
            Top left, in pixels of level 0.
        height, width : int
            Size of the result, in pixels of `level`.
        level : int
            Which of `levels`.

        Returns
        -------
        ndarray
            Shape (height, width, c), the dtype of the slide.

        Raises
        ------
        SlideArgumentError
            The region does not lie in the level.
        TileDecodeError
            The pixels are damaged.
        """
        this = self.levels[self._level(level)]
        top, left = (round(at / factor) for at, factor in zip((y, x), this.downsample, strict=True))
        region = Region(top, left, height, width)
        if not region.within(this.shape):
            raise SlideArgumentError(
                f"{self.name}: rows {top} to {top + height}, columns {left} to {left + width} do "
                f"not lie in level {level} of {this.shape[0]} x {this.shape[1]}; move or shrink "
                "the region"
            )
        return self.source.read(level, region)

    def thumbnail(self, max_size: int = 1024) -> Array:
        """Compute the whole image, its longest side `max_size` at most.

        A picture to look at: made of the smallest level that is larger, where `resize` reads
        one of twice the size.

        Parameters
        ----------
        max_size : int
            Longest side of the result in pixels; a smaller image stays as it is.

        Returns
        -------
        ndarray
            Shape (h, w, c), the dtype of the slide.
        """
        if not isinstance(max_size, int | np.integer) or max_size < 1:
            raise SlideArgumentError(f"max_size={max_size} is not a size; give 1 or more")
        if 0 in self.shape:  # a cut-off of which nothing is left
            return np.empty(self.shape, self.dtype)
        ratio = max(1.0, max(self.shape[:2]) / max_size)
        size = (level_size(self.shape[0], ratio), level_size(self.shape[1], ratio))
        source = self.source
        if size != self.shape[:2]:
            source = ResizedSource(source, size, "lanczos", 1.0)
        return compute(image_blocks(source, 0, None, "thumbnail"), "thumbnail")

    def bad_tiles(self, level: int = 0) -> tuple[BadTile, ...]:
        """Find the tiles of the file that this image shows the fill for.

        With ``on_bad_tile="raise"`` those are the absent ones, which stand in the file's tables;
        with "mask" the corrupt ones too, for which every tile is decoded that was not yet.

        Parameters
        ----------
        level : int
            Which of `levels`.

        Returns
        -------
        tuple of BadTile
            In order; of a resized or cut image the tiles of the slide that it needs.
        """
        return bad_tiles_of_level(self.source, self._level(level))

    def require_mpp(self, argument: str = "mpp") -> tuple[float, float]:
        """Return micrometres per pixel (y, x), or raise SlideMppError naming the cure."""
        if self.mpp_yx is None:
            raise SlideMppError(
                f"{self.name}: micrometres per pixel are not known, which {argument} asks for; "
                "give them as open_slide(..., mpp=0.25), from_dask(..., mpp=0.25) or --slide-mpp"
            )
        return self.mpp_yx

    def plot(self, ax: Any = None, max_size: int = 1024) -> Any:
        """Draw the slide with matplotlib (the extra ``plot``); return the axes."""
        return pictures.plot_image(self.thumbnail(max_size), self.shape[:2], self.name, ax)

    def _level(self, level: int) -> int:
        if not 0 <= level < len(self.levels):
            raise SlideArgumentError(
                f"{self.name}: there is no level {level}; give 0 to {len(self.levels) - 1}"
            )
        return level

    def _repr_html_(self) -> str:
        height, width, channels = self.shape
        facts = {
            "size": f"{height:,} x {width:,} px, {channels} channels, {self.dtype}",
            "mpp": "not known" if self.mpp is None else f"{self.mpp:.4g} µm",
            "levels": ", ".join(f"{lv.shape[0]:,} x {lv.shape[1]:,}" for lv in self.levels),
        }
        if height and width:
            sides = default_chunks(self.source, 0)
            chunks = even_chunks((height, width), sides)
            peak = task_bytes(self.source, 0, Region(0, 0, *sides))
            facts["tasks"] = f"{len(chunks[0]) * len(chunks[1]):,}"
            facts["memory"] = f"{pictures.bytes_text(peak)} a task"
        facts |= self.properties
        cheap = math.prod(self.levels[-1].shape) <= pictures.CHEAP_PIXELS
        picture = self.source.read if cheap and height and width else None
        return pictures.slide_html(self.name, facts, picture, self.levels)


def open_slide(
    path: str | os.PathLike[str],
    *,
    mpp: Mpp = None,
    fill: float | None = None,
    on_bad_tile: str = "raise",
    limits: Limits = Limits(),
    sha256: str | None = None,
    companions: bool = False,
    image: int | str | None = None,
    axes: str | None = None,
    z: int = 0,
    t: int = 0,
) -> Slide:
    """Open an image of any size; no pixel is read.

    TIFF of every layout that tifffile knows (SVS, NDPI, SCN, BIF, QPTIFF, Philips, OME-TIFF,
    plain), OME-Zarr 0.4 and 0.5, and raster files (PNG, JPEG, ...), which are read whole.

    Parameters
    ----------
    path : str or path
        The file, or the folder of an OME-Zarr store; or the ``s3://``, ``http://`` or ``https://``
        address of one, with the extra ``cloud``.
    mpp : float or (float, float), optional
        Micrometres per pixel (y, x), instead of what the file says.
    fill : float, optional
        What pixels without a value show: transparent, absent, masked and nodata ones. A value of
        the dtype. By default the nodata value of the file, else white for RGB and RGBA images
        (the largest value of an integer dtype, 1.0 for floats), else 0.
    on_bad_tile : {"raise", "mask"}
        What becomes of a tile that cannot be decoded: it raises TileDecodeError where its pixels
        are read, or shows `fill` and is named by `Slide.bad_tiles`, blank maps, packs and what is
        written. Absent tiles are legal and show `fill` either way. No statistic counts a pixel
        of a bad tile, no pack or crop touches one, and a resized pixel that needs one is `fill`.
    limits : Limits
        How much a TIFF may declare before it is refused.
    sha256 : str, optional
        Checksum of the file in hexadecimal. All of the file is read once, and every damage
        found, also such that a codec cannot tell.
    companions : bool
        Whether an OME-TIFF may name files that hold other planes of it. They are opened only if
        they lie beside it, on this machine; each is looked at like the slide itself.
    image : str or int, optional
        Name or number of the image, where `Slide.images` lists several. By default the largest of
        a TIFF that is no label, macro, map, overview or thumbnail; the first of an OME-Zarr store.
    axes : str, optional
        What stacked pages are, where the file does not say it or is wrong: a letter for each axis
        as stored, "CYX" for channels, or "ZYX", "TYX"; S is for the samples of colour pixels.
    z, t : int
        The plane to read where there are several along Z or T; `Slide.properties` tells how many.

    Returns
    -------
    Slide
        Pixels are (y, x, c): palettes are looked up, inverted grey is turned, alpha is
        composited on `fill`.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or there is no such image or plane.
    SlideNotFoundError
        There is nothing at the path, or a companion is missing.
    SlideFormatError
        What is there is not an image, contradicts itself, or names a companion elsewhere.
    SlideTruncatedError
        The file ends before its image does; a kind of SlideFormatError.
    SlideLimitError
        The file declares more than `limits`.
    SlideChangedError
        The file does not have the checksum `sha256`.
    SlideUnsupportedError
        The image is of a kind that would not be read right.
    RemoteError, RemoteAccessError
        The server of an address does not answer right, or does not allow it.

    Examples
    --------
    >>> import dask_slides as ds
    >>> slide = ds.open_slide("slide.svs")  # doctest: +SKIP
    >>> slide.shape, slide.mpp  # doctest: +SKIP
    ((102400, 102400, 3), 0.25)
    """
    if on_bad_tile not in MODES:
        raise SlideArgumentError(f"on_bad_tile={on_bad_tile!r} is not known; use 'raise' or 'mask'")
    if fill is not None and (not isinstance(fill, int | float | np.number) or np.isinf(fill)):
        raise SlideArgumentError(f"fill={fill!r} is not a pixel value; give a number, or None")
    if companions and sha256 is not None:
        raise SlideArgumentError(
            "sha256= is of one file, and companions=True reads others too; check all of them "
            "before, and give one of the two"
        )
    choice = ImageSelection(image, axes, z, t)
    text = os.fspath(path)
    # a worker may run in another folder
    text = checked_address(text) if is_remote(text) else os.path.abspath(text)
    if companions and is_remote(text):
        raise SlideUnsupportedError(
            f"{text}: companions are read on this machine only; fetch the slide and all of them"
        )
    identity = None if sha256 is None else check_digest(text, sha256)
    opened = open_source(text, fill, limits, companions, choice)
    source = opened.source
    if identity is not None:
        check_identity(text, identity)
    if on_bad_tile == "mask":
        source = replace(source, on_bad_tile=on_bad_tile)  # type: ignore[type-var]
    given = _checked_mpp(mpp)
    told = (tuple(opened.properties.items()), opened.images, opened.channels)
    return Slide(source, Path(text).name, given or opened.mpp, text, *told)


def from_dask(array: Any, *, mpp: Mpp = None) -> Slide:
    """Take a dask array of any chunking for a slide.

    Parameters
    ----------
    array : dask.array.Array
        (y, x) or (y, x, c); numpy arrays are taken too.
    mpp : float or (float, float), optional
        Micrometres per pixel (y, x).

    Returns
    -------
    Slide
        One level; its graphs depend on the graph of the array.

    Raises
    ------
    SlideArgumentError
        The array is not an image.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> ds.from_dask(da.zeros((3000, 2000, 3), dtype="uint8")).shape
    (3000, 2000, 3)
    """
    return Slide(array_source(array), "dask array", _checked_mpp(mpp))


def as_slide(slide: Any) -> Slide:
    """Return `slide` if it is one, else open the path or take the array."""
    if isinstance(slide, Slide):
        return slide
    if isinstance(slide, str | os.PathLike):
        return open_slide(slide)
    return from_dask(slide)


def _checked_mpp(mpp: Mpp) -> tuple[float, float] | None:
    if mpp is None:
        return None
    pair = tuple(mpp) if isinstance(mpp, Sequence) else (mpp, mpp)
    try:
        y, x = (float(value) for value in pair)
        good = 0 < y < math.inf and 0 < x < math.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        raise SlideArgumentError(f"mpp={mpp!r} is not a pixel size; give micrometres above 0")
    return y, x
