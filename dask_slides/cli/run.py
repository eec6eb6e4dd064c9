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

from dask_slides.cli.exit_codes import MAX_PRINTED, interrupt_leaves
from dask_slides.cli.exporting import parse_options
from dask_slides.cli.options import (
    CommonOptions,
    add_options,
    blank_map_options,
    enlarge_option,
    layout_option,
    ome_zarr_option,
    pack_options,
    scale_options,
    shards_option,
    tile_codec_options,
    tile_scale_options,
)
from dask_slides.cli.output import print_result
from dask_slides.cli.scheduling import computing, scheduler
from dask_slides.cli.slide_options import opening_options
from dask_slides.cohort.chosen_steps import checked_steps
from dask_slides.cohort.estimate import estimate_cohort
from dask_slides.cohort.names import LOG, PROCESS_LIST
from dask_slides.cohort.plan import job_folder, named_cohort
from dask_slides.cohort.run import WHOLE_BELOW, CohortResult, log, run_cohort
from dask_slides.cohort.slide_list import SlideList, read_list
from dask_slides.cohort.steps import FORMATS, USUAL
from dask_slides.cohort.workers import threads
from dask_slides.core.limits import Limits
from dask_slides.plots.pictures import bytes_text
from dask_slides.writers.source_copy import QUALITY

Steps = list[dict[str, dict[str, Any]]]


_crops_options = add_options(
    click.option("--crops-n", type=int, help="number of crops", show_default="none; needed"),
    click.option("--crops-size", type=int, help="side of a crop in pixels",
                 show_default="none; needed"),
    click.option("--crops-seed", type=int, default=0, help="seed that determines the crops"),
    tile_scale_options("crops-"),
)  # fmt: skip


