import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_slides.core.intervals import Intervals, kept_intervals


@st.composite
def grids(draw):
    """Return (blank lines, tile, size) of an axis."""
    size, tile = draw(st.integers(1, 120)), draw(st.integers(1, 40))
    count = -(-size // tile)
    blank = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    return blank, tile, size


def runs_of(grid):
    blank, tile, size = grid
    return kept_intervals(blank, np.arange(len(blank)) * tile, tile, size)


def kept_of(grid):
    blank, tile, size = grid
    return oracle.kept_lines(blank[:, None], 0, tile, size)


@given(grids())
def test_runs_are_the_kept_lines_and_neighbours_are_one_run(grid):
    runs, kept = runs_of(grid), kept_of(grid)
    lines = [i for a, b in zip(runs.starts, runs.stops, strict=True) for i in range(a, b)]
    assert lines == kept.tolist()
    assert runs.length == len(kept)
    assert len(runs.starts) == np.count_nonzero(np.diff(kept) > 1) + bool(len(kept))


@given(grids(), st.integers(0, 119), st.integers(1, 60))
def test_pieces_are_what_a_part_is_made_of(grid, start, length):
    runs, kept = runs_of(grid), kept_of(grid)
    stop = min(start + length, len(kept))
    found = []
    at = start
    for source, first, size in runs.pieces(start, stop):
        assert first == at and size > 0
        found += range(source, source + size)
        at += size
    assert found == kept[start:stop].tolist()


@given(grids())
def test_every_sixteenth_of_a_kept_pixel_is_found_there_and_back(grid):
    runs, kept = runs_of(grid), kept_of(grid)
    fractions = np.arange(16) / 16
    source = (kept[:, None] + fractions).ravel()
    image = (np.arange(len(kept))[:, None] + fractions).ravel()
    assert np.array_equal(runs.from_source(source), image)
    assert np.array_equal(runs.to_source(image), source)


@given(grids())
def test_cut_lines_and_points_outside_are_nan(grid):
    runs, kept, size = runs_of(grid), kept_of(grid), grid[2]
    gone = np.setdiff1d(np.arange(size), kept)
    outside = np.concatenate([gone, gone + 0.5, [-1 / 16, -5, size, size + 3, np.nan]])
    assert np.isnan(runs.from_source(outside)).all()
    assert np.isnan(runs.to_source(np.array([-0.01, len(kept) + 0.01, np.nan]))).all()


def test_the_end_of_the_kept_image_is_the_end_of_the_last_run():
    runs = Intervals((2, 8), (5, 10))
    assert runs.to_source(np.array([0, 2.5, 3, 5])).tolist() == [2, 4.5, 8, 10]


def test_nothing_kept_is_nan_everywhere():
    runs = Intervals((), ())
    assert runs.length == 0 and runs.pieces(0, 5) == []
    assert np.isnan(runs.to_source(np.zeros(2))).all()
    assert np.isnan(runs.from_source(np.zeros(2))).all()


@given(grids(), st.sampled_from([1, 2, 3, 4, 8]), st.booleans())
def test_a_level_has_the_runs_only_where_cuts_fall_between_its_pixels(grid, factor, ceiling):
    runs, kept, full = runs_of(grid), kept_of(grid), grid[2]
    size = max(1, -(-full // factor) if ceiling else full // factor)
    found = runs.scaled(float(factor), size, full)
    flags = np.isin(np.arange(full), kept)
    blocks = [flags[i : i + factor] for i in range(0, full, factor)]
    split = any(block.any() and not block.all() for block in blocks)
    assert (found is None) == split
    if found is not None:
        lines = [i for a, b in zip(found.starts, found.stops, strict=True) for i in range(a, b)]
        assert lines == [i for i, block in enumerate(blocks) if block.all() and i < size]


@pytest.mark.parametrize("factor", [1.5, 2.01])
def test_a_level_whose_factor_is_not_whole_is_never_cut(factor):
    assert Intervals((0,), (6,)).scaled(factor, 4, 6) is None
