"""``dask-slides mask``: write the blank map of a slide, or the outlines of its tissue."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from dask_slides.cli.exit_codes import exit_for_bad_tiles
from dask_slides.cli.options import (
    CommonOptions,
    blank_map_options,
    image_argument,
    ome_zarr_option,
)
from dask_slides.cli.output import (
    check_output,
    print_estimate,
    print_result,
    print_store,
    write_image,
)
from dask_slides.cli.scheduling import computing, megapixels, scheduler
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.core.arguments import local_path
from dask_slides.graph.overview import overview_source
from dask_slides.graph.stored_level import read_from
from dask_slides.numerics.detectors import Detector
from dask_slides.numerics.mask_detectors import MaskDetector
from dask_slides.ops.blank_map import BlankMap, blank_map
from dask_slides.ops.geojson import write_geojson
from dask_slides.runtime.write_permission import check_parent
from dask_slides.writers.estimate import estimate_blank_map
from dask_slides.writers.exports.output import check_new

OUTLINES = (".geojson", ".geojson.gz")
"""Endings of files with outlines."""


@click.command("mask")
@slide_options
@image_argument(OUTLINES, ".geojson for outlines, ", copies=False)
@blank_map_options()
@ome_zarr_option
@computing
def command(
    slide: SlideOptions,
    out: str,
    tile_size: int | None,
    min_tissue: float,
    detector: Detector,
    ome_zarr: str,
    tiff: dict[str, Any],
    common: CommonOptions,
) -> None:
    """Find the tissue of SLIDE and write it to OUT.

    OUT.ome.zarr or OUT.ome.tif is a map of blank tiles, and OUT.geojson has the outlines of the
    tissue for QuPath.
    """
    source = slide.open()
    found = blank_map(source, tile_size=tile_size, detector=detector, min_tissue=min_tissue)
    outlines = out.lower().endswith(OUTLINES)
    (_check_file if outlines else check_output)(out, common)
    if common.dry_run:
        print_estimate(common, estimate_blank_map(found, source), _plan(found))
        return
    with scheduler(common, megapixels(source)):
        found = found.compute()
        if not outlines:
            path = write_image(found, out, common, ome_zarr, tiff)
    if outlines:
        _write_outlines(found, out, common)
        return
    blank, unknown = int(found.blank.sum()), int(found.unknown.sum())
    facts = {"tiles": list(found.shape), "blank": blank, "unknown": unknown}
    line = f"{out}: {blank:,} of {found.blank.size:,} tiles are blank"
    if unknown:
        line += f", {unknown:,} unknown: absent or corrupt in the file"
    print_store(common, path, facts, line)


def _check_file(out: str, common: CommonOptions) -> None:
    """Raise before any work is done if the file `out` cannot be written."""
    local_path(out, "GeoJSON")
    check_new(out, common.overwrite)
    check_parent(out)


def _write_outlines(found: BlankMap, out: str, common: CommonOptions) -> None:
    polygons = found.polygons()
    path = write_geojson(polygons, out, overwrite=common.overwrite)
    count, share = len(polygons), found.tissue_share
    facts = {"path": path, "outlines": count, "tissue_share": share}
    outlines = "outline" if count == 1 else "outlines"
    line = f"{out}: {count:,} {outlines}, {share:.1%} of the area is tissue"
    print_result(common, facts, [line])
    exit_for_bad_tiles(found.bad_tiles)


def _plan(found: BlankMap) -> dict[str, Any]:
    """Return what a dry run says about a blank map."""
    slide, detector, own = found.slide, found.detector, found.mpp_yx
    mpp = None if own is None else float(np.mean(np.multiply(own, found.grid.tile)))
    plan: dict[str, Any] = {"read_from": "level 0", "mpp": mpp, "detector": repr(detector)}
    if isinstance(detector, MaskDetector):
        small = overview_source(slide.source, own, detector.mpp)
        plan["read_from"] = read_from(small)
        plan["min_tissue"] = found.min_tissue
    return plan
