"""Raster files have the pixels of Pillow, and are decoded once per process."""

import io
import os
import pickle
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile, ImageOps
from rw_fixtures import noise, one_line

import dask_slides as ds
from dask_slides.readers import image_file


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
    "la.png": (Image.merge("LA", LA_BANDS), over(LA, 0)),
    "deep.png": (Image.fromarray(DEEP), DEEP[..., None]),
    "rgb.bmp": (Image.fromarray(RGB), RGB),
    "grey.gif": (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, axis=-1)),
    "rgb.ppm": (Image.fromarray(RGB), RGB),
}


@pytest.fixture(autouse=True)
def _empty_cache():
    image_file._pixels.cache_clear()
    yield
    image_file._pixels.cache_clear()


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files(tmp_path, name):
    path = tmp_path / name
    image, expected = LOSSLESS[name]
    image.save(path)
    slide = ds.open_slide(path)
    found = slide.data.compute(scheduler="sync")
    if name == "grey.gif":  # Pillow reads grey GIFs as grey
        found = np.broadcast_to(found, expected.shape)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(slide.read(5, 7, 11, 13), found[5:16, 7:20])
    assert slide.dtype == found.dtype
    assert (slide.mpp, len(slide.levels), slide.levels[0].tile) == (None, 1, (37, 53))


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.jp2"])
def test_lossy_files_equal_pillow(tmp_path, name):
    path = tmp_path / name
    y, x = np.mgrid[:60, :70]
    picture = np.stack([y * 4, x * 3, 255 - y - x], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(path)
    found = ds.open_slide(path).data.compute(scheduler="sync")
    with Image.open(path) as image:
        np.testing.assert_array_equal(found, np.asarray(image))
    assert np.abs(found.astype(int) - picture).mean() < 6


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


@pytest.mark.parametrize("fill", [0, 77, 255])
def test_transparent_pixels_show_the_fill(tmp_path, fill):
    path = tmp_path / "a.png"
    hidden = RGBA.copy()
    hidden[:10, :, 3] = 0
    Image.fromarray(hidden).save(path)
    found = ds.open_slide(path, fill=fill).data.compute(scheduler="sync")
    np.testing.assert_array_equal(found, over(hidden, fill))
    assert (found[:10] == fill).all()


def test_a_file_is_decoded_once_per_process(tmp_path, monkeypatch):
    path = tmp_path / "a.bmp"
    Image.fromarray(RGB).save(path)
    slide = ds.open_slide(path)
    decodes = []
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: decodes.append(a) or opened(*a, **k))
    found = slide.to_dask(chunks=8).compute(scheduler="sync")
    np.testing.assert_array_equal(found, RGB)
    slide.read(3, 4, 5, 6)
    ds.resize(slide, downsample=2).data.compute(scheduler="sync")
    assert len(decodes) == 1


def test_opening_decodes_nothing(tmp_path):
    path = tmp_path / "a.png"
    data = io.BytesIO()
    Image.fromarray(noise(500, 500, 3)).save(data, "PNG")
    whole = data.getvalue()
    path.write_bytes(whole[:100] + b"\0" * (len(whole) - 100))
    slide = ds.open_slide(path)
    assert slide.shape == (500, 500, 3)
    with pytest.raises(ds.errors.TileDecodeError) as error:
        slide.read(0, 0, 10, 10)
    assert str(path) in one_line(error)


def test_pixels_shared_by_tasks_cannot_be_written_to(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    slide = ds.open_slide(path)
    slide.data.compute(scheduler="sync")[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        slide.read(0, 0, 5, 5)[:] = 0
    np.testing.assert_array_equal(slide.read(0, 0, 37, 53), RGB)


def test_a_file_that_is_too_large_is_refused_without_decoding(tmp_path):
    path = tmp_path / "a.png"
    data = io.BytesIO()
    Image.fromarray(GREY).save(data, "PNG")
    raw = bytearray(data.getvalue())
    raw[16:24] = (20_000).to_bytes(4, "big") * 2  # IHDR: 400 million pixels
    raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(raw))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="tiled TIFF") as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("content", [b"hello", b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"], ids=repr)
def test_files_that_are_not_images(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ds.errors.SlideFormatError) as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)
    assert type(pickle.loads(pickle.dumps(error.value))) is ds.errors.SlideFormatError


@pytest.mark.parametrize("before", [True, False], ids=["read before", "not read before"])
def test_a_file_that_changed(tmp_path, before):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    slide = ds.open_slide(path)
    if before:
        slide.read(0, 0, 5, 5)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ds.errors.SlideChangedError) as error:
        slide.read(0, 0, 5, 5)
    assert str(path) in one_line(error)


