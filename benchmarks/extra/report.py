"""Make the report of a job of many slides, and open it in Chromium.

    python -m benchmarks.extra.report --slides 1000

The job has the cards of a few sample slides, again and again. Opening is a screenshot by a new
headless browser, minus one of an empty page, the median of the rounds. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask_slides as ds

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from chromium import BROWSER, FLAGS
from report_jobs import large_job

SEEDS = 6


def make_job(folder: Path, count: int) -> Path:
    """Return the folder of a job of `count` slides."""
    slides, job, large = (folder / name for name in ("slides", "job", "large"))
    slides.mkdir()
    for seed in range(SEEDS):
        ds.sample_slide(slides / f"{seed}.tif", shape=(2048, 2048), seed=seed, mpp=1)
    steps = ["mask", "pack", {"resize": {"downsample": 8}}, {"crops": {"n": 16, "size": 128}}]
    ds.run_cohort(slides, job=job, steps=steps)
    return large_job(job, large, count)


def seconds_to_open(browser: str, address: str) -> float:
    """Return how long a new browser takes to draw a page."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{flag}" for flag in FLAGS]
        words = [browser, *flags, f"--user-data-dir={folder}/profile", "--window-size=1400,1000"]
        start = time.perf_counter()
        subprocess.run([*words, f"--screenshot={folder}/page.png", address], check=True,
                       capture_output=True)  # fmt: skip
        return time.perf_counter() - start


def main() -> None:
    """Print the size of the page, and the seconds to make and to open it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder), options.slides)
        start = time.perf_counter()
        page = Path(ds.write_report(job))
        made = time.perf_counter() - start
        print("| slides | page | made in | opened in |\n| --- | --- | --- | --- |")
        opened = "no Chromium here"
        if BROWSER is not None:
            addresses = ("about:blank", page.as_uri())
            rounds = [[seconds_to_open(BROWSER, one) for one in addresses]
                      for _ in range(options.rounds)]  # fmt: skip
            opened = f"{statistics.median(full - empty for empty, full in rounds):.2f} s"
        size = page.stat().st_size / 1e6
        print(f"| {options.slides:,} | {size:.1f} MB | {made:.1f} s | {opened} |")


if __name__ == "__main__":
    main()
