"""The slide: an image of any size, as metadata and a source of pixels."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import dask.array as da
import numpy as np

from dask_slides.core.arguments import (
    as_number,
    as_pair,
    as_whole,
    checked_path,
    checked_size,
    is_remote,
)
from dask_slides.core.bad_tiles import MODES, BadTile
from dask_slides.core.channels import Channel, channel_numbers, plain_channels
from dask_slides.core.geometry import Region, level_size
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Source, provenance, root_of
from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideArgumentError,
    SlideMemoryError,
    SlideMppError,
)
from dask_slides.graph.bad_tiles import bad_tiles_of_level
from dask_slides.graph.blocks import image_blocks
from dask_slides.graph.chosen_channels import with_channels
from dask_slides.graph.chunks import default_chunks, even_chunks, task_bytes
from dask_slides.graph.resized import ResizedSource
from dask_slides.plots import pictures
from dask_slides.plots.axes import plot_overlay
from dask_slides.plots.display import display_rgb
from dask_slides.readers.dask_array import ArraySource, array_source
from dask_slides.readers.registry import open_source
from dask_slides.readers.remote.byte_ranges import check_digest
from dask_slides.readers.remote.identity import check_identity
from dask_slides.readers.remote.object_store import checked_address
from dask_slides.readers.selection import ImageSelection
from dask_slides.runtime.scheduler import compute, computes_here

if TYPE_CHECKING:
    from dask_slides.view.server import View

Mpp = float | Sequence[float] | None
"""Micrometres per pixel: one number, or (y, x)."""

MAGNIFICATIONS = ((0.16, 80.0), (0.2, 60.0), (0.3, 40.0), (0.6, 20.0), (1.2, 10.0), (2.4, 5.0))
"""Micrometres per pixel below which scanners name each magnification; they vary around 10 / it."""
ARRAY_LIMIT = 4 * 2**30
"""Bytes up to which ``np.asarray(slide)`` computes all pixels."""


@dataclass(frozen=True, repr=False)
class Slide:
    """An image of any size. Pixels are read when you ask for them, not before.

    `open_slide` and `from_dask` make slides; `resize` and `cutoff_resize` return new ones.
    Immutable and picklable.

    Examples
    --------
    >>> import dask.array as da, numpy as np, dask_slides as ds
    >>> slide = ds.from_dask(da.zeros((400, 300, 3), dtype="uint8"), mpp=0.5)
    >>> slide
    Slide<dask array, shape=(400, 300, 3), dtype=uint8, mpp=0.5, chunksize=(400, 300, 3)>
    >>> ds.resize(slide, downsample=4)
    Slide<resized by 4 with lanczos from dask array, shape=(100, 75, 3), dtype=uint8, mpp=2,
          chunksize=(100, 75, 3)>
    >>> slide.read(0, 0, 5, 7).shape
    (5, 7, 3)
    >>> np.asarray(slide).shape
    (400, 300, 3)
    """

    source: Source
    """Reads the pixels."""
    name: str
    """Name in messages and pictures."""
    mpp_yx: tuple[float, float] | None
    """Micrometres per pixel of level 0 along y and x."""
    path: str | None = None
    """File or store that the slide was opened from; None for a dask array."""
    details: tuple[tuple[str, str], ...] = ()
    """The items of `properties`."""
    images: tuple[str, ...] = ()
    """Names of the images, if the file has several; values for ``open_slide(image=)``."""
    described: tuple[Channel, ...] = ()
    """Channels as described in the file; see `channels`."""

    __array_ufunc__: ClassVar[None] = None
    """Makes ``array == slide`` return False; otherwise NumPy and dask compute the slide for it."""

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
        """Micrometres per pixel of level 0: the mean of both axes; None if not known."""
        return None if self.mpp_yx is None else sum(self.mpp_yx) / 2

    @property
    def magnification(self) -> float | None:
        """Magnification of an objective with this pixel size, such as 20.0; None if not known.

        It follows from `mpp`: 80 below 0.16 µm, 60 below 0.2, 40 below 0.3, 20 below 0.6, 10 below
        1.2, 5 below 2.4, and 10 / mpp above.
        """
        return None if self.mpp is None else magnification_of(self.mpp)

    @property
    def properties(self) -> Mapping[str, str]:
        """Metadata of the file: format, compression, scanner."""
        return MappingProxyType(dict(self.details))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Name, colour and display range of each channel, if the file has them."""
        count = self.source.channels
        return self.described if len(self.described) == count else plain_channels(count)

    @property
    def data(self) -> da.Array:
        """Level 0 as a dask array (y, x, c); for `from_dask`, the array that you gave."""
        return self.to_dask()

    def to_dask(self, level: int = 0, *, chunks: Any = None) -> da.Array:
        """Return a level as a dask array (y, x, c).

        Parameters
        ----------
        level : int
            Index into `levels`.
        chunks : int, tuple or None
            Chunks along y and x, as in dask. By default a chunk reads about 4,096 x 4,096 pixels
            of the file, and there are at most 1,000 chunks. Chunks do not change the pixels.

        Returns
        -------
        dask.array.Array
            Shape (y, x, c), the dtype of the slide.

        Raises
        ------
        SlideArgumentError
            There is no such level, or `chunks` do not fit the image.

        Examples
        --------
        >>> import numpy as np, dask_slides as ds
        >>> ds.from_dask(np.zeros((50, 60), "uint8")).to_dask(chunks=40).chunks
        ((40, 10), (40, 20), (1,))
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
            Index into `levels`.

        Returns
        -------
        ndarray
            Shape (height, width, c), the dtype of the slide.

        Raises
        ------
        SlideArgumentError
            The region reaches beyond the level, or a number is not an integer.
        TileDecodeError
            A tile of the region cannot be decoded.
        """
        level = self._level(level)
        info = self.levels[level]
        y, x, height, width = (
            self._whole(name, value)
            for name, value in (("y", y), ("x", x), ("height", height), ("width", width))
        )
        top, left = round(y / info.downsample[0]), round(x / info.downsample[1])
        region = Region(top, left, height, width)
        if not region.within(info.shape):
            raise SlideArgumentError(
                f"{self.name}: rows {top} to {top + height}, columns {left} to {left + width} do "
                f"not lie in level {level} of {info.shape[0]} x {info.shape[1]}; move or shrink "
                "the region"
            )
        return self.source.read(level, region)

    def thumbnail(self, max_size: int = 1024) -> Array:
        """Compute a small picture of the whole image.

        It is resized from the smallest level that is at least as large. `resize` starts from a
        level at least twice as large as the result, which is slower and looks better.

        Parameters
        ----------
        max_size : int
            Longest side of the result in pixels; a smaller image is not enlarged.

        Returns
        -------
        ndarray
            Shape (h, w, c), the dtype of the slide.
        """
        max_size = checked_size(max_size, "max_size")
        if 0 in self.shape:  # an entirely blank slide was cut off
            return np.empty(self.shape, self.dtype)
        ratio = max(1.0, max(self.shape[:2]) / max_size)
        size = (level_size(self.shape[0], ratio), level_size(self.shape[1], ratio))
        source = self.source
        if size != self.shape[:2]:
            source = ResizedSource(source, size, "lanczos", 1.0)
        one_task = not isinstance(root_of(source), ArraySource) and (
            default_chunks(source, 0) == size
        )
        if not (one_task and computes_here()):
            return compute(image_blocks(source, 0, None, "thumbnail"), "thumbnail")
        return source.read(0, Region(0, 0, *size))  # its graph would take as long as half of this

    def bad_tiles(self, level: int = 0) -> tuple[BadTile, ...]:
        """Find the absent and corrupt tiles, for which this image shows the fill value.

        Absent tiles are listed in the file, and nothing is decoded to find them. If the slide was
        opened with ``on_bad_tile="mask"``, corrupt tiles are found too: every tile that this
        process has not read yet is decoded.

        Parameters
        ----------
        level : int
            Index into `levels`.

        Returns
        -------
        tuple of BadTile
            Ordered by position. For a resized or cut image, those tiles of the file that its pixels
            are computed from.
        """
        return bad_tiles_of_level(self.source, self._level(level))

    def require_mpp(self, argument: str = "mpp") -> tuple[float, float]:
        """Return micrometres per pixel (y, x); raise SlideMppError if they are not known."""
        if self.mpp_yx is None:
            raise SlideMppError(
                f"{self.name}: {argument} needs the micrometres per pixel, which are not known; "
                "give them as open_slide(..., mpp=0.25), from_dask(..., mpp=0.25) or --slide-mpp"
            )
        return self.mpp_yx

    def plot(self, ax: Any = None, *, max_size: int = 1024) -> Any:
        """Draw the slide with matplotlib (the extra ``plot``); return the axes."""
        return plot_overlay(
            self.thumbnail(max_size), self.shape[:2], self.name, ax,
            channels=self.channels, fill=self.source.fill, mpp=self.mpp_yx and self.mpp_yx[1],
        )  # fmt: skip

    def view(
        self, *layers: Any, detector: Any = "tissue", port: int = 0, address: str | None = None
    ) -> View:
        """Show the slide in a browser or a notebook (the extra ``view``).

        Pan and zoom, switch layers on and off, move the threshold of the detector, correct the
        blank map and save its outlines. In a notebook the result shows itself; elsewhere open its
        ``url``. It runs on 127.0.0.1 in threads of this process until you ``close()`` it.

        Parameters
        ----------
        *layers : BlankMap, TilePack, Cutoff, Annotations or path
            What is shown with the slide. A path is that of a store, a pack or GeoJSON.
        detector : Detector or str
            Finds the blank map, if there is none among the layers.
        port : int
            Port of the server; 0 takes a free one.
        address : str, optional
            Where a browser on another machine finds the port through a proxy, such as
            ``https://hub.example.org/user/NAME/proxy/absolute/{port}`` for JupyterHub with
            jupyter-server-proxy. By default, the browser runs on this machine.

        Returns
        -------
        View

        Raises
        ------
        SlideArgumentError
            A layer is not of this slide, or the port or address cannot be used.
        ImportError
            Bokeh is not installed.
        """
        from dask_slides.view.server import view_slide

        return view_slide(self, layers, detector, port, address)

    def _level(self, level: Any) -> int:
        number = as_whole(level)
        if number is None or not 0 <= number < len(self.levels):
            raise SlideArgumentError(
                f"{self.name}: there is no level {level!r}; give 0 to {len(self.levels) - 1}"
            )
        return number

    def _whole(self, argument: str, value: Any) -> int:
        number = as_whole(value)  # integers of NumPy would overflow
        if number is None:
            raise SlideArgumentError(f"{self.name}: {argument}={value!r}; give whole pixels")
        return number

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the pixels of level 0, (y, x, c), for ``np.asarray(slide)``.

        Raises
        ------
        SlideMemoryError
            The pixels take more than `ARRAY_LIMIT` bytes.
        """
        if copy is False:
            raise ValueError(f"{self.name}: the pixels are not in memory yet; use copy=None")
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        nbytes = math.prod(self.shape) * max(self.dtype.itemsize, dtype.itemsize)
        if nbytes > ARRAY_LIMIT:
            raise SlideMemoryError(
                f"{self.name}: one array of {pictures.pixels_text(self.shape)} takes "
                f"{pictures.bytes_text(nbytes)}, and the limit is "
                f"{pictures.bytes_text(ARRAY_LIMIT)}; read a part with slide.read, work with "
                "slide.to_dask(), or make it smaller with dask_slides.resize"
            )
        return compute(self.data, "read").astype(dtype, copy=bool(copy))

    def _chunk_sides(self) -> tuple[int, int]:
        """Return the sides of a chunk of `data` along y and x."""
        if isinstance(self.source, ArraySource):
            return self.source.levels[0].tile
        return default_chunks(self.source, 0) if all(self.shape) else (0, 0)

    def __repr__(self) -> str:
        facts = [
            provenance(self.source, self.name), f"shape={self.shape}", f"dtype={self.dtype}",
            f"mpp={mpp_text(self.mpp_yx)}", f"chunksize={(*self._chunk_sides(), self.shape[2])}",
        ]  # fmt: skip
        if len(self.levels) > 1:
            facts.append(f"levels={len(self.levels)}")
        return f"Slide<{', '.join(facts)}>"

    def _repr_html_(self) -> str:
        height, width, channels = self.shape
        facts = {
            "shape": f"{height:,} x {width:,} px, {channels} channels, {self.dtype}",
            "mpp": "not known" if self.mpp is None else f"{self.mpp:.4g} µm",
            "levels": ", ".join(f"{lv.shape[0]:,} x {lv.shape[1]:,}" for lv in self.levels),
        }
        if height and width:
            sides = self._chunk_sides()
            chunks = even_chunks((height, width), sides)
            peak = task_bytes(self.source, 0, Region(0, 0, *sides))
            facts["tasks"] = f"{len(chunks[0]) * len(chunks[1]):,}"
            facts["memory"] = f"{pictures.bytes_text(peak)} per task"
        facts |= self.properties
        return pictures.facts_html(self.name, facts, self._small_picture())

    def _small_picture(self) -> Array | None:
        """Return a picture of the smallest level; None if it is too large or empty."""
        number, level = len(self.levels) - 1, self.levels[-1]
        if not 0 < math.prod(level.shape) <= pictures.CHEAP_PIXELS:
            return None
        pixels = self.source.read(number, Region(0, 0, *level.shape))
        picture = display_rgb(pixels, self.channels, fill=self.source.fill)
        return pictures.shrunk(picture, 256)


def magnification_of(mpp: float) -> float:
    """Return the magnification of an objective with this pixel size; see `Slide.magnification`."""
    return next((value for limit, value in MAGNIFICATIONS if mpp < limit), 10 / mpp)


SlideLike: TypeAlias = Slide | str | os.PathLike[str] | da.Array | np.ndarray
"""What you can pass as a slide: a Slide, a path or address, a dask or numpy array."""


def mpp_text(mpp_yx: tuple[float, float] | None) -> str:
    """Return micrometres per pixel as text: one number, or (y, x) if they differ."""
    if mpp_yx is None:
        return "None"
    y, x = (f"{value:.4g}" for value in mpp_yx)
    return y if y == x else f"({y}, {x})"


def open_slide(
    path: str | os.PathLike[str],
    *,
    mpp: Mpp = None,
    fill: float | None = None,
    image: int | str | None = None,
    axes: str | None = None,
    z: int = 0,
    t: int = 0,
    channels: Sequence[int | str] | None = None,
    reader: str | None = None,
    on_bad_tile: str = "raise",
    limits: Limits = Limits(),
    sha256: str | None = None,
) -> Slide:
    """Open an image of any size. Only its metadata is read.

    Formats: every TIFF that tifffile knows (SVS, NDPI, SCN, BIF, QPTIFF, Philips, OME-TIFF,
    plain), OME-Zarr 0.4 to 0.6, plain Zarr arrays, ``.npy``, JPEG 2000, and files that are decoded
    as a whole (PNG, JPEG, ...). With the extra ``openslide`` also MIRAX, Hamamatsu VMS and VMU and
    Sakura, with ``dicom`` whole-slide DICOM (a file of a series, or their folder), and with ``czi``
    Zeiss CZI.

    Parameters
    ----------
    path : str or path
        The file, or the directory of an OME-Zarr store. With the extra ``cloud`` also its
        ``s3://``, ``gs://``, ``az://``, ``http://`` or ``https://`` address.
    mpp : float or (float, float), optional
        Micrometres per pixel (y, x), instead of what the file says.
    fill : float, optional
        Value of pixels without data: transparent, masked and nodata pixels, and absent tiles. It
        must be a value of the dtype. By default the nodata value of the file, for a copy of a slide
        (``codec="source"``) the fill of that slide, else white for RGB and RGBA images (the largest
        value of an integer dtype, 1.0 for floats), else 0. Chunks that a Zarr store leaves out
        always show the fill value of their array.
    image : str or int, optional
        Name or number of the image, if the file has several; `Slide.images` lists them. By default
        the largest image of a TIFF that is not a label, macro, map, overview or thumbnail, the
        largest series of a DICOM folder, the largest scene of a CZI, and the first image of an
        OME-Zarr store.
    axes : str, optional
        Axes of the stored pages, or of the array, if the file does not name them or is wrong: one
        letter per axis in the order of storage, such as "CYX" for channels, "ZYX" or "TYX". S
        stands for colour samples.
    z, t : int
        Plane to read, if there are several along Z or T; `Slide.properties` says how many.
    channels : sequence of str or int, optional
        Channels to read, by name or number and in this order, such as ``["DAPI", "CD3"]``;
        `Slide.channels` lists them. Channels that are stored apart are read without the others.
        A nodata pixel is one that has that value in all of these channels.
    reader : str, optional
        Name of the reader to use: "tiff", "ome-zarr", "image", "openslide", "dicom", "czi", or
        that of another package. By default the file decides: TIFFs are read with tifffile, and the
        readers that need an optional package open what no other one does.
    on_bad_tile : {"raise", "mask"}
        What happens to a tile that cannot be decoded. "raise" raises TileDecodeError when its
        pixels are read. "mask" shows `fill`, and `Slide.bad_tiles`, blank maps, packs and written
        stores list the tile. Absent tiles are legal and show `fill` in both cases. Pixels of bad
        tiles are never part of statistics, packed tiles or crops, and a resized pixel that depends
        on one shows `fill`.
    limits : Limits
        Largest sizes that a file may declare; a file that declares more is refused.
    sha256 : str, optional
        Checksum of the file in hexadecimal. The whole file is read once to compare it, which also
        finds damage that codecs do not detect.

    Returns
    -------
    Slide
        Pixels are (y, x, c). Palette indices become colours, inverted grey becomes normal grey,
        and alpha is composited on `fill`.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or there is no such image, plane or channel.
    SlideNotFoundError
        There is nothing at the path.
    SlideFormatError
        The file is not an image, or its metadata contradict each other.
    SlideTruncatedError
        The file is shorter than its metadata say; a subclass of SlideFormatError.
    SlideLimitError
        The file declares more than `limits`.
    SlideChangedError
        The file does not have the checksum `sha256`.
    SlideUnsupportedError
        The image is valid, but not supported.
    ImportError
        `reader` needs a package that is not installed.
    RemoteError, RemoteAccessError
        The server of an address gives no valid answer, or denies access.

    Examples
    --------
    >>> import dask_slides as ds
    >>> path = ds.sample_slide("slide.tif", shape=(2048, 3072))
    >>> slide = ds.open_slide(path)
    >>> slide.shape, slide.mpp
    ((2048, 3072, 3), 0.25)
    """
    if on_bad_tile not in MODES:
        raise SlideArgumentError(f"on_bad_tile={on_bad_tile!r} is not known; use 'raise' or 'mask'")
    if fill is not None and (not isinstance(fill, int | float | np.number) or np.isinf(fill)):
        raise SlideArgumentError(f"fill={fill!r} is not a pixel value; give a number, or None")
    choice = ImageSelection(image, axes, z, t)
    if not isinstance(limits, Limits):
        raise SlideArgumentError(f"limits={limits!r}; give a Limits, or leave it out")
    if sha256 is not None and not (
        isinstance(sha256, str) and re.fullmatch("[0-9a-fA-F]{64}", sha256.strip())
    ):
        raise SlideArgumentError(
            f"sha256={sha256!r:.80} is not a checksum of 64 hexadecimal digits"
        )
    address = checked_path(path)
    # absolute, as a worker may run in another directory
    address = checked_address(address) if is_remote(address) else os.path.abspath(address)
    identity = None if sha256 is None else check_digest(address, sha256)
    opened = open_source(address, fill, limits, choice, reader)
    source = opened.source
    if identity is not None:
        check_identity(address, identity)
    if on_bad_tile == "mask":
        source = replace(source, on_bad_tile=on_bad_tile)  # type: ignore[type-var]
    given = _checked_mpp(mpp)
    described, properties = opened.channels, opened.properties
    if channels is not None:
        count = source.channels
        described = opened.channels or plain_channels(count)
        numbers = channel_numbers(address, described, channels)
        source = with_channels(source, numbers)
        described = tuple(described[number] for number in numbers)
        names = ", ".join(one.name for one in described)
        properties = properties | {"channels": f"{count} channels, {names} are read"}
    metadata = (tuple(properties.items()), opened.images, described)
    return Slide(source, Path(address).name, given or opened.mpp, address, *metadata)


def from_dask(array: da.Array | np.ndarray, *, mpp: Mpp = None) -> Slide:
    """Make a slide from a dask array with any chunks.

    Parameters
    ----------
    array : dask.array.Array
        (y, x) or (y, x, c). A numpy array is accepted too.
    mpp : float or (float, float), optional
        Micrometres per pixel (y, x).

    Returns
    -------
    Slide
        A slide of one level. Its graphs contain the graph of the array.

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


def as_slide(slide: SlideLike) -> Slide:
    """Return `slide` itself, the slide at a path, or the slide of an array."""
    if isinstance(slide, Slide):
        return slide
    if isinstance(slide, str | os.PathLike):
        return open_slide(slide)
    return from_dask(slide)


def _checked_mpp(mpp: Mpp) -> tuple[float, float] | None:
    if mpp is None:
        return None
    pair = tuple(as_number(value) for value in as_pair(mpp))
    if len(pair) != 2 or not all(0 < value < math.inf for value in pair):
        raise SlideArgumentError(f"mpp={mpp!r} is not a pixel size; give micrometres above 0")
    return float(pair[0]), float(pair[1])
