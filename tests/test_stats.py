import dask.array as da
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import images, lengths, pixels, seeds, shapes, tiles

import dask_slides as ds
from dask_slides.blank import map_of_grid
from dask_slides.graph import MAX_TASKS
from dask_slides.grid import TileGrid
from dask_slides.stats import FIELDS, CellStats, cell_chunks, record_length, record_of, unpacked

integers = st.sampled_from(["uint8", "uint16", "int16", "uint32"])


def map_of(image, tile, fields=FIELDS, chunks="auto"):
    slide = ds.from_dask(da.from_array(image, chunks=chunks))
    grid = TileGrid(image.shape[:2], tile, tile)
    detector = ds.AnyOf((ds.Brightness(), ds.Saturation())) if fields else ds.Contrast()
    return map_of_grid(slide, grid, detector).compute(scheduler="sync")


def whole(function):
    """Return a judge that gives a whole number, summed exactly."""
    return lambda p: int(function(p.astype(object)).sum())


@given(seeds, shapes, tiles, integers, st.sampled_from([1, 3]))
def test_counts_and_sums_are_exact_in_every_cell(seed, shape, tile, dtype, channels):
    image = pixels(seed, (*shape, channels), dtype)
    stats = map_of(image, tile).stats
    assert np.array_equal(stats.count, oracle.per_cell(image, tile, lambda p: p.size))
    assert np.array_equal(stats.total, oracle.per_cell(image, tile, whole(lambda p: p)))
    squares = oracle.per_cell(image, tile, whole(lambda p: p * p))
    if dtype == "uint32":  # above 2**53 a square itself is rounded
        assert np.allclose(stats.squares, squares.astype(float), rtol=1e-12)
    else:
        assert np.array_equal(stats.squares, squares)


@given(seeds, shapes, tiles, st.sampled_from(["uint8", "uint16", "int16"]))
def test_histograms_count_the_range_of_the_dtype_in_256_steps(seed, shape, tile, dtype):
    image = pixels(seed, (*shape, 3), dtype)
    info = np.iinfo(dtype)
    step = (int(info.max) - int(info.min) + 1) // 256

    def histogram(p):
        return np.histogram((p.astype(int) - info.min) // step, np.arange(257))[0]

    found = map_of(image, tile).stats.histogram
    assert np.array_equal(found, oracle.per_cell(image, tile, histogram))


@given(images(dtype="float32"), tiles)
def test_float_histograms_hold_0_to_1_and_the_rest_at_the_ends(image, tile):
    def histogram(p):
        return np.histogram(np.clip(np.floor(p.astype(float) * 256), 0, 255), np.arange(257))[0]

    found = map_of(image, tile).stats.histogram
    assert np.array_equal(found, oracle.per_cell(image, tile, histogram))


@given(images(), tiles)
def test_mean_and_std_are_those_of_numpy(image, tile):
    stats = map_of(image, tile).stats
    assert np.allclose(stats.mean, oracle.per_cell(image, tile, np.mean), rtol=1e-12)
    expected = oracle.per_cell(image, tile, lambda p: p.std(dtype=np.float64))
    assert np.allclose(stats.std, expected, rtol=1e-9, atol=1e-6)


def test_of_floats_only_finite_samples_count():
    image = pixels(3, (30, 40, 3), "float32")
    image[3:9, 5:30] = np.nan
    image[20, 20] = np.inf
    image[20, 21] = -np.inf
    image[:10, :10] = np.nan
    stats = map_of(image, (10, 10)).stats
    finite = oracle.per_cell(image, (10, 10), lambda p: int(np.isfinite(p).sum()))
    assert finite[0, 0] == 0
    assert np.array_equal(stats.count, finite)
    assert np.array_equal(stats.histogram.sum(axis=-1), finite)
    total = oracle.per_cell(image, (10, 10), lambda p: p[np.isfinite(p)].astype(float).sum())
    assert np.allclose(stats.total, total, rtol=1e-12)
    assert stats.mean[0, 0] == 0 and stats.std[0, 0] == 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int16"])
@given(data=st.data())
def test_rows_read_in_strips_of_any_height_give_the_same_bits(dtype, data):
    image = data.draw(images(dtype=dtype, channels=st.just(3)))
    cuts = data.draw(lengths(len(image)))
    record, top = np.zeros(record_length(FIELDS)), 0
    for height in cuts:
        record = record_of(image[top : top + height], FIELDS, record)
        top += height
    assert np.array_equal(record, record_of(image, FIELDS))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_the_chunks_of_the_array_change_no_bit(dtype, monkeypatch):
    image = pixels(11, (230, 90, 3), dtype)
    found = map_of(image, (77, 40), chunks=-1)
    monkeypatch.setattr("dask_slides.stats.STRIP_PIXELS", 1)
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


def test_packing_and_unpacking_keep_the_fields():
    rng = np.random.default_rng(0)
    stats = CellStats(*rng.random((3, 2, 4)), *rng.random((2, 2, 4, 256)))
    again = unpacked(stats.packed(), FIELDS)
    for name in ("count", "total", "squares", "histogram", "saturation"):
        assert np.array_equal(getattr(again, name), getattr(stats, name))
    bare = unpacked(stats.packed()[..., :3], ())
    assert bare.histogram is None and bare.saturation is None


@pytest.mark.parametrize("side", [1, 7, 256, 4096, 60_000])
def test_a_large_slide_makes_few_tasks_of_whole_cells(side):
    grid = TileGrid((100_000, 100_000), (side, side), (side, side))
    rows, columns = cell_chunks(grid)
    assert (sum(rows), sum(columns)) == (grid.rows, grid.cols)
    assert len(rows) * len(columns) <= MAX_TASKS
