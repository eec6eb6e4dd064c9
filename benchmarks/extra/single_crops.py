"""``python -m benchmarks.extra.single_crops``: time crops that are read one at a time.

Prints Markdown: CPU time a crop of 256 px of a slide in JPEG tiles of 512 px, with the tiles
that a process keeps for the next crops and without them, and the bytes that it keeps. Every figure
is the median of interleaved rounds in one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

import dask_slides as ds
from benchmarks.slides import slide
from dask_slides.readers.tile_cache import LIMIT, TILE_CACHE

CROP = 256


def places(side: int) -> dict[str, NDArray[np.int64]]:
    """Return the top left corners of crops (n, 2), by how they lie."""
    rng = np.random.default_rng(0)
    middle = side // 4

    def rows(height: int, step: int) -> NDArray[np.int64]:
        down, across = np.arange(0, height, step), np.arange(0, side // 2, step)
        return np.stack(np.meshgrid(middle + down, middle + across, indexing="ij"), 2).reshape(
            -1, 2
        )

    centres = rng.integers(CROP, side - 2 * CROP, (8, 2))
    return {
        "at random on the slide": rng.integers(0, side - CROP, (400, 2)),
        "row by row, side by side": rows(2048, CROP),
        "row by row, stride 128": rows(512, CROP // 2),
        "50 around each of 8 places": np.concatenate(
            [centre + rng.integers(-CROP, CROP, (50, 2)) for centre in centres]
        ),
    }


def read(image: ds.Slide, corners: NDArray[np.int64], limit: int) -> tuple[float, int]:
    """Return the milliseconds of CPU per crop, and the bytes that are kept at the end."""
    TILE_CACHE.clear()
    start = time.process_time()
    with TILE_CACHE.within(limit):
        for y, x in corners.tolist():
            image.read(y, x, CROP, CROP)
    return (time.process_time() - start) / len(corners) * 1e3, TILE_CACHE.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=20_480, help="side of the slide in pixels")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dask-slides-benchmarks-") as folder:
        image = ds.open_slide(slide(Path(folder), "flat", given.size))
        print("| crops of 256 px | ms a crop, tiles kept | not kept | MB kept |")
        print("| --- | ---: | ---: | ---: |")
        for name, corners in places(image.shape[0]).items():
            kept, without = [], []
            for _ in range(given.rounds):
                kept.append(read(image, corners, LIMIT))
                without.append(read(image, corners, 0))
            times = [median(one[0] for one in found) for found in (kept, without)]
            cells = f"{times[0]:.2f} | {times[1]:.2f} | {kept[-1][1] / 1e6:.0f}"
            print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