def _parse_exports(context: Any, option: Any, given: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the arguments of the exports, as in pack:clam,pixels=true."""
    found = []
    for text in given:
        names, *options = text.split(",")
        of, _, to = names.partition(":")
        if not (of and to):
            raise click.BadParameter(f"{text!r}: give a step and a format, such as pack:csv")
        found.append(parse_options(context, option, tuple(options)) | {"of": of, "to": to})
    return found


@click.command("run")
@click.argument("slides", metavar="SLIDES...", nargs=-1, required=True)
@click.option("-o", "--out", "job", metavar="JOB", required=True, help="folder to write to")
@click.option("--steps", default=",".join(USUAL),
              help="steps to run for each slide, also crops")  # fmt: skip
@click.option("--export", "exports", metavar="STEP:FORMAT[,NAME=VALUE]", multiple=True,
              callback=_parse_exports, show_default="none",
              help="also export what a step makes to JOB/exports, as in pack:csv or "
              "pack:clam,pixels=true; the step need not be one of --steps")  # fmt: skip
@click.option("--format", "image_format", type=click.Choice(FORMATS), default=FORMATS[0],
              help="format of the images of mask, resize and cutoff")  # fmt: skip
@opening_options
@scale_options
@ome_zarr_option
@shards_option
@blank_map_options("mask-")
@pack_options("pack-")
@tile_codec_options("pack-", QUALITY)
@_crops_options
@layout_option
@enlarge_option
@click.option("--keep-going/--fail-fast", default=True,
              help="whether to continue after a slide that fails")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), show_default="all",
              help="maximum number of slides to process")  # fmt: skip
@click.option("--whole-below", type=float, default=WHOLE_BELOW,
              help="size in megapixels from which all workers share a slide")  # fmt: skip
@click.option("--report/--no-report", default=True,
              help="whether to write JOB/report.html at the end")  # fmt: skip
@computing
def command(
    slides: tuple[str, ...],
    job: str,
    steps: str,
    exports: list[dict[str, Any]],
    image_format: str,
    slide_mpp: float | None,
    on_bad_tile: str,
    limits: Limits,
    scale: dict[str, Any],
    ome_zarr: str,
    shards: bool,
    layout: str,
    enlarge: bool,
    keep_going: bool,
    limit: int | None,
    whole_below: float,
    report: bool,
    common: CommonOptions,
    **options: Any,
) -> None:
    """Run the same steps for many slides; skip steps that are already done.

    SLIDES are files, folders, patterns such as 'slides/*.svs' or 's3://bucket/**/*.svs', or a table
    (.csv or .parquet) with the columns path, mpp, name; its other columns, such as label and split,
    are kept in JOB/process_list.csv and in the packs. The scale options are those of resize and
    cutoff; --mask-... are those of the blank map of mask and cutoff, --crops-... those of crops.
    Pictures (.png) beside the stores show the tissue and the packed tiles. The exit code is 3 if a
    slide failed or corrupt tiles were filled; JOB/process_list.csv lists them with the reasons.
    """
    image = {"ome_zarr": ome_zarr, "shards": shards, "format": image_format}
    chosen = _chosen_steps(steps, exports, scale, image, layout, options)
    with scheduler(replace(common, quiet=True), 0.0):
        if common.dry_run:
            listed = read_list(slides, slide_mpp, on_bad_tile, limits)
            _print_estimate(common, listed, job, chosen, enlarge)
            return
        kept = "finished work is kept; run the same command again to continue"
        with log_on_stderr(common.quiet or common.as_json), interrupt_leaves(kept):
            result = run_cohort(
                slides, job=job, steps=chosen, mpp=slide_mpp, on_bad_tile=on_bad_tile,
                limits=limits, overwrite=common.overwrite, keep_going=keep_going, limit=limit,
                whole_below=whole_below, enlarge=enlarge, report=report,
            )  # fmt: skip
    line = f"{job}: {result.done:,} done, {result.failed:,} failed, {result.todo:,} left"
    shown = [f"report: {result.report}"] if result.report else []
    print_result(common, asdict(result), [line, *shown])
    _print_left_out(common, result.left_out)
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


def _print_left_out(common: CommonOptions, lines: tuple[str, ...]) -> None:
    """Print on stderr what was left out and why; the JSON output has it too."""
    if common.quiet or common.as_json:
        return
    for line in lines[:MAX_PRINTED]:
        click.echo(f"dask-slides: left out: {line}", err=True)
    if len(lines) > MAX_PRINTED:
        count = f"{len(lines) - MAX_PRINTED:,} more were left out"
        click.echo(f"dask-slides: {count}; see all in {LOG}", err=True)


def _chosen_steps(
    names: str,
    exports: list[dict[str, Any]],
    scale: dict[str, Any],
    image: dict[str, Any],
    layout: str,
    options: dict[str, Any],
) -> Steps:
    """Return each chosen step and each export with its arguments."""
    parts: dict[str, dict[str, Any]] = {"mask": dict(image), "pack": {"shards": image["shards"]}}
    parts["crops"] = dict(parts["pack"])
    for name, value in options.items():
        part, _, argument = name.partition("_")
        parts[part][argument] = value
    used = {*names.replace(" ", "").split(","), *(one["of"] for one in exports)}
    if "crops" in used and None in (parts["crops"]["n"], parts["crops"]["size"]):
        raise click.UsageError("crops need --crops-n and --crops-size")
    resize = scale | image
    known = parts | {"resize": resize, "cutoff": resize | parts["mask"] | {"layout": layout}}
    chosen = [{name: known.get(name, {})} for name in names.replace(" ", "").split(",") if name]
    made = [{"export": one | {"of": {one["of"]: known.get(one["of"], {})}}} for one in exports]
    return [*chosen, *made]


@contextmanager
def log_on_stderr(quiet: bool) -> Iterator[None]:
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
    common: CommonOptions, listed: SlideList, job: str, steps: Steps, enlarge: bool
) -> None:
    """Print an estimate of the run, for --dry-run."""
    folder = job_folder(job)
    chosen = checked_steps(steps)
    cohort = named_cohort(folder, listed.entries, chosen, common.overwrite, enlarge)
    found, count = estimate_cohort(cohort), threads()
    lines = [
        f"slides   {found.slides:,}: {found.done:,} done, {found.unreadable:,} cannot be read",
        f"left     {found.megapixels:,.0f} megapixels in {found.tasks:,} tasks",
        f"write    at most {bytes_text(found.bytes_to_write)} before compression",
        f"memory   {bytes_text(found.task_bytes * count)} for {count:,} threads",
    ]
    left_out = listed.left_out + found.left_out
    facts = {"dry_run": True, "threads": count, "left_out": left_out}
    print_result(common, found.asdict() | facts, lines)
    _print_left_out(common, left_out)
