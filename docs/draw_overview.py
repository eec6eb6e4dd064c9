"""Draw the picture of the README from a sample slide.

    python docs/draw_overview.py

It shows the outline of the tissue, the tiles of a pack, the tissue as islands, and random crops.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import dask_slides as ds
from dask_slides.ops.overlays import picture_on_slide
from dask_slides.plots.pictures import png, side_by_side

TARGET = Path(__file__).resolve().parent / "pictures" / "overview.png"
SIDE, HEIGHT = 16384, 360
"""Sides of the slide, and height of the picture, in pixels."""


def main() -> None:
    """Write the picture to `TARGET`."""
    with tempfile.TemporaryDirectory() as folder:
        path = ds.sample_slide(Path(folder) / "slide.tif", shape=(SIDE, SIDE))
        slide = ds.open_slide(path)
        cells = ds.blank_map(slide).compute()
        pack = ds.pack_tiles(slide, blank_map=cells)
        cut = ds.cutoff_resize(slide, max_size=720, blank_map=cells, layout="islands", compact=None)
        crops = ds.random_crops(slide, n=42, size=256, blank_map=cells)
        panels = [
            picture_on_slide(slide, mask=cells.mask.tissue, max_size=720),
            picture_on_slide(slide, boxes=pack.boxes, max_size=720),
            np.asarray(cut.image),
            crops.contact_sheet(42, columns=6, side=96),
        ]
        TARGET.write_bytes(png(side_by_side(panels, HEIGHT)))
        print(f"{TARGET}: {len(pack)} tiles, gain of the islands {cut.gain:.2f}")


if __name__ == "__main__":
    main()
