"""``python -m benchmarks.view``: time the tiles and the first view of the viewer.

For a pyramid and a flat slide (one level), the command ``dask-slides view`` runs in a process of
its own. A headless Chromium opens the page: the time until every tile of the whole slide is there
is that of the first view. Then tiles of all scales are fetched as a browser does, some at a time:
walks that begin with the whole slide and zoom in to full resolution at random places.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks import slides

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from chromium import BROWSER, Browser

WALKS, AROUND = 12, 2
"""Walks, and tiles on each side of the middle of a view: 5 x 5 tiles are a view of 1,280 px."""
CONNECTIONS = 6
"""Connections that a browser opens to a server."""
SOURCE = "[...Bokeh.documents[0].all_models].filter(m => m.type == 'WMTSTileSource')[0]"
LOADED = (
    f"{SOURCE}.tiles && {SOURCE}.tiles.size && [...{SOURCE}.tiles.values()].every(t => t.loaded)"
)


def made(folder: Path, kind: str, size: int) -> Path:
    """Return the path of a sample slide, which is made if it does not exist."""
    import dask_slides as ds

    path = folder / f"{kind}-{size}.tif"
    if not path.exists():
        hidden = folder / f".{path.name}"
        ds.sample_slide(hidden, shape=(size, size), tile=512, pyramid=kind == "pyramid")
        hidden.rename(path)
    return path


def places(size: int, full: int, rng: random.Random) -> list[list[tuple[int, int, int]]]:
    """Return the views (z, x, y) of walks from the whole slide to full resolution, at `full`."""
    top = math.ceil(math.log2(size / 256))
    views = []
    for _ in range(WALKS):
        at = rng.random() * 0.75, rng.random() * 0.75  # a part of the world is beyond the slide
        for z in range(top + 1):
            x, y = (int(part * 2**z) for part in at)
            around = range(-AROUND, AROUND + 1)
            cells = {(full - top + z, x + i, y + j) for i in around for j in around}
            views.append([one for one in cells if min(one[1:]) >= 0 and max(one[1:]) < 2**z])
    return views


def tile_times(start: str, url: str, size: int, full: int) -> list[float]:
    """Return the seconds that each tile takes."""

    def fetch(place: tuple[int, int, int]) -> float:
        z, x, y = (str(one) for one in place)
        address = start + url.replace("{Z}", z).replace("{X}", x).replace("{Y}", y)
        began = time.perf_counter()
        with urllib.request.urlopen(address) as answer:
            answer.read()
        return time.perf_counter() - began

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return [
            seconds
            for view in places(size, full, random.Random(0))
            for seconds in pool.map(fetch, view)
        ]  # fmt: skip


def measure(path: Path, size: int) -> None:
    """Print the times of one slide."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "dask_slides", "view", str(path), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        start = process.stdout.readline().split()[1]
        print(f"{path.name}: address after {time.perf_counter() - began:.2f} s")
        with Browser() as browser:
            began = time.perf_counter()
            browser.open(start)
            browser.wait(f"window.Bokeh && Bokeh.documents.length && {LOADED}")
            print(f"  first view after {time.perf_counter() - began:.2f} s")
            browser.wait("[...Bokeh.documents[0].all_models].some(m => m.type == 'Div' "
                         "&& m.text.includes('tiles are blank'))", 600)  # fmt: skip
            print(f"  blank map and final tiles after {time.perf_counter() - began:.2f} s")
            url, full = browser.run(f"[{SOURCE}.url, {SOURCE}.max_zoom]")
        times = tile_times(start, str(url), size, int(full))
        middle, most = np.percentile(times, [50, 95])
        print(f"  {len(times):,} tiles: median {1e3 * middle:.0f} ms, p95 {1e3 * most:.0f} ms")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.view", description=__doc__)
    parser.add_argument("--size", type=int, default=102_400, help="pixels per side of the slides")
    parser.add_argument("--folder", type=Path, help="keeps the slides")
    options = parser.parse_args()
    if BROWSER is None:
        sys.exit("no Chromium here")
    with tempfile.TemporaryDirectory() as temporary:
        for kind in ("pyramid", "flat"):
            path = made(options.folder or Path(temporary), kind, options.size)
            slides.warm(path)
            measure(path, options.size)


if __name__ == "__main__":
    main()
