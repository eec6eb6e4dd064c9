"""``python -m benchmarks.extra.pack_reads``: how fast the tiles of a pack are read.

Prints Markdown: for 1,000 crops of a slide and for the store of them, `np.asarray(pack.tiles)`
beside `pack[:]`, and single tiles beside tensorstore. Every figure is the median of rounds that
take turns, in one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import dask_slides as ds

CROPS, CROP = 1000, 256
SINGLE = 200
"""Tiles that are read one by one, in random order."""


def in_turns(rounds: int, ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median seconds of each way; each is called once before the clock starts."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def whole_pack(pack: Any) -> dict[str, Callable[[], Any]]:
    """Return the ways to read all tiles."""
    return {"pack[:]": lambda: pack[:], "np.asarray(pack.tiles)": lambda: np.asarray(pack.tiles)}


def single_tiles(pack: Any, path: str) -> dict[str, Callable[[], Any]]:
    """Return the ways to read tiles one by one; tensorstore's first, where it is installed."""
    numbers = np.random.default_rng(0).permutation(len(pack))[:SINGLE].tolist()
    ways: dict[str, Callable[[], Any]] = {"pack[i]": lambda: [pack[i] for i in numbers]}
    try:
        import tensorstore
    except ImportError:
        return ways
    location = {"driver": "file", "path": f"{path}/tiles"}
    tiles = tensorstore.open({"driver": "zarr3", "kvstore": location}).result()
    return {"tensorstore": lambda: [tiles[i].read().result() for i in numbers]} | ways


def report(title: str, seconds: dict[str, float], count: int) -> None:
    """Print one row for each way; ratios are those to the first one."""
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        each = value / count * 1e3
        print(f"| {title} | {name} | {value:.3f} | {each:.3f} | {value / first:.2f} |", flush=True)


def main() -> None:
    """Make a slide, crops and a store of them, and time the ways to read the tiles."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extra.pack_reads", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=10240, help="pixels a side of the slide")
    parser.add_argument("--slide", help="an own slide, instead of a sample")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dask-slides-benchmarks-") as folder:
        slide = given.slide or str(Path(folder) / "slide.tif")
        if not given.slide:
            ds.sample_slide(slide, shape=(given.size, given.size), tile=512)
        crops = ds.random_crops(slide, n=CROPS, size=CROP, seed=1)
        path = ds.write(crops, Path(folder) / "crops.tiles.zarr")
        stored = ds.open_pack(path)
        print("| tiles | way | seconds | ms per tile | ratio |\n| --- | --- | ---: | ---: | ---: |")
        report("of a slide", in_turns(given.rounds, whole_pack(crops)), CROPS)
        report("of a store", in_turns(given.rounds, whole_pack(stored)), CROPS)
        report("of a store, one by one", in_turns(given.rounds, single_tiles(stored, path)), SINGLE)


if __name__ == "__main__":
    main()
