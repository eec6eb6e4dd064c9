"""The scale bar is as long as its label says, and readable on any ground."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_slides.plots.overlay import overlay
from dask_slides.plots.scale_bar import length_text, round_length, text_mask


def bar_of(picture, ink):
    """Return row and length in pixels of the longest line of `ink` in a picture."""
    best = (0, 0)
    for number, row in enumerate((picture == ink).all(axis=-1)):
        for run in "".join("x" if one else " " for one in row).split():
            best = max(best, (len(run), number))
    return best[1], best[0]


@pytest.mark.parametrize("ground", [255, 0, 128, 200])
@pytest.mark.parametrize(
    ("mpp", "text", "micrometres"),
    [
        (0.5, "100 µm", 100), (1.0, "200 µm", 200), (4.1, "1 mm", 1000), (37.0, "5 mm", 5000),
        (0.0021, "500 nm", 0.5), (10.0e6, "2 km", 2e9),
    ],
)  # fmt: skip
def test_the_bar_is_as_long_as_its_label_says(ground, mpp, text, micrometres):
    picture = np.full((500, 1000, 3), ground, np.uint8)
    found = overlay(picture, mpp=mpp)
    ink = 0 if ground > 110 else 255
    row, length = bar_of(found, ink)
    assert abs(length - micrometres / mpp) <= 0.5
    assert length_text(micrometres) == text
    edge = found[row].max() if ink == 0 else found[row].min()
    assert edge == 255 - ink  # an edge of the other colour
    changed = np.argwhere((found != picture).any(axis=-1))
    assert changed[:, 0].min() > 400 and changed[:, 1].max() < 300  # the lower left corner


@given(st.floats(1e-5, 1e12))
def test_lengths_are_round_and_the_longest_that_fit(limit):
    length = round_length(limit)
    assert limit / 2.5000001 < length <= limit
    digits = f"{length:.6e}".split("e")[0]
    assert float(digits) in (1, 2, 5)


@pytest.mark.parametrize("power", range(-4, 12))
def test_a_round_limit_is_taken_itself(power):
    for digit in (1, 2, 5):
        limit = float(digit * Fraction(10) ** power)
        assert math.isclose(round_length(limit), limit)


def test_labels_have_the_unit_that_people_use():
    lengths = (0.02, 0.5, 1, 50, 999, 1000, 2e4, 5e5, 1e6, 2e9)
    assert [length_text(one) for one in lengths] == [
        "20 nm", "500 nm", "1 µm", "50 µm", "999 µm", "1 mm", "20 mm", "500 mm", "1 m", "2 km",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [12, 24, 60])
def test_micro_is_a_u_with_a_stem_below_the_line(size):
    u, micro, letter_p = (text_mask(text, size) for text in ("u", "µ", "p"))
    assert micro.shape[1] == u.shape[1]
    half = u.shape[1] // 2
    assert np.array_equal(micro[: len(u), half:], u[:, half:])
    assert np.array_equal(micro[: len(u) // 2], u[: len(u) // 2])
    assert abs(len(micro) - len(letter_p)) <= 2
    below = micro[len(u) :].any(axis=0)
    assert below[:half].any() and not below[half:].any()


def test_no_bar_where_there_is_no_room():
    for shape in ((30, 30, 3), (20, 400, 3), (400, 40, 3)):
        picture = np.full(shape, 200, np.uint8)
        assert np.array_equal(overlay(picture, mpp=0.5), picture)
