import hashlib
import os

import numpy as np
import pytest
import tifffile

from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideNotFoundError
from dask_slides.testing.sample_slide import sample_slide

SIDE, CELL = 1920, 48
PIXELS = "bdb30dc5ea62033f636733ddb145bb0290a9e097ac297e19d1370093c9c70c41"
"""SHA-256 of the pixels, which are the same on every machine."""


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    return tifffile.imread(sample_slide(path, shape=(SIDE, SIDE), compression="zstd"))


@pytest.fixture(scope="module")
def contrast(pixels):
    """Return the standard deviation of each cell divided by its mean."""
    cells = pixels.reshape(SIDE // CELL, CELL, SIDE // CELL, -1).swapaxes(1, 2)
    cells = cells.reshape(SIDE // CELL, SIDE // CELL, -1)
    return cells.std(-1) / cells.mean(-1)


def test_pixels_are_the_same_on_every_machine(pixels):
    assert hashlib.sha256(pixels).hexdigest() == PIXELS


def test_islands_lie_between_blank_rows_and_columns(contrast):
    blank = contrast <= 0.02
    for lines in (blank.all(1), blank.all(0)):
        used = np.flatnonzero(~lines)
        assert lines[0] and lines[-1] and lines[used[0] : used[-1]].any()


def test_there_is_dense_and_faint_tissue(contrast):
    assert 0.3 < (contrast > 0.02).mean() < 0.5
    assert (contrast > 0.35).mean() > 0.08
    assert ((contrast > 0.05) & (contrast < 0.2)).mean() > 0.05
    assert 0 < contrast.min() < 0.01


def test_pixels_depend_on_the_seed_and_not_on_tiles(tmp_path, pixels):
    shape = (SIDE, SIDE)
    other = sample_slide(tmp_path / "a.tif", shape=shape, tile=2064, compression="none")
    assert np.array_equal(tifffile.imread(other), pixels)
    other = sample_slide(tmp_path / "b.tif", shape=shape, compression="lzw", seed=1)
    assert not np.array_equal(tifffile.imread(other), pixels)


@pytest.mark.parametrize(("compression", "bound"), [("jpeg", 12), ("jpeg2000", 6), ("webp", 12)])
def test_compression(tmp_path, compression, bound):
    exact, lossy = (
        tifffile.imread(sample_slide(tmp_path / "x.tif", shape=(300, 400), compression=name,
                                     overwrite=True)).astype(int)
        for name in (None, compression)
    )  # fmt: skip
    assert 0 < np.abs(lossy - exact).mean() < bound


@pytest.mark.parametrize(("shape", "tile"), [((1, 1), 256), ((17, 300), 16), ((259, 255), 1024)])
def test_any_shape(tmp_path, shape, tile):
    path = str(tmp_path / "a.ome.tif")
    assert sample_slide(path, shape=shape, tile=tile, mpp=0.5) == path
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert page.asarray().shape == page.shape == (*shape, 3)
        assert (page.tilelength, page.tilewidth) == (tile, tile)
        assert tiff.is_bigtiff and not tiff.is_ome
        assert page.photometric == tifffile.PHOTOMETRIC.YCBCR
        assert page.tags["XResolution"].value == (20000, 1)


def test_levels_are_means_of_the_previous_level(tmp_path):
    path = sample_slide(
        tmp_path / "a.tif", shape=(1104, 4400), tile=96, compression="zstd", pyramid=True
    )
    with tifffile.TiffFile(path) as tiff:
        full, *smaller = (level.asarray().astype(float) for level in tiff.series[0].levels)
    assert [level.shape[:2] for level in smaller] == [(276, 1100), (69, 275)]
    for level in smaller:
        height, width = level.shape[:2]
        mean = full.reshape(height, 4, width, 4, 3).mean((1, 3))
        assert np.abs(level - mean).max() <= 0.5
        full = level


@pytest.mark.parametrize(
    "wrong",
    [{"shape": (0, 5)}, {"shape": (5.0, 5)}, {"shape": 5}, {"shape": (10**6, 10**6)},
     {"tile": 100}, {"compression": "gif"}, {"mpp": 0}, {"seed": -1}],
)  # fmt: skip
def test_wrong_arguments_are_refused(tmp_path, wrong):
    with pytest.raises(SlideArgumentError, match=r"x\.tif: .+; (use|give) "):
        sample_slide(tmp_path / "x.tif", **{"shape": (64, 64), **wrong})
    assert not os.listdir(tmp_path)


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "x.tif"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="overwrite"):
        sample_slide(path, shape=(64, 64))
    assert path.read_bytes() == b"mine"
    sample_slide(path, shape=(64, 64), overwrite=True)
    assert tifffile.imread(path).shape == (64, 64, 3)
    with pytest.raises(SlideNotFoundError, match="is not a directory"):
        sample_slide(tmp_path / "no" / "x.tif", shape=(64, 64))
