"""The command that works on many slides: ``dask-slides run``."""

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
    Shared,
    cell_options,
    chosen_detector,
    pack_options,
    running,
    scale_of,
    scale_options,
    shared_options,
)
from dask_slides.cli.slide_options import bad_tile_option, limits_option, slide_mpp_option
from dask_slides.cohort.estimate import estimate_cohort
from dask_slides.cohort.names import PROCESS_LIST
from dask_slides.cohort.plan import job_folder, named_cohort
from dask_slides.cohort.run import WHOLE_BELOW, log, run_cohort
from dask_slides.cohort.slide_list import SlideEntry, read_list
from dask_slides.cohort.steps import STEPS, checked_steps
from dask_slides.cohort.workers import threads
from dask_slides.core.limits import Limits
from dask_slides.plots.pictures import bytes_text


@click.command("run")
@click.argument("slides", metavar="SLIDES...", nargs=-1, required=True)
@click.option("-o", "--out", "job", metavar="JOB", required=True, help="folder to fill")
@click.option("--steps", default=",".join(STEPS), show_default=True, help="what is made")
@slide_mpp_option
@bad_tile_option
@limits_option
@scale_options
@cell_options("mask-")
@pack_options("pack-")
@click.option("--keep-going/--fail-fast", default=True, show_default=True,
              help="whether a slide that fails stops the others")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="slides to work on at the most")
@click.option("--window", type=click.IntRange(1),
              help="slides in flight at the most; two for each thread by default")  # fmt: skip
@click.option("--whole-below", type=float, default=WHOLE_BELOW, show_default=True,
              help="megapixels from which on all workers share a slide")  # fmt: skip
@shared_options
def run(
    slides: tuple[str, ...],
    job: str,
    steps: str,
    slide_mpp: float | None,
    on_bad_tile: str,
    limits: Limits,
    keep_going: bool,
    limit: int | None,
    window: int | None,
    whole_below: float,
    shared: Shared,
    **options: Any,
) -> None:
    """Do the same for many slides: what is done already is not done again.

    SLIDES are files, folders, patterns such as 'slides/*.svs', or a .csv with the columns
    path, mpp, name. The scale options are those of resize and cutoff, --mask-... those of the
    blank map of mask and cutoff. Exits with 3 if a slide failed, or has tiles that were filled
    as they are corrupt; JOB/process_list.csv says which, and why.
    """
    chosen = _chosen(steps, options)
    with running(replace(shared, quiet=True), 0.0):
        if shared.dry_run:
            _tell(
                shared, read_list(slides, slide_mpp, on_bad_tile, limits), job, chosen, whole_below
            )
            return
        with _lines(shared.quiet or shared.as_json):
            try:
                result = run_cohort(
                    slides, job=job, steps=chosen, mpp=slide_mpp, on_bad_tile=on_bad_tile,
                    limits=limits, overwrite=shared.overwrite, keep_going=keep_going, limit=limit,
                    window=window, whole_below=whole_below,
                )  # fmt: skip
            except KeyboardInterrupt:
                done = "what is done is recorded; the same command again goes on"
                click.echo(f"dask-slides: note: {done}", err=True)
                raise
    line = f"{job}: {result.done:,} done, {result.failed:,} failed, {result.todo:,} left"
    shared.finish(asdict(result), [line])
    where = os.path.join(job, PROCESS_LIST)
    if result.failed:
        count = f"{result.failed:,} of {result.slides:,}"
        click.echo(f"dask-slides: {count} slides failed; {where} says why", err=True)
    if result.filled:
        count = f"corrupt tiles of {result.filled:,} of {result.slides:,} slides were filled"
        click.echo(f"dask-slides: {count}; {where} says how many", err=True)
    if result.failed or result.filled:
        sys.exit(3)


def _chosen(steps: str, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arguments of each step that is asked for."""
    scale = scale_of(options) | {"ome_zarr": options.pop("ome_zarr")}
    parts: dict[str, dict[str, Any]] = {"mask": {}, "pack": {}}
    for name, value in options.items():
        part, _, argument = name.partition("_")
        parts[part][argument] = value
    for arguments in parts.values():
        arguments["detector"] = chosen_detector(arguments["detector"], arguments.pop("ratio"))
    cells, tiles = parts["mask"], parts["pack"]
    known = {
        "mask": cells | {"ome_zarr": scale["ome_zarr"]},
        "resize": scale,
        "cutoff": scale | cells,
        "pack": tiles,
    }
    return {name: known.get(name, {}) for name in steps.replace(" ", "").split(",") if name}


@contextmanager
def _lines(quiet: bool) -> Iterator[None]:
    """Show what is logged, a line a slide, on stderr."""
    handler: logging.Handler = logging.NullHandler() if quiet else logging.StreamHandler()
    before = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before[0]
        log.setLevel(before[1])


def _tell(
    shared: Shared,
    entries: list[SlideEntry],
    job: str,
    steps: dict[str, dict[str, Any]],
    whole_below: float,
) -> None:
    """Print what would be done: the answer of --dry-run."""
    folder = job_folder(job)
    chosen = checked_steps(steps)
    cohort = named_cohort(folder, entries, chosen, shared.overwrite)
    found = estimate_cohort(cohort, whole_below, threads())
    of = "the slides done here" if found.measured else "the benchmarks"
    lines = [
        f"slides   {found.slides:,}: {found.done:,} done, {found.unreadable:,} cannot be read",
        f"left     {found.megapixels:,.0f} megapixels in {found.tasks:,} tasks",
        f"write    at most {bytes_text(found.bytes_to_write)} before compression",
        f"memory   {bytes_text(found.task_bytes * found.threads)} for {found.threads:,} threads",
        f"time     about {_duration(found.seconds)} at the pace of {of}",
    ]
    shared.finish(found.asdict() | {"dry_run": True}, lines)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