def test_a_tiff_under_another_name_is_read_as_one(tmp_path):
    path = tmp_path / "a.png"
    tifffile.imwrite(path, DEEP, compression="zlib")
    np.testing.assert_array_equal(ds.open_slide(path).data.compute()[..., 0], DEEP)


def pixels_of(path, **options):
    return ds.open_slide(path, **options).data.compute(scheduler="sync")


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(rows, width, bits, colour, *chunks, after=b""):
    head = struct.pack(">2I5B", width, len(rows), bits, colour, 0, 0, 0)
    return b"".join((
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", head),
        *chunks,
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        after,
        chunk(b"IEND", b""),
    ))  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_png_of_16_bits(tmp_path, count):
    path = tmp_path / "a.png"
    stored = noise(37, 53, count, dtype="uint16")
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    path.write_bytes(png([row.astype(">u2").tobytes() for row in stored], 53, 16, kind))
    found = pixels_of(path, fill=1000)
    expected = stored
    if count in (2, 4):
        alpha = stored[..., -1:] / 65535
        expected = np.rint(stored[..., :-1] * alpha + (1 - alpha) * 1000)
    assert found.dtype == "uint16"
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_shows_the_fill(tmp_path, bits):
    path = tmp_path / "a.png"
    top = 2**bits - 1
    stored = noise(37, 56, dtype="uint16", top=top)
    stored[0, 0], stored[0, 1] = 1, 0
    of_bits = np.unpackbits(stored.astype(">u2")[..., None].view(np.uint8), axis=-1)
    rows = np.packbits(of_bits.reshape(37, 56, 16)[..., 16 - bits :].reshape(37, -1), axis=-1)
    data = png([row.tobytes() for row in rows], 56, bits, 0, chunk(b"tRNS", b"\0\1"))
    path.write_bytes(data)
    found = pixels_of(path, fill=77)[..., 0]
    assert found.dtype == ("uint16" if bits == 16 else "uint8")
    shown = stored if bits == 16 else stored * (255 // top)
    np.testing.assert_array_equal(found, np.where(stored == 1, 77, shown))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_shows_the_fill(tmp_path, bits):
    path = tmp_path / "a.png"
    stored = noise(37, 53, 3, dtype="uint16", top=2**bits - 1)
    stored[5:9] = 1, 2, 3
    rows = [row.astype(">u2" if bits == 16 else "u1").tobytes() for row in stored]
    path.write_bytes(png(rows, 53, bits, 2, chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))))
    expected = stored.copy()
    expected[5:9] = 77
    np.testing.assert_array_equal(pixels_of(path, fill=77), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_are_upright(tmp_path, kind, options, orientation):
    path = tmp_path / "a"
    image = Image.fromarray(RGB)
    tags = Image.Exif()
    tags[274] = orientation
    image.save(path, kind, exif=tags, **options)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    slide = ds.open_slide(path)
    assert slide.shape == expected.shape == ((53, 37, 3) if orientation > 4 else (37, 53, 3))
    np.testing.assert_array_equal(slide.data.compute(scheduler="sync"), expected)
    np.testing.assert_array_equal(slide.read(3, 5, 20, 30), expected[3:23, 5:35])


def test_a_transparent_colour_of_a_gif_shows_the_fill(tmp_path):
    for name, mode in (("a.gif", "P"), ("b.gif", "L")):
        path = tmp_path / name
        image = Image.fromarray(noise(37, 53, top=3))
        if mode == "P":
            image.putpalette(noise(256, 3, seed=5).tobytes())
        image.save(path, transparency=2)
        with Image.open(path) as stored:
            expected = over(np.asarray(stored.convert("RGBA")), 77)
        found = pixels_of(path, fill=77)
        np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg(tmp_path, adobe):
    """Files store inverted inks, with or without an APP14 segment of Adobe."""
    path = tmp_path / "a.jpg"
    inks = np.zeros((64, 64, 4), np.uint8)
    inks[:32, :, 0], inks[:, 32:, 3] = 200, 100
    data = imagecodecs.jpeg8_encode(255 - inks, level=100, colorspace="CMYK", outcolorspace="CMYK")
    at = data.index(b"\xff\xee")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    path.write_bytes(data if adobe else data[:at] + data[end:])
    light = 255 - inks.astype(float)
    expected = np.rint(light[..., :3] * light[..., 3:] / 255)
    assert np.abs(pixels_of(path) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "PPM"])
