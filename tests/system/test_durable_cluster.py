"""Clusters that fail: tasks that kill their worker, and workers that are killed."""

import os
import random
import signal
import threading
import time
from contextlib import contextmanager

import dask
import durable_work as work
import fault_work
import pytest
from distributed.core import Status
from durable_work import contents
from rw_fixtures import one_line
from scheduler_processes import local_client

import dask_slides as ds
from dask_slides.runtime.local_cluster import TIMEOUTS


@contextmanager
def cluster_of(workers, failures=0, **options):
    """Start a cluster of processes that gives up a task after it killed `failures` + 1 workers."""
    settings = {"distributed.scheduler.allowed-failures": failures, **TIMEOUTS}
    with dask.config.set(settings), local_client(workers, **options) as client:
        yield client.cluster


def journal(folder):
    """Count the tasks in the journals of hidden stores in `folder`."""
    return len([one for one in folder.glob(".*.partial/.journal/*.json")])


@pytest.mark.parametrize("fault", ["killed", pytest.param("segfault", marks=pytest.mark.slow)])
def test_a_tile_that_kills_its_worker_is_named_and_all_else_is_done(tmp_path, source, fault):
    switch = tmp_path / "switch"
    switch.touch()
    out = tmp_path / "out" / "a.zarr"
    out.parent.mkdir()
    slide = fault_work.faulty(source, [(700, 1100)], fault, switch)
    with cluster_of(2):
        with pytest.raises(ds.errors.WorkerKilledError, match="every worker ended in it") as error:
            ds.write(slide, out)
        assert "s.tif: level 0, y 512, x 1024, 512 x 476 px" in one_line(error)
        assert error.value.blocks == ((2, 1),)  # along x, and y
        assert isinstance(error.value, RuntimeError)
        assert not out.exists()
        assert (
            journal(out.parent) == 9 - 1
        )  # recorded without resume=True, as the other tasks succeeded
        switch.unlink()
        ds.write(slide, out, resume=True)
    ds.verify(out)
    assert os.listdir(out.parent) == ["a.zarr"]
    ds.write(slide, tmp_path / "b.zarr")
    assert contents(out) == contents(tmp_path / "b.zarr")


@pytest.mark.slow
def test_a_task_that_takes_all_memory_is_named(tmp_path, source):
    switch = tmp_path / "switch"
    switch.touch()
    slide = fault_work.faulty(source, [(10, 10)], "out of memory", switch)
    with (
        dask.config.set({"distributed.worker.memory.monitor-interval": "20ms"}),
        cluster_of(1, memory_limit="400MB"),
        pytest.raises(ds.errors.WorkerKilledError, match=r"out of memory.*more memory") as error,
    ):
        ds.write(slide, tmp_path / "a.zarr", resume=True)
    assert "level 0, y 0, x 0, 512 x 512 px" in one_line(error)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.slow
def test_a_process_of_a_pool_that_ends(tmp_path, source):
    """The process pool of Dask does not restart processes."""
    switch = tmp_path / "switch"
    switch.touch()
    slide = fault_work.faulty(source, [(10, 10)], "killed", switch)
    with dask.config.set(scheduler="processes", num_workers=2):
        with pytest.raises(ds.errors.WorkerKilledError, match="use a cluster"):
            ds.write(slide, tmp_path / "a.zarr", resume=True)
        assert not (tmp_path / "a.zarr").exists()
        switch.unlink()
        ds.write(slide, tmp_path / "a.zarr", resume=True)
    ds.verify(tmp_path / "a.zarr")


def test_the_slide_changes_while_per_cluster_reads_it(tmp_path):
    slide = work.slide_file(tmp_path / "s.tif", side=3000)  # many blocks are left after the first

    def replaced(done, total):
        if done == 1:
            os.utime(slide, ns=(1, 1))

    with (
        cluster_of(1),
        pytest.raises(ds.errors.SlideChangedError, match="changed since it was opened"),
    ):
        ds.write(ds.open_slide(slide), tmp_path / "a.zarr", progress=replaced)
    assert os.listdir(tmp_path) == ["s.tif"]


def _kill_workers(cluster, chance, stop, killed, count):
    """Kill `count` workers one after another, as the system does when memory is low.

    Each kill comes at a random moment after all workers have started again. Faster kills would
    leave no time for tasks, and Dask gives up workers that end while they start.
    """
    left, limit = count, time.monotonic() + 60
    while left and time.monotonic() < limit and not stop.wait(chance.uniform(0.05, 0.8)):
        nannies = [one.process for one in cluster.workers.values() if one.process]
        running = [one for one in nannies if one.status == Status.running and one.pid]
        if len(cluster.scheduler.workers) == len(cluster.workers) == len(running):
            victim = chance.choice(running).pid
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
            left, limit = left - 1, time.monotonic() + 60


@pytest.mark.parametrize(
    "count",
    [4, pytest.param(int(os.environ.get("DASK_SLIDES_KILLS", "100")), marks=pytest.mark.slow)],
)
def test_killed_workers(tmp_path, source, expected, count):
    """Write repeatedly while `count` workers are killed; each store equals an undisturbed one.

    A new cluster is started every ten kills.
    """
    seed = int(os.environ.get("DASK_SLIDES_SEED", "1"))
    print(f"DASK_SLIDES_SEED={seed}")
    chance, killed, writes = random.Random(seed), [], 0
    while len(killed) < count:
        stop, some = threading.Event(), min(10, count - len(killed))
        with cluster_of(3, failures=100) as cluster:
            arguments = (cluster, chance, stop, killed, some)
            thread = threading.Thread(target=_kill_workers, args=arguments)
            thread.start()
            try:
                while thread.is_alive():
                    out = tmp_path / f"{writes}.zarr"
                    ds.write(work.made("image", source), out, resume=True)
                    ds.verify(out)
                    assert contents(out) == expected["image"]
                    writes += 1
            finally:
                stop.set()
                thread.join()
    assert len(killed) == count
    assert sorted(os.listdir(tmp_path)) == sorted(f"{n}.zarr" for n in range(writes)) != []
