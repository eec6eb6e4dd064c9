"""What is measured: the scenarios, how results are compared, and the register of ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Facts = dict[str, Any]

OURS = "dask_slides"
ONE_THREAD = "dask_slides, 1 thread"
LOOP = "the original as it was: one loop"
RESIZES = ("resize", "resize-256", "resize-lzw", "resize-deflate", "resize-jpeg2000")
"""Scenarios that shrink a slide to memory, by the slide that they read."""
THREADS = 2
"""Threads for everybody."""
DOWNSAMPLE = 10
CELLS = 40
"""Cells of a blank map along a side."""
PACK_TILE = 512
CROPS, CROP = 1000, 256
THUMBNAIL = 1024
ZSTD_LEVEL = 1
"""What everybody packs with: that of our stores, which peers do not import."""
TILE = 512
"""Side of the tiles of a slide, where its scenario says nothing else."""
BLANK, DENSE = 0.05, 0.35
"""Ratios of the contrast test, standard deviation to mean."""
SMOOTH = 30.0
"""Least PSNR in dB of results that should look alike."""


@dataclass(frozen=True)
class Job:
    """What one run works on; plain values, as it goes to a fresh process."""

    slide: str
    size: int
    """Pixels a side of the slide."""
    out: str
    """A path that does not exist yet, for ways that write."""
    places: str
    """``.npy`` of the crops' corners (n, 2), y and x in pixels of level 0."""
    pack: str
    """The pickled TilePack of the same crops; it holds no pixel."""

    threads: int = THREADS

    @property
    def cell(self) -> int:
        """Pixels a side of a cell of the blank map."""
        return self.size // CELLS


@dataclass(frozen=True)
class Way:
    """One way to do the work of a scenario."""

    scenario: str
    name: str
    needs: tuple[str, ...]
    """Modules imported before the clock starts; without one of them the way is skipped."""
    run: Callable[[Job], Any]
    floor: float
    """Least agreement with ours."""
    whole: bool
    """Whether it holds the whole slide in memory."""
    threads: int
    """Threads and processors that it gets."""
    limit: bool
    """Whether it only decodes: nothing that decodes the same can be faster."""


def corners(size: int, cell: int) -> list[tuple[int, int]]:
    """Return (y, x) of the whole cells of a square, row by row."""
    starts = range(0, size - cell + 1, cell)
    return [(y, x) for y in starts for x in starts]


def squared(flags: Iterable[bool]) -> Array:
    """Return the verdicts on the cells of a square as a map."""
    verdicts = np.array(list(flags))
    side = math.isqrt(len(verdicts))
    return verdicts.reshape(side, side)


WAYS: list[Way] = []
"""In the order of the report."""


def way(
    scenario: str,
    name: str,
    *needs: str,
    floor: float = SMOOTH,
    whole: bool = False,
    threads: int = THREADS,
    limit: bool = False,
) -> Callable[[Callable[[Job], Any]], Callable[[Job], Any]]:
    """Register a function of a Job as a way of `scenario`; what it returns is compared."""

    def register(run: Callable[[Job], Any]) -> Callable[[Job], Any]:
        WAYS.append(Way(scenario, name, needs, run, floor, whole, threads, limit))
        return run

    return register


@dataclass(frozen=True)
class Agreement:
    """How a result compares with ours."""

    text: str
    good: bool


@dataclass(frozen=True)
class Scenario:
    """Work that several ways do."""

    name: str
    title: str
    slide: str
    """Kind of the slide it reads: one of `slides.KINDS`."""
    finish: Callable[[Any], tuple[Array | None, Facts]]
    """What turns a way's result into an array to compare and facts, after the clock."""
    agree: Callable[[Array, Array, float], Agreement]
    """Compares ours, theirs."""


def _array(result: Any) -> tuple[Array | None, Facts]:
    return (None if result is None else np.asarray(result)), {}


def _graph(result: Any) -> tuple[Array | None, Facts]:
    import cloudpickle

    try:
        pickled: Any = len(cloudpickle.dumps(result))
    except (TypeError, AttributeError) as error:
        pickled = f"none: {error}"
    tasks = len(dict(result.__dask_graph__()))
    return None, {"shape": list(result.shape), "tasks": tasks, "pickled bytes": pickled}


