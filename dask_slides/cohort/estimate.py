"""Estimate a run before any pixel is read: slides, tasks, bytes, memory and time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dask_slides.cohort.plan import Cohort
from dask_slides.errors import SlideError

RATES = {"mask": 168.0, "resize": 193.0, "cutoff": 117.0, "pack": 75.0}
"""Megapixels of a slide per second and thread: "dask_slides, 1 thread" in
benchmarks/results/results.md, a JPEG slide of which a quarter is dense."""
STORE_SECONDS = 0.1
"""Seconds for a store of any size: its files are flushed to the disk."""


@dataclass(frozen=True)
class CohortEstimate:
    """What is left to do in a run."""

    slides: int
    done: int
    unreadable: int
    """Slides that cannot be opened, or whose file has changed."""
    megapixels: float
    """Of the slides that are left to do."""
    tasks: int
    bytes_to_write: int
    """At most, before compression."""
    task_bytes: int
    """Peak memory of one task; a worker holds one for each of its threads."""
    threads: int
    seconds: float
    measured: int
    """Slides of this job that `seconds` is based on; 0 if it is based on `RATES`."""

    def asdict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def estimate_cohort(cohort: Cohort, whole_below: float, threads: int) -> CohortEstimate:
    """Return what is left to do, at the pace of the slides that are done, else at `RATES`."""
    done = measured = unreadable = tasks = written = peak = 0
    megapixels = left = taken = expected = 0.0
    for entry in cohort.entries:
        before = cohort.finished(entry)
        try:
            slide = entry.open()
            estimates = [step.estimate(slide) for step in cohort.steps]
        except SlideError:
            unreadable += 1
            continue
        size = slide.shape[0] * slide.shape[1] / 1e6
        seconds = sum(STORE_SECONDS + size / RATES[step.name] for step in cohort.steps)
        if before is None:
            megapixels += size
            left += seconds
            tasks += sum(one.tasks for one in estimates)
            written += sum(one.bytes_to_write for one in estimates)
            peak = max(peak, *(one.task_bytes for one in estimates))
        elif before.status == "done":
            done += 1
            if before.seconds:
                measured += 1
                taken += before.seconds * (1 if size < whole_below else threads)
                expected += seconds
        else:
            unreadable += 1
    pace = taken / expected if taken else 1.0
    return CohortEstimate(
        len(cohort.entries), done, unreadable, megapixels, tasks, written, peak, threads,
        left * pace / max(1, threads), measured,
    )  # fmt: skip
