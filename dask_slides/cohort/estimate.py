"""Estimate a run before any pixel is read: slides, tasks, bytes and memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dask_slides.cohort.plan import Cohort, line_about
from dask_slides.errors import SlideError


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
    left_out: tuple[str, ...] = ()
    """One line for each slide that cannot be opened, or that a step cannot use, with the reason."""

    def asdict(self) -> dict[str, Any]:
        """Return the estimate as plain values for JSON."""
        return asdict(self)


def estimate_cohort(cohort: Cohort) -> CohortEstimate:
    """Estimate the work that is left.

    Raises
    ------
    SlideArgumentError
        A step would enlarge a slide, and the cohort does not allow it.
    """
    done = unreadable = tasks = written = peak = 0
    megapixels = 0.0
    left_out: list[str] = []
    for entry in cohort.entries:
        outcome = cohort.finished(entry)
        if outcome is not None:
            done += outcome.status == "done"
            unreadable += outcome.status != "done"
            continue
        try:
            slide = entry.open()
            estimates = [step.estimate(slide) for step in cohort.steps]
        except SlideError as error:
            left_out.append(line_about(entry.path, str(error)))
            unreadable += 1
            continue
        cohort.check_scale(slide)
        megapixels += slide.shape[0] * slide.shape[1] / 1e6
        tasks += sum(one.tasks for one in estimates)
        written += sum(one.bytes_to_write for one in estimates)
        peak = max(peak, *(one.task_bytes for one in estimates))
    slides = len(cohort.entries)
    return CohortEstimate(
        slides, done, unreadable, megapixels, tasks, written, peak, tuple(left_out)
    )
