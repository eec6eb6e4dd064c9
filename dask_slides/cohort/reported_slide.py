"""What the report of a job shows of one slide."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from dask_slides.cohort.card import read_card
from dask_slides.cohort.decision import Facts
from dask_slides.cohort.outliers import Outlier, find_outliers
from dask_slides.cohort.process_list import read_rows, seconds_in
from dask_slides.cohort.results import CORRUPT_TILES
from dask_slides.cohort.tables import OWN, user_columns
from dask_slides.plots.pictures import pixels_text

MESSAGE = 600
"""Characters of a message or a value that are shown."""
METRICS = {
    "tissue": "tissue share", "count": "number of tiles", "brightness": "brightness",
    "focus": "focus",
}  # fmt: skip
"""Numbers in which outliers are found, and what they are called."""


MISSING = "-"
"""Stands for a number that is not known."""


@dataclass(frozen=True)
class ReportedSlide:
    """What the report shows of one slide."""

    row: Mapping[str, str]
    """Its row of the process list."""
    card: Facts
    """See `cohort.card`."""
    outliers: tuple[Outlier, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the job."""
        return self.row["name"]

    @property
    def status(self) -> str:
        """Its status in the process list."""
        return self.row.get("status") or "todo"

    @property
    def error(self) -> str:
        """Class and message of the error; empty without one."""
        error, message = self.row.get("error") or "", self.row.get("message") or ""
        path = self.row["path"]
        for text, shown in ((path, self.file), (os.path.dirname(path) + os.sep, "")):
            message = message.replace(text, shown)
        return shortened(f"{error}: {message}" if error else message)

    @property
    def file(self) -> str:
        """Its file name; the page does not show folders, so that it can be handed on."""
        return os.path.basename(self.row["path"].partition("?")[0].rstrip("/"))

    @property
    def seconds(self) -> float | None:
        """How long it took; None if that is not known."""
        return seconds_in(self.row) or None

    @property
    def steps(self) -> Mapping[str, Facts]:
        """The facts of its steps by name."""
        found: Mapping[str, Facts] = self.card["steps"]
        return found

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """The numbers of `METRICS`; None if they are not known."""
        count = self.first("kept")
        thumbnail = self.card["slide"].get("grey")
        return {
            "tissue": self.first("tissue"),
            "count": count,
            "brightness": self.first("brightness", None if self.has_tiles else thumbnail),
            "focus": self.first("focus"),
        }

    @property
    def has_tiles(self) -> bool:
        """Whether a step found tiles."""
        return any("kept" in facts for facts in self.steps.values())

    def first(self, name: str, default: Any = None) -> Any:
        """Return a number of the first step that has it: packs, then crops, then maps."""
        order = sorted(self.steps.values(), key=lambda facts: facts["makes"] != "TilePack")
        return next((one[name] for one in order if one.get(name) is not None), default)

    @property
    def corrupt(self) -> int:
        """The largest number of corrupt tiles that a step found or filled."""
        counts = [
            int(value) for name, value in self.row.items()
            if name.endswith(f"_{CORRUPT_TILES}") and value and value.isdigit()
        ]  # fmt: skip
        return max([*counts, *(one.get("corrupt", 0) for one in self.steps.values())], default=0)

    @property
    def is_empty(self) -> bool:
        """Whether a step kept no tile."""
        return any(facts.get("kept") == 0 for facts in self.steps.values())

    @property
    def reasons(self) -> list[str]:
        """Why to look at this slide, in words."""
        found = [_outlier_text(one) for one in self.outliers]
        if self.status == "failed":
            found.insert(0, "failed")
        if self.is_empty:
            found.append("no tile is kept")
        if self.corrupt:
            found.append(f"{self.corrupt:,} corrupt tile{'s' * (self.corrupt > 1)}")
        return found

    @property
    def urgency(self) -> tuple[float, ...]:
        """What the slides are ordered by: failed, then empty, outliers, damage, and all others."""
        worst = max((abs(one.z) for one in self.outliers), default=0.0)
        return (self.status != "failed", not self.is_empty, -worst, -self.corrupt)


def shortened(text: str) -> str:
    """Return a text, cut if it is very long."""
    return text if len(text) <= MESSAGE else text[: MESSAGE - 1] + "…"


def number_text(name: str, value: float | None) -> str:
    """Return one of `METRICS` as text."""
    if value is None:
        return MISSING
    formats = {"tissue": "{:.1%}", "count": "{:,.0f}", "brightness": "{:.0f}", "focus": "{:.3g}"}
    return formats[name].format(value)


def _outlier_text(one: Outlier) -> str:
    side = "high" if one.z > 0 else "low"
    value, median = (number_text(one.name, number) for number in (one.value, one.median))
    return f"{METRICS[one.name]} is {side}: {value}, median {median} (z {one.z:+.1f})"


def reported_slides(job: str) -> list[ReportedSlide]:
    """Return the slides of a job, those to look at first; only the cards are read."""
    rows = read_rows(job).values()
    slides = [ReportedSlide(row, read_card(os.path.join(job, row["name"]))) for row in rows]
    outliers = find_outliers([slide.metrics for slide in slides])
    found = [replace(one, outliers=far) for one, far in zip(slides, outliers, strict=True)]
    return sorted(found, key=lambda slide: (*slide.urgency, slide.name))


def common_parameters(slides: Iterable[ReportedSlide]) -> dict[str, str]:
    """Return the arguments of steps that all slides have alike, by dotted name."""
    found: dict[str, str] = {}
    differ: set[str] = set()
    for slide in slides:
        for name, value in arguments(slide).items():
            if found.setdefault(name, value) != value:
                differ.add(name)
    return {name: value for name, value in found.items() if name not in differ}


def arguments(slide: ReportedSlide) -> dict[str, str]:
    """Return the arguments of the steps of a slide, by dotted name."""
    return {
        name: shortened(str(value))
        for step, facts in slide.steps.items()
        for name, value in facts["parameters"].items()
        if name.startswith(f"{step}.")
    }


def shown_columns(slide: ReportedSlide) -> dict[str, str]:
    """Return the columns of the user's table, and those of functions of the user."""
    columns = list(slide.row)
    functions = [name for name, facts in slide.steps.items() if facts["kind"] == "function"]
    made = [
        name for name in columns[columns.index(OWN[0]) :]
        if any(name.startswith(f"{one}_") for one in functions)
    ] if OWN[0] in columns else []  # fmt: skip
    return {name: shortened(slide.row.get(name) or "") for name in [*user_columns(columns), *made]}


def size_text(slide: ReportedSlide) -> str:
    """Return the size of a slide as text; empty if it is not known."""
    facts = slide.card["slide"]
    if "shape" not in facts:
        return ""
    mpp = "" if facts["mpp"] is None else f", {facts['mpp']:.4g} µm per pixel"
    levels = f", {facts['levels']} levels" if facts["levels"] > 1 else ""
    return f"{pixels_text(facts['shape'])} px, {facts['dtype']}{mpp}{levels}"
