"""Packs of the slide's own compressed tiles, of JPEG, and of JPEG XL."""

import dask.array as da
import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
import zarr

import dask_slides as ds
from dask_slides.errors import SlideArgumentError, SlideUnsupportedError, TileDecodeError
from dask_slides.readers.codecs.zarr_codecs import register
from dask_slides.writers.encoded_chunks import encode_jpeg_xl


@pytest.fixture(autouse=True)
def _sync(sync):
    register()


@pytest.fixture(scope="module", params=["jpeg", "zstd"])
def slide(request, stained, tmp_path_factory):
    """Return a slide of 768 x 1024 px in tiles of 64 px, and its pixels."""
    path = tmp_path_factory.mktemp("pack") / "a.tif"
    tifffile.imwrite(path, stained, photometric="rgb", tile=(64, 64), compression=request.param)
    return ds.open_slide(path), tifffile.imread(path)


def pack_of(slide, **options):
    options = {"tile_size": 128, "downsample": 1, "detector": ds.Contrast(0.0)} | options
    return ds.pack_tiles(slide, **options)


@pytest.mark.parametrize(
    ("size", "stride", "count"), [(128, 128, 48), (128, 64, 165), (64, 64, 192)]
)
def test_a_copied_pack_has_the_pixels_of_the_slide(tmp_path, slide, size, stride, count):
    slide, pixels = slide
    pack = pack_of(slide, tile_size=size, stride=stride)
    path = ds.write(pack, tmp_path / "a.tiles.zarr", codec="source")
    found = ds.open_pack(path)
    expected = np.stack(
        [pixels[y : y + size, x : x + size] for y, x in zip(pack.y, pack.x, strict=True)]
    )
    assert len(expected) == count
    np.testing.assert_array_equal(found[:], expected)
    np.testing.assert_array_equal(found[[7, 3, 3]], expected[[7, 3, 3]])
    np.testing.assert_array_equal(np.asarray(found.tiles), expected)
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["tiles"][...], expected)
    ds.verify(path)


def test_copying_a_pack_decodes_nothing(tmp_path, slide, monkeypatch):
    pack = pack_of(slide[0])

    def decode(*args, **kwargs):
        raise AssertionError("a tile was decoded")

    for module, name in ((imagecodecs, "jpeg8_decode"), (simplejpeg, "decode_jpeg"),
                         (imagecodecs, "zstd_decode")):  # fmt: skip
        monkeypatch.setattr(module, name, decode)
    ds.write(pack, tmp_path / "a.tiles.zarr", codec="source")


def test_jpeg_encodes_any_tiles(tmp_path, slide):
    pack = pack_of(slide[0], tile_size=100, stride=90)
    path = ds.write(pack, tmp_path / "a.tiles.zarr", codec="jpeg", quality=95)
    found = ds.open_pack(path)
    assert found.attributes["encoding"] == {"codec": "JPEG", "quality": 95}
    assert abs(found[:].astype(int) - pack[:]).mean() < 4
    tiles = zarr.open_group(path, mode="r")["tiles"]
    np.testing.assert_array_equal(tiles[...], found[:])


@pytest.mark.parametrize("codec", ["jpeg", "jpegxl"])
def test_tiles_of_a_dask_array_are_encoded(tmp_path, stained, codec):
    pack = pack_of(ds.from_dask(da.from_array(stained, chunks=(300, 500, 3))), tile_size=100)
    path = ds.write(pack, tmp_path / "a.tiles.zarr", codec=codec, quality=95)
    expected = np.stack(
        [stained[y : y + 100, x : x + 100] for y, x in zip(pack.y, pack.x, strict=True)]
    )
    for found in (zarr.open_group(path, mode="r")["tiles"][...], ds.open_pack(path)[:]):
        assert found.shape == expected.shape == (70, 100, 100, 3)
        assert abs(found.astype(int) - expected).mean() < 4
    ds.verify(path)
    with pytest.raises(SlideUnsupportedError, match="cannot be copied"):
        ds.write(pack, tmp_path / "b.tiles.zarr", codec="source")


@pytest.mark.parametrize(
    "options",
    [{"tile_size": 100}, {"stride": 100}, {"edge": "pad", "tile_size": 320}, {"downsample": 2}],
)
def test_tiles_that_are_no_whole_tiles_of_the_slide_are_refused(tmp_path, slide, options):
    pack = pack_of(slide[0], **options)
    with pytest.raises(SlideUnsupportedError, match="codec='jpeg'"):
        ds.write(pack, tmp_path / "a.tiles.zarr", codec="source")
    assert not (tmp_path / "a.tiles.zarr").exists()


@pytest.fixture(scope="module")
def pyramid(stained, tmp_path_factory):
    """Return a slide of 768 x 1024 px and a level of 1/4, and the pixels of both."""
    path = tmp_path_factory.mktemp("pyramid") / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for number, level in enumerate((stained, stained[::4, ::4])):
            writer.write(
                level, photometric="rgb", tile=(64, 64), compression="jpeg", subfiletype=number
            )
    return ds.open_slide(path), [tifffile.imread(path, key=number) for number in (0, 1)]


