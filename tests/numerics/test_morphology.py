"""Morphology of masks, against SciPy's general filters and labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from dask_slides.numerics import morphology

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24))


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 4))
def test_squares_are_those_of_scipy(mask, radius):
    square = np.ones((2 * radius + 1,) * 2)
    grown = ndimage.binary_dilation(mask, square)
    shrunk = ndimage.binary_erosion(mask, square, border_value=1)
    assert np.array_equal(morphology.dilated(mask, radius), grown)
    assert np.array_equal(morphology.eroded(mask, radius), shrunk)


@settings(max_examples=100, deadline=None)
@given(masks, st.booleans(), st.data())
def test_regions_are_those_of_scipy(mask, diagonal, data):
    labels, count = ndimage.label(mask, np.ones((3, 3)) if diagonal else None)
    part = data.draw(arrays(bool, mask.shape)) & mask
    values = data.draw(arrays(np.float32, mask.shape, elements=st.integers(-9, 9)))
    found = morphology.regions(mask, diagonal)
    index = range(1, count + 1)
    rim = np.pad(np.zeros([max(0, n - 2) for n in mask.shape]), 1, constant_values=1)
    rim = rim[: mask.shape[0], : mask.shape[1]] > 0
    assert found.count == count
    expected = sorted(
        (
            np.count_nonzero(labels == i),
            np.count_nonzero(part[labels == i]),
            values[labels == i].sum(),
            bool(rim[labels == i].any()),
        )
        for i in index
    )
    shown = zip(
        found.areas,
        found.count_in(part),
        found.totals(values),
        found.touching(),
        strict=True,
    )
    assert sorted(shown) == expected
    assert np.array_equal(found.mask(np.ones(count, bool)), mask)


@pytest.mark.parametrize("pixels", [1, 3, 9, 10, 11, 100])
def test_holes_keep_to_their_areas(pixels):
    mask = np.zeros((20, 40), bool)
    mask[8:18, 10:20] = True
    mask[10:13, 12:15] = False  # a hole of 9 pixels
    assert morphology.without_holes(mask, pixels)[11, 13] == (pixels > 9)
    assert not morphology.without_holes(mask, pixels)[0, 0]
