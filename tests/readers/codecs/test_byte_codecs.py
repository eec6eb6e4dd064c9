"""LZW, deflate, PackBits and others: streams may end in any way behind the last byte needed.

Files that no library writes are built byte by byte. GDAL, and libvips with fail_on="warning", read
the same pixels from those that are not damaged.
"""

import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rw_fixtures import one_line
from tiff_bytes import ROWS, coded, lzw_codes, packed, padded, pixels_of, strips, tags_of, tiff

import dask_slides as ds

BYTES = {
    "raw": (1, bytes),
    "lzw": (5, imagecodecs.lzw_encode),
    "deflate": (8, zlib.compress),
    "packbits": (32773, imagecodecs.packbits_encode),
    "zstd": (50000, imagecodecs.zstd_encode),
    "lzma": (34925, imagecodecs.lzma_encode),
}


@pytest.mark.parametrize("codec", BYTES)
@pytest.mark.parametrize(
    "more", [b"x", b"\0\0\0", bytes(600), b"some other bytes", b"row of three strips " * 40]
)  # fmt: skip
def test_bytes_beyond_the_last_row_are_left_out(tmp_path, codec, more):
    """Some writers pad the stream of each strip to whole words or disk sectors."""
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
    """libtiff ignores bytes behind the last one that it needs, such as the checksum."""
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
def test_deflate_without_its_end_that_holds_more_than_the_tile_is_refused(tmp_path, less):
    """The bytes may belong to another image, or the stream was overwritten with zeros."""
    path = tmp_path / "a.tif"
    strips(path, 8, coded(), lambda part: zlib.compress(part.tobytes() + bytes(300))[:-less])
    with pytest.raises(ds.errors.TileDecodeError) as error:
        pixels_of(path)
    one_line(error)


@pytest.mark.parametrize("code", [32809, 32908, 34676, 65000])
def test_unsupported_codecs_are_named(tmp_path, code):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(tags_of((16, 16, 3), code), [b"some bytes"]))
    with pytest.raises(ds.errors.SlideUnsupportedError) as error:
        ds.open_slide(path)
    assert not set("<>") & set(one_line(error))


@pytest.mark.parametrize("tile", [None, 32], ids=["strips", "tiles"])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), more=st.integers(-2, 3))
def test_lzw_without_its_end_is_read_if_nothing_is_missing(tmp_path_factory, tile, seed, more):
    """The stream has whole codes, a few too many or too few, and no end code."""
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
        except ds.errors.TileDecodeError:  # two zero bytes may be lost data of the file system
            assert stream[:-less].endswith(b"\0\0")
    else:
        with pytest.raises(ds.errors.TileDecodeError, match=r"no end|holds"):
            pixels_of(path)


@pytest.mark.parametrize("code", [1, 5, 7, 8])
@pytest.mark.parametrize("layout", [{"rows": 16}, {"tile": 16}], ids=str)
def test_one_offset_of_0_means_that_all_tiles_are_absent(tmp_path, code, layout):
    """libtiff reads zeros without a warning; dask_slides reads absent tiles as the fill."""
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


@pytest.mark.parametrize("code", [1, 32773, 34887])
def test_a_predictor_of_a_codec_without_one_is_refused(tmp_path, code):
    """libtiff ignores the predictor, but tifffile applies it."""
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


def test_lzw_with_reversed_bits(tmp_path):
    path = tmp_path / "a.tif"
    pixels = coded()
    Image.fromarray(pixels).save(path, compression="tiff_lzw", tiffinfo={266: 2})
    with tifffile.TiffFile(path) as one:
        assert one.pages[0].fillorder == 2
    np.testing.assert_array_equal(pixels_of(path), pixels)


def test_damaged_lzw_is_refused_or_of_the_right_size(tmp_path):
    """LZW has no checksum, so a changed code may be valid; most make the stream too long."""
    path = tmp_path / "a.tif"
    pixels = coded()[:16]
    stream = imagecodecs.lzw_encode(pixels.tobytes())
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        data = bytearray(stream)
        at = int(rng.integers(len(data) - 8))
        data[at : at + 8] = rng.bytes(8)
        path.write_bytes(tiff(tags_of(pixels.shape, 5), [data]))
        try:
            assert pixels_of(path).shape == pixels.shape
        except ds.errors.TileDecodeError as error:
            refused += "the stream of tile 0" in str(error) or "holds" in str(error)
    assert refused > 30
