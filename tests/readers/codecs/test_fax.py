"""CCITT strips have the pixels that were written, and damage raises an error."""

import io
import itertools
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rw_fixtures import one_line
from tiff_bytes import pixels_of, tags_of, tiff

import dask_slides as ds


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
    """Write strips (or one tile column) that libtiff encodes, after changing each of them."""
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
def test_pixels_are_what_was_written(tmp_path, kind, size):
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
def test_tiles(tmp_path, kind):
    path = tmp_path / "a.tif"
    pixels = bilevel(64, 32)
    fax_strips(path, pixels, kind, 32, tile=32)
    np.testing.assert_array_equal(pixels_of(path)[..., 0], pixels)
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.read(30, 3, 8, 20)[..., 0], pixels[30:38, 3:23])


def cut(data):
    return data[: len(data) // 2]


def zeroed(data):
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


@pytest.mark.parametrize("kind", FAXES)
@pytest.mark.parametrize("change", [cut, zeroed, lambda data: b"", lambda data: data[5:]])
def test_incomplete_strips_are_refused(tmp_path, kind, change):
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
def test_damaged_strips_are_refused_or_read_as_libtiff_reads_them(tmp_path_factory, kind, seed):
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


@pytest.mark.parametrize("mode", ["raise", "mask"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_nothing_counts_as_damaged_while_logging_is_off(
    tmp_path, request, monkeypatch, everywhere, mode
):
    """Damage is known only from records of that logger."""
    path = tmp_path / "a.tif"
    pixels = bilevel(40, 50)
    fax_strips(path, pixels, "group 4", 20)
    slide = ds.open_slide(path, on_bad_tile=mode)
    with monkeypatch.context() as patch:
        if everywhere:
            request.addfinalizer(lambda: logging.disable(logging.NOTSET))
            logging.disable(logging.WARNING)
        else:
            patch.setattr(logging.getLogger("imagecodecs"), "disabled", True)
        with pytest.raises(ds.errors.SlideUnsupportedError, match="logger 'imagecodecs'") as error:
            slide.read(0, 0, 40, 50)
        assert one_line(error).startswith("a.tif: ")
        assert "fetch" not in str(error.value)
    logging.disable(logging.NOTSET)
    np.testing.assert_array_equal(slide.read(0, 0, 40, 50)[..., 0], pixels)
    assert slide.bad_tiles() == ()


@pytest.mark.parametrize("level", [logging.ERROR, logging.CRITICAL])
def test_the_level_of_loggers_does_not_matter(tmp_path, caplog, monkeypatch, level):
    """Many programs set the root logger, or this one, to errors only."""
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
def test_records_of_other_threads_are_logged_as_before(tmp_path, caplog, monkeypatch, own, above):
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


def test_threads_restore_the_level_of_the_logger(tmp_path, caplog):
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


@pytest.mark.parametrize("samples, bits", [(3, 1), (2, 1), (1, 8)])
@pytest.mark.parametrize("code", [2, 3, 4])
def test_more_than_one_bit_per_pixel_is_refused(tmp_path, code, samples, bits):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(tags_of((16, 16, samples), code, bits=bits), [b"\0\1" * 40]))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="one bit per pixel") as error:
        ds.open_slide(path)
    one_line(error)
    with pytest.raises(Exception), Image.open(path) as image:  # noqa: B017
        image.load()
