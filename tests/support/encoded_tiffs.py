"""TIFFs of tiles in each codec that stores of copied tiles hold."""

import struct

import imagecodecs
import numpy as np
import tifffile
from tiff_bytes import tiff

TILE = 64
TABLES = (b"\xff\xdb", b"\xff\xc4")
SCAN = b"\xff\xda"


def encoded(tile, **options):
    return imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=85, **options)


def cut(image):
    """Return the tiles of an image, padded."""
    height, width = (-(-n // TILE) * TILE for n in image.shape[:2])
    rest = [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)]
    whole = np.pad(image, rest, mode="edge")
    return [
        whole[y : y + TILE, x : x + TILE]
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    ]


def without_tables(stream):
    """Return a JPEG stream without its tables and application segments, and its tables."""
    at, kept, tables = 2, b"\xff\xd8", b""
    while stream[at : at + 2] != SCAN:
        end = at + 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
        if stream[at : at + 2] in TABLES:
            tables += stream[at:end]
        elif stream[at + 1] < 0xE0:
            kept += stream[at:end]
        at = end
    return kept + stream[at:], tables


def jpeg_tiff(path, image, *, photometric, shared, **options):
    """Write a TIFF of JPEG tiles whose streams say nothing about colours, as Aperio's."""
    streams = [encoded(tile, **options) for tile in cut(image)]
    tags = {
        256: (4, [image.shape[1]]), 257: (4, [image.shape[0]]), 258: (3, [8] * 3), 259: (3, [7]),
        262: (3, [photometric]), 277: (3, [3]), 322: (3, [TILE]), 323: (3, [TILE]),
    }  # fmt: skip
    if shared:
        streams, tables = zip(*map(without_tables, streams), strict=True)
        assert len(set(tables)) == 1
        tags[347] = (7, list(b"\xff\xd8" + tables[0] + b"\xff\xd9"))
    path.write_bytes(tiff(tags, list(streams)))
    return path


KINDS = {
    "lzw": {"compression": "lzw"},
    "deflate": {"compression": "deflate"},
    "zstd": {"compression": "zstd"},
    "webp": {"compression": "webp"},
    "jpeg 2000": {"compression": "jpeg2000"},
    "jpeg": {"compression": "jpeg"},
    "deflate, 16 bits, big-endian": {"compression": "deflate", "byteorder": ">"},
    "grey jpeg": {"compression": "jpeg", "photometric": "minisblack"},
}


def written(kind, image, path):
    """Write `image` as a TIFF of a kind; return its path."""
    if kind == "shared tables, RGB":
        return jpeg_tiff(
            path, image, photometric=2, shared=True, colorspace="RGB", outcolorspace="RGB"
        )
    if kind == "shared tables, YCbCr 4:2:2":
        return jpeg_tiff(path, image, photometric=6, shared=True, colorspace="RGB",
                         outcolorspace="YCBCR", subsampling="422")  # fmt: skip
    if "16 bits" in kind:
        image = image.astype(np.uint16) * 257
    options = {"photometric": "rgb", "tile": (TILE, TILE), **KINDS[kind]}
    if options["photometric"] == "minisblack":
        image = image[..., 1]
    tifffile.imwrite(path, image, **options)
    return path