def test_truncated_files_are_errors_also_if_pillow_accepts_them(tmp_path, monkeypatch, kind):
    path = tmp_path / "a"
    Image.fromarray(noise(200, 200, 3)).save(path, kind)
    whole = path.read_bytes()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert pixels_of(path).shape == (200, 200, 3)
    for share in (0.3, 0.7, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises((ds.errors.TileDecodeError, ds.errors.SlideFormatError)) as error:
            pixels_of(path)
        assert str(path) in one_line(error)


def test_images_in_a_file_are_counted(tmp_path):
    frames = [Image.fromarray(noise(20, 30, 3, seed=seed)) for seed in range(3)]
    for kind in ("GIF", "PNG", "WEBP", "MPO"):
        path = tmp_path / kind
        frames[0].save(path, kind, save_all=True, append_images=frames[1:])
        assert ds.open_slide(path).properties["images"] == "3"
        frames[0].save(path, "JPEG" if kind == "MPO" else kind)
        assert "images" not in ds.open_slide(path).properties


SAVED = sorted(Image.SAVE.keys() - {"PDF", "TIFF", "JPEG2000", "XVTHUMB"}) if Image.init() else ()
GIVEN = {"1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"}


@pytest.mark.parametrize("kind", SAVED)
def test_every_format_is_right_or_refused(tmp_path, kind):
    """Every file that Pillow writes is read as Pillow reads it, or refused with a reason."""
    rgb = Image.fromarray(noise(64, 64, 3))
    for mode in sorted(GIVEN):
        image = rgb.convert(mode) if mode != "I;16" else Image.fromarray(noise(64, 64, dtype="u2"))
        path = tmp_path / "a"
        try:
            image.save(path, kind)
        except Exception:  # Pillow cannot write this mode in this format
            continue
        try:
            found = pixels_of(path)
        except (ds.errors.SlideUnsupportedError, ds.errors.SlideFormatError) as error:
            assert str(path) in str(error)
            assert kind not in image_file._FORMATS or (kind == "PPM" and "8 bits" in str(error))
            continue
        with Image.open(path) as stored:
            clear = stored.has_transparency_data
            stored.load()  # which may change the mode
            expected = stored.convert("RGBA") if clear else stored
            grey = stored.mode in ("1", "L", "LA", "I;16", "I;16B", "I", "F")
            if not clear:
                expected = stored.convert("L") if stored.mode == "1" else expected
                expected = expected if grey else expected.convert("RGB")
            expected = np.asarray(expected)
        expected = over(expected, 255) if clear else expected.reshape(*expected.shape[:2], -1)
        np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)


JPEG = imagecodecs.jpeg8_encode(noise(64, 64, 3), level=95)
FRAME = JPEG.index(b"\xff\xc0")


def of_kind(marker, bits=8, count=3):
    """Return a JPEG whose frame header declares another kind."""
    parts = (JPEG[FRAME + 10 : FRAME + 19] * 2)[: 3 * count]
    size = struct.pack(">HB", 8 + 3 * count, bits) + JPEG[FRAME + 5 : FRAME + 9]
    head = bytes((0xFF, marker)) + size + bytes([count]) + parts
    return JPEG[:FRAME] + head + JPEG[FRAME + 19 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (of_kind(0xC9), "arithmetic"),
        (of_kind(0xCA), "arithmetic"),
        (of_kind(0xCB), "arithmetic"),
        (of_kind(0xC5), "hierarchical"),
        (of_kind(0xC1, bits=12), "12 bits"),
        (imagecodecs.jpeg8_encode(noise(64, 64, dtype="u2", top=4095), bitspersample=12),
         "12 bits"),
        (imagecodecs.jpeg8_encode(noise(64, 64, dtype="u2"), bitspersample=16, lossless=True),
         "16 bits"),
        (of_kind(0xC0, count=2), "2 components"),
        (of_kind(0xC0, count=5), "5 components"),
    ],
)  # fmt: skip
def test_unsupported_kinds_of_jpeg_are_refused_by_name(tmp_path, data, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(ds.errors.SlideUnsupportedError, match=f"is a JPEG .*{reason}") as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("count", [1, 3])
def test_lossless_jpeg(tmp_path, count):
    path = tmp_path / "a.jpg"
    stored = noise(37, 53, count)
    path.write_bytes(imagecodecs.jpeg8_encode(stored, lossless=True))
    np.testing.assert_array_equal(pixels_of(path), stored)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ds.errors.TileDecodeError):
        pixels_of(path)


