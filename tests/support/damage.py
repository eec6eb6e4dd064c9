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


KINDS = {}


def kind(outcomes, codecs=CODECS, places=None):
    """Register a function that damages a file, with the expected outcomes.

    The keys of `outcomes` are "CODEC PLACE", "CODEC", "* PLACE" or "*"; the first match counts.
    """

    def register(damage):
        name = damage.__name__.replace("_", " ").strip()
        KINDS[name] = (damage, {"*": outcomes} if isinstance(outcomes, str) else outcomes,
                       tuple(codecs), places)  # fmt: skip
        return damage

    return register


FORMAT, CUT = "SlideFormatError: ", "SlideTruncatedError: "
LIMIT, KIND, TILE_ERROR = "SlideLimitError: ", "SlideUnsupportedError: ", "TileDecodeError: "


def each(*names):
    """Return options of `kind` to damage each tile of `PLACES`."""
    return {"places": tuple(PLACES)} | ({"codecs": names} if names else {})


# ---------------------------------------------------------------- tables


@kind(FORMAT + "5 offsets and 9 byte counts for 9 tiles")
def offsets_table_short(file):
    file.count(324, 5)


@kind("right")
def offsets_table_long(file):
    file.count(324, 10)


@kind(FORMAT + "9 offsets and 5 byte counts for 9 tiles")
def counts_table_short(file):
    file.count(325, 5)


@kind(
    {"*": "right"}
    # here the last of them would lie in the first tile
    | dict.fromkeys(("lzw", "deflate", "zstd"), FORMAT + "overlaps a table")
)
def counts_table_long(file):
    file.count(325, 10)


@kind(FORMAT + "0 offsets")
def no_offsets(file):
    file.set(file.at[324], "H", 60000)


@kind(FORMAT + "lacks the byte counts")
def no_byte_counts(file):
    file.set(file.at[325], "H", 60001)


@kind(CUT + "the value of tag 324")
def offsets_table_beyond_the_end(file):
    file.set(file.at[324] + file.inline, file.word, len(file.data) - 8)


@kind(CUT + "the value of tag 325")
def counts_table_beyond_the_end(file):
    file.count(325, 9 + len(file.data))


# ---------------------------------------------------------------- declared values


@kind(FORMAT + "no image")
def width_0(file):
    file.value(256, 0)


@kind(FORMAT + "no image")
def length_0(file):
    file.value(257, 0)


@kind(FORMAT)
def tile_width_0(file):
    file.value(322, 0)


@kind(FORMAT)
def tile_length_0(file):
    file.value(323, 0)


@kind(FORMAT + "no image")
def no_width(file):
    file.set(file.at[256], "H", 60002)


@kind(LIMIT + "px; if that is right")
def sides_huge(file):
    for code in (256, 257):
        file.kind(code, 4)
        file.value(code, 2**31)


@kind(FORMAT + "byte counts for 201326592 tiles")
def width_huge(file):
    file.kind(256, 4)
    file.value(256, 2**31)


@kind(LIMIT + "bytes each in memory")
def tile_huge(file):
    for code in (322, 323):
        file.kind(code, 4)
        file.value(code, 2**17)


@kind(FORMAT + "9 offsets")
def tile_smaller(file):
    file.value(322, 16)


@kind(FORMAT)
def samples_0(file):
    file.value(277, 0)


@kind(LIMIT + "65,535 samples per pixel")
def samples_many(file):
    file.value(277, 65535)


@kind({"*": TILE_ERROR, "raw": FORMAT + "does not fit its pixels"})
def samples_4(file):
    file.value(277, 4)


@kind(KIND + "samples of 7 bits")
def bits_7(file):
    for index in range(3):
        file.value(258, 7, index)


@kind({"*": TILE_ERROR, "raw": FORMAT + "does not fit its pixels"})
def bits_16(file):
    for index in range(3):
        file.value(258, 16, index)


@kind(KIND + "samples of")
def bits_that_differ(file):
    file.value(258, 16, 1)


@kind(KIND + "colour space 99")
def photometric_99(file):
    file.value(262, 99)


@kind(KIND + "3 inks")
def photometric_cmyk(file):
    file.value(262, 5)


YCBCR = KIND + "YCbCr outside of JPEG"


@kind(
    {"*": YCBCR, "raw": FORMAT + "does not fit its pixels"},
    codecs=("raw", "lzw", "deflate", "zstd", "jpeg2000"),
)
def photometric_ycbcr(file):
    file.value(262, 6)


@kind({"*": KIND + "cannot be decoded", "jpeg": YCBCR})
def codec_unknown(file):
    file.value(259, 12345)


