"""Write the results of a command, and print them as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import click

from dask_slides.cli.exit_codes import exit_for_bad_tiles
from dask_slides.cli.options import CommonOptions, is_tiff
from dask_slides.numerics.mask_detectors import MaskDetector
from dask_slides.ops.pack import TilePack, pack_attributes
from dask_slides.plots.pictures import bytes_text, pixels_text
from dask_slides.runtime.buffer_pool import LIMIT
from dask_slides.runtime.scheduler import check_memory
from dask_slides.slide import Slide
from dask_slides.writers.estimate import Estimate, estimate_copy, estimate_image
from dask_slides.writers.export import export
from dask_slides.writers.exports.ome_tiff import bad_tiles_in_tiff, check_tiff
from dask_slides.writers.pack_chunks import COPY
from dask_slides.writers.source_copy import SourceCodec
from dask_slides.writers.store.attributes import absolute_path, bad_tiles_in
from dask_slides.writers.store.transaction import check_target
from dask_slides.writers.write import write


def printable(text: str) -> str:
    """Return text of a file as one line without terminal control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def check_output(out: str, common: CommonOptions) -> None:
    """Raise before any work is done if `out` cannot be written."""
    if is_tiff(out):
        check_tiff(out, common.overwrite)
    else:
        check_target(absolute_path(out), common.overwrite)


def write_output(obj: Any, out: str, common: CommonOptions, **options: Any) -> str:
    """Write `obj` to `out` as Zarr; return its path or address."""
    return write(obj, out, overwrite=common.overwrite, resume=common.resume, **options)


def write_image(
    obj: Any,
    out: str,
    common: CommonOptions,
    ome_zarr: str,
    tiff: dict[str, Any],
    shards: bool = True,
) -> str:
    """Write `obj` to `out`, as Zarr or as OME-TIFF by its name; return its path or address."""
    if is_tiff(out):
        export(obj, out, overwrite=common.overwrite, resume=common.resume, **tiff)
        return absolute_path(out)
    return write_output(obj, out, common, ome_zarr=ome_zarr, shards=shards, **tiff)


def estimate_of_image(
    image: Slide, source: Slide, ome_zarr: str, tiff: dict[str, Any], shards: bool, bound: bool
) -> Estimate:
    """Return the estimate of what `write_image` writes; `bound` says whether it is a bound."""
    if tiff.get("codec") == COPY:
        names = {one.name for one in fields(SourceCodec)}
        codec = SourceCodec(**{name: value for name, value in tiff.items() if name in names})
        return estimate_copy(image, source, codec, bound or codec.drop_blank)
    return estimate_image(image, source, bound, shards and ome_zarr != "0.4")


def print_result(common: CommonOptions, facts: dict[str, Any], lines: list[str]) -> None:
    """Print `facts` as JSON, or `lines`."""
    if common.as_json:
        click.echo(json.dumps(facts))
    elif not common.quiet:
        for line in lines:
            click.echo(line)


def print_store(common: CommonOptions, path: str, facts: dict[str, Any], line: str) -> None:
    """Describe the output at `path`; print corrupt tiles and exit with 3 if there are any."""
    bad_tiles = bad_tiles_in_tiff(path) if is_tiff(path) else bad_tiles_in(path)
    if bad_tiles:
        facts = facts | {"bad_tiles": [asdict(tile) for tile in bad_tiles]}
    print_result(common, {"path": path} | facts, [line])
    exit_for_bad_tiles(bad_tiles)


def print_pack(common: CommonOptions, path: str, out: str, pack: TilePack) -> None:
    """Describe the pack that was written to `path`."""
    facts: dict[str, Any] = {"shape": list(pack.tiles.shape)}
    line = f"{out}: {pixels_text(pack.tiles.shape)}"
    if skipped := pack.attributes.get("skipped"):
        facts["skipped"] = skipped
        line += f"; {skipped:,} skipped, because they need tiles that are absent or corrupt"
    print_store(common, path, facts, line)


def plan_of_image(source: Slide, image: Slide) -> dict[str, Any]:
    """Return what a dry run says about `image`, which is `source` at another scale."""
    attributes = pack_attributes(source, image, (1, 1), "")
    return {name: attributes[name] for name in ("read_from", "mpp")}


def plan_of_tiles(source: Slide, image: Slide, detector: Any, min_tissue: float) -> dict[str, Any]:
    """Return what a dry run says about tiles of `image`: their source, scale and tissue."""
    plan = plan_of_image(source, image)
    plan["detector"] = detector if isinstance(detector, str) else repr(detector)
    decides = isinstance(detector, str | MaskDetector)  # detectors of statistics do it alone
    return plan | ({"min_tissue": min_tissue} if decides else {})


def print_estimate(common: CommonOptions, estimate: Estimate, plan: Mapping[str, Any]) -> None:
    """Print the plan and its estimate, for --dry-run."""
    bound = "at most " if estimate.upper_bound else ""
    how = "of compressed tiles" if estimate.copies else "before compression"
    threads = 1 if common.scheduler == "processes" else common.threads
    if common.scheduler in ("threads", "processes") and not estimate.upper_bound:
        check_memory(estimate.task_bytes, "this plan")
    peak = threads * estimate.task_bytes
    facts = estimate.asdict() | {"dry_run": True, "threads": threads, "worker_bytes": peak}
    lines = [
        f"source   {pixels_text(estimate.source_shape)}",
        *plan_lines(plan),
        f"output   {bound}{pixels_text(estimate.output_shape)}",
        f"tasks    {bound}{estimate.tasks:,}",
        f"write    {bound}{bytes_text(estimate.bytes_to_write)} {how}",
        f"memory   {bytes_text(peak)} per worker with {threads} threads, plus at most "
        f"{bytes_text(LIMIT)} of buffers between tasks",
    ]
    print_result(common, facts | dict(plan), lines)


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """Return a plan as lines of text."""
    mpp = plan["mpp"]
    lines = [f"read     {plan['read_from']}"]
    lines.append(f"mpp      {'not known' if mpp is None else f'{mpp:.4g} µm'}")
    if "detector" in plan:
        least = plan.get("min_tissue")
        share = "" if least is None else f", at least {least:.4g} of the area of a tile"
        lines.append(f"tissue   {plan['detector']}{share}")
    return lines
