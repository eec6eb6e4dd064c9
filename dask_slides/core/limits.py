"""Limits on the sizes that a file declares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The largest sizes that a file may declare; larger ones raise SlideLimitError on opening.

    A few bytes can declare an image of any size. The defaults accept the slides that scanners
    write, and limit the memory of one decoded tile to 256 MiB.
    """

    pixels: int = 2**42
    """Pixels of a level: 2,097,152 x 2,097,152."""
    tile_bytes: int = 2**28
    """Bytes of one decoded tile or strip. Every thread may hold one."""
    channels: int = 2**9
    """Samples per pixel."""
    pages: int = 2**12
    """Image file directories of a TIFF."""
    description_bytes: int = 2**24
    """Bytes of the texts in a TIFF that are parsed: description and XMP."""
