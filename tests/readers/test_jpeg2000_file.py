"""JPEG 2000 files: the stored integers, and what the boxes say of the channels."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from rw_fixtures import noise, one_line

import dask_slides as ds


def stream(pixels, **options):
    """A stream without boxes, whose components are stored as they are."""
    return imagecodecs.jpeg2k_encode(
        pixels, level=0, reversible=True, codecformat="j2k", mct=False, **options
    )


def box(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def colour(space):
    return box(b"colr", struct.pack(">3BI", 1, 0, 0, space))


def definition(*channels):
    """A box of (channel, type, colour) triples."""
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
def test_fewer_than_8_bits_are_spread_as_those_of_a_png(opened, bits):
    top = 2**bits - 1
    stored = noise(37, 53, top=top)
    found = pixels_of(opened(stream(stored, bitspersample=bits)))
    np.testing.assert_array_equal(found[..., 0], np.rint(stored * (255 / top)))


def test_channels_go_where_their_definition_says(opened):
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
    kept = stored[..., 0] * alpha if kind == 1 else stored[..., 0]
    assert np.abs(found[..., 0] - (kept + (1 - alpha) * 1000)).max() <= 1
    assert (found.shape, found.dtype) == ((37, 53, 1), "uint16")


def test_alpha_of_one_bit_is_all_or_nothing(opened):
    stored = noise(37, 53, 4)
    shown = noise(37, 53, top=1, seed=1).astype(bool)
    # 127 and 128 of 8 bits lie beside the middle, as 0 and 1 of one bit do
    stored[..., 3] = 127 + shown
    data = bytearray(stream(stored))
    assert data[42 + 9] == 7
    data[42 + 9] = 0
    places = definition((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 1, 0))
    found = pixels_of(opened(jp2(bytes(data), colour(16), places, count=4), fill=9))
    np.testing.assert_array_equal(found[shown], stored[shown][:, :3])
    assert (found[~shown] == 9).all()


@pytest.mark.parametrize("bits", [(5, 5, 5, 1), (5, 6, 5), (8, 4), (2, 8, 7, 3)], ids=str)
def test_each_component_is_spread_by_its_own_bits(opened, bits):
    count = len(bits)
    tops = 2 ** np.array(bits) - 1
    stored = noise(37, 53, count) % (tops + 1)
    # zero of a stream is the middle of its range, so fewer bits are the middle of 8
    data = bytearray(stream((stored + 128 - (tops + 1) // 2).astype(np.uint8)))
    for channel, deep in enumerate(bits):
        data[42 + 3 * channel] = deep - 1
    expected = np.rint(stored * (255 / tops))
    np.testing.assert_array_equal(pixels_of(opened(bytes(data))), expected)
    if bits == (5, 5, 5, 1):
        places = definition((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 1, 0))
        found = pixels_of(opened(jp2(bytes(data), colour(16), places, count=4), fill=9))
        expected = np.where(stored[..., 3:], expected[..., :3], 9)
        np.testing.assert_array_equal(found, expected)


def test_colours_of_a_palette_go_where_their_definition_says(opened):
    """The channels of a palette are defined like any other; GDAL takes them as they come."""
    table = noise(7, 3)
    index = noise(37, 53, top=6, seed=1)
    content = struct.pack(">HB", 7, 3) + bytes([7] * 3) + table.tobytes()
    mapping = b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3))
    # the columns are green, blue and red
    places = definition((0, 0, 2), (1, 0, 3), (2, 0, 1))
    header = colour(16), box(b"pclr", content), box(b"cmap", mapping), places
    found = pixels_of(opened(jp2(stream(index), *header, count=1)))
    np.testing.assert_array_equal(found, table[index][..., [2, 0, 1]])


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_a_palette(opened, bits):
    kind = np.dtype("u1" if bits <= 8 else ">u2")
    table = noise(7, 3, dtype="uint16", top=2**bits - 1).astype(kind)
    index = noise(37, 53, top=6, seed=1)
    content = struct.pack(">HB", 7, 3) + bytes([bits - 1] * 3) + table.tobytes()
    # the columns of the palette are blue, red and green
    mapping = b"".join(struct.pack(">HBB", 0, 1, column) for column in (1, 2, 0))
    data = jp2(stream(index), colour(16), box(b"pclr", content), box(b"cmap", mapping), count=1)
    found = pixels_of(opened(data))
    spread = 17 if bits == 4 else 1
    np.testing.assert_array_equal(found, spread * table[index][..., [1, 2, 0]])


def test_luma_and_chroma_become_colours(opened):
    stored = noise(37, 53, 3)
    y, cb, cr = (stored[..., k].astype(float) - (128 if k else 0) for k in range(3))
    expected = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    found = pixels_of(opened(jp2(stream(stored), colour(18))))
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.51


def spliced(planes, steps):
    """A stream of components of several sizes, which no encoder at hand writes.

    In the order component by component, the packets of one follow those of the other.
    """
    single = [stream(plane, resolutions=1) for plane in planes]
    bodies = [one[one.index(b"\xff\x93") + 2 : -2] for one in single]
    head = bytearray(single[0][: single[0].index(b"\xff\x90")])
    sizes = b"".join(struct.pack("3B", 7, across, down) for across, down in steps)
    head[40:45] = struct.pack(">H", len(planes)) + sizes
    head[4:6] = struct.pack(">H", 38 + len(sizes))
    order = head.index(b"\xff\x52") + 5
    head[order] = 4
    length = 14 + sum(map(len, bodies))
    tile = b"\xff\x90" + struct.pack(">2HI2B", 10, 0, length, 0, 1) + b"\xff\x93"
    return bytes(head) + tile + b"".join(bodies) + b"\xff\xd9"


@pytest.mark.parametrize("step", [(2, 2), (2, 1)], ids=repr)
@pytest.mark.parametrize("height", [32, 33])
def test_chroma_stored_smaller(opened, step, height):
    across, down = step
    low = -(-height // down), -(-49 // across)
    luma = noise(height, 49)
    chroma = [noise(*low, seed=seed) for seed in (1, 2)]
    data = spliced([luma, *chroma], [(1, 1), step, step])
    y = luma.astype(float)
    cb, cr = (
        plane.repeat(down, 0).repeat(across, 1)[:height, :49] - 128.0 for plane in chroma
    )  # fmt: skip
    expected = np.stack([y + 1.402 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.772 * cb], -1)
    slide = opened(jp2(data, colour(18), height=height, width=49))
    assert slide.shape == (height, 49, 3)
    assert np.abs(pixels_of(slide) - np.clip(expected, 0, 255)).max() <= 1.1
    with pytest.raises(ds.errors.SlideUnsupportedError, match="several sizes"):
        opened(jp2(data, colour(16), height=height, width=49))


def test_inks_become_colours(opened):
    stored = noise(37, 53, 4)
    found = pixels_of(opened(jp2(stream(stored), colour(12), count=4)))
    light = 255 - stored.astype(float)
    np.testing.assert_array_equal(found, np.rint(light[..., :3] * light[..., 3:] / 255))


PLAIN = stream(noise(37, 53, 3))
MAPPING = box(b"cmap", b"\0\0\1\0")
OF_LAB = box(b"colr", b"\2\0\0" + b"\0" * 16 + b"Lab " + b"\0" * 108)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (jp2(PLAIN, colour(14)), "colour space number 14"),
        (jp2(stream(noise(9, 9, top=1), bitspersample=1), colour(0)), "colour space number 0"),
        (jp2(PLAIN, OF_LAB), "colour space Lab"),
        (jp2(PLAIN, colour(17), definition((0, 0, 1), (1, 1, 0), (2, 1, 0))), "alpha twice"),
        (jp2(PLAIN, colour(16), definition((2, 1, 1))), "alpha of one colour"),
        (jp2(stream(noise(9, 9, 3), bitspersample=5), colour(18)), "5 bits in sycc"),
        (jp2(PLAIN, definition((7, 1, 0))), "defines channels it does not hold"),
        (jp2(PLAIN, box(b"pclr", b"\0\1\1\7\0")), "maps no channel"),
        (jp2(PLAIN, box(b"pclr", b"\0\0\1\7\0"), MAPPING), "palette of 0 colours"),
        (jp2(PLAIN, box(b"pclr", b"\0\2\1\3\x0f\x10"), MAPPING), "palette of 4 bits that"),
        (jp2(PLAIN, box(b"pclr", b"\0\1\1\x0b\x10\0"), MAPPING), "palette of 12 bits that"),
        (PLAIN[:42] + bytes((11, 1, 1)) + PLAIN[45:], "12, 8, 8 bits"),
        (PLAIN[:42] + bytes((7, 2, 2)) * 3 + PLAIN[51:], "several sizes"),
        (PLAIN[:42] + bytes((37, 1, 1)) * 3 + PLAIN[51:], "38 bits"),
    ],
)
def test_what_is_not_read_is_refused_by_name(opened, data, said):
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
        jp2(PLAIN, box(b"pclr", b"\0\5\3\7\7\7\0"), MAPPING),
        jp2(PLAIN, box(b"pclr", b"\0\1"), MAPPING),
        jp2(PLAIN, box(b"pclr", b"\0\1\1"), MAPPING),
        jp2(PLAIN, box(b"pclr", b"\0\1\1\7\0"), box(b"cmap", b"\0\0\1")),
        PLAIN[:8] + b"\0" * 16 + PLAIN[24:],
    ],
)  # fmt: skip
def test_a_header_that_is_not_whole_is_told(opened, data):
    with pytest.raises(ds.errors.SlideFormatError, match="is no whole JPEG 2000 file") as error:
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
