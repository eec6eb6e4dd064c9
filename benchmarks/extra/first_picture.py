"""Time the commands of README from a bare Python to the first picture on the screen.

    python -m benchmarks.extra.first_picture

Makes a new environment, installs the package of this folder, runs the demo, and opens its report in
Chromium if that is installed. pip may use its cache; ``--no-cache`` downloads every package.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.extra.report import BROWSER, seconds_to_open

TOP = Path(__file__).parents[2]


def main() -> None:
    """Run the commands and print their seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extra.first_picture")
    parser.add_argument("--no-cache", action="store_true", help="download every package")
    no_cache = ["--no-cache-dir"] if parser.parse_args().no_cache else []
    steps: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        programs, demo = Path(folder, "environment", "bin"), Path(folder, "demo")
        commands = {
            "python -m venv": [sys.executable, "-m", "venv", programs.parent],
            "pip install .": [programs / "pip", "install", "--quiet", *no_cache, TOP],
            "dask-slides demo": [programs / "dask-slides", "demo", demo],
        }
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            steps.append((name, time.perf_counter() - start))
        if BROWSER is not None:
            report = next(demo.rglob("report.html")).as_uri()
            steps.append(("the report in Chromium", seconds_to_open(BROWSER, report)))
    print("| step | seconds |\n| --- | ---: |")
    for name, seconds in [*steps, ("together", sum(seconds for _, seconds in steps))]:
        print(f"| {name} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
