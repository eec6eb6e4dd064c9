"""What OME-Zarr says of an image: axes, scales, channels, labels. Plain dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dask_slides.core.channels import Channel
from dask_slides.core.geometry import Placement

_COLOURS = ("FF0000", "00FF00", "0000FF", "FF00FF", "00FFFF", "FFFF00", "FFFFFF")


def multiscales(
    name: str, axes: str, place: Placement, mpp: tuple[float, float] | None, count: int
) -> list[dict[str, Any]]:
    """Return the multiscales of `count` levels, each half the last.

    Coordinates are those of the slide, so that all stores of a slide lie on each other: of the
    centres of its pixels, the first one at 0, in micrometres, or in pixels where `mpp`, that of
    the image, is not known. `place` is that of the image on the slide. A pixel that covers f
    pixels of the slide has its centre (f - 1) / 2 of them further on.
    """
    unit = {} if mpp is None else {"unit": "micrometer"}
    described: list[dict[str, Any]] = [
        {"name": axis, "type": "channel"}
        if axis == "c"
        else {"name": axis, "type": "space", **unit}
        for axis in axes
    ]
    size = dict(zip("yx", mpp or place.scale, strict=True))
    covered = dict(zip("yx", place.scale, strict=True))
    offset = dict(zip("yx", place.offset, strict=True))
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
    """Return how viewers show the channels; grey in white, others without a colour in ours."""
    top = float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0
    colours = _COLOURS if len(channels) > 1 else ("FFFFFF",)
    grey = len(channels) == 1 and channels[0].color in (None, "FFFFFF")
    shown = []
    for number, channel in enumerate(channels):
        start, end = channel.window or (0.0, top)
        window = {"min": min(0.0, start), "max": max(top, end), "start": start, "end": end}
        colour = channel.color or colours[number % len(colours)]
        shown.append({"label": channel.name, "color": colour, "active": True, "window": window})
    return {"channels": shown, "rdefs": {"model": "greyscale" if grey else "color"}}


KINDS = (
    ("blank", [0, 0, 0, 0]),
    ("tissue", [120, 60, 130, 128]),
    ("unknown", [220, 160, 40, 128]),
)
"""What the values of the label image of the tissue mean, and their colour."""


def image_label(unknown: bool) -> dict[str, Any]:
    """Return what the label image of the tissue says of itself, with `unknown` cells or without."""
    kinds = KINDS if unknown else KINDS[:2]
    return {
        "colors": [{"label-value": n, "rgba": colour} for n, (_, colour) in enumerate(kinds)],
        "properties": [{"label-value": n, "name": name} for n, (name, _) in enumerate(kinds)],
        "source": {"image": "../../"},
    }


def attributes(version: str, parts: dict[str, Any]) -> dict[str, Any]:
    """Return group attributes of the OME-Zarr `version`: under "ome" since 0.5."""
    if version == "0.4":
        parts = dict(parts)
        for key in ("multiscales", "image-label"):
            if key == "multiscales" and key in parts:
                parts[key] = [{**scale, "version": version} for scale in parts[key]]
            elif key in parts:
                parts[key] = {**parts[key], "version": version}
        return parts
    return {"ome": {"version": version, **parts}}
