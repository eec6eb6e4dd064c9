"""Choose the reader of a path. To add a reader, write a module and add a line to `READERS`.

Other packages add theirs by an entry point of the group ``dask_slides.readers`` whose object is a
`Reader`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import islice

from dask_slides.core.arguments import is_remote
from dask_slides.core.limits import Limits
from dask_slides.core.source import Opened
from dask_slides.errors import (
    ReaderWarning,
    SlideArgumentError,
    SlideFormatError,
    SlideNotFoundError,
    SlideUnsupportedError,
)
from dask_slides.readers.image_file import open_raster
from dask_slides.readers.ome_zarr import marker_of
from dask_slides.readers.remote.object_store import exists, fetch, head
from dask_slides.readers.selection import ImageSelection
from dask_slides.readers.tiff.directories import MAGIC
from dask_slides.readers.tiff.opening import open_tiff
from dask_slides.readers.zarr_array import open_zarr

_BIOFORMATS = "convert it to OME-Zarr with bioformats2raw"
_OPENSLIDE = "convert it to a tiled TIFF with a program that has OpenSlide, such as libvips"
_PLAIN = "convert it to PNG or TIFF"
UNREAD: dict[str, tuple[str, str]] = {
    ".vsi": (
        "holds previews of an Olympus or Evident slide, whose pixels lie in the folder _{stem}_ "
        "next to it",
        f"{_BIOFORMATS}, or open a .vsi that has no such folder with reader='tiff'",
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
    ".dcm": ("is DICOM", _BIOFORMATS),
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
"""Formats that need an optional package or are not read, by suffix: description and advice."""

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

STORE_MARKERS = (".zattrs", ".zgroup", ".zarray", "zarr.json")
"""Files of which one lies in the folder of every Zarr store."""

_FILES_TO_TRY = 8
"""Files in a folder that may show that it holds DICOM."""

UNFINISHED = ".key.json"
"""A file in stores that are not completely written."""


GROUP = "dask_slides.readers"
"""Entry points of other packages."""

OpenFunction = Callable[[str, float | None, Limits, ImageSelection], Opened]


@dataclass(frozen=True)
class Reader:
    """A kind of image, and the function that opens it."""

    name: str
    """What ``open_slide(reader=)`` calls it."""
    function: OpenFunction | str
    """``function(path, fill, limits, choice)`` opens the image; the arguments are an absolute path
    or an address, and the arguments of `open_slide`. Or its own address, ``module:function``, which
    is imported at the first use."""
    description: str
    """One line for users."""
    suffixes: tuple[str, ...] = ()
    """Ends of file names that choose the reader; `run` takes such files from a folder."""
    matches: Callable[[str, bytes | None], bool] | None = None
    """``matches(path, first)`` chooses the reader for further images; `first` are the first 132
    bytes of a file, None for a folder."""
    package: str | None = None
    """The module of an optional package that the reader imports."""
    extra: str | None = None
    """The extra of dask_slides with that package."""
    remote: bool = False
    """Whether it reads addresses, such as ``s3://``."""

    @property
    def installed(self) -> bool:
        """Whether its package is installed."""
        return self.package is None or find_spec(self.package) is not None

    @property
    def cure(self) -> str:
        """The command that installs its package."""
        return (
            f"pip install 'dask-slides[{self.extra}]'"
            if self.extra
            else (f"pip install {self.package}")
        )

    def takes(self, path: str, first: bytes | None) -> bool:
        """Return whether the image at `path` is for this reader."""
        if first is not None and path.lower().endswith(self.suffixes or ("\0",)):
            return True
        return self.matches is not None and self.matches(path, first)

    def load(self) -> OpenFunction:
        """Return the function."""
        if not isinstance(self.function, str):
            return self.function
        module, name = self.function.split(":")
        function: OpenFunction = getattr(import_module(module), name)
        return function


def _is_store(path: str, first: bytes | None) -> bool:
    return first is None and _unread_kind(path, first) is None


def _is_npy(path: str, first: bytes | None) -> bool:
    return first is not None and first.startswith(b"\x93NUMPY")


def _is_tiff(path: str, first: bytes | None) -> bool:
    return first is not None and first[:4] in MAGIC and _unread_kind(path, first) is None


def _is_image(path: str, first: bytes | None) -> bool:
    return first is not None and _unread_kind(path, first) is None


def _is_dicom(path: str, first: bytes | None) -> bool:
    return _unread_kind(path, first) == ".dcm"


def _is_dicom_or_czi(path: str, first: bytes | None) -> bool:
    return first is not None and _unread_kind(path, first) in (".dcm", ".czi")


def _is_czi(path: str, first: bytes | None) -> bool:
    return first is not None and _unread_kind(path, first) == ".czi"


def _image_file(path: str, fill: float | None, limits: Limits, choice: ImageSelection) -> Opened:
    source, properties = open_raster(path, fill)
    choice.check_single_plane(path)
    return Opened(source, None, properties)


