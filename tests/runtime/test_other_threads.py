"""Computing does not change state that other threads of the process share."""

import copy
import logging
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import cohort_work
import dask
import dask.array as da
import distributed  # noqa: F401 - else Dask may import it, which adds its configuration
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback

import dask_slides as ds
from dask_slides.runtime.scheduler import compute
from dask_slides.writers.write import write_to

SECONDS = 60
"""A test that takes longer counts as blocked."""


def state():
    """Return state that all threads share and that a library could change."""
    loggers = [logging.getLogger(name) for name in (None, "dask_slides.cohort", "distributed")]
    return copy.deepcopy(
        {
            "dask": dask.config.config,
            "zarr": zarr.config.config,
            "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            "warnings": [repr(one) for one in warnings.filters],
            "loggers": [(one.level, one.propagate, repr(one.handlers)) for one in loggers],
            "hooks": [repr(threading.excepthook), repr(warnings.showwarning)],
        }
    ) | {"callbacks": set(Callback.active)}


@pytest.fixture
def seen(tissue):
    """Return a slide, and a list of the states that its tasks see."""
    states = []

    def look(block):
        if block.size:
            states.append(state())
        return block

    array = da.from_array(tissue, chunks=(100, 140, 3)).map_blocks(look, dtype=tissue.dtype)
    return ds.from_dask(array), states


