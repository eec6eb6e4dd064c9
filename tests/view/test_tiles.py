"""Tiles of the viewer: their pixels at every scale, colours and the parts beyond the slide."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import dask_slides as ds
from dask_slides.core.channels import Channel, plain_channels
from dask_slides.plots.display import display_rgb
from dask_slides.view import tiles
from dask_slides.view.look import Look
from dask_slides.view.tile_server import EMPTY, TileServer
from dask_slides.view.tiles import FULL, Pyramid, sampled


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def assembled(pyramid, halvings, shape):
    """Return the whole image at a scale, put together of its tiles."""
    out = np.zeros((*shape, 3), np.uint8)
    for y in range(-(-shape[0] // 256)):
        for x in range(-(-shape[1] // 256)):
            part, final = pyramid.pixels(halvings, y, x)
            assert final
            out[y * 256 : y * 256 + part.shape[0], x * 256 : x * 256 + part.shape[1]] = part
    return out


def test_tiles_are_the_pixels_of_the_slide(tissue_tiff):
    slide = ds.open_slide(tissue_tiff)
    pyramid = Pyramid(slide)
    assert (assembled(pyramid, 0, slide.shape[:2]) == np.asarray(slide)).all()


def test_smaller_tiles_are_means(tissue_tiff):
    slide = ds.open_slide(tissue_tiff)
    pixels = np.asarray(slide).astype(float)
    small = assembled(Pyramid(slide), 1, (150, 210))
    expected = pixels.reshape(150, 2, 210, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - expected).max() <= 1
    assert np.abs(small - expected).mean() < 0.5


def test_a_stored_level_is_shown_as_it_is(write_pyramid, stained):
    slide = ds.open_slide(write_pyramid(stained))
    level = slide.read(0, 0, *slide.levels[1].shape, level=1)
    assert (assembled(Pyramid(slide), 1, level.shape[:2]) == level).all()


def test_an_image_made_of_a_small_level_is_shown(write_pyramid, stained):
    slide = ds.open_slide(write_pyramid(stained))
    small = ds.resize(slide, downsample=8, gap=1.0)
    assert (assembled(Pyramid(small), 0, small.shape[:2]) == np.asarray(small)).all()


def test_there_is_nothing_beyond_the_slide(tissue_tiff):
    pyramid = Pyramid(ds.open_slide(tissue_tiff))
    assert pyramid.pixels(0, 2, 0) == (None, True)
    assert pyramid.pixels(0, 0, 9) == (None, True)


def test_a_slow_slide_shows_a_preview_until_its_picture_is_there(tmp_path, monkeypatch, reads):
    path = ds.sample_slide(tmp_path / "flat.tif", shape=(4096, 4096), tile=256)
    monkeypatch.setattr(tiles, "DIRECT", 500_000)
    pyramid = Pyramid(ds.open_slide(path))
    assert pyramid.pixels(4, 0, 0) == (None, False)
    pyramid._preview = tiles.in_memory(sampled(pyramid.slide.source, 8))
    rough, final = pyramid.pixels(4, 0, 0)
    assert not final and rough.shape == (256, 256, 3)
    pyramid.load()
    del reads[:]
    exact, final = pyramid.pixels(4, 0, 0)
    assert final and not reads  # from memory
    means = ds.resize(pyramid.slide, downsample=16, kernel="area", gap=None)
    assert np.abs(exact.astype(int) - np.asarray(means)).mean() < 2
    assert np.abs(rough.astype(int) - np.asarray(means)).mean() < 60
    assert pyramid.version == 2


@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_preview_has_means_of_whole_tiles(most):
    image = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8), np.ones((64, 64), np.uint8))
    slide = ds.from_dask(np.repeat(image[..., None], 3, 2))
    found = sampled(slide.source, most)
    assert found.shape[0] <= most and found.shape[1] <= max(most, 1)
    assert set(np.unique(found)) <= set(range(64))


def test_png_tiles_of_the_edge_are_transparent(tissue_tiff):
    slide = ds.open_slide(tissue_tiff)
    server, pyramid = TileServer(), Pyramid(slide)
    number = server.add(pyramid)
    found, _ = server.tile(number, pyramid.look.text, FULL, 1, 1)
    picture = decoded(found)
    height, width = slide.shape[0] - 256, slide.shape[1] - 256
    assert (picture[:height, :width, :3] == slide.read(256, 256, height, width)).all()
    assert (picture[:height, :width, 3] == 255).all() and not picture[height:, :, 3].any()
    assert server.tile(number, pyramid.look.text, FULL + 1, 0, 0) == (EMPTY, True)
    server.remove(number)
    assert server.tile(number, pyramid.look.text, FULL, 0, 0) == (EMPTY, True)
    server.close()


def test_kept_tiles_are_bounded(tissue_tiff, monkeypatch, reads):
    monkeypatch.setattr("dask_slides.view.tile_server.CACHE_BYTES", 200_000)
    server, pyramid = TileServer(), Pyramid(ds.open_slide(tissue_tiff))
    number = server.add(pyramid)
    first = server.tile(number, pyramid.look.text, FULL, 0, 0)
    del reads[:]
    assert server.tile(number, pyramid.look.text, FULL, 0, 0) == first and not reads
    for low in range(40):
        server.tile(number, f"0:{low}:255", FULL, 0, 0)
        assert server._bytes <= 200_000
    server.close()


LOOK = Look.of((Channel("a", "FF0000"), Channel("b", "00FF00", (10.0, 30.0))), np.dtype(np.uint16))


def test_a_look_is_a_part_of_an_address():
    look = LOOK.with_window(0, (5.0, 260.5))
    assert look.text == "0:5:260.5_1:10:30"
    assert LOOK.with_text(look.text) == look
    assert LOOK.with_text("none").shown == ()
    for wrong in ("", "2:0:1", "0:1:1", "0:nan:1", "0:0:inf", "x:0:1", "0:0"):
        with pytest.raises(ValueError):
            LOOK.with_text(wrong)


def test_channels_are_stretched_and_added():
    pixels = np.array([[[0, 10], [100, 20], [400, 90]]], np.uint16)
    look = LOOK.with_window(0, (0.0, 200.0))
    shares = [[(0, 0), (Fraction(1, 2), Fraction(1, 2)), (1, 1)]]
    expected = [[(round(255 * float(a)), round(255 * float(b)), 0) for a, b in shares[0]]]
    assert np.abs(look.rgb(pixels).astype(int) - expected).max() <= 1
    assert not look.with_text("1:10:30").rgb(pixels)[..., 0].any()


def test_the_first_contrast_is_that_of_plots():
    pixels = np.random.default_rng(0).integers(0, 4000, (50, 60, 1)).astype(np.uint16)
    channels = plain_channels(1)
    look = Look.of(channels, pixels.dtype).fitted(channels, pixels, None)
    assert np.abs(look.rgb(pixels).astype(int) - display_rgb(pixels, channels)).max() <= 1
