"""``python -m benchmarks.exports``: time the export of coordinates to each format.

The pack has a million tiles of 256 px with scores, tissue fractions and two classes; its pixels are
never read. The seconds of a bare read with h5py, which TRIDENT and CLAM do first, are beside those
of the export. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

import dask_slides as ds
from dask_slides.ops.pack import TilePack

TILE = 256
CLASSES = ("tumour", "stroma")
FORMATS = {
    "csv": "tiles.csv",
    "parquet": "tiles.parquet",
    "geoparquet": "tiles.geoparquet",
    "geojson": "tiles.geojson",
    "trident": "trident",
    "clam": "clam",
}


def grid_of(count: int) -> TilePack:
    """Return a pack of `count` tiles on a square grid, whose pixels cannot be read."""
    rng = np.random.default_rng(0)
    number, columns = np.arange(count), int(np.ceil(count**0.5))
    side = columns * TILE
    coverage = rng.random((count, len(CLASSES)))
    labels = np.array(["", *CLASSES])[rng.integers(0, 3, count)]
    attributes = {
        "source": "slide.svs", "source_shape": [side, side, 3], "mpp": 0.25,
        "downsample": [1.0, 1.0], "read_from": "level 0", "tile_size": [TILE, TILE],
        "stride": [TILE, TILE], "detector": "Tissue()", "classes": list(CLASSES),
    }  # fmt: skip
    return TilePack(
        da.empty((count, TILE, TILE, 3), chunks=(1000, -1, -1, -1), dtype="uint8"),
        TILE * (number // columns), TILE * (number % columns), rng.random(count) * 60,
        attributes, None, rng.random(count), labels, coverage,
    )  # fmt: skip


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_coordinates(folder: Path) -> None:
    """Read all coordinates below `folder`, as the tools do."""
    import h5py

    for path in folder.rglob("*.h5"):
        with h5py.File(path) as file:
            file["coords"][:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1, help="the least of these counts")
    options = parser.parse_args()
    pack = grid_of(options.tiles)
    print(f"| {options.tiles:,} tiles to | seconds | CPU seconds | MB | seconds to read back |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, output in FORMATS.items():
        spent = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                path, cpu = Path(folder) / output, time.process_time()
                wall = seconds(lambda path=path, name=name: ds.export(pack, path, to=name))
                spent.append((wall, time.process_time() - cpu))
                files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
                size = sum(map(os.path.getsize, files)) / 1e6
                reading = ""
                if path.is_dir():
                    reading = f"{seconds(lambda path=path: read_coordinates(path)):.1f}"
        wall, cpu = (min(values) for values in zip(*spent, strict=True))
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {size:,.0f} | {reading} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
