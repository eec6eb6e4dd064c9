"""The HTML page of a report, whose size is bounded.

It loads nothing. Its content security policy (W3C CSP 3) makes browsers run only its own script,
even if a text were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from dask_slides.cohort.card import encoded
from dask_slides.cohort.decision import Facts
from dask_slides.cohort.reported_slide import (
    METRICS,
    ReportedSlide,
    arguments,
    number_text,
    shown_columns,
    size_text,
)
from dask_slides.runtime.threads import in_slices

PAGE_BYTES = 19_500_000
"""Largest page."""
TEXT_BYTES = 6_000
"""Bytes of text for a slide that are left when the room for pictures is divided."""
MOST_PICTURE_BYTES = 400_000
"""Bytes of the pictures of a slide in a page of few slides."""
FEW_BYTES = 30_000
"""Bytes below which there is one picture of each kind only, so that it can be larger."""
THUMBNAIL = 0.1
"""Share of these bytes for the thumbnail of the table."""
WEIGHTS = {"picture": 2, "sheet": 1}
"""How the others are divided."""
HEADER_BYTES = 350
SMALL_QUALITY = 66
"""Bytes of a JPEG without pixels, and the quality of pictures that are made smaller."""
SMALLEST = 24
"""Sides of pictures below which there is no picture at all."""
WIDTH, HEIGHT, LINE = 300, 96, 1.5
"""Size of the drawing of a histogram, and the width of the lines around its bars."""
CAPTIONS = {"BlankMap": "Outline of the tissue", "Cutoff": "Outline of what is left"}
"""Captions of the pictures of steps, by what they make; of other steps they are places of tiles."""


@cache
def _file(name: str) -> str:
    """Return a file of the page."""
    return (files("dask_slides.cohort") / "report_files" / name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def policy() -> str:
    """Return the content security policy: embedded pictures, and our style and script."""
    style, script = (_digest(_file(name)) for name in ("style.css", "sort.js"))
    return (
        f"default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


def picture_bytes(slides: int) -> int:
    """Return how many bytes the pictures of one slide may have, before they become base64."""
    room = (PAGE_BYTES / max(1, slides) - TEXT_BYTES) * 3 / 4
    return int(min(MOST_PICTURE_BYTES, max(0, room)))


def page(facts: Facts, slides: Sequence[ReportedSlide], nbytes: int) -> str:
    """Return the page; the pictures of a slide have at most `nbytes` bytes."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    shown: list[Facts] = [{}] * len(slides)

    def view(part: slice) -> None:
        for number in range(part.start, part.stop):
            shown[number] = _view(slides[number], number, facts, nbytes)

    in_slices(view, len(slides), 8)
    return environment.from_string(_file("page.html")).render(
        facts, slides=shown, policy=policy(), style=_file("style.css"), script=_file("sort.js"),
        width=WIDTH, height=HEIGHT,
    )  # fmt: skip


def _view(slide: ReportedSlide, number: int, facts: Facts, nbytes: int) -> Facts:
    """Return what the template shows of a slide."""
    common, steps = facts["parameters"], slide.steps.values()
    named = (one.get("bad_tiles", ()) for one in steps)
    sections = [_section(slide, name, one) for name, one in slide.steps.items()]
    found = [one for section in sections for one in section["pictures"]]
    if nbytes < FEW_BYTES:  # the first of each kind
        kept = {one["caption"]: one for one in reversed(found)}.values()
        for section in sections:
            section["pictures"] = [one for one in section["pictures"] if one in kept]
        found = [one for section in sections for one in section["pictures"]]
    thumbnail = slide.card["slide"].get("thumbnail")
    each = nbytes * (1 - THUMBNAIL) / max(1, sum(WEIGHTS[one["kind"]] for one in found))
    for one in found:
        most = int(each * WEIGHTS[one["kind"]])
        small = one.get("small") if len(one["data"]) * 3 // 4 > most else None
        one["data"] = fitted(small or one["data"], most)
    differ = {name: value for name, value in arguments(slide).items() if name not in common}
    own = shown_columns(slide)
    return {
        "id": f"slide-{number + 1}", "name": slide.name, "status": slide.status,
        "error": slide.error, "reasons": slide.reasons, "file": slide.file,
        "size": size_text(slide), "order": number,
        "thumbnail": thumbnail and fitted(thumbnail, int(nbytes * THUMBNAIL)),
        "metrics": {
            name: (number_text(name, slide.metrics[name]), slide.metrics[name]) for name in METRICS
        },
        "dropped": slide.first("dropped"), "seconds": slide.seconds,
        "corrupt": slide.corrupt if slide.corrupt or slide.status == "done" else None,
        "columns": {name: own.get(name, "") for name in facts["user_columns"]},
        "sections": sections, "arguments": differ,
        "bad_tiles": list(dict.fromkeys(tile for one in named for tile in one)),
        "bad": max((one.get("corrupt", 0) + one.get("absent", 0) for one in steps), default=0),
    }  # fmt: skip


