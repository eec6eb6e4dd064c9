"""Choose the reader of a path. To add a reader, add a line to `READERS`."""

from __future__ import annotations

import os
from collections.abc import Callable

from dask_slides.core.limits import Limits
from dask_slides.core.source import Opened
from dask_slides.errors import SlideFormatError, SlideNotFoundError, SlideUnsupportedError
from dask_slides.readers.image_file import open_raster
from dask_slides.readers.ome_zarr import marker_of, open_ome_zarr
from dask_slides.readers.remote.object_store import exists, fetch, head, is_remote
from dask_slides.readers.selection import ImageSelection
from dask_slides.readers.tiff.directories import MAGIC
from dask_slides.readers.tiff.opening import open_tiff

_BIOFORMATS = "convert it to OME-Zarr with bioformats2raw"
_OPENSLIDE = "convert it to a tiled TIFF with a program that has OpenSlide, such as libvips"
_PLAIN = "convert it to PNG or TIFF"
UNREAD: dict[str, tuple[str, str]] = {
    ".vsi": (
        "holds previews of an Olympus or Evident slide, whose pixels lie in the folder _{stem}_ "
        "next to it",
        f"{_BIOFORMATS}, or copy a .vsi that has no such folder to a name that ends in .tif",
    ),
    ".ets": ("holds tiles of an Olympus or Evident slide (.vsi)", f"{_BIOFORMATS}, from the .vsi"),
    ".mrxs": (
        "is the preview of a MIRAX slide, whose pixels lie in the folder {stem} next to it",
        f"{_BIOFORMATS}, or {_OPENSLIDE[11:]}",
    ),
    ".ndpis": ("is a list of .ndpi files", "open those that it names"),
    ".afi": ("is a list of .svs files", "open those that it names"),
    ".vms": ("names the files of a Hamamatsu slide", _OPENSLIDE),
    ".vmu": ("names the files of a Hamamatsu slide", _OPENSLIDE),
    ".svslide": ("is a Sakura slide", _OPENSLIDE),
    ".czi": ("is a Zeiss CZI", _BIOFORMATS),
    ".zvi": ("is a Zeiss ZVI", _BIOFORMATS),
    ".dcm": ("is a DICOM file", _BIOFORMATS),
    ".isyntax": ("is a Philips iSyntax slide", "convert it to OME-Zarr with isyntax2raw"),
    ".lif": ("is a Leica LIF", _BIOFORMATS),
    ".nd2": ("is a Nikon ND2", _BIOFORMATS),
    ".oib": ("is an Olympus OIB", _BIOFORMATS),
    ".oif": ("is an Olympus OIF", _BIOFORMATS),
    ".ims": ("is an Imaris file", _BIOFORMATS),
    ".h5": ("is an HDF5 file", "save its array as TIFF or OME-Zarr"),
    ".hdf5": ("is an HDF5 file", "save its array as TIFF or OME-Zarr"),
    ".jxl": ("is a JPEG XL file", _PLAIN),
    ".heic": ("is a HEIF file", _PLAIN),
    ".heif": ("is a HEIF file", _PLAIN),
}
"""Formats that are not read, by suffix: a description of the file and the advice to users."""

_SIGNATURES = {
    b"ZISRAWFILE": ".czi",
    b"SIS\0": ".ets",
    b"\xda\xce\xbe\x0a": ".nd2",
    b"\x89HDF\r\n\x1a\n": ".h5",
    b"\0\0\0\x0cJXL \r\n\x87\n": ".jxl",
    b"\xff\x0a": ".jxl",
}
"""First bytes of some of these formats, which are refused under any suffix."""

_SIGNATURE_BYTES = 132
"""Bytes at the start of a file that show its format; DICOM needs all of them."""

UNFINISHED = ".key.json"
"""A file in stores that are not completely written."""


def _is_store(path: str, first: bytes | None) -> bool:
    return first is None


def _is_tiff(path: str, first: bytes | None) -> bool:
    return first is not None and first[:4] in MAGIC


def _image_file(path: str, fill: float | None, limits: Limits, choice: ImageSelection) -> Opened:
    source, properties = open_raster(path, fill)
    choice.check_single_plane(path)
    return Opened(source, None, properties)


Reader = Callable[[str, float | None, Limits, ImageSelection], Opened]

READERS: tuple[tuple[Callable[[str, bytes | None], bool], Reader], ...] = (
    (_is_store, open_ome_zarr),
    (_is_tiff, open_tiff),
    (lambda path, first: True, _image_file),
)
"""Tests of a path and its first bytes (None for a folder), each with its reader.

The first test that returns True decides."""


def open_source(
    path: str,
    fill: float | None,
    limits: Limits,
    choice: ImageSelection = ImageSelection(),
) -> Opened:
    """Open the image at `path`; `choice` says which image and plane of it."""
    first = _first_bytes_remote(path) if is_remote(path) else _first_bytes(path)
    if first is not None:
        _check_readable(path, first)
    reader = next(reader for matches, reader in READERS if matches(path, first))
    return reader(path, fill, limits, choice)


def _check_readable(path: str, first: bytes) -> None:
    """Refuse formats that only other programs read, and previews of slides in other files."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    kind: str | None = suffix.lower()
    if kind not in UNREAD:
        kind = next(
            (kind for signature, kind in _SIGNATURES.items() if first.startswith(signature)), None
        )
        kind = ".dcm" if first[128:132] == b"DICM" else kind
    if kind is not None:
        description, advice = UNREAD[kind]
        raise SlideUnsupportedError(f"{path}: {description.format(stem=stem)}; {advice}")


def _first_bytes(path: str) -> bytes | None:
    """Return the first bytes of the file at `path`; None for a folder."""
    if os.path.isdir(path):
        return None
    try:
        with open(path, "rb") as file:
            return file.read(_SIGNATURE_BYTES)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SlideNotFoundError(f"{path}: {reason}; check the path") from error


def _first_bytes_remote(url: str) -> bytes | None:
    """Return the first bytes of the object at `url`; None for a store."""
    # a web server answers for a folder too, with a page that lists it
    if url.endswith(".zarr") and marker_of(url) is not None:
        return None
    try:
        facts = head(url)
    except SlideNotFoundError:
        if marker_of(url) is not None:
            return None
        if exists(f"{url}/{UNFINISHED}"):
            raise SlideFormatError(
                f"{url}: the store is not complete; write it again with resume=True"
            ) from None
        raise
    return bytes(fetch(url, 0, min(_SIGNATURE_BYTES, facts[0]), facts)) if facts[0] else b""
