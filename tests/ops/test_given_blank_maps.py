"""A blank map that you give decides which tiles are packed and where crops lie."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

import dask_slides as ds


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """An image in which no detector finds blank cells."""
    path = tmp_path_factory.mktemp("given") / "noise.tif"
    noise = np.random.default_rng(0).integers(0, 255, (470, 500, 3), dtype=np.uint8)
    tifffile.imwrite(path, noise, tile=(64, 64), photometric="rgb", compression="zlib")
    return path


def with_blank(found, blank):
    return replace(found.compute(), blank=blank)


def random_blank(shape, seed=1):
    return np.random.default_rng(seed).random(shape) < 0.6


@pytest.mark.parametrize("edge", ["drop", "pad"])
def test_a_pack_holds_the_cells_that_are_not_blank(path, edge, reads):
    found = ds.blank_map(path, tile_size=48).compute()
    blank = random_blank(found.shape)
    reads.clear()
    pack = ds.pack_tiles(path, edge=edge, blank_map=with_blank(found, blank))
    assert not reads
    dense = ~blank if edge == "pad" else ~blank[: 470 // 48, : 500 // 48]
    np.testing.assert_array_equal(np.stack((pack.y, pack.x), 1), np.argwhere(dense) * 48)
    assert pack.tiles.shape[1:] == (48, 48, 3)


def test_a_map_that_is_all_blank_gives_an_empty_pack_and_no_crops(path):
    found = ds.blank_map(path, tile_size=64).compute()
    all_blank = with_blank(found, np.ones(found.shape, bool))
    with pytest.warns(ds.errors.BlankSlideWarning):
        assert len(ds.pack_tiles(path, blank_map=all_blank)) == 0
    with pytest.warns(ds.errors.BlankSlideWarning):
        assert len(ds.random_crops(path, n=5, size=32, blank_map=all_blank)) == 0


def test_a_map_may_be_changed_before_it_is_computed(path):
    lazy = ds.blank_map(path, tile_size=48)
    blank = random_blank(lazy.shape)
    pack = ds.pack_tiles(path, blank_map=replace(lazy, blank=blank))
    assert len(pack) == (~blank[: 470 // 48, : 500 // 48]).sum()


def test_a_changed_map_takes_precedence_over_its_detector(tmp_path):
    glass = np.full((128, 128, 3), 240, np.uint8)
    tifffile.imwrite(tmp_path / "glass.tif", glass, tile=(64, 64), photometric="rgb")
    found = ds.blank_map(tmp_path / "glass.tif", tile_size=64).compute()
    assert found.blank.all()
    tissue = with_blank(found, np.array([[True, False], [True, True]]))
    pack = ds.pack_tiles(tmp_path / "glass.tif", blank_map=tissue)
    assert (list(pack.y), list(pack.x)) == ([0], [64])
    crops = ds.random_crops(tmp_path / "glass.tif", n=20, size=16, blank_map=tissue)
    assert len(crops) == 20
    assert (crops.y + 8 <= 64).all() and (crops.x + 8 >= 64).all()


@pytest.mark.parametrize("size", [20, (30, 90)])
@pytest.mark.parametrize("tile", [48, 110])
def test_the_centres_of_crops_lie_in_cells_that_are_not_blank(path, size, tile):
    found = ds.blank_map(path, tile_size=tile).compute()
    blank = random_blank(found.shape)
    crops = ds.random_crops(path, n=200, size=size, seed=4, blank_map=with_blank(found, blank))
    height, width = (size, size) if isinstance(size, int) else size
    assert len(crops) == 200
    assert (crops.y >= 0).all() and (crops.y + height <= 470).all()
    assert (crops.x >= 0).all() and (crops.x + width <= 500).all()
    # a crop at the edge of the image is moved in, so its centre may leave its cell
    inside = (crops.y > 0) & (crops.y + height < 470) & (crops.x > 0) & (crops.x + width < 500)
    rows, columns = (crops.y + height // 2) // tile, (crops.x + width // 2) // tile
    assert inside.sum() > 50
    assert not blank[rows[inside], columns[inside]].any()
    again = ds.random_crops(path, n=200, size=size, seed=4, blank_map=with_blank(found, blank))
    np.testing.assert_array_equal(crops.y, again.y)


def test_a_map_of_the_resized_slide_decides_for_a_pack_at_its_scale(path):
    found = ds.blank_map(ds.resize(path, downsample=2), tile_size=50).compute()
    blank = random_blank(found.shape)
    pack = ds.pack_tiles(path, downsample=2, blank_map=with_blank(found, blank))
    dense = ~blank[: 235 // 50, : 250 // 50]
    np.testing.assert_array_equal(np.stack((pack.y, pack.x), 1), np.argwhere(dense) * 100)


def test_a_map_that_does_not_fit_is_refused(path):
    found = ds.blank_map(path, tile_size=48)
    with pytest.raises(ds.errors.SlideArgumentError, match="are not those of the pack"):
        ds.pack_tiles(path, tile_size=64, blank_map=found)
    with pytest.raises(ds.errors.SlideArgumentError, match="are not those of the pack"):
        ds.pack_tiles(path, tile_size=48, stride=24, blank_map=found)
    with pytest.raises(ds.errors.SlideArgumentError, match="are not those of the pack"):
        ds.pack_tiles(path, tile_size=48, downsample=2, blank_map=found)
    with pytest.raises(ds.errors.SlideArgumentError, match="either detector or blank_map"):
        ds.pack_tiles(path, tile_size=48, detector=ds.Contrast(0.2), blank_map=found)
    with pytest.raises(ds.errors.SlideArgumentError, match="give a BlankMap"):
        ds.pack_tiles(path, tile_size=48, blank_map=np.zeros((10, 11), bool))
    with pytest.raises(ds.errors.SlideArgumentError, match="make a map of that size"):
        ds.random_crops(path, n=2, size=20, downsample=2, blank_map=found)
    with pytest.raises(ds.errors.SlideArgumentError, match="either detector or blank_map"):
        ds.random_crops(path, n=2, size=20, detector=ds.Otsu(), blank_map=found)
