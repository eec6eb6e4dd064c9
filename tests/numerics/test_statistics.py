import math
from fractions import Fraction

import dask.array as da
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import images, lengths, pixels, seeds, shapes, tiles

import dask_slides as ds
from dask_slides.core.grid import TileGrid
from dask_slides.graph.chunks import MAX_TASKS
from dask_slides.graph.statistics import cell_chunks
from dask_slides.numerics.statistics import (
    FIELDS,
    CellStats,
    add_records,
    record_length,
    record_of,
    unpacked,
)
from dask_slides.ops.blank_map import map_of_grid

integers = st.sampled_from(["uint8", "uint16", "int16", "uint32"])


def map_of(image, tile, fields=FIELDS, chunks="auto"):
    slide = ds.from_dask(da.from_array(image, chunks=chunks))
    grid = TileGrid(image.shape[:2], tile, tile)
    detector = ds.AnyOf((ds.Brightness(), ds.Saturation())) if fields else ds.Contrast()
    return map_of_grid(slide, grid, detector).compute(scheduler="sync")


def whole(function):
    """Return `function` with an exact integer result."""
    return lambda p: int(function(p.astype(object)).sum())


@given(seeds, shapes, tiles, integers, st.sampled_from([1, 3]))
def test_counts_and_sums_are_exact_in_every_cell(seed, shape, tile, dtype, channels):
    image = pixels(seed, (*shape, channels), dtype)
    stats = map_of(image, tile).stats
    assert np.array_equal(stats.count, oracle.per_cell(image, tile, lambda p: p.size))
    assert np.array_equal(stats.total, oracle.per_cell(image, tile, whole(lambda p: p)))
    squares = oracle.per_cell(image, tile, whole(lambda p: p * p))
    if dtype == "uint32":  # squares above 2**53 are rounded
        assert np.allclose(stats.squares, squares.astype(float), rtol=1e-12)
    else:
        assert np.array_equal(stats.squares, squares)


def bins_by_hand(samples, whole):
    """Return counts of greys, first and width of the finest aligned bins for `samples`."""
    values = [Fraction(v) for v in samples.reshape(-1).tolist()]
    low, high = min(values), max(values)
    top = float(max(abs(low), abs(high)))
    power = max(0 if whole else -1074, math.frexp(top)[1] - 53 if top else -1074)
    while math.floor(high / Fraction(2) ** power) - math.floor(low / Fraction(2) ** power) > 255:
        power += 1
    width = Fraction(2) ** power
    first = math.floor(low / width)
    counts = [0] * 256
    for value in oracle.grey(samples).reshape(-1).tolist():
        counts[math.floor(Fraction(value) / width) - first] += 1
    return counts, first * width, width