_HERE = "dask_slides.readers"
READERS = (
    Reader(
        "dicom", f"{_HERE}.dicom_file:open_dicom", "whole-slide DICOM, a file or a folder",
        matches=_is_dicom, package="wsidicom", extra="dicom",
    ),
    Reader("ome-zarr", open_zarr, "OME-Zarr and Zarr arrays", matches=_is_store, remote=True),
    # it refuses addresses itself, with the cure
    Reader("npy", f"{_HERE}.npy_file:open_npy", "NumPy arrays", matches=_is_npy, remote=True),
    Reader("tiff", open_tiff, "TIFF and slides in TIFF", matches=_is_tiff, remote=True),
    Reader(
        "czi", f"{_HERE}.czi_file:open_czi", "Zeiss CZI", (".czi",), _is_czi, "pylibCZIrw", "czi"
    ),
    Reader(
        "openslide", f"{_HERE}.openslide_file:open_openslide", "MIRAX, VMS, Sakura, CZI, DICOM",
        (".mrxs", ".vms", ".vmu", ".svslide", ".czi"), _is_dicom_or_czi, "openslide", "openslide",
    ),
)  # fmt: skip
"""The first that takes a path opens it. Those of other packages follow."""

LAST = Reader("image", _image_file, "PNG, JPEG, JPEG 2000, BMP", matches=_is_image, remote=True)
"""Opens what no other reader takes."""


@cache
def of_other_packages() -> tuple[Reader, ...]:
    """Return the readers of entry points; one that does not import is left out with a warning."""
    found: list[Reader] = []
    for entry in entry_points(group=GROUP):
        try:
            found.append(entry.load())
        except Exception as error:  # whatever importing another package raises
            reason = " ".join(str(error).split())
            warnings.warn(f"the reader {entry.name} of {entry.value} is left out ({reason})",
                          ReaderWarning, stacklevel=2)  # fmt: skip
    return tuple(found)


def readers() -> Iterator[Reader]:
    """Yield all readers in the order of choice."""
    yield from READERS
    yield from of_other_packages()  # here, as it looks through all installed packages
    yield LAST


def optional_suffixes() -> tuple[str, ...]:
    """Return the ends of names of slides that optional packages and other packages read here."""
    return tuple(suffix for one in readers() if one.installed for suffix in one.suffixes)


def open_source(
    path: str,
    fill: float | None,
    limits: Limits,
    choice: ImageSelection = ImageSelection(),
    reader: str | None = None,
) -> Opened:
    """Open the image at `path`; `choice` says which image and plane of it.

    `reader` names the reader; None chooses it.
    """
    first = _first_bytes_remote(path) if is_remote(path) else _first_bytes(path)
    chosen = _chosen(path, first) if reader is None else _named(path, first, reader)
    return chosen.load()(path, fill, limits, choice)


def _named(path: str, first: bytes | None, name: str) -> Reader:
    """Return the reader `name`; raise if it does not exist or cannot be used for `path`."""
    reader = next((one for one in readers() if one.name == name), None)
    if reader is None:
        known = ", ".join(one.name for one in readers())
        raise SlideArgumentError(f"{path}: reader={name!r} is not known; give one of {known}")
    if not reader.installed:
        raise ImportError(f"{path}: reader={name!r} needs {reader.package}; {reader.cure}")
    if is_remote(path) and not reader.remote:
        raise SlideUnsupportedError(f"{path}: reader={name!r} reads local files; download it first")
    if first is None and not reader.takes(path, None):
        raise SlideUnsupportedError(f"{path}: is a folder, and reader={name!r} does not read it")
    return reader


def _chosen(path: str, first: bytes | None) -> Reader:
    """Return the first reader that takes `path`; raise with the cure if there is none."""
    for one in readers():
        if one.takes(path, first) and one.installed and (one.remote or not is_remote(path)):
            return one
    kind = _unread_kind(path, first)
    assert kind is not None  # LAST takes all others
    description, advice = UNREAD[kind]
    found = cures(path, first)
    if is_remote(path) and any(one.takes(path, first) for one in readers()):
        found = [f"download it first and {found[0]}" if found else "download it first", *found[1:]]
    stem = os.path.splitext(os.path.basename(path))[0]
    raise SlideUnsupportedError(
        f"{path}: {description.format(stem=stem)}; {', or '.join([*found, advice])}"
    )


def cures(path: str, first: bytes | None = b"") -> list[str]:
    """Return the commands that install readers of the image at `path`."""
    return [one.cure for one in readers() if one.takes(path, first) and not one.installed]


def _unread_kind(path: str, first: bytes | None) -> str | None:
    """Return the key in `UNREAD` of the file at `path`; None if it is not there."""
    if first is None:
        return ".dcm" if not is_remote(path) and is_dicom_folder(path) else None
    kind = os.path.splitext(path)[1].lower()
    if kind in UNREAD:
        return kind
    if first[128:132] == b"DICM":
        return ".dcm"
    return next((kind for start, kind in _SIGNATURES.items() if first.startswith(start)), None)


def is_dicom_folder(path: str) -> bool:
    """Return whether the folder at `path` holds DICOM files, by the first files in it."""
    try:
        with os.scandir(path) as entries:
            first = list(islice((one for one in entries if one.is_file()), _FILES_TO_TRY))
        return not any(one.name in STORE_MARKERS for one in first) and any(
            (_first_bytes(one.path) or b"")[128:132] == b"DICM" for one in first
        )
    except (OSError, SlideNotFoundError):
        return False


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
