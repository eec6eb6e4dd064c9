"""``python -m benchmarks``: make the slides, run every method, write and print the report."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import report, run, slides
from benchmarks.scenarios import SCENARIOS

RESULTS = Path(__file__).resolve().parent / "results" / "raw"
"""Folder of raw results, ignored by git."""


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, small slides, a minute")
    parser.add_argument("--rounds", type=int, help="rounds, 3 by default, 1 with --quick")
    parser.add_argument("--size", type=int, help="pixels per side, 20480 by default, up to 102400")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder, by default {RESULTS}")
    parser.add_argument("--slides", type=Path, help="folder to keep the slides in")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="one scenario; repeats")
    parser.add_argument("--without", action="append", default=[], metavar="TEXT",
                        help="leave out methods whose name contains TEXT; repeats")  # fmt: skip
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 3)
    given.size = slides.rounded(given.size or (5120 if given.quick else 20480))
    if given.rounds < 1 or given.size > 102400:
        parser.error("give 1 round or more, and at most 102400 px per side")
    return given


def main() -> int:
    """Run the benchmarks; return 1 if a method failed or its result differs from ours."""
    given = arguments()
    methods = tuple(
        method
        for method in run.load_methods()
        if (not given.only or method.scenario in given.only)
        and not any(text in method.name for text in given.without)
    )
    with tempfile.TemporaryDirectory(prefix="dask-slides-benchmarks-") as folder:
        work = Path(folder)
        cache = given.slides or work
        cache.mkdir(parents=True, exist_ok=True)
        runs = run.run_all(run.Plan(methods, given.rounds, given.size, cache, work))
    about = report.machine() | {"size": given.size}
    rows, text = report.write(runs, about, given.out)
    print(text)
    print(f"written to {given.out}", file=sys.stderr)
    return 1 if report.disagreements(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
