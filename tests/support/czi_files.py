"""Write Zeiss CZI files with pylibCZIrw, and turn some of their tiles into those of a pyramid."""

import struct
from collections import Counter

import numpy as np
from pylibCZIrw import czi

HEAD, ENTRY = 32, 20
"""Bytes of an entry of a tile before its dimensions, and of one dimension."""


def write_czi(path, tiles, *, names=None, mpp=0.5, settings=None, compression=None):
    """Write `tiles`: (pixels (y, x, c), y, x, factor, plane, scene).

    A tile with a factor above 1 belongs to the pyramid. `plane` is a dict of C, Z and T.
    """
    factors, counts = {}, Counter()
    options = {"compression_options": compression} if compression else {}
    with czi.create_czi(str(path), **options) as file:
        for pixels, y, x, factor, plane, scene in sorted(tiles, key=lambda tile: tile[3]):
            flipped = pixels[..., ::-1] if pixels.shape[-1] == 3 else pixels
            file.write(np.ascontiguousarray(flipped), location=(x, y), plane=plane, scene=scene)
            key = (plane.get("C", 0), plane.get("Z", 0), plane.get("T", 0), scene)
            factors[*key, counts[key]] = factor
            counts[key] += 1
        file.write_metadata("test", channel_names=names or {}, scale_x=mpp / 1e6,
                            scale_y=mpp / 1e6, display_settings=settings)  # fmt: skip
    if any(factor > 1 for factor in factors.values()):
        _patch(path, factors)
    return path


def _patch(path, factors):
    """Set the logical sizes of the tiles of the pyramid in the directory and in the tiles."""
    data = bytearray(path.read_bytes())
    at = data.find(b"DV")
    while at >= 0:
        (count,) = struct.unpack_from("<i", data, at + 28)
        if 5 <= count <= 9:
            starts = {}
            for number in range(count):
                name, start, *_ = struct.unpack_from("<4siifi", data, at + HEAD + ENTRY * number)
                starts[name.rstrip(b"\0").decode("latin-1")] = start, at + HEAD + ENTRY * number
            key = tuple(starts.get(name, (0, 0))[0] for name in "CZTSM")
            if {"X", "Y"} <= set(starts) and factors.get(key, 1) > 1:
                data[at + 22] = 1
                for axis in "XY":
                    place = starts[axis][1]
                    (stored,) = struct.unpack_from("<i", data, place + 16)
                    struct.pack_into("<i", data, place + 8, stored * factors[key])
        at = data.find(b"DV", at + 1)
    path.write_bytes(data)
