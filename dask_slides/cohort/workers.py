"""Process slides on the threads or the cluster of the active scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import suppress
from typing import Any

from dask_slides.cohort.job import Outcome, SlideJob, failure, work_alone, work_on
from dask_slides.errors import SlideArgumentError, WorkerKilledError
from dask_slides.runtime.client import active_client
from dask_slides.runtime.scheduler import lost_error
from dask_slides.runtime.threads import local_threads, setting

AHEAD = 2
"""Slides in flight per thread, so that no thread waits for the next slide."""
STOP_SECONDS = 10.0
"""Seconds to wait at the end for a cluster, whose work stops at its next block."""
LOOK_SECONDS = 5.0
"""Seconds between checks that the scheduler can be reached."""
KILLED = (
    "every process that worked on it was killed: it ran out of memory or a codec crashed; "
    "give workers fewer threads or more memory, or repair the slide"
)


def threads() -> int:
    """Return the current number of threads or processes of the active scheduler."""
    client = active_client()
    if client is None:
        return local_threads()
    try:
        return sum(client.nthreads().values())
    except OSError as error:
        raise lost_error(client) from error


def _executor(client: Any) -> Executor:
    if client is not None:
        executor: Executor = client.get_executor(pure=False)
        return executor
    if str(setting("scheduler")).lower() in ("processes", "multiprocessing"):
        raise SlideArgumentError(
            "a run cannot use scheduler='processes'; use threads, or connect a distributed.Client"
        )
    return ThreadPoolExecutor(local_threads())


class Pool:
    """Process slides in parallel, and continue when one of them kills its process."""

    def __init__(self) -> None:
        self._client = active_client()
        self._executor = _executor(self._client)
        self._in_flight: dict[Future[Outcome], SlideJob] = {}

    @property
    def has_room(self) -> bool:
        """Whether another slide may be in flight."""
        return len(self._in_flight) < max(1, AHEAD * threads())

    def outcomes(self, jobs: Iterable[SlideJob]) -> Iterator[Outcome]:
        """Yield the outcome of each slide; slides that all workers share run one at a time."""
        for job in jobs:
            if not job.whole:
                yield from self._completed(all)
                yield work_on(job)
                continue
            while not self.has_room:
                yield from self._completed(any)
            self._submit(job)
        yield from self._completed(all)

    def _submit(self, job: SlideJob) -> Future[Outcome]:
        future = self._executor.submit(work_alone, job)
        self._in_flight[future] = job
        return future

    def _completed(self, condition: Callable[[Iterable[Any]], bool]) -> Iterator[Outcome]:
        """Yield outcomes until any or all slides in flight have ended."""
        suspects = []
        while self._in_flight:
            for future in self._ended():
                job = self._in_flight.pop(future)
                outcome = self._outcome(job, future)
                if outcome is None:
                    suspects.append(job)
                else:
                    yield outcome
            if condition is any and not suspects:
                return
        for job in suspects:  # one killed the process of the others; run each alone to find it
            future = self._submit(job)
            while future not in self._ended():
                pass
            del self._in_flight[future]
            outcome = self._outcome(job, future)
            if outcome is None:
                outcome = failure(job.name, WorkerKilledError(f"{job.name}: {KILLED}"))
            yield outcome

    def _ended(self) -> set[Future[Outcome]]:
        """Wait up to `LOOK_SECONDS` for slides to end, and return them."""
        done, _ = wait(self._in_flight, LOOK_SECONDS, return_when=FIRST_COMPLETED)
        if not done and self._client is not None and self._client.status == "closed":
            raise lost_error(self._client)
        return done

    def _outcome(self, job: SlideJob, future: Future[Outcome]) -> Outcome | None:
        """Return the outcome; None if the process was killed, by this slide or another one."""
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            return future.result()
        lost = self._client is not None and self._client.status != "running"
        if lost or isinstance(error, CancelledError):  # a lost connection may give any error
            raise lost_error(self._client) from error
        if type(error).__name__ == "KilledWorker":  # by name, as distributed may not be imported
            return None
        return failure(job.name, error)

    def close(self) -> None:
        """Wait for the slides in flight, and cancel those that have not started."""
        if self._client is None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        else:
            wait(self._in_flight, STOP_SECONDS)
            with suppress(Exception):  # a lost cluster has nothing to cancel
                self._executor.shutdown(wait=False)
