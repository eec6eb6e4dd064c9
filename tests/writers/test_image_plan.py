"""Plans of images up to a million pixels per side: whole shards, each pixel once, few tasks."""

from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from dask_slides.core.grid import TileGrid
from dask_slides.core.source import Level, Source
from dask_slides.graph.chunks import default_chunks
from dask_slides.graph.statistics import cell_chunks
from dask_slides.writers.image_plan import plan_image

LARGE = 102_400
MILLION = 1_000_000

sides = st.one_of(
    st.integers(1, 5000), st.integers(1, MILLION), st.sampled_from([255, 256, 4096, 4097, LARGE])
)
ratios = st.floats(0.1, 100)


class Stub(Source):
    """A source that has levels but no pixels."""

    channels = 3
    dtype = np.dtype("uint8")
    name = "stub"

    def __init__(self, *levels):
        self.levels = levels

    def read(self, level, region):
        raise AssertionError("plans read nothing")


def stub(shape, tile):
    return Stub(Level(shape, (1.0, 1.0), tile))


def halved(size, times):
    for _ in range(times):
        size = (size + 1) // 2
    return size


@given(
    st.tuples(sides, sides), ratios, st.integers(0, 40_000), st.sampled_from([4096, 8192]),
    st.booleans(),
)  # fmt: skip
@example((MILLION, MILLION), 1.0, 0, 8192, True)
@example((LARGE, LARGE), 1.0, 35_000, 4096, True)
@example((LARGE, LARGE), 1.0, 0, 4096, False)
@example((10_240, 10_240), 10.0, 0, 8192, True)
@example((10_240, 10_240), 10.0, 3431, 8192, False)
@example((1, MILLION), 3.7, 0, 8192, True)
@example((9001, 203), 1.0, 0, 4096, True)
def test_every_pixel_is_written_once_and_every_shard_by_one_task(shape, ratio, span, aim, sharded):
    plan = plan_image(shape, ratio, span=span, aim=aim, sharded=sharded)
    assert max(stage.side**2 * stage.blocks_per_read for stage in plan.stages) <= 4096**2
    written = []
    for stage in plan.stages:
        base = stage.levels[0] - stage.halvings
        assert base == (written[-1] if stage.halvings else 0)
        for axis in (0, 1):
            size = plan.levels[base].shape[axis]
            step = stage.side * (stage.blocks_per_read if axis else 1)
            blocks = range(0, size, step)
            for number in stage.levels:
                level = plan.levels[number]
                times = number - base
                pieces = [
                    (start >> times, halved(min(step, size - start), times)) for start in blocks
                ]
                assert pieces[0][0] == 0
                for (start, length), (after, _) in pairwise(pieces):
                    assert start + length == after  # no gap, no overlap
                assert sum(pieces[-1]) == level.shape[axis]
                # blocks start at shards, so no two tasks write the same shard
                assert level.shard % level.chunk == 0
                assert all(start % level.shard == 0 for start, _ in pieces)
        written += stage.levels
    assert written == list(range(len(plan.levels)))


@given(st.tuples(sides, sides), ratios, st.sampled_from([4096, 8192]))
@example((6144, 6144), 10.0, 8192)
@example((2048, 2048), 10.0, 8192)
@example((159745, 159745), 0.1, 4096)
def test_tasks_write_several_small_shards(shape, ratio, aim):
    plan, alone = plan_image(shape, ratio, aim=aim), plan_image(shape, ratio, aim=1)
    assert plan.levels == alone.levels
    stage = plan.stages[0]
    assert (stage.blocks_per_read, alone.stages[0].reads_per_task) == (1, 1)
    if stage.reads_per_task > 1:
        # floats round: 0.1 squared is a little more than 0.01
        assert stage.side**2 * stage.reads_per_task * ratio**2 <= aim**2 * (1 + 1e-12)
        rows, columns = plan.blocks(stage)
        assert rows * columns >= 16  # enough for a few threads


