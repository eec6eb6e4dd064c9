"""How the tiles of a level are compressed, for those that copy them without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHECKSUM: dict[str, Any] = {"name": "crc32c"}
"""The codec that adds a checksum to each chunk: decoders of images do not notice flipped bits."""


@dataclass(frozen=True)
class TileEncoding:
    """The codecs of Zarr v3 that decode each tile (h, w, c) of a level."""

    name: str
    """Name of the codec in messages, such as "JPEG"."""
    tile: tuple[int, int]
    """Height and width of every tile, those at the edges included."""
    serializer: dict[str, Any]
    """The codec from arrays to bytes, as metadata of an array."""
    compressors: tuple[dict[str, Any], ...] = ()
    """Codecs from bytes to bytes, in the order of encoding."""
    lossy: bool = True
    """Whether encoding pixels again would lose some of their quality."""
    interleaved: bool = True
    """Whether the samples of a pixel lie together, (h, w, c), and not in planes, (c, h, w)."""

    def options(self, order: tuple[int, ...], checksum: bool = True) -> dict[str, Any]:
        """Return the codecs of an array as arguments of `create_array`; `order` leads to h, w, c.

        The codecs of a pack, whose arrays are (n, h, w, c), need no transposition. With `checksum`
        the CRC-32C of a chunk follows it.
        """
        transposed = order != tuple(sorted(order))
        transpose = {"name": "transpose", "configuration": {"order": list(order)}}
        return {
            "filters": [transpose] if transposed else [],
            "serializer": self.serializer,
            "compressors": [*self.compressors, *[CHECKSUM] * checksum],
        }
