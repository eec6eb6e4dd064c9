"""JPEG 2000 files: the stored samples, and the meaning of channels from the boxes."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from rw_fixtures import noise, one_line

import dask_slides as ds


def stream(pixels, **options):
    """Return a stream without boxes, whose components are stored without a transform."""
    return imagecodecs.jpeg2k_encode(
        pixels, level=0, reversible=True, codecformat="j2k", mct=False, **options
    )


def box(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def colour(space):
    return box(b"colr", struct.pack(">3BI", 1, 0, 0, space))


def definition(*channels):
    """Return a box of (channel, type, colour) triples."""
    parts = (struct.pack(">3H", *one) for one in channels)
    return box(b"cdef", struct.pack(">H", len(channels)) + b"".join(parts))


def jp2(data, *header, height=37, width=53, count=3):
    head = struct.pack(">2IH4B", height, width, count, 7, 7, 0, 0)
    return b"".join((
        b"\0\0\0\x0cjP  \r\n\x87\n",
        box(b"ftyp", b"jp2 \0\0\0\0jp2 "),
        box(b"jp2h", box(b"ihdr", head) + b"".join(header)),
        box(b"jp2c", data),
    ))  # fmt: skip


@pytest.fixture
def opened(tmp_path):
    def opened(data, **options):
        path = tmp_path / "a.jp2"
        path.write_bytes(data)
        return ds.open_slide(path, **options)

    return opened


def pixels_of(slide):
    return slide.data.compute(scheduler="sync")


@pytest.mark.parametrize("boxed", [True, False], ids=["boxes", "stream"])
@pytest.mark.parametrize("bits", [8, 9, 10, 12, 13, 15, 16, 20, 24])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_samples_are_the_integers_in_the_file(opened, bits, signed, boxed):
    size = 1 if bits == 8 else 2 if bits <= 16 else 4
    top = 2**bits - 1
    stored = np.random.default_rng(bits).integers(0, top, (37, 53), endpoint=True)
    stored = (stored - (top + 1) // 2 * signed).astype(f"{'i' if signed else 'u'}{size}")
    kind = "jp2" if boxed else "j2k"
    data = imagecodecs.jpeg2k_encode(
        stored, level=0, reversible=True, bitspersample=bits, codecformat=kind
    )
    slide = opened(data)
    assert (slide.shape, slide.dtype) == ((37, 53, 1), stored.dtype)
    np.testing.assert_array_equal(pixels_of(slide)[..., 0], stored)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("kind", ["jp2", "j2k"])
def test_every_component_is_a_channel_unless_a_box_says_alpha(opened, count, kind):
    stored = noise(37, 53, count, dtype="uint16")
    data = imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat=kind)
    np.testing.assert_array_equal(pixels_of(opened(data)), stored)


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 7])
def test_fewer_than_8_bits_are_scaled_as_those_of_a_png(opened, bits):
    top = 2**bits - 1
    stored = noise(37, 53, top=top)
    found = pixels_of(opened(stream(stored, bitspersample=bits)))
    np.testing.assert_array_equal(found[..., 0], np.rint(stored * (255 / top)))


def test_channels_are_ordered_by_their_definition(opened):
    stored = noise(37, 53, 4)
    # blue, alpha, green and red are stored in this order
    places = definition((0, 0, 3), (1, 1, 0), (2, 0, 2), (3, 0, 1))
    found = pixels_of(opened(jp2(stream(stored), colour(16), places, count=4), fill=200))
    alpha = stored[..., 1:2] / 255
    expected = np.rint(stored[..., [3, 2, 0]] * alpha + (1 - alpha) * 200)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("kind", "of"), [(1, 0), (2, 0)], ids=["straight", "premultiplied"])
def test_alpha_of_12_bits(opened, kind, of):
    stored = noise(37, 53, 2, dtype="uint16", top=4095)
    stored[..., 0] = np.minimum(stored[..., 0], stored[..., 1])
    data = jp2(stream(stored, bitspersample=12), colour(17), definition((0, 0, 1), (1, kind, of)))
    found = pixels_of(opened(data, fill=1000))
    alpha = stored[..., 1] / 4095
    expected = stored[..., 0] * alpha if kind == 1 else stored[..., 0]
    assert np.abs(found[..., 0] - (expected + (1 - alpha) * 1000)).max() <= 1
    assert (found.shape, found.dtype) == ((37, 53, 1), "uint16")


def test_luma_and_chroma_become_colours(opened):
    stored = noise(37, 53, 3)
    y, cb, cr = (stored[..., k].astype(float) - (128 if k else 0) for k in range(3))
    expected = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    found = pixels_of(opened(jp2(stream(stored), colour(18))))
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.51


def test_inks_become_colours(opened):
    stored = noise(37, 53, 4)
    found = pixels_of(opened(jp2(stream(stored), colour(12), count=4)))
    light = 255 - stored.astype(float)
    np.testing.assert_array_equal(found, np.rint(light[..., :3] * light[..., 3:] / 255))


PLAIN = stream(noise(37, 53, 3))
OF_LAB = box(b"colr", b"\2\0\0" + b"\0" * 16 + b"Lab " + b"\0" * 108)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (jp2(PLAIN, colour(14)), "colour space number 14"),
        (jp2(stream(noise(9, 9, top=1), bitspersample=1), colour(0)), "colour space number 0"),
        (jp2(PLAIN, OF_LAB), "colour space Lab"),
        (jp2(PLAIN, colour(17), definition((0, 0, 1), (1, 1, 0), (2, 1, 0))), "two alpha channels"),
        (jp2(PLAIN, colour(16), definition((2, 1, 1))), "alpha of one colour"),
        (jp2(stream(noise(9, 9, 3), bitspersample=5), colour(18)), "5 bits in sycc"),
        (jp2(PLAIN, definition((7, 1, 0))), "defines channels it does not hold"),
        (jp2(PLAIN, box(b"pclr", b"\0\1\1\7\0")), "with a palette"),
        (PLAIN[:42] + bytes((11, 1, 1)) + PLAIN[45:], "12, 8, 8 bits"),
        (PLAIN[:42] + bytes((7, 2, 2)) * 3 + PLAIN[51:], "several sizes"),
        (PLAIN[:45] + bytes((7, 2, 2)) * 2 + PLAIN[51:], "several sizes"),
        (PLAIN[:42] + bytes((37, 1, 1)) * 3 + PLAIN[51:], "38 bits"),
    ],
)
def test_unsupported_kinds_are_refused_by_name(opened, data, said):
    with pytest.raises(ds.errors.SlideUnsupportedError, match=said) as error:
        opened(data)
    assert "a.jp2" in one_line(error)


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:30],
        PLAIN[:44],
        jp2(PLAIN)[:40],
        jp2(PLAIN)[:-len(PLAIN) - 8],
        jp2(b"\0" * 200),
        jp2(PLAIN, box(b"cdef", b"\0\3\0\0")),
        jp2(PLAIN, box(b"colr", b"")),
        PLAIN[:8] + b"\0" * 16 + PLAIN[24:],
    ],
)  # fmt: skip
def test_an_incomplete_header_is_an_error(opened, data):
    with pytest.raises(ds.errors.SlideFormatError, match="is not a whole JPEG 2000 file") as error:
        opened(data)
    assert "a.jp2" in one_line(error)


@pytest.mark.parametrize("tiles", [{}, {"tile_size": (32, 32), "quality_layers": [9, 3]}])
def test_a_file_that_ends_early_is_never_read_in_part(opened, tiles):
    file = io.BytesIO()
    Image.fromarray(noise(70, 90, 3)).save(file, "JPEG2000", irreversible=True, **tiles)
    whole = file.getvalue()
    for length in range(100, len(whole), max(1, len(whole) // 40)):
        with pytest.raises((ds.errors.TileDecodeError, ds.errors.SlideFormatError)):
            pixels_of(opened(whole[:length]))


def test_several_streams_are_counted(opened):
    first, second = noise(37, 53, 3), noise(37, 53, 3, seed=1)
    slide = opened(jp2(stream(first), colour(16)) + box(b"jp2c", stream(second)))
    assert slide.properties["images"] == "2"
    np.testing.assert_array_equal(pixels_of(slide), first)
