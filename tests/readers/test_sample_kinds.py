"""Kinds of TIFF samples: alpha, packed bits, palettes, YCbCr without JPEG, CMYK, odd tags."""

import zlib
from fractions import Fraction

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from raw_tiff import packed, write_tiff
from rw_fixtures import noise, one_line

import dask_slides as ds
from dask_slides.readers.codecs.colour import Conversion


def pixels_of(path, **options):
    slide = ds.open_slide(path, **options)
    return slide.read(0, 0, *slide.shape[:2])


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

OPAQUE = {
    "int8": 127,
    "uint8": 255,
    "int16": 32767,
    "uint16": 65535,
    "int32": 255,
    "uint32": 255,
    "float16": 1,
    "float32": 1,
    "float64": 1,
}
"""The alpha of an opaque pixel: the values of GDAL up to 32 bits, and 1 or more for floats."""


def write_alpha(path, stored, kind="unassalpha", **options):
    photometric = "rgb" if stored.shape[-1] == 4 else "minisblack"
    tifffile.imwrite(
        path, stored, photometric=photometric, planarconfig="contig", extrasamples=[kind], **options
    )


@pytest.mark.parametrize("dtype", OPAQUE)
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("colours", [1, 3])
def test_opaque_and_transparent_pixels(tmp_path, dtype, kind, colours):
    path = tmp_path / "a.tif"
    stored = noise(61, 47, colours + 1, dtype=dtype)
    stored[..., -1] = OPAQUE[dtype]
    stored[:20, :, -1] = 0
    if kind == "assocalpha":
        stored[:20] = 0
    write_alpha(path, stored, kind, tile=(32, 32), compression="zlib")
    found = pixels_of(path, fill=100)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[20:], stored[20:, :, :-1])
    assert (found[:20] == 100).all()


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_alpha_above_its_scale_is_opaque(tmp_path, dtype):
    path = tmp_path / "a.tif"
    stored = noise(61, 47, 2, dtype=dtype)
    stored[..., 1] = 255 if dtype == "float32" else np.iinfo(dtype).max
    write_alpha(path, stored)
    np.testing.assert_array_equal(pixels_of(path), stored[..., :1])


def test_nan_in_transparent_pixels_does_not_show(tmp_path):
    path = tmp_path / "a.tif"
    stored = np.zeros((4, 4, 2), np.float32)
    stored[:] = 7, 1
    stored[0, :3] = (np.nan, 0), (np.inf, 0), (-np.inf, 0)
    write_alpha(path, stored)
    expected = np.full((4, 4, 1), 7.0)
    expected[0, :3] = 9
    np.testing.assert_array_equal(pixels_of(path, fill=9), expected)


