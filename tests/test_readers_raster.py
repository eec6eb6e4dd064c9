"""Raster files: the pixels of Pillow, decoded once a process."""

import io
import os
import pickle
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from rw_fixtures import noise, one_line

import dask_slides as ds
from dask_slides.readers import raster


def over(rgba, fill):
    colour, alpha = rgba[..., :-1].astype(np.float64), rgba[..., -1:] / 255
    return np.rint(colour * alpha + (1 - alpha) * fill).astype(np.uint8)


RGB = noise(37, 53, 3)
RGBA = noise(37, 53, 4, seed=1)
LA = noise(37, 53, 2, seed=2)
LA_BANDS = [Image.fromarray(np.ascontiguousarray(LA[..., k])) for k in (0, 1)]
GREY = noise(37, 53, seed=3)
DEEP = noise(37, 53, dtype="uint16", seed=4)

LOSSLESS = {
    "rgb.png": (Image.fromarray(RGB), RGB),
    "grey.png": (Image.fromarray(GREY), GREY[..., None]),
    "bits.png": (
        Image.fromarray(np.where(GREY > 99, 255, 0).astype(np.uint8)).convert("1"),
        np.where(GREY > 99, 255, 0)[..., None],
    ),
    "rgba.png": (Image.fromarray(RGBA), over(RGBA, 255)),
    "la.png": (Image.merge("LA", LA_BANDS), over(LA, 255)),
    "deep.png": (Image.fromarray(DEEP), DEEP[..., None]),
    "rgb.bmp": (Image.fromarray(RGB), RGB),
    "grey.gif": (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, axis=-1)),
    "rgb.ppm": (Image.fromarray(RGB), RGB),
    "rgb.tga": (Image.fromarray(RGB), RGB),
}


@pytest.fixture(autouse=True)
def _nothing_kept():
    raster._pixels.cache_clear()
    yield
    raster._pixels.cache_clear()


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files(tmp_path, name):
    path = tmp_path / name
    image, expected = LOSSLESS[name]
    image.save(path)
    slide = ds.open_slide(path)
    found = slide.data.compute(scheduler="sync")
    if name == "grey.gif":  # Pillow keeps grey GIFs as grey
        found = np.broadcast_to(found, expected.shape)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(slide.read(5, 7, 11, 13), found[5:16, 7:20])
    assert slide.dtype == found.dtype
    assert (slide.mpp, len(slide.levels), slide.levels[0].tile) == (None, 1, (37, 53))


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.jp2"])
def test_lossy_files_read_as_pillow_reads_them(tmp_path, name):
    path = tmp_path / name
    y, x = np.mgrid[:60, :70]
    picture = np.stack([y * 4, x * 3, 255 - y - x], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(path)
    found = ds.open_slide(path).data.compute(scheduler="sync")
    with Image.open(path) as image:
        np.testing.assert_array_equal(found, np.asarray(image))
    assert np.abs(found.astype(int) - picture).mean() < 6


def test_palette(tmp_path):
    path = tmp_path / "a.png"
    colours = noise(256, 3, seed=5)
    image = Image.fromarray(GREY)
    image.putpalette(colours.tobytes())
    image.save(path)
    found = ds.open_slide(path).data.compute(scheduler="sync")
    np.testing.assert_array_equal(found, colours[GREY])


def test_palette_with_a_transparent_colour(tmp_path):
    path = tmp_path / "a.png"
    colours = noise(256, 3, seed=5)
    index = noise(37, 53, seed=6, top=3)
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    image.save(path, transparency=2)
    found = ds.open_slide(path, fill=9).data.compute(scheduler="sync")
    expected = colours[index]
    expected[index == 2] = 9
    np.testing.assert_array_equal(found, expected)


def test_cmyk_is_turned_into_rgb_as_pillow_does(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).convert("CMYK").save(path, quality=95)
    found = ds.open_slide(path).data.compute(scheduler="sync")
    with Image.open(path) as image:
        np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("fill", [0, 77, 255])
def test_transparent_pixels_show_the_fill(tmp_path, fill):
    path = tmp_path / "a.png"
    hidden = RGBA.copy()
    hidden[:10, :, 3] = 0
    Image.fromarray(hidden).save(path)
    found = ds.open_slide(path, fill=fill).data.compute(scheduler="sync")
    np.testing.assert_array_equal(found, over(hidden, fill))
    assert (found[:10] == fill).all()


def test_a_file_is_decoded_once_a_process(tmp_path, monkeypatch):
    path = tmp_path / "a.bmp"
    Image.fromarray(RGB).save(path)
    slide = ds.open_slide(path)
    decodes = []
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: decodes.append(a) or opened(*a, **k))
    found = slide.to_dask(chunks=8).compute(scheduler="sync")
    np.testing.assert_array_equal(found, RGB)
    slide.read(3, 4, 5, 6)
    ds.resize(slide, 2).data.compute(scheduler="sync")
    assert len(decodes) == 1