@kind(KIND + "old-style JPEG")
def codec_old_jpeg(file):
    file.value(259, 6)


@kind({"*": TILE_ERROR, "deflate": "right"})
def codec_of_another(file):
    file.value(259, 8)


@kind(
    {"*": KIND + "predictor 2", "jpeg2000": FORMAT + "does not fit its pixels"},
    codecs=("lzw", "deflate", "zstd", "jpeg2000"),
)
def codec_none(file):
    file.value(259, 1)


@kind(KIND + "cannot be decoded", codecs=("lzw", "deflate", "zstd"))
def predictor_unknown(file):
    file.value(317, 99)


@kind({"*": FORMAT + "for 27 tiles", "jpeg": KIND + "cannot be decoded"})
def planar(file):
    file.value(284, 2)


@kind(KIND + "orientation 9")
def orientation_9(file):
    file.value(274, 9)


# ---------------------------------------------------------------- directories


@kind(FORMAT + "tag 256 twice")
def tag_twice(file):
    at, other = file.at[256], file.at[305]
    file.data[other : other + file.size] = file.data[at : at + file.size]


@kind(FORMAT + "tag 256 of type 11")
def width_of_floats(file):
    file.kind(256, 11)


@kind(FORMAT + "tag 257 of type 3 with 0 values")
def length_of_no_values(file):
    file.kind(257, 3)
    file.count(257, 0)


@kind(CUT + "directory 0")
def directory_beyond_the_end(file):
    file.set(file.links[0], file.word, len(file.data) + 100)


@kind(FORMAT + "holds no image")
def no_directory(file):
    file.set(file.links[0], file.word, 0)


@kind(FORMAT + "a loop")
def directories_in_a_loop(file):
    file.set(file.links[1], file.word, file.directory)


@kind(FORMAT + "which no image has")
def directory_of_no_tags(file):
    file.set(file.directory, "Q" if file.big else "H", 0)


@kind(FORMAT + "65,535 tags")
def directory_of_too_many_tags(file):
    file.set(file.directory, "Q" if file.big else "H", 65535)


@kind(LIMIT + "more than 4,096 images")
def directories_without_end(file):
    head = "Q" if file.big else "H"
    file.set(file.links[1], file.word, len(file.data))
    size = struct.calcsize(file.order + head + "HH" + file.word * 3)
    for _ in range(4100):
        file.data += struct.pack(
            file.order + head + "HH" + file.word * 3, 1, 254, 4, 1, 0, len(file.data) + size
        )


@kind(FORMAT + "sub-images")
def sub_images_of_no_offsets(file):
    file.set(file.at[305], "H", 330)
    file.kind(305, 1)


# ---------------------------------------------------------------- texts


@kind(FORMAT + "DOCTYPE")
def doctype(file):
    at, _, _ = file.table(270)
    text = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
    file.data[at : at + len(text)] = text


@kind(LIMIT + "a text of 33,554,432 bytes")
def description_huge(file):
    file.count(270, 2**25)


# ---------------------------------------------------------------- the whole file


@kind(FORMAT + "not an image")
def empty(file):
    del file.data[:]


@kind(CUT + "are not a TIFF")
def cut_in_the_header(file):
    del file.data[6:]


@kind(CUT + "directory 0")
def cut_in_the_directory(file):
    del file.data[file.directory + 30 :]


