"""Stored blank maps are opened as they were written, and give the same results."""

import shutil

import numpy as np
import pytest
import zarr
from bad_tiles import spoil

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


DETECTORS = [
    ds.Tissue(),
    ds.Contrast(0.05),
    ds.Contrast(0.1, with_alpha=True),
    ds.Otsu() | ds.Saturation(0.1),
    ds.Brightness(0.9) & ds.Contrast(0.2),
]


def assert_equal_maps(found, expected):
    for name in ("blank", "unknown", "tissue_fraction", "statistics", "areas"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("kinds", "y_edges", "x_edges", "grey"):
        np.testing.assert_array_equal(getattr(found.mask, name), getattr(expected.mask, name))
    assert found.tissue_share == expected.tissue_share
    assert str(found.detector) == str(expected.detector)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_a_stored_map_is_the_one_that_was_written(slide, tmp_path, detector, version):
    written = ds.blank_map(slide, tile_size=200, detector=detector, min_tissue=0.3).compute()
    path = ds.write(written, tmp_path / "map.ome.zarr", ome_zarr=version)
    opened = ds.open_blank_map(path)
    assert_equal_maps(opened, written)
    assert (opened.mpp_yx, opened.name) == (slide.mpp_yx, slide.name)
    changed = [one.with_min_tissue(0.7).with_tile_size(96) for one in (opened, written)]
    assert_equal_maps(*changed)
    options = {"tile_size": 128, "downsample": 2}
    one, two = (ds.pack_tiles(slide, blank_map=found, **options) for found in (opened, written))
    for name in ("y", "x", "score", "tissue_fraction"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len(one) > 0


def test_the_threshold_of_a_stored_map_can_be_moved(slide, tmp_path):
    written = ds.blank_map(slide, tile_size=128, detector=ds.Contrast(0.05)).compute()
    opened = ds.open_blank_map(ds.write(written, tmp_path / "map.ome.zarr"))
    blanks = [int(opened.with_detector(ds.Contrast(ratio)).blank.sum()) for ratio in (0.02, 0.4)]
    expected = [
        int(ds.blank_map(slide, tile_size=128, detector=ds.Contrast(ratio)).blank.compute().sum())
        for ratio in (0.02, 0.4)
    ]
    assert blanks == expected
    assert blanks[0] < blanks[1]


def test_missing_tiles_stay_unknown(slide, tmp_path):
    damaged = tmp_path / "damaged.tif"
    shutil.copyfile(slide.path, damaged)
    spoil(damaged, {9})
    written = ds.blank_map(ds.open_slide(damaged, on_bad_tile="mask"), tile_size=64).compute()
    opened = ds.open_blank_map(ds.write(written, tmp_path / "map.ome.zarr"))
    assert written.unknown.any()
    assert_equal_maps(opened, written)
    assert opened.bad_tiles == written.bad_tiles != ()


def test_tiles_that_were_changed_in_the_store_decide(slide, tmp_path):
    path = ds.write(ds.blank_map(slide, tile_size=128), tmp_path / "map.ome.zarr")
    blank = zarr.open_array(tmp_path / "map.ome.zarr/blank_map/blank", mode="r+")
    changed = blank[...]
    changed[4, 5] = not changed[4, 5]
    blank[...] = changed
    opened = ds.open_blank_map(path)
    np.testing.assert_array_equal(opened.blank, changed)
    assert set(np.unique(opened.tissue_fraction)) == {0.0, 1.0}


def test_stores_of_version_0_1_have_no_mask(slide, tmp_path):
    written = ds.blank_map(slide, tile_size=128).compute()
    path = ds.write(written, tmp_path / "map.ome.zarr")
    shutil.rmtree(tmp_path / "map.ome.zarr/blank_map/mask")
    opened = ds.open_blank_map(path)
    np.testing.assert_array_equal(opened.blank, written.blank)
    np.testing.assert_array_equal(opened.tissue_fraction, ~written.blank)


@pytest.mark.parametrize(
    "text", ["Contrast(ratio=open('gone'))", "Contrast(0.05)", "print", "Contrast(ratio=-1)", "(("]
)
def test_the_text_of_a_detector_runs_no_code(slide, tmp_path, text):
    written = ds.blank_map(slide, tile_size=128, detector=ds.Contrast(0.05)).compute()
    path = ds.write(written, tmp_path / "map.ome.zarr")
    zarr.open_group(tmp_path / "map.ome.zarr/blank_map", mode="r+").attrs["detector"] = text
    opened = ds.open_blank_map(path)
    np.testing.assert_array_equal(opened.blank, written.blank)
    assert (opened.detector, opened.statistics) == (text, None)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mask", np.full((4, 4), 7, np.uint8)),
        ("mask", np.zeros((4, 4), np.int16)),
        ("mask_y_edges", np.array([0, 9])),
        ("mask_x_edges", None),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(slide, tmp_path, name, values):
    path = ds.write(ds.blank_map(slide, tile_size=512), tmp_path / "map.ome.zarr")
    group = zarr.open_group(tmp_path / "map.ome.zarr/blank_map", mode="r+")
    if values is None:  # columns that go back
        values = group[name][...]
        values[3] = values[7]
    del group[name]
    group.create_array(name, data=values)
    with pytest.raises(SlideFormatError, match="not a blank map"):
        ds.open_blank_map(path)


def test_a_path_that_is_no_map_is_named(slide, tmp_path):
    with pytest.raises(SlideNotFoundError, match="check the path"):
        ds.open_blank_map(tmp_path / "missing.ome.zarr")
    with pytest.raises(SlideFormatError, match="not a blank map"):
        ds.open_blank_map(tmp_path)
    image = ds.write(slide, tmp_path / "a.ome.zarr", blank_map=ds.blank_map(slide))
    with pytest.raises(SlideFormatError, match="kind 'image' that also holds a blank map"):
        ds.open_blank_map(image)
    with pytest.raises(SlideFormatError, match="not a tile pack"):
        ds.open_pack(ds.write(ds.blank_map(slide), tmp_path / "map.ome.zarr"))


def test_operations_say_how_to_open_a_stored_map(slide, tmp_path):
    path = ds.write(ds.blank_map(slide), tmp_path / "map.ome.zarr")
    with pytest.raises(SlideArgumentError, match="open_blank_map"):
        ds.cutoff_resize(slide, downsample=2, blank_map=path)
