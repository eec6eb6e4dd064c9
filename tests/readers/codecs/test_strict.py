"""Decoders get only what they are made for; what libtiff reads without a warning is read.

The files are made here, byte by byte where no library writes them. That libtiff (GDAL, libvips
with fail_on="warning") reads the sound ones alike was tried when they were written.
"""

import io
import itertools
import logging
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rw_fixtures import noise, one_line, smooth
from tiff_bytes import ROWS, lzw_codes, packed, padded, tags_of, tiff

import dask_slides as ds
from dask_slides.readers.codecs import image_codecs
from dask_slides.readers.codecs.jpeg import SimpleJpeg


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
    with pytest.raises(ds.errors.TileDecodeError, match=f"SOF{marker - 0xC0}") as error:
        pixels_of(path)
    one_line(error)


# ---------------------------------------------------------------- CCITT


def bilevel(height, width, seed=0):
    """Return an image (h, w) of 0 and 255 with runs of many lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice([1, 2, 3, 9, 64, 65, 200, 3000], height * width // 8 + 1)
    runs = np.repeat(np.arange(len(lengths)) % 2, lengths)[: height * width // 4]
    image = runs[np.arange(height * width) % len(runs)].reshape(height, width)
    image[height // 3 : height // 2] = image[height // 3]
    return (image * 255).astype(np.uint8)


FAXES = {
    "modified Huffman": ("tiff_ccitt", {}),
    "group 3": ("group3", {}),
    "group 3, two dimensions": ("group3", {292: 1}),
    "group 3, whole bytes": ("group3", {292: 4}),
    "group 3, both": ("group3", {292: 5}),
    "group 4": ("group4", {}),
}


def fax_strips(path, pixels, kind, rows, change=bytes, tile=None, more=()):
    """Write strips (or one tile column) that libtiff encodes, each of them as changed."""
    compression, info = FAXES[kind]
    pieces = []
    for y in range(0, len(pixels), rows):
        file = io.BytesIO()
        part = Image.fromarray(pixels[y : y + rows]).convert("1")
        part.save(file, "TIFF", compression=compression, tiffinfo=info)
        file.seek(0)
        with tifffile.TiffFile(file) as one:
            page = one.pages[0]
            assert len(page.dataoffsets) == 1
            tags = {code: (3, [int(page.tags.valueof(code))]) for code in (259, 262)}
            if 292 in page.tags:
                tags[292] = (4, [page.tags.valueof(292)])
            one.filehandle.seek(page.dataoffsets[0])
            pieces.append(change(one.filehandle.read(page.databytecounts[0])))
    whole = tags_of((*pixels.shape, 1), 4, rows, tile, bits=1) | tags | dict(more)
    path.write_bytes(tiff(whole, pieces))


@pytest.mark.parametrize("kind", FAXES)
@pytest.mark.parametrize("size", [(40, 50), (33, 7), (17, 2600)], ids=str)
def test_ccitt_is_what_was_written(tmp_path, kind, size):
    path = tmp_path / "a.tif"
    pixels = bilevel(*size)
    for rows in (size[0], 16):
        fax_strips(path, pixels, kind, rows)
        np.testing.assert_array_equal(pixels_of(path)[..., 0], pixels)
        np.testing.assert_array_equal(np.asarray(Image.open(path).convert("L")), pixels)
    swapped = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
    fax_strips(path, pixels, kind, 16, lambda data: data.translate(swapped), more={266: (3, [2])})
    np.testing.assert_array_equal(pixels_of(path)[..., 0], pixels)


@pytest.mark.parametrize("kind", ["group 3", "group 4"])
def test_ccitt_tiles(tmp_path, kind):
    path = tmp_path / "a.tif"
    pixels = bilevel(64, 32)
    fax_strips(path, pixels, kind, 32, tile=32)
    np.testing.assert_array_equal(pixels_of(path)[..., 0], pixels)
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.read(30, 3, 8, 20)[..., 0], pixels[30:38, 3:23])


def test_ccitt_planes(tmp_path):
    path = tmp_path / "a.tif"
    planes = [bilevel(24, 40, seed) for seed in range(3)]
    fax_strips(path, np.concatenate(planes), "group 4", 24,
               more={257: (4, [24]), 277: (3, [3]), 284: (3, [2]), 258: (3, [1] * 3),
                     262: (3, [1])})  # fmt: skip
    with tifffile.TiffFile(path) as tiff_:
        raw = tiff_.asarray()
    np.testing.assert_array_equal(pixels_of(path), np.moveaxis(raw * np.uint8(255), 0, -1))


def cut(data):
    return data[: len(data) // 2]


def zeroed(data):
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


@pytest.mark.parametrize("kind", FAXES)
@pytest.mark.parametrize("change", [cut, zeroed, lambda data: b"", lambda data: data[5:]])
def test_ccitt_that_is_not_whole_is_refused(tmp_path, kind, change):
    path = tmp_path / "a.tif"
    pixels = bilevel(60, 70)
    count = itertools.count()
    fax_strips(path, pixels, kind, 20, lambda data: change(data) if next(count) == 1 else data)
    if not change(b"long enough"):
        assert (pixels_of(path)[20:40] == 0).all()  # a strip of no bytes is absent
        return
    with pytest.raises(ds.errors.TileDecodeError, match="CCITT") as error:
        pixels_of(path)
    one_line(error)
    assert error.value.y == 20
    np.testing.assert_array_equal(ds.open_slide(path).read(40, 0, 20, 70)[..., 0], pixels[40:])


@settings(deadline=None, max_examples=150)
@given(kind=st.sampled_from(list(FAXES)), seed=st.integers(0, 2**32 - 1))
def test_damaged_ccitt_is_refused_or_read_as_libtiff_reads_it(tmp_path_factory, kind, seed):
    path = tmp_path_factory.getbasetemp() / "fax.tif"
    rng = np.random.default_rng(seed)

    def change(data):
        data = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        return bytes(data)

    fax_strips(path, bilevel(40, 50, seed % 7), kind, 40, change)
    try:
        found = pixels_of(path)
    except ds.errors.TileDecodeError as error:
        assert "CCITT" in str(error)
    else:
        np.testing.assert_array_equal(found[..., 0], np.asarray(Image.open(path).convert("L")))


def test_ccitt_is_not_read_where_libtiff_cannot_be_heard(tmp_path, monkeypatch):
    """A record of the logger of imagecodecs is all that tells of a damaged strip."""
    path = tmp_path / "a.tif"
    fax_strips(path, bilevel(40, 50), "group 4", 20)
    logger = logging.getLogger("imagecodecs")
    monkeypatch.setattr(logger, "disabled", True)
    with pytest.raises(ds.errors.TileDecodeError, match="logger 'imagecodecs'") as error:
        pixels_of(path)
    one_line(error)


def test_what_others_log_meanwhile_is_logged(tmp_path, caplog):
    path = tmp_path / "a.tif"
    fax_strips(path, bilevel(40, 50), "group 4", 20, cut)
    with pytest.raises(ds.errors.TileDecodeError):
        pixels_of(path)
    logging.getLogger("imagecodecs").warning("of somebody else")
    assert [record.message for record in caplog.records] == ["of somebody else"]


@pytest.mark.parametrize("level", [logging.ERROR, logging.CRITICAL])
def test_ccitt_is_read_whatever_is_logged(tmp_path, caplog, monkeypatch, level):
    """What many programs do not want to hear: not the root logger, not this one."""
    sound, damaged = tmp_path / "a.tif", tmp_path / "b.tif"
    pixels = bilevel(40, 50)
    fax_strips(sound, pixels, "group 4", 20)
    fax_strips(damaged, pixels, "group 4", 20, cut)
    logger = logging.getLogger("imagecodecs")
    for name in (None, "imagecodecs"):
        with caplog.at_level(level, logger=name):
            before = logger.level
            np.testing.assert_array_equal(pixels_of(sound)[..., 0], pixels)
            assert logger.level == before
            with pytest.raises(ds.errors.TileDecodeError, match="CCITT stream"):
                pixels_of(damaged)
            assert logger.level == before
    assert not caplog.records


@pytest.mark.parametrize("own", [logging.NOTSET, logging.DEBUG, logging.ERROR])
@pytest.mark.parametrize("above", [logging.DEBUG, logging.WARNING, logging.ERROR])
def test_others_hear_no_more_and_no_less_while_ccitt_is_read(
    tmp_path, caplog, monkeypatch, own, above
):
    path = tmp_path / "a.tif"
    fax_strips(path, bilevel(40, 50), "group 4", 20)
    logger = logging.getLogger("imagecodecs")
    decode = imagecodecs.tiff_decode
    levels = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR]

    def speak():
        for level in levels:
            logger.log(level, "of somebody else")

    def meanwhile(*args, **options):
        other = threading.Thread(target=speak)
        other.start()
        other.join()
        return decode(*args, **options)

    with caplog.at_level(above), caplog.at_level(own, logger="imagecodecs"):
        speak()
        expected = [record.levelno for record in caplog.records]
        caplog.clear()
        monkeypatch.setattr(imagecodecs, "tiff_decode", meanwhile)
        pixels_of(path)
        assert [record.levelno for record in caplog.records] == expected * 2  # of two strips


def test_threads_that_read_ccitt_leave_the_level_as_it_was(tmp_path, caplog):
    path = tmp_path / "a.tif"
    pixels = bilevel(40, 50)
    fax_strips(path, pixels, "group 4", 4)
    logger = logging.getLogger("imagecodecs")
    with caplog.at_level(logging.CRITICAL):
        slide = ds.open_slide(path)
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(lambda _: slide.read(0, 0, 40, 50), range(40)):
                np.testing.assert_array_equal(found[..., 0], pixels)
    assert logger.level == logging.NOTSET


def test_ccitt_is_refused_where_all_logging_is_switched_off(tmp_path):
    path = tmp_path / "a.tif"
    fax_strips(path, bilevel(40, 50), "group 4", 20)
    logging.disable(logging.WARNING)
    try:
        with pytest.raises(ds.errors.TileDecodeError, match="logger 'imagecodecs'"):
            pixels_of(path)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("samples, bits", [(3, 1), (2, 1), (1, 8)])
@pytest.mark.parametrize("code", [2, 3, 4])
def test_ccitt_of_more_than_a_bit_a_pixel_is_refused(tmp_path, code, samples, bits):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(tags_of((16, 16, samples), code, bits=bits), [b"\0\1" * 40]))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="one bit a pixel") as error:
        ds.open_slide(path)
    one_line(error)
    with pytest.raises(Exception), Image.open(path) as image:  # noqa: B017
        image.load()


# ---------------------------------------------------------------- sound, however it ends


BYTES = {
    "raw": (1, bytes),
    "lzw": (5, imagecodecs.lzw_encode),
    "deflate": (8, zlib.compress),
    "packbits": (32773, imagecodecs.packbits_encode),
    "zstd": (50000, imagecodecs.zstd_encode),
    "lzma": (34925, imagecodecs.lzma_encode),
}


def coded(samples=3):
    """Return pixels (40, 48, c) that no codec makes small."""
    return smooth(40, 48)[..., :samples] // 2 + noise(40, 48, samples) // 4


def strips(path, code, pixels, encode, **tags):
    parts = [np.ascontiguousarray(pixels[y : y + ROWS]) for y in range(0, len(pixels), ROWS)]
    whole = tags_of(pixels.shape, code, ROWS, **tags)
    path.write_bytes(tiff(whole, [bytes(encode(part)) for part in parts]))


@pytest.mark.parametrize("codec", BYTES)
@pytest.mark.parametrize(
    "more", [b"x", b"\0\0\0", bytes(600), b"some other bytes", b"row of three strips " * 40]
)  # fmt: skip
def test_bytes_beyond_the_last_row_are_left_out(tmp_path, codec, more):
    """They lie in the stream of each strip, as writers that fill whole words or sectors do."""
    path = tmp_path / "a.tif"
    code, encode = BYTES[codec]
    pixels = coded()
    strips(path, code, pixels, lambda part: encode(part.tobytes() + more))
    np.testing.assert_array_equal(pixels_of(path), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    strips(path, code, pixels, lambda part: encode(padded(part).tobytes()))
    np.testing.assert_array_equal(pixels_of(path), pixels)


@pytest.mark.parametrize("codec", ["lzw", "deflate", "packbits", "jpeg", "raw"])
@pytest.mark.parametrize("more", [b"\0", bytes(5), bytes(600), b"a", b"\x80\0", b"behind its end"])
def test_bytes_behind_a_stream_are_left_out(tmp_path, codec, more):
    path = tmp_path / "a.tif"
    pixels = coded()
    if codec == "jpeg":
        strips(path, 7, pixels, lambda part: imagecodecs.jpeg8_encode(part, 95))
        expected = tifffile.imread(path)
        strips(path, 7, pixels, lambda part: imagecodecs.jpeg8_encode(part, 95) + more)
    else:
        code, encode = BYTES[codec]
        expected = pixels
        strips(path, code, pixels, lambda part: bytes(encode(part.tobytes())) + more)
    np.testing.assert_array_equal(pixels_of(path), expected)


@pytest.mark.parametrize("codec", ["raw", "lzw", "packbits"])
@pytest.mark.parametrize("less", [4, 5, 20])
def test_a_strip_that_lacks_bytes_is_refused(tmp_path, codec, less):
    path = tmp_path / "a.tif"
    code, encode = BYTES[codec]
    strips(path, code, coded(), lambda part: bytes(encode(part.tobytes()))[:-less])
    with pytest.raises(ds.SlideError) as error:
        pixels_of(path)
    one_line(error)


@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("code", [8, 32946])
def test_deflate_without_its_last_bytes_is_read_if_nothing_is_missing(tmp_path, code, tile):
    """libtiff looks at no byte behind the last that it needs: not at the checksum, for one."""
    path = tmp_path / "a.tif"
    pixels = coded()
    height, width = (tile, tile) if tile else (ROWS, 48)
    parts = [
        zlib.compress(np.ascontiguousarray(pixels[y : y + height, x : x + width]).tobytes())
        for y in range(0, 32, height)
        for x in range(0, 48, width)
    ]
    read = 0
    for less in range(1, 24):
        whole = tags_of((32, 48, 3), code, ROWS, tile)
        path.write_bytes(tiff(whole, [*parts[:-1], parts[-1][:-less]]))
        found = zlib.decompressobj().decompress(parts[-1][:-less])
        if len(found) == height * width * 3:
            np.testing.assert_array_equal(pixels_of(path), pixels[:32])
            with Image.open(path) as image:
                np.testing.assert_array_equal(np.asarray(image), pixels[:32])
            read += 1
        else:
            with pytest.raises(ds.errors.TileDecodeError) as error:
                pixels_of(path)
            one_line(error)
    assert 4 <= read < 23


@pytest.mark.parametrize("more", [b"", b"one row more" * 12])
def test_deflate_of_a_wrong_checksum_is_refused(tmp_path, more):
    path = tmp_path / "a.tif"
    pixels = coded()

    def encode(part):
        data = bytearray(zlib.compress(part.tobytes() + more))
        data[-1] ^= 1
        return data

    strips(path, 8, pixels, encode)
    with pytest.raises(ds.errors.TileDecodeError) as error:
        pixels_of(path)
    one_line(error)


@pytest.mark.parametrize("less", [5, 8])
def test_deflate_without_its_end_of_more_bytes_than_are_needed_is_refused(tmp_path, less):
    """They are those of another image, or of what was damaged before: zeros are codes too."""
    path = tmp_path / "a.tif"
    strips(path, 8, coded(), lambda part: zlib.compress(part.tobytes() + bytes(300))[:-less])
    with pytest.raises(ds.errors.TileDecodeError) as error:
        pixels_of(path)
    one_line(error)


@pytest.mark.parametrize("code", [32809, 32908, 34676, 65000])
def test_a_codec_that_is_not_read_is_named_plainly(tmp_path, code):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(tags_of((16, 16, 3), code), [b"some bytes"]))
    with pytest.raises(ds.errors.SlideUnsupportedError) as error:
        ds.open_slide(path)
    assert not set("<>") & set(one_line(error))


@pytest.mark.parametrize("tile", [None, 32], ids=["strips", "tiles"])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), more=st.integers(-2, 3))
def test_lzw_without_its_end_is_read_if_nothing_is_missing(tmp_path_factory, tile, seed, more):
    """Whole codes, a few too many or some too few; no code for the end of the stream."""
    path = tmp_path_factory.getbasetemp() / "lzw.tif"
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, rng.integers(2, 256), (32, 32, 1)).astype(np.uint8)
    codes = lzw_codes(imagecodecs.lzw_encode(pixels.tobytes()))[:-1]
    width = codes[-1][1]
    codes = codes[:more] if more < 0 else codes + [(int(rng.integers(256)), width)] * more
    stream = packed(codes)
    path.write_bytes(tiff(tags_of(pixels.shape, 5, 32, tile), [stream]))
    if more >= 0 and not stream.endswith(b"\0\0"):
        np.testing.assert_array_equal(pixels_of(path), pixels)
    else:
        with pytest.raises(ds.errors.TileDecodeError, match=r"no end|holds") as error:
            pixels_of(path)
        one_line(error)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), less=st.integers(1, 9))
def test_lzw_cut_anywhere_is_read_only_if_nothing_is_missing(tmp_path_factory, seed, less):
    path = tmp_path_factory.getbasetemp() / "cut.tif"
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, rng.integers(2, 256), (16, 32, 1)).astype(np.uint8)
    stream = imagecodecs.lzw_encode(pixels.tobytes())
    codes = lzw_codes(stream)
    path.write_bytes(tiff(tags_of(pixels.shape, 5), [stream[:-less]]))
    there = 8 * (len(stream) - less)
    if there >= sum(width for _, width in codes[:-1]):
        try:
            np.testing.assert_array_equal(pixels_of(path), pixels)
        except ds.errors.TileDecodeError:  # two bytes of zeros may be a hole of the file system
            assert stream[:-less].endswith(b"\0\0")
    else:
        with pytest.raises(ds.errors.TileDecodeError, match=r"no end|holds"):
            pixels_of(path)


@pytest.mark.parametrize("rows", [16, 11, 8])
def test_a_last_jpeg_strip_of_more_rows_than_are_needed(tmp_path, rows):
    """40 rows in strips of 16: the last one needs 8."""
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
def test_other_jpeg_strips_are_refused(tmp_path, rows):
    path = tmp_path / "a.tif"
    pixels = coded()
    for place in (0, 2):  # too few and far too many are no last strip either
        count = itertools.count()
        strips(path, 7, pixels, lambda part, count=count, place=place: imagecodecs.jpeg8_encode(
            pixels[:rows].copy() if next(count) == place else part, 95))  # fmt: skip
        with pytest.raises(ds.errors.TileDecodeError, match="where the page says") as error:
            pixels_of(path)
        one_line(error)


@pytest.mark.parametrize("layout", [{}, {"tile": 16}])
def test_planes_of_jpeg_that_are_called_rgb(tmp_path, layout):
    """As GDAL writes them with interleave=band: no JFIF header, one component, photometric RGB."""
    path = tmp_path / "a.tif"
    pixels = coded()[:32]
    side = layout.get("tile", 48)
    pieces, expected = [], np.empty_like(pixels)
    for plane in range(3):
        for y, x in itertools.product(range(0, 32, 16), range(0, 48, side)):
            place = np.s_[y : y + 16, x : x + side, plane]
            piece = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels[place]), 95)
            at = 4 + int.from_bytes(piece[4:6]) if piece[2:4] == b"\xff\xe0" else 2
            pieces.append(piece[:2] + piece[at:])
            expected[place] = imagecodecs.jpeg8_decode(piece)
    tags = tags_of(pixels.shape, 7, 16, **layout) | {284: (3, [2])}
    path.write_bytes(tiff(tags, pieces))
    np.testing.assert_array_equal(pixels_of(path), expected)


@pytest.mark.parametrize("packing", [None, "deflate", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_lerc_is_read_however_it_is_packed(tmp_path, packing, dtype):
    path = tmp_path / "a.tif"
    pixels = (coded(1)[..., 0] * 1.5).astype(dtype)
    tifffile.imwrite(path, pixels, compression="lerc", tile=(16, 16), metadata=None,
                     compressionargs={"compression": packing} if packing else None)  # fmt: skip
    with tifffile.TiffFile(path) as one:
        assert one.pages[0].tags[50674].value[1] == {None: 0, "deflate": 1, "zstd": 2}[packing]
    np.testing.assert_array_equal(pixels_of(path)[..., 0], pixels)


def test_lerc_that_is_packed_in_an_unknown_way_or_a_bomb(tmp_path):
    path = tmp_path / "a.tif"
    tags = tags_of((16, 16, 1), 34887)
    blob = imagecodecs.lerc_encode(np.zeros((16, 16), np.uint8))
    for packing, stream, reason in (
        (1, zlib.compress(blob), None),
        (7, zlib.compress(blob), "unknown way 7"),
        (1, zlib.compress(bytes(2**22)), "cannot be decoded"),
        (2, imagecodecs.zstd_encode(bytes(2**22)), "cannot be decoded"),
        (1, zlib.compress(blob)[:-9], "cannot be decoded"),
    ):
        path.write_bytes(tiff(tags | {50674: (4, [4, packing])}, [stream]))
        if reason is None:
            assert not pixels_of(path).any()
            continue
        with pytest.raises(ds.errors.TileDecodeError, match=reason) as error:
            pixels_of(path)
        one_line(error)


@pytest.mark.parametrize("code", [1, 5, 7, 8])
@pytest.mark.parametrize("layout", [{"rows": 16}, {"tile": 16}], ids=str)
def test_one_offset_of_0_for_all_tiles_is_a_page_of_absent_tiles(tmp_path, code, layout):
    """libtiff reads zeros without a warning; here they are absent tiles of the fill."""
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(tags_of((40, 48, 3), code, **layout), [b""]))
    for tag in (324, 325) if "tile" in layout else (273, 279):
        with tifffile.TiffFile(path, mode="r+") as one:
            one.pages[0].tags[tag].overwrite(0)
    slide = ds.open_slide(path)
    assert (slide.read(0, 0, 40, 48) == 255).all()
    assert (slide.read(10, 10, 5, 5) == 255).all()
    assert {tile.status for tile in slide.bad_tiles()} == {"absent"}
    assert sum(tile.height * tile.width for tile in slide.bad_tiles()) == 40 * 48
    assert ds.resize(slide, downsample=4).data.compute().min() == 255


ENCODED = {
    7: lambda part: imagecodecs.jpeg8_encode(part, 95),
    34712: imagecodecs.jpeg2k_encode,
    34887: imagecodecs.lerc_encode,
    50001: lambda part: imagecodecs.webp_encode(part, lossless=True),
    50002: lambda part: imagecodecs.jpegxl_encode(part, lossless=True),
    34933: imagecodecs.png_encode,
}


@pytest.mark.parametrize("code", ENCODED)
@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("a bit", {258: (3, [1] * 3)}),
        ("16 bits", {258: (3, [16] * 3)}),
        ("two samples", {258: (3, [8] * 2), 277: (3, [2]), 262: (3, [1])}),
        ("four samples", {258: (3, [8] * 4), 277: (3, [4]), 338: (3, [0])}),
        ("floats", {258: (3, [32] * 3), 339: (3, [3] * 3)}),
    ],
)
def test_streams_of_other_samples_than_the_page_says_are_refused(tmp_path, code, name, tags):
    """3 samples of 8 bits; strips of 12 rows are whole rows of 2 and 4 samples too."""
    path = tmp_path / "a.tif"
    pixels = coded()[:12]
    path.write_bytes(tiff(tags_of(pixels.shape, code), [ENCODED[code](pixels)]))
    right = pixels_of(path)
    if code != 7:
        np.testing.assert_array_equal(right, pixels)
    path.write_bytes(tiff(tags_of(pixels.shape, code) | tags, [ENCODED[code](pixels)]))
    if name == "four samples" and code == 50001:  # libwebp leaves alpha out that is 255
        np.testing.assert_array_equal(pixels_of(path)[..., :3], pixels)
        return
    if name == "a bit" and code == 50002:
        pytest.skip("JPEG XL does not tell before it is decoded")
    errors = (ds.errors.TileDecodeError, ds.errors.SlideUnsupportedError)
    with pytest.raises(errors, match=r"where the page says|decoder keeps 24") as error:
        pixels_of(path)
    one_line(error)


@pytest.mark.parametrize("code", [1, 32773, 34887])
def test_a_predictor_of_a_codec_without_one_is_refused(tmp_path, code):
    """libtiff does not look at it, tifffile applies it: two pictures."""
    path = tmp_path / "a.tif"
    pixels = coded()
    encode = dict(BYTES.values()).get(code, bytes)
    piece = imagecodecs.lerc_encode(pixels) if code == 34887 else encode(pixels.tobytes())
    path.write_bytes(tiff(tags_of(pixels.shape, code) | {317: (3, [1])}, [piece]))
    np.testing.assert_array_equal(pixels_of(path), pixels)
    path.write_bytes(tiff(tags_of(pixels.shape, code) | {317: (3, [2])}, [piece]))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="predictor") as error:
        ds.open_slide(path)
    one_line(error)


def test_the_predictor_of_floats_for_integers_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    piece = zlib.compress(coded().tobytes())
    path.write_bytes(tiff(tags_of((40, 48, 3), 8) | {317: (3, [3])}, [piece]))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="predictor 3") as error:
        ds.open_slide(path)
    one_line(error)


def test_yuyv_of_aperio_is_refused_by_name(tmp_path):
    path = tmp_path / "a.tif"
    raw = noise(16, 16, 2).tobytes()
    text = b"Aperio GT450 v1.0\0"
    path.write_bytes(tiff(tags_of((16, 16, 3), 33007, tile=16) | {270: (2, list(text))}, [raw]))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="YUYV") as error:
        ds.open_slide(path)
    one_line(error)
    jpeg = imagecodecs.jpeg8_encode(coded()[:16, :16].copy(), 95)
    path.write_bytes(tiff(tags_of((16, 16, 3), 33007, tile=16), [jpeg]))
    np.testing.assert_array_equal(pixels_of(path), tifffile.imread(path))


@pytest.mark.parametrize(
    "error", [KeyError(34), IndexError("tuple index out of range"), TypeError("a bytes-like"),
              struct.error("unpack requires"), ZeroDivisionError("division by zero")],
    ids=repr,
)  # fmt: skip
def test_an_error_of_python_is_no_reason(tmp_path, monkeypatch, error):
    """A library that trips over a damaged file says something about its own code."""
    path = tmp_path / "a.tif"
    pixels = coded()
    strips(path, 34712, pixels, imagecodecs.jpeg2k_encode)
    slide = ds.open_slide(path)

    def trip(*args, **options):
        raise error

    monkeypatch.setattr(image_codecs, "bytes_of_samples", trip)
    with pytest.raises(ds.errors.TileDecodeError, match="contradict each other") as caught:
        slide.read(0, 0, 40, 48)
    assert str(error) not in one_line(caught)
    monkeypatch.undo()
    monkeypatch.setattr(tifffile.TiffFile, "series", property(trip))
    with pytest.raises(ds.errors.SlideFormatError, match="not a TIFF that can be read") as caught:
        ds.open_slide(path)
    assert str(error) not in one_line(caught)
