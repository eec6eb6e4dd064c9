"""Which reader opens which path. A new reader is one line here."""

from __future__ import annotations

import os
from collections.abc import Callable

from dask_slides.errors import SlideNotFoundError, SlideUnsupportedError
from dask_slides.readers.ngff import open_ngff
from dask_slides.readers.protocol import Source
from dask_slides.readers.raster import open_raster
from dask_slides.readers.tiff import open_tiff

Opened = tuple[Source, tuple[float, float] | None, dict[str, str]]

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_store(path: str, head: bytes) -> bool:
    return os.path.isdir(path)


def _is_tiff(path: str, head: bytes) -> bool:
    return head[:4] in _TIFF_MAGIC


def _ngff(path: str, fill: float) -> Opened:
    return open_ngff(path, fill)


def _raster(path: str, fill: float) -> Opened:
    source, properties = open_raster(path, fill)
    return source, None, properties


READERS: tuple[tuple[Callable[[str, bytes], bool], Callable[[str, float], Opened]], ...] = (
    (_is_store, _ngff),
    (_is_tiff, open_tiff),
    (lambda path, head: True, _raster),
)
"""Whether a reader takes the path (by its first bytes), and the reader; first match wins."""


def open_source(path: str, fill: float) -> Opened:
    """Return source, mpp (y, x) where the file tells it, and properties of the image at `path`."""
    if "://" in path:
        raise SlideUnsupportedError(f"{path}: remote slides are not read; fetch the file first")
    head = b""
    if not os.path.isdir(path):
        try:
            with open(path, "rb") as file:
                head = file.read(16)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SlideNotFoundError(f"{path}: {reason}; check the path") from error
    reader = next(reader for takes, reader in READERS if takes(path, head))
    return reader(path, fill)
