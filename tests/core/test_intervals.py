import numpy as np
import oracle
from hypothesis import given
from hypothesis import strategies as st

from dask_slides.core.intervals import Intervals, kept_intervals


@st.composite
def grids(draw):
    """Draw (blank rows, tile, size) of an axis."""
    size, tile = draw(st.integers(1, 120)), draw(st.integers(1, 40))
    count = -(-size // tile)
    blank = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    return blank, tile, size


def intervals_of(grid):
    blank, tile, size = grid
    return kept_intervals(blank, np.arange(len(blank)) * tile, tile, size)


def pixels_of(grid):
    """Return the source pixels that are not blank."""
    blank, tile, size = grid
    return oracle.kept_lines(blank[:, None], 0, tile, size)


@given(grids())
def test_intervals_hold_the_pixels_that_are_not_blank(grid):
    intervals, pixels = intervals_of(grid), pixels_of(grid)
    lines = [i for a, b in zip(intervals.starts, intervals.stops, strict=True) for i in range(a, b)]
    assert lines == pixels.tolist()
    assert intervals.length == len(pixels)
    assert len(intervals.starts) == np.count_nonzero(np.diff(pixels) > 1) + bool(len(pixels))


@given(grids(), st.integers(0, 119), st.integers(1, 60))
def test_pieces_of_a_part(grid, start, length):
    intervals, pixels = intervals_of(grid), pixels_of(grid)
    stop = min(start + length, len(pixels))
    found = []
    at = start
    for source, first, size in intervals.pieces(start, stop):
        assert first == at and size > 0
        found += range(source, source + size)
        at += size
    assert found == pixels[start:stop].tolist()


@given(grids())
def test_to_source_and_from_source_at_fractions_of_pixels(grid):
    intervals, pixels = intervals_of(grid), pixels_of(grid)
    fractions = np.arange(16) / 16
    source = (pixels[:, None] + fractions).ravel()
    image = (np.arange(len(pixels))[:, None] + fractions).ravel()
    assert np.array_equal(intervals.from_source(source), image)
    assert np.array_equal(intervals.to_source(image), source)


@given(grids())
def test_points_cut_off_or_outside_are_nan(grid):
    intervals, pixels, size = intervals_of(grid), pixels_of(grid), grid[2]
    gone = np.setdiff1d(np.arange(size), pixels)
    outside = np.concatenate([gone, gone + 0.5, [-1 / 16, -5, size, size + 3, np.nan]])
    assert np.isnan(intervals.from_source(outside)).all()
    assert np.isnan(intervals.to_source(np.array([-0.01, len(pixels) + 0.01, np.nan]))).all()


def test_without_intervals_all_points_are_nan():
    intervals = Intervals((), ())
    assert intervals.length == 0 and intervals.pieces(0, 5) == []
    assert np.isnan(intervals.to_source(np.zeros(2))).all()
    assert np.isnan(intervals.from_source(np.zeros(2))).all()


@given(grids(), st.sampled_from([1, 2, 3, 4, 8]), st.booleans())
def test_scaled_if_no_cut_divides_a_pixel(grid, factor, ceiling):
    intervals, pixels, full = intervals_of(grid), pixels_of(grid), grid[2]
    size = max(1, -(-full // factor) if ceiling else full // factor)
    found = intervals.scaled(float(factor), size, full)
    flags = np.isin(np.arange(full), pixels)
    blocks = [flags[i : i + factor] for i in range(0, full, factor)]
    split = any(block.any() and not block.all() for block in blocks)
    assert (found is None) == split
    if found is not None:
        lines = [i for a, b in zip(found.starts, found.stops, strict=True) for i in range(a, b)]
        assert lines == [i for i, block in enumerate(blocks) if block.all() and i < size]
