"""Files of CLAM, by a reader of its documented layout."""

import os

import numpy as np
import pytest
from export_packs import all_tiles, stored_levels, without_pixels

import dask_slides as ds
from dask_slides.errors import SlideArgumentError

h5py = pytest.importorskip("h5py")


def read_patches(folder, path):
    """Return the coordinates, their attributes and the patches that CLAM cuts from the slide."""
    with h5py.File(folder / "patches" / "pyramid.h5") as file:
        coords, facts = file["coords"][:], dict(file["coords"].attrs)
        assert file["coords"].chunks == (32, 2) and coords.dtype.kind == "i"
    levels = stored_levels(path)
    level = levels[facts["patch_level"]]
    step, side = levels[0].shape[0] / level.shape[0], facts["patch_size"]
    corners = np.rint(coords / step).astype(int)
    return coords, facts, [level[y : y + side, x : x + side] for x, y in corners]


@pytest.mark.parametrize(("factor", "number"), [(1, 0), (2, 1), (4, 2)])
def test_clam_cuts_the_tiles_of_the_pack(pyramid, tmp_path, factor, number):
    pack = all_tiles(pyramid, 32, mpp=0.25 * factor, stride=48)
    ds.export(without_pixels(pack), tmp_path, to="clam")
    coords, facts, patches = read_patches(tmp_path, pyramid)
    height, width = stored_levels(pyramid)[number].shape[:2]
    expected = {
        "patch_size": 32, "patch_level": number, "downsample": (factor, factor),
        "downsampled_level_dim": (width, height), "level_dim": (width, height),
        "name": "pyramid", "save_path": str(tmp_path),
    }  # fmt: skip
    assert facts.keys() == expected.keys()
    assert all(np.array_equal(facts[key], value) for key, value in expected.items())
    assert (coords == np.stack((pack.x, pack.y), axis=1)).all()
    assert np.array_equal(patches, pack[:])


def test_pixels_on_request(pyramid, monkeypatch, tmp_path):
    from dask_slides.writers.exports import clam

    monkeypatch.setattr(clam, "BATCH_BYTES", 5 * 32 * 32 * 3)
    pack = all_tiles(pyramid, 32, downsample=3)  # no stored level has this scale
    ds.export(pack, tmp_path, to="clam", pixels=True)
    with h5py.File(tmp_path / "patches" / "pyramid.h5") as file:
        images, coords = file["imgs"], file["coords"]
        assert images.dtype == "u1" and images.chunks == (1, 32, 32, 3)
        assert images.maxshape == (None, 32, 32, 3)
        assert (images[:] == pack[:]).all() and len(coords) == len(pack)
        assert images.attrs["wsi_name"] == "pyramid"
        assert images.attrs["downsampled_level_dim"].tolist() == [341, 256]
        assert images.attrs["level_dim"].tolist() == [1024, 768]
        assert coords.attrs["patch_size"] == 96 and coords.attrs["patch_level"] == 0


def test_a_scale_that_is_not_stored_is_refused_unless_clam_may_resize(pyramid, tmp_path):
    pack = all_tiles(pyramid, 32, downsample=3)
    with pytest.raises(SlideArgumentError, match=r"downsample 3.*one of 1, 2, 4, 8.*pixels=True"):
        ds.export(pack, tmp_path, to="clam")
    assert os.listdir(tmp_path) == []
    ds.export(pack, tmp_path, to="clam", patch_level=1)
    _, facts, patches = read_patches(tmp_path, pyramid)
    assert facts["patch_size"] == 48 and {patch.shape for patch in patches} == {(48, 48, 3)}
    for patch, tile in zip(patches, pack[:], strict=True):
        assert np.abs(patch.mean(axis=(0, 1)) - tile.mean(axis=(0, 1))).max() < 4
    with pytest.raises(SlideArgumentError, match="patch_level=9 is not known; give 0 to 3"):
        ds.export(pack, tmp_path, to="clam", patch_level=9, overwrite=True)


def test_a_stored_pack_is_exported_alike(pyramid, tmp_path):
    pack = ds.open_pack(ds.write(all_tiles(pyramid, 32), tmp_path / "a.tiles.zarr"))
    ds.export(pack, tmp_path / "a", to="clam")
    _, facts, patches = read_patches(tmp_path / "a", pyramid)
    assert facts["patch_level"] == 1 and facts["level_dim"].tolist() == [512, 384]
    assert np.array_equal(patches, pack[:])
    pack = ds.open_pack(ds.write(all_tiles(pyramid, 32, downsample=3), tmp_path / "b.tiles.zarr"))
    with pytest.raises(SlideArgumentError, match="patch_level=0"):
        ds.export(pack, tmp_path / "b", to="clam")


def test_pixels_that_are_not_rgb_are_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 999, (64, 64), dtype="uint16")
    pack = ds.pack_tiles(image, tile_size=32, detector=ds.Contrast(0.0))
    with pytest.raises(SlideArgumentError, match="1 channels of uint16; export without pixels"):
        ds.export(pack, tmp_path, to="clam", pixels=True)
    ds.export(pack, tmp_path, to="clam")
