"""Pages read at 1/2, 1/4 and 1/8: near the means, and the same pixels for any region."""

import os

import numpy as np
import oracle
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rw_fixtures import smooth

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.numerics.box_means import box_mean
from dask_slides.readers.codecs import headers, jpeg
from dask_slides.readers.tiff import file as tiff_file
from dask_slides.readers.tile_cache import TILE_CACHE, Reuse, TileCache

JPEGS = {
    "4:4:4": {"photometric": "ycbcr", "subsampling": (1, 1)},
    "4:2:2": {"photometric": "ycbcr", "subsampling": (2, 1)},
    "4:2:0": {"photometric": "ycbcr", "subsampling": (2, 2)},
    "from rgb": {"photometric": "rgb", "subsampling": (2, 2)},
    "grey": {"photometric": "minisblack"},
    "stored rgb": {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}},
}
LOSSLESS = {
    "deflate": {"compression": "zlib", "photometric": "rgb", "predictor": True},
    "lzw": {"compression": "lzw", "photometric": "rgb"},
    "zstd": {"compression": "zstd", "photometric": "rgb"},
    "none": {"photometric": "rgb"},
    "grey": {"compression": "zlib", "photometric": "minisblack"},
}
SHAPE = (300, 420)
TILE = (64, 96)


@pytest.fixture(autouse=True)
def empty_cache():
    TILE_CACHE.clear()
    yield
    TILE_CACHE.clear()


def picture(name, shape=SHAPE):
    image = smooth(*shape)
    return image[..., 0] if name == "grey" else image


def written(folder, name, kinds):
    path = folder / f"{name.replace(':', '')}.tif"
    options = {"compression": "jpeg"} if kinds is JPEGS else {}
    tifffile.imwrite(path, picture(name), tile=TILE, **options, **kinds[name])
    return ds.open_slide(path)


def page_of(slide):
    return slide.source.tiled_page()


