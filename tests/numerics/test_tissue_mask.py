"""Masks of tissue, held against the mask enlarged to level 0, in which pixels are counted."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure
from strategies import seeds

from dask_slides.core.grid import EDGES, TileGrid
from dask_slides.numerics.tissue_mask import (
    BLANK,
    MISSING,
    TISSUE,
    BoxSums,
    TissueMask,
    edges_of_grid,
    edges_of_picture,
    grid_areas,
)

KINDS = (BLANK, TISSUE, MISSING)


@st.composite
def edges(draw, size):
    """Return the edges of pixels of any widths that add up to `size`."""
    cuts = draw(st.sets(st.integers(1, max(1, size - 1)), max_size=12)) - {size}
    return np.array([0, *sorted(cuts), size], np.int64)


@st.composite
def masks(draw, shape=None, grey=False):
    """Return a mask of random pixels of any heights and widths."""
    height, width = shape or (draw(st.integers(1, 60)), draw(st.integers(1, 60)))
    y_edges, x_edges = draw(edges(height)), draw(edges(width))
    rng = np.random.default_rng(draw(seeds))
    size = len(y_edges) - 1, len(x_edges) - 1
    kinds = rng.choice(np.array(KINDS, np.uint8), size, p=draw(st.sampled_from(SHARES)))
    return TissueMask(kinds, y_edges, x_edges, rng.integers(0, 256, size, np.uint8))


SHARES = [(0.4, 0.4, 0.2), (0.7, 0.3, 0), (0.1, 0.9, 0), (1, 0, 0), (0, 0, 1)]
"""Shares of blank, tissue and missing pixels."""


def enlarged(values, mask):
    """Return the values of each pixel of level 0."""
    heights, widths = np.diff(mask.y_edges), np.diff(mask.x_edges)
    return np.repeat(np.repeat(values, heights, axis=0), widths, axis=1)


def counted(values, y, x, height, width):
    """Return the sum of `values` over a box that may lie outside."""
    return int(values[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)].sum())


def values_of(mask, kind):
    """Return what areas are asked for: booleans, grey values, or their squares."""
    grey = np.where(mask.tissue, mask.grey, 0).astype(np.int64)
    return {"tissue": mask.tissue, "grey": grey, "squares": grey * grey}[kind]


what = st.sampled_from(["tissue", "grey", "squares"])
sides = st.integers(1, 70)


@given(masks(), what, st.tuples(sides, sides), st.tuples(sides, sides), st.sampled_from(EDGES))
def test_areas_in_a_grid_are_counts_of_pixels(mask, kind, tile, stride, edge):
    grid = TileGrid(mask.shape, tile, stride, edge)
    starts = [grid.starts(axis) for axis in (0, 1)]
    rows, columns = (np.stack((s, s + t), axis=1) for s, t in zip(starts, tile, strict=True))
    found = grid_areas(values_of(mask, kind), mask, rows, columns)
    assert found.dtype == np.int64 and found.shape == (grid.rows, grid.cols)
    large = enlarged(values_of(mask, kind).astype(np.int64), mask)
    expected = [[counted(large, y, x, *tile) for x in starts[1]] for y in starts[0]]
    assert found.tolist() == expected


points = st.integers(-80, 140)
boxes = st.lists(st.tuples(points, points, st.integers(0, 150), st.integers(0, 150)), max_size=30)


@given(masks(), what, boxes)
def test_sums_over_boxes_are_counts_of_pixels_also_outside(mask, kind, boxes):
    found = BoxSums(values_of(mask, kind), mask)(np.array(boxes, np.int64).reshape(-1, 4))
    large = enlarged(values_of(mask, kind).astype(np.int64), mask)
    assert found.dtype == np.int64
    assert found.tolist() == [counted(large, *box) for box in boxes]


def test_areas_of_a_large_slide_are_exact():
    """Their sums exceed 2**53, beyond which float64 skips whole numbers."""
    size = 2**20 - 1
    edges = edges_of_picture(size, 700)
    mask = TissueMask(np.full((700, 700), TISSUE, np.uint8), edges, edges)
    values = np.full((700, 700), 255**2)
    spans = np.array([[0, size], [1, size]])
    expected = [[255**2 * h * w for w in (size, size - 1)] for h in (size, size - 1)]
    assert expected[0][0] > 2**53
    assert grid_areas(values, mask, spans, spans).tolist() == expected
    found = BoxSums(values, mask)(np.array([[0, 0, size, size], [1, 1, size - 1, size - 1]]))
    assert found.tolist() == [expected[0][0], expected[1][1]]


@given(masks(), st.integers(0, 800))
def test_small_pieces_are_removed_as_in_the_enlarged_mask(mask, pixels):
    found = mask.without_small(pixels)
    large = enlarged(mask.tissue, mask)
    labels = measure.label(large, connectivity=2)
    expected = large & (np.bincount(labels.reshape(-1))[labels] >= pixels)
    assert np.array_equal(enlarged(found.tissue, mask), expected)
    assert np.array_equal(found.kinds == MISSING, mask.kinds == MISSING)


@given(masks(), st.integers(0, 800))
def test_holes_are_filled_as_in_the_enlarged_mask_but_not_with_missing_pixels(mask, pixels):
    found = mask.without_holes(pixels)
    large = enlarged(mask.tissue, mask)
    labels, count = ndimage.label(np.pad(~large, 1, constant_values=True))
    sizes = np.bincount(labels.reshape(-1))
    holes = [n for n in range(1, count + 1) if n != labels[0, 0] and sizes[n] <= pixels]
    holes = np.isin(labels, holes)[1:-1, 1:-1]
    missing = enlarged(mask.kinds, mask) == MISSING
    # a hole at the border of the slide is open: the padding joins it with the outside
    assert np.array_equal(enlarged(found.tissue, mask), large | (holes & ~missing))
    assert np.array_equal(enlarged(found.kinds, mask) == MISSING, missing)


@given(st.data(), masks())
def test_resampling_keeps_each_pixel_if_the_edges_stay(data, mask):
    more = [data.draw(edges(n)) for n in mask.shape]
    finer = mask.resampled(np.union1d(mask.y_edges, more[0]), np.union1d(mask.x_edges, more[1]))
    assert np.array_equal(enlarged(finer.kinds, finer), enlarged(mask.kinds, mask))
    assert np.array_equal(enlarged(finer.grey, finer), enlarged(mask.grey, mask))
    other = mask.resampled(*more)
    firsts = np.ix_(more[0][:-1], more[1][:-1])
    assert np.array_equal(other.kinds, enlarged(mask.kinds, mask)[firsts])


@given(st.data(), masks(), st.sampled_from([np.logical_or, np.logical_and]))
def test_combined_masks_are_those_of_the_enlarged_ones(data, one, operation):
    two = data.draw(masks(shape=one.shape))
    found = one.combined(two, operation)
    large = [enlarged(mask.kinds, mask) for mask in (one, two)]
    tissue = operation(large[0] == TISSUE, large[1] == TISSUE)
    missing = ((large[0] == MISSING) | (large[1] == MISSING)) & ~tissue
    expected = np.where(tissue, TISSUE, np.where(missing, MISSING, BLANK))
    assert np.array_equal(enlarged(found.kinds, found), expected)


@given(st.integers(1, 10**6), st.integers(1, 300))
def test_the_edges_of_a_picture_are_equal_parts(size, pixels):
    pixels = min(size, pixels)
    found = edges_of_picture(size, pixels)
    assert found[0] == 0 and found[-1] == size and len(found) == pixels + 1
    assert set(np.diff(found).tolist()) <= {size // pixels, -(-size // pixels)}


def test_the_edges_of_a_grid_are_those_of_its_tiles():
    y, x = edges_of_grid(TileGrid((10, 7), (4, 7), (4, 7)))
    assert y.tolist() == [0, 4, 8, 10] and x.tolist() == [0, 7]


def test_masks_compare_and_travel():
    edges = np.array([0, 2, 5])
    mask = TissueMask(np.array([[0, 1], [2, 1]], np.uint8), edges, edges)
    assert mask.shape == (5, 5) and mask.missing.sum() == 1 and mask.tissue.sum() == 2
    assert pickle.loads(pickle.dumps(mask)) == mask != mask.with_tissue(~mask.tissue)
    assert TissueMask(np.ones((2, 2), np.uint8), edges, edges).missing is None


@pytest.mark.parametrize("side", [1, 3])
def test_areas_of_a_mask_of_one_pixel(side):
    edges = np.array([0, side])
    mask = TissueMask(np.ones((1, 1), np.uint8), edges, edges)
    spans = np.array([[-5, 0], [0, side], [-1, side + 9], [side, side + 2]])
    areas = grid_areas(mask.tissue, mask, spans, spans)
    assert np.diag(areas).tolist() == [0, side**2, side**2, 0]
