"""A feed whose processes are killed, and which goes on with other ranks and workers."""

import itertools
import multiprocessing
import sys
import zlib

import numpy as np
import pytest
from feed_slides import jpeg_stream

from dask_slides import feed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
KILLS = 40


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """Return a stream of five slides."""
    folder = tmp_path_factory.mktemp("slides")
    return jpeg_stream(folder, 5, size=48, length=500, per_visit=4)


def facts(crops):
    """Return number, slide, place, flip and a checksum of the pixels of each crop."""
    names = ("number", "slide", "y", "x", "flip")
    columns = [np.asarray(crops[name]).tolist() for name in names]
    return list(zip(*columns, [zlib.crc32(one) for one in crops["pixels"]], strict=True))


def read(batches, worker, workers, pipe):
    """Send every n-th batch until killed, as a worker of a data loader does."""
    for step in itertools.count(worker, workers):
        pipe.send(facts(batches[step]))


def test_killed_processes_see_each_crop_once(stream):
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    seen, state = [], {"seed": 0, "number": 0}
    for _ in range(KILLS):
        world, workers, size, steps = (int(n) for n in rng.integers(1, (4, 4, 17, 6)))
        pipes, processes = {}, []
        ranks = [
            stream.batches(size, rank=rank, world=world, start=state, window=64, threads=2)
            for rank in range(world)
        ]
        for rank, worker in itertools.product(range(world), range(workers)):
            pipes[rank, worker], child = context.Pipe(duplex=False)
            arguments = (ranks[rank], worker, workers, child)
            processes.append(context.Process(target=read, args=arguments, daemon=True))
            processes[-1].start()
        for step, rank in itertools.product(range(steps), range(world)):
            seen += pipes[rank, step % workers].recv()
        state = ranks[0].state_dict({"number": ranks[0].numbers(steps - 1)})
        for process in processes:
            process.kill()
            process.join()
            assert process.exitcode == -9
    expected = facts(feed.collate(stream.__getitems__(range(state["number"]))))
    assert len(expected) > 2 * len(stream)
    assert sorted(seen) == expected