@given(
    dtype=st.sampled_from([name for name in OPAQUE if "int" in name]),
    colour=st.floats(0, 1),
    alpha=st.floats(0, 1),
    fill=st.sampled_from([0, 1, 100, 255, -1, -9999, 2**40]),
)
def test_partial_alpha_is_the_rounded_mean(dtype, colour, alpha, fill):
    low, high = (int(n) for n in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    colour, alpha = low + int(colour * (high - low)), int(alpha * OPAQUE[dtype])
    stored = np.array([[[colour, alpha]]], dtype)
    found = Conversion(alpha="straight", fill=fill)(stored)
    share = Fraction(alpha, OPAQUE[dtype])
    exact = colour * share + min(max(fill, low), high) * (1 - share)
    assert found.dtype == dtype
    assert abs(int(found[0, 0, 0]) - exact) <= Fraction(1, 2)


@pytest.mark.parametrize("bits", [10, 12, 15])
def test_alpha_of_packed_bits_is_opaque_at_their_top(tmp_path, bits):
    top = 2**bits - 1
    stored = noise(20, 8, 2, dtype="uint16", top=top)
    stored[..., 1] = top
    stored[:5, :, 1] = 0
    tags = {258: (3, [bits] * 2), 277: (3, [2]), 338: (3, [2])}
    path = write_tiff(tmp_path / "a.tif", (20, 8), [packed(stored.reshape(20, -1), bits)], tags)
    found = pixels_of(path)
    np.testing.assert_array_equal(found[5:, :, 0], stored[5:, :, 0])
    assert (found[:5] == 0).all()


@pytest.mark.parametrize("dtype", ["uint64", "int64"])
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

REFUSED = [(bits, order) for bits in (3, 5, 6, 7) for order in "<>"] + [(24, ">")]
"""Grey of 3 to 7 bits does not scale to 255 exactly; writers store 24 bits in either order."""


def in_order(values, bits, order):
    """Return rows of integers as a TIFF stores them; 24 bits are three bytes, highest first."""
    if bits in (8, 16, 32, 64):
        return np.array(values, f"{order}u{bits // 8}").tobytes()
    return packed(values, bits)


@pytest.mark.parametrize("bits", range(1, 33))
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
    if (bits, order) in REFUSED:
        assert "bits" in refused(path)
        return
    expected = values.reshape(5, 7, samples) * (255 // (2**bits - 1) if bits < 8 else 1)
    np.testing.assert_array_equal(pixels_of(path), expected)


@pytest.mark.parametrize("bits", [9, 10, 12, 15, 16, 20, 24, 32])
def test_jpeg_2000_is_read_to_24_bits(tmp_path, bits):
    values = noise(64, 64, dtype="uint32" if bits > 16 else "uint16", top=2 ** min(bits, 24) - 1)
    stream = imagecodecs.jpeg2k_encode(
        values, level=0, reversible=True, bitspersample=bits, codecformat="j2k"
    )
    tags = {258: (3, [bits]), 259: (3, [34712]), 278: None, 322: (3, [64]), 323: (3, [64])}
    path = write_tiff(tmp_path / "a.tif", (64, 64), [stream], tags)
    if bits > 24:
        assert "32 bits" in refused(path)
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


@pytest.mark.parametrize("case", ["int8", "int32", "float64", "24 bits", "two samples"])
def test_white_at_0_of_an_unknown_black_is_refused(tmp_path, case):
    kinds = {"int8": (8, 2), "int32": (32, 2), "float64": (64, 3), "24 bits": (24, 1)}
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


# ---------------------------------------------------------------- luma and chroma

BT601 = (0.299, 0.587, 0.114)
BT709 = (0.2125, 0.7154, 0.0721)
FULL = (0, 255, 128, 255, 128, 255)
STUDIO = (16, 235, 128, 240, 128, 240)


def blocks_of(ycc, high, wide):
    """Return luma and chroma (h, w, 3) as TIFF stores them: luma of a block, then its chroma."""
    height, width = ycc.shape[:2]
    padded = np.pad(ycc, [(0, -height % high), (0, -width % wide), (0, 0)], mode="edge")
    out = bytearray()
    for y in range(0, height, high):
        for x in range(0, width, wide):
            block = padded[y : y + high, x : x + wide]
            out += block[..., 0].tobytes() + block[0, 0, 1:].tobytes()
    return bytes(out)


def rgb_of(ycc, high, wide, shares, reference):
    """Return the RGB colours by the formulas of TIFF 6.0, section 21."""
    shared = ycc[::high, ::wide, 1:].repeat(high, axis=0).repeat(wide, axis=1)
    luma = ycc[..., 0].astype(float)
    blue, red = (shared[: len(ycc), : ycc.shape[1], i].astype(float) for i in (0, 1))
    luma = (luma - reference[0]) * 255 / (reference[1] - reference[0])
    blue = (blue - reference[2]) * 127 / (reference[3] - reference[2])
    red = (red - reference[4]) * 127 / (reference[5] - reference[4])
    r = red * (2 - 2 * shares[0]) + luma
    b = blue * (2 - 2 * shares[2]) + luma
    g = (luma - shares[2] * b - shares[0] * r) / shares[1]
    return np.clip(np.stack((r, g, b), axis=-1), 0, 255)


def fractions(numbers):
    return 5, [part for number in numbers for part in (round(number * 10000), 10000)]


@pytest.mark.parametrize(
    ("high", "wide"), [(1, 1), (1, 2), (2, 2), (2, 1), (1, 4), (2, 4), (4, 4), (None, None)]
)
@pytest.mark.parametrize("layout", ["strip", "strips", "lzw", "tiles"])
@pytest.mark.parametrize(
    ("shares", "reference"), [(None, None), (BT709, None), (BT601, STUDIO), (BT709, STUDIO)]
)
def test_luma_and_chroma_without_jpeg(tmp_path, high, wide, layout, shares, reference):
    ycc = np.ascontiguousarray(noise(45, 37, 3, top=200)) // 2 + 60
    tags = {258: (3, [8] * 3), 262: (3, [6]), 277: (3, [3])}
    if high:
        tags[530] = 3, [wide, high]
    else:  # the default
        high = wide = 2
    if shares:
        tags[529] = fractions(shares)
    if reference:
        tags[532] = fractions(reference)
    expected = rgb_of(ycc, high, wide, shares or BT601, reference or FULL)
    pieces = [ycc]
    if layout in ("strips", "lzw"):
        pieces = [ycc[y : y + 16] for y in range(0, 45, 16)]
        tags[278] = 4, [16]
    if layout == "tiles":
        padded = np.pad(ycc, [(0, 3), (0, 11), (0, 0)], mode="edge")
        pieces = [
            padded[y : y + 16, x : x + 16] for y in range(0, 48, 16) for x in range(0, 48, 16)
        ]
        tags |= {278: None, 322: (3, [16]), 323: (3, [16])}
    data = [blocks_of(piece, high, wide) for piece in pieces]
    if layout == "lzw":
        data = [imagecodecs.lzw_encode(piece) for piece in data]
        tags[259] = 3, [5]
    path = write_tiff(tmp_path / "a.tif", (45, 37), data, tags)
    found = pixels_of(path)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.51
    part = ds.open_slide(path).read(17, 5, 20, 9)
    np.testing.assert_array_equal(part, found[17:37, 5:14])


def test_libtiff_reads_the_same_colours(tmp_path):
    ycc = noise(40, 32, 3)
    tags = {
        258: (3, [8] * 3),
        262: (3, [6]),
        277: (3, [3]),
        530: (3, [2, 2]),
        529: fractions(BT709),
        532: fractions(STUDIO),
    }
    path = write_tiff(tmp_path / "a.tif", (40, 32), [blocks_of(ycc, 2, 2)], tags)
    # libtiff truncates luma and chroma to integers after it scales them
    by_libtiff = imagecodecs.tiff_decode(path.read_bytes(), asrgb=True)[..., :3]
    assert np.abs(pixels_of(path).astype(int) - by_libtiff).max() <= 3


@pytest.mark.parametrize("case", ["planes", "predictor", "16 bits", "old JPEG"])
def test_luma_and_chroma_that_are_refused(tmp_path, case):
    bits = 16 if case == "16 bits" else 8
    tags = {258: (3, [bits] * 3), 262: (3, [6]), 277: (3, [3]), 530: (3, [2, 2])}
    data = [bytes(20 * 32 * 6)]
    if case == "planes":
        tags[284], data = (3, [2]), [bytes(640)] * 3
    if case == "predictor":
        tags |= {317: (3, [2]), 259: (3, [8])}
    if case == "old JPEG":
        tags[259] = 3, [6]
    path = write_tiff(tmp_path / "a.tif", (20, 32), data, tags)
    assert ("old-style" if case == "old JPEG" else "YCbCr") in refused(path)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (529, [0.3, 0, 0.1]),
        (529, [0.3]),
        (532, [0, 0, 128, 255, 128, 255]),
        (532, [0, 255]),
        (532, [0, 255, 128]),
    ],
    ids=str,
)
def test_invalid_luma_coefficients_are_refused(tmp_path, code, value):
    tags = {258: (3, [8] * 3), 262: (3, [6]), 277: (3, [3]), 530: (3, [1, 1])}
    tags[code] = fractions(value)
    path = write_tiff(tmp_path / "a.tif", (20, 32), [bytes(20 * 32 * 3)], tags)
    assert f"tag {code}" in refused(path, ds.errors.SlideFormatError)


