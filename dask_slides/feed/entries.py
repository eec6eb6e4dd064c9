"""The slides and packs that a user gives to a feed, each with what is known about it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import absolute
from dask_slides.core.plain_values import plain_or_text
from dask_slides.errors import SlideArgumentError
from dask_slides.feed.slide_table import SlideTable, read_table
from dask_slides.ops.annotations import Labels, check_labels
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.crops import checked_weights
from dask_slides.ops.pack import TilePack
from dask_slides.readers.slide_paths import slide_paths
from dask_slides.readers.tables import is_table
from dask_slides.slide import Slide, as_slide, open_slide
from dask_slides.writers.blank_map_reader import open_blank_map
from dask_slides.writers.pack_reader import open_pack

PACK_SUFFIX = ".tiles.zarr"


@dataclass(frozen=True, eq=False)
class SlideEntry:
    """A slide or a pack of a feed."""

    name: str
    """Unique in the feed."""
    path: str = ""
    given: Slide | TilePack | None = None
    """What the user gave; None is opened by its path."""
    mpp: float | None = None
    label: Any = ""
    blank_map: BlankMap | str | None = None
    """A blank map, or the path of outlines in GeoJSON."""
    weights: NDArray[np.float64] | None = None
    annotations: Labels | None = None

    def open(self) -> Slide | TilePack:
        """Open it; no pixel is read."""
        if self.given is not None:
            return self.given
        return open_pack(self.path) if is_pack(self.path) else open_slide(self.path, mpp=self.mpp)


def is_pack(path: str) -> bool:
    """Return whether `path` is that of a stored pack."""
    return path.rstrip("/\\").lower().endswith(PACK_SUFFIX)


def entries_of(
    slides: Any,
    *,
    labels: Any = None,
    blank_maps: Any = None,
    weights: Any = None,
    annotations: Any = None,
) -> list[SlideEntry]:
    """Return the slides and packs that paths, objects and tables name, in their order.

    The other arguments are one value per slide, in the same order or by name or path.
    """
    entries = _unique([entry for one in _listed(slides) for entry in _entries(one)])
    if not entries:
        raise SlideArgumentError("slides: there are none; give paths, slides, packs or a table")
    columns = {
        "label": per_slide("labels", labels, entries),
        "blank_map": per_slide("blank_maps", blank_maps, entries),
        "weights": per_slide("weights", weights, entries),
        "annotations": per_slide("annotations", annotations, entries),
    }
    return [
        _completed(entry, {name: values[n] for name, values in columns.items()})
        for n, entry in enumerate(entries)
    ]


def _listed(slides: Any) -> Sequence[Any]:
    single = isinstance(
        slides, str | os.PathLike | Slide | TilePack | SlideTable | np.ndarray | da.Array
    )
    if single or is_table(slides):
        return [slides]
    try:
        return list(slides)
    except TypeError:
        raise SlideArgumentError(
            f"slides={slides!r}; give paths, slides, packs or a table"
        ) from None


def _entries(one: Any) -> list[SlideEntry]:
    if is_table(one):
        one = read_table(one)
    if isinstance(one, SlideTable):
        return [
            SlideEntry(row.name or Path(row.path).name, row.path, mpp=row.mpp, label=row.label)
            for row in one.rows
        ]
    if isinstance(one, TilePack):
        return [SlideEntry(str(one.attributes.get("source")), given=one)]
    if isinstance(one, str | os.PathLike):
        paths, _ = slide_paths(os.fspath(one))
        return [SlideEntry(Path(path).name, path) for path in paths]
    slide = as_slide(one)
    return [SlideEntry(slide.name, slide.path or "", given=slide)]


def _names_of(key: Any) -> set[str]:
    """Return what a key of a mapping may name: a slide, or its path."""
    if not isinstance(key, str | os.PathLike) or not os.fspath(key):
        return set()
    return {os.fspath(key), absolute(os.fspath(key))}


def _unique(entries: list[SlideEntry]) -> list[SlideEntry]:
    """Return `entries` with unique names: the path, or a number, where a name is there twice."""
    names = [entry.name for entry in entries]
    out, seen = [], set()
    for number, entry in enumerate(entries):
        name = entry.name if names.count(entry.name) == 1 else entry.path
        if name in seen or not name:
            name = f"{entry.name} {number}"
        seen.add(name)
        out.append(replace(entry, name=name))
    return out


def per_slide(argument: str, values: Any, entries: Sequence[SlideEntry]) -> list[Any]:
    """Return a value for each of `entries`; None where there is none."""
    if values is None:
        return [None] * len(entries)
    if isinstance(values, Mapping):
        paths = [absolute(entry.path) if entry.path else "" for entry in entries]
        known = {*paths, *(entry.name for entry in entries)}
        found: dict[str, Any] = {}
        for key, value in values.items():
            names = _names_of(key) & known
            if not names:
                raise SlideArgumentError(
                    f"{argument}: {key!r} is not among the slides; name them as "
                    f"{entries[0].name!r}, or by their paths"
                )
            found |= dict.fromkeys(names, value)
        return [
            found.get(path, found.get(entry.name))
            for path, entry in zip(paths, entries, strict=True)
        ]
    # an array (h, w) is one map; columns of data frames have one dimension
    many = isinstance(values, Sequence) or getattr(values, "ndim", 0) in (1, 3)
    listed = list(values) if many and not isinstance(values, str) else [values]
    if len(listed) != len(entries):
        raise SlideArgumentError(
            f"{argument}: {len(listed)} values for {len(entries)} slides; give a list with one per "
            "slide, or a mapping by name"
        )
    return listed


def _completed(entry: SlideEntry, values: Mapping[str, Any]) -> SlideEntry:
    given = {
        name: value
        for name, value in values.items()
        if value is not None and (name != "label" or plain_or_text(value) is not None)
    }
    found = given.get("blank_map")
    if isinstance(found, str | os.PathLike):
        path = os.fspath(found)
        outlines = path.lower().endswith((".geojson", ".json", ".gz"))
        given["blank_map"] = path if outlines else open_blank_map(path)
    elif found is not None and not isinstance(found, BlankMap):
        raise SlideArgumentError(
            f"{entry.name}: blank_maps has a {type(found).__name__}; give BlankMaps or their paths"
        )
    if "annotations" in given:
        check_labels(entry.name, given["annotations"])
    if "weights" in given:
        given["weights"] = checked_weights(entry.name, given["weights"])
    return replace(entry, **given)
