"""Damaged TIFFs, made from undamaged ones, each with its expected outcome.

An outcome is an error class with a part of its message, or one of three words: "right" for the
undamaged pixels; "fill" for the same with an absent tile; "hash" for damage that only a checksum
of the file detects.
"""

import functools
import hashlib
import io
import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np
import tifffile
from mutate import SIZES, Tiff

SIDE, TILE = 96, 32
PLACES = {"first": 0, "middle": 4, "last": 8}
CODECS = {
    "raw": {},
    "lzw": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib", "predictor": True},
    "zstd": {"compression": "zstd", "predictor": True},
    "jpeg": {"compression": "jpeg", "subsampling": (2, 2)},
    "jpeg2000": {"compression": "jpeg2000"},
}
TEXT = "a scanner's description " * 8


def picture(side=SIDE):
    """Return RGB that compresses badly and in which all tiles differ."""
    y, x = np.mgrid[:side, :side]
    waves = np.stack([y * 2, x * 2, (y + x) % 256], axis=-1)
    return (waves + np.random.default_rng(1).integers(0, 40, waves.shape)).astype(np.uint8)


@functools.cache
def sound(codec, big):
    """Return the bytes of an undamaged file."""
    stream = io.BytesIO()
    tifffile.imwrite(
        stream, picture(), photometric="rgb", tile=(TILE, TILE), bigtiff=big, metadata=None,
        description=TEXT, extratags=[(274, "H", 1, 1, True)], **CODECS[codec],
    )  # fmt: skip
    return stream.getvalue()


class File(Tiff):
    """A file to damage."""

    def __init__(self, codec, big):
        self.codec = codec
        self.data = bytearray(sound(codec, big))
        super().__init__(bytes(self.data))
        self.at = {self.get(at, "H"): at for at in self.entries}
        self.directory = self.get(self.links[0], self.word)
        self.inline = 12 if big else 8

    def get(self, at, form):
        """Return the number at an offset."""
        return self.number(self.data, at, form)

    def set(self, at, form, value):
        """Write a number at an offset."""
        self.put(self.data, at, form, value)

    def kind(self, code, value):
        """Set the type of a tag."""
        self.set(self.at[code] + 2, "H", value)

    def count(self, code, value):
        """Set the number of values of a tag."""
        self.set(self.at[code] + 4, self.word, value)

    def table(self, code):
        """Return the offset, the format and the number of the values of a tag."""
        at = self.at[code]
        form = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}[self.get(at + 2, "H")]
        many = self.get(at + 4, self.word)
        room = 8 if self.big else 4
        inside = many * SIZES[self.get(at + 2, "H")] <= room
        return at + self.inline if inside else self.get(at + self.inline, self.word), form, many

    def value(self, code, new=None, index=0):
        """Return a value of a tag, or set it."""
        at, form, _ = self.table(code)
        at += index * struct.calcsize(form)
        if new is None:
            return self.get(at, form)
        self.set(at, form, new)
        return new

    def tile(self, number):
        """Return the bytes of a tile as a slice of the file."""
        offset = self.value(324, index=number)
        return slice(offset, offset + self.value(325, index=number))

    def replace(self, number, stream):
        """Replace the stream of a tile by another one, at the end of the file."""
        self.value(324, len(self.data), number)
        # byte counts may have 16 bits only, so check that the stream is short enough
        self.value(325, len(stream), number)
        assert self.value(325, index=number) == len(stream)
        self.data += stream


FORMAT, CUT = "SlideFormatError: ", "SlideTruncatedError: "
LIMIT, KIND, TILE_ERROR = "SlideLimitError: ", "SlideUnsupportedError: ", "TileDecodeError: "
BEYOND = CUT + "1 of 9 tiles lie beyond the end of the file"
TILE_OR_SIZE = {"*": TILE_ERROR, "raw": FORMAT + "does not fit its pixels"}
TILE_OR_HASH = {"*": TILE_ERROR, "raw": "hash"}
WITHIN_OR_OVERLAP = {"*": FORMAT + "begins within", "* first": FORMAT + "overlaps a table"}
YCBCR = KIND + "YCbCr outside of JPEG"
PACKED = ("lzw", "deflate", "zstd")


def renamed(code, new):
    """Return a damage that replaces a tag by an unknown one."""
    return lambda file: file.set(file.at[code], "H", new)


def cut(end):
    """Return a damage that cuts the file at the offset `end(file)`."""

    def damage(file):
        del file.data[end(file) :]

    return damage


def enlarged(value, *codes):
    """Return a damage that sets tags to a value of 32 bits."""

    def damage(file):
        for code in codes:
            file.kind(code, 4)
            file.value(code, value)

    return damage


