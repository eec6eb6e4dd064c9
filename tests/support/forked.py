"""Programs of test_fork_safety.py, which fork after a read, as data loaders of PyTorch do.

The test process does not fork itself, because Python warns about forking with threads.
"""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress

import numpy as np
import servers

import dask_slides as ds
from dask_slides.runtime.buffer_pool import POOL
from dask_slides.writers.store.local_folder import locked

CHILDREN, READS = 4, 40
SIZE = 2**21

warnings.simplefilter("ignore", DeprecationWarning)  # Python warns about forking with threads
forked = multiprocessing.get_context("fork")


def wrong_reads(seed):
    """Read random regions; return how many differ from `truth`."""
    rng = np.random.default_rng(seed)
    tall, wide, _ = truth.shape
    wrong = 0
    for _ in range(READS):
        height, width = (int(n) for n in rng.integers(1, 200, 2))
        y, x = (int(rng.integers(0, n - m)) for n, m in ((tall, height), (wide, width)))
        try:
            found = slide.read(y, x, height, width)
        except ds.SlideError:
            wrong += 1
            continue
        wrong += not np.array_equal(found, truth[y : y + height, x : x + width])
    return wrong


def read_in_children(path, expected):
    """Read in children and in the parent at the same time."""
    global slide, truth
    slide, truth = ds.open_slide(path), np.load(expected)
    assert wrong_reads(0) == 0
    with forked.Pool(CHILDREN) as pool:
        there = pool.map_async(wrong_reads, range(1, CHILDREN + 1), chunksize=1)
        here = wrong_reads(0)
        assert there.get(60) == [0] * CHILDREN
    assert here == 0


def tile(i):
    """Return tile `i` of the pack."""
    return pack[i]


def tiles_in_children(path, expected):
    """Read tiles in the parent, then in children, as a loader does."""
    global pack
    pack, tiles = ds.open_pack(path), np.load(expected)
    for i in range(len(pack)):
        assert np.array_equal(pack[i], tiles[i])
    with forked.Pool(CHILDREN) as pool:
        there = pool.map_async(tile, range(len(pack)), chunksize=1)
        assert np.array_equal(np.stack(there.get(60)), tiles)


def blank_cells(path):
    """Return a blank map and tiles of a lazy pack, computed in this process."""
    lazy = ds.pack_tiles(
        ds.from_dask(ds.open_slide(path).data), tile_size=64, detector=ds.Contrast(0.0)
    )
    return ds.blank_map(path, tile_size=64, detector=ds.Contrast(0.05)).compute().blank, lazy[:2]


def computed_in_a_child(path):
    """Compute in a child of a process that has used Dask's thread pool and has a client."""
    import dask.array as da
    from distributed import Client, LocalCluster

    da.ones(10, chunks=1).sum().compute()  # starts threads that a child does not have
    expected = blank_cells(path)
    kind = {"processes": False, "n_workers": 1, "dashboard_address": "127.0.0.1:0"}
    with forked.Pool(1) as pool:
        found = [pool.apply_async(blank_cells, [path]).get(60)]
    with LocalCluster(**kind) as cluster, Client(cluster) as client:
        with forked.Pool(1) as pool:
            found.append(pool.apply_async(blank_cells, [path]).get(60))
        inside = client.submit(forked_in_a_task, path)
        found.append(inside.result(60))
    for one in found:
        for array, truth in zip(one, expected, strict=True):
            assert np.array_equal(array, truth)


def forked_in_a_task(path):
    """Compute in a child that a task forks."""
    from forked import blank_cells  # a child unpickles functions by import

    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply_async(blank_cells, [path]).get(60)


def processes_share_no_memory():
    """Fork with free memory in the pool, fill it in the child, and check it in the parent."""
    first = POOL.array((SIZE,), np.uint8)
    first[:] = 0
    del first
    go, turn = os.pipe()
    child = os.fork()
    mine = POOL.array((SIZE,), np.uint8)
    if not child:
        os.read(go, 1)
        mine[:] = 2
        os._exit(0)
    mine[:] = 1
    os.write(turn, b"1")
    assert os.waitpid(child, 0)[1] == 0
    assert (mine == 1).all()


def locks_are_free_in_a_child():
    """Fork many times while another thread uses the pool."""
    ended = threading.Event()

    def allocate():
        while not ended.is_set():
            POOL.array((SIZE,), np.uint8)

    thread = threading.Thread(target=allocate)
    thread.start()
    try:
        for _ in range(100):
            child = os.fork()
            if not child:
                signal.alarm(20)  # kills a child that waits for a lock
                POOL.array((SIZE,), np.uint8)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        ended.set()
        thread.join()


def a_child_keeps_no_lock_of_a_write(folder):
    """Fork during a write; the child does not keep the store locked."""
    hidden = os.path.join(folder, ".a.partial")
    go, turn = os.pipe()
    with locked(hidden, "a"):
        child = os.fork()
        if not child:
            os.close(turn)  # so that the child ends with its parent
            os.read(go, 1)
            os._exit(0)
        try:
            with locked(hidden, "a"):
                raise AssertionError("locked twice")
        except ds.errors.OutputBusyError:
            pass
    with locked(hidden, "a"):
        pass
    os.write(turn, b"1")
    assert os.waitpid(child, 0)[1] == 0


def a_child_leaves_the_lock_to_its_parent(folder):
    """Fork during a write and end the write in the child; the parent keeps the lock."""
    hidden = os.path.join(folder, ".a.partial")
    with suppress(SystemExit), locked(hidden, "a"):
        child = os.fork()
        if not child:
            raise SystemExit
        assert os.waitpid(child, 0)[1] == 0
        with suppress(ds.errors.OutputBusyError), locked(hidden, "a"):
            raise AssertionError("locked twice")


def raised(slide):
    """Read, and return the class and message of the error."""
    try:
        slide.read(0, 0, 10, 10)
    except ds.SlideError as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def remote_is_refused_in_a_child(folder, name):
    """Read from a server in the parent, then in a child."""
    with servers.web_server(folder) as (address, _):
        slide = ds.open_slide(f"{address}/{name}")
        assert raised(slide) == ("nothing", "")
        with forked.Pool(1) as pool:
            kind, text = pool.apply_async(raised, [slide]).get(60)
        assert (kind, "spawn" in text, name in text) == ("SlideUnsupportedError", True, True)
        assert raised(slide) == ("nothing", "")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
