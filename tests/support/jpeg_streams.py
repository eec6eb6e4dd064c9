"""JPEG streams, built code by code, that no installed encoder writes."""

import struct

DHT, DRI, SOS, EOI = b"\xff\xc4", b"\xff\xdd", b"\xff\xda", b"\xff\xd9"
ZRL = "11110000"


def segment(marker, body):
    """Return a marker with its segment."""
    return marker + struct.pack(">H", len(body) + 2) + body


def tables(differences=16):
    """Return the segments of quantisation by 8 and of two Huffman tables.

    Each code equals its symbol: 5 bits for sizes of differences, 8 bits for run and size.
    """
    quantisation = segment(b"\xff\xdb", bytes([0] + [8] * 64))
    return quantisation + huffman_table(0, 5, differences) + huffman_table(16, 8, 255)


def huffman_table(kind, length, count):
    """Return a Huffman table of `count` codes of one length."""
    counts = [count if n == length else 0 for n in range(1, 17)]
    return segment(DHT, bytes([kind, *counts, *range(count)]))


def number(value):
    """Return the size and the bits of a number."""
    size = abs(value).bit_length()
    return size, f"{value if value >= 0 else value + 2**size - 1:0{size}b}" if size else ""


def block(difference=0, coefficients=None):
    """Return the bits of a block; `coefficients` are given by position."""
    size, value = number(difference)
    bits, last = f"{size:05b}{value}", 0
    for place, coefficient in sorted((coefficients or {}).items()):
        size, value = number(coefficient)
        run = place - last - 1
        bits += ZRL * (run // 16) + f"{run % 16 << 4 | size:08b}{value}"
        last = place
    return bits if last == 63 else bits + "00000000"


def packed(bits):
    """Return bits as bytes, padded and with byte stuffing."""
    whole = bits + "1" * (-len(bits) % 8)
    return int(whole or "0", 2).to_bytes(len(whole) // 8).replace(b"\xff", b"\xff\0")


def scan(units, components=(0,), restart=0, spectrum=(0, 63, 0)):
    """Return a scan; each of `units` is the bits of one coded unit."""
    head = bytes([len(components), *(byte for one in components for byte in (one, 0)), *spectrum])
    step = restart or max(1, len(units))
    parts = [packed("".join(units[at : at + step])) for at in range(0, len(units), step)]
    data = b"".join(part + bytes((0xFF, 0xD0 + n % 8)) for n, part in enumerate(parts))[:-2]
    return segment(SOS, head) + data


def jpeg(
    height, width, *scans, factors=((1, 1),), restart=0, frame=0xC1, bits=12, given=None, names=None
):
    """Return a stream of `scans`; `factors` are the sampling factors of each component."""
    named = zip(names or range(len(factors)), factors, strict=True)
    head = struct.pack(">BHHB", bits, height, width, len(factors)) + b"".join(
        bytes((name, across << 4 | down, 0)) for name, (across, down) in named
    )
    start = b"\xff\xd8" + (tables() if given is None else given)
    intervals = segment(DRI, struct.pack(">H", restart)) if restart else b""
    return start + segment(bytes((0xFF, frame)), head) + intervals + b"".join(scans) + EOI
