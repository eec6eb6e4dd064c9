"""Run over many small slides on a cluster of processes: measure memory, and resume after kills.

    python -m benchmarks.extra.cohort --slides 1000 --kills 5 --steps mask,resize,cutoff,pack

The scheduler, two workers and the client are separate processes, with the settings for long runs
of docs/howto/clusters.md. The first run measures the memory of client and scheduler. The client of
the second run is killed with SIGKILL at random moments and started again. Workers append a line to
a journal for each store that they publish, to find stores that are written twice. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from distributed import Client

from benchmarks.extra.processes import cluster_of_processes

SIDE = 512
ARGUMENTS = ["--downsample", "2", "--mask-tile-size", "64", "--pack-tile-size", "64",
             "--pack-ratio", "0.2"]  # fmt: skip


def make_slides(folder: Path, count: int) -> None:
    """Write `count` different slides."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        image = np.full((SIDE, SIDE, 3), 238, np.uint8)
        top, left, height, width = rng.integers(100, 250, 4)
        noise = rng.integers(0, 255, (height, width, 3), np.uint8)
        image[top : top + height, left : left + width] = noise
        path = folder / f"slide-{number:04}.tif"
        tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), compression="zlib")


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) * 1024


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@dataclass(frozen=True)
class Setting:
    """Settings of both runs."""

    slides: Path
    steps: str
    file: str
    """The scheduler file."""
    cluster: Client
    count: int
    """Number of slides."""

    def start(self, job: Path) -> subprocess.Popen[bytes]:
        """Start the client of a run."""
        words = [
            sys.executable,
            "-m",
            "dask_slides",
            "run",
            str(self.slides),
            "-o",
            str(job),
        ]
        words += [*ARGUMENTS, "--steps", self.steps, "--scheduler", self.file, "-q"]
        return subprocess.Popen(words)

    def in_flight(self) -> int:
        """Return the number of slides in flight."""
        return int(self.cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))


def finished(job: Path) -> int:
    """Count the finished slides in the log of a run."""
    log = job / "cohort.log"
    return log.read_bytes().count(b": done, ") if log.exists() else 0


def watch(
    process: subprocess.Popen[bytes], until: Callable[[], bool], look: Callable[[], None]
) -> None:
    """Call `look` every second until `until()` is true or `process` has ended."""
    due = 0.0
    while process.poll() is None and not until():
        if time.monotonic() >= due:
            look()
            due = time.monotonic() + 1
        time.sleep(0.01)


def memory_of(setting: Setting, job: Path, scheduler: int) -> list[str]:
    """Run once without kills and return the lines of the report."""
    seen: list[tuple[int, int, int]] = []
    in_flight: list[int] = []
    start = time.monotonic()
    process = setting.start(job)

    def look() -> None:
        try:
            seen.append((finished(job), resident(process.pid), resident(scheduler)))
        except (FileNotFoundError, IndexError):  # the process has just ended
            return
        in_flight.append(setting.in_flight())

    watch(process, lambda: False, look)
    seconds = time.monotonic() - start
    assert process.returncode == 0
    count = setting.count

    def around(done: int, column: int) -> float:
        near = [row[column] for row in seen if abs(row[0] - done) <= max(5, count // 50)]
        return statistics.median(near) / 1e6

    counts = [count // 10, count // 4, count // 2, count * 3 // 4, count]
    table = ["| slides done | client, MB | scheduler, MB |", "| ---: | ---: | ---: |"]
    table += [f"| {done:,} | {around(done, 1):.1f} | {around(done, 2):.1f} |" for done in counts]
    return [
        *table,
        "",
        f"{count:,} slides in {seconds:.0f} s; maximum slides in flight: {max(in_flight)} "
        "(the window is two for each of two threads).",
    ]


def kills_of(setting: Setting, job: Path, journal: Path, kills: int) -> list[str]:
    """Kill the client of a run at random moments and return the lines of the report."""
    before = lines(journal)
    stores = setting.count * len(setting.steps.split(","))
    at = sorted(random.Random(1).sample(range(stores // 20, stores * 19 // 20), kills))
    in_flight: list[int] = []

    def look() -> None:
        in_flight.append(setting.in_flight())

    for stores_done in at:
        process = setting.start(job)
        watch(process, lambda n=stores_done: lines(journal) - before >= n, look)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = setting.start(job)
    watch(process, lambda: False, look)
    assert process.returncode == 0
    made = Counter(journal.read_text().splitlines()[before:])
    twice = sum(times > 1 for times in made.values())
    return [
        f"The client was killed {kills} times, after {', '.join(f'{n:,}' for n in at)} of "
        f"{stores:,} stores: {len(made):,} stores were written, {twice} of them twice; "
        f"maximum slides in flight: {max(in_flight)}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--steps", default="mask,resize,cutoff,pack")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        make_slides(folder / "slides", options.slides)
        journal = folder / "journal"
        preload = ["--preload", str(Path(__file__).with_name("journal.py"))]
        environment = {"DASK_SLIDES_JOURNAL": str(journal)}
        with (
            cluster_of_processes(folder, preload, environment) as (scheduler, file),
            Client(scheduler_file=file) as cluster,
        ):
            cluster.wait_for_workers(2)
            setting = Setting(folder / "slides", options.steps, file, cluster, options.slides)
            print(f"{options.slides:,} slides of {SIDE} x {SIDE} px, {options.steps}\n")
            lines_of_report = memory_of(setting, folder / "memory", scheduler)
            print("\n".join(lines_of_report), flush=True)
            lines_of_report = kills_of(setting, folder / "killed", journal, options.kills)
            load = f"The load of the machine was {os.getloadavg()[2]:.1f} at the end."
            print("\n" + "\n".join(lines_of_report) + f"\n\n{load}", flush=True)


if __name__ == "__main__":
    main()
