"""Run the ways one by one, each in a fresh process that measures itself.

``python -m benchmarks.runner SPEC`` is that process: SPEC is JSON, and so is what it prints.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import slides
from benchmarks.scenarios import CROP, CROPS, OURS, SCENARIOS, THREADS, WAYS, Job, Way

Run = dict[str, Any]

TIMEOUT = 4 * 3600
THREAD_SETTINGS = (
    "DASK_NUM_WORKERS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "TIFFFILE_NUM_THREADS",
    "VIPS_CONCURRENCY",
    "ZARR_THREADING__MAX_WORKERS",
)
"""How each library takes the number of threads; so many processors besides."""


def load_ways() -> list[Way]:
    """Return all ways, scenario by scenario, ours first."""
    for module in ("ours", "original", "peers"):
        importlib.import_module(f"benchmarks.{module}")
    order = list(SCENARIOS)
    return sorted(WAYS, key=lambda way: order.index(way.scenario))


@dataclass(frozen=True)
class Plan:
    """What is run."""

    ways: tuple[Way, ...]
    rounds: int
    size: int
    slides: Path
    work: Path
    """A folder of this run: stores, results, the crops' places."""

    def job(self, way: Way, number: int) -> Job:
        """Return the work of one run."""
        kind = SCENARIOS[way.scenario].slide
        path = slides.slide(self.slides, kind, self.size)
        out = self.work / f"out-{number}"
        side = int(path.stem.split("-")[1])
        places, pack = self.work / "yx.npy", self.work / "pack"
        return Job(str(path), side, str(out), str(places), str(pack), way.threads)


def run_all(plan: Plan) -> list[Run]:
    """Run every way in every round, the rounds one after the other."""
    if any(way.scenario == "crops" for way in plan.ways):
        draw_crops(plan)
    runs: list[Run] = []
    skipped: set[Way] = set()
    for number in range(1, plan.rounds + 1):
        for way in plan.ways:
            if way in skipped:
                continue
            run = run_one(plan, way, number, len(runs))
            runs.append(run)
            told = run.get("skipped") or run.get("failed") or "{wall:.2f} s".format(**run)
            print(f"round {number}: {way.scenario}: {way.name}: {told}", file=sys.stderr)
            if "wall" not in run:
                skipped.add(way)
    compare(plan, runs)
    return runs


def draw_crops(plan: Plan) -> None:
    """Find the crops' places; the pack is kept as a plan, without a pixel."""
    import cloudpickle
    import dask

    import dask_slides as ds

    with dask.config.set(scheduler="threads", num_workers=THREADS):
        pack = ds.random_crops(slides.slide(plan.slides, "flat", plan.size), n=CROPS, size=CROP)
    np.save(plan.work / "yx.npy", np.stack((pack.y, pack.x), axis=1))
    (plan.work / "pack").write_bytes(cloudpickle.dumps(pack))


def run_one(plan: Plan, way: Way, number: int, index: int) -> Run:
    """Run `way` in a fresh process; what it wrote is deleted."""
    head: Run = {"scenario": way.scenario, "way": way.name, "round": number}
    job = plan.job(way, index)
    needed = 8 * job.size**2  # three bytes a pixel, four in Pillow, and room to work
    if way.whole and needed > slides.available_memory():
        return head | {"skipped": f"the slide needs {needed / 1e9:.0f} GB of memory"}
    slides.warm(Path(job.slide))
    spec = {"scenario": way.scenario, "way": way.name, "job": asdict(job)}
    if number == 1:
        spec["save"] = str(result_path(plan, way))
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | dict.fromkeys(THREAD_SETTINGS, str(way.threads))
    env |= {"DASK_SCHEDULER": "threads", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "benchmarks.runner", json.dumps(spec)]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return head | {"failed": f"not done in {TIMEOUT} s"}
    finally:
        for path in plan.work.glob(f"out-{index}*"):
            shutil.rmtree(path, ignore_errors=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return head | {"failed": last}
    run: Run = json.loads(done.stdout.splitlines()[-1])
    return head | run


def result_path(plan: Plan, way: Way) -> Path:
    """Return where the result of a way is kept for the comparison."""
    return plan.work / f"result-{plan.ways.index(way)}.npy"


def compare(plan: Plan, runs: list[Run]) -> None:
    """Add to the first run of each peer how its result agrees with ours."""
    ways = {(way.scenario, way.name): way for way in plan.ways}
    for run in runs:
        way = ways[run["scenario"], run["way"]]
        ours = ways.get((way.scenario, OURS))
        if run["round"] > 1 or ours is None or way is ours:
            continue
        here, there = result_path(plan, ours), result_path(plan, way)
        if here.exists() and there.exists():
            found = SCENARIOS[way.scenario].agree(np.load(here), np.load(there), way.floor)
            run |= {"agreement": found.text, "agrees": found.good}


def memory(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # elsewhere: the peak, imports included

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Let the peak of this process begin anew; the imports are behind."""
    with contextlib.suppress(OSError):  # only Linux has it
        Path("/proc/self/clear_refs").write_text("5")


def imported(way: Way) -> str | None:
    """Import what the way needs; return what is missing."""
    for name in way.needs:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            return f"{name} cannot be imported: {error}"
    return None


def pinned(count: int) -> list[int]:
    """Stay on `count` processors, where the system lets a process choose; return them."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    chosen = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, chosen)
    return chosen


def measured(spec: dict[str, Any]) -> Run:
    """Do the work of `spec` in this process and say what it cost."""
    ways = {(way.scenario, way.name): way for way in load_ways()}
    way, job = ways[spec["scenario"], spec["way"]], Job(**spec["job"])
    missing = imported(way)
    if missing:
        return {"skipped": missing}
    run: Run = {"processors": pinned(way.threads), "load": os.getloadavg()[0]}
    forget_peak()
    before, cpu, start = memory("VmRSS"), time.process_time(), time.perf_counter()
    result = way.run(job)
    wall, cpu, peak = time.perf_counter() - start, time.process_time() - cpu, memory("VmHWM")
    run |= {"wall": wall, "cpu": cpu, "peak": max(0, peak - before), "imports": before}
    array, facts = SCENARIOS[way.scenario].finish(result)
    if array is not None and "save" in spec:
        np.save(spec["save"], array)
    return run | {"facts": facts}


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