def test_luma_coefficients_of_0_mean_the_default(tmp_path):
    ycc = noise(20, 32, 3)
    tags = {258: (3, [8] * 3), 262: (3, [6]), 277: (3, [3]), 530: (3, [1, 1])}
    tags[529] = 5, [1, 0] * 3
    path = write_tiff(tmp_path / "a.tif", (20, 32), [ycc.tobytes()], tags)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].tags[529].value == (1, 0) * 3
    assert np.abs(pixels_of(path) - rgb_of(ycc, 1, 1, BT601, FULL)).max() <= 0.51


def test_absent_and_damaged_strips_of_luma_and_chroma_show_the_fill(tmp_path):
    ycc = noise(48, 32, 3)
    data = [zlib.compress(blocks_of(ycc[y : y + 16], 2, 2)) for y in range(0, 48, 16)]
    data[0], data[1] = b"", data[1][:50]
    tags = {258: (3, [8] * 3), 259: (3, [8]), 262: (3, [6]), 277: (3, [3]), 278: (4, [16])}
    path = write_tiff(tmp_path / "a.tif", (48, 32), data, tags)
    with pytest.raises(ds.errors.TileDecodeError):
        pixels_of(path)
    found = pixels_of(path, on_bad_tile="mask", fill=77)
    assert (found[:32] == 77).all()
    assert np.abs(found[32:] - rgb_of(ycc[32:], 2, 2, BT601, FULL)).max() <= 0.51


