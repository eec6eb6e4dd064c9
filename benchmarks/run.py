"""Run the methods one by one, each in a new process that measures itself.

``python -m benchmarks.run SPEC`` is that process. SPEC is JSON, and so is its output.
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
from benchmarks.scenarios import CROP, CROPS, METHODS, OURS, SCENARIOS, THREADS, Job, Method

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
"""Environment variables that limit the threads of each library."""


def load_methods() -> list[Method]:
    """Return all methods, scenario by scenario, ours first."""
    for module in ("ours", "original", "peers", "limits"):
        importlib.import_module(f"benchmarks.{module}")
    order = list(SCENARIOS)
    return sorted(METHODS, key=lambda method: order.index(method.scenario))


@dataclass(frozen=True)
class Plan:
    """The methods to run, the number of rounds and the slides."""

    methods: tuple[Method, ...]
    rounds: int
    size: int
    slides: Path
    work: Path
    """A folder for stores, results and the corners of the crops."""

    def job(self, method: Method, number: int) -> Job:
        """Return the work of one run."""
        kind = SCENARIOS[method.scenario].slide
        path = slides.slide(self.slides, kind, self.size)
        out = self.work / f"out-{number}"
        side = int(path.stem.split("-")[1])
        crops, pack = self.work / "crops.npy", self.work / "pack"
        return Job(str(path), side, str(out), str(crops), str(pack), method.threads)


def run_all(plan: Plan) -> list[Run]:
    """Run every method in every round, one round after the other."""
    if any(method.scenario == "crops" for method in plan.methods):
        draw_crops(plan)
    runs: list[Run] = []
    skipped: set[Method] = set()
    for number in range(1, plan.rounds + 1):
        for method in plan.methods:
            if method in skipped:
                continue
            run = run_one(plan, method, number, len(runs))
            runs.append(run)
            outcome = run.get("skipped") or run.get("failed") or "{wall:.2f} s".format(**run)
            print(f"round {number}: {method.scenario}: {method.name}: {outcome}", file=sys.stderr)
            if "wall" not in run:
                skipped.add(method)
    compare(plan, runs)
    return runs


def draw_crops(plan: Plan) -> None:
    """Draw the crops for all methods; the pack is pickled without pixels."""
    import cloudpickle
    import dask

    import dask_slides as ds

    with dask.config.set(scheduler="threads", num_workers=THREADS):
        slide = slides.slide(plan.slides, "flat", plan.size)
        pack = ds.random_crops(slide, n=CROPS, size=CROP, downsample=1)
    np.save(plan.work / "crops.npy", np.stack((pack.y, pack.x), axis=1))
    (plan.work / "pack").write_bytes(cloudpickle.dumps(pack))


def run_one(plan: Plan, method: Method, number: int, index: int) -> Run:
    """Run a method in a new process and delete its output."""
    head: Run = {"scenario": method.scenario, "method": method.name, "round": number}
    job = plan.job(method, index)
    needed = 8 * job.size**2  # three bytes per pixel, four in Pillow, and temporary arrays
    if method.in_memory and needed > slides.available_memory():
        return head | {"skipped": f"the slide needs {needed / 1e9:.0f} GB of memory"}
    slides.warm(Path(job.slide))
    spec = {"scenario": method.scenario, "method": method.name, "job": asdict(job)}
    if number == 1:
        spec["save"] = str(result_path(plan, method))
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | dict.fromkeys(THREAD_SETTINGS, str(method.threads))
    env |= {"DASK_SCHEDULER": "threads", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "benchmarks.run", json.dumps(spec)]
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


def result_path(plan: Plan, method: Method) -> Path:
    """Return the path where the result of a method is saved for the comparison."""
    return plan.work / f"result-{plan.methods.index(method)}.npy"


def compare(plan: Plan, runs: list[Run]) -> None:
    """Compare each method with ours, and add the agreement to its first run."""
    methods = {(method.scenario, method.name): method for method in plan.methods}
    for run in runs:
        method = methods[run["scenario"], run["method"]]
        ours = methods.get((method.scenario, OURS))
        if run["round"] > 1 or ours is None or method is ours:
            continue
        here, there = result_path(plan, ours), result_path(plan, method)
        if here.exists() and there.exists():
            found = SCENARIOS[method.scenario].agree(np.load(here), np.load(there), method.min_psnr)
            run |= {"agreement": found.text, "agrees": found.good}


def memory(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # other systems: the peak, including the imports

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Reset the peak memory of this process, after the imports."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def imported(method: Method) -> str | None:
    """Import the modules of a method; return an error message if one is missing."""
    for name in method.imports:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            return f"{name} cannot be imported: {error}"
    return None


def pinned(count: int) -> list[int]:
    """Pin this process to `count` processors where the system allows it; return them."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    chosen = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, chosen)
    return chosen


def measured(spec: dict[str, Any]) -> Run:
    """Run the method of `spec` in this process and return its time and memory."""
    methods = {(method.scenario, method.name): method for method in load_methods()}
    method, job = methods[spec["scenario"], spec["method"]], Job(**spec["job"])
    missing = imported(method)
    if missing:
        return {"skipped": missing}
    run: Run = {"processors": pinned(method.threads), "load": os.getloadavg()[0]}
    forget_peak()
    before, cpu, start = memory("VmRSS"), time.process_time(), time.perf_counter()
    result = method.run(job)
    wall, cpu, peak = time.perf_counter() - start, time.process_time() - cpu, memory("VmHWM")
    run |= {"wall": wall, "cpu": cpu, "peak": max(0, peak - before), "imports": before}
    array, facts = SCENARIOS[method.scenario].finish(result)
    if array is not None and "save" in spec:
        np.save(spec["save"], array)
    return run | {"facts": facts}


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
