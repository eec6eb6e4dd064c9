"""JPEG: simplejpeg gets only streams that it decodes safely; sizes of strips are checked."""

import io
import itertools
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from PIL import Image
from rw_fixtures import noise, one_line, smooth
from tiff_bytes import ROWS, coded, padded, pixels_of, strips, tags_of, tiff

import dask_slides as ds
from dask_slides.readers.codecs.jpeg import SimpleJpeg

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
    """Write lossless JPEG and its pixels; with `beside` two of three tiles are baseline."""
    pixels = np.ascontiguousarray(smooth(512, 384)[..., :samples])
    colours = {"colorspace": "rgb", "outcolorspace": "rgb"} if samples == 3 else {}
    height, width = (tile, tile) if tile else (128, 384)
    pieces, expected = [], np.empty_like(pixels)
    for number, (y, x) in enumerate(np.ndindex(512 // height, 384 // width)):
        where = np.s_[y * height : (y + 1) * height, x * width : (x + 1) * width]
        part = np.ascontiguousarray(pixels[where].squeeze())
        options = {} if beside and number % 3 != 1 else {"lossless": True}
        pieces.append(imagecodecs.jpeg8_encode(part, 95, **colours, **options))
        expected[where] = imagecodecs.jpeg8_decode(pieces[-1], **colours).reshape(
            height, width, samples
        )
    path.write_bytes(tiff(tags_of(pixels.shape, 7, 128, tile), pieces))
    np.testing.assert_array_equal(tifffile.imread(path).reshape(expected.shape), expected)
    np.save(f"{path}.npy", expected)


def test_lossless_jpeg_of_8_bits(tmp_path):
    """simplejpeg would crash: libjpeg-turbo writes a full tile into an array of 1/8 of it."""
    paths = []
    for samples, tile, beside in itertools.product((1, 3), (None, 128), (False, True)):
        paths.append(tmp_path / f"{samples} {tile} {beside}.tif")
        lossless(paths[-1], samples, tile, beside)
    done = subprocess.run(
        [sys.executable, "-c", READS, *map(str, paths)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def with_frame(stream, marker=None, bits=None, sampling=None):
    """Return a baseline stream whose frame header declares another kind."""
    data, at = bytearray(stream), 2
    while data[at + 1] not in (0xC0, 0xC2):
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    data[at + 1] = marker or data[at + 1]
    data[at + 4] = bits or data[at + 4]
    for number, factors in enumerate(sampling or ()):
        data[at + 11 + 3 * number] = factors
    return bytes(data)


def encoded(samples, **options):
    file = io.BytesIO()
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[samples]
    pixels = noise(32, 48, samples).squeeze()
    Image.fromarray(pixels, mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture
def decoded(monkeypatch):
    """Return the list of streams that simplejpeg decodes."""
    streams = []
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda data, *a, **k: streams.append(data))
    return streams


def test_simplejpeg_gets_only_huffman_coded_dct_frames_of_8_bits(decoded):
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
        for declared in (1, 2, 3, 4):
            SimpleJpeg(b"", declared)(encoded(samples))
            assert len(decoded) == (samples == declared)
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


def test_the_frame_of_each_stream_is_checked(decoded):
    """The check covers streams after the first one, and frames in the tables of the page."""
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
    with pytest.raises(ds.errors.TileDecodeError, match=f"SOF{marker - 0xC0}") as error:
        pixels_of(path)
    one_line(error)


@pytest.mark.parametrize("rows", [16, 11, 8])
def test_the_last_strip_may_have_more_rows_than_it_needs(tmp_path, rows):
    """An image of 40 rows has strips of 16, so the last strip needs 8."""
    path = tmp_path / "a.tif"
    pixels = coded()
    streams = []

    def encode(part):
        part = padded(part)[:rows] if len(part) < ROWS else part
        streams.append(imagecodecs.jpeg8_encode(part, 95))
        return streams[-1]

    strips(path, 7, pixels, encode)
    decoded = [imagecodecs.jpeg8_decode(one)
               for one in streams]  # fmt: skip
    np.testing.assert_array_equal(pixels_of(path), np.concatenate(decoded)[:40])


@pytest.mark.parametrize("rows", [7, 17, 40])
def test_strips_of_other_heights_are_refused(tmp_path, rows):
    path = tmp_path / "a.tif"
    pixels = coded()
    for number in (0, 2):  # the height of the last strip is checked too
        count = itertools.count()
        strips(path, 7, pixels, lambda part, count=count, number=number: imagecodecs.jpeg8_encode(
            pixels[:rows].copy() if next(count) == number else part, 95))  # fmt: skip
        with pytest.raises(ds.errors.TileDecodeError, match="where the page says") as error:
            pixels_of(path)
        one_line(error)


@pytest.mark.parametrize("layout", [{}, {"tile": 16}])
def test_planes_with_photometric_rgb_are_grey(tmp_path, layout):
    """GDAL writes such planes with interleave=band: one component, no JFIF header."""
    path = tmp_path / "a.tif"
    pixels = coded()[:32]
    side = layout.get("tile", 48)
    pieces, expected = [], np.empty_like(pixels)
    for plane in range(3):
        for y, x in itertools.product(range(0, 32, 16), range(0, 48, side)):
            where = np.s_[y : y + 16, x : x + side, plane]
            piece = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels[where]), 95)
            at = 4 + int.from_bytes(piece[4:6]) if piece[2:4] == b"\xff\xe0" else 2
            pieces.append(piece[:2] + piece[at:])
            expected[where] = imagecodecs.jpeg8_decode(piece)
    tags = tags_of(pixels.shape, 7, 16, **layout) | {284: (3, [2])}
    path.write_bytes(tiff(tags, pieces))
    np.testing.assert_array_equal(pixels_of(path), expected)