def bits(value):
    """Return a damage that sets the bits of all samples."""
    return lambda file: [file.value(258, value, index) for index in range(3)]


def tag_twice(file):
    at, other = file.at[256], file.at[305]
    file.data[other : other + file.size] = file.data[at : at + file.size]


def length_of_no_values(file):
    file.kind(257, 3)
    file.count(257, 0)


def sub_images_of_no_offsets(file):
    file.set(file.at[305], "H", 330)
    file.kind(305, 1)


def directories_without_end(file):
    entry = file.order + ("Q" if file.big else "H") + "HH" + file.word * 3
    file.set(file.links[1], file.word, len(file.data))
    for _ in range(4100):
        following = len(file.data) + struct.calcsize(entry)
        file.data += struct.pack(entry, 1, 254, 4, 1, 0, following)


def doctype(file):
    at, _, _ = file.table(270)
    text = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
    file.data[at : at + len(text)] = text


def magic_broken(file):
    file.data[2] ^= 0xFF


def byte_order_broken(file):
    file.data[:2] = b"MM"


def tags_counted(count):
    """Return a damage that sets the number of tags of the directory."""
    return lambda file: file.set(file.directory, "Q" if file.big else "H", count)


def moved(offset):
    """Return a damage that sets the offset of a tile to `offset(file, number)`."""
    return lambda file, number: file.value(324, offset(file, number), number)


def sized(size):
    """Return a damage that sets the byte count of a tile to `size(file, number)`."""
    return lambda file, number: file.value(325, size(file, number), number)


def byte_count_beyond_the_end(file, number):
    counts = [file.value(325, index=index) for index in range(9)]
    counts[number] = len(file.data)
    file.kind(325, 4)
    file.set(file.at[325] + file.inline, file.word, len(file.data))
    file.data += struct.pack(file.order + "9I", *counts)


def another_tile(file, number):
    for code in (324, 325):
        file.value(code, file.value(code, index=(number + 1) % 9), number)


def zeros(file, number):
    where = file.tile(number)
    file.data[where] = bytes(where.stop - where.start)


def zeros_at_the_end(file, number):
    where = file.tile(number)
    half = (where.stop - where.start) // 2
    file.data[where.stop - half : where.stop] = bytes(half)


def head_overwritten(file, number):
    start = file.tile(number).start
    file.data[start : start + 4] = b"\xff\x00\xff\x00"


def bytes_overwritten(file, number):
    where = file.tile(number)
    at = where.start + (where.stop - where.start) * 2 // 5
    file.data[at : at + 200] = np.random.default_rng(number).bytes(200)


def replaced(stream):
    """Return a damage that replaces the stream of a tile by `stream(file, number)`."""
    return lambda file, number: file.replace(number, stream(file, number))


