import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import shapes, tiles

from dask_slides.core.grid import EDGES, TileGrid, tile_pair
from dask_slides.errors import SlideArgumentError

strides = st.tuples(st.integers(1, 45), st.integers(1, 45))


def starts_by_hand(size, tile, stride, edge):
    """Return the starts of tiles along an axis, found one after the other."""
    at, found = 0, []
    while at + tile <= size:
        found.append(at)
        at += stride
    if edge == "drop":
        return found
    covered = found[-1] + tile if found else 0
    if covered < size:
        found.append(at if edge == "pad" else max(0, size - tile))
    return found


@given(shapes, tiles, strides, st.sampled_from(EDGES))
def test_starts(shape, tile, stride, edge):
    grid = TileGrid(shape, tile, stride, edge)
    for axis in (0, 1):
        expected = starts_by_hand(shape[axis], tile[axis], stride[axis], edge)
        assert grid.starts(axis).tolist() == expected
        assert [grid.start(axis, i) for i in range(len(expected))] == expected
    assert (grid.rows, grid.cols) == (len(grid.starts(0)), len(grid.starts(1)))


@given(shapes, tiles, strides, st.sampled_from(["pad", "shift"]))
def test_span_is_the_smallest_region_of_its_tiles(shape, tile, stride, edge):
    grid = TileGrid(shape, tile, stride, edge)
    rows, cols = (0, grid.rows), (grid.cols // 2, grid.cols)
    regions = [grid.region(r, c) for r in range(*rows) for c in range(*cols)]
    span = grid.span(*rows, *cols)
    assert span.y == min(r.y for r in regions)
    assert span.x == min(r.x for r in regions)
    assert span.stop_y == max(r.stop_y for r in regions)
    assert span.stop_x == max(r.stop_x for r in regions)


@pytest.mark.parametrize("edge", EDGES)
def test_an_image_without_pixels_has_no_tiles(edge):
    grid = TileGrid((0, 0), (5, 5), (5, 5), edge)
    assert (grid.rows, grid.cols) == (0, 0)
    assert grid.starts(0).tolist() == []


@pytest.mark.parametrize(
    ("size", "pair"),
    [(5, (5, 5)), ((3, 4), (3, 4)), ([3, 4], (3, 4)), (np.int64(7), (7, 7))],
)
def test_tile_pair(size, pair):
    assert tile_pair(size) == pair


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "ab", (1, 2, 3), (1, 0), (1, None), None])
def test_an_invalid_size_is_an_error_that_names_the_argument(size):
    with pytest.raises(SlideArgumentError, match=r"stride=.* is not a size; give whole pixels"):
        tile_pair(size, "stride")
