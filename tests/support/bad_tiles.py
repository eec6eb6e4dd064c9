"""Write slides with absent or corrupt tiles, and compute which pixels these affect."""

import numpy as np
import tifffile
from rw_fixtures import smooth

TILE = 64

KINDS = {
    "deflate": {"tile": (TILE, TILE), "compression": "zlib", "photometric": "rgb"},
    "jpeg": {"tile": (TILE, TILE), "compression": "jpeg", "photometric": "ycbcr"},
    "strips": {"rowsperstrip": 24, "compression": "zlib", "photometric": "rgb"},
    "planar": {
        "tile": (TILE, TILE), "compression": "zlib", "photometric": "rgb",
        "planarconfig": "separate",
    },
    "palette": {
        "tile": (TILE, TILE), "compression": "zlib", "photometric": "palette",
        "colormap": np.random.default_rng(5).integers(0, 2**16, (3, 256), dtype=np.uint16),
    },
    "uint16": {"tile": (TILE, TILE), "compression": "zlib", "photometric": "minisblack"},
    "float": {"tile": (TILE, TILE), "compression": "zlib", "photometric": "minisblack"},
}  # fmt: skip
"""Layouts of slides. A unit of storage is a tile or a strip of 24 rows."""


def picture(kind, shape, seed=0):
    """Return an image (y, x, c) of glass and tissue that suits `kind`."""
    height, width = shape
    colours = smooth(height, width, seed)
    rng = np.random.default_rng(seed)
    glass = np.repeat(np.repeat(rng.random((8, 8)) < 0.5, 1 + height // 8, 0), 1 + width // 8, 1)
    colours[glass[:height, :width]] = 236
    if kind == "uint16":
        return colours[..., :1].astype(np.uint16) * 200
    if kind == "float":
        return np.sqrt(colours[..., :1].astype(np.float32)) / 16
    return colours[..., :1] if kind == "palette" else colours


def written(path, kind, image, **options):
    """Write `image`, and return the pixels as read from the undamaged file."""
    stored = image[..., 0] if image.shape[2] == 1 else image
    if kind == "planar":
        stored = image.transpose(2, 0, 1)
    tifffile.imwrite(path, stored, metadata=None, **(KINDS[kind] | options))
    with tifffile.TiffFile(path) as tiff:
        pixels = tiff.pages[0].asarray()
        if kind == "planar":
            return pixels.transpose(1, 2, 0)
        if kind == "palette":
            return (KINDS[kind]["colormap"] // 256).astype(np.uint8).T[pixels]
    return pixels[..., None] if pixels.ndim == 2 else pixels


def spoil(path, absent=(), corrupt=(), page=0):
    """Remove the tiles `absent` and overwrite `corrupt`, by number; return the offsets of those."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        one = tiff.pages[page]
        offsets, counts = list(one.dataoffsets), list(one.databytecounts)
        units = len(counts) // (one.samplesperpixel if one.planarconfig == 2 else 1)
        if absent:
            tag = one.tags[325] if 325 in one.tags else one.tags[279]
            tag.overwrite([0 if n % units in absent else count for n, count in enumerate(counts)])
    with open(path, "r+b") as file:
        for number in corrupt:
            file.seek(offsets[number])
            file.write(b"\x01" * counts[number])
    return {number: offsets[number] for number in corrupt}


def places(kind, shape):
    """Return top, left, height and width of each unit of storage."""
    side = (24, shape[1]) if kind == "strips" else (TILE, TILE)
    return [
        (y, x, min(side[0], shape[0] - y), min(side[1], shape[1] - x))
        for y in range(0, shape[0], side[0])
        for x in range(0, shape[1], side[1])
    ]


def mask_of(kind, shape, numbers):
    """Return which pixels (y, x) lie in the units `numbers`."""
    mask = np.zeros(shape, bool)
    units = places(kind, shape)
    for y, x, height, width in (units[number % len(units)] for number in numbers):
        mask[y : y + height, x : x + width] = True
    return mask
