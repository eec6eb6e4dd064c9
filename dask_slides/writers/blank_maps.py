"""Write blank maps as OME-Zarr, and their grids into the stores of images."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import bad_tiles_to_json
from dask_slides.core.channels import plain_channels
from dask_slides.core.geometry import Placement
from dask_slides.core.types import Array
from dask_slides.core.version import __version__
from dask_slides.numerics.statistics import COUNTS
from dask_slides.numerics.tissue_mask import TissueMask
from dask_slides.ops.blank_map import BlankMap
from dask_slides.runtime.scheduler import Progress, report_progress_to
from dask_slides.writers import ome_metadata
from dask_slides.writers.labels import create_label_group
from dask_slides.writers.store.arrays import create_level
from dask_slides.writers.store.attributes import own_attributes
from dask_slides.writers.store.transaction import Target, facts_of, transaction

SHADES = np.array([0, 255, 128], np.uint8)
"""Grey levels of blank, tissue and unknown cells."""
CHUNK_BYTES = 2**24
"""Most bytes of a chunk of the arrays of a map, unless a row is longer."""


def write_grid(group: Any, blank_map: BlankMap) -> Any:
    """Write the tiles of a map and their statistics as the group ``blank_map``; return it."""
    grid = group.create_group("blank_map")
    for name in ("blank", "unknown", "tissue_fraction"):
        _write_array(grid, name, getattr(blank_map, name), "row", "col")
    if blank_map.statistics is not None:
        _write_array(grid, "statistics", blank_map.statistics, "row", "col", "field")
    facts: dict[str, Any] = {
        "tile_size": list(blank_map.grid.tile),
        "source_shape": list(blank_map.grid.shape),
        "detector": repr(blank_map.detector),
    }
    if blank_map.statistics is None:
        facts["min_tissue"] = blank_map.min_tissue
    else:
        facts["statistics"] = ["count", "sum", "sum of squares", *blank_map.fields, *COUNTS]
    grid.attrs.update(facts)
    return grid


def _write_mask(grid: Any, mask: TissueMask) -> None:
    """Write the mask of a map into its group, and the picture in which it was found."""
    _write_array(grid, "mask", mask.kinds, "y", "x")
    if mask.grey is not None:
        _write_array(grid, "mask_picture", mask.grey, "y", "x")
    _write_array(grid, "mask_y_edges", mask.y_edges, "y_edge")
    _write_array(grid, "mask_x_edges", mask.x_edges, "x_edge")


def _write_array(group: Any, name: str, values: Any, *dims: str) -> None:
    values = np.asarray(values)
    rows = CHUNK_BYTES // max(1, values[:1].nbytes)
    chunks = [max(1, n) for n in (min(rows, len(values)), *values.shape[1:])]
    named = {"dimension_names": dims} if group.metadata.zarr_format == 3 else {}
    array = group.create_array(name, shape=values.shape, chunks=chunks, dtype=values.dtype, **named)
    array[...] = values


def bytes_of_map(blank_map: BlankMap) -> int:
    """Return the bytes of a stored blank map before compression."""
    statistics = blank_map.statistics
    record = 0 if statistics is None else statistics.shape[-1]
    pixels = 0 if statistics is not None else math.prod(blank_map.mask_shape)
    return blank_map.grid.rows * blank_map.grid.cols * (8 * record + 11) + 2 * pixels


def write_blank_map(
    blank_map: BlankMap, target: Target, version: str, sharded: bool, progress: Progress | None
) -> str:
    """Write a blank map as an image of one pixel per cell: 255 tissue, 128 unknown, 0 blank."""
    key: dict[str, Any] = {"kind": "blank map", "dask_slides": __version__, "ome_zarr": version}
    key |= {"source": blank_map.name, "detector": repr(blank_map.detector)}
    key |= facts_of(blank_map.grid, "grid")
    # a single small array: there is nothing to resume
    with transaction(replace(target, resume=False), key, bytes_of_map(blank_map)) as unfinished:
        blank_map = _computed(blank_map, progress)
        kinds = kinds_of(blank_map)
        group = unfinished.create(2 if version == "0.4" else 3)
        label = _write_arrays(group, kinds, version, not sharded)
        grid = write_grid(group, blank_map)
        if blank_map.mpp_yx is not None:
            grid.attrs["mpp"] = list(blank_map.mpp_yx)
        if blank_map.fine_mask is not None:
            _write_mask(grid, blank_map.fine_mask)
        image_parts, label_parts = _metadata(blank_map)
        label.attrs.update(ome_metadata.attributes(version, label_parts))
        bad_tiles = bad_tiles_to_json(blank_map.bad_tiles)
        facts = {"bad_tiles": bad_tiles} if bad_tiles else {}
        attributes = ome_metadata.attributes(version, image_parts)
        attributes |= own_attributes("blank map", source=blank_map.name, **facts)
        unfinished.finish("0", {}, attributes)
    return target.absolute


def kinds_of(blank_map: BlankMap) -> Array:
    """Return the kind of each cell of a computed map, an index into `SHADES`."""
    kinds = 1 - np.asarray(blank_map.blank, np.uint8) + np.asarray(blank_map.unknown, np.uint8)
    return np.asarray(kinds, np.uint8)


def _computed(blank_map: BlankMap, progress: Progress | None) -> BlankMap:
    if progress is None:
        reporting: Any = nullcontext()
    else:
        reporting = report_progress_to(lambda _, done, total: progress(done, total))
    with reporting:
        return blank_map.compute()


def _write_arrays(group: Any, kinds: Array, version: str, plain: bool) -> Any:
    """Write the image and its label; return the group of the label."""
    side = max(256, *kinds.shape)
    image = create_level(group, "0", (1, *kinds.shape), (side, side), "uint8", "cyx", plain)
    image[0] = SHADES[kinds]
    label = create_label_group(group, version)
    create_level(label, "0", kinds.shape, (side, side), "uint8", "yx", plain)[...] = kinds
    return label


def _metadata(blank_map: BlankMap) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the OME metadata of the image and of its label."""
    tile, mpp = blank_map.grid.tile, blank_map.mpp_yx
    placement = Placement((float(tile[0]), float(tile[1])))
    placement = placement.on(ome_metadata.placement_on_slide(blank_map.slide.source))
    if mpp is not None:
        mpp = (mpp[0] * tile[0], mpp[1] * tile[1])
    whole = [(1.0, 1.0)]
    image = {
        "multiscales": ome_metadata.multiscales(blank_map.name, "cyx", placement, mpp, whole),
        "omero": ome_metadata.omero(plain_channels(1), np.dtype(np.uint8)),
    }
    label = {
        "multiscales": ome_metadata.multiscales("tissue", "yx", placement, mpp, whole),
        "image-label": ome_metadata.image_label(bool(blank_map.unknown.any())),
    }
    return image, label
