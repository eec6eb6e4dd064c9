"""Codecs of image streams: header and samples of a stream must fit the page."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from rw_fixtures import noise, one_line
from tiff_bytes import coded, pixels_of, strips, tags_of, tiff

import dask_slides as ds
from dask_slides.readers.codecs import image_codecs


@pytest.mark.parametrize("packing", [None, "deflate", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_compressed_lerc(tmp_path, packing, dtype):
    path = tmp_path / "a.tif"
    pixels = (coded(1)[..., 0] * 1.5).astype(dtype)
    tifffile.imwrite(path, pixels, compression="lerc", tile=(16, 16), metadata=None,
                     compressionargs={"compression": packing} if packing else None)  # fmt: skip
    with tifffile.TiffFile(path) as one:
        assert one.pages[0].tags[50674].value[1] == {None: 0, "deflate": 1, "zstd": 2}[packing]
    np.testing.assert_array_equal(pixels_of(path)[..., 0], pixels)


def test_lerc_of_unknown_compression_or_too_large_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tags = tags_of((16, 16, 1), 34887)
    blob = imagecodecs.lerc_encode(np.zeros((16, 16), np.uint8))
    for packing, stream, reason in (
        (1, zlib.compress(blob), None),
        (7, zlib.compress(blob), "unknown compression 7"),
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
def test_streams_with_other_samples_than_the_page_are_refused(tmp_path, code, name, tags):
    """Strips of 12 rows of 3 samples are also whole rows of 2 and of 4 samples."""
    path = tmp_path / "a.tif"
    pixels = coded()[:12]
    path.write_bytes(tiff(tags_of(pixels.shape, code), [ENCODED[code](pixels)]))
    right = pixels_of(path)
    if code != 7:
        np.testing.assert_array_equal(right, pixels)
    path.write_bytes(tiff(tags_of(pixels.shape, code) | tags, [ENCODED[code](pixels)]))
    if name == "four samples" and code == 50001:  # libwebp omits an alpha channel of 255
        np.testing.assert_array_equal(pixels_of(path)[..., :3], pixels)
        return
    if name == "a bit" and code == 50002:
        pytest.skip("JPEG XL shows it only after decoding")
    errors = (ds.errors.TileDecodeError, ds.errors.SlideUnsupportedError)
    with pytest.raises(errors, match=r"where the page says|decoder returns 24") as error:
        pixels_of(path)
    one_line(error)


@pytest.mark.parametrize(
    "error", [KeyError("a key"), IndexError("tuple index out of range"), TypeError("a bytes-like"),
              struct.error("unpack requires"), ZeroDivisionError("division by zero")],
    ids=repr,
)  # fmt: skip
def test_reasons_do_not_quote_errors_of_python(tmp_path, monkeypatch, error):
    """A library may report an error about its own code for a damaged file."""
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
