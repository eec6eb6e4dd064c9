"""Images of any dtype and channels become 8-bit RGB."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import deltaE_ciede2000, rgb2lab

from dask_slides.core.channels import DEFAULT_COLORS, Channel, plain_channels
from dask_slides.plots.display import MAX_CHANNELS, display_colors, display_rgb

DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
"""What somebody without green cones sees, in linear RGB (Machado et al., 2009)."""


def ramp(*tops, size=(20, 50)):
    """Return channels that rise from 0 to a top each, in an order of their own."""
    rng = np.random.default_rng(0)
    planes = [rng.permutation(np.linspace(0, top, size[0] * size[1])) for top in tops]
    return np.stack(planes, axis=-1).reshape(*size, -1)


@given(arrays(np.uint8, st.tuples(st.integers(0, 5), st.integers(0, 5), st.just(3))))
def test_8_bit_rgb_stays_as_it_is(pixels):
    assert np.array_equal(display_rgb(pixels), pixels)
    assert np.array_equal(display_rgb(pixels, plain_channels(3)), pixels)


@given(
    arrays(
        st.sampled_from(["bool", "uint8", "int8", "uint16", "int32", "float16", "float64"]),
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 9)),
    )
)
def test_every_image_becomes_8_bit_rgb(pixels):
    found = display_rgb(pixels)
    assert found.shape == (*pixels.shape[:2], 3) and found.dtype == np.uint8
    assert found.flags.c_contiguous


def test_one_channel_is_grey_and_uses_the_whole_range():
    pixels = ramp(3000)
    found = display_rgb((pixels + 500).astype("uint16"))
    assert (found == found[..., :1]).all()
    assert np.count_nonzero(found[..., 0] == 0) >= 0.01 * 1000  # 1 % and below
    assert 0 < np.count_nonzero(found[..., 0] == 255) <= 0.004 * 1000
    order = np.argsort(pixels.ravel())
    assert (np.diff(found[..., 0].ravel()[order].astype(int)) >= 0).all()


def test_a_few_hot_pixels_do_not_darken_the_rest():
    pixels = ramp(200).astype("uint16")
    before = display_rgb(pixels).astype(int)
    pixels[0, 0] = 65535
    after = display_rgb(pixels).astype(int)
    assert np.abs(after - before)[1:].max() <= 2


def test_channels_are_added_in_their_colours():
    pixels = np.zeros((10, 10, 3), "uint16")
    pixels[:3, :, 0], pixels[3:6, :, 1], pixels[6:9, :, 2] = 100, 5000, 60000
    channels = [Channel("DAPI", "0000FF"), Channel("FITC", "00FF00"), Channel("Cy3", "FF8000")]
    found = display_rgb(pixels, channels)
    assert [found[row, 0].tolist() for row in (0, 3, 6, 9)] == [
        [0, 0, 255], [0, 255, 0], [255, 128, 0], [0, 0, 0],
    ]  # fmt: skip


def test_overlapping_bright_channels_keep_their_hue():
    pixels = np.zeros((10, 10, 2), "uint16")
    pixels[:5] = (1000, 500)
    found = display_rgb(pixels, [Channel("a", "FF0000"), Channel("b", "FF8000")])
    high, middle, low = found[0, 0].astype(int)
    assert high == 255 and low == 0 and abs(middle - 255 * 128 / 255 / 2) <= 1


def test_the_range_of_the_file_is_used():
    pixels = np.array([[[100], [350], [600], [900]]], "uint16")
    found = display_rgb(pixels, [Channel("a", "FFFFFF", (100, 600))])
    assert found[0, :, 0].tolist() == [0, 128, 255, 255]


def test_a_range_that_says_nothing_is_not_used():
    pixels = ramp(900).astype("uint16")
    expected = display_rgb(pixels, [Channel("a")])
    assert expected.max() == 255
    assert np.array_equal(display_rgb(pixels, [Channel("a", None, (0, 65535))]), expected)


def test_pixels_without_data_do_not_count():
    pixels = (ramp(100, 300) + 1000).astype("uint16")
    expected = display_rgb(pixels)
    wide = np.concatenate((pixels, np.zeros((500, 50, 2), "uint16")))
    assert np.array_equal(display_rgb(wide, fill=0)[:20], expected)
    assert not np.array_equal(display_rgb(wide)[:20], expected)
    wide = wide.astype(float)
    wide[20:] = np.nan
    assert np.array_equal(display_rgb(wide)[:20], expected)
    assert not display_rgb(wide)[20:].any()


def test_colour_of_16_bits_keeps_its_balance():
    pixels = ramp(4000, 4000, 4000).astype("uint16")
    pixels[0] = (4000, 2000, 1000)
    red, green, blue = display_rgb(pixels)[0, 0].astype(int)
    assert red > 1.8 * green > 3.2 * blue > 0


def test_opaque_alpha_is_not_a_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 4)).astype("uint8")
    pixels[..., 3] = 255
    assert np.array_equal(display_rgb(pixels), pixels[..., :3])
    named = [Channel(name) for name in ("a", "b", "c", "d")]
    assert not np.array_equal(display_rgb(pixels, named), pixels[..., :3])


def test_one_value_is_shown_as_it_is():
    assert (display_rgb(np.full((4, 4, 1), 240, "uint8")) == 240).all()


def test_white_of_several_channels_is_no_colour():
    white = [Channel(name, "FFFFFF") for name in "abc"]
    assert len(np.unique(display_colors(white), axis=0)) == 3
    assert display_colors(white[:1]).tolist() == [[255, 255, 255]]


@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPIA], ids=["common", "deuteranopia"])
def test_default_colours_differ_for_everybody(sight):
    assert len(DEFAULT_COLORS) == MAX_CHANNELS
    rgb = display_colors([Channel(str(n)) for n in range(MAX_CHANNELS)]) / 255
    linear = np.clip((rgb**2.2) @ sight.T, 0, 1)
    lab = rgb2lab(linear ** (1 / 2.2))
    for one, other in itertools.combinations(lab, 2):
        assert deltaE_ciede2000(one, other) > 10
