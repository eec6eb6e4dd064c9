"""``python -m benchmarks.ome_tiff``: write a slide at 1/4 as Zarr and as OME-TIFF.

Each output is written by a new process of two threads, which measures its time and its peak memory
without the imports. Lossless files are then read by tifffile and OpenSlide, and their pixels are
compared with those of the Zarr store: all of the smaller levels, and random regions of the others.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import slides
from benchmarks.compare import Array
from benchmarks.run import forget_peak, memory, pinned
from benchmarks.scenarios import THREADS

OUTPUTS: dict[str, dict[str, Any]] = {
    "a.ome.zarr": {},
    "jpeg.ome.tif": {"codec": "jpeg"},
    "zstd.ome.tif": {"codec": "zstd"},
    "deflate.ome.tif": {"codec": "deflate"},
    "pages.ome.tif": {"codec": "deflate", "pyramid": "pages"},
}
"""The options of `export` by the name of the output."""
DOWNSAMPLE = 4
REGIONS, SIDE = 64, 512
"""Number and side of the regions that are compared in a level that is larger than WHOLE."""
WHOLE = 4096


def measure(slide: str, out: str) -> dict[str, float]:
    """Write `out` in this process; return seconds of wall and of CPU, and bytes."""
    import dask
    import imagecodecs  # noqa: F401
    import simplejpeg  # noqa: F401
    import tifffile  # noqa: F401
    import zarr  # noqa: F401

    import dask_slides as ds

    pinned(THREADS)
    image = ds.resize(slide, downsample=DOWNSAMPLE)
    forget_peak()
    before, cpu, start = memory("VmRSS"), time.process_time(), time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        if out.endswith(".zarr"):
            ds.write(image, out)
        else:
            ds.export(image, out, **OUTPUTS[os.path.basename(out)])
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "peak": memory("VmHWM") - before, "imports": before}


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


def report(folder: Path, name: str, slide: str) -> None:
    """Write one output in a new process, and print its row."""
    command = [sys.executable, "-m", "benchmarks.ome_tiff", "--measure", str(folder / name)]
    done = subprocess.run([*command, "--slide", slide], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    megabytes = [found["peak"] / 1e6, found["imports"] / 1e6, size_of(folder / name) / 1e6]
    peak, imports, size = (f"{value:,.0f}" for value in megabytes)
    seconds = f"{found['wall']:.1f} | {found['cpu']:.1f}"
    print(f"| {name} | {seconds} | {peak} | {imports} | {size} |", flush=True)


Read = Callable[[int, int, int, int, int], Array]
"""Returns the pixels (h, w, 3) of a level at y, x with a height and a width."""


def openslide_reader(path: Path) -> Read:
    import openslide

    slide = openslide.OpenSlide(path)

    def read(level: int, y: int, x: int, height: int, width: int) -> Array:
        factor = 2**level  # positions are those of level 0
        found = slide.read_region((x * factor, y * factor), level, (width, height))
        return np.asarray(found)[..., :3]

    return read


def tifffile_reader(path: Path) -> Read:
    import tifffile
    import zarr

    series = tifffile.TiffFile(path).series[0]
    stores = [series.aszarr(level=number) for number in range(len(series.levels))]
    arrays = [zarr.open_array(store, mode="r") for store in stores]
    return lambda level, y, x, h, w: np.asarray(arrays[level][y : y + h, x : x + w])


def compare(read: Read, store: Path) -> str:
    """Compare the pixels of a reader with those of the Zarr store; return the result as text."""
    import zarr

    group = zarr.open_group(store, mode="r")
    levels = [group[one["path"]] for one in group.attrs["ome"]["multiscales"][0]["datasets"]]
    rng = np.random.default_rng(0)
    pixels = different = 0
    for number, level in enumerate(levels):
        height, width = level.shape[1:]
        parts = [(0, 0, height, width)]
        if max(height, width) > WHOLE:
            corners = rng.integers(0, (height - SIDE, width - SIDE), (REGIONS, 2)).tolist()
            parts = [(y, x, SIDE, SIDE) for y, x in corners]
        for y, x, h, w in parts:
            expected = np.asarray(level[:, y : y + h, x : x + w]).transpose(1, 2, 0)
            different += int((read(number, y, x, h, w) != expected).any(axis=-1).sum())
            pixels += h * w
    return f"{different:,} of {pixels:,} pixels differ in {len(levels)} levels"


def main() -> None:
    """Make the slide, write all outputs, and compare the lossless ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ome_tiff", description=__doc__)
    parser.add_argument("--size", type=int, default=102_400, help="pixels per side of the slide")
    parser.add_argument("--slide", help="slide to use instead of a sample")
    parser.add_argument("--only", action="append", choices=OUTPUTS, help="write only this output")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.slide, given.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="dask-slides-benchmarks-") as temporary:
        folder = Path(temporary)
        slide = given.slide or str(slides.slide(folder, "flat", slides.rounded(given.size)))
        slides.warm(Path(slide))
        print("| output | seconds | CPU | peak MB | imports MB | size MB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        names = given.only or list(OUTPUTS)
        for name in names:
            report(folder, name, slide)
        if "a.ome.zarr" not in names:
            return
        for name in names:
            if OUTPUTS[name].get("codec") in ("zstd", "deflate"):
                pages = "pyramid" in OUTPUTS[name]
                read = (openslide_reader if pages else tifffile_reader)(folder / name)
                reader = "OpenSlide" if pages else "tifffile"
                print(f"\n{name} read by {reader}: {compare(read, folder / 'a.ome.zarr')}")


if __name__ == "__main__":
    main()