@kind(CUT)
def cut_in_half(file):
    del file.data[len(file.data) // 2 :]


@kind(CUT + "1 of 9 tiles lie beyond the end of the file, tile 8")
def cut_by_a_byte(file):
    del file.data[file.tile(8).stop - 1 :]


@kind(FORMAT + "not an image that is known")
def magic_broken(file):
    file.data[2] ^= 0xFF


@kind(FORMAT + "not an image that is known")
def byte_order_broken(file):
    file.data[:2] = b"MM"


# ---------------------------------------------------------------- offset and byte count of one tile


@kind("fill", **each())
def offset_0(file, number):
    file.value(324, 0, number)


@kind("fill", **each())
def byte_count_0(file, number):
    file.value(325, 0, number)


@kind(CUT + "1 of 9 tiles lie beyond the end of the file", **each())
def offset_beyond_the_end(file, number):
    file.value(324, len(file.data), number)


@kind(CUT + "1 of 9 tiles lie beyond the end of the file", **each())
def byte_count_beyond_the_end(file, number):
    counts = [file.value(325, index=index) for index in range(9)]
    counts[number] = len(file.data)
    file.kind(325, 4)
    file.set(file.at[325] + file.inline, file.word, len(file.data))
    file.data += struct.pack(file.order + "9I", *counts)


@kind({"*": FORMAT + "begins within", "* first": FORMAT + "overlaps a table"}, **each())
def offset_in_the_header(file, number):
    file.value(324, 2, number)


@kind({"*": FORMAT + "begins within", "* first": FORMAT + "overlaps a table"}, **each())
def offset_in_the_directory(file, number):
    file.value(324, file.directory + 4, number)


@kind({"*": FORMAT + "begins within", "* last": CUT + "beyond the end"}, **each())
def offset_one_further(file, number):
    file.value(324, file.value(324, index=number) + 1, number)


@kind({"*": FORMAT + "begins within", "raw": "hash"}, **each())
def offset_of_another(file, number):
    file.value(324, file.value(324, index=(number + 1) % 9), number)


@kind("hash", **each())
def another_tile(file, number):
    for code in (324, 325):
        file.value(code, file.value(code, index=(number + 1) % 9), number)


# ---------------------------------------------------------------- bytes of one tile


RAW_SIZE = FORMAT + "does not fit its pixels"


@kind({"*": TILE_ERROR, "raw": RAW_SIZE, "lzw": "right", "deflate": "right"}, **each())
def one_byte_short(file, number):
    file.value(325, file.value(325, index=number) - 1, number)


@kind({"*": TILE_ERROR, "raw": RAW_SIZE}, **each())
def half_of_the_bytes(file, number):
    file.value(325, file.value(325, index=number) // 2, number)


@kind({"*": TILE_ERROR, "raw": "hash"}, **each())
def zeros(file, number):
    where = file.tile(number)
    file.data[where] = bytes(where.stop - where.start)


@kind({"*": TILE_ERROR, "raw": "hash"}, **each())
def zeros_at_the_end(file, number):
    where = file.tile(number)
    half = (where.stop - where.start) // 2
    file.data[where.stop - half : where.stop] = bytes(half)


@kind({"*": TILE_ERROR, "raw": "hash"}, **each())
def head_overwritten(file, number):
    start = file.tile(number).start
    file.data[start : start + 4] = b"\xff\x00\xff\x00"


@kind({"*": TILE_ERROR, "raw": "hash", "zstd": "hash", "jpeg2000": "hash"}, **each())
def bytes_overwritten(file, number):
    where = file.tile(number)
    at = where.start + (where.stop - where.start) * 2 // 5
    file.data[at : at + 200] = np.random.default_rng(number).bytes(200)


@kind({"*": TILE_ERROR, "raw": RAW_SIZE}, **each())
def smaller_tile(file, number):
    file.replace(number, encoded(file.codec, picture(16)))


@kind({"*": TILE_ERROR, "raw": RAW_SIZE}, **each())
def larger_tile(file, number):
    file.replace(number, encoded(file.codec, picture(64)))


@kind({"*": TILE_ERROR, "raw": RAW_SIZE}, **each())
def grey_tile(file, number):
    file.replace(number, encoded(file.codec, picture(32)[..., 0]))


@kind(TILE_ERROR, **each("lzw", "deflate", "zstd", "jpeg", "jpeg2000"))
def bomb(file, number):
    file.replace(number, bombs(file.codec))


@kind({"*": "right", "zstd": TILE_ERROR, "jpeg2000": TILE_ERROR}, **each())
def bytes_after_the_end(file, number):
    file.replace(number, bytes(file.data[file.tile(number)]) + b"garbage")


@kind({"*": TILE_ERROR, "raw": RAW_SIZE}, **each())
def text_instead(file, number):
    file.replace(number, b"<html><body>404 Not Found</body></html>")


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
        outcomes = KINDS[self.kind][1]
        keys = (f"{self.codec} {self.place}", self.codec, f"* {self.place}", "*")
        return next(outcomes[key] for key in keys if key in outcomes)

    @property
    def tile(self):
        """The number of the damaged tile, or None."""
        return None if self.place is None else PLACES[self.place]

    def data(self):
        """Return the bytes of the file."""
        file = File(self.codec, self.big)
        damage = KINDS[self.kind][0]
        damage(file) if self.place is None else damage(file, self.tile)
        return bytes(file.data)

    def checksum(self):
        """Return the SHA-256 of the file before it was damaged."""
        return hashlib.sha256(sound(self.codec, self.big)).hexdigest()


def cases():
    """Return every case."""
    return [
        Case(name, codec, big, place)
        for name, (_, _, codecs, places) in KINDS.items()
        for codec in codecs
        for big in (False, True)
        for place in places or (None,)
    ]
