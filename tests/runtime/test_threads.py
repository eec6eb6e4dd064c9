"""Work in threads without a graph."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dask_slides.runtime.threads import HelpingPool, in_threads, override_settings

NUMBERS = np.arange(64)


def threads_used(meet):
    """Call `in_threads`; the first `meet` parts wait for each other. Return numbers and threads."""
    barrier = threading.Barrier(meet)
    seen, used = [], set()

    def call(part):
        if threading.get_ident() not in used:
            used.add(threading.get_ident())
            barrier.wait(timeout=60)
        seen.extend(part.tolist())

    in_threads(call, NUMBERS)
    assert sorted(seen) == NUMBERS.tolist()
    return len(used)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_main_thread_shares_out_to_as_many_threads_as_are_configured(workers):
    with override_settings({"num_workers": workers}):
        assert threads_used(workers) == workers


def test_idle_threads_of_a_pool_help():
    with HelpingPool(3) as pool:
        assert pool.submit(threads_used, 3).result() == 3


def test_busy_threads_of_a_pool_do_not_help_and_are_not_waited_for():
    with HelpingPool(2) as pool:
        free = threading.Event()
        busy = pool.submit(free.wait, 60)
        assert pool.submit(threads_used, 1).result() == 1
        free.set()
        assert busy.result()


def test_two_tasks_of_a_pool_can_share_out_at_once():
    with HelpingPool(2) as pool:
        both = threading.Barrier(2)
        tasks = [pool.submit(lambda: (both.wait(60), threads_used(1))) for _ in range(2)]
        assert all(task.result()[1] in (1, 2) for task in tasks)  # one may help at the end


def test_a_pool_waits_for_a_thread_whose_start_was_interrupted(monkeypatch):
    running, shut, done = (threading.Event() for _ in range(3))
    start, join = threading.Thread.start, threading.Thread.join

    def task():
        running.set()
        shut.wait(60)
        done.set()

    def interrupted_start(self):
        start(self)
        running.wait(60)
        raise KeyboardInterrupt

    def join_once_shut(self, timeout=None):
        shut.set()
        join(self, timeout)

    pool = HelpingPool(1)
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(threading.Thread, "start", interrupted_start)
            pool.submit(task)
        monkeypatch.setattr(threading.Thread, "join", join_once_shut)
        pool.shutdown(wait=True, cancel_futures=True)
        assert done.is_set()
    finally:
        shut.set()


def test_other_threads_work_alone():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(threads_used, 1).result() == 1


@pytest.mark.parametrize("fails", [0, 63])
def test_the_error_of_a_part_is_raised(fails):
    def call(part):
        if fails in part:
            raise ZeroDivisionError(fails)

    with HelpingPool(3) as pool, pytest.raises(ZeroDivisionError, match=str(fails)):
        pool.submit(in_threads, call, NUMBERS).result()
    with override_settings({"num_workers": 3}), pytest.raises(ZeroDivisionError):
        in_threads(call, NUMBERS)
