"""Stored blank maps are opened with the verdicts that were written."""

import numpy as np
import pytest

import dask_slides as ds
from dask_slides.errors import SlideArgumentError, SlideFormatError, SlideNotFoundError


@pytest.fixture
def slide(tmp_path):
    return ds.open_slide(ds.sample_slide(tmp_path / "a.tif", shape=(2048, 1500), tile=256))


def test_a_stored_map_has_the_same_tiles_and_gives_the_same_pack(slide, tmp_path):
    grid = ds.blank_map(slide, tile_size=128).compute()
    drawn = np.ones(grid.shape, bool)
    drawn[3:9, 2:7] = False
    path = ds.write(grid.with_blank(drawn), tmp_path / "map.ome.zarr")
    opened = ds.open_blank_map(path)
    np.testing.assert_array_equal(opened.compute().blank, drawn)
    pack = ds.pack_tiles(slide, tile_size=128, downsample=1, blank_map=opened)
    kept = {(y // 128, x // 128) for y, x in zip(pack.y.tolist(), pack.x.tolist(), strict=True)}
    assert kept == set(zip(*(axis.tolist() for axis in np.nonzero(~drawn)), strict=True))


def test_a_path_that_is_no_map_is_named(slide, tmp_path):
    with pytest.raises(SlideNotFoundError, match="check the path"):
        ds.open_blank_map(tmp_path / "missing.ome.zarr")
    with pytest.raises(SlideFormatError, match="not a blank map"):
        ds.open_blank_map(tmp_path)
    with pytest.raises(SlideFormatError, match="not a tile pack"):
        ds.open_pack(ds.write(ds.blank_map(slide), tmp_path / "map.ome.zarr"))


def test_operations_say_how_to_open_a_stored_map(slide, tmp_path):
    path = ds.write(ds.blank_map(slide), tmp_path / "map.ome.zarr")
    with pytest.raises(SlideArgumentError, match="open_blank_map"):
        ds.cutoff_resize(slide, downsample=2, blank_map=path)