def test_opening_decodes_nothing(tmp_path):
    path = tmp_path / "a.png"
    data = io.BytesIO()
    Image.fromarray(noise(500, 500, 3)).save(data, "PNG")
    whole = data.getvalue()
    path.write_bytes(whole[:100] + b"\0" * (len(whole) - 100))
    slide = ds.open_slide(path)
    assert slide.shape == (500, 500, 3)
    with pytest.raises(ds.TileDecodeError) as error:
        slide.read(0, 0, 10, 10)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("cut", [0.5, 0.95])
def test_a_file_cut_off_is_not_read_in_part(tmp_path, cut):
    for name in ("a.png", "a.jpg"):
        path = tmp_path / name
        Image.fromarray(noise(200, 200, 3)).save(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
        with pytest.raises(ds.TileDecodeError) as error:
            ds.open_slide(path).data.compute(scheduler="sync")
        one_line(error)


def test_pixels_shared_by_tasks_cannot_be_written_to(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    slide = ds.open_slide(path)
    slide.data.compute(scheduler="sync")[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        slide.read(0, 0, 5, 5)[:] = 0
    np.testing.assert_array_equal(slide.read(0, 0, 37, 53), RGB)


def test_too_large_is_refused_without_decoding(tmp_path):
    path = tmp_path / "a.png"
    data = io.BytesIO()
    Image.fromarray(GREY).save(data, "PNG")
    raw = bytearray(data.getvalue())
    raw[16:24] = (20_000).to_bytes(4, "big") * 2  # IHDR: 400 million pixels
    raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(raw))
    with pytest.raises(ds.SlideUnsupportedError, match="tiled TIFF") as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)


def test_a_little_above_the_limit_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    monkeypatch.setattr(raster, "MAX_PIXELS", 37 * 53 - 1)
    with pytest.raises(ds.SlideUnsupportedError):
        ds.open_slide(path)
    monkeypatch.setattr(raster, "MAX_PIXELS", 37 * 53)
    assert ds.open_slide(path).shape == (37, 53, 3)


@pytest.mark.parametrize("content", [b"hello", b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"], ids=repr)
def test_no_image(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ds.SlideFormatError) as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)
    assert type(pickle.loads(pickle.dumps(error.value))) is ds.SlideFormatError


@pytest.mark.parametrize("before", [True, False], ids=["read before", "not read before"])
def test_a_file_that_changed(tmp_path, before):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    slide = ds.open_slide(path)
    if before:
        slide.read(0, 0, 5, 5)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ds.SlideChangedError) as error:
        slide.read(0, 0, 5, 5)
    assert str(path) in one_line(error)


def test_a_tiff_under_another_name_is_read_as_one(tmp_path):
    path = tmp_path / "a.png"
    tifffile.imwrite(path, DEEP, compression="zlib")
    np.testing.assert_array_equal(ds.open_slide(path).data.compute()[..., 0], DEEP)
