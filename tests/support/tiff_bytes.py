"""TIFFs built byte by byte and LZW built code by code, as no library writes them."""

import struct

import numpy as np
from rw_fixtures import noise, smooth

import dask_slides as ds

ROWS = 16
FORMS = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B"}


def tiff(tags, pieces):
    """Return a TIFF of `tags`, (type, values) by code, whose strips or tiles are `pieces`."""
    tiled = 322 in tags
    tags = tags | {
        324 if tiled else 273: (4, [0] * len(pieces)),
        325 if tiled else 279: (4, [len(piece) for piece in pieces]),
    }
    sizes = {code: struct.calcsize(FORMS[kind]) * len(values) for code, (kind, values) in
             tags.items()}  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    tables = start
    start += sum(size for size in sizes.values() if size > 4)
    offsets, at = [], start
    for piece in pieces:
        offsets.append(at)
        at += len(piece)
    tags[324 if tiled else 273] = (4, offsets)
    entries = values_apart = b""
    for code in sorted(tags):
        kind, values = tags[code]
        packed = struct.pack(f"<{len(values)}{FORMS[kind]}", *values)
        if len(packed) > 4:
            values_apart += packed
            packed = struct.pack("<I", tables + len(values_apart) - len(packed))
        entries += struct.pack("<HHI", code, kind, len(values)) + packed.ljust(4, b"\0")
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return b"".join((head, entries, bytes(4), values_apart, *pieces))


def tags_of(shape, compression, rows=None, tile=None, photometric=None, bits=8, more=()):
    """Return the tags of an image (h, w, c) of one plane."""
    height, width, samples = shape
    tags = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * samples),
        259: (3, [compression]), 262: (3, [photometric or (2 if samples == 3 else 1)]),
        277: (3, [samples]), 284: (3, [1]),
    }  # fmt: skip
    if tile:
        tags |= {322: (4, [tile]), 323: (4, [tile])}
    else:
        tags[278] = (4, [rows or height])
    return tags | dict(more)


def padded(part):
    """Return the last strip with as many rows as the others."""
    more = np.full((ROWS - len(part), *part.shape[1:]), 7, part.dtype)
    return np.concatenate([part, more])


def lzw_codes(data):
    """Return the LZW codes as (code, width), read as in section 13 of TIFF 6.0."""
    bits = "".join(f"{byte:08b}" for byte in bytes(data))
    codes, at, width, new = [], 0, 9, 258
    while not codes or codes[-1][0] != 257:
        code = int(bits[at : at + width], 2)
        codes.append((code, width))
        at += width
        if code == 256:
            width, new = 9, 257
            continue
        new += 1
        width = max(9, (new + 1).bit_length())
    return codes


def packed(codes):
    bits = "".join(f"{code:0{width}b}" for code, width in codes)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def pixels_of(path):
    """Return the pixels of a slide."""
    slide = ds.open_slide(path)
    return slide.read(0, 0, *slide.shape[:2])


def coded(samples=3):
    """Return pixels (40, 48, c) that compress badly."""
    return smooth(40, 48)[..., :samples] // 2 + noise(40, 48, samples) // 4


def strips(path, code, pixels, encode, **tags):
    """Write `pixels` in strips that `encode` encodes."""
    parts = [np.ascontiguousarray(pixels[y : y + ROWS]) for y in range(0, len(pixels), ROWS)]
    whole = tags_of(pixels.shape, code, ROWS, **tags)
    path.write_bytes(tiff(whole, [bytes(encode(part)) for part in parts]))
