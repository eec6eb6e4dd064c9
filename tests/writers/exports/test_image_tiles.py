"""Folders of PNG and JPEG tiles."""

import re

import numpy as np
import pytest
from PIL import Image

import dask_slides as ds
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideNotFoundError

NAME = re.compile(r"(.+)_y(\d+)_x(\d+)_h(\d+)_w(\d+)_(\d+)\.(png|jpg)")


def images_of(folder):
    """Return slide, y, x, height, width and number from the names, with the pixels."""
    found = {}
    for path in sorted(folder.iterdir()):
        slide, *numbers, _ = NAME.fullmatch(path.name).groups()
        found[slide, *map(int, numbers)] = np.asarray(Image.open(path))
    return found


def test_png_tiles_are_lossless_and_named_by_their_place(noise_tiff, tmp_path):
    pack = ds.pack_tiles(noise_tiff, tile_size=100, downsample=2, detector=ds.Contrast(0.05))
    folder = tmp_path / "tiles"
    assert ds.export(pack, folder, to="png") == str(folder)
    found = images_of(folder)
    assert len(found) == len(pack) == 25
    for number, (key, pixels) in enumerate(found.items()):  # sorted names are in order
        assert key == ("noise", pack.y[number], pack.x[number], 200, 200, number)
        assert np.array_equal(pixels, pack[number])
    assert [one.name for one in tmp_path.iterdir()] == ["tiles"]


def test_16_bit_grey_tiles_keep_their_values(new_pack, tmp_path):
    pack = new_pack(dtype="uint16", channels=1)
    ds.export(pack, tmp_path / "tiles", to="png")
    found = list(images_of(tmp_path / "tiles").values())
    assert found[7].dtype == np.uint16 and np.array_equal(found[7], pack[7][..., 0])


def test_jpeg_tiles_are_smaller_at_less_quality(tissue_tiff, tmp_path):
    pack = ds.pack_tiles(tissue_tiff, tile_size=64, downsample=1, detector=ds.Contrast(0.05))
    sizes = []
    for quality in (95, 50):
        folder = tmp_path / str(quality)
        folder.mkdir()  # an empty folder is used
        ds.export(pack, folder, to="jpeg", quality=quality)
        sizes.append(sum(one.stat().st_size for one in folder.iterdir()))
    assert sizes[1] < sizes[0] / 2
    for number, pixels in enumerate(images_of(tmp_path / "95").values()):
        assert abs(pixels.astype(float) - pack[number]).mean() < 3


def test_a_written_pack_gives_the_same_files(new_pack, tmp_path):
    pack = new_pack()
    opened = ds.open_pack(ds.write(pack, tmp_path / "x.tiles.zarr"))
    for name, one in (("a", pack), ("b", opened)):
        ds.export(one, tmp_path / name, to="png")
    a, b = images_of(tmp_path / "a"), images_of(tmp_path / "b")
    assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_crops_at_one_place_do_not_replace_each_other(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (70, 70, 3), np.uint8)
    crops = ds.random_crops(pixels, n=60, size=64, detector=ds.Contrast(0.05))
    assert len({*zip(crops.y, crops.x, strict=True)}) < 60
    ds.export(crops, tmp_path / "crops", to="png")
    assert len(images_of(tmp_path / "crops")) == 60


def test_each_tile_of_the_file_is_decoded_once(noise_tiff, tmp_path, decodes):
    pack = ds.pack_tiles(noise_tiff, tile_size=128, downsample=1, detector=ds.Contrast(0.05))
    decodes.clear()
    ds.export(pack, tmp_path / "tiles", to="png")
    assert len(decodes) == 64 and set(decodes.values()) == {1}


def test_a_folder_with_files_is_refused_and_stays(new_pack, tmp_path):
    folder = tmp_path / "tiles"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="tiles: is not empty; choose another name"):
            ds.export(new_pack(), folder, to="png", overwrite=overwrite)
    with pytest.raises(OutputExistsError, match="is not a folder"):
        ds.export(new_pack(), folder / "mine.txt", to="png")
    assert [one.name for one in folder.iterdir()] == ["mine.txt"]
    assert [one.name for one in tmp_path.iterdir()] == ["tiles"]


@pytest.mark.parametrize(
    ("pack", "to", "message"),
    [
        ({"dtype": "uint16"}, "jpeg", "holds 8-bit grey or RGB, and these pixels are uint16"),
        ({"channels": 5}, "png", "these pixels are uint8 with 5 channels"),
    ],
)
def test_pixels_that_the_format_cannot_hold_are_refused(new_pack, tmp_path, pack, to, message):
    with pytest.raises(SlideArgumentError, match=message):
        ds.export(new_pack(**pack), tmp_path / "tiles", to=to)
    with pytest.raises(SlideNotFoundError, match="create it first"):
        ds.export(new_pack(), tmp_path / "no" / "tiles", to=to)
    assert list(tmp_path.iterdir()) == []
