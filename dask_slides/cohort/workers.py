"""Who works on whole slides: the threads, processes or cluster of the active scheduler."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from typing import Any

from dask_slides.cohort.job import Outcome, SlideJob, failure, work_alone, work_on
from dask_slides.errors import ClusterLostError, WorkerKilledError
from dask_slides.runtime.client import active_client
from dask_slides.runtime.threads import local_threads, setting

AHEAD = 2
"""Slides in flight for each thread, so that none waits for the next one to be sent."""
STOP_SECONDS = 10.0
"""How long a cluster is waited for at the end: work stops at its next block, and what is done by
then is told as done."""
LOOK_SECONDS = 5.0
"""Between looks whether the scheduler is there: what it was sent may never be heard of again."""
LOST = "the scheduler was lost; what is done is recorded: connect again and run the same again"
KILLED = (
    "every process that worked on it ended: out of memory, or a tile that its codec crashes on; "
    "give workers fewer threads or more memory, or repair the slide"
)


def _leave_to_parent() -> None:
    """Let the process that started this one decide when it ends, and end with it.

    Ctrl-C reaches every process of a terminal, and SIGKILL only one of them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def threads() -> int:
    """Return how many threads or processes the active scheduler has now."""
    client = active_client()
    if client is None:
        return local_threads()
    try:
        return sum(client.nthreads().values())
    except OSError as error:
        raise ClusterLostError(LOST) from error


def _executor(client: Any) -> Executor:
    if client is not None:
        made: Executor = client.get_executor(pure=False)
        return made
    if str(setting("scheduler")).lower() in ("processes", "multiprocessing"):
        from dask.multiprocessing import get_context

        return ProcessPoolExecutor(local_threads(), get_context(), _leave_to_parent)
    return ThreadPoolExecutor(local_threads())


def _outcome(job: SlideJob, future: Future[Outcome]) -> Outcome | None:
    """Return how the work ended, None if its process did, by this work or by what was beside."""
    if future.cancelled():
        raise ClusterLostError(LOST)
    error = future.exception()
    if error is None:
        return future.result()
    # the second is of distributed, which may not be there
    if isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker":
        return None
    return failure(job.name, error)


class Pool:
    """Works on whole slides, and goes on when one of them takes its process along."""

    def __init__(self, window: int | None) -> None:
        self._window = window
        self._client = active_client()
        self._executor: Executor | None = None
        self._flying: dict[Future[Outcome], SlideJob] = {}

    @property
    def room(self) -> bool:
        """Whether another slide may be in flight."""
        return len(self._flying) < (self._window or max(1, AHEAD * threads()))

    def outcomes(self, jobs: Iterable[SlideJob]) -> Iterator[Outcome]:
        """Yield how each slide ended; those that are not done whole are worked on alone."""
        for job in jobs:
            if not job.whole:
                yield from self._landed(all)
                yield work_on(job)
                continue
            while not self.room:
                yield from self._landed(any)
            try:
                self._submit(job)
            except BrokenExecutor:  # by one of those in flight
                yield from self._landed(all)
                self._submit(job)
        yield from self._landed(all)

    def _submit(self, job: SlideJob) -> Future[Outcome]:
        if self._executor is None:
            self._executor = _executor(self._client)
        future = self._executor.submit(work_alone, job)
        self._flying[future] = job
        return future

    def _landed(self, many: Callable[[Iterable[Any]], bool]) -> Iterator[Outcome]:
        """Yield what has ended once any or all in flight have."""
        suspects = []
        while self._flying:
            for future in self._ended():
                job = self._flying.pop(future)
                outcome = _outcome(job, future)
                if outcome is None:
                    suspects.append(job)
                else:
                    yield outcome
            if many is any and not suspects:
                return
        # one of them took the process of the others along: which?
        if suspects:
            self.close()
        for job in suspects:
            future = self._submit(job)
            while future not in self._ended():
                pass
            del self._flying[future]
            outcome = _outcome(job, future)
            if outcome is None:
                self.close()
                outcome = failure(job.name, WorkerKilledError(f"{job.name}: {KILLED}"))
            yield outcome

    def _ended(self) -> set[Future[Outcome]]:
        """Wait for some of what is in flight; none if it was long."""
        done, _ = wait(self._flying, LOOK_SECONDS, return_when=FIRST_COMPLETED)
        if not done and self._client is not None and self._client.status == "closed":
            raise ClusterLostError(LOST)
        return done

    def close(self) -> None:
        """Let what is in flight end; what has not begun does not."""
        executor, self._executor = self._executor, None
        if isinstance(executor, ThreadPoolExecutor | ProcessPoolExecutor):
            executor.shutdown(wait=True, cancel_futures=True)
        elif executor is not None:  # of a cluster, which may be lost
            wait(self._flying, STOP_SECONDS)
            executor.shutdown(wait=False)
