"""Limits of what a file may declare."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a file may declare; more is refused on opening with SlideLimitError.

    A few bytes can declare an image of any size. The defaults accept every slide that a scanner
    writes, and bound the memory of a single decode by a quarter of a gigabyte.
    """

    pixels: int = 2**42
    """Pixels of a level: 2,097,152 x 2,097,152."""
    tile_bytes: int = 2**28
    """Bytes of one decoded tile or strip; every thread holds one."""
    channels: int = 2**9
    """Samples per pixel."""
    pages: int = 2**12
    """Image file directories of a TIFF."""
    description_bytes: int = 2**24
    """Bytes of a text in a TIFF that is parsed: description or XMP."""
