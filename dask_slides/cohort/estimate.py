"""Estimate a run before any pixel is read: slides, tasks, bytes, memory and time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dask_slides.cohort.plan import Cohort
from dask_slides.errors import SlideError

RATES = {"mask": 168.0, "resize": 193.0, "cutoff": 117.0, "pack": 75.0}
"""Megapixels of a slide that one thread processes per second: "dask_slides, 1 thread" in
benchmarks/results/results.md, for a JPEG slide of which a quarter is dense."""
STORE_SECONDS = 0.1
"""Seconds to flush a store of any size to the disk."""


@dataclass(frozen=True)
class CohortEstimate:
    """The work that is left in a run."""

    slides: int
    done: int
    unreadable: int
    """Slides that cannot be opened or whose file has changed."""
    megapixels: float
    """Size of the slides that are left."""
    tasks: int
    bytes_to_write: int
    """Upper bound, before compression."""
    task_bytes: int
    """Peak memory of one task; a worker runs one task per thread."""
    threads: int
    seconds: float
    measured: int
    """Number of finished slides from which `seconds` is derived; 0 if derived from `RATES`."""

    def asdict(self) -> dict[str, Any]:
        """Return the estimate as plain values for JSON."""
        return asdict(self)


def estimate_cohort(cohort: Cohort, whole_below: float, threads: int) -> CohortEstimate:
    """Estimate the work that is left, at the pace of finished slides, or at `RATES` without any."""
    done = measured = unreadable = tasks = written = peak = 0
    megapixels = seconds_left = seconds_taken = seconds_expected = 0.0
    for entry in cohort.entries:
        outcome = cohort.finished(entry)
        try:
            slide = entry.open()
            estimates = [step.estimate(slide) for step in cohort.steps]
        except SlideError:
            unreadable += 1
            continue
        size = slide.shape[0] * slide.shape[1] / 1e6
        seconds = sum(STORE_SECONDS + size / RATES[step.name] for step in cohort.steps)
        if outcome is None:
            megapixels += size
            seconds_left += seconds
            tasks += sum(one.tasks for one in estimates)
            written += sum(one.bytes_to_write for one in estimates)
            peak = max(peak, *(one.task_bytes for one in estimates))
        elif outcome.status == "done":
            done += 1
            if outcome.seconds:
                measured += 1
                seconds_taken += outcome.seconds * (1 if size < whole_below else threads)
                seconds_expected += seconds
        else:
            unreadable += 1
    pace = seconds_taken / seconds_expected if seconds_taken else 1.0
    return CohortEstimate(
        len(cohort.entries), done, unreadable, megapixels, tasks, written, peak, threads,
        seconds_left * pace / max(1, threads), measured,
    )  # fmt: skip
