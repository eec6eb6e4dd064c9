"""Kinds of TIFF samples: alpha, packed bits, palettes, colour spaces, odd tags."""

import zlib
from fractions import Fraction

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from rw_fixtures import noise, one_line
from tiff_bytes import packed, pixels_of, write_tiff

import dask_slides as ds
from dask_slides.readers.codecs.colour import Conversion


def refused(path, kind=ds.errors.SlideUnsupportedError):
    with pytest.raises(kind) as error:
        ds.open_slide(path)
    message = one_line(error)
    assert type(error.value) is kind
    assert str(path) in message
    for word in ("NoneType", "index out of range", "division by zero", "argument must be"):
        assert word not in message
    return message.removeprefix(str(path))


# ---------------------------------------------------------------- alpha


def write_alpha(path, stored, kind="unassalpha", **options):
    photometric = "rgb" if stored.shape[-1] == 4 else "minisblack"
    tifffile.imwrite(
        path, stored, photometric=photometric, planarconfig="contig", extrasamples=[kind], **options
    )


@given(
    dtype=st.sampled_from(["uint8", "uint16"]),
    colour=st.floats(0, 1),
    alpha=st.floats(0, 1),
    fill=st.sampled_from([0, 1, 100, 255]),
)
def test_partial_alpha_is_the_rounded_mean(dtype, colour, alpha, fill):
    top = np.iinfo(dtype).max
    colour, alpha = int(colour * top), int(alpha * top)
    stored = np.array([[[colour, alpha]]], dtype)
    found = Conversion(alpha="straight", fill=fill)(stored)
    share = Fraction(alpha, int(top))
    exact = colour * share + fill * (1 - share)
    assert found.dtype == dtype
    assert abs(int(found[0, 0, 0]) - exact) <= Fraction(1, 2)


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float32"])
def test_alpha_of_no_known_scale_is_refused(tmp_path, dtype):
    path = tmp_path / "a.tif"
    write_alpha(path, noise(61, 47, 2, dtype=dtype))
    assert "scale" in refused(path)


@pytest.mark.parametrize("kinds", [[2, 0], [1, 0], [2, 2], [0, 2, 0]], ids=str)
def test_alpha_that_is_not_the_last_sample_is_refused(tmp_path, kinds):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(20, 30, 3 + len(kinds)), photometric="rgb", extrasamples=kinds)
    assert "last sample" in refused(path)


@pytest.mark.parametrize("planar", [False, True])
def test_channels_before_alpha_are_composited_too(tmp_path, planar):
    path = tmp_path / "a.tif"
    stored = noise(20, 30, 5)
    stored[..., 4] = 255
    stored[:5, :, 4] = 0
    data = np.ascontiguousarray(stored.transpose(2, 0, 1)) if planar else stored
    tifffile.imwrite(
        path,
        data,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        extrasamples=[0, 2],
    )
    found = pixels_of(path, fill=9)
    np.testing.assert_array_equal(found[5:], stored[5:, :, :4])
    assert (found[:5] == 9).all()


# ---------------------------------------------------------------- bits

REFUSED = {3, 5, 6, 7, *range(17, 32)}
"""Grey of 3 to 7 bits does not scale to 255 exactly; writers store 24 bits in either order."""


