"""JPEG streams made code by code, as no encoder here writes them, and damage to streams."""

import struct

DHT, DRI, SOS, EOI = b"\xff\xc4", b"\xff\xdd", b"\xff\xda", b"\xff\xd9"
ZRL = "11110000"


def segment(marker, body):
    """Return a marker with its segment."""
    return marker + struct.pack(">H", len(body) + 2) + body


def tables(differences=16):
    """Return the segments of quantisation by 8 and of two Huffman tables.

    Codes are what they stand for: sizes of differences in 5 bits, run and size in 8.
    """
    quantisation = segment(b"\xff\xdb", bytes([0] + [8] * 64))
    return quantisation + huffman_table(0, 5, differences) + huffman_table(16, 8, 255)


def huffman_table(kind, length, count):
    """Return a Huffman table of so many codes of one length."""
    counts = [count if n == length else 0 for n in range(1, 17)]
    return segment(DHT, bytes([kind, *counts, *range(count)]))


def number(value):
    """Return the size of a number, and its bits."""
    size = abs(value).bit_length()
    return size, f"{value if value >= 0 else value + 2**size - 1:0{size}b}" if size else ""


def block(difference=0, coefficients=None):
    """Return the bits of a block, its `coefficients` by place."""
    size, value = number(difference)
    bits, last = f"{size:05b}{value}", 0
    for place, coefficient in sorted((coefficients or {}).items()):
        size, value = number(coefficient)
        run = place - last - 1
        bits += ZRL * (run // 16) + f"{run % 16 << 4 | size:08b}{value}"
        last = place
    return bits if last == 63 else bits + "00000000"


def packed(bits):
    """Return bits as bytes, the last one filled, and stuffed."""
    whole = bits + "1" * (-len(bits) % 8)
    return int(whole or "0", 2).to_bytes(len(whole) // 8).replace(b"\xff", b"\xff\0")


def scan(units, components=(0,), restart=0, spectrum=(0, 63, 0)):
    """Return a scan of `units`, each the bits of one."""
    head = bytes([len(components), *(byte for one in components for byte in (one, 0)), *spectrum])
    step = restart or max(1, len(units))
    parts = [packed("".join(units[at : at + step])) for at in range(0, len(units), step)]
    data = b"".join(part + bytes((0xFF, 0xD0 + n % 8)) for n, part in enumerate(parts))[:-2]
    return segment(SOS, head) + data


def jpeg(
    height, width, *scans, factors=((1, 1),), restart=0, frame=0xC1, bits=12, given=None, names=None
):
    """Return a stream of `scans`, with components of so many samples across and down."""
    named = zip(names or range(len(factors)), factors, strict=True)
    head = struct.pack(">BHHB", bits, height, width, len(factors)) + b"".join(
        bytes((name, across << 4 | down, 0)) for name, (across, down) in named
    )
    start = b"\xff\xd8" + (tables() if given is None else given)
    intervals = segment(DRI, struct.pack(">H", restart)) if restart else b""
    return start + segment(bytes((0xFF, frame)), head) + intervals + b"".join(scans) + EOI


def scan_start(stream):
    """Return where the data of the first scan begin."""
    at = 2
    while stream[at : at + 2] != SOS:
        at += 2 + int.from_bytes(stream[at + 2 : at + 4])
    return at + 2 + int.from_bytes(stream[at + 2 : at + 4])


def restarts(stream):
    """Return where the restart markers are."""
    start = scan_start(stream)
    return [at for at in range(start, len(stream) - 1)
            if stream[at] == 0xFF and 0xD0 <= stream[at + 1] <= 0xD7]  # fmt: skip


def _cut(data, at, rng):
    data[at:] = EOI


def _zeros(data, at, rng):
    data[at:-2] = bytes(len(data) - 2 - at)


def _some_zeros(data, at, rng):
    stop = min(at + rng.integers(1, 60), len(data) - 2)
    data[at:stop] = bytes(stop - at)


def _random(data, at, rng):
    stop = min(at + 200, len(data) - 2)
    data[at:stop] = rng.bytes(stop - at)


def _byte(data, at, rng):
    data[at] = (data[at] + rng.integers(1, 256)) % 256


def _bit(data, at, rng):
    data[at] ^= 1 << rng.integers(8)


def _fewer(data, at, rng):
    del data[at : min(at + rng.integers(1, 9), len(data) - 2)]


def _more(data, at, rng):
    data[at:at] = rng.bytes(rng.integers(1, 9))


def _swapped(data, at, rng):
    first = rng.choice(restarts(data)[:-1])
    second = next(other for other in restarts(data) if other > first)
    data[first + 1], data[second + 1] = data[second + 1], data[first + 1]


def _removed(data, at, rng):
    first = rng.choice(restarts(data))
    del data[first : first + 2]


DAMAGE = {
    "cut": _cut, "zeros to the end": _zeros, "zeros": _some_zeros, "200 random bytes": _random,
    "a byte": _byte, "a bit": _bit, "bytes removed": _fewer, "bytes added": _more,
    "restart markers swapped": _swapped, "a restart marker removed": _removed,
}  # fmt: skip


def damaged(stream, kind, rng):
    """Return a mutant of a stream: its header is sound and it has an end."""
    data = bytearray(stream)
    DAMAGE[kind](data, int(rng.integers(scan_start(stream), len(data) - 2)), rng)
    return bytes(data)


COLOUR = ((2, 2), (1, 1), (1, 1))
GREY = [block(5, {1: 1})] * 8
FLAT = [block()] * 4
REFUSED = {
    "a quantisation that is cut off": (
        jpeg(16, 16, scan(FLAT), given=tables() + segment(b"\xff\xdb", bytes(1) + b"\x08" * 40)),
        "quantisation that is none"),
    "a quantisation of another number": (
        jpeg(16, 16, scan(FLAT), given=tables() + segment(b"\xff\xdb", b"\x04" + b"\x08" * 64)),
        "quantisation that is none"),
    "a Huffman table of another number": (
        jpeg(16, 16, scan(FLAT), given=tables() + huffman_table(4, 5, 16)),
        "Huffman table that is none"),
    "a difference of 16 bits": (
        jpeg(16, 16, scan(FLAT), given=tables(17)), "Huffman table that is none"),
    "no rows": (jpeg(0, 16, scan(FLAT)), "without a size"),
    "no columns": (jpeg(16, 0, scan(FLAT)), "without a size"),
    "eleven components": (
        jpeg(8, 8, *(scan([block()], (n,)) for n in range(11)), factors=((1, 1),) * 11),
        "frame header"),
    "a marker of no kind": (
        jpeg(16, 16, scan(FLAT), given=tables() + segment(b"\xff\xf3", b"1")), "FFF3, which none"),
    "a second beginning": (
        jpeg(16, 16, scan(FLAT), given=tables() + b"\xff\xd8\0\2"), "FFD8, which none"),
    "a restart interval of four bytes": (
        jpeg(16, 16, scan(FLAT), given=tables() + segment(DRI, bytes(4))), "restart interval"),
    "a unit of eleven blocks": (
        jpeg(16, 16, scan([block() * 11], (0, 1, 2)), factors=((2, 4), (1, 2), (1, 1))),
        "11 blocks"),
    "a lossless scan of coefficients": (
        jpeg(2, 2, scan(["00000"] * 4, spectrum=(1, 64, 0)), frame=0xC3, given=tables(17)),
        "lossless scan of coefficients"),
}  # fmt: skip
"""Headers that libjpeg refuses, too."""
ADOBE = b"Adobe\0d\0\0\0\0"
"""What its segment holds before the kind of colours."""
JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
WRONG = REFUSED | {
    "JFIF of another version": (
        jpeg(16, 16, scan(FLAT), given=segment(b"\xff\xe0", JFIF.replace(b"\1", b"\2", 1)) +
             tables()), "JFIF of version 2"),
    "colours of an unknown kind": (
        jpeg(16, 16, scan([block() * 3] * 4, (0, 1, 2)), factors=((1, 1),) * 3,
             given=segment(b"\xff\xee", ADOBE + b"\7") + tables()), "unknown kind, 7"),
    "a code that is in no table": (jpeg(16, 32, scan([*GREY[:4], "1" * 40, *GREY])), "a code"),
    "a run beyond the last coefficient": (
        jpeg(8, 8, scan([block(1, {60: 1})[:-8] + f"{5 << 4 | 1:08b}1"])), "more than 64"),
    "zeros beyond the last coefficient": (
        jpeg(8, 8, scan([block(1, {48: 1})[:-8] + "11110000" + "00000000"])), "more than 64"),
    "a difference too large": (
        jpeg(8, 8, scan(["01100" + "1" * 12 + "0" * 8]), bits=8), "too large"),
    "a coefficient too large": (jpeg(8, 8, scan(["00000" + "00001111" + "1" * 15])), "too large"),
    "a run without a number": (jpeg(8, 8, scan(["00000" + "00010000" + "0" * 8])), "a code"),
    "data that end early": (jpeg(16, 32, scan(GREY[:7])), "less data"),
    "no data": (jpeg(16, 32, scan([])), "less data"),
    "bytes that are left": (jpeg(16, 32, scan([*GREY, "0" * 24])), "3 bytes more"),
    "a restart marker that is missing": (jpeg(16, 32, scan(GREY), restart=4), "bytes more"),
    "a restart marker too many": (jpeg(16, 32, scan(GREY, restart=4)), "less data"),
    "a restart marker of another number": (
        jpeg(16, 32, scan(GREY, restart=2), restart=2).replace(b"\xff\xd1", b"\xff\xd3"),
        "marker FFD3 where FFD1"),
    "an end in place of a restart marker": (
        jpeg(16, 32, scan(GREY[:4]), restart=4), "marker FFD9 where FFD0"),
    "a component without a scan": (jpeg(16, 16, scan([block()] * 4), factors=COLOUR), "lacks 2"),
    "no scan": (jpeg(16, 16), "lacks 1"),
    "a component with two scans": (jpeg(16, 16, *[scan([block()] * 4)] * 2), "component 0"),
    "a scan of an unknown component": (jpeg(16, 16, scan([block()] * 4, (7,))), "component 7"),
    "a scan of some coefficients": (
        jpeg(16, 16, scan([block()] * 4, spectrum=(0, 5, 0))), "some of the coefficients"),
    "a scan header that is broken": (jpeg(16, 16, segment(b"\xff\xda", b"\1\0\0")), "scan header"),
    "no tables": (jpeg(16, 16, scan([block()] * 4), given=b""), "lacks one of its Huffman"),
    "a table with too many codes": (
        jpeg(16, 16, scan([block()] * 4), given=segment(b"\xff\xc4", bytes([0, 3] + [0] * 18))),
        "more codes"),
    "a table that is cut off": (
        jpeg(16, 16, scan([block()] * 4), given=segment(b"\xff\xc4", bytes([0, 2] + [0] * 15))),
        "cut off"),
    "sampling factors of 0": (jpeg(16, 16, scan([block()] * 4), factors=((0, 1),)), "sampling"),
    "a frame header that is broken": (
        jpeg(16, 16, scan([block()] * 4)).replace(b"\xff\xc1\0\x0b", b"\xff\xc1\0\x0c", 1),
        "frame header"),
    "two frame headers": (
        jpeg(16, 16, jpeg(16, 16)[2:-2], scan([block()] * 4)), "second frame header"),
    "a scan before the frame header": (
        b"\xff\xd8" + scan([block()]) + EOI, "no frame header before"),
    "no frame header": (b"\xff\xd8" + EOI, "lacks"),
    "a segment beyond the end": (b"\xff\xd8\xff\xfe\xff\0" + EOI, "segment at byte 2"),
    "a segment of no bytes": (b"\xff\xd8\xff\xfe\0\0" + EOI, "segment at byte 2"),
    "bytes between markers": (b"\xff\xd8\0\0\0" + EOI, "no marker at byte 2"),
    "fill bytes within the data": (
        jpeg(16, 32, scan(GREY)).replace(packed("".join(GREY))[:9], b"\xff\xff\0" * 3),
        "fill bytes"),
    "no end": (jpeg(16, 32, scan(GREY))[:-2], "no end"),
}  # fmt: skip
"""Streams with something wrong, and what is told of it."""
