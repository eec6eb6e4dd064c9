"""Masks are drawn over the pixels of the slide that they are about."""

import numpy as np
import pytest

import dask_slides as ds
from dask_slides.ops.overlays import picture_on_slide

SHAPE, TILE = (250, 330), 80
"""The last row of tiles has 10 px, and the last column too."""


def drawn(found, how):
    if how == "picture":
        return picture_on_slide(found.slide, mask=found.mask, max_size=max(SHAPE))
    return np.asarray(found.plot(max_size=max(SHAPE)).images[0].get_array())


@pytest.mark.parametrize("how", ["picture", "plot"])
def test_the_last_tiles_are_not_stretched(how):
    pytest.importorskip("matplotlib").use("agg")
    slide = ds.from_dask(np.full((*SHAPE, 3), 100, np.uint8))
    blank = np.random.default_rng(3).random((4, 5)) < 0.5
    blank[-1, -1] = ~blank[-2, -2]
    found = ds.blank_map(slide, tile_size=TILE, detector=ds.Contrast(0.1)).with_blank(blank)
    picture = drawn(found, how)
    assert picture.shape[:2] == SHAPE
    for at in ("start", "end"):
        points = [
            [
                TILE * n + 5 if at == "start" else min(TILE * n + TILE, size) - 5
                for n in range(count)
            ]
            for count, size in zip(blank.shape, SHAPE, strict=True)
        ]
        colours = picture[np.ix_(*points)][..., :3].astype(int)
        assert (
            len(np.unique(colours[blank], axis=0)) == len(np.unique(colours[~blank], axis=0)) == 1
        )
        assert (colours[blank][0] != colours[~blank][0]).any()
