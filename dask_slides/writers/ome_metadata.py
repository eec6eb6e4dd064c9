"""The metadata of OME-Zarr: axes, scales, channels and labels, as dictionaries for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dask_slides.core.channels import DEFAULT_COLORS, Channel
from dask_slides.core.geometry import Placement
from dask_slides.core.source import Source, placement_of, root_of


def placement_on_slide(source: Source) -> Placement:
    """Return the placement of `source` on the slide whose coordinates its store uses.

    An image that was opened from a store may be a part of a slide, or at another scale. What is
    written from it lies over both.
    """
    return placement_of(source).on(getattr(root_of(source), "placement", Placement()))


def multiscales(
    name: str, axes: str, placement: Placement, mpp: tuple[float, float] | None, count: int
) -> list[dict[str, Any]]:
    """Return the multiscales of `count` levels, each half the size of the one before.

    Coordinates are those of the slide, so that viewers overlay all stores of a slide. They are
    centres of pixels, and the first pixel of the slide is at 0. The unit is micrometres, or pixels
    of the slide if `mpp` is None. `mpp` and `placement` are those of the image. The centre of a
    pixel that covers f pixels of the slide is shifted by (f - 1) / 2.
    """
    unit = {} if mpp is None else {"unit": "micrometer"}
    described: list[dict[str, Any]] = [
        {"name": axis, "type": "channel"}
        if axis == "c"
        else {"name": axis, "type": "space", **unit}
        for axis in axes
    ]
    size = dict(zip("yx", mpp or placement.scale, strict=True))
    covered = dict(zip("yx", placement.scale, strict=True))
    offset = dict(zip("yx", placement.offset, strict=True))
    datasets = []
    for level in range(count):
        scale = [size[axis] * 2**level if axis in size else 1.0 for axis in axes]
        shift = [
            size[axis] / covered[axis] * (offset[axis] + (covered[axis] * 2**level - 1) / 2)
            if axis in size
            else 0.0
            for axis in axes
        ]
        steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    return [{"name": name, "axes": described, "datasets": datasets, "type": "area mean"}]


def omero(channels: Sequence[Channel], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the display settings of channels; a channel without a colour gets a default."""
    top = float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0
    colours = DEFAULT_COLORS if len(channels) > 1 else ("FFFFFF",)
    grey = len(channels) == 1 and channels[0].color in (None, "FFFFFF")
    shown = []
    for number, channel in enumerate(channels):
        start, end = channel.window or (0.0, top)
        window = {"min": min(0.0, start), "max": max(top, end), "start": start, "end": end}
        colour = channel.color or colours[number % len(colours)]
        shown.append({"label": channel.name, "color": colour, "active": True, "window": window})
    return {"channels": shown, "rdefs": {"model": "greyscale" if grey else "color"}}


LABELS = (
    ("blank", [0, 0, 0, 0]),
    ("tissue", [120, 60, 130, 128]),
    ("unknown", [220, 160, 40, 128]),
)
"""Name and colour of each value of the tissue label."""


def image_label(unknown: bool) -> dict[str, Any]:
    """Return the metadata of the tissue label; `unknown` says whether it has unknown cells."""
    labels = LABELS if unknown else LABELS[:2]
    return {
        "colors": [{"label-value": n, "rgba": colour} for n, (_, colour) in enumerate(labels)],
        "properties": [{"label-value": n, "name": name} for n, (name, _) in enumerate(labels)],
        "source": {"image": "../../"},
    }


def attributes(version: str, parts: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a group in OME-Zarr `version`: since 0.5 they are under "ome"."""
    if version != "0.4":
        return {"ome": {"version": version, **parts}}
    parts = dict(parts)
    if "multiscales" in parts:
        parts["multiscales"] = [{**one, "version": version} for one in parts["multiscales"]]
    if "image-label" in parts:
        parts["image-label"] = {**parts["image-label"], "version": version}
    return parts
