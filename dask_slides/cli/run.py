"""``dask-slides run``: run the same steps for many slides."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import click

from dask_slides.cli.options import (
    CommonOptions,
    blank_map_options,
    enlarge_option,
    layout_option,
    ome_zarr_option,
    pack_options,
    scale_options,
)
from dask_slides.cli.output import print_result
from dask_slides.cli.scheduling import computing, scheduler
from dask_slides.cli.slide_options import opening_options
from dask_slides.cohort.estimate import estimate_cohort
from dask_slides.cohort.names import PROCESS_LIST
from dask_slides.cohort.plan import job_folder, named_cohort
from dask_slides.cohort.run import WHOLE_BELOW, CohortResult, log, run_cohort
from dask_slides.cohort.slide_list import SlideEntry, read_list
from dask_slides.cohort.steps import STEPS, checked_steps
from dask_slides.cohort.workers import threads
from dask_slides.core.limits import Limits
from dask_slides.plots.pictures import bytes_text

Steps = dict[str, dict[str, Any]]


@click.command("run")
@click.argument("slides", metavar="SLIDES...", nargs=-1, required=True)
@click.option("-o", "--out", "job", metavar="JOB", required=True, help="folder to write to")
@click.option("--steps", default=",".join(STEPS), help="steps to run for each slide")
@opening_options
@scale_options
@ome_zarr_option
@blank_map_options("mask-")
@pack_options("pack-")
@layout_option
@enlarge_option
@click.option("--keep-going/--fail-fast", default=True,
              help="whether to continue after a slide that fails")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), show_default="all",
              help="maximum number of slides to process")  # fmt: skip
@click.option("--whole-below", type=float, default=WHOLE_BELOW,
              help="size in megapixels from which all workers share a slide")  # fmt: skip
@computing
def command(
    slides: tuple[str, ...],
    job: str,
    steps: str,
    slide_mpp: float | None,
    on_bad_tile: str,
    limits: Limits,
    scale: dict[str, Any],
    ome_zarr: str,
    layout: str,
    enlarge: bool,
    keep_going: bool,
    limit: int | None,
    whole_below: float,
    common: CommonOptions,
    **options: Any,
) -> None:
    """Run the same steps for many slides; skip steps that are already done.

    SLIDES are files, folders, patterns such as 'slides/*.svs', or a .csv with the columns
    path, mpp, name. The scale options are those of resize and cutoff; --mask-... are those of
    the blank map of mask and cutoff. Pictures (.png) beside the stores show the tissue and the
    packed tiles. The exit code is 3 if a slide failed or corrupt tiles were
    filled; JOB/process_list.csv lists them with the reasons.
    """
    chosen = _chosen_steps(steps, scale, ome_zarr, layout, options)
    with scheduler(replace(common, quiet=True), 0.0):
        if common.dry_run:
            entries = read_list(slides, slide_mpp, on_bad_tile, limits)
            _print_estimate(common, entries, job, chosen, enlarge)
            return
        with _log_on_stderr(common.quiet or common.as_json):
            try:
                result = run_cohort(
                    slides, job=job, steps=chosen, mpp=slide_mpp, on_bad_tile=on_bad_tile,
                    limits=limits, overwrite=common.overwrite, keep_going=keep_going, limit=limit,
                    whole_below=whole_below, enlarge=enlarge,
                )  # fmt: skip
            except KeyboardInterrupt:
                note = "run the same command again to continue"
                click.echo(f"dask-slides: note: {note}", err=True)
                raise
    line = f"{job}: {result.done:,} done, {result.failed:,} failed, {result.todo:,} left"
    print_result(common, asdict(result), [line])
    _exit_for_failures(result, os.path.join(job, PROCESS_LIST))


def _exit_for_failures(result: CohortResult, process_list: str) -> None:
    """Exit with 3 if a slide failed, or if corrupt tiles were filled."""
    if result.failed:
        count = f"{result.failed:,} of {result.slides:,} slides failed"
        click.echo(f"dask-slides: {count}; see why in {process_list}", err=True)
    if result.filled:
        count = f"corrupt tiles of {result.filled:,} of {result.slides:,} slides were filled"
        click.echo(f"dask-slides: {count}; see how many in {process_list}", err=True)
    if result.failed or result.filled:
        sys.exit(3)


def _chosen_steps(
    names: str, scale: dict[str, Any], ome_zarr: str, layout: str, options: dict[str, Any]
) -> Steps:
    """Return the arguments of each chosen step."""
    parts: Steps = {"mask": {"ome_zarr": ome_zarr}, "pack": {}}
    for name, value in options.items():
        part, _, argument = name.partition("_")
        parts[part][argument] = value
    resize = scale | {"ome_zarr": ome_zarr}
    known = parts | {"resize": resize, "cutoff": resize | parts["mask"] | {"layout": layout}}
    return {name: known.get(name, {}) for name in names.replace(" ", "").split(",") if name}


@contextmanager
def _log_on_stderr(quiet: bool) -> Iterator[None]:
    """Print the log of the run on stderr, one line per slide."""
    handler: logging.Handler = logging.NullHandler() if quiet else logging.StreamHandler()
    propagate, level = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
        log.setLevel(level)


def _print_estimate(
    common: CommonOptions, entries: list[SlideEntry], job: str, steps: Steps, enlarge: bool
) -> None:
    """Print an estimate of the run, for --dry-run."""
    folder = job_folder(job)
    cohort = named_cohort(folder, entries, checked_steps(steps), common.overwrite, enlarge)
    found, count = estimate_cohort(cohort), threads()
    lines = [
        f"slides   {found.slides:,}: {found.done:,} done, {found.unreadable:,} cannot be read",
        f"left     {found.megapixels:,.0f} megapixels in {found.tasks:,} tasks",
        f"write    at most {bytes_text(found.bytes_to_write)} before compression",
        f"memory   {bytes_text(found.task_bytes * count)} for {count:,} threads",
    ]
    print_result(common, found.asdict() | {"dry_run": True, "threads": count}, lines)
