"""JPEG that only imagecodecs decodes (lossless, 12 bits, two components): right or refused."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from rw_fixtures import noise, one_line, smooth
from tiff_bytes import tags_of, tiff

import dask_slides as ds


def slide_of(path, stream, shape, bits, photometric=None):
    """Return a slide of one strip of `shape` (h, w, c)."""
    tags = tags_of(shape, 7, bits=8 if bits <= 8 else 16, photometric=photometric)
    if shape[2] in (2, 4):
        tags[338] = (3, [0] * (shape[2] - 1))
    path.write_bytes(tiff(tags, [stream]))
    return ds.open_slide(path)


def read(slide):
    return slide.read(0, 0, *slide.shape[:2])


def encoded(pixels, bits, **options):
    """Return a stream whose samples are stored without a conversion of colours."""
    space = {"colorspace": "rgb", "outcolorspace": "rgb"} if pixels.shape[2:] == (3,) else {}
    return imagecodecs.jpeg8_encode(pixels, 98, bitspersample=bits, **space, **options)


LAYOUTS = {
    "tiles": {"tile": (48, 64)},
    "strips": {"rowsperstrip": 16},
    "planes": {"tile": (48, 64), "planarconfig": "separate"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("args", [{"lossless": True}, {"level": 98}], ids=str)
@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("count", [2, 3])
def test_images_that_tifffile_writes(tmp_path, layout, args, bits, count):
    path, picture = tmp_path / "a.tif", np.ascontiguousarray(smooth(150, 200)[..., :count])
    picture = picture if bits == 8 else picture.astype(np.uint16) * 16
    options = {"photometric": "rgb"}
    if layout == "planes" or count == 2:
        options = {"photometric": "minisblack", "extrasamples": [0] * (count - 1)}
    stored = np.ascontiguousarray(picture.transpose(2, 0, 1)) if layout == "planes" else picture
    tifffile.imwrite(
        path, stored, compression="jpeg", compressionargs={**args}, metadata=None,
        **{"planarconfig": "contig"} | LAYOUTS[layout], **options,
    )  # fmt: skip
    slide = ds.open_slide(path)
    off = np.abs(slide.data.compute() - picture.astype(int))
    assert off.mean() <= (0 if "lossless" in args else 2 ** (bits - 8))
    assert ds.resize(slide, downsample=8).shape == (19, 25, count)


@pytest.mark.parametrize("bits", [2, 8, 9, 12, 16])
def test_lossless_samples_are_exact(tmp_path, bits):
    dtype = "uint8" if bits <= 8 else "uint16"
    samples = noise(37, 53, 3, dtype=dtype, top=2**bits - 1)
    stream = encoded(samples, bits, lossless=True)
    found = read(slide_of(tmp_path / "a.tif", stream, samples.shape, bits))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, samples)


def test_lossless_that_would_be_decoded_wrong_is_refused(tmp_path):
    colour = noise(16, 24, 3)
    stream = bytearray(encoded(colour, 8, lossless=True))
    # component identifiers of the frame header, and sampling factors of the first component
    at = stream.index(b"\xff\xc3") + 10
    stream[at], stream[at + 3], stream[at + 6] = 1, 2, 3
    slides = [slide_of(tmp_path / "a.tif", stream, colour.shape, 8, 6)]
    stream[at + 1] = 0x21
    slides.append(slide_of(tmp_path / "b.tif", stream, colour.shape, 8))
    for slide, reason in zip(slides, ("JPEG of YCbCr", "subsampled components"), strict=True):
        with pytest.raises(ds.errors.TileDecodeError, match=reason) as error:
            read(slide)
        one_line(error)


STREAMS = {
    "12 bits": (12, noise(16, 24, 1, dtype="uint16", top=4095), {}),
    "lossless": (8, noise(16, 24, 1), {"lossless": True}),
    "two components": (8, noise(16, 24, 2), {}),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_header_and_end_are_checked(tmp_path, kind):
    """Damage between header and end is not detected: imagecodecs ignores warnings of libjpeg."""
    bits, pixels, options = STREAMS[kind]
    height, width, count = pixels.shape
    stream = encoded(pixels, bits, **options)
    assert read(slide_of(tmp_path / "a.tif", stream, pixels.shape, bits)).any()
    start = stream.index(b"\xff\xda")
    for name, data, shape, deep, reason in (
        ("end", stream[:-2], (height, width, count), bits, "has no end"),
        ("cut", stream[: start + 20], (height, width, count), bits, "has no end"),
        ("header", stream[:20] + stream[start:], (height, width, count), bits, "JPEG stream has"),
        ("size", stream, (height + 1, width, count), bits, "where the page says"),
        ("samples", stream, (height, width, 3), bits, "components where the page says"),
        ("bits", stream, (height, width, count), 20 - bits, "bits per sample where the page says"),
    ):
        slide = slide_of(tmp_path / f"{name}.tif", data, shape, deep)
        with pytest.raises(ds.errors.TileDecodeError, match=reason) as error:
            read(slide)
        one_line(error)
