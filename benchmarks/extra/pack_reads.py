"""``python -m benchmarks.extra.pack_reads``: time reads of the tiles of a pack.

Prints Markdown for 1,000 crops of a slide and for their store: `np.asarray(pack.tiles)` compared
with `pack[:]`, and single tiles compared with tensorstore. Every figure is the median of
interleaved rounds in one process.
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
"""Number of tiles that are read one by one, in random order."""


def interleaved(rounds: int, methods: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median seconds of each method; call each once before the clock starts."""
    for method in methods.values():
        method()
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def whole_pack(pack: Any) -> dict[str, Callable[[], Any]]:
    """Return the methods that read all tiles."""
    return {"pack[:]": lambda: pack[:], "np.asarray(pack.tiles)": lambda: np.asarray(pack.tiles)}


def single_tiles(pack: Any, path: str) -> dict[str, Callable[[], Any]]:
    """Return the methods that read tiles one by one; tensorstore is first if installed."""
    numbers = np.random.default_rng(0).permutation(len(pack))[:SINGLE].tolist()
    methods: dict[str, Callable[[], Any]] = {"pack[i]": lambda: [pack[i] for i in numbers]}
    try:
        import tensorstore
    except ImportError:
        return methods
    location = {"driver": "file", "path": f"{path}/tiles"}
    tiles = tensorstore.open({"driver": "zarr3", "kvstore": location}).result()
    return {"tensorstore": lambda: [tiles[i].read().result() for i in numbers]} | methods


def report(title: str, seconds: dict[str, float], count: int) -> None:
    """Print one row per method; ratios are relative to the first one."""
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        each = value / count * 1e3
        print(f"| {title} | {name} | {value:.3f} | {each:.3f} | {value / first:.2f} |", flush=True)


def main() -> None:
    """Make a slide, crops and a store of them, and time the methods that read the tiles."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extra.pack_reads", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=10240, help="pixels per side of the slide")
    parser.add_argument("--slide", help="slide to use instead of a sample")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dask-slides-benchmarks-") as folder:
        slide = given.slide or str(Path(folder) / "slide.tif")
        if not given.slide:
            ds.sample_slide(slide, shape=(given.size, given.size), tile=512)
        crops = ds.random_crops(slide, n=CROPS, size=CROP, seed=1, downsample=1)
        path = ds.write(crops, Path(folder) / "crops.tiles.zarr")
        stored = ds.open_pack(path)
        print(
            "| tiles | method | seconds | ms per tile | ratio |\n| --- | --- | ---: | ---: | ---: |"
        )
        report("of a slide", interleaved(given.rounds, whole_pack(crops)), CROPS)
        report("of a store", interleaved(given.rounds, whole_pack(stored)), CROPS)
        report(
            "of a store, one by one", interleaved(given.rounds, single_tiles(stored, path)), SINGLE
        )


if __name__ == "__main__":
    main()