OPERATIONS = {
    "blank_map": lambda slide, _: ds.blank_map(slide, tile_size=64).compute(),
    "options": lambda slide, _: ds.blank_map(slide, tile_size=64).compute(
        scheduler="threads", num_workers=2
    ),
    "sync": lambda slide, _: ds.blank_map(slide, tile_size=64).compute(scheduler="sync"),
    "cutoff": lambda slide, _: ds.cutoff_resize(slide, downsample=2, tile_size=64),
    "crops": lambda slide, _: ds.random_crops(slide, n=3, size=64, detector=ds.Contrast(0.05)),
    "write": lambda slide, path: ds.write(ds.resize(slide, downsample=2), path / "a.ome.zarr"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_leaves_shared_state_alone(seen, tmp_path, operation):
    slide, states = seen
    before = state()
    OPERATIONS[operation](slide, tmp_path)
    assert states
    for found in states:
        assert found == before
    assert state() == before


def test_a_cohort_leaves_shared_state_alone(tmp_path, monkeypatch):
    folder = cohort_work.slide_files(tmp_path / "s", 2)
    states = []

    def look(*args):
        states.append(state())
        return write_to(*args)

    monkeypatch.setattr("dask_slides.cohort.steps.write_to", look)
    before = state()
    assert ds.run_cohort(folder, job=tmp_path / "job", steps={"mask": {"tile_size": 64}}).done == 2
    assert len(states) == 2
    assert all(found == before for found in states)
    assert state() == before


def test_concurrent_cohorts_log_to_their_own_files(tmp_path, monkeypatch):
    both = threading.Barrier(2)

    def together(*args):
        both.wait(SECONDS)
        return write_to(*args)

    monkeypatch.setattr("dask_slides.cohort.steps.write_to", together)

    def run(name):
        folder = tmp_path / name
        folder.mkdir()
        cohort_work.slide_file(folder / f"{name}.tif", 0)
        return ds.run_cohort(
            folder, job=tmp_path / f"{name}-job", steps={"mask": {"tile_size": 64}}
        )

    with ThreadPoolExecutor(2) as pool:
        assert [result.done for result in pool.map(run, "ab")] == [1, 1]
    for name, other in ("ab", "ba"):
        lines = (tmp_path / f"{name}-job" / "cohort.log").read_text().splitlines()
        assert [line.split(" INFO ")[1].split(",")[0] for line in lines] == [
            "1 slide", f"{name}: done", "ended: 1 done"
        ]  # fmt: skip
        assert not any(f"{other}:" in line for line in lines)


def test_other_computations_continue_when_ours_ends():
    """Another thread starts to compute while our pool exists, and continues without it."""
    began, ended = threading.Event(), threading.Event()
    results = []

    def held(block):
        began.set()
        assert ended.wait(SECONDS)
        return block

    def other():
        first = da.ones(1, chunks=1).map_blocks(held, meta=np.ones(0))
        array = da.concatenate([first, *(da.ones(1, chunks=1) for _ in range(20))]) + first
        try:
            results.append(float(array.sum().compute(scheduler="threads")))
        except RuntimeError as error:  # the pool was shut down
            results.append(error)

    thread = threading.Thread(target=other)

    def meanwhile(block):
        if block.size and not thread.ident:
            thread.start()
            assert began.wait(SECONDS)
        return block

    array = da.ones(1, chunks=1).map_blocks(meanwhile, meta=np.ones(0))
    assert compute(array, "").tolist() == [1]
    ended.set()
    thread.join()
    assert results == [42.0]


def test_no_task_runs_after_another_one_failed():
    """The first task fails while the second one works, and 18 wait."""
    began, ended, working = [], [], threading.Event()

    def task(block):
        if not block.size:
            return block
        began.append(threading.current_thread())
        if began[0] is threading.current_thread():
            assert working.wait(SECONDS)
            raise ZeroDivisionError
        working.set()
        for _ in range(200):
            np.sort(np.tile(block, 10_000))
        ended.append(block)
        return block

    array = da.ones(20, chunks=1).map_blocks(task, meta=np.ones(0))
    with dask.config.set(scheduler="threads", num_workers=2), pytest.raises(ZeroDivisionError):
        compute(array, "")
    # the thread of the failed task may begin another task, which fails too
    assert len(ended) == sum(thread is not began[0] for thread in began)
    assert len(began) < 20
    assert not any(thread.is_alive() for thread in began)


class Names(Callback):
    """Record the names of finished tasks."""

    def __init__(self):
        super().__init__()
        self.keys = []

    def _posttask(self, key, *_):
        self.keys.append(key)


@pytest.mark.parametrize("scheduler", ["threads", "sync", "executor"])
def test_callbacks_of_the_user_are_called(scheduler):
    array = da.ones(5, chunks=1)
    progress = []
    with ThreadPoolExecutor(2) as executor:
        chosen = executor if scheduler == "executor" else scheduler
        with dask.config.set(scheduler=chosen), Names() as names:
            compute(array, "", lambda *done: progress.append(done))
    assert len([key for key in names.keys if key[0].startswith(array.name)]) == 5
    assert progress == [(number, 5) for number in range(6)]


def threads_of(**options):
    """Return the threads that compute a blank map with `options`."""
    found = set()

    def look(block):
        if block.size:
            found.add(threading.current_thread())
        return block

    image = da.full((400, 400, 3), 240, dtype="uint8", chunks=(50, 50, 3))
    slide = ds.from_dask(image.map_blocks(look, dtype="uint8"))
    assert ds.blank_map(slide, tile_size=50).compute(**options).blank.all()
    return found


def test_options_of_a_call_apply_to_that_call_only():
    assert len(threads_of(num_workers=1)) == 1
    assert threads_of(scheduler="sync") == {threading.current_thread()}
    assert threads_of(scheduler=dask.get) == {threading.current_thread()}
    with dask.config.set(scheduler="sync"):
        assert threading.current_thread() not in threads_of(scheduler="Threads")
        assert threads_of() == {threading.current_thread()}
    with ThreadPoolExecutor(2, "mine") as pool:
        for options in ({"pool": pool}, {"scheduler": pool}):
            assert {one.name[:4] for one in threads_of(**options)} == {"mine"}
        assert pool.submit(int).result() == 0  # it was not shut down


def test_a_scheduler_function_needs_no_callbacks():
    called, progress = [], []

    def schedule(graph, keys, **options):
        called.append(options)
        return dask.get(graph, keys)

    array = da.ones(5, chunks=1)
    with dask.config.set(scheduler=schedule):
        assert compute(array, "", lambda *done: progress.append(done)).sum() == 5
    assert called == [{}]
    assert progress[-1] == (5, 5)


@pytest.mark.parametrize("scheduler", ["many", 5])
def test_an_unknown_scheduler_is_refused(scheduler):
    with pytest.raises(ds.errors.SlideArgumentError, match=f"scheduler={scheduler!r}") as error:
        threads_of(scheduler=scheduler)
    assert "\n" not in str(error.value)


FIRST = """
import sys, threading
import dask_slides as ds
import numpy as np

found, begun, other = [], threading.Event(), threading.Event()

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("zarr."):
            found.append((threading.current_thread(), name))
            other.set() if threading.current_thread() is second else begun.set()
            if threading.current_thread() is first and len(found) == 10:
                other.wait(2)  # let the other thread run

sys.meta_path.insert(0, Watch())
image = np.arange(4096, dtype="u1").reshape(64, 64)
pack = ds.pack_tiles(image, tile_size=16, detector=ds.Contrast(0.05))

def write():
    begun.wait()
    ds.write(pack, sys.argv[1])

def load():
    import zarr

first, second = threading.Thread(target=load), threading.Thread(target=write)
second.start(), first.start(), first.join(), second.join()
print(len([name for thread, name in found if thread is second]), len(ds.open_pack(sys.argv[1])))
"""


def test_one_thread_at_a_time_imports_zarr(tmp_path):
    """Its modules import each other, so two threads that start with different ones both fail."""
    words = [sys.executable, "-c", FIRST, tmp_path / "a.tiles.zarr"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "16"], done.stderr
