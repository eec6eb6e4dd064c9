"""Write TIFFs byte by byte, as no library writes them, without dask_slides."""

import struct

import numpy as np

TYPES = {1: "B", 3: "H", 4: "I", 5: "I"}


def write_tiff(path, size, pieces, tags=(), order="<"):
    """Write a TIFF of one page, whose strips (or tiles, by the tags) are `pieces` of bytes.

    `tags` are {code: (type, values)}; a value of None leaves the tag out.
    """
    height, width = size
    found = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8]),
        259: (3, [1]),
        262: (3, [1]),
        273: (4, [0] * len(pieces)),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [len(piece) for piece in pieces]),
    } | dict(tags)
    found = {code: found[code] for code in sorted(found) if found[code] is not None}
    head = 8 + 2 + 12 * len(found) + 4
    long = {
        code: struct.pack(order + TYPES[kind] * len(values), *values)
        for code, (kind, values) in found.items()
    }
    begin = head + sum(len(data) + len(data) % 2 for data in long.values() if len(data) > 4)
    offsets = np.cumsum([begin, *(len(piece) for piece in pieces[:-1])]).tolist()
    long[273] = struct.pack(order + "I" * len(offsets), *offsets)
    entries, values = b"", b""
    for code, (kind, _) in found.items():
        data = long[code]
        count = len(data) // struct.calcsize(TYPES[kind]) // (2 if kind == 5 else 1)
        entries += struct.pack(order + "HHI", code, kind, count)
        if len(data) > 4:
            entries += struct.pack(order + "I", head + len(values))
            values += data + b"\0" * (len(data) % 2)
        else:
            entries += data.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    first = struct.pack(order + "I", 8) + struct.pack(order + "H", len(found))
    path.write_bytes(magic + first + entries + b"\0" * 4 + values + b"".join(pieces))
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
