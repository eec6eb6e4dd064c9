"""``python -m benchmarks.extra.plan SLIDE``: plan many slides from one that is measured.

Writes the stores of the usual steps of one slide, in processes of their own, and multiplies their
bytes and CPU seconds by the number of slides and by the pixels of a slide. The pack has tiles of
512 px at full resolution, of dense tissue. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scenarios import DENSE, PACK_TILE
from benchmarks.source_codec import bytes_of

STEPS = (
    "mask", "resize 1/10", "resize 1/10, ome-tiff", "cutoff 1/10", "cutoff 1/10, ome-tiff",
    "pack, zstd", "pack, jpeg", "pack, source",
)  # fmt: skip
HOUR = 3600


def write_step(path: str, name: str, out: str) -> dict[str, float]:
    """Write the store of a step; return its bytes and CPU seconds."""
    import dask_slides as ds

    start = time.process_time()
    step, _, codec = name.partition(", ")
    obj: Any
    if step == "mask":
        obj = ds.blank_map(path)
    elif step == "resize 1/10":
        obj = ds.resize(path, downsample=10)
    elif step == "cutoff 1/10":
        obj = ds.cutoff_resize(path, downsample=10)
    else:
        align = "source" if codec == "source" else None
        obj = ds.pack_tiles(
            path, tile_size=PACK_TILE, downsample=1, align=align, detector=ds.Contrast(DENSE)
        )
    if codec == "ome-tiff":
        ds.export(obj, out, to=codec)
    else:
        ds.write(obj, out, codec=None if codec in ("", "zstd") else codec)
    return {"bytes": bytes_of(Path(out)), "cpu": time.process_time() - start}


def measured(path: Path, name: str, folder: str) -> dict[str, float]:
    """Return what `write_step` returns, from a process of its own; delete the store."""
    out = Path(folder) / ("image.ome.tif" if name.endswith("tiff") else "store.zarr")
    command = [sys.executable, "-m", "benchmarks.extra.plan", str(path), "--step", name]
    command += ["--out", str(out)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()
    return dict(json.loads(text.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slides", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=100_000, help="pixels along a side of a slide")
    parser.add_argument("--folder", help="where the stores are written")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(write_step(str(options.slide), options.step, options.out)))
        return
    import dask_slides as ds

    height, width = ds.open_slide(options.slide).shape[:2]
    many = options.slides * options.side**2 / (height * width)
    print(f"{options.slides:,} slides of {options.side:,} x {options.side:,} px, "
          f"{bytes_of(options.slide) * many / 1e12:,.0f} TB\n")  # fmt: skip
    print("| step | stored, TB | core-hours |")
    print("| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in STEPS:
            took = measured(options.slide, name, folder)
            stored, hours = took["bytes"] * many / 1e12, took["cpu"] * many / HOUR
            print(f"| {name} | {stored:,.1f} | {hours:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
