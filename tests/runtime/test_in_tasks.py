"""Operations inside a task of a scheduler do not block the workers that they wait for."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import distributed
import numpy as np
import pytest
import tifffile

import dask_slides as ds

SECONDS = 120
"""A call that takes longer counts as blocked."""


def blank_map(path):
    return ds.blank_map(path, tile_size=64).compute().blank


def resize(path):
    return ds.resize(path, downsample=3).data.compute()


def cutoff_resize(path):
    return ds.cutoff_resize(path, downsample=2, tile_size=64).image.data.compute()


def pack_tiles(path):
    pack = ds.pack_tiles(path, tile_size=64, detector=ds.Contrast(0.05))
    return np.stack([pack[0], *pack[1:3], pack.tiles[3].compute()])


def check_slide(path):
    return np.array([ds.check_slide(path).good])


def free_path(path, suffix):
    """Return a path beside `path` that no other process uses."""
    return str(Path(path).with_name(uuid.uuid4().hex + suffix))


def write(path):
    out = ds.write(ds.resize(path, downsample=2), free_path(path, ".ome.zarr"))
    return ds.open_slide(out).data.compute()


def write_pack(path):
    pack = ds.pack_tiles(path, tile_size=64, detector=ds.Contrast(0.05))
    return ds.open_pack(ds.write(pack, free_path(path, ".tiles.zarr")))[:]


def run_cohort(path):
    steps = {"mask": {"tile_size": 64}, "resize": {"downsample": 2}}
    results = [ds.run_cohort([path], job=free_path(path, ""), steps=steps, whole_below=limit)
               for limit in (250.0, 0.0)]  # fmt: skip
    return np.array([(one.done, one.failed) for one in results])


OPERATIONS = (
    blank_map, resize, cutoff_resize, pack_tiles, check_slide, write, write_pack, run_cohort
)  # fmt: skip


@pytest.fixture(scope="module")
def path(tissue, tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "s.tif"
    tifffile.imwrite(path, tissue, tile=(64, 64), compression="zlib", photometric="rgb")
    return str(path)


@pytest.fixture(scope="module")
def expected(path):
    """Return the results outside of a task, in one thread."""
    with dask.config.set(scheduler="sync"):
        return {function: function(path) for function in OPERATIONS}


KINDS = {
    "one process": {"n_workers": 1, "threads_per_worker": 1, "host": "127.0.0.1"},
    "threads of this process": {"processes": False, "n_workers": 1, "threads_per_worker": 2},
}


@pytest.fixture(scope="module", params=KINDS)
def client(request):
    kind = KINDS[request.param]
    with (
        distributed.LocalCluster(**kind, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


def in_a_task(client, function, *arguments):
    return client.submit(function, *arguments, pure=False).result(timeout=SECONDS)


@pytest.mark.parametrize("function", OPERATIONS, ids=lambda one: one.__name__)
def test_an_operation_in_a_task_gives_the_same_result(client, path, expected, function):
    assert np.array_equal(in_a_task(client, function, path), expected[function])


def test_more_tasks_than_threads_do_not_block(client, path, expected):
    functions = (*OPERATIONS[:4], *OPERATIONS[:4])
    futures = [client.submit(one, path, pure=False) for one in functions]
    for future, function in zip(futures, functions, strict=True):
        assert np.array_equal(future.result(timeout=SECONDS), expected[function])


def nested(path, depth):
    if not depth:
        return blank_map(path)
    with distributed.worker_client() as inner:
        below = inner.submit(nested, path, depth - 1, pure=False).result()
        inside = blank_map(path)  # this thread has left the pool already
    assert np.array_equal(below, inside)
    return blank_map(path)


def test_nested_tasks_do_not_block(client, path, expected):
    assert np.array_equal(in_a_task(client, nested, path, 2), expected[blank_map])


def failing(path):
    damaged = ds.from_dask(ds.open_slide(path).data.map_blocks(lambda block: 1 / 0, dtype="uint8"))
    ds.blank_map(damaged, tile_size=64).compute()


def test_a_thread_rejoins_the_pool_after_a_failure(client, path, expected):
    for _ in range(3):  # more than the threads
        with pytest.raises(ZeroDivisionError):
            in_a_task(client, failing, path)
    assert np.array_equal(in_a_task(client, blank_map, path), expected[blank_map])


def threads_of_dask(path):
    lazy = [dask.delayed(blank_map)(path) for _ in range(3)]
    return np.stack(dask.compute(*lazy, scheduler="threads", num_workers=3))


def threads_of_python(path):
    with ThreadPoolExecutor(3) as pool:
        return np.stack(list(pool.map(blank_map, [path] * 3)))


async def coroutine(path):
    return np.stack([blank_map(path)])


@pytest.mark.parametrize("function", [threads_of_dask, threads_of_python, coroutine])
def test_threads_that_a_task_starts_do_not_block(client, path, expected, function):
    """Only the task could leave the pool of the worker, but it waits for these threads."""
    if function is threads_of_python and client.cluster.processes is False:
        pytest.skip("cannot recognize such a thread in the process of the cluster")
    in_a_task(client, blank_map, path)  # the worker has a client from now on
    assert (in_a_task(client, function, path) == expected[blank_map]).all()


def test_an_asynchronous_client_is_refused(path):
    async def main():
        kind = KINDS["threads of this process"] | {"dashboard_address": "127.0.0.1:0"}
        async with (
            distributed.LocalCluster(**kind, asynchronous=True) as cluster,
            distributed.Client(cluster, asynchronous=True),
        ):
            with pytest.raises(ds.errors.SlideArgumentError, match="asynchronous"):
                blank_map(path)

    asyncio.run(main())


@pytest.mark.parametrize("scheduler", ["threads", "sync", "processes"])
def test_tasks_of_local_schedulers_give_the_same_result(path, expected, scheduler):
    lazy = [dask.delayed(function)(path) for function in OPERATIONS[:5]]
    results = dask.compute(*lazy, scheduler=scheduler, num_workers=2)
    for found, function in zip(results, OPERATIONS[:5], strict=True):
        assert np.array_equal(found, expected[function])


def test_compute_accepts_a_client(client, path, expected):
    def tasks_done():
        return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)

    before = tasks_done()
    found = ds.blank_map(path, tile_size=64).compute(scheduler=client)
    assert np.array_equal(found.blank, expected[blank_map])
    assert tasks_done() > before
