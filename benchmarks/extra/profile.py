"""``python -m benchmarks.extra.profile``: split the CPU time of each job by part, on one thread.

The time of a part excludes the parts that it calls. The part "other" is Python: Dask, loops over
tiles, opening the file. Numba is loaded before the clock starts. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import report, slides
from benchmarks.scenarios import BLANK, CROP, CROPS, DENSE, DOWNSAMPLE, PACK_TILE, THUMBNAIL

PARTS = ("decode", "means", "count", "weights", "copy", "read", "encode", "other")
WARMED = ("resize, flat", "resize, lzw", "blank map", "thumbnail")
"""Jobs that run once before the clock starts."""


class Clock:
    """CPU seconds of this thread by part; an outer part excludes its inner parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._parts = ["other"]
        self._since = time.thread_time()

    def _stop_part(self) -> None:
        now = time.thread_time()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time inside the block to `name`."""
        self._stop_part()
        self._parts.append(name)
        try:
            yield
        finally:
            self._stop_part()
            self._parts.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `function` so that its time is added to `name`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return run


def jobs(folder: Path, size: int, out: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name and the function of each job."""
    import dask_slides as ds

    flat = slides.slide(folder, "flat", size)
    crops = ds.random_crops(flat, n=CROPS, size=CROP)
    cells = ds.Contrast(BLANK)
    for kind in ("flat", "lzw", "deflate"):
        path = slides.slide(folder, kind, size)
        yield f"resize, {kind}", lambda p=path: ds.resize(p, downsample=DOWNSAMPLE).data.compute()
    yield "resize to Zarr", lambda: ds.write(ds.resize(flat, downsample=DOWNSAMPLE), out / "image")
    yield "blank map", lambda: ds.blank_map(flat, tile_size=size // 40, detector=cells).compute()
    yield (
        "cut-off",
        lambda: ds.cutoff_resize(
            flat, downsample=DOWNSAMPLE, tile_size=size // 40, detector=cells
        ).image.data.compute(),
    )
    yield (
        "pack",
        lambda: ds.write(
            ds.pack_tiles(flat, tile_size=PACK_TILE, detector=ds.Contrast(DENSE)), out / "tiles"
        ),
    )
    yield "crops", lambda: crops[:]
    pyramid = slides.slide(folder, "pyramid", size)
    yield "thumbnail", lambda: ds.open_slide(pyramid).thumbnail(THUMBNAIL)


def profiled(job: Callable[[], Any]) -> dict[str, float]:
    """Run `job` in this thread and return the CPU seconds of each part."""
    import dask
    import numcodecs.zstd

    from dask_slides.graph import resized
    from dask_slides.numerics import histograms
    from dask_slides.readers.codecs import jpeg, tile_decoder
    from dask_slides.readers.tiff import tiled_page

    clock = Clock()
    parts = [
        (jpeg.JpegDecoder, "tile", "decode"),
        (tile_decoder.TileDecoder, "_tile", "decode"),
        (tile_decoder, "box_mean", "means"),
        (histograms.Histograms, "add", "count"),
        (histograms._Counted, "add", "count"),
        (histograms._Sums, "add", "count"),
        (histograms, "bytes_counted", "count"),
        (resized, "shrink", "weights"),
        (tiled_page.TiledPage, "read", "copy"),
        (numcodecs.zstd.Zstd, "encode", "encode"),
        (os, "pread", "read"),
    ]
    with ExitStack() as stack:
        for owner, name, part in parts:
            function = clock.timed(part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        stack.enter_context(dask.config.set(scheduler="sync"))
        with clock.part("other"):
            job()
    return clock.seconds


def main() -> None:
    """Print the table."""
    from dask_slides.runtime import numba_loader

    parser = argparse.ArgumentParser(prog="python -m benchmarks.extra.profile", description=__doc__)
    parser.add_argument("--size", type=int, default=20480, help="pixels per side, 20480 by default")
    parser.add_argument("--slides", type=Path, help="folder that keeps the slides")
    given = parser.parse_args()
    size = slides.rounded(given.size)
    about = report.machine()
    print(f"{size:,} x {size:,} px (LZW, deflate at most 20,480); {about['model']}, ", end="")
    print(f"Python {about['python']}, commit {about['commit'][:10]}\n")
    print("| job | CPU s |", " | ".join(PARTS), "|")
    print("| --- |", " | ".join(["---:"] * (len(PARTS) + 1)), "|")
    with tempfile.TemporaryDirectory(prefix="dask-slides-profile-") as folder:
        cache = given.slides or Path(folder)
        cache.mkdir(parents=True, exist_ok=True)
        for name, job in jobs(cache, size, Path(folder)):
            numba_loader._loaded.clear()  # another job may have loaded them
            profiled(job) if name in WARMED else None
            seconds = profiled(job)
            whole = sum(seconds.values())
            shares = " | ".join(f"{100 * seconds[part] / whole:.0f} %" for part in PARTS)
            print(f"| {name} | {whole:.3g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