def part_of_range(seed, shape, dtype):
    """Return noise over a part of the range of `dtype`, as from cameras and other sensors."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        image = rng.normal(rng.normal(0, 100), 10.0 ** rng.integers(-3, 4), shape)
        return image.astype(dtype)
    info = np.iinfo(dtype)
    low, high = sorted(int(n) for n in rng.integers(info.min, info.max, 2, dtype, endpoint=True))
    if rng.random() < 0.7:
        high = min(high, low + int(rng.integers(0, 5000)))
    return rng.integers(low, high, shape, dtype, endpoint=True)


sensors = st.sampled_from(["int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])


@given(seeds, shapes, tiles, sensors, st.sampled_from([1, 3]))
def test_bins_are_the_finest_aligned_ones_for_a_cell(seed, shape, tile, dtype, channels):
    image = part_of_range(seed, (*shape, channels), dtype)
    stats = map_of(image, tile, ("histogram",)).stats
    for row, col, cell in oracle.cells(image, tile):
        counts, first, width = bins_by_hand(cell, image.dtype.kind != "f")
        assert stats.histogram[row, col].tolist() == counts
        assert (stats.first[row, col], stats.width[row, col]) == (first, width)
        assert (stats.low[row, col], stats.high[row, col]) == (cell.min(), cell.max())


@given(seeds, shapes, tiles, sensors)
def test_pooled_histograms_equal_the_histogram_of_the_slide(seed, shape, tile, dtype):
    image = part_of_range(seed, (*shape, 2), dtype)
    counts, first, width = map_of(image, tile, ("histogram",)).stats.pool()
    assert (counts.tolist(), first, width) == bins_by_hand(image, image.dtype.kind != "f")


@given(seeds, shapes, tiles, st.sampled_from([1, 2, 3, 4]))
def test_histograms_of_bytes_count_each_grey_value(seed, shape, tile, channels):
    image = pixels(seed, (*shape, channels), "uint8")
    stats = map_of(image, tile, ("histogram",)).stats
    expected = oracle.per_cell(
        image, tile, lambda p: np.bincount(oracle.grey(p).reshape(-1), minlength=256)
    )
    assert np.array_equal(stats.histogram, expected)
    assert stats.low is None and stats.width is None and not stats.first.any()


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_histograms_of_64_bits_have_53_bits_of_precision(dtype):
    info = np.iinfo(dtype)
    image = np.array([[info.min, info.max], [info.max, info.max - 1]], dtype)[..., None]
    stats = map_of(image, (2, 2)).stats
    assert (stats.low.item(), stats.high.item()) == (float(info.min), float(info.max))
    assert np.flatnonzero(stats.histogram).tolist() == [0, 128]  # 2**63 - 1 is rounded to 2**63
    assert stats.histogram.sum() == 4


def test_extremes_of_float64_are_counted_without_a_warning():
    info = np.finfo(np.float64)
    image = np.array([[info.min, info.max, 0.0, 5e-324, -5e-324]])[..., None]
    found = map_of(image, (1, 5), ("histogram",))
    stats = found.stats
    assert (stats.low.item(), stats.high.item()) == (info.min, info.max)
    assert stats.histogram.sum() == 5 and stats.std.item() == np.inf
    assert not found.with_detector(ds.Contrast()).blank.any()
    flat = map_of(np.full((2, 2, 1), info.min), (2, 2), ("histogram",))
    assert flat.stats.std.item() == 0
    assert flat.with_detector(ds.Contrast(0)).blank.all()


@given(images(), tiles)
def test_mean_and_std_equal_those_of_numpy(image, tile):
    stats = map_of(image, tile).stats
    assert np.allclose(stats.mean, oracle.per_cell(image, tile, np.mean), rtol=1e-12)
    expected = oracle.per_cell(image, tile, lambda p: p.std(dtype=np.float64))
    assert np.allclose(stats.std, expected, rtol=1e-9, atol=1e-6)


def test_only_finite_floats_are_counted():
    image = pixels(3, (30, 40, 3), "float32")
    image[3:9, 5:30] = np.nan
    image[20, 20] = np.inf
    image[20, 21] = -np.inf
    image[:10, :10] = np.nan
    stats = map_of(image, (10, 10)).stats
    finite = oracle.per_cell(image, (10, 10), lambda p: int(np.isfinite(p).sum()))
    assert finite[0, 0] == 0
    assert np.array_equal(stats.count, finite)
    whole = oracle.per_cell(image, (10, 10), lambda p: int(np.isfinite(p).all(axis=-1).sum()))
    assert np.array_equal(stats.histogram.sum(axis=-1), whole)
    total = oracle.per_cell(image, (10, 10), lambda p: p[np.isfinite(p)].astype(float).sum())
    assert np.allclose(stats.total, total, rtol=1e-12)
    assert stats.mean[0, 0] == 0 and stats.std[0, 0] == 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int16", "int64"])
@given(data=st.data())
def test_records_do_not_depend_on_strips(dtype, data):
    image = data.draw(images(dtype=dtype, channels=st.just(3)))
    if dtype != "uint8" and data.draw(st.booleans()):
        image = part_of_range(data.draw(seeds), image.shape, dtype)
    cuts = data.draw(lengths(len(image)))
    record, top = np.zeros(record_length(FIELDS)), 0
    for height in cuts:
        record = record_of(image[top : top + height], FIELDS, record)
        top += height
    assert np.array_equal(record, record_of(image, FIELDS))


@given(seeds, sensors | st.just("uint8"), st.integers(1, 6), st.booleans())
def test_adjacent_cells_have_the_same_records_as_single_cells(seed, dtype, count, holes):
    rng = np.random.default_rng(seed)
    image = pixels(seed, (count, 9, 7, 3), dtype)
    seen = rng.random((count, 9, 7)) < 0.5 if holes else None
    if holes:
        seen[0] = False
    records = np.zeros((count, record_length(FIELDS)))
    for rows in (slice(0, 4), slice(4, 9)):
        add_records(records, image[:, rows], FIELDS, None if seen is None else seen[:, rows])
    for number, record in enumerate(records):
        valid = image[number] if seen is None else image[number][seen[number]][:, None]
        alone = record_of(valid, FIELDS) if valid.size else np.zeros(record_length(FIELDS))
        if valid.size or dtype != "uint8":
            assert np.allclose(record[:3], alone[:3], rtol=1e-12)  # rows have other lengths
            exact = 0 if dtype in ("uint8", "int8", "uint16", "int16") else 3
            assert np.array_equal(record[exact:], alone[exact:])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_statistics_do_not_depend_on_chunks(dtype, monkeypatch):
    image = pixels(11, (230, 90, 3), dtype)
    found = map_of(image, (77, 40), chunks=-1)
    monkeypatch.setattr("dask_slides.graph.statistics.STRIP_PIXELS", 1)
    for chunks in [(7, 90, 3), (31, 11, 1), (230, 1, 3)]:
        again = map_of(image, (77, 40), chunks=chunks)
        assert np.array_equal(again.statistics, found.statistics)


def test_overlapping_tiles_each_have_their_own_pixels():
    image = pixels(5, (50, 60, 3), "uint8")
    grid = TileGrid((50, 60), (20, 24), (7, 9), "shift")
    stats = map_of_grid(ds.from_dask(image), grid, ds.Contrast()).compute().stats
    for row in range(grid.rows):
        for col in range(grid.cols):
            top, left = grid.starts(0)[row], grid.starts(1)[col]
            tile = image[top : top + 20, left : left + 24]
            assert stats.total[row, col] == tile.sum(dtype=np.int64)
            assert stats.count[row, col] == tile.size


def test_packing_and_unpacking():
    rng = np.random.default_rng(0)
    extent = dict(zip(("low", "high", "width"), rng.random((3, 2, 4)), strict=True))
    stats = CellStats(*rng.random((3, 2, 4)), *rng.random((2, 2, 4, 256)), **extent)
    again = unpacked(stats.packed(), FIELDS)
    for name in ("count", "total", "squares", "histogram", "saturation", *extent):
        assert np.array_equal(getattr(again, name), getattr(stats, name))
    bare = unpacked(stats.packed()[..., :3], ())
    assert bare.histogram is None and bare.saturation is None


@pytest.mark.parametrize("side", [1, 7, 256, 4096, 60_000])
def test_a_large_slide_makes_few_tasks_of_whole_cells(side):
    grid = TileGrid((100_000, 100_000), (side, side), (side, side))
    rows, columns = cell_chunks(grid)
    assert (sum(rows), sum(columns)) == (grid.rows, grid.cols)
    assert len(rows) * len(columns) <= MAX_TASKS
