"""Pictures of the benchmark of tissue detection: image, truth and the outline of each mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.tissue_images import GLASS, PEN, TISSUE, UNJUDGED, Labelled
from benchmarks.tissue_methods import is_dark

COLOURS = {
    GLASS: (255, 255, 255),
    TISSUE: (205, 90, 150),
    PEN: (60, 160, 80),
    UNJUDGED: (170, 170, 170),
}
OUTLINE, ON_DARK = (0, 120, 255), (255, 230, 0)
WIDTH = 420
"""Width of a panel in px."""


def save(
    folder: Path, labelled: Labelled, masks: dict[str, NDArray[np.bool_]], ious: dict[str, float]
) -> None:
    """Write GROUP-NAME.png to `folder`."""
    shown = displayed(labelled.image)
    colour = np.asarray(ON_DARK if is_dark(labelled.image) else OUTLINE, np.uint8)
    panels = [panel(shown, labelled.name), panel(_coloured(labelled.label), "truth")]
    for name, mask in masks.items():
        edge = mask ^ ndimage.binary_erosion(mask, iterations=2)
        outlined = np.where(edge[..., None], colour, shown)
        panels.append(panel(outlined, f"{name} {ious[name]:.3f}"))
    columns = (len(panels) + 1) // 2
    sheet = Image.new("RGB", (columns * (WIDTH + 6), 2 * (panels[0].height + 6)), (60, 60, 60))
    for number, one in enumerate(panels):
        row, column = divmod(number, columns)
        sheet.paste(one, (column * (WIDTH + 6), row * (one.height + 6)))
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / f"{labelled.name.replace(' ', '-').replace(',', '')}.png")


def displayed(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image as RGB; channels of a dark one are stretched, at most three are shown."""
    if not is_dark(image):
        return np.asarray(image, np.uint8)
    high = np.maximum(np.percentile(image, 99.8, (0, 1)), 1)
    rgb = np.clip(image / high * 255, 0, 255).astype(np.uint8)[..., :3]
    blank = np.zeros_like(rgb[..., :1])
    return np.repeat(rgb, 3, -1) if rgb.shape[-1] == 1 else np.dstack([rgb, blank])[..., :3]


def panel(rgb: NDArray[np.uint8], title: str) -> Image.Image:
    """Return a panel with its title."""
    one = Image.fromarray(rgb)
    one = one.resize((WIDTH, round(one.height * WIDTH / one.width)), Image.Resampling.BOX)
    draw = ImageDraw.Draw(one)
    draw.rectangle((0, 0, 8 + 7 * len(title), 16), fill=(0, 0, 0))
    draw.text((4, 2), title, fill=(255, 255, 255))
    return one


def _coloured(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.zeros((256, 3), np.uint8)
    for value, colour in COLOURS.items():
        table[value] = colour
    return table[label]
