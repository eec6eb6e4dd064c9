"""What 100,000 slides of 100,000 x 100,000 px would take: tasks, bytes, node-hours.

    python -m benchmarks.plan_cohort [--slides N --side PX --cores N --nodes N --gigabytes GB]

Nothing is read but one slide of one tile over and over, to ask the plans of the steps. Seconds
and bytes are those of benchmarks/results, scaled by pixels. Prints Markdown, every assumption
named.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.slides import KINDS

RESULTS = Path(__file__).parent / "results"
THREADS = 2
"""Of the runs whose seconds are taken: all cores of the machine busy, as they would be."""


@dataclass(frozen=True)
class Measured:
    """One step on one slide, measured."""

    file: str
    scenario: str
    side: int
    passes: float
    """How often the pixels of the slide are decoded."""

    @property
    def row(self) -> dict[str, Any]:
        """The median of our way."""
        text = (RESULTS / self.file).read_text(encoding="utf-8")
        rows = json.loads(text)["medians"]
        return next(
            row for row in rows if (row["scenario"], row["way"]) == (self.scenario, "dask_slides")
        )

    @property
    def core_seconds(self) -> float:
        """Seconds of one core for a megapixel of the slide."""
        return float(self.row["wall"]) * THREADS / (self.side**2 / 1e6)

    @property
    def stored(self) -> float:
        """Bytes on the disk for a megapixel of the slide."""
        return float(self.row["facts"].get("bytes on disk", 0)) / (self.side**2 / 1e6)


STEPS = {
    "mask": Measured("results-102400.json", "blank-map", 102_400, 1),
    "resize": Measured("results-102400.json", "resize-zarr", 102_400, 1),
    # its map is that of the mask, and it has no more pixels than the whole slide
    "cutoff": Measured("results-102400.json", "resize-zarr", 102_400, 1),
    "pack": Measured("results.json", "pack", 20_480, 1.26),
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "mask": {}, "resize": {"downsample": 10}, "cutoff": {"downsample": 10},
    "pack": {"tile_size": 512},
}  # fmt: skip


def plans(side: int) -> dict[str, Any]:
    """Return the estimate of each step for a slide of `side` px."""
    import dask_slides as ds
    from dask_slides.cohort.steps import checked_steps

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.tif"
        KINDS["grid"][1](path, -(-side // 512) * 512)
        slide = ds.open_slide(path)
        return {step.name: step.estimate(slide) for step in checked_steps(ARGUMENTS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=100_000, help="pixels of a slide")
    parser.add_argument("--cores", type=int, default=32, help="of a node")
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the file of a slide")
    options = parser.parse_args()
    size = options.side**2 / 1e6
    estimates = plans(options.side)
    many = options.slides
    print(f"{many:,} slides of {options.side:,} x {options.side:,} px, nodes of "
          f"{options.cores} cores:\n")  # fmt: skip
    print("| step | tasks a slide | tasks, by region | stored, TB | read, TB | core-hours |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    total = dict.fromkeys(("tasks", "stored", "read", "hours"), 0.0)
    for name, measured in STEPS.items():
        tasks = estimates[name].tasks
        # of a mask no store was measured: its bytes before compression
        stored = measured.stored * size or estimates[name].bytes_to_write
        row = {
            "tasks": tasks * many,
            "stored": stored * many / 1e12,
            "read": measured.passes * options.gigabytes * many / 1e3,
            "hours": measured.core_seconds * size * many / 3600,
        }
        print(f"| {name} | {tasks:,} | {_cells(row)} |")
        total = {key: total[key] + value for key, value in row.items()}
    print(f"| all | {total['tasks'] / many:,.0f} | {_cells(total)} |\n")
    cores = options.cores * options.nodes
    hours = total["hours"] / cores
    opening = float(Measured("results.json", "open", 102_400, 0).row["wall"])
    rate = total["read"] * 1e6 / (hours * 3600) / options.nodes
    print(f"- {total['hours'] / options.cores:,.0f} node-hours; with {options.nodes} nodes "
          f"{hours / 24:,.1f} days.")  # fmt: skip
    print(f"- A node reads {rate:,.0f} MB/s all the while.")
    print(f"- By region the scheduler hands out {total['tasks'] / (hours * 3600):,.0f} tasks a "
          f"second; with slides done whole, {many:,} tasks in all, "
          f"{many / (hours * 3600):,.2f} a second.")  # fmt: skip
    print(f"- The client opens each slide and plans it in {opening * 1e3:,.0f} ms, "
          f"{opening * many / 60:,.0f} minutes in all, while others are worked on.")  # fmt: skip
    peak = max(one.task_bytes for one in estimates.values())
    print(f"- A thread needs {peak / 1e6:,.0f} MB at its peak, a node "
          f"{peak * options.cores / 1e9:,.0f} GB.")  # fmt: skip


def _cells(row: dict[str, float]) -> str:
    return f"{row['tasks']:,.0f} | {row['stored']:,.1f} | {row['read']:,.0f} | {row['hours']:,.0f}"


if __name__ == "__main__":
    main()
