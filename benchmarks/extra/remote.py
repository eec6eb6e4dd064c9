"""``python -m benchmarks.extra.remote SLIDE.tif``: count requests and bytes of a remote resize.

Serves the folder of the slide as a bucket on this machine, resizes the slide to 1/10 from s3://, in
memory and to a store, and counts requests and bytes. Prints JSON. To make a slide of 102,400 x
102,400 px: ``dask-slides sample SLIDE.tif --shape 102400 102400 --tile-size 512``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import dask
import numpy as np
import tifffile

import dask_slides as ds
from dask_slides.readers.tile_cache import TILE_CACHE

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from servers import Traffic, web_server


def fetched(traffic: Traffic, tiles: int) -> dict[str, float]:
    """Return the requests and bytes since the last call."""
    sizes = traffic.ranges()
    traffic.requests.clear()
    TILE_CACHE.clear()
    return {
        "requests": len(sizes),
        "bytes": sum(sizes),
        "of its tiles": round(sum(sizes) / tiles, 4),
        "bytes per request": round(sum(sizes) / len(sizes)),
    }


def main(path: str) -> dict[str, object]:
    """Resize the slide at `path` from a bucket."""
    file = Path(path).resolve()
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        tiles, size = sum(page.databytecounts), page.shape
    with (
        tempfile.TemporaryDirectory() as folder,
        web_server(file.parent.parent) as (address, traffic),
        dask.config.set(scheduler="threads", num_workers=2),
    ):
        os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_SKIP_SIGNATURE": "true"}
        slide = ds.open_slide(f"s3://{file.parent.name}/{file.name}")
        found: dict[str, object] = {
            "slide": list(size),
            "bytes of tiles": tiles,
            "opened": fetched(traffic, tiles),
        }
        small = ds.resize(slide, downsample=10)
        pixels = small.data.compute()
        found["resized in memory"] = fetched(traffic, tiles)
        ds.write(small, Path(folder) / "small.ome.zarr")
        found["resized to a store"] = fetched(traffic, tiles)
        here = ds.resize(file, downsample=10).data.compute()
        found["equal to the local result"] = bool(np.array_equal(here, pixels))
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1]), indent=2))