# ---------------------------------------------------------------- inks


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 32), "compression": "lzw"}], ids=str)
def test_inks(tmp_path, dtype, planar, layout):
    path = tmp_path / "a.tif"
    stored = noise(33, 47, 4, dtype=dtype)
    data = np.ascontiguousarray(stored.transpose(2, 0, 1)) if planar else stored
    tifffile.imwrite(
        path,
        data,
        photometric="separated",
        planarconfig="separate" if planar else "contig",
        **layout,
    )
    top = int(np.iinfo(dtype).max)
    light = top - stored.astype(object)
    expected = [
        (2 * c * k + top) // (2 * top)
        for pixel in light.reshape(-1, 4)
        for c, k in zip(pixel[:3], [pixel[3]] * 3, strict=True)
    ]
    found = pixels_of(path)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.ravel(), expected)


@pytest.mark.parametrize("case", ["alpha", "other inks", "three inks", "float"])
def test_inks_that_are_refused(tmp_path, case):
    path = tmp_path / "a.tif"
    samples = {"alpha": 5, "three inks": 3}.get(case, 4)
    dtype = "float32" if case == "float" else "uint8"
    options = {"extratags": [(332, 3, 1, 2, True)]} if case == "other inks" else {}
    if case == "alpha":
        options["extrasamples"] = [2]
    tags = {258: (3, [8] * samples), 262: (3, [5]), 277: (3, [samples])}
    if case == "three inks":
        write_tiff(path, (20, 30), [bytes(1800)], tags)
    else:
        stored = noise(20, 30, samples, dtype=dtype)
        tifffile.imwrite(path, stored, photometric="separated", **options)
    assert "inks" in refused(path)


def test_inks_in_jpeg(tmp_path):
    path = tmp_path / "a.tif"
    y, x = np.mgrid[:64, :96]
    stored = np.stack((y * 2, x, 255 - y, (x + y) // 2), axis=-1).astype(np.uint8)
    tifffile.imwrite(
        path,
        stored,
        photometric="separated",
        tile=(32, 32),
        compression="jpeg",
        compressionargs={"level": 98},
    )
    light = 255 - stored.astype(float)
    expected = light[..., :3] * light[..., 3:] / 255
    assert np.abs(pixels_of(path) - expected).max() < 8


# ---------------------------------------------------------------- colour spaces, missing tags


@pytest.mark.parametrize(
    ("code", "name"),
    [(4, "MASK"), (8, "CIELAB"), (9, "ICCLAB"), (32803, "CFA"), (32844, "LOGL"), (32845, "LOGLUV")],
)
def test_other_colour_spaces_are_refused_by_name(tmp_path, code, name):
    samples = 3 if code in (8, 9, 32845) else 1
    tags = {258: (3, [8] * samples), 262: (3, [code]), 277: (3, [samples])}
    path = write_tiff(tmp_path / "a.tif", (20, 30), [bytes(600 * samples)], tags)
    assert f"colour space {name};" in refused(path)


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