@pytest.mark.parametrize("tags", [b"MM\x13*\0\0\0\x08", b"MM\0*\0\0\1\0", b"MM", b""], ids=str)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_tags_are_ignored(tmp_path, tags, kind):
    path = tmp_path / "a"
    Image.fromarray(RGB).save(path, kind)
    expected = pixels_of(path)
    Image.fromarray(RGB).save(path, kind, exif=b"Exif\0\0" + tags)
    np.testing.assert_array_equal(pixels_of(path), expected)


BMP = (
    b"BM"
    + struct.pack("<3I", 200, 0, 66)
    + struct.pack("<I2i2H6I", 40, 4, 4, 1, 16, 3, 0, 0, 0, 0, 0)
)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"P6 8 ;*\x1b 255\n" + b"\0" * 192, ds.errors.SlideFormatError),
        (b"P5 8 25555555555555555555 255\n" + b"\0" * 192, ds.errors.SlideFormatError),
        (b"Image type: L image\r\nScale (x,y): \xb1\r\n\x1a", ds.errors.SlideFormatError),
        (b"P2 2 2 100\n1 2 3 x", ds.errors.TileDecodeError),
        (b"P5 2 2 100\n1", ds.errors.TileDecodeError),
        (BMP + struct.pack("<3I", 15, 240, 3840) + b"\0" * 134, ds.errors.SlideUnsupportedError),
    ],
)
def test_reasons_do_not_quote_errors_of_python(tmp_path, data, kind):
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(kind) as error:
        pixels_of(path)
    reason = one_line(error).replace(str(path), "")
    for word in (
        "b'",
        "int()",
        "literal",
        "buffer",
        "reshape",
        "NoneType",
        "object",
        "string to float",
    ):
        assert word not in reason


@pytest.mark.parametrize("on_bad_tile", ["raise", "mask"])
def test_missing_memory_is_not_reported_as_damage(tmp_path, monkeypatch, on_bad_tile):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    slide = ds.open_slide(path, on_bad_tile=on_bad_tile)

    def full(*args):
        raise MemoryError

    monkeypatch.setattr(imagecodecs, "png_decode", full)
    monkeypatch.setattr(Image, "open", full)
    for read in (slide.data.compute, lambda: slide.read(1, 1, 5, 5), lambda: ds.open_slide(path)):
        with pytest.raises(ds.errors.SlideMemoryError, match="more memory than there is") as error:
            read()
        assert str(path) in one_line(error)
    if on_bad_tile == "mask":
        monkeypatch.undo()
        np.testing.assert_array_equal(slide.data.compute(), RGB)
        assert slide.bad_tiles() == ()


NOT_READ = {
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 30\n%%EndComments\n" + b"\n" * 99,
    "MPEG": b"\0\0\1\xb3\x14\0\xf0" + b"\0" * 100,
    "AVIF": imagecodecs.avif_encode(noise(64, 64, 3)),
    "PPM": b"P5 2 2 1000\n" + bytes(8),
    "JPEG XL": imagecodecs.jpegxl_encode(noise(64, 64, 3)),
}


@pytest.mark.parametrize("kind", NOT_READ)
def test_formats_that_are_not_read_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "slide"
    path.write_bytes(NOT_READ[kind])
    with pytest.raises(ds.errors.SlideUnsupportedError, match=kind) as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)


def test_files_that_hold_only_a_preview_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.vsi", RGB, photometric="rgb")
    Image.fromarray(RGB).save(tmp_path / "b.MRXS", "JPEG")
    (tmp_path / "c.ndpis").write_text("[NanoZoomer Digital Pathology Image Set]\n")
    for name, reason in (("a.vsi", "_a_ next"), ("b.MRXS", "b next"), ("c.ndpis", "a list")):
        with pytest.raises(ds.errors.SlideError, match=reason) as error:
            ds.open_slide(tmp_path / name)
        assert name in one_line(error)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"])
def test_damaged_files_are_right_or_named_in_the_error(tmp_path, kind):
    """Damaged files are read right, or raise an error of dask_slides that names the file."""
    path = tmp_path / "a"
    Image.fromarray(noise(48, 48, 3)).save(path, kind)
    whole = path.read_bytes()
    random = np.random.default_rng(7)
    for _ in range(60):
        data = bytearray(whole)
        for at in random.integers(0, min(len(data), 400), 3):
            data[at] = random.integers(256)
        path.write_bytes(bytes(data[: random.integers(1, len(data) + 1)]))
        try:
            slide = ds.open_slide(path)
            if slide.shape[0] * slide.shape[1] < 10**6:
                slide.data.compute(scheduler="sync")
        except ds.SlideError as error:
            assert str(path) in str(error)