def _stored_image(path: Any) -> tuple[Array | None, Facts]:
    import zarr

    node = zarr.open(path, mode="r")
    facts = {"bytes on disk": _disk(path)}
    if isinstance(node, zarr.Group):  # OME-Zarr: level 0, channels first
        return np.asarray(node["0"][...]).transpose(1, 2, 0), facts
    return np.asarray(node[...]), facts


def _stored_pack(path: Any) -> tuple[Array | None, Facts]:
    """Return a row for each tile: y, x, mean and standard deviation as they were stored."""
    import zarr

    group = zarr.open_group(path, mode="r")
    places = zip(group["y"][...], group["x"][...], strict=True)
    tiles = (group["tiles"][i] for i in range(group["tiles"].shape[0]))
    rows = [(y, x, t.mean(), t.std()) for (y, x), t in zip(places, tiles, strict=True)]
    table = np.array(rows, np.float64).reshape(-1, 4)
    return table, {"tiles": len(table), "bytes on disk": _disk(path)}


def _disk(path: Any) -> int:
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def psnr(ours: Array, theirs: Array, floor: float) -> Agreement:
    """Compare pixels; a size that is up to 2 % off is stretched to ours and told."""
    note = ""
    if ours.shape != theirs.shape:
        sizes = " x ".join(map(str, theirs.shape))
        off = [abs(a - b) / a for a, b in zip(ours.shape, theirs.shape, strict=False)]
        if ours.ndim != 3 or theirs.ndim != 3 or max(off) > 0.02:
            return Agreement(f"shape {sizes}", False)
        note = f", stretched from {sizes}"
        theirs = _stretched(theirs, (ours.shape[1], ours.shape[0]))
    error = np.mean((ours.astype(np.float32) - theirs) ** 2, dtype=np.float64)
    if error == 0:
        return Agreement("the same pixels", True)
    value = 10 * np.log10(255**2 / error)
    return Agreement(f"{value:.1f} dB{note}", bool(value >= floor))


def _stretched(pixels: Array, size: tuple[int, int]) -> Array:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def same_cells(ours: Array, theirs: Array, _: float) -> Agreement:
    """Compare blank maps: at most 1 % of the cells may differ."""
    if ours.shape != theirs.shape:
        return Agreement(f"{theirs.shape} cells for {ours.shape}", False)
    off = int((ours != theirs).sum())
    return Agreement(f"{off} of {ours.size} cells differ", off <= ours.size / 100)


def same_tiles(ours: Array, theirs: Array, _: float) -> Agreement:
    """Compare packs: at most 1 % of the places may differ, and no mean by over a level."""
    here, there = ({tuple(row[:2]): row[2:] for row in table} for table in (ours, theirs))
    common = here.keys() & there.keys()
    off = len(here.keys() | there.keys()) - len(common)
    level = max((float(np.abs(here[at] - there[at]).max()) for at in common), default=0.0)
    text = f"{off} of {len(here)} places differ, means by {level:.2f}"
    return Agreement(text, off <= max(1, len(here) / 100) and level <= 1)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("open", "open 40,000 tiles, graph of 1/10", "grid", _graph, psnr),
        Scenario("resize", "resize 1/10 to memory", "flat", _array, psnr),
        Scenario("resize-256", "resize 1/10, 256 px tiles", "flat256", _array, psnr),
        Scenario("resize-lzw", "resize 1/10, LZW", "lzw", _array, psnr),
        Scenario("resize-deflate", "resize 1/10, deflate", "deflate", _array, psnr),
        Scenario("resize-jpeg2000", "resize 1/10, JPEG 2000", "jpeg2000", _array, psnr),
        Scenario(
            "resize-zarr",
            "resize 1/10 to Zarr (ours: with its pyramid)",
            "flat",
            _stored_image,
            psnr,
        ),
        Scenario("blank-map", f"blank map, {CELLS} x {CELLS}", "flat", _array, same_cells),
        Scenario("cutoff", "cut-off and resize 1/10", "flat", _array, psnr),
        Scenario("pack", f"pack dense {PACK_TILE} px tiles", "flat", _stored_pack, same_tiles),
        Scenario("crops", f"{CROPS} crops of {CROP} px", "flat", _array, psnr),
        Scenario("thumbnail", f"thumbnail {THUMBNAIL}", "pyramid", _array, psnr),
    )
}
