"""Contact sheets and pictures of grids."""

import numpy as np
import pytest

from dask_slides.core.channels import Channel
from dask_slides.plots import pictures


@pytest.mark.parametrize(("side", "sides"), [(64, 64), (70, 64), (30, 30)])
def test_a_contact_sheet_has_each_tile_at_its_place(side, sides):
    tiles = [np.full((64, 64, 3), (10 * n, 5, 200), np.uint8) for n in range(5)]
    sheet = pictures.contact_sheet(tiles, columns=3, side=side)
    assert sheet.shape == (2 * (side + 4) + 4, 3 * (side + 4) + 4, 3)
    for number, tile in enumerate(tiles):
        top, left = 4 + number // 3 * (side + 4), 4 + number % 3 * (side + 4)
        assert (sheet[top : top + sides, left : left + sides] == tile[0, 0]).all()
        assert (sheet[top + sides, left : left + sides] == 255).all()
    assert (pictures.contact_sheet([], columns=3) == 255).all()


def test_tiles_of_a_contact_sheet_have_one_contrast():
    tiles = [np.full((8, 8, 1), value, "uint16") for value in (100, 600, 1100)]
    sheet = pictures.contact_sheet(tiles, 3, 8, [Channel("a", "00FF00")])
    assert sheet[8, [8, 20, 32]].tolist() == [[0, 0, 0], [0, 128, 0], [0, 255, 0]]


def test_large_tiles_are_averaged():
    tile = np.indices((64, 64)).sum(axis=0)[..., None] % 2 * np.full(3, 200)
    sheet = pictures.contact_sheet([tile.astype("uint8")], 1, 16)
    assert (sheet[4:20, 4:20] == 100).all()


@pytest.mark.parametrize("shape", [(3, 5), (40, 64), (700, 300), (1, 1)])
def test_a_picture_of_a_grid_has_a_cell_for_each_tile(shape):
    blank = np.random.default_rng(0).random(shape) > 0.5
    found = pictures.grid_picture(blank, side=512)
    assert max(found.shape[:2]) <= 512
    if max(shape) < 512:
        tile = 512 // max(shape)
        centres = found[tile // 2 :: tile, tile // 2 :: tile]
        assert centres.shape[:2] == shape
        assert len(np.unique(centres[blank], axis=0)) <= 1
        violet = centres[~blank].astype(int)
        assert (violet[:, 0] > violet[:, 1] + 30).all()


def test_a_grid_without_tiles():
    assert pictures.grid_picture(np.zeros((0, 0), bool)).shape == (0, 0, 3)
