"""``python -m benchmarks.source_codec FOLDER``: time stores of the slide's own compressed tiles.

FOLDER keeps the slides between runs, and holds the stores during one. Each step runs in a process
of its own, on the threads of the machine; its memory is the peak of that process less that of one
that has only imported the same modules. `compare` reads every tile of level 0 three times: from the
slide, from the store, and from the store with zarr-python alone. `--pairs N` copies the slide N
times in turn with `cp`, with and without waiting for the disk. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import dask_slides as ds
from benchmarks.slides import slide, warm
from dask_slides.core.geometry import Region
from dask_slides.writers.store import checksum

TILE = 512
SEED = 0


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def copy_file(source: Path, out: Path, flush: bool = True) -> None:
    """Copy a file as `cp` does, inside the system; wait until it is on the disk if `flush`."""
    shutil.copyfile(source, out)
    if flush:
        with out.open("rb") as file:
            os.fsync(file.fileno())


def copy_tiles(source: Path, out: Path, flush: bool = True) -> None:
    """Copy the tiles of a slide; without `flush` no file waits until it is on the disk."""
    if not flush:
        os.fsync = lambda handle: None
    ds.write(source_of(source), out, codec="source")


def copy_with_sha256(source: Path, out: Path) -> None:
    """Copy the tiles of a slide with SHA-256 checksums, and do not flush them to the disk."""
    checksum._ALGORITHMS[checksum.ALGORITHM] = hashlib.sha256
    copy_tiles(source, out, flush=False)


def pack_of(source: Path, tile: int = TILE) -> Any:
    return ds.pack_tiles(source, tile_size=tile, downsample=1, min_tissue=0.5)


def write_pack(source: Path, out: Path, codec: str | None) -> dict[str, Any]:
    """Write a pack; compare its bytes with those of the same tiles in the slide."""
    import tifffile

    pack = pack_of(source)
    start = time.perf_counter()
    ds.write(pack, out, codec=codec, quality=100 if codec == "jpegxl" else 80)
    spent = time.perf_counter() - start
    with tifffile.TiffFile(source) as opened:
        page = opened.pages[0]
        across = -(-page.imagewidth // page.tilewidth)
        numbers = pack.y // page.tilelength * across + pack.x // page.tilewidth
        stored = int(np.array(page.databytecounts)[numbers].sum())
    share = round(bytes_of(out / "tiles") / stored, 4)
    return {"seconds": round(spent, 2), "tiles": len(pack), "times the bytes of its tiles": share}


def forget(path: Path) -> None:
    """Remove the files of a store from the page cache of the system."""
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_pack(out: Path, count: int = 2000, cold: bool = False) -> dict[str, Any]:
    """Read tiles in random order, one at a time, as a loader does; with `cold` from the disk."""
    if cold:
        forget(out)
    pack = ds.open_pack(out)
    numbers = np.random.default_rng(SEED).integers(0, len(pack), min(count, 4 * len(pack)))
    start = time.perf_counter()
    for number in numbers.tolist():
        pack[number]
    return {"tiles_per_second": len(numbers) / (time.perf_counter() - start)}


def compare(source: Path, out: Path) -> dict[str, Any]:
    """Compare every tile of level 0: slide, our reader, and Zarr, with two threads."""
    import zarr

    register_codecs()
    array = zarr.open_group(str(out), mode="r")["0"]
    slides = ds.open_slide(source), ds.open_slide(out)
    shape = slides[0].shape[:2]
    blocks = [
        Region(y, x, TILE, 50 * TILE).intersect(Region(0, 0, *shape))
        for y in range(0, shape[0], TILE)
        for x in range(0, shape[1], 50 * TILE)
    ]

    def wrong_samples(block: Region) -> tuple[int, int]:
        where = block.y, block.x, block.height, block.width
        expected, ours = (each.read(*where) for each in slides)
        others = array[(slice(None), *block.slices())].transpose(1, 2, 0)
        return int((expected != ours).sum()), int((expected != others).sum())

    with ThreadPoolExecutor(2) as pool:
        found = np.array(list(pool.map(wrong_samples, blocks)))
    codec = array.metadata.codecs[0].codecs[1]
    return {
        "tiles": math.prod(-(-n // TILE) for n in shape),
        "pixels": sum(block.area for block in blocks),
        "wrong samples, open_slide and zarr-python": found.sum(axis=0).tolist(),
        "decoder of zarr-python": f"{type(codec).__module__}.{type(codec).__name__}",
    }


def register_codecs() -> None:
    """Register the codecs of imagecodecs itself where it has them, else ours."""
    try:
        from imagecodecs.zarr import register_codecs
    except ImportError:
        from dask_slides.readers.codecs.zarr_codecs import register as register_codecs
    register_codecs()


def thumbnail(path: Path) -> None:
    image = ds.open_slide(path)
    factor = max(1, *image.source.reductions(0))
    region = Region(0, 0, *(min(n // factor, 4096) for n in image.shape[:2]))
    for _ in range(4):
        image.source.read_reduced(0, factor, region)


def steps(folder: Path, source: Path) -> dict[str, Callable[[], Any]]:
    """Return the steps by name."""
    store, dropped = folder / "copy.ome.zarr", folder / "dropped.ome.zarr"
    packs = {
        codec: folder / f"{codec}.tiles.zarr" for codec in ("zstd", "source", "jpeg", "jpegxl")
    }
    made: dict[str, Callable[[], Any]] = {
        "nothing": lambda: ds.open_slide(source),
        "cp": lambda: copy_file(source, folder / "cp.tif"),
        "write copy": lambda: copy_tiles(source, store),
        "cp unflushed": lambda: copy_file(source, folder / "unflushed.tif", flush=False),
        "write with SHA-256": lambda: copy_with_sha256(source, folder / "sha256.ome.zarr"),
        "write unflushed": lambda: copy_tiles(source, folder / "unflushed.ome.zarr", flush=False),
        "write dropped": lambda: ds.write(
            source_of(source), dropped, codec="source", drop_blank=True
        ),
        "compare": lambda: compare(source, store),
        "reduced read of slide": lambda: thumbnail(source),
        "reduced read of copy": lambda: thumbnail(store),
    }
    for step in (None, 2, 8):
        out = folder / f"step{step}.ome.zarr"
        made[f"write step{step}"] = lambda out=out, step=step: ds.write(
            source_of(source), out, codec="source", level_step=step
        )
    for codec, out in packs.items():
        named = None if codec == "zstd" else codec
        made[f"pack {codec}"] = lambda out=out, named=named: write_pack(source, out, named)
        made[f"read pack {codec}"] = lambda out=out: read_pack(out)
        made[f"read pack cold {codec}"] = lambda out=out: read_pack(out, cold=True)
    return made


def source_of(path: Path) -> Any:
    return ds.open_slide(path)


PAIRS = {
    "`cp`, flushed to the disk": ("cp", "write copy"),
    "`cp`, not flushed": ("cp unflushed", "write unflushed"),
    "SHA-256, not flushed": ("write with SHA-256", "write unflushed"),
}
"""What is compared with a copy, and the steps of both."""


def report_pairs(work: Path, source: Path, count: int) -> None:
    """Print how `count` copies of the slide compare with `cp`, one after the other."""
    print("| compared with | s wall, CPU | copy, s wall, CPU | ratio of wall times | MB/s a core |")
    print("| --- | ---: | ---: | ---: | ---: |")
    size = bytes_of(source)
    for kind, names in PAIRS.items():
        took: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(count):
            for name, values in took.items():
                os.sync()
                values.append(run_step(work, source, name))
                for path in work.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        files, tiles = took.values()
        ratios = [b["wall"] / a["wall"] for a, b in zip(files, tiles, strict=True)]
        cells = [
            ", ".join(f"{median(one[clock] for one in values):.2f}" for clock in ("wall", "cpu"))
            for values in (files, tiles)
        ]
        rate = size / 1e6 / median(one["cpu"] for one in tiles)
        ends = f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {rate:,.0f}"
        print(f"| {kind} | {cells[0]} | {cells[1]} | {ends} |", flush=True)


def run_step(folder: Path, source: Path, name: str) -> dict[str, Any]:
    """Run a step in a process of its own; return what it took."""
    command = [sys.executable, "-m", "benchmarks.source_codec", str(folder), "--step", name]
    command += ["--slide", str(source)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def report_step(folder: Path, source: Path, name: str) -> None:
    """Run a step here, and print what it took as JSON."""
    work = steps(folder, source)[name]
    start, cpu = time.perf_counter(), time.process_time()
    found = work()
    took = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    took["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(took | (found if isinstance(found, dict) else {})))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=20_480, help="side of the slide in pixels")
    parser.add_argument("--kind", default="flat", help="kind of slide of benchmarks.slides")
    parser.add_argument("--slide", type=Path, help="another slide")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="*", help="steps to run")
    parser.add_argument("--pairs", type=int, help="only compare so many copies with cp")
    options = parser.parse_args()
    source = options.slide or slide(options.folder, options.kind, options.size)
    if options.step:
        report_step(options.folder, source, options.step)
        return
    work = options.folder / "stores"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    warm(source)
    size = bytes_of(source)
    print(f"{source.name}: {size / 1e6:,.0f} MB\n")
    if options.pairs:
        report_pairs(work, source, options.pairs)
        shutil.rmtree(work)
        return
    print("| step | seconds | CPU seconds | MB of memory | more |")
    print("| --- | ---: | ---: | ---: | --- |")
    idle = run_step(work, source, "nothing")["rss"]
    for name in options.only or list(steps(work, source))[1:]:
        took = run_step(work, source, name)
        more = {key: took[key] for key in took if key not in ("wall", "cpu", "rss")}
        for path in sorted(work.iterdir()):
            if path.name.split(".")[0] == name.split()[-1]:
                more["share of the slide's bytes"] = round(bytes_of(path) / size, 4)
                if (path / "0").exists():
                    more["level 0 alone"] = round(bytes_of(path / "0") / size, 4)
        memory = (took["rss"] - idle) / 1e6
        told = ", ".join(f"{key}: {value}" for key, value in more.items() if value is not None)
        print(f"| {name} | {took['wall']:.2f} | {took['cpu']:.2f} | {memory:,.0f} | {told} |")
        sys.stdout.flush()
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
