"""``python -m benchmarks.extra.check``: compare the check of a whole slide with decoding it.

Every method decodes all tiles once on two threads. Rounds are interleaved, and the least of each
counts. CPU seconds hold on a machine that does other work too. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.limits import decode_all, jpeg_decoder, tifffile_decoder
from benchmarks.scenarios import THREADS, Job

SLIDES = {
    "JPEG, 256 px tiles": ({"tile": 256}, partial(jpeg_decoder, 1)),
    "JPEG, 512 px tiles": ({"tile": 512}, partial(jpeg_decoder, 1)),
    "deflate, 256 px tiles": ({"tile": 256, "compression": "deflate"}, tifffile_decoder),
    "LZW, 256 px tiles": ({"tile": 256, "compression": "lzw"}, tifffile_decoder),
}


def methods(path: str, size: int, decoder: Any) -> dict[str, Callable[[], object]]:
    """Return the timed functions by name."""
    import dask_slides as ds

    def judge(on_bad_tile: str) -> object:
        slide = ds.open_slide(path, on_bad_tile=on_bad_tile)
        return ds.blank_map(slide, detector=ds.Contrast(0.05)).compute()

    return {
        "bare decode": lambda: decode_all(Job(path, size, "", "", ""), decoder),
        "check": lambda: ds.check_slide(path),
        "blank map, raise": lambda: judge("raise"),
        "blank map, mask": lambda: judge("mask"),
    }


def main() -> None:
    """Print a table."""
    import dask

    import dask_slides as ds

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_240, help="pixels per side")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| slide | method | seconds | to bare decode | CPU seconds | to bare decode |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(scheduler="threads", num_workers=THREADS),
    ):
        for title, (made, decoder) in SLIDES.items():
            shape = (options.size, options.size)
            path = str(
                ds.sample_slide(Path(folder) / "slide.tif", shape=shape, overwrite=True, **made)
            )
            timed = methods(path, options.size, decoder)
            least = {name: [float("inf")] * 2 for name in timed}
            for _ in range(options.rounds):
                for name, method in timed.items():
                    before = time.perf_counter(), time.process_time()
                    method()
                    after = time.perf_counter(), time.process_time()
                    spent = [b - a for a, b in zip(before, after, strict=True)]
                    least[name] = [min(pair) for pair in zip(least[name], spent, strict=True)]
            wall, cpu = least["bare decode"]
            for name, (seconds, used) in least.items():
                cells = f"{seconds:.2f} | {seconds / wall:.2f} | {used:.2f} | {used / cpu:.2f}"
                print(f"| {title} | {name} | {cells} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
