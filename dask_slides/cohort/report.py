"""The report of a job: one HTML page that shows every slide, and what to look at first."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dask_slides.cohort.decision import Facts
from dask_slides.cohort.names import LOG, PROCESS_LIST, REPORT
from dask_slides.cohort.process_list import STATUSES
from dask_slides.cohort.report_page import PAGE_BYTES, page, picture_bytes
from dask_slides.cohort.reported_slide import (
    ReportedSlide,
    common_parameters,
    reported_slides,
    shown_columns,
)
from dask_slides.cohort.results import replace_file
from dask_slides.core.arguments import local_path
from dask_slides.core.version import __version__
from dask_slides.errors import SlideNotFoundError

LIBRARIES = ("dask", "distributed", "numpy", "zarr", "tifffile", "imagecodecs", "pillow")
"""Libraries whose versions are shown."""


def write_report(job: Any) -> str:
    """Write the report of a job of `run_cohort`: one HTML page with all its slides.

    The page, ``JOB/report.html``, needs nothing beside itself: a table that can be sorted, and for
    each slide pictures of its tissue and tiles, the tiles nearest to the threshold, histograms,
    parameters, seconds, damage and errors. Slides that failed, and those that differ from the
    others in tissue share, number of tiles, brightness or focus, come first. `run_cohort` writes
    it at the end of each run. No slide and no store is read.

    Parameters
    ----------
    job : str or path
        The folder of the job.

    Returns
    -------
    str
        The absolute path of the page.

    Raises
    ------
    SlideNotFoundError
        The folder is not a job.

    Examples
    --------
    >>> import dask_slides as ds
    >>> path = ds.sample_slide("a.tif", shape=(1024, 1024), mpp=2)
    >>> result = ds.run_cohort(path, job="job", steps=["mask"])
    >>> ds.write_report("job").endswith("report.html")
    True
    """
    folder = local_path(job, "a job")
    if not any(os.path.isfile(os.path.join(folder, name)) for name in (PROCESS_LIST, LOG)):
        raise SlideNotFoundError(
            f"{folder}: is not the folder of a run, as it has no {PROCESS_LIST}; give the folder "
            "that run_cohort or dask-slides run wrote to"
        )
    slides = reported_slides(folder)
    facts = _page_facts(os.path.basename(folder), slides)
    pictures = picture_bytes(len(slides))
    while True:
        text = page(facts, slides, pictures).encode("utf-8", "backslashreplace")
        over = len(text) - PAGE_BYTES
        if over <= 0 or not pictures:
            break
        # long texts leave less room for pictures, which are a third larger as base64
        pictures = max(0, int(0.98 * pictures - over / len(slides) * 3 / 4))
    path = os.path.join(folder, REPORT)
    replace_file(path, text)
    return path


def _page_facts(title: str, slides: Sequence[ReportedSlide]) -> Facts:
    """Return what the page says about the whole job."""
    common = common_parameters(slides)
    tally = Counter(slide.status for slide in slides)
    seconds = sum(slide.seconds or 0 for slide in slides)
    made_by = {one["parameters"].get("version") for slide in slides for one in slide.steps.values()}
    versions = {"dask_slides": __version__, "Python": sys.version.split()[0]}
    versions |= {name: found for name in LIBRARIES if (found := _version(name))}
    return {
        "title": title,
        "counts": {
            "slides": len(slides), **{one: tally[one] for one in STATUSES if tally[one]},
            "to look at": sum(bool(slide.reasons) for slide in slides),
        },
        "seconds": seconds,
        "parameters": common,
        "versions": versions,
        "made_by": sorted(str(one) for one in made_by if one),
        "user_columns": list(dict.fromkeys(c for one in slides for c in shown_columns(one))),
    }  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
