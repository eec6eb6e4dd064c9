"""``python -m benchmarks.extra.cluster SLIDE``: resize to Zarr on threads and on local processes.

Rounds are interleaved, each run writes a new store on a cluster that is already running, and the
result is the median. Prints Markdown and writes JSON: the wall time of 1 and 2 processes and of 2
threads, and the CPU time of a scheduler as a share of the wall time. The processes are those of
``--scheduler processes``. The scheduler is a separate process with the same settings.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import dask

import dask_slides as ds
from benchmarks.extra.processes import cluster_of_processes
from dask_slides.runtime.client import active_client
from dask_slides.runtime.local_cluster import local_cluster
from dask_slides.runtime.numba_loader import numba_kernels

LONG = 99.0
"""Seconds saved by compiled loops that are certainly enough to load them."""
RESULTS = Path(__file__).resolve().parents[1] / "results" / "raw"
LIMITS = {"2 processes to 1": 1.6, "2 processes to 2 threads": 1.25, "scheduler share": 0.05}


def timed(
    slide: str, folder: Path, cpu_time: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Resize to 1/10 into a new store; return wall and CPU time.

    A small write first imports the modules and opens the slide.
    """
    out = folder / "out.ome.zarr"
    ds.write(ds.resize(slide, max_size=2048), folder / "warm.ome.zarr", overwrite=True)
    wall, cpu = time.perf_counter(), cpu_time()
    ds.write(ds.resize(slide, downsample=10), out)
    found = {"wall": time.perf_counter() - wall, "cpu": cpu_time() - cpu}
    shutil.rmtree(out)
    return found


def on_threads(slide: str, folder: Path) -> dict[str, float]:
    """Run on two threads of this process."""
    numba_kernels(LONG)
    with dask.config.set(scheduler="threads", num_workers=2):
        return timed(slide, folder)


def on_processes(count: int, slide: str, folder: Path) -> dict[str, float]:
    """Run on `count` processes of one thread each."""
    with local_cluster(count, None, logging.WARNING):
        active_client().run(numba_kernels, "pixels", LONG)
        return timed(slide, folder)


def beside_a_scheduler(slide: str, folder: Path) -> dict[str, float]:
    """Run on two worker processes, and measure the CPU time of the scheduler process."""
    import psutil
    from distributed import Client

    with (
        cluster_of_processes(folder) as (scheduler, file),
        Client(scheduler_file=file) as client,
    ):
        client.wait_for_workers(2)
        client.run(numba_kernels, "pixels", LONG)
        times = psutil.Process(scheduler).cpu_times
        return timed(slide, folder, lambda: sum(times()[:2]))


def main() -> None:
    """Run the methods, print the tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", help="a flat slide; 61,440 px per side for the docs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    methods: dict[str, Any] = {
        "2 threads": on_threads,
        "1 process": lambda *args: on_processes(1, *args),
        "2 processes": lambda *args: on_processes(2, *args),
        "2 workers, a scheduler": beside_a_scheduler,
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory(prefix="dask-slides-cluster-") as name:
        for _ in range(given.rounds):
            for method, run in methods.items():
                runs[method].append(run(given.slide, Path(name)))
    wall = {method: median(run["wall"] for run in some) for method, some in runs.items()}
    figures = {
        "2 processes to 1": wall["1 process"] / wall["2 processes"],
        "2 processes to 2 threads": wall["2 processes"] / wall["2 threads"],
        "scheduler share": median(
            run["cpu"] / run["wall"] for run in runs["2 workers, a scheduler"]
        ),
    }
    shape = ds.open_slide(given.slide).shape
    facts = {"slide": list(shape), "load": os.getloadavg(), "cores": os.cpu_count()}
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts | {"runs": runs, "wall": wall, "figures": figures}, indent=1)
    (given.out / "cluster.json").write_text(text)
    print("| method | wall, s |\n| --- | ---: |")
    for method, seconds in wall.items():
        print(f"| {method} | {seconds:.1f} |")
    print("\n| figure | required | measured |\n| --- | ---: | ---: |")
    for name, value in figures.items():
        sign = "at least" if name == "2 processes to 1" else "at most"
        print(f"| {name} | {sign} {LIMITS[name]:g} | {value:.3g} |")


if __name__ == "__main__":
    main()
