"""The folder of a TRIDENT job, by a reader of its documented layout."""

import json
import os

import dask.array as da
import numpy as np
import pytest
from export_packs import all_tiles, stored_levels, without_pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dask_slides as ds
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideMppError
from dask_slides.writers.exports.trident import attributes_of

h5py = pytest.importorskip("h5py")


def read_job(job, folder, name):
    """Return the attributes and coordinates of a slide."""
    with h5py.File(job / folder / "patches" / f"{name}_patches.h5") as file:
        coords = file["coords"]
        assert coords.maxshape == (None, 2) and coords.chunks == (1, 2) and coords.dtype == "i8"
        return dict(coords.attrs), coords[:]


def cut(levels, facts, x, y):
    """Cut a patch: read the best stored level, then resize to the patch size."""
    ratio = facts["level0_magnification"] / facts["target_magnification"]
    pairs = [(levels[0].shape[0] / level.shape[0], level) for level in levels]
    step, level = [pair for pair in pairs if pair[0] <= ratio + 0.1][-1]
    side = round(round(facts["patch_size"] * ratio) / int(step))
    top, left = round(y / step), round(x / step)
    patch = Image.fromarray(level[top : top + side, left : left + side])
    return np.asarray(patch.resize((facts["patch_size"],) * 2, Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("scale", "folder", "magnifications", "level0_side"),
    [
        ({"downsample": 1}, "40x_64px_0px_overlap", (40, 40), 64),
        ({"stride": 48}, "20x_64px_16px_overlap", (40, 20), 128),
        ({"magnification": 10}, "10x_64px_0px_overlap", (40, 10), 256),
    ],
)
def test_trident_cuts_the_tiles_of_the_pack(
    pyramid, tmp_path, scale, folder, magnifications, level0_side
):
    pack = all_tiles(pyramid, **scale)
    assert ds.export(without_pixels(pack), tmp_path, to="trident") == str(tmp_path)
    facts, coords = read_job(tmp_path, folder, "pyramid")
    assert facts == {
        "patch_size": 64, "patch_size_level0": level0_side,
        "level0_magnification": magnifications[0], "target_magnification": magnifications[1],
        "overlap": 16 if "stride" in scale else 0, "name": "pyramid",
        "savetodir": str(tmp_path / folder), "level0_width": 1024, "level0_height": 768,
    }  # fmt: skip
    assert (coords == np.stack((pack.x, pack.y), axis=1)).all()
    assert coords[1, 0] > 0 and coords[1, 1] == 0  # x before y
    levels = stored_levels(pyramid)
    for i in (0, 5, len(pack) - 1):
        assert (cut(levels, facts, *coords[i]) == pack[i]).all()


def test_trident_cuts_the_area_of_tiles_of_any_scale(pyramid, tmp_path):
    pack = all_tiles(pyramid, downsample=3, edge="shift")
    ds.export(pack, tmp_path, to="trident")
    facts, coords = read_job(tmp_path, "10x_64px_0px_overlap", "pyramid")
    assert facts["patch_size_level0"] == 192
    assert facts["target_magnification"] == pytest.approx(40 / 3)
    levels = stored_levels(pyramid)
    for i in range(len(pack)):
        error = np.abs(cut(levels, facts, *coords[i]).astype(float) - pack[i])
        other = np.abs(cut(levels, facts, *coords[i - 1]).astype(float) - pack[i])
        assert error.mean() < 10 < other.mean()


def test_crops_lie_anywhere(pyramid, tmp_path):
    slide = ds.open_slide(pyramid, mpp=0.25)
    crops = ds.random_crops(slide, n=9, size=50, detector=ds.Contrast(0.0))
    ds.export(without_pixels(crops), tmp_path, to="trident")
    facts, coords = read_job(tmp_path, "20x_50px_0px_overlap", "pyramid")
    assert (coords == np.stack((crops.x, crops.y), axis=1)).all() and facts["overlap"] == 0
    assert (cut(stored_levels(pyramid), facts, *coords[4]) == crops[4]).all()


@given(mpp=st.floats(0.1, 3), factor=st.floats(1, 9), tile=st.integers(16, 64))
def test_the_attributes_give_the_side_of_the_tiles(mpp, factor, tile):
    slide = ds.from_dask(da.zeros((1000, 1000, 3), dtype="uint8", chunks=500), mpp=mpp)
    tissue = ds.BlankMap.from_labels(np.ones((10, 10), bool), slide)
    pack = ds.pack_tiles(slide, blank_map=tissue, tile_size=tile, downsample=factor)
    facts = attributes_of(pack, "a")
    # how TRIDENT comes to the side: from pixel sizes of 10 / magnification
    ratio = (10 / facts["target_magnification"]) / (10 / facts["level0_magnification"])
    height, width = pack.boxes[0, 2:]
    assert round(tile * ratio) == facts["patch_size_level0"] == max(height, width)


def test_contours_of_the_tissue(tissue_tiff, tmp_path):
    shapely = pytest.importorskip("shapely")
    slide = ds.open_slide(tissue_tiff, mpp=0.5)
    found = ds.blank_map(slide, tile_size=30, detector=ds.Contrast(0.05)).compute()
    for options in ({"tile_size": 32}, {"tile_size": 16}):  # the same contours stay
        pack = ds.pack_tiles(slide, blank_map=found, **options)
        ds.export(pack, tmp_path / "job", to="trident", blank_map=found)
    path = tmp_path / "job" / "contours_geojson" / "tissue.geojson"
    content = json.loads(path.read_text())
    assert content["name"] == "tissue"
    areas = [shapely.geometry.shape(one["geometry"]).area for one in content["features"]]
    assert sum(areas) == pytest.approx(sum(one.area for one in found.polygons()))
    assert sorted(os.listdir(tmp_path / "job")) == [
        "20x_16px_0px_overlap", "20x_32px_0px_overlap", "contours_geojson",
    ]  # fmt: skip
    assert os.listdir(path.parent) == ["tissue.geojson"]
    other = found.remove_small(1e9)
    with pytest.raises(OutputExistsError, match=r"tissue\.geojson.*overwrite it"):
        ds.export(other, tmp_path / "job", to="trident")
    ds.export(other, tmp_path / "job", to="trident", overwrite=True)
    assert json.loads(path.read_text())["features"] == []
    geopandas = pytest.importorskip("geopandas")
    ds.export(found, tmp_path / "other", to="trident", name="a.b")
    assert len(geopandas.read_file(tmp_path / "other/contours_geojson/a.b.geojson")) == len(areas)


def test_a_stored_pack_is_exported_alike(pyramid, tmp_path):
    pack = all_tiles(pyramid)
    stored = ds.open_pack(ds.write(pack, tmp_path / "a.tiles.zarr"))
    found = []
    for one, job in ((pack, "fresh"), (stored, "stored")):
        ds.export(one, tmp_path / job, to="trident")
        facts, coords = read_job(tmp_path / job, "20x_64px_0px_overlap", "pyramid")
        del facts["savetodir"]
        found.append((facts, coords.tolist()))
    assert found[0] == found[1]
    with pytest.raises(OutputExistsError, match=r"pyramid_patches\.h5.*overwrite it"):
        ds.export(pack, tmp_path / "fresh", to="trident")
    ds.export(pack, tmp_path / "fresh", to="trident", overwrite=True)


def test_what_trident_cannot_have_is_refused(pyramid, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype="uint8")
    unknown = ds.pack_tiles(noise, tile_size=64, detector=ds.Contrast(0.0))
    with pytest.raises(SlideMppError, match="needs a magnification"):
        ds.export(unknown, tmp_path / "a", to="trident")
    resized = ds.resize(ds.open_slide(pyramid, mpp=0.25), downsample=2)
    for pack, message in (
        (all_tiles(pyramid, (64, 32)), "square tiles only"),
        (all_tiles(pyramid, stride=(64, 32)), "one stride for both"),
        (ds.pack_tiles(resized, tile_size=64, detector=ds.Contrast(0.0)), "the file itself"),
        (ds.pack_tiles(resized, tile_size=64, downsample=2, detector=ds.Contrast(0.0)), "itself"),
    ):
        with pytest.raises(SlideArgumentError, match=message):
            ds.export(pack, tmp_path / "a", to="trident")
    for name in ("../a", "", "."):
        with pytest.raises(SlideArgumentError, match="without a folder"):
            ds.export(all_tiles(pyramid), tmp_path / "a", to="trident", name=name)
    with pytest.raises(SlideArgumentError, match="name of that folder"):
        ds.export(all_tiles(pyramid), tmp_path / "a.h5", to="trident")
    assert os.listdir(tmp_path) == []
