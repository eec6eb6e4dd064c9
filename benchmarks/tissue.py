"""``python -m benchmarks.tissue``: compare methods of tissue detection on labelled overviews.

The images are made, with known truth, in groups of what makes detection hard; `--data FOLDER` adds
real ones, NAME.png with NAME-label.png. Prints a table and writes it with all scores as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.tissue_images import GROUPS, PEN, TISSUE, UNJUDGED, Labelled, generated, real
from benchmarks.tissue_methods import METHODS, Method

RESULTS = Path(__file__).resolve().parent / "results" / "raw"
"""Folder of raw results, ignored by git."""


@dataclass(frozen=True)
class Score:
    """How one method did on one image; pixels that are not judged count nowhere."""

    image: str
    group: str
    method: str
    iou: float
    """Intersection over union of the tissue, 1 if both are empty."""
    tissue: int
    """Pixels that are tissue."""
    found: int
    """Pixels of tissue that the method found."""
    pen: int
    """Pixels of pen on glass."""
    kept: int
    """Pixels of pen on glass that the method took for tissue."""
    seconds: float


def score(labelled: Labelled, name: str, mask: NDArray[np.bool_], seconds: float) -> Score:
    """Compare a mask (h, w) with the label."""
    label = labelled.label
    mask = mask & (label != UNJUDGED)
    tissue, pen = label == TISSUE, label == PEN
    union, found = _count(mask | tissue), _count(mask & tissue)
    return Score(
        image=labelled.name,
        group=labelled.group,
        method=name,
        iou=found / union if union else 1.0,
        tissue=_count(tissue),
        found=found,
        pen=_count(pen),
        kept=_count(mask & pen),
        seconds=seconds,
    )


def _count(mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))


def available() -> dict[str, Method]:
    """Return the methods that can run; say which cannot."""
    methods = dict(METHODS)
    try:
        from dask_slides.numerics import tissue  # noqa: F401
    except ImportError as error:
        print(f"ours is skipped: {error}", file=sys.stderr)
        del methods["ours"]
    return methods


def run(
    images: Iterator[Labelled], methods: dict[str, Method], pictures: Path | None = None
) -> list[Score]:
    """Run every method on every image, on one image after the other."""
    scores = []
    for labelled in images:
        masks: dict[str, NDArray[np.bool_]] = {}
        for name, method in methods.items():
            start = time.perf_counter()
            masks[name] = method(labelled.image, labelled.mpp)
            scores.append(score(labelled, name, masks[name], time.perf_counter() - start))
        if pictures:
            from benchmarks.tissue_pictures import save

            own = {s.method: s.iou for s in scores[-len(masks) :]}
            save(pictures, labelled, masks, own)
    return scores


def share(part: int, whole: int) -> float:
    """Return part / whole, NaN without a whole."""
    return part / whole if whole else float("nan")


def summary(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Return a row per group, then the totals there are; each maps a method to its figure."""
    methods = list(dict.fromkeys(s.method for s in scores))
    groups = list(dict.fromkeys(s.group for s in scores))
    rows: dict[str, dict[str, float]] = {name: {} for name in [*groups, "mean of all images"]}
    totals = ("recall, faint tissue", "pen on glass kept", "seconds per image")
    rows |= {name: {} for name in totals}
    for method in methods:
        own = [s for s in scores if s.method == method]
        faint = [s for s in own if s.group == "faint"]
        for group in groups:
            rows[group][method] = _mean([s.iou for s in own if s.group == group])
        rows["mean of all images"][method] = _mean([s.iou for s in own])
        rows[totals[0]][method] = share(sum(s.found for s in faint), sum(s.tissue for s in faint))
        rows[totals[1]][method] = share(sum(s.kept for s in own), sum(s.pen for s in own))
        rows[totals[2]][method] = _mean([s.seconds for s in own])
    return {name: row for name, row in rows.items() if not np.isnan([*row.values()]).any()}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def markdown(scores: Sequence[Score], about: dict[str, Any]) -> str:
    """Return the report as Markdown; the best figure of a row is bold."""
    rows = summary(scores)
    methods = list(dict.fromkeys(s.method for s in scores))
    images = dict.fromkeys((s.group, s.image) for s in scores)
    counts = {group: sum(g == group for g, _ in images) for group, _ in images}
    lines = [
        "# Tissue detection",
        "",
        f"{len(images)} images; {about['model']}, {about['cores']} cores, Python "
        f"{about['python']}, commit {about['commit'][:10] or 'unknown'}"
        + (" with changes" if about["uncommitted changes"] else "")
        + ". Groups give the mean intersection over union of the tissue; 1 is perfect.",
        "",
        "| group | images | " + " | ".join(methods) + " |",
        "| --- | ---: |" + " ---: |" * len(methods),
    ]
    for name, row in rows.items():
        best = (min if name in ("pen on glass kept", "seconds per image") else max)(row.values())
        cells = [f"**{v:.3f}**" if v == best else f"{v:.3f}" for v in row.values()]
        lines.append(f"| {name} | {counts.get(name, '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def whole_slides(folder: Path, side: int) -> list[dict[str, Any]]:
    """Time the default blank map of whole slides: the best of three, and one reduced read."""
    import dask_slides as ds
    from dask_slides.graph.overview import overview_blocks, overview_source

    rows = []
    for name, pyramid in (("with levels of 1/4, 1/16, ...", True), ("of one level", False)):
        path = folder / f"{'pyramid' if pyramid else 'flat'}-{side}.tif"
        if not path.exists():
            ds.sample_slide(path, shape=(side, side), tile=512, pyramid=pyramid)
        slide = ds.open_slide(path)
        small = overview_blocks(overview_source(slide.source, slide.mpp_yx, ds.Tissue().mpp))
        rows.append({
            "slide": f"JPEG, {side:,} px, {name}",
            "blank map": _best(partial(_map, slide)),
            "reduced read": _best(small.compute),
        })  # fmt: skip
    return rows


def _map(slide: Any) -> Any:
    import dask_slides as ds

    return ds.blank_map(slide).compute()


def _best(job: Callable[[], Any], times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def slides_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the times of whole slides as Markdown."""
    lines = ["", "| slide | blank map, s | reading the picture alone, s |", "| --- | ---: | ---: |"]
    lines += [
        f"| {row['slide']} | {row['blank map']:.2f} | {row['reduced read']:.2f} |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tissue", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of NAME.png and NAME-label.png")
    parser.add_argument("--only", action="append", choices=["real", *GROUPS],
                        help="one group; repeats")  # fmt: skip
    parser.add_argument("--method", action="append", choices=METHODS, help="one method; repeats")
    parser.add_argument("--pictures", type=Path, help="folder for PNGs of all masks side by side")
    parser.add_argument("--seed", default="", help="any text: make other images of each group")
    parser.add_argument(
        "--slides",
        type=Path,
        help="folder for whole slides: time the default blank map of them too",
    )
    parser.add_argument("--size", type=int, default=102_400, help="side of the whole slides")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder, by default {RESULTS}")
    return parser.parse_args()


def chosen(given: argparse.Namespace) -> Iterator[Labelled]:
    """Yield the real images, if there is a folder of them, and the made ones."""
    groups = given.only or ["real", *GROUPS]
    own = real(given.data) if given.data and "real" in groups else iter(())
    made = (generated(group, given.seed) for group in groups if group in GROUPS)
    return chain(own, *made)


def main() -> int:
    """Run the benchmark."""
    given = arguments()
    methods = {k: v for k, v in available().items() if not given.method or k in given.method}
    scores = run(chosen(given), methods, given.pictures)
    if not scores:
        print("no image: --only real needs --data FOLDER", file=sys.stderr)
        return 2
    about = report.machine()
    text = markdown(scores, about)
    slides = whole_slides(given.slides, given.size) if given.slides else []
    text += slides_markdown(slides) if slides else ""
    given.out.mkdir(parents=True, exist_ok=True)
    whole = {"machine": about, "summary": summary(scores), "slides": slides}
    whole["scores"] = [asdict(s) for s in scores]
    (given.out / "tissue.json").write_text(json.dumps(whole, indent=1) + "\n")
    (given.out / "tissue.md").write_text(text)
    print(text)
    print(f"written to {given.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
