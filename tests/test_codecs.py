"""What decoders were not made for does not reach them; what libtiff reads without a warning is read.

The files are made here, byte by byte where no library writes them. That libtiff (GDAL, libvips
with fail_on="warning") reads the sound ones alike was tried when they were written.
"""

import io
import itertools
import logging
import struct
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rw_fixtures import noise, one_line, patch_tag, segments, smooth

import dask_slides as ds
from dask_slides.readers import fax
from dask_slides.readers.jpeg import SimpleJpeg
from dask_slides.readers.strict import strict_decode

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


def pixels_of(path):
    slide = ds.open_slide(path)
    return slide.read(0, 0, *slide.shape[:2])


# ---------------------------------------------------------------- JPEG that simplejpeg is not for


READS = """
import sys
import numpy as np
import dask_slides as ds
for path in sys.argv[1:]:
    slide = ds.open_slide(path)
    found = slide.read(0, 0, *slide.shape[:2])
    np.testing.assert_array_equal(found, np.load(path + ".npy"), path)
    assert ds.resize(slide, downsample=8).data.compute().shape[:2] == (64, 48)
"""


def lossless(path, samples, tile, beside):
    """Write lossless JPEG and what it holds; with `beside` two of three tiles are baseline."""
    pixels = np.ascontiguousarray(smooth(512, 384)[..., :samples])
    colours = {"colorspace": "rgb", "outcolorspace": "rgb"} if samples == 3 else {}
    height, width = (tile, tile) if tile else (128, 384)
    pieces, expected = [], np.empty_like(pixels)
    for number, (y, x) in enumerate(np.ndindex(512 // height, 384 // width)):
        place = np.s_[y * height : (y + 1) * height, x * width : (x + 1) * width]
        part = np.ascontiguousarray(pixels[place].squeeze())
        how = {} if beside and number % 3 != 1 else {"lossless": True}
        pieces.append(imagecodecs.jpeg8_encode(part, 95, **colours, **how))
        expected[place] = imagecodecs.jpeg8_decode(pieces[-1], **colours).reshape(
            height, width, samples
        )
    path.write_bytes(tiff(tags_of(pixels.shape, 7, 128, tile), pieces))
    np.testing.assert_array_equal(tifffile.imread(path).reshape(expected.shape), expected)
    np.save(f"{path}.npy", expected)


def test_lossless_jpeg_of_8_bits(tmp_path):
    """simplejpeg makes room for 1/8 of it, and libjpeg-turbo fills it with all: a crash."""
    paths = []
    for samples, tile, beside in itertools.product((1, 3), (None, 128), (False, True)):
        paths.append(tmp_path / f"{samples} {tile} {beside}.tif")
        lossless(paths[-1], samples, tile, beside)
    done = subprocess.run(
        [sys.executable, "-c", READS, *map(str, paths)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def with_frame(stream, marker=None, bits=None, sampling=None):
    """Return a baseline stream whose frame header says something else."""
    data, at = bytearray(stream), 2
    while data[at + 1] not in (0xC0, 0xC2):
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    data[at + 1] = marker or data[at + 1]
    data[at + 4] = bits or data[at + 4]
    for number, factors in enumerate(sampling or ()):
        data[at + 11 + 3 * number] = factors
    return bytes(data)


def encoded(samples, **how):
    file = io.BytesIO()
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[samples]
    pixels = noise(32, 48, samples).squeeze()
    Image.fromarray(pixels, mode).save(file, "JPEG", **how)
    return file.getvalue()


@pytest.fixture
def decoded(monkeypatch):
    """The streams that simplejpeg is asked to decode."""
    streams = []
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda data, *a, **k: streams.append(data))
    return streams


def test_only_huffman_coded_dct_frames_of_8_bits_reach_simplejpeg(decoded):
    stream = encoded(3)
    for marker in range(0xC0, 0xD0):
        before = len(decoded)
        try:
            SimpleJpeg(b"", 3)(with_frame(stream, marker))
        except ValueError as error:
            assert marker in (0xC4, 0xC8, 0xCC), one_line(error)  # no frames
        assert (len(decoded) > before) == (marker in (0xC0, 0xC1, 0xC2))
    decoded.clear()
    for samples in (1, 3, 4):
        for asked in (1, 2, 3, 4):
            SimpleJpeg(b"", asked)(encoded(samples))
            assert len(decoded) == (samples == asked)
            decoded.clear()
    SimpleJpeg(b"", 3)(with_frame(stream, bits=12))
    for sampling in ((0x22, 0x22, 0x22), (0x22, 0x21, 0x11), (0x11, 0x22, 0x11),
                     (0x44, 0x11, 0x11), (0x31, 0x11, 0x11), (0x01, 0x11, 0x11)):  # fmt: skip
        SimpleJpeg(b"", 3)(with_frame(stream, sampling=sampling))
    assert not decoded
    for sampling in (0, 1, 2):  # 4:4:4, 4:2:2, 4:2:0
        SimpleJpeg(b"", 3)(encoded(3, subsampling=sampling))
    SimpleJpeg(b"", 3)(encoded(3, progressive=True))
    SimpleJpeg(b"", 1)(with_frame(encoded(1), sampling=(0x22,)))
    assert len(decoded) == 5


def test_each_stream_is_looked_at(decoded):
    """Not only the first one of a page; and what the tables of the page say counts too."""
    stream, other = encoded(3), with_frame(encoded(3), 0xC3)
    decode = SimpleJpeg(b"", 3)
    for data in (stream, other, stream, memoryview(other)):
        decode(data)
    assert decoded == [stream, stream]
    decoded.clear()
    frame = other[: other.index(b"\xff\xda")]
    for hidden in (
        frame,  # tables with a frame of their own
        b"\xff\xd8\xff\x01\xff\xc3" + stream[2:],  # a marker that is no segment
        b"\xff\xd8\xff\xd0" + other[2:],
        b"\xff\xd8\xff\xfe\0\0" + other[2:],  # a segment of no bytes
    ):
        for data in (hidden, hidden + stream[2:]):
            try:
                SimpleJpeg(b"", 3)(data)
            except ValueError as error:
                one_line(error)
    assert not decoded


@pytest.mark.parametrize("marker", [0xC5, 0xC6, 0xC9, 0xCA, 0xCB, 0xCD])
def test_jpeg_of_other_kinds_is_refused_by_name(tmp_path, marker):
    path = tmp_path / "a.tif"
    stream = with_frame(encoded(3), marker)
    path.write_bytes(tiff(tags_of((32, 48, 3), 7), [stream]))
    with pytest.raises(ds.TileDecodeError, match=f"SOF{marker - 0xC0}") as error:
        pixels_of(path)
    one_line(error)