def whole(slide, factor):
    height, width = (-(-n // factor) for n in slide.shape[:2])
    return slide.source.read_reduced(0, factor, Region(0, 0, height, width))


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_is_decoded_fast_and_to_the_bit(tmp_path, name):
    slide = written(tmp_path, name, JPEGS)
    assert page_of(slide).decoder.simplejpeg() is not None
    with tifffile.TiffFile(slide.path) as opened:
        expected = opened.pages[0].asarray()
    found = slide.read(0, 0, *SHAPE)
    assert np.array_equal(found, expected.reshape(found.shape))


@given(
    pixels=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))),
    factor=st.sampled_from([2, 4, 8]),
)
def test_means_are_rounded_once_also_at_the_edges(pixels, factor):
    height, width, _ = pixels.shape
    found = box_mean(pixels, factor)
    assert found.shape == (-(-height // factor), -(-width // factor), pixels.shape[2])
    for y, x in np.ndindex(found.shape[:2]):
        box = pixels[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        count = box.shape[0] * box.shape[1]
        sums = box.sum(axis=(0, 1), dtype=int)
        assert np.array_equal(found[y, x], (2 * sums + count) // (2 * count))


@pytest.mark.parametrize("name", JPEGS)
def test_reduced_jpeg_is_near_the_means(tmp_path, name):
    slide = written(tmp_path, name, JPEGS)
    assert slide.source.reductions(0) == (2, 4, 8)
    full = slide.read(0, 0, *SHAPE)
    for factor, mean in zip((2, 4, 8), oracle.area_pyramid(full, 3), strict=True):
        off = whole(slide, factor).astype(int) - mean
        assert abs(off.mean()) < 0.2
        # the colours of 4:2:2 are means of 16 pixels at 1/8
        assert np.abs(off).mean() < (6 if (name, factor) == ("4:2:2", 8) else 1)


@pytest.mark.parametrize("name", LOSSLESS)
def test_other_codecs_are_reduced_to_the_means_exactly(tmp_path, name):
    slide = written(tmp_path, name, LOSSLESS)
    full = picture(name).reshape(slide.shape)
    for factor, mean in zip((2, 4, 8), oracle.area_pyramid(full, 3), strict=True):
        assert np.array_equal(whole(slide, factor), mean)


def test_padding_of_tiles_beyond_the_image_is_not_averaged(tmp_path):
    # tifffile pads the last tiles with zeros, which are not a valid colour in YCbCr
    path = tmp_path / "padded.tif"
    image = np.full((300, 420, 3), 200, np.uint8)
    options = {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
    tifffile.imwrite(path, image, tile=TILE, **options)
    slide = ds.open_slide(path)
    full = slide.read(0, 0, *SHAPE)
    for factor, mean in zip((2, 4, 8), oracle.area_pyramid(full, 3), strict=True):
        found = whole(slide, factor).astype(int)
        assert np.abs(found[-1] - mean[-1]).max() == 0
        assert np.abs(found[:, -1] - mean[:, -1]).max() == 0


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return written(tmp_path_factory.mktemp("flat"), "4:2:0", JPEGS)


@settings(deadline=None)
@given(st.data())
def test_a_region_has_the_pixels_of_the_whole(flat, data):
    factor = data.draw(st.sampled_from([1, 2, 4, 8]))
    expected = whole(flat, factor)
    height, width = expected.shape[:2]
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = Region(
        y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    )
    found = flat.source.read_reduced(0, factor, region)
    assert np.array_equal(found, expected[region.slices()])


def test_a_real_slide_with_rgb_components_and_separate_tables(real_slide):
    slide = ds.open_slide(real_slide)
    assert page_of(slide).decoder.simplejpeg() is not None
    full = slide.read(0, 0, *slide.shape[:2])
    with tifffile.TiffFile(real_slide) as opened:
        assert np.array_equal(full, opened.pages[0].asarray())
    for factor, mean in zip((2, 4, 8), oracle.area_pyramid(full, 3), strict=True):
        off = whole(slide, factor).astype(int) - mean
        assert abs(off.mean()) < 0.2
        assert np.abs(off).mean() < 2


def test_a_decoder_with_slightly_wrong_pixels_is_not_used(tmp_path, monkeypatch):
    import simplejpeg

    real = simplejpeg.decode_jpeg

    def off(*args, **kwargs):
        decoded = real(*args, **kwargs)
        decoded[0, 0, 0] ^= 1
        return decoded

    monkeypatch.setattr(simplejpeg, "decode_jpeg", off)
    slide = written(tmp_path, "4:2:0", JPEGS)
    assert page_of(slide).decoder.simplejpeg() is None
    with tifffile.TiffFile(slide.path) as opened:
        expected = opened.pages[0].asarray()
    assert np.array_equal(slide.read(0, 0, *SHAPE), expected)
    means = oracle.area_pyramid(expected, 2)[1]
    assert np.array_equal(whole(slide, 4), means)


def test_jpeg_whose_photometric_tag_is_wrong_is_decoded_fast(tmp_path):
    # the photometric tag is RGB, but tifffile's writer stores YCbCr in the stream
    slide = written(tmp_path, "from rgb", JPEGS)
    assert page_of(slide).decoder.simplejpeg() is not None
    image = picture("from rgb").astype(int)
    assert np.abs(slide.read(0, 0, *SHAPE) - image).mean() < 4


def test_absent_tiles_are_the_fill(tmp_path):
    path = written(tmp_path, "deflate", LOSSLESS).path
    with tifffile.TiffFile(path, mode="r+b") as opened:
        counts = opened.pages[0].tags["TileByteCounts"]
        counts.overwrite((0, *counts.value[1:]))
    found = whole(ds.open_slide(path), 4)
    assert (found[:16, :24] == 255).all()
    assert (found[:16, 24:48] != 255).any()


@pytest.mark.parametrize("factor", [1, 4])
def test_a_damaged_tile_raises(tmp_path, factor):
    slide = written(tmp_path, "4:2:0", JPEGS)
    page = page_of(slide)
    start, count = page._page.dataoffsets[7], page._page.databytecounts[7]
    stat = slide.source.identity
    with open(slide.path, "r+b") as file:
        file.seek(start + count // 2)
        file.write(bytes(count - count // 2))
    os.utime(slide.path, ns=(stat.mtime_ns, stat.mtime_ns))
    with pytest.raises(ds.errors.TileDecodeError, match="tile 7 has no end"):
        whole(slide, factor)
    tiff_file.opened.cache_clear()


def test_only_plain_tiled_pages_of_8_bits_have_reductions(tmp_path):
    image = smooth(200, 200)
    kinds = {
        "strips": {"photometric": "rgb", "compression": "zlib"},
        "16 bit": {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"},
        "white is 0": {"photometric": "miniswhite", "tile": (64, 64), "compression": "zlib"},
        "planar": {"photometric": "rgb", "tile": (64, 64), "planarconfig": "separate"},
    }
    for name, options in kinds.items():
        pixels = image.astype(np.uint16) if name == "16 bit" else image
        pixels = image[..., 0] if name == "white is 0" else pixels
        pixels = image.transpose(2, 0, 1) if name == "planar" else pixels
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels, **options)
        assert ds.open_slide(path).source.reductions(0) == (), name


def test_the_cache_is_bounded_and_returns_a_tile_as_often_as_expected():
    cache = TileCache(limit=1000)
    tile = np.arange(400, dtype=np.uint16).astype(np.uint8).reshape(20, 20, 1)

    def has(key):
        found = cache.take(key)
        return found is not None and np.array_equal(found, np.arange(400).reshape(20, 20, 1) % 256)

    cache.put("a", tile, Reuse(1))
    cache.put("b", tile, Reuse(2))
    tile[...] = 0  # the decoder also overwrites its array
    assert has("a") and not has("a")
    assert cache.nbytes == 400
    tile[...] = np.arange(400).reshape(20, 20, 1) % 256
    cache.put("c", tile, Reuse(1))
    assert has("b")  # now the one that was used last
    cache.put("d", tile, Reuse(1))
    assert not has("c")
    assert has("b") and not has("b")
    assert has("d")
    assert cache.nbytes == 0
    cache.put("f", tile, Reuse(1))
    cache.put("f", tile, Reuse(1))  # two threads missed it: both have read it now
    assert not has("f") and cache.nbytes == 0
    cache.clear()
    cache.put("g", tile, Reuse(1))
    with cache.within(tile.nbytes):
        cache.put("h", tile, Reuse(1))
        assert cache.nbytes == tile.nbytes
    assert not has("g") and has("h")
    cache.put("i", tile, Reuse(1))
    with cache.within(2 * tile.nbytes, sides=(True, False)):
        assert cache.sides == (True, False)
        cache.put("j", tile, Reuse(1, late=True))
        cache.put("k", tile, Reuse(1))
    assert cache.sides == (True, True)
    assert (
        has("i") and not has("j") and has("k")
    )  # tiles that are not needed soon are dropped first
    assert cache.nbytes == 0
    cache.put("e", np.zeros(2000, np.uint8), Reuse(1))
    assert cache.take("e") is None and cache.nbytes == 0


@pytest.mark.parametrize("name", JPEGS)
def test_only_4_2_2_is_coarser_in_colour(tmp_path, name):
    assert written(tmp_path, name, JPEGS).source.coarseness(0) == (2 if name == "4:2:2" else 1)


def test_without_a_frame_header_colours_count_as_coarse():
    for stream in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\0\x11\x08", bytes(100)):
        assert jpeg.coarseness(stream) == 2


def test_has_end():
    assert headers.has_end(b"..\xff\xd9")
    assert headers.has_end(memoryview(b"..\xff\xd9\0\0"))
    assert headers.has_end(b"\xff\xda..\xff\xd9..")  # padding
    assert not headers.has_end(b"\xff\xd9\xff\xda..")  # the end of a thumbnail
    assert not headers.has_end(b"")
