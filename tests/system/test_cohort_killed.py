"""Killed or interrupted runs over many slides continue and repeat no finished work."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import cohort_work as work
import dask
import pytest
from scheduler_processes import scheduler_and_worker

import dask_slides as ds
from dask_slides.cohort.card import CARD

WAIT = 120
"""Seconds after which a test fails."""
COMMAND_STEPS = {
    "resize": {"downsample": 2},
    "pack": {"tile_size": 64, "detector": ds.Contrast(0.2)},
}


def wait_for(condition, process):
    """Poll until `condition` holds or `process` has ended."""
    end = time.monotonic() + WAIT
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def killed(folder, job, journal, count):
    """Run a cohort in a process, and kill it after `count` more stores are done."""
    words = [sys.executable, work.__file__, folder, job, journal]
    process = subprocess.Popen([str(word) for word in words], start_new_session=True)
    before = len(work.stores(job))
    wait_for(lambda: len(work.stores(job)) >= before + count, process)
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("slides", "kills"), [(20, 1), pytest.param(200, 5, marks=pytest.mark.slow)]
)
def test_a_killed_run_continues(tmp_path, slides, kills):
    """Kill a run at `kills` random moments, then let it end; each store is written once."""
    folder, job = work.slide_files(tmp_path / "s", slides), tmp_path / "job"
    journal = tmp_path / "journal"
    chance = random.Random(slides)
    known = {}
    for _ in range(kills):
        killed(folder, job, journal, chance.randrange(1, 3 * slides // kills))
        assert len(work.table(job)) == slides  # the list is complete at any moment
        now = work.stores(job)
        assert known.items() <= now.items()
        known = now
    assert len(known) < 4 * slides, "the last kill came after the end"
    words = [sys.executable, work.__file__, folder, job, journal]
    assert subprocess.run([str(word) for word in words], check=False).returncode == 0
    assert known.items() <= work.stores(job).items()
    assert len(work.stores(job)) == 4 * slides
    assert work.statuses(job) == {f"s{n:04}": "done" for n in range(slides)}
    made = Counter(lines(journal))
    assert set(made.values()) == {1}
    assert 4 * slides - len(made) <= 2 * kills  # a kill may come between a store and its line
    for store in job.glob("*/*.zarr"):
        ds.verify(store)
    left = [path for path in job.rglob("*.partial*")]
    assert not left


def results(job):
    """Return the stores of a job, and an identity of each other finished file.

    The card of a slide is written again after each step.
    """
    records = [path for path in job.glob("*/.*.json") if path.name != CARD]
    files = [*job.glob("exports/*/*.csv"), *job.glob("*/size.txt"), *records]
    return work.stores(job) | {
        str(file): file.stat().st_ino for file in files if file.read_bytes() != b"{}"
    }


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count", "least"), [("stores", 2, 50), ("files", 4, 10)])
def test_a_run_may_be_killed_before_any_operation_on_the_disk(tmp_path, kind, count, least):
    folder, process = work.slide_files(tmp_path / "s", 1), multiprocessing.get_context("forkserver")
    process.set_forkserver_preload(["dask_slides", "zarr", "tifffile", "imagecodecs"])
    for step in range(1, 1000):
        job = tmp_path / str(step)
        killed = process.Process(target=work.run_until, args=(step, kind, folder, job))
        killed.start()
        killed.join()
        before = work.stores(job)
        for store in before:
            ds.verify(job / store)
        records = {path: one for path, one in results(job).items() if path.endswith(".json")}
        with dask.config.set(scheduler="sync"):
            assert ds.run_cohort(folder, job=job, steps=work.KILLED[kind]).done == 1
        after = results(job)
        assert len(after) == count
        assert (before | records).items() <= after.items()
        assert not [path for path in job.rglob("*.partial*")]
        if killed.exitcode == 0:
            break
    assert step > least


def command(folder, job, *words):
    """Start `dask-slides run` with the steps of `COMMAND_STEPS`."""
    words = ["run", folder, "-o", job, "--steps", "resize,pack", "--downsample", 2,
             "--pack-tile-size", 64, "--pack-detector", "contrast", "--pack-ratio", 0.2,
             *words]  # fmt: skip
    words = [sys.executable, "-m", "dask_slides", *map(str, words)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: any(": done" in line for line in lines(job / "cohort.log")), process)
    return process


def check_continued(folder, job, slides):
    """Continue a run that was interrupted; it repeats no finished work."""
    found = Counter(work.statuses(job).values())
    assert set(found) == {"done", "todo"}
    before = work.stores(job)
    whole = Counter(path.split("/")[0] for path in before)
    assert found["done"] == sum(count == 2 for count in whole.values())
    with dask.config.set(scheduler="threads", num_workers=2):
        result = ds.run_cohort(folder, job=job, steps=COMMAND_STEPS)
    assert (result.done, result.worked_on) == (slides, found["todo"])
    assert before.items() <= work.stores(job).items()


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_run(tmp_path):
    folder, job = work.slide_files(tmp_path / "s", 6), tmp_path / "job"
    file = tmp_path / "scheduler.json"
    with scheduler_and_worker(file, workers=1, cwd=tmp_path) as (scheduler, _):
        process = command(folder, job, "--scheduler", file)
        scheduler.kill()
        said = process.communicate()[1]
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("dask-slides: the scheduler was lost")
    check_continued(folder, job, 6)


@pytest.mark.parametrize(
    ("number", "scheduler"), [(signal.SIGTERM, "threads"), (signal.SIGINT, "processes")]
)
def test_an_interrupted_run_continues(tmp_path, number, scheduler):
    folder, job = work.slide_files(tmp_path / "s", 60), tmp_path / "job"
    process = command(folder, job, "--workers", 2, "--scheduler", scheduler)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode in (1, 128 + number)
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert said.splitlines()[-1] == (
        f"dask-slides: {word}; finished work is kept; run the same command again to continue"
    )
    assert "Traceback" not in said
    check_continued(folder, job, 60)
