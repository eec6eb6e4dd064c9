"""The HTML page of a report, whose size is bounded.

It loads nothing. Its content security policy (W3C CSP 3) makes browsers run only its own script,
even if a text were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from dask_slides.cohort.card import Facts, encoded
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
WIDTH, HEIGHT = 300, 96
"""Size of the drawing of a histogram."""
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
        "dropped": slide.first("dropped"), "corrupt": slide.corrupt, "seconds": slide.seconds,
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
    shown = []
    if "picture" in facts:
        caption = CAPTIONS.get(facts["makes"], "Places of the tiles")
        picture = {"data": facts["picture"], "small": facts.get("small")}
        shown.append(picture | {"caption": caption, "kind": "picture"})
    for which in ("kept", "dropped"):
        if sheet := facts.get(f"sheet_{which}"):
            low, high = sheet["shares"]
            caption = (
                f"{sheet['count']} {which} tile{'s' * (sheet['count'] > 1)} nearest to the "
                f"threshold: {low:.0%} to {high:.0%} tissue"
            )
            shown.append({"data": sheet["picture"], "caption": caption, "kind": "sheet"})
    return {
        "name": name, "pictures": shown, "counts": _counts_text(slide.row, name, facts),
        "histograms": [one for one in (_shares(facts), _scores(facts)) if one and not repeats],
    }  # fmt: skip


def _counts_text(row: Mapping[str, str], name: str, facts: Facts) -> str:
    """Return what a step made, in words."""
    height, width = (row.get(f"{name}_{side}") or "" for side in ("height", "width"))
    text = f"{int(height):,} x {int(width):,} px" if height.isdigit() and width.isdigit() else ""
    if gain := row.get(f"{name}_gain"):
        text += f", {gain} times finer than the whole slide at this size"
    if "kept" not in facts:
        return text
    kept, dropped = facts["kept"], facts["dropped"]
    if dropped is None:
        return f"{kept:,} crops"
    text += f"{'; ' * bool(text)}{kept:,} tile{'s' * (kept != 1)} kept, {dropped:,} dropped"
    if facts["threshold"] is not None:
        text += f"; at least {facts['threshold']:.0%} tissue"
    if facts["top_k"] is not None:
        text += f"; the {facts['top_k']:,} best"
    if facts.get("skipped"):
        text += f"; {facts['skipped']:,} skipped, because they touch absent or corrupt tiles"
    return text


def _shares(facts: Facts) -> Facts | None:
    shares = facts.get("shares")
    if shares is None:
        return None
    title = "Share of tissue in a tile"
    if not sum(shares["kept"]) + sum(shares["dropped"]):
        return None
    note = f"not drawn: {shares['empty']:,} tiles without tissue, {shares['full']:,} full of it"
    found = _histogram(title, shares["kept"], shares["dropped"], shares["ends"], "{:.0%}", note)
    return found | {"threshold": facts["threshold"] * WIDTH, "label": f"{facts['threshold']:.0%}"}


def _scores(facts: Facts) -> Facts | None:
    scores = facts.get("scores")
    if scores is None:
        return None
    kept = scores["kept"]
    found = _histogram("Score of the kept tiles", kept, [0] * len(kept), scores["ends"], "{:.3g}")
    if facts["top_k"] is not None:  # the lowest score that is kept
        found |= {"threshold": 0.0, "label": f"{scores['ends'][0]:.3g}"}
    return found


def _histogram(
    title: str, kept: list[int], dropped: list[int], ends: Sequence[float], form: str,
    note: str = "",
) -> Facts:  # fmt: skip
    """Return a histogram as bars of a drawing, with its description in words."""
    step = WIDTH // len(kept)
    most = max(1, *(a + b for a, b in zip(kept, dropped, strict=True)))
    bars = {"kept": "", "dropped": ""}
    for number, (good, bad) in enumerate(zip(kept, dropped, strict=True)):
        high, low = (round(HEIGHT * count / most) for count in (good, bad))
        for kind, bottom, height in (("kept", HEIGHT, high), ("dropped", HEIGHT - high, low)):
            if height:
                bars[kind] += f"M{number * step:g} {bottom}v{-height}h{step - 1:g}v{height}z"
    first, last = (form.format(end) for end in ends)
    words = f"{title}: histogram of {sum(kept):,} kept"
    words += f" and {sum(dropped):,} dropped tiles" if sum(dropped) else " tiles"
    return {
        "title": title, "bars": bars, "first": first, "last": last,
        "most": most, "threshold": None, "label": "", "note": note,
        "words": f"{words}, from {first} to {last}; the highest bar is {most:,} tiles",
        "has_dropped": any(dropped),
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
