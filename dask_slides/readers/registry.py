"""Which reader opens which path. A new reader is one line here."""

from __future__ import annotations

import os
from collections.abc import Callable

from dask_slides.errors import SlideFormatError, SlideNotFoundError
from dask_slides.readers.choice import Choice
from dask_slides.readers.limits import Limits
from dask_slides.readers.ngff import marker_of, open_ngff
from dask_slides.readers.preflight import MAGIC
from dask_slides.readers.protocol import Opened
from dask_slides.readers.raster import open_raster
from dask_slides.readers.remote import exists, fetch, head, is_remote
from dask_slides.readers.tiff import open_tiff

UNFINISHED = ".key.json"
"""What lies in a store that is being written, or was left so."""


def _is_store(path: str, first: bytes | None) -> bool:
    return first is None


def _is_tiff(path: str, first: bytes | None) -> bool:
    return first is not None and first[:4] in MAGIC


def _ngff(path: str, fill: float, limits: Limits, companions: bool, choice: Choice) -> Opened:
    return open_ngff(path, fill, limits, choice)


def _raster(path: str, fill: float, limits: Limits, companions: bool, choice: Choice) -> Opened:
    source, properties = open_raster(path, fill)
    choice.check_plain(path)
    return Opened(source, None, properties)


Reader = Callable[[str, float, Limits, bool, Choice], Opened]

READERS: tuple[tuple[Callable[[str, bytes | None], bool], Reader], ...] = (
    (_is_store, _ngff),
    (_is_tiff, open_tiff),
    (lambda path, first: True, _raster),
)
"""Whether a reader takes the path (by its first bytes, None of a folder), and the reader; the
first match wins."""


def open_source(
    path: str, fill: float, limits: Limits, companions: bool = False, choice: Choice = Choice()
) -> Opened:
    """Return source, mpp (y, x) where the file tells it, and properties of the image at `path`.

    With `companions` the files beside it that hold planes of it are read too; `choice` says
    which image and plane of it.
    """
    first = _first_remote(path) if is_remote(path) else _first(path)
    reader = next(reader for takes, reader in READERS if takes(path, first))
    return reader(path, fill, limits, companions, choice)


def _first(path: str) -> bytes | None:
    """Return the first bytes of the file at `path`, None of a folder."""
    if os.path.isdir(path):
        return None
    try:
        with open(path, "rb") as file:
            return file.read(16)
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
    return bytes(fetch(url, 0, 16, facts)) if facts[0] else b""