def in_order(values, bits, order):
    """Return rows of integers as a TIFF stores them."""
    if bits in (8, 16, 32, 64):
        return np.array(values, f"{order}u{bits // 8}").tobytes()
    return packed(values, bits)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 8, 9, 12, 15, 16, 24, 32])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_depth_is_read_right_or_refused(tmp_path, bits, order, samples, compressed):
    values = noise(5, 7 * samples, dtype="uint64", top=2**bits - 1)
    data = in_order(values.tolist(), bits, order)
    tags = {
        258: (3, [bits] * samples),
        259: (3, [8 if compressed else 1]),
        262: (3, [2 if samples == 3 else 1]),
        277: (3, [samples]),
    }
    data = zlib.compress(data) if compressed else data
    path = write_tiff(tmp_path / "a.tif", (5, 7), [data], tags, order)
    if bits in REFUSED:
        assert "bits" in refused(path)
        return
    expected = values.reshape(5, 7, samples) * (255 // (2**bits - 1) if bits < 8 else 1)
    np.testing.assert_array_equal(pixels_of(path), expected)


@pytest.mark.parametrize("bits", [9, 12, 16, 20, 32])
def test_jpeg_2000_is_read_to_16_bits(tmp_path, bits):
    values = noise(64, 64, dtype="uint32" if bits > 16 else "uint16", top=2 ** min(bits, 24) - 1)
    stream = imagecodecs.jpeg2k_encode(
        values, level=0, reversible=True, bitspersample=bits, codecformat="j2k"
    )
    tags = {258: (3, [bits]), 259: (3, [34712]), 278: None, 322: (3, [64]), 323: (3, [64])}
    path = write_tiff(tmp_path / "a.tif", (64, 64), [stream], tags)
    if bits > 16:
        assert f"{bits} bits" in refused(path)
    else:
        np.testing.assert_array_equal(pixels_of(path)[..., 0], values)


@pytest.mark.parametrize("compression", [1, 32773], ids=["none", "PackBits"])
def test_a_predictor_that_libtiff_ignores_is_refused(tmp_path, compression):
    data = noise(5, 8).tobytes()
    data = imagecodecs.packbits_encode(data) if compression != 1 else data
    tags = {259: (3, [compression]), 317: (3, [2])}
    path = write_tiff(tmp_path / "a.tif", (5, 8), [data], tags)
    assert "predictor 2" in refused(path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", "<>")
def test_predictor_of_integers_for_floats(tmp_path, dtype, order):
    values = noise(5, 8, dtype=dtype)
    words = values.view(f"u{values.itemsize}")
    differences = np.diff(words, axis=1, prepend=words[:, :1] * 0)
    data = differences.astype(differences.dtype.newbyteorder(order)).tobytes()
    tags = {
        258: (3, [8 * values.itemsize]),
        259: (3, [8]),
        317: (3, [2]),
        339: (3, [3]),
    }
    path = write_tiff(tmp_path / "a.tif", (5, 8), [zlib.compress(data)], tags, order)
    np.testing.assert_array_equal(pixels_of(path)[..., 0], values)


@pytest.mark.parametrize(
    "tags",
    [
        {258: (3, [5, 6, 5])},
        {258: (3, [8, 8, 8, 16]), 277: (3, [4]), 338: (3, [0])},
        {258: (3, [8, 8, 8]), 339: (3, [1, 1, 2])},
    ],
    ids=["565", "88816", "formats"],
)
def test_samples_that_differ_are_refused(tmp_path, tags):
    tags = {262: (3, [2]), 277: (3, [3])} | tags
    path = write_tiff(tmp_path / "a.tif", (5, 8), [bytes(5 * 8 * 5)], tags)
    kind = ds.errors.SlideFormatError if 339 in tags else ds.errors.SlideUnsupportedError
    assert "differ" in refused(path, kind)


# ---------------------------------------------------------------- palettes, white at 0


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("wide", [True, False], ids=["16-bit map", "8-bit map"])
@pytest.mark.parametrize("compressed", [False, True])
def test_palettes(tmp_path, bits, order, wide, compressed):
    stored = noise(21, 13, dtype="uint16", top=2**bits - 1)
    colours = noise(3, 2**bits, seed=1)
    table = colours.astype(np.uint16) * 256 + (noise(3, 2**bits, seed=2) if wide else 0)
    if not wide:
        table //= 256
    data = in_order(stored.tolist(), bits, order)
    tags = {
        258: (3, [bits]),
        259: (3, [8 if compressed else 1]),
        262: (3, [3]),
        320: (3, table.ravel().tolist()),
    }
    data = zlib.compress(data) if compressed else data
    path = write_tiff(tmp_path / "a.tif", (21, 13), [data], tags, order)
    found = pixels_of(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, colours.T[stored])


@pytest.mark.parametrize("values", [None, [7] * 31], ids=["missing", "odd"])
def test_palettes_without_all_colours_are_refused(tmp_path, values):
    tags = {262: (3, [3]), 320: values and (3, values)}
    path = write_tiff(tmp_path / "a.tif", (5, 8), [bytes(40)], tags)
    refused(path, ds.errors.SlideFormatError if values else ds.errors.SlideUnsupportedError)


@pytest.mark.parametrize("case", ["int8", "int32", "float64", "two samples"])
def test_white_at_0_of_an_unknown_black_is_refused(tmp_path, case):
    kinds = {"int8": (8, 2), "int32": (32, 2), "float64": (64, 3)}
    bits, form = kinds.get(case, (8, 1))
    samples = 2 if case == "two samples" else 1
    tags = {
        258: (3, [bits] * samples),
        262: (3, [0]),
        277: (3, [samples]),
        339: (3, [form] * samples),
    }
    if samples == 2:
        tags[338] = 3, [0]
    path = write_tiff(tmp_path / "a.tif", (5, 8), [bytes(5 * bits * samples)], tags)
    assert "0 is white" in refused(path)


@pytest.mark.parametrize("samples", [1, 3])
def test_without_a_photometric_tag_0_is_black(tmp_path, samples):
    values = noise(5, 8, samples)
    tags = {258: (3, [8] * samples), 262: None, 277: (3, [samples])}
    path = write_tiff(tmp_path / "a.tif", (5, 8), [values.tobytes()], tags)
    np.testing.assert_array_equal(pixels_of(path), values)


# ---------------------------------------------------------------- colour spaces, missing tags


@pytest.mark.parametrize(
    ("code", "name"),
    [(4, "MASK"), (5, "SEPARATED"), (8, "CIELAB"), (32803, "CFA")],
)
def test_other_colour_spaces_are_refused_by_name(tmp_path, code, name):
    samples = {5: 4, 8: 3}.get(code, 1)
    tags = {258: (3, [8] * samples), 262: (3, [code]), 277: (3, [samples])}
    path = write_tiff(tmp_path / "a.tif", (20, 30), [bytes(600 * samples)], tags)
    assert f"colour space {name};" in refused(path)


def test_luma_and_chroma_without_jpeg_are_refused(tmp_path):
    tags = {258: (3, [8] * 3), 262: (3, [6]), 277: (3, [3]), 530: (3, [2, 2])}
    path = write_tiff(tmp_path / "a.tif", (20, 32), [bytes(20 * 32 * 3 // 2)], tags)
    assert "YCbCr outside of JPEG" in refused(path)


def test_jpeg_without_a_photometric_tag_is_refused(tmp_path):
    stream = imagecodecs.jpeg_encode(noise(16, 16, 3))
    tags = {258: (3, [8] * 3), 259: (3, [7]), 262: None, 277: (3, [3])}
    path = write_tiff(tmp_path / "a.tif", (16, 16), [stream], tags)
    assert "colour space unknown" in refused(path)


def test_byte_counts_of_one_strip_may_be_missing(tmp_path):
    values = noise(20, 30)
    path = write_tiff(tmp_path / "a.tif", (20, 30), [values.tobytes()], {279: None})
    np.testing.assert_array_equal(pixels_of(path)[..., 0], values)


@pytest.mark.parametrize("compressed", [False, True])
def test_other_missing_byte_counts_are_refused(tmp_path, compressed):
    pieces = [bytes(300)] * 2
    tags = {278: (4, [10]), 279: None}
    if compressed:
        pieces = [zlib.compress(bytes(600))]
        tags = {259: (3, [8]), 279: None}
    path = write_tiff(tmp_path / "a.tif", (20, 30), pieces, tags)
    assert "lacks the byte counts" in refused(path, ds.errors.SlideFormatError)


@pytest.mark.parametrize("tags", [{278: (4, [0])}, {322: (3, [32])}], ids=["rows", "tiles"])
def test_sizes_of_0_are_refused(tmp_path, tags):
    path = write_tiff(tmp_path / "a.tif", (20, 30), [bytes(600)], tags)
    assert "in tiles of 0 x" in refused(path, ds.errors.SlideFormatError)
