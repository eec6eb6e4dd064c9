"""The report: results.json with every run, and results.md."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.scenarios import METHODS, OURS, SCENARIOS, THREADS

Run = dict[str, Any]
Row = dict[str, Any]


def machine() -> dict[str, Any]:
    """Describe the machine and the versions of all packages."""
    return {
        "system": platform.platform(),
        "model": _model(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": sys.version.split()[0],
        "packages": dict(
            sorted((d.metadata["Name"], d.version) for d in importlib.metadata.distributions())
        ),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted changes": bool(_git("status", "--porcelain", "--", "dask_slides")),
    }


def _model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*words: str) -> str:
    here = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def medians(runs: list[Run]) -> list[Row]:
    """Return one row per scenario and method, in the order of the scenarios."""
    found: dict[tuple[str, str], list[Run]] = {}
    for name in SCENARIOS:
        for run in runs:
            if run["scenario"] == name:
                found.setdefault((name, run["method"]), []).append(run)
    rows = [_row(scenario, method, own) for (scenario, method), own in found.items()]
    ours = {row["scenario"]: row["wall"] for row in rows if row["method"] == OURS and "wall" in row}
    bare = {(method.scenario, method.name) for method in METHODS if method.limit}
    limits = {
        row["scenario"]: row["wall"]
        for row in rows
        if "wall" in row and (row["scenario"], row["method"]) in bare
    }
    for row in rows:
        if "wall" in row and row["scenario"] in ours:
            row["ratio"] = row["wall"] / ours[row["scenario"]]
        if "wall" in row and row["scenario"] in limits:
            row["to_limit"] = row["wall"] / limits[row["scenario"]]
    return rows


def _row(scenario: str, method: str, runs: list[Run]) -> Row:
    row: Row = {"scenario": scenario, "method": method}
    for word in ("skipped", "failed"):
        reasons = [run[word] for run in runs if word in run]
        if reasons:
            return row | {word: reasons[0]}
    for field in ("wall", "cpu", "peak"):
        row[field] = statistics.median(run[field] for run in runs)
    walls = [run["wall"] for run in runs]
    row |= {"wall_min": min(walls), "wall_max": max(walls), "facts": runs[0]["facts"]}
    return row | {key: runs[0][key] for key in ("agreement", "agrees") if key in runs[0]}


def disagreements(rows: list[Row]) -> list[str]:
    """Return one line per method that failed or whose result differs from ours."""
    wrong = [
        f"{row['scenario']}: {row['method']}: {row['agreement']}"
        for row in rows
        if not row.get("agrees", True)
    ]
    return wrong + [
        f"{row['scenario']}: {row['method']} failed: {row['failed']}"
        for row in rows
        if "failed" in row
    ]


def markdown(rows: list[Row], runs: list[Run], about: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    loads = [run["load"] for run in runs if "load" in run]
    rounds = max((run["round"] for run in runs), default=0)
    lines = [
        "# Benchmarks of dask_slides",
        "",
        f"{about['size']:,} x {about['size']:,} px, {rounds} round{'s'[: rounds > 1]}, "
        f"{THREADS} threads per method unless noted; "
        f"{about['model']}, {about['cores']} cores, {about['memory'] / 1e9:.0f} GB, Python "
        f"{about['python']}, commit {about['commit'][:10] or 'unknown'}"
        + (" with changes" if about["uncommitted changes"] else "")
        + f"; load up to {max(loads, default=0):.1f}.",
        "",
        "Wall is the median (minimum to maximum). Ratio is wall divided by that of dask_slides: at "
        "2 a method takes twice as long. To limit is wall divided by that of decoding the same "
        "tiles.",
        "",
        "| scenario | method | wall s | CPU s | peak MB | ratio | to limit | against ours |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [_line(row) for row in rows]
    wrong = disagreements(rows)
    if wrong:
        lines += ["", "**Wrong or failed:**", "", *(f"- {one}" for one in wrong)]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    title = SCENARIOS[row["scenario"]].title
    if "wall" not in row:
        word = "skipped" if "skipped" in row else "failed"
        return f"| {title} | {row['method']} | {word} | | | | | {_cell(row[word])} |"
    spread = f"{row['wall']:.3g}"
    if row["wall_min"] < row["wall_max"]:
        spread += f" ({row['wall_min']:.3g} to {row['wall_max']:.3g})"
    ratio, to_limit = (f"{row[k]:.2f}" if k in row else "" for k in ("ratio", "to_limit"))
    notes = [row["agreement"]] if "agreement" in row else []
    if not row.get("agrees", True):
        notes.append("**differs**")
    notes += [
        f"{value:,} {name}" if isinstance(value, int) else f"{name} {value}"
        for name, value in row["facts"].items()
        if name != "shape"
    ]
    return (
        f"| {title} | {row['method']} | {spread} | {row['cpu']:.3g} | {row['peak'] / 1e6:,.0f} "
        f"| {ratio} | {to_limit} | {_cell(', '.join(notes))} |"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def write(runs: list[Run], about: dict[str, Any], out: Path) -> tuple[list[Row], str]:
    """Write both files to `out`; return the rows and the Markdown."""
    rows = medians(runs)
    text = markdown(rows, runs, about)
    out.mkdir(parents=True, exist_ok=True)
    whole = {"machine": about, "medians": rows, "runs": runs}
    (out / "results.json").write_text(json.dumps(whole, indent=1, default=str) + "\n")
    (out / "results.md").write_text(text)
    return rows, text
