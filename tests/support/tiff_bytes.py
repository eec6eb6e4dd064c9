"""Write TIFFs byte by byte, as no library writes them, without dask_slides."""

import struct

import numpy as np
from rw_fixtures import noise, smooth

import dask_slides as ds

ROWS = 16
TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 7: "B"}


def tiff(tags, pieces, order="<"):
    """Return a TIFF whose strips, or tiles if it has tag 322, are `pieces` of bytes.

    `tags` are {code: (type, values)}; a value of None leaves the tag out.
    """
    offsets_tag, counts_tag = (324, 325) if 322 in tags else (273, 279)
    tables = {offsets_tag: (4, [0] * len(pieces)), counts_tag: (4, [len(one) for one in pieces])}
    tags = {code: value for code, value in sorted((tables | tags).items()) if value is not None}
    packed = {
        code: struct.pack(order + TYPES[kind] * len(values), *values)
        for code, (kind, values) in tags.items()
    }
    head = 8 + 2 + 12 * len(tags) + 4
    begin = head + sum(len(data) + len(data) % 2 for data in packed.values() if len(data) > 4)
    offsets = np.cumsum([begin, *(len(one) for one in pieces[:-1])]).tolist()
    packed[offsets_tag] = struct.pack(order + "I" * len(offsets), *offsets)
    entries, apart = b"", b""
    for code, (kind, _) in tags.items():
        data = packed[code]
        count = len(data) // struct.calcsize(TYPES[kind]) // (2 if kind == 5 else 1)
        entries += struct.pack(order + "HHI", code, kind, count)
        if len(data) > 4:
            entries += struct.pack(order + "I", head + len(apart))
            apart += data + b"\0" * (len(data) % 2)
        else:
            entries += data.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    first = struct.pack(order + "IH", 8, len(tags))
    return b"".join((magic, first, entries, bytes(4), apart, *pieces))


def write_tiff(path, size, pieces, tags=(), order="<"):
    """Write one page of grey of 8 bits in one strip, except where `tags` say otherwise."""
    height, width = size
    common = {256: (4, [width]), 257: (4, [height]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]),
              277: (3, [1]), 278: (4, [height])}  # fmt: skip
    path.write_bytes(tiff(common | dict(tags), pieces, order))
    return path


def packed(rows, bits):
    """Pack rows of integers into bits, most significant first, each row padded to bytes."""
    out = b""
    for row in rows:
        number = 0
        for value in row:
            number = number << bits | int(value) & (1 << bits) - 1
        gap = -len(row) * bits % 8
        out += (number << gap).to_bytes((len(row) * bits + gap) // 8, "big")
    return out


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


def pixels_of(path, **options):
    """Return the pixels of a slide."""
    slide = ds.open_slide(path, **options)
    return slide.read(0, 0, *slide.shape[:2])


def coded(samples=3):
    """Return pixels (40, 48, c) that compress badly."""
    return smooth(40, 48)[..., :samples] // 2 + noise(40, 48, samples) // 4


def strips(path, code, pixels, encode, **tags):
    """Write `pixels` in strips that `encode` encodes."""
    parts = [np.ascontiguousarray(pixels[y : y + ROWS]) for y in range(0, len(pixels), ROWS)]
    whole = tags_of(pixels.shape, code, ROWS, **tags)
    path.write_bytes(tiff(whole, [bytes(encode(part)) for part in parts]))
