"""Islands keep their form, lie apart, and need little space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from strategies import seeds
from tissue_shapes import tissue_tiles

from dask_slides.numerics.island_packing import pack_islands
from dask_slides.numerics.island_shapes import Shape, bands, cut, with_small_holes

TARGET = 1.3
"""Canvas area per area of the tiles with tissue."""


@st.composite
def cells(draw):
    """Draw random cells, smoothed to blobs, of which one at least is True."""
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    noise = ndimage.gaussian_filter(rng.normal(size=shape), draw(st.sampled_from([0, 1, 3])))
    return noise >= np.quantile(noise, draw(st.sampled_from([0.2, 0.6, 0.9, 1])))


@given(cells(), st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_all_cells_are_placed_once_and_islands_lie_apart(tissue, gutter):
    canvas = pack_islands(tissue, gutter)
    source = np.zeros(tissue.shape, int)
    owner = np.zeros((canvas.rows, canvas.columns), int)
    for shape, (y, x) in zip(canvas.shapes, canvas.at, strict=True):
        rows, columns = shape.mask.shape
        for image, top, left in ((source, shape.y, shape.x), (owner, y, x)):
            part = image[top : top + rows, left : left + columns]
            assert part.shape == shape.mask.shape and not part[shape.mask].any()
            part[shape.mask] = shape.island
    assert source[tissue].all()
    assert np.count_nonzero(source) <= 1.1 * np.count_nonzero(tissue)
    for island in set(owner.flat) - {0}:
        near = ndimage.maximum_filter(owner == island, [2 * g + 1 for g in gutter])
        assert set(owner[near]) <= {0, island}
    if gutter == (1, 1):
        assert canvas.area <= tissue.size


@given(cells(), st.integers(1, 9))
def test_cuts_and_bands_hold_the_cells_of_the_shape(tissue, height):
    shape = Shape(1, 5, 7, tissue)
    pieces = [bands(shape, height)] + ([cut(shape)] if tissue.size > 1 else [])
    for parts in pieces:
        found = np.zeros((60, 60), int)
        for part in parts:
            rows, columns = part.mask.shape
            found[part.y : part.y + rows, part.x : part.x + columns] += part.mask
        assert np.array_equal(found[5 : 5 + tissue.shape[0], 7 : 7 + tissue.shape[1]], tissue)
        assert found.sum() == tissue.sum()


def test_a_cut_is_where_the_boxes_of_both_sides_are_smallest():
    mask = np.zeros((10, 8), bool)
    mask[:4], mask[4:, :2] = True, True
    assert [(one.y, one.x, *one.mask.shape) for one in cut(Shape(1, 0, 0, mask))] == [
        (0, 0, 4, 8),
        (4, 0, 6, 2),
    ]


def test_tissue_in_a_small_hole_belongs_to_the_island_around_it():
    ring = np.ones((40, 40), bool)
    ring[18:23, 18:23] = False
    ring[20, 20] = True
    assert with_small_holes(ring).all()
    ring[5:35, 5:35] = False
    assert np.array_equal(with_small_holes(ring), ring)


@pytest.mark.parametrize("seed", [0, 22, 40, 62])
def test_a_generated_slide_takes_little_space(seed):
    tissue = tissue_tiles(seed)
    assert pack_islands(tissue).area <= TARGET * np.count_nonzero(tissue)


@pytest.mark.slow
def test_95_of_100_generated_slides_take_at_most_1_3_times_their_tissue():
    ratios = []
    for seed in range(100):
        tissue = tissue_tiles(seed)
        ratios.append(pack_islands(tissue).area / np.count_nonzero(tissue))
    assert np.count_nonzero(np.array(ratios) <= TARGET) >= 95, sorted(ratios)[-10:]