KINDS = {
    # tables
    "offsets table short": (
        FORMAT + "5 offsets and 9 byte counts for 9 tiles", lambda file: file.count(324, 5)
    ),
    "offsets table long": ("right", lambda file: file.count(324, 10)),
    "counts table short": (
        FORMAT + "9 offsets and 5 byte counts for 9 tiles", lambda file: file.count(325, 5)
    ),
    "counts table long": (
        # in packed files the last of them would lie in the first tile
        {"*": "right"} | dict.fromkeys(PACKED, FORMAT + "overlaps a table"),
        lambda file: file.count(325, 10),
    ),
    "no offsets": (FORMAT + "0 offsets", renamed(324, 60000)),
    "no byte counts": (FORMAT + "lacks the byte counts", renamed(325, 60001)),
    "offsets table beyond the end": (
        CUT + "the value of tag 324",
        lambda file: file.set(file.at[324] + file.inline, file.word, len(file.data) - 8),
    ),
    "counts table beyond the end": (
        CUT + "the value of tag 325", lambda file: file.count(325, 9 + len(file.data))
    ),
    # declared values
    "width 0": (FORMAT + "no image", lambda file: file.value(256, 0)),
    "length 0": (FORMAT + "no image", lambda file: file.value(257, 0)),
    "tile width 0": (FORMAT, lambda file: file.value(322, 0)),
    "tile length 0": (FORMAT, lambda file: file.value(323, 0)),
    "no width": (FORMAT + "no image", renamed(256, 60002)),
    "sides huge": (LIMIT + "px; if that is right", enlarged(2**31, 256, 257)),
    "width huge": (FORMAT + "byte counts for 201326592 tiles", enlarged(2**31, 256)),
    "tile huge": (LIMIT + "bytes each in memory", enlarged(2**17, 322, 323)),
    "tile smaller": (FORMAT + "9 offsets", lambda file: file.value(322, 16)),
    "samples 0": (FORMAT, lambda file: file.value(277, 0)),
    "samples many": (LIMIT + "65,535 samples per pixel", lambda file: file.value(277, 65535)),
    "samples 4": (TILE_OR_SIZE, lambda file: file.value(277, 4)),
    "bits 7": (KIND + "samples of 7 bits", bits(7)),
    "bits 16": (TILE_OR_SIZE, bits(16)),
    "bits that differ": (KIND + "samples of", lambda file: file.value(258, 16, 1)),
    "photometric 99": (KIND + "colour space 99", lambda file: file.value(262, 99)),
    "photometric cmyk": (KIND + "3 inks", lambda file: file.value(262, 5)),
    "photometric ycbcr": (
        TILE_OR_SIZE | {"*": YCBCR},
        lambda file: file.value(262, 6),
        ("raw", *PACKED, "jpeg2000"),
    ),
    "codec unknown": (
        {"*": KIND + "cannot be decoded", "jpeg": YCBCR}, lambda file: file.value(259, 12345)
    ),
    "codec old jpeg": (KIND + "old-style JPEG", lambda file: file.value(259, 6)),
    "codec of another": ({"*": TILE_ERROR, "deflate": "right"}, lambda file: file.value(259, 8)),
    "codec none": (
        {"*": KIND + "predictor 2", "jpeg2000": FORMAT + "does not fit its pixels"},
        lambda file: file.value(259, 1),
        (*PACKED, "jpeg2000"),
    ),
    "predictor unknown": (
        KIND + "cannot be decoded", lambda file: file.value(317, 99), PACKED
    ),
    "planar": (
        {"*": FORMAT + "for 27 tiles", "jpeg": KIND + "cannot be decoded"},
        lambda file: file.value(284, 2),
    ),
    "orientation 9": (KIND + "orientation 9", lambda file: file.value(274, 9)),
    # directories
    "tag twice": (FORMAT + "tag 256 twice", tag_twice),
    "width of floats": (FORMAT + "tag 256 of type 11", lambda file: file.kind(256, 11)),
    "length of no values": (FORMAT + "tag 257 of type 3 with 0 values", length_of_no_values),
    "directory beyond the end": (
        CUT + "directory 0",
        lambda file: file.set(file.links[0], file.word, len(file.data) + 100),
    ),
    "no directory": (
        FORMAT + "holds no image", lambda file: file.set(file.links[0], file.word, 0)
    ),
    "directories in a loop": (
        FORMAT + "a loop", lambda file: file.set(file.links[1], file.word, file.directory)
    ),
    "directory of no tags": (FORMAT + "which no image has", tags_counted(0)),
    "directory of too many tags": (FORMAT + "65,535 tags", tags_counted(65535)),
    "directories without end": (LIMIT + "more than 4,096 images", directories_without_end),
    "sub images of no offsets": (FORMAT + "sub-images", sub_images_of_no_offsets),
    # texts
    "doctype": (FORMAT + "DOCTYPE", doctype),
    "description huge": (
        LIMIT + "a text of 33,554,432 bytes", lambda file: file.count(270, 2**25)
    ),
    # the whole file
    "empty": (FORMAT + "not an image", cut(lambda file: 0)),
    "cut in the header": (CUT + "are not a TIFF", cut(lambda file: 6)),
    "cut in the directory": (CUT + "directory 0", cut(lambda file: file.directory + 30)),
    "cut in half": (CUT, cut(lambda file: len(file.data) // 2)),
    "cut by a byte": (BEYOND + ", tile 8", cut(lambda file: file.tile(8).stop - 1)),
    "magic broken": (FORMAT + "not an image that is known", magic_broken),
    "byte order broken": (FORMAT + "not an image that is known", byte_order_broken),
}  # fmt: skip
"""Expected outcomes, the function that damages a file, and the codecs (all by default).

The keys of outcomes are "CODEC PLACE", "CODEC", "* PLACE" or "*"; the first match counts.
"""
KINDS_OF_TILES = {
    # offset and byte count
    "offset 0": ("fill", moved(lambda file, number: 0)),
    "byte count 0": ("fill", sized(lambda file, number: 0)),
    "offset beyond the end": (BEYOND, moved(lambda file, number: len(file.data))),
    "byte count beyond the end": (BEYOND, byte_count_beyond_the_end),
    "offset in the header": (WITHIN_OR_OVERLAP, moved(lambda file, number: 2)),
    "offset in the directory": (
        WITHIN_OR_OVERLAP, moved(lambda file, number: file.directory + 4)
    ),
    "offset one further": (
        {"*": FORMAT + "begins within", "* last": CUT + "beyond the end"},
        moved(lambda file, number: file.value(324, index=number) + 1),
    ),
    "offset of another": (
        {"*": FORMAT + "begins within", "raw": "hash"},
        moved(lambda file, number: file.value(324, index=(number + 1) % 9)),
    ),
    "another tile": ("hash", another_tile),
    # bytes
    "one byte short": (
        TILE_OR_SIZE | {"lzw": "right", "deflate": "right"},
        sized(lambda file, number: file.value(325, index=number) - 1),
    ),
    "half of the bytes": (
        TILE_OR_SIZE, sized(lambda file, number: file.value(325, index=number) // 2)
    ),
    "zeros": (TILE_OR_HASH, zeros),
    "zeros at the end": (TILE_OR_HASH, zeros_at_the_end),
    "head overwritten": (TILE_OR_HASH, head_overwritten),
    "bytes overwritten": (TILE_OR_HASH | {"zstd": "hash", "jpeg2000": "hash"}, bytes_overwritten),
    "smaller tile": (
        TILE_OR_SIZE, replaced(lambda file, number: encoded(file.codec, picture(16)))
    ),
    "larger tile": (TILE_OR_SIZE, replaced(lambda file, number: encoded(file.codec, picture(64)))),
    "grey tile": (
        TILE_OR_SIZE, replaced(lambda file, number: encoded(file.codec, picture(32)[..., 0]))
    ),
    "bomb": (
        TILE_ERROR,
        replaced(lambda file, number: bombs(file.codec)),
        (*PACKED, "jpeg", "jpeg2000"),
    ),
    "bytes after the end": (
        {"*": "right", "zstd": TILE_ERROR, "jpeg2000": TILE_ERROR},
        replaced(lambda file, number: bytes(file.data[file.tile(number)]) + b"garbage"),
    ),
    "text instead": (
        TILE_OR_SIZE, replaced(lambda file, number: b"<html><body>404 Not Found</body></html>")
    ),
}  # fmt: skip
"""The same for damage of each tile of `PLACES`."""
KINDS |= KINDS_OF_TILES


def encoded(codec, pixels):
    """Return a stream of a codec, without a predictor."""
    pixels = np.ascontiguousarray(pixels)
    return {
        "raw": lambda: pixels.tobytes(),
        "lzw": lambda: imagecodecs.lzw_encode(pixels.tobytes()),
        "deflate": lambda: imagecodecs.zlib_encode(pixels.tobytes()),
        "zstd": lambda: imagecodecs.zstd_encode(pixels.tobytes()),
        "jpeg": lambda: imagecodecs.jpeg_encode(pixels),
        "jpeg2000": lambda: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k"),
    }[codec]()


@functools.cache
def bombs(codec):
    """Return a stream of a few kilobytes that decodes to far more memory."""
    if codec in ("jpeg", "jpeg2000"):
        stream = bytearray(encoded(codec, picture(32)))
        if codec == "jpeg":
            at = stream.index(b"\xff\xc0") + 5
            stream[at : at + 4] = struct.pack(">HH", 65500, 65500)
        else:
            stream[8:16] = struct.pack(">II", 2**30, 2**30)
        return bytes(stream)
    zeros = np.zeros(2**23 if codec == "lzw" else 2**25, np.uint8)
    return encoded(codec, zeros)


# ---------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One damaged file."""

    kind: str
    codec: str
    big: bool
    place: str | None

    @property
    def name(self):
        """The name of the case."""
        parts = [self.kind, self.codec, "big" if self.big else "classic", self.place]
        return "-".join(part for part in parts if part)

    @property
    def outcome(self):
        """The expected outcome."""
        outcomes = KINDS[self.kind][0]
        if isinstance(outcomes, str):
            return outcomes
        keys = (f"{self.codec} {self.place}", self.codec, f"* {self.place}", "*")
        return next(outcomes[key] for key in keys if key in outcomes)

    @property
    def tile(self):
        """The number of the damaged tile, or None."""
        return None if self.place is None else PLACES[self.place]

    def data(self):
        """Return the bytes of the file."""
        file = File(self.codec, self.big)
        damage = KINDS[self.kind][1]
        damage(file) if self.place is None else damage(file, self.tile)
        return bytes(file.data)

    def checksum(self):
        """Return the SHA-256 of the file before it was damaged."""
        return hashlib.sha256(sound(self.codec, self.big)).hexdigest()


def cases():
    """Return every case."""
    return [
        Case(name, codec, big, place)
        for name, (_, _, *codecs) in KINDS.items()
        for codec in (codecs[0] if codecs else CODECS)
        for big in (False, True)
        for place in (PLACES if name in KINDS_OF_TILES else (None,))
    ]
