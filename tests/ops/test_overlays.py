"""Masks are drawn over the pixels of the slide that they are about."""

import numpy as np
import pytest
import tifffile
from bad_tiles import spoil

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


@pytest.mark.parametrize("how", ["picture", "plot"])
def test_damaged_tiles_are_orange(tmp_path, how):
    pytest.importorskip("matplotlib").use("agg")
    pixels = np.full((*SHAPE, 3), 240, np.uint8)
    pixels[:, :100] = np.random.default_rng(0).integers(60, 200, (SHAPE[0], 100, 1))
    options = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    spoil(tmp_path / "a.tif", absent={9})  # of six tiles a row: y 64 to 128, x 192 to 256
    found = ds.blank_map(ds.open_slide(tmp_path / "a.tif", on_bad_tile="mask")).compute()
    picture = drawn(found, how)[..., :3].astype(int)
    orange = (picture[..., 0] - picture[..., 2]) > 80
    expected = np.zeros(SHAPE, bool)
    expected[64:128, 192:256] = True
    np.testing.assert_array_equal(orange, expected)