def _section(slide: ReportedSlide, name: str, facts: Facts) -> Facts:
    """Return what the template shows of a step."""
    makes = {one["makes"] for one in slide.steps.values()}
    # the cells of a cut-off show the tissue of the mask in smaller tiles
    repeats = facts["makes"] == "Cutoff" and bool(makes & {"BlankMap", "TilePack"})
    histograms = facts.get("histograms", ())
    earlier = itertools.takewhile(lambda one: one is not facts, slide.steps.values())
    if repeats or any(one.get("histograms") == histograms for one in earlier):  # an export
        histograms = ()
    shown = []
    if "picture" in facts:
        caption = CAPTIONS.get(facts["makes"], "Places of the kept tiles")
        if facts.get("dropped", 0) is None:
            caption = "Places of the crops"
        picture = {"data": facts["picture"], "small": facts.get("small")}
        shown.append(picture | {"caption": caption, "kind": "picture"})
    decided = next((one for one in reversed(histograms) if one["threshold"] is not None), None)
    for which in ("kept", "dropped"):
        sheet = facts.get(f"nearest_{which}")
        if sheet and decided:
            low, high = (_number(decided, value) for value in sheet["ends"])
            caption = (
                f"{sheet['count']} {which} tile{'s' * (sheet['count'] > 1)} nearest to the "
                f"threshold; {decided['what']}: {low}{f' to {high}' * (high != low)}"
            )
            shown.append({"data": sheet["picture"], "caption": caption, "kind": "sheet"})
    return {
        "name": name, "pictures": shown, "counts": _counts_text(slide.row, name, facts),
        "histograms": [_drawing(one, facts["top_k"]) for one in histograms],
    }  # fmt: skip


def _number(histogram: Facts, value: float) -> str:
    return f"{100 * value:.3g}%" if histogram["is_share"] else f"{value:.3g}"


def _counts_text(row: Mapping[str, str], name: str, facts: Facts) -> str:
    """Return what a step made, in words."""
    height, width = (row.get(f"{name}_{side}") or "" for side in ("height", "width"))
    text = f"{int(height):,} x {int(width):,} px" if height.isdigit() and width.isdigit() else ""
    gain = row.get(f"{name}_gain") or "1"
    if float(gain) >= 1.005:
        text += f", {float(gain):.3g} times finer than the whole slide at the same longest side"
    if "kept" not in facts:
        return text
    kept, dropped = facts["kept"], facts["dropped"]
    text += "; " * bool(text)
    text += f"{kept:,} {'crop' if dropped is None else 'tile'}{'s' * (kept != 1)}"
    text += "" if dropped is None else f" kept, {dropped:,} dropped"
    rules = [
        f"{one['what']} is {'at least' if one['includes'] else 'above'} "
        f"{_number(one, one['threshold'])}"
        for one in facts.get("histograms", ()) if one["threshold"] is not None
    ]  # fmt: skip
    if rules:
        text += f"; {'drawn' if dropped is None else 'kept'} if the {' and the '.join(rules)}"
    if facts["top_k"]:
        text += f" (the {kept:,} best)"
    if facts.get("skipped"):
        text += f"; {facts['skipped']:,} skipped for absent or corrupt tiles"
    return text


def _drawing(facts: Facts, top_k: bool) -> Facts:
    """Return a histogram as bars of a drawing, with its description in words."""
    kept, dropped = facts["kept"], facts["dropped"]
    totals = [sum(both) for both in zip(kept, dropped, strict=True)]
    most = max(totals)
    scale = HEIGHT / math.log1p(most)  # of counts, so that single tiles can be seen
    step = WIDTH / len(kept)
    bars = {"kept": "", "dropped": ""}
    for number, both in enumerate(zip(kept, dropped, strict=True)):
        total, low = sum(both), HEIGHT - LINE / 2
        for kind, count in zip(bars, both, strict=True):
            if count:  # bars are 1 px apart, and their lines inside of them
                up = math.log1p(total) * scale * count / total
                left, across, inner = number * step + LINE / 2, step - 1 - LINE, max(0, up - LINE)
                bars[kind] += f"M{left:g} {low:.4g}v-{inner:.4g}h{across:g}v{inner:.4g}z"
                low -= up
    first, last = (_number(facts, end) for end in facts["ends"])
    first = "≤ " * bool(facts["below"]) + first
    label = "" if facts["threshold"] is None else _number(facts, facts["threshold"])
    words = f"Histogram of the {facts['what']}: {sum(kept):,} kept"
    words += f" and {sum(dropped):,} dropped tiles" if any(dropped) else " tiles"
    words += f", from {first} to {last}; the highest bar is {most:,} tiles"
    words += f"; the threshold is {label}" if label else ""
    notes = ["logarithmic axis"] if facts["logarithmic"] else []
    if facts["what"] != "score":  # others have none
        if facts["unknown"]:
            notes.append(f"not drawn: {facts['unknown']:,} tiles with missing pixels")
        if top_k:
            notes.append("dropped tiles above the threshold had lower scores")
    ticks = [10**power for power in range(len(str(most))) if 10**power <= most / 3] + [most]
    return {
        "title": facts["what"][0].upper() + facts["what"][1:], "meaning": facts["meaning"],
        "bars": bars,
        "first": first, "last": last, "label": label,
        "at": None if facts["at"] is None else facts["at"] * step,
        "ticks": [(f"{one:,}", round(HEIGHT - math.log1p(one) * scale, 1)) for one in ticks],
        "words": words, "notes": notes, "has_dropped": any(dropped),
    }  # fmt: skip


def fitted(picture: str, nbytes: int) -> str | None:
    """Return a JPEG in base64 of at most `nbytes` bytes before; None if it cannot be.

    It is made smaller if it is too large.
    """
    from PIL import Image

    size = len(picture) * 3 // 4
    if size <= nbytes:
        return picture
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        side = max(image.size)
        while True:
            # a smaller picture has more bytes for each of its pixels, and headers have some
            share = max(0, nbytes - HEADER_BYTES) / max(1, size - HEADER_BYTES)
            side = int(side * min(0.9, share**0.58))
            if side < SMALLEST:
                return None
            image.draft("RGB", (side, side))  # decodes no more pixels than it takes
            image.thumbnail((side, side))
            smaller = encoded(image, SMALL_QUALITY)
            size = len(smaller) * 3 // 4
            if size <= nbytes:
                return smaller
