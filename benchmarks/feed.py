"""``python -m benchmarks.feed``: feed random crops of many slides to a training loop.

Makes slides of JPEG tiles of 256 and 512 px, flat and pyramidal, and packs of them. Each method
runs in a process of its own, with two threads or two workers, and reads crops of 256 px at full
resolution, in batches of 64. OpenSlide reads the same crops in the same order as `crops`.
wsistream, if it is installed with PyTorch, draws its own. Prints Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import dask_slides as ds
from dask_slides import feed

SIZE, BATCH, THREADS = 256, 64, 2
KINDS = {(tile, pyramid): 4 * (tile // 256) + pyramid for tile in (256, 512) for pyramid in (0, 1)}
STEP = 0.005
"""Seconds that the consumer takes for a batch in the measurement of waiting."""
Batches = Iterator[Any]
METHODS: dict[str, Callable[[list[str], list[Any], int], Batches]] = {}


def method(name: str) -> Callable[..., Any]:
    def register(make: Any) -> Any:
        METHODS[name] = make
        return make

    return register


def stream_of(paths: list[str], maps: list[Any], **options: Any) -> feed.CropStream:
    return feed.CropStream(
        paths, blank_maps=maps, size=SIZE, **({"downsample": 1} | {"length": 10**9} | options)
    )


@method("crops")
def crops(paths: list[str], maps: list[Any], window: int) -> Batches:
    stream = stream_of(paths, maps)
    return iter(stream.batches(BATCH, threads=THREADS, window=window))


@method("crops, 16 per visit")
def crops_near(paths: list[str], maps: list[Any], window: int) -> Batches:
    stream = stream_of(paths, maps, per_visit=16)
    return iter(stream.batches(BATCH, threads=THREADS, window=window))


@method("crops at 1/2, resampled")
def crops_half(paths: list[str], maps: list[Any], window: int) -> Batches:
    stream = stream_of(paths, maps, downsample=2)
    return iter(stream.batches(BATCH, threads=THREADS, window=window))


@method("crops at 1/2, reduced")
def crops_reduced(paths: list[str], maps: list[Any], window: int) -> Batches:
    stream = stream_of(paths, maps, downsample=2, reduced=True)
    return iter(stream.batches(BATCH, threads=THREADS, window=window))


@method("packs")
def packs(paths: list[str], maps: list[Any], window: int) -> Batches:
    stored = [path.replace(".tif", ".tiles.zarr") for path in paths]
    stream = feed.CropStream(stored, length=10**9)
    return iter(stream.batches(BATCH, threads=THREADS, window=window))


@method("OpenSlide, the order of crops")
def openslide(paths: list[str], maps: list[Any], window: int) -> Batches:
    return _openslide(stream_of(paths, maps), paths)


@method("OpenSlide, the order of 16 per visit")
def openslide_near(paths: list[str], maps: list[Any], window: int) -> Batches:
    return _openslide(stream_of(paths, maps, per_visit=16), paths)


@method("OpenSlide, crops at 1/2, resized by Pillow")
def openslide_half(paths: list[str], maps: list[Any], window: int) -> Batches:
    return _openslide(stream_of(paths, maps, downsample=2), paths, 2)


def _openslide(stream: feed.CropStream, paths: list[str], downsample: int = 1) -> Batches:
    from openslide import OpenSlide

    slides = {Path(path).name: OpenSlide(path) for path in paths}  # all stay open

    def read(place: tuple[str, int, int]) -> np.ndarray:
        name, y, x = place
        side = SIZE * downsample
        picture = slides[name].read_region((x, y), 0, (side, side)).convert("RGB")
        return np.asarray(picture if downsample == 1 else picture.resize((SIZE, SIZE)))

    with ThreadPoolExecutor(THREADS) as pool:
        number = 0
        ahead: list[Any] = []
        while True:
            while len(ahead) < 4:
                found = stream.places(range(number, number + BATCH))
                number += BATCH
                places = zip(*(found[n].tolist() for n in ("slide", "y", "x")), strict=True)
                ahead.append([pool.submit(read, place) for place in places])
            yield np.stack([one.result() for one in ahead.pop(0)])


@method("wsistream")
def wsistream(paths: list[str], maps: list[Any], window: int) -> Batches:
    from torch.utils.data import DataLoader
    from wsistream.backends import OpenSlideBackend
    from wsistream.sampling import RandomSampler
    from wsistream.tissue import OtsuTissueDetector
    from wsistream.torch import WsiStreamDataset

    data = WsiStreamDataset(
        paths, OpenSlideBackend(), OtsuTissueDetector(),
        RandomSampler(patch_size=SIZE, num_patches=-1, target_mpp=0.25),
        patches_per_slide=100, tissue_mask_cache_size=len(paths), output_dtype="uint8", seed=0,
    )  # fmt: skip
    return iter(DataLoader(data, batch_size=BATCH, num_workers=THREADS))


def measure(name: str, paths: list[str], maps: list[Any], window: int, seconds: float) -> Any:
    """Return what one method does in about `seconds`, and then with a consumer."""
    start = time.perf_counter()
    batches = METHODS[name](paths, maps, window)
    ready = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    for _ in range(window // BATCH):  # the first window starts slowly
        next(batches)
    found: dict[str, Any] = {"setup": ready - start, "first": first - ready, "early": _resident()}
    start, before, count = time.perf_counter(), _cpu(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += BATCH
    found["rate"] = count / (time.perf_counter() - start)
    found["cpu"] = 1e3 * (_cpu() - before) / count
    found["late"] = _resident()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds / 4:
        next(batches)
        time.sleep(STEP)
        steps += 1
    found["waiting"] = 1 - steps * STEP / (time.perf_counter() - start)
    return found


def _cpu() -> float:
    """Return the CPU seconds of this process and of the workers that it started."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def make_slides(folder: Path, count: int, side: int) -> list[str]:
    """Return the paths of `count` slides with packs; each kind is made once and copied."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        (tile, pyramid), seed = list(KINDS.items())[number % len(KINDS)]
        path = folder / f"{side}-{number}.tif"
        pack = path.with_suffix(".tiles.zarr")
        paths.append(str(path))
        if pack.exists():
            continue
        if number >= len(KINDS):
            first = folder / f"{side}-{number % len(KINDS)}.tif"
            shutil.copyfile(first, path)
            shutil.copytree(first.with_suffix(".tiles.zarr"), pack)
            continue
        ds.sample_slide(
            path, shape=(side, side), tile=tile, seed=seed, pyramid=bool(pyramid), overwrite=True
        )
        ds.write(ds.pack_tiles(path, tile_size=SIZE, downsample=1), pack)
    return paths


def balance(paths: list[str], maps: list[Any], count: int = 100_000) -> str:
    """Return by how much the counts differ from what was asked, in 1,000 crops and in all."""
    labels = ["ab"[number % 3 == 0] for number in range(len(paths))]
    stream = stream_of(paths, maps, labels=labels, balance="label", shares={"a": 0.7, "b": 0.3})
    found = stream.places(range(count))
    worst = []
    for some in (1000, count):
        shares = [np.mean(found["label"][:some] == name) for name in "ab"]
        worst.append(max(abs(shares[0] / 0.7 - 1), abs(shares[1] / 0.3 - 1)))
    by_slide = np.unique(found["slide"], return_counts=True)[1].astype(float)
    asked = np.array([{"a": 0.7, "b": 0.3}[one] / labels.count(one) for one in labels])
    order = np.argsort([Path(path).name for path in paths])
    slides = np.abs(by_slide / (asked[order] * count) - 1).max()
    return (
        f"Balance over {count:,} crops, largest difference from what was asked: labels "
        f"{worst[0]:.2%} in the first 1,000 and {worst[1]:.3%} in all; slides {slides:.2%}."
    )


def resumes(paths: list[str], maps: list[Any], count: int = 1000) -> str:
    """Return whether runs that are stopped and resumed see each crop of an epoch once."""
    stream = stream_of(paths, maps)
    rng = np.random.default_rng(0)
    state: dict[str, int] = {"seed": 0, "number": 0}
    seen: list[np.ndarray] = []
    for _ in range(count):
        world, size, steps = (int(n) for n in rng.integers(1, (9, 65, 5)))
        ranks = [stream.batches(size, rank=r, world=world, start=state) for r in range(world)]
        seen += [rank.numbers(step) for rank in ranks for step in range(steps)]
        state = ranks[0].state_dict({"number": ranks[0].numbers(steps - 1)})
    numbers = np.concatenate(seen)
    once = np.array_equal(np.sort(numbers), np.arange(state["number"]))
    some = rng.choice(numbers, 2000)
    whole = stream.places(np.sort(some))
    parts = [stream.places(np.sort(some)[n : n + 7]) for n in range(0, 2000, 7)]
    same = all(
        np.array_equal(whole[key], np.concatenate([part[key] for part in parts]))
        for key in ("slide", "y", "x")
    )
    return (
        f"{count:,} stops and resumes on 1 to 8 ranks: {len(numbers):,} crops, "
        f"{'each once' if once else 'NOT EACH ONCE'}, {'the same' if same else 'OTHER'} places."
    )


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=100, help="number of slides")
    parser.add_argument("--side", type=int, default=10_240, help="height and width of a slide")
    parser.add_argument("--folder", type=Path, help="keeps the slides")
    parser.add_argument("--seconds", type=float, default=20.0, help="per method")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--only", action="append", help="a method; can be repeated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        paths = make_slides(options.folder or Path(temporary), options.slides, options.side)
        maps = [ds.blank_map(path).compute() for path in paths[: len(KINDS)]]
        maps = [
            ds.BlankMap(one.grid, one.detector, ds.open_slide(path)).with_mask(one.mask)
            for path, one in zip(paths, maps * -(-len(paths) // len(maps)), strict=False)
        ]
        print(f"{len(paths)} slides of {options.side:,} px, a window of {options.window:,} crops\n")
        heads = (
            "crops/s",
            "CPU ms a crop",
            "set up, first batch, s",
            "MB at first, later",
            "waiting",
        )
        print(f"| method | {' | '.join(heads)} |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        context = multiprocessing.get_context("spawn")
        for name in options.only or METHODS:
            if name == "wsistream" and not (find_spec("wsistream") and find_spec("torch")):
                continue
            # a process may not be a daemon to have workers
            with ProcessPool(context) as run:
                one = run(measure, name, paths, maps, options.window, options.seconds)
            cells = (
                f"{one['rate']:,.0f}", f"{one['cpu']:.2f}",
                f"{one['setup']:.2f}, {one['first']:.2f}",
                f"{one['early']:,.0f}, {one['late']:,.0f}", f"{one['waiting']:.0%}",
            )  # fmt: skip
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if not options.only:
            print(f"\n{balance(paths, maps)}\n\n{resumes(paths, maps)}")


class ProcessPool:
    """Calls a function in one new process."""

    def __init__(self, context: Any) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._pool = ProcessPoolExecutor(1, mp_context=context)

    def __enter__(self) -> Callable[..., Any]:
        return lambda call, *args: self._pool.submit(call, *args).result()

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()


if __name__ == "__main__":
    main()
