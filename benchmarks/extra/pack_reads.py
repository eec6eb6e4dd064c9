"""``python -m benchmarks.extra.pack_reads``: time reads of the tiles of a pack.

Prints Markdown for 1,000 crops of a slide and for their store: `np.asarray(pack.tiles)` compared
with `pack[:]`, and single tiles compared with tensorstore. Then a loader reads batches of dense
tiles of 512 px from packs of zstd and of copied JPEG, from the page cache and from the disk, beside
the bare codecs. Every figure is the median of interleaved rounds in one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg

import dask_slides as ds
from benchmarks.source_codec import forget
from dask_slides.feed import SlideDataset

CROPS, CROP = 1000, 256
LOADED = 320
"""Tiles of 512 px that a loader reads in a round."""
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


class Loader:
    """Batches of 16 tiles in random order, from a pack of each codec."""

    def __init__(self, slide: str, folder: Path) -> None:
        pack = ds.pack_tiles(slide, tile_size=512, downsample=1, min_tissue=0.5)
        self.paths = {
            "zstd": Path(ds.write(pack, folder / "zstd.tiles.zarr")),
            "copies": Path(ds.write(pack, folder / "copies.tiles.zarr", codec="source")),
        }
        self.tiles = {codec: SlideDataset(path) for codec, path in self.paths.items()}
        numbers = np.random.default_rng(0).permutation(len(pack))[:LOADED]
        self.batches = np.array_split(numbers, -(-len(numbers) // 16))
        tiles = pack.tiles[:32].compute()
        self._out = np.empty_like(tiles[0])
        self._streams = {
            "zstd": [imagecodecs.zstd_encode(tile.tobytes(), 1) for tile in tiles],
            "copies": [stream for _, stream in slide_streams(pack, 32)],
        }

    def __call__(self, codec: str, threads: int, cold: bool) -> tuple[float, float]:
        """Return tiles per second, and milliseconds of CPU per tile."""
        if cold:
            forget(self.paths[codec])
        dataset, start, cpu = self.tiles[codec], time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(dataset.__getitems__, map(np.ndarray.tolist, self.batches)):
                pass
        count = sum(map(len, self.batches))
        spent, cpu = time.perf_counter() - start, time.process_time() - cpu
        return count / spent, cpu / count * 1e3

    def bare(self, codec: str) -> tuple[float, float]:
        """Return the same for decoding alone, with one thread, into memory that is reused."""
        flat, start = self._out.reshape(-1).data, time.process_time()
        for stream in self._streams[codec]:
            if codec == "zstd":
                imagecodecs.zstd_decode(stream, out=flat)
            else:
                simplejpeg.decode_jpeg(stream, "RGB", buffer=self._out)
        each = (time.process_time() - start) / len(self._streams[codec])
        return 1 / each, each * 1e3


def slide_streams(pack: Any, count: int) -> Iterator[tuple[int, bytes]]:
    """Yield the compressed tiles of the slide that the first tiles of a pack are."""
    source = pack.slide.source
    across = -(-source.levels[0].shape[1] // 512)
    yield from source.streams(0, sorted((pack.y // 512 * across + pack.x // 512)[:count].tolist()))


def report_loader(loader: Loader, rounds: int) -> None:
    """Print a row per codec and way of reading."""
    print("\n| loader | codec | tiles/s | CPU ms a tile |\n| --- | --- | ---: | ---: |")
    ways: dict[str, Callable[[str], tuple[float, float]]] = {"bare decode, 1 thread": loader.bare}
    for cold in (False, True):
        for threads in (1, 2):
            name = f"{'disk' if cold else 'page cache'}, {threads} thread{'s' * (threads > 1)}"
            ways[name] = partial(loader, threads=threads, cold=cold)
    for name, way in ways.items():
        found: dict[str, list[tuple[float, float]]] = {codec: [] for codec in loader.tiles}
        for codec in found:
            way(codec)
        for _ in range(rounds):
            for codec, values in found.items():
                values.append(way(codec))
        for codec, values in found.items():
            rate, cpu = (median(one) for one in zip(*values, strict=True))
            print(f"| {name} | {codec} | {rate:,.0f} | {cpu:.2f} |", flush=True)


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
        report_loader(Loader(slide, Path(folder)), given.rounds)


if __name__ == "__main__":
    main()
