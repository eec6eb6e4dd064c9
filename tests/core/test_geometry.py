from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dask_slides.core.geometry import (
    Region,
    joined,
    level_size,
    snapped_factor,
    strips,
)

small = st.integers(0, 9)
regions = st.builds(Region, small, small, small, small)


def painted(region, side=20):
    """Return the pixels of `region` as a bool array."""
    canvas = np.zeros((side, side), bool)
    for y in range(region.y, region.y + region.height):
        for x in range(region.x, region.x + region.width):
            canvas[y, x] = True
    return canvas


@given(regions, regions)
def test_intersect_returns_the_common_pixels(one, two):
    assert np.array_equal(painted(one.intersect(two)), painted(one) & painted(two))


@given(regions)
def test_slices_and_area(region):
    canvas = np.zeros((20, 20), bool)
    canvas[region.slices()] = True
    assert np.array_equal(canvas, painted(region))
    assert region.area == painted(region).sum()


@given(st.integers(1, 200_000), st.integers(1, 16_000))
def test_level_size_rounds_half_up_and_is_at_least_1(size, sixteenths):
    exact = Fraction(size * 16, sixteenths)
    assert level_size(size, sixteenths / 16) == max(1, int(exact + Fraction(1, 2)))


@given(st.integers(2, 200_000), st.integers(1, 9))
def test_snapped_factor_finds_the_integer_factor_of_a_pyramid(size, halvings):
    floor, ceiling = size, size
    for _ in range(halvings):
        floor, ceiling = max(1, floor // 2), -(-ceiling // 2)
    for level in {floor, ceiling}:
        if level > 2 * 2**halvings:  # smaller sizes fit two integer factors
            assert snapped_factor(size, level) == 2**halvings


def test_snapped_factor_of_a_factor_that_is_not_an_integer():
    assert snapped_factor(1000, 400) == 2.5


@given(
    st.builds(Region, small, small, st.integers(1, 60), st.integers(1, 20)),
    st.integers(1, 16),
    st.integers(1, 400),
)
def test_strips_cover_the_region_and_end_between_tiles(region, tile, limit):
    found = list(strips(region, tile, limit))
    at = region.y
    for strip in found:
        assert (strip.y, strip.x, strip.width) == (at, region.x, region.width)
        assert strip.height > 0
        assert strip.area <= max(limit, tile * region.width)
        at += strip.height
        assert at % tile == 0 or at == region.stop_y
    assert at == region.stop_y


rectangles = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 6)] * 2)


@given(st.lists(rectangles, max_size=8), st.lists(rectangles, max_size=8))
def test_joined_regions_depend_only_on_the_pixels(some, more):
    def painted(regions):
        out = np.zeros((20, 20), int)
        for one in regions:
            out[one.slices()] += 1
        return out

    regions = [Region(*numbers) for numbers in some + more]
    found = joined(regions)
    assert np.array_equal(painted(found), painted(regions) > 0)
    pieces = [Region(r.y + i, r.x, 1, r.width) for r in regions for i in range(r.height)]
    assert joined(pieces[::-1] + regions) == found
    assert joined([Region(0, 0, 4, 4), Region(0, 4, 4, 3), Region(4, 0, 2, 7)]) == [
        Region(0, 0, 6, 7)
    ]
