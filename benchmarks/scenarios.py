"""The scenarios, the input of a run, and the registry of methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.compare import (
    Agreement,
    Array,
    Facts,
    array_of,
    facts_of_graph,
    psnr,
    same_cells,
    same_tiles,
    stored_image,
    stored_pack,
)

THREADS = 2
"""Default number of threads of a method."""
DOWNSAMPLE = 10
CELLS = 40
"""Cells of a blank map along a side."""
PACK_TILE = 512
CROPS, CROP = 1000, 256
THUMBNAIL = 1024
ZSTD_LEVEL = 1
"""Compression level of dask_slides, which all methods use."""
BLANK, DENSE = 0.05, 0.35
"""Thresholds of standard deviation / mean for blank tiles."""

OURS = "dask_slides"
ONE_THREAD = "dask_slides, 1 thread"
LOOP = "original, one loop"
RESIZES = ("resize", "resize-256", "resize-lzw", "resize-deflate", "resize-jpeg2000")
"""Scenarios that resize a slide to memory."""


@dataclass(frozen=True)
class Scenario:
    """Work that several methods do."""

    name: str
    title: str
    slide: str
    """Key in `slides.KINDS` of the slide to read."""
    finish: Callable[[Any], tuple[Array | None, Facts]]
    """Convert the result of a method to an array to compare and facts; not timed."""
    agree: Callable[[Array, Array, float], Agreement]
    """Compare our array with that of a method."""


ZARR_TITLE = "resize 1/10 to Zarr (ours: with its pyramid)"
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("open", "open 40,000 tiles, graph of 1/10", "grid", facts_of_graph, psnr),
        Scenario("resize", "resize 1/10 to memory", "flat", array_of, psnr),
        Scenario("resize-256", "resize 1/10, 256 px tiles", "flat256", array_of, psnr),
        Scenario("resize-lzw", "resize 1/10, LZW", "lzw", array_of, psnr),
        Scenario("resize-deflate", "resize 1/10, deflate", "deflate", array_of, psnr),
        Scenario("resize-jpeg2000", "resize 1/10, JPEG 2000", "jpeg2000", array_of, psnr),
        Scenario("resize-zarr", ZARR_TITLE, "flat", stored_image, psnr),
        Scenario("blank-map", f"blank map, {CELLS} x {CELLS}", "flat", array_of, same_cells),
        Scenario("cutoff", "cut-off and resize 1/10", "flat", array_of, psnr),
        Scenario("pack", f"pack dense {PACK_TILE} px tiles", "flat", stored_pack, same_tiles),
        Scenario("crops", f"{CROPS} crops of {CROP} px", "flat", array_of, psnr),
        Scenario("thumbnail", f"thumbnail {THUMBNAIL}", "pyramid", array_of, psnr),
    )
}


@dataclass(frozen=True)
class Job:
    """The input of one run, as plain values that can be sent to a new process."""

    slide: str
    size: int
    """Pixels along a side of the slide."""
    out: str
    """A path that does not exist yet, for methods that write."""
    crops: str
    """``.npy`` with the corners (n, 2) of the crops, y and x in pixels of level 0."""
    pack: str
    """The pickled TilePack of the same crops, without pixels."""
    threads: int = THREADS

    @property
    def cell(self) -> int:
        """Pixels along a side of a cell of the blank map."""
        return self.size // CELLS


@dataclass(frozen=True)
class Method:
    """A function that does the work of a scenario with dask_slides or another tool."""

    scenario: str
    name: str
    imports: tuple[str, ...]
    """Modules imported before the clock starts; without one of them the method is skipped."""
    run: Callable[[Job], Any]
    min_psnr: float
    """Minimum PSNR against ours in dB."""
    in_memory: bool
    """Whether it loads the whole slide into memory."""
    threads: int
    limit: bool
    """Whether it only decodes tiles, which is the limit for methods that decode the same tiles."""


METHODS: list[Method] = []
"""All methods, in the order of the report."""


def method(
    scenario: str,
    name: str,
    *imports: str,
    min_psnr: float = 30.0,
    in_memory: bool = False,
    threads: int = THREADS,
    limit: bool = False,
) -> Callable[[Callable[[Job], Any]], Callable[[Job], Any]]:
    """Register a function of a Job as a method of `scenario`."""

    def register(run: Callable[[Job], Any]) -> Callable[[Job], Any]:
        METHODS.append(Method(scenario, name, imports, run, min_psnr, in_memory, threads, limit))
        return run

    return register


def corners(size: int, cell: int) -> list[tuple[int, int]]:
    """Return (y, x) of the whole cells of a square, row by row."""
    starts = range(0, size - cell + 1, cell)
    return [(y, x) for y in starts for x in starts]


def as_map(flags: Iterable[bool]) -> Array:
    """Return flags of the cells of a square, given row by row, as a square array."""
    values = np.array(list(flags))
    side = math.isqrt(len(values))
    return values.reshape(side, side)