@given(st.tuples(sides, sides), ratios)
@example((255, 1), 1.0)
@example((511, 512), 1.0)
@example((256, 256), 1.0)
def test_levels_halve_down_to_256(shape, ratio):
    levels = plan_image(shape, ratio).levels
    assert levels[0].shape == shape
    for above, below in pairwise(levels):
        assert below.shape == tuple((n + 1) // 2 for n in above.shape)
    assert max(levels[-1].shape) >= min(256, max(shape))
    assert halved(max(levels[-1].shape), 1) < 256


@given(st.tuples(sides, sides), ratios)
@example((LARGE, LARGE), 1.0)
@example((LARGE, LARGE), 0.5)  # enlarged
@example((LARGE, LARGE), 0.1)
@example((MILLION, 100_000), 1.0)
def test_the_number_of_tasks_and_their_memory_are_limited(shape, ratio):
    plan = plan_image(shape, ratio)
    count = sum(rows * columns for rows, columns in map(plan.blocks, plan.stages))
    assert count == plan.tasks
    largest = max(stage.side for stage in plan.stages)
    if max(shape) <= LARGE:
        assert plan.tasks <= 1000
    # larger images have more tasks, but still at most 4,096 px per side
    assert largest <= 4096
    assert plan.pixels == sum(level.shape[0] * level.shape[1] for level in plan.levels)


@given(st.tuples(sides, sides), st.tuples(st.integers(1, 4096), st.integers(1, 4096)))
@example((MILLION, MILLION), (512, 512))
@example((LARGE, LARGE), (256, 256))
@example((LARGE, LARGE), (16, LARGE))
def test_default_chunks_are_few_and_whole_tiles(shape, tile):
    tile = tuple(min(a, b) for a, b in zip(tile, shape, strict=True))
    side = default_chunks(stub(shape, tile), 0)
    pieces = [-(-n // s) for n, s in zip(shape, side, strict=True)]
    assert pieces[0] * pieces[1] <= 1000 or side[0] * side[1] >= 2**26
    # whole tiles, so that none is decoded twice
    assert all(s % t == 0 or s >= n for s, t, n in zip(side, tile, shape, strict=True))


@given(
    st.tuples(sides, sides),
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.sampled_from(["drop", "pad", "shift"]),
    st.booleans(),
)
@example((MILLION, MILLION), (256, 256), "pad", False)
@example((MILLION, MILLION), (1, 1), "pad", False)
def test_every_cell_is_in_one_task(shape, tile, edge, overlapping):
    stride = tuple(max(1, t // 2) for t in tile) if overlapping else tile
    grid = TileGrid(shape, tile, stride, edge)
    if not grid.rows * grid.cols:
        return
    rows, columns = cell_chunks(grid)
    assert (sum(rows), sum(columns)) == (grid.rows, grid.cols)
    assert min(*rows, *columns) >= 1
    assert len(rows) * len(columns) <= 1000


@given(st.tuples(sides, sides), ratios, st.sampled_from([512, 1024, 2048]), st.booleans())
def test_shards_can_be_limited(shape, ratio, largest, sharded):
    """Blocks still start at shards, and sums for the next stage are not sharded."""
    plan = plan_image(shape, ratio, largest, sharded=sharded)
    assert plan.stages[0].side <= largest
    whole = plan_image(shape, ratio, sharded=sharded)
    assert [level.shape for level in plan.levels] == [level.shape for level in whole.levels]
    for stage in plan.stages:
        for at, number in enumerate(stage.levels):
            level, side = plan.levels[number], stage.side >> (stage.halvings + at)
            assert level.shard % level.chunk == 0
            assert side >= max(level.shape) or side % level.shard == 0
    for one in (plan, whole):
        sums = [one.levels[stage.levels[-1]] for stage in one.stages[:-1]]
        assert all(level.shard == level.chunk for level in sums)


@given(
    st.tuples(sides, sides),
    ratios,
    st.sampled_from([2048, 4096]),
    st.sampled_from([128, 512, 1024]),
)
def test_the_side_of_chunks_can_be_given(shape, ratio, largest, chunk):
    """Tiles of a TIFF are chunks; the levels and the rules of shards stay the same."""
    plan = plan_image(shape, ratio, largest, chunk=chunk)
    assert [level.shape for level in plan.levels] == [
        level.shape for level in plan_image(shape, ratio).levels
    ]
    assert {level.chunk for level in plan.levels} == {chunk}
    assert [n for stage in plan.stages for n in stage.levels] == list(range(len(plan.levels)))
    for stage in plan.stages:
        assert stage.side <= largest
        for at, number in enumerate(stage.levels):
            level, side = plan.levels[number], stage.side >> (stage.halvings + at)
            assert level.shard % chunk == 0
            assert side >= max(level.shape) or side % level.shard == 0
    sums = [plan.levels[stage.levels[-1]] for stage in plan.stages[:-1]]
    assert all(level.shard == chunk for level in sums)


def test_the_number_of_files_without_shards_is_limited():
    plan = plan_image((LARGE, LARGE), sharded=False)
    assert all(level.shard == level.chunk == 1024 for level in plan.levels)
    # 100 x 100 chunks of level 0, a quarter of them of each further level, and partial ones
    files = [-(-level.shape[0] // 1024) * -(-level.shape[1] // 1024) for level in plan.levels]
    assert files[0] == 10_000
    assert sum(files) < 13_400
    levels = plan_image((LARGE, LARGE)).levels
    assert sum(np.prod([-(-n // one.shard) for n in one.shape]) for one in levels) < 2_750