@pytest.mark.parametrize(
    ("options", "level", "stride"),
    [
        ({"stride": 100}, 0, (128, 128)),  # 1.56 tiles of the slide
        ({"stride": (90, 20)}, 0, (64, 64)),
        ({"tile_size": 64, "downsample": 4}, 1, (64, 64)),
        ({"tile_size": (64, 128), "downsample": 3.9}, 1, (64, 128)),
    ],
)
def test_aligned_tiles_are_whole_tiles_of_the_slide(tmp_path, pyramid, options, level, stride):
    slide, pixels = pyramid
    pack = pack_of(slide, align="source", **options)
    assert pack.attributes["stride"] == list(stride)
    path = ds.write(pack, tmp_path / "a.tiles.zarr", codec="source")
    found, (height, width) = ds.open_pack(path), pack.tiles.shape[1:3]
    scale, image = 4**level, pixels[level]
    expected = {
        (y * scale, x * scale): image[y : y + height, x : x + width]
        for y in range(0, image.shape[0] - height + 1, stride[0])
        for x in range(0, image.shape[1] - width + 1, stride[1])
    }
    places = list(zip(found.y.tolist(), found.x.tolist(), strict=True))
    assert places == list(expected)
    np.testing.assert_array_equal(found[:], np.stack(list(expected.values())))
    tiles = zarr.open_group(path, mode="r")["tiles"]
    np.testing.assert_array_equal(tiles[...], np.stack(list(expected.values())))
    assert found.attributes["encoding"] == {"codec": "JPEG", "copied_from_level": level}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": "grid"}, "use 'source' or None"),
        ({"tile_size": 100}, "multiple of the slide's tile of 64 x 64 px"),
        ({"edge": "pad"}, "edge='drop'"),
        ({"downsample": 2}, "downsample=1 or 4"),
    ],
)
def test_what_cannot_be_aligned_is_refused(pyramid, options, message):
    with pytest.raises(SlideArgumentError, match=message):
        pack_of(pyramid[0], **{"align": "source"} | options)


def test_tiles_that_cannot_be_copied_are_not_aligned(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.arange(128 * 128).reshape(128, 128), tile=(64, 64))
    with pytest.raises(SlideUnsupportedError, match="leave it out"):
        pack_of(tmp_path / "a.tif", align="source")


@pytest.mark.parametrize(("quality", "error"), [(100, 0), (90, 4)])
def test_jpeg_xl_encodes_any_tiles(tmp_path, slide, quality, error):
    pack = pack_of(slide[0], tile_size=100, stride=90)
    path = ds.write(pack, tmp_path / "a.tiles.zarr", codec="jpegxl", quality=quality)
    found = ds.open_pack(path)
    assert found.attributes["encoding"] == {"codec": "JPEG XL", "quality": quality}
    difference = abs(found[:].astype(int) - pack[:]).mean()
    assert difference <= error and (difference == 0) == (quality == 100)
    tiles = zarr.open_group(path, mode="r")["tiles"]
    np.testing.assert_array_equal(tiles[...], found[:])


@pytest.mark.parametrize(("dtype", "count", "side"), [("uint8", 1600, 50), ("uint16", 20, 256)])
def test_jpeg_xl_of_quality_100_changes_no_pixel_of_noise(dtype, count, side):
    """The fastest encoder of libjxl is wrong for about 1 in 150 of the small tiles."""
    rng, largest = np.random.default_rng(0), np.iinfo(dtype).max
    for _ in range(count):
        tile = rng.integers(0, largest, (side, side, 3), dtype, endpoint=True)
        found = imagecodecs.jpegxl_decode(encode_jpeg_xl(tile, 100), numthreads=1)
        np.testing.assert_array_equal(found, tile)


def test_jpeg_xl_keeps_16_bits_of_grey(tmp_path):
    pixels = (np.arange(128 * 128) * 7 % 60_000).astype(np.uint16).reshape(128, 128)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64))
    pack = pack_of(ds.open_slide(tmp_path / "a.tif"))
    path = ds.write(pack, tmp_path / "a.tiles.zarr", codec="jpegxl", quality=100)
    np.testing.assert_array_equal(ds.open_pack(path)[0][..., 0], pixels)
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["tiles"][0, ..., 0], pixels)


def test_jpeg_of_16_bits_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.arange(128 * 128, dtype=np.uint16).reshape(128, 128), tile=(64, 64))
    with pytest.raises(SlideArgumentError, match="uint8"):
        ds.write(pack_of(ds.open_slide(path)), tmp_path / "a.tiles.zarr", codec="jpeg")


def test_a_flipped_bit_in_a_copied_tile_is_found(tmp_path, slide):
    ds.write(pack_of(slide[0]), tmp_path / "a.tiles.zarr", codec="source")
    file = next((tmp_path / "a.tiles.zarr" / "tiles" / "c").glob("*/0/0/0"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(TileDecodeError, match="checksum"):
        ds.open_pack(tmp_path / "a.tiles.zarr")[:]


def test_the_tiles_of_a_copied_pack_are_decoded_into_the_result(tmp_path, slide, monkeypatch):
    slide, pixels = slide
    if slide.source.encoding(0).name != "JPEG":
        pytest.skip("other codecs do not decode into an array")
    pack = pack_of(slide, tile_size=64)
    found = ds.open_pack(ds.write(pack, tmp_path / "a.tiles.zarr", codec="source"))
    decode, into = simplejpeg.decode_jpeg, []

    def decode_jpeg(data, *args, buffer=None, **options):
        into.append(buffer)
        return decode(data, *args, buffer=buffer, **options)

    _ = found[0]  # tests the decoder of the page too
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)
    tiles = found[[5, 2, 8]]
    assert len(into) == 3 and all(np.shares_memory(one, tiles) for one in into)
    for tile, number in zip(tiles, (5, 2, 8), strict=True):
        y, x = pack.y[number], pack.x[number]
        np.testing.assert_array_equal(tile, pixels[y : y + 64, x : x + 64])
