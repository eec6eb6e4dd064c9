"""Packs of the slide's own compressed tiles, and of JPEG."""

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
import zarr

import dask_slides as ds
from dask_slides.errors import SlideArgumentError, SlideUnsupportedError, TileDecodeError
from dask_slides.readers.codecs.zarr_codecs import register


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


@pytest.mark.parametrize("stride", [128, 64])
def test_a_copied_pack_has_the_pixels_of_the_slide(tmp_path, slide, stride):
    slide, pixels = slide
    pack = pack_of(slide, stride=stride)
    path = ds.write(pack, tmp_path / "a.tiles.zarr", codec="source")
    found = ds.open_pack(path)
    expected = np.stack(
        [pixels[y : y + 128, x : x + 128] for y, x in zip(pack.y, pack.x, strict=True)]
    )
    assert len(expected) == (48 if stride == 128 else 165)
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


@pytest.mark.parametrize(
    "options",
    [{"tile_size": 100}, {"stride": 100}, {"edge": "pad", "tile_size": 320}, {"downsample": 2}],
)
def test_tiles_that_are_no_whole_tiles_of_the_slide_are_refused(tmp_path, slide, options):
    pack = pack_of(slide[0], **options)
    with pytest.raises(SlideUnsupportedError, match="codec='jpeg'"):
        ds.write(pack, tmp_path / "a.tiles.zarr", codec="source")
    assert not (tmp_path / "a.tiles.zarr").exists()


def test_jpeg_of_16_bits_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.arange(128 * 128, dtype=np.uint16).reshape(128, 128), tile=(64, 64))
    with pytest.raises(SlideArgumentError, match="8-bit"):
        ds.write(pack_of(ds.open_slide(path)), tmp_path / "a.tiles.zarr", codec="jpeg")


def test_a_flipped_bit_in_a_copied_tile_is_found(tmp_path, slide):
    ds.write(pack_of(slide[0]), tmp_path / "a.tiles.zarr", codec="source")
    file = next((tmp_path / "a.tiles.zarr" / "tiles" / "c").glob("*/0/0/0"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(TileDecodeError, match="checksum"):
        ds.open_pack(tmp_path / "a.tiles.zarr")[:]
