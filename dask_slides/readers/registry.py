"""Which reader opens which path. A new reader is one line here."""

from __future__ import annotations

import os
from collections.abc import Callable

from dask_slides.core.limits import Limits
from dask_slides.core.source import Opened
from dask_slides.errors import SlideFormatError, SlideNotFoundError, SlideUnsupportedError
from dask_slides.readers.image_file import open_raster
from dask_slides.readers.ome_zarr import marker_of, open_ngff
from dask_slides.readers.remote.object_store import exists, fetch, head, is_remote
from dask_slides.readers.selection import ImageSelection
from dask_slides.readers.tiff.directories import MAGIC
from dask_slides.readers.tiff.opening import open_tiff

_RAW = "convert it to OME-Zarr with bioformats2raw"
_OPENSLIDE = "convert it to a tiled TIFF with a program that has OpenSlide, such as libvips"
_PLAIN = "convert it to PNG or TIFF"
UNREAD: dict[str, tuple[str, str]] = {
    ".vsi": (
        "holds previews of an Olympus or Evident slide, whose pixels lie in the folder _{stem}_ "
        "beside it",
        f"{_RAW}, or copy a .vsi that has no such folder to a name that ends in .tif",
    ),
    ".ets": ("holds tiles of an Olympus or Evident slide (.vsi)", f"{_RAW}, from the .vsi"),
    ".mrxs": (
        "is the preview of a MIRAX slide, whose pixels lie in the folder {stem} beside it",
        f"{_RAW}, or {_OPENSLIDE[11:]}",
    ),
    ".ndpis": ("is a list of .ndpi files", "open those that it names"),
    ".afi": ("is a list of .svs files", "open those that it names"),
    ".vms": ("names the files of a Hamamatsu slide", _OPENSLIDE),
    ".vmu": ("names the files of a Hamamatsu slide", _OPENSLIDE),
    ".svslide": ("is a Sakura slide", _OPENSLIDE),
    ".czi": ("is a Zeiss CZI", _RAW),
    ".zvi": ("is a Zeiss ZVI", _RAW),
    ".dcm": ("is a DICOM file", _RAW),
    ".isyntax": ("is a Philips iSyntax slide", "convert it to OME-Zarr with isyntax2raw"),
    ".lif": ("is a Leica LIF", _RAW),
    ".nd2": ("is a Nikon ND2", _RAW),
    ".oib": ("is an Olympus OIB", _RAW),
    ".oif": ("is an Olympus OIF", _RAW),
    ".ims": ("is an Imaris file", _RAW),
    ".h5": ("is an HDF5 file", "save its array as TIFF or OME-Zarr"),
    ".hdf5": ("is an HDF5 file", "save its array as TIFF or OME-Zarr"),
    ".jxl": ("is a JPEG XL file", _PLAIN),
    ".heic": ("is a HEIF file", _PLAIN),
    ".heif": ("is a HEIF file", _PLAIN),
}
"""What is not read though it looks like a slide, by the end of its name: what it is, the cure."""

_MARKS = {
    b"ZISRAWFILE": ".czi",
    b"SIS\0": ".ets",
    b"\xda\xce\xbe\x0a": ".nd2",
    b"\x89HDF\r\n\x1a\n": ".h5",
    b"\0\0\0\x0cJXL \r\n\x87\n": ".jxl",
    b"\xff\x0a": ".jxl",
}
"""First bytes of some of them under any name."""

_BEGIN = 132
"""Bytes that tell of what format a file is; DICOM says it last."""

UNFINISHED = ".key.json"
"""What lies in a store that is being written, or was left so."""


def _is_store(path: str, first: bytes | None) -> bool:
    return first is None


def _is_tiff(path: str, first: bytes | None) -> bool:
    return first is not None and first[:4] in MAGIC


def _ngff(
    path: str, fill: float | None, limits: Limits, companions: bool, choice: ImageSelection
) -> Opened:
    return open_ngff(path, fill, limits, choice)


def _raster(
    path: str, fill: float | None, limits: Limits, companions: bool, choice: ImageSelection
) -> Opened:
    source, properties = open_raster(path, fill)
    choice.check_plain(path)
    return Opened(source, None, properties)


Reader = Callable[[str, float | None, Limits, bool, ImageSelection], Opened]

READERS: tuple[tuple[Callable[[str, bytes | None], bool], Reader], ...] = (
    (_is_store, _ngff),
    (_is_tiff, open_tiff),
    (lambda path, first: True, _raster),
)
"""Whether a reader takes the path (by its first bytes, None of a folder), and the reader; the
first match wins."""


def open_source(
    path: str,
    fill: float | None,
    limits: Limits,
    companions: bool = False,
    choice: ImageSelection = ImageSelection(),
) -> Opened:
    """Return source, mpp (y, x) where the file tells it, and properties of the image at `path`.

    With `companions` the files beside it that hold planes of it are read too; `choice` says
    which image and plane of it.
    """
    first = _first_remote(path) if is_remote(path) else _first(path)
    if first is not None:
        _check_read(path, first)
    reader = next(reader for takes, reader in READERS if takes(path, first))
    return reader(path, fill, limits, companions, choice)


def _check_read(path: str, first: bytes) -> None:
    """Refuse what other programs read, and previews that would be taken for the slide."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    kind: str | None = suffix.lower()
    if kind not in UNREAD:
        kind = next((kind for mark, kind in _MARKS.items() if first.startswith(mark)), None)
        kind = ".dcm" if first[128:132] == b"DICM" else kind
    if kind is not None:
        what, cure = UNREAD[kind]
        raise SlideUnsupportedError(f"{path}: {what.format(stem=stem)}; {cure}")


def _first(path: str) -> bytes | None:
    """Return the first bytes of the file at `path`, None of a folder."""
    if os.path.isdir(path):
        return None
    try:
        with open(path, "rb") as file:
            return file.read(_BEGIN)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SlideNotFoundError(f"{path}: {reason}; check the path") from error


def _first_remote(url: str) -> bytes | None:
    """Return the first bytes of the object at `url`, None of a store."""
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
                f"{url}: a store that is not finished; write it again with resume"
            ) from None
        raise
    return bytes(fetch(url, 0, min(_BEGIN, facts[0]), facts)) if facts[0] else b""
