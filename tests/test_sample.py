import functools
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from dask_slides import sample
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideNotFoundError
from dask_slides.sample import sample_slide


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Draw what all slides have in common once: the code under test is the same."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_scene", "_textures"):
            patch.setattr(sample, name, functools.cache(getattr(sample, name)))
        yield


def read(path, level=0):
    with tifffile.TiffFile(path) as tiff:
        return tiff.series[0].levels[level].asarray()


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """2560 x 2560 pixels as a 40 x 40 grid of cells of 64 pixels."""
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    pixels = read(sample_slide(path, (2560, 2560), compression="zstd"))
    return pixels.reshape(40, 64, 40, 64, 3).transpose(0, 2, 1, 3, 4).reshape(40, 40, -1)


def test_same_arguments_give_the_same_bytes(tmp_path):
    one = sample_slide(tmp_path / "a.tif", (700, 900), tile=128, pyramid=True)
    two = sample_slide(tmp_path / "b.ome.tif", (700, 900), tile=128, pyramid=True)
    other = sample_slide(tmp_path / "c.tif", (700, 900), tile=128, pyramid=True, seed=1)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (17, 500), (513, 255), (400, 700)])
@pytest.mark.parametrize("tile", [16, 240, 256, 2048])
def test_any_shape(tmp_path, shape, tile):
    path = str(tmp_path / "a.tif")
    assert sample_slide(path, shape, tile=tile, mpp=0.5) == path
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert page.shape == (*shape, 3)
        assert (page.tilelength, page.tilewidth) == (tile, tile)
        assert page.is_tiled and tiff.is_bigtiff and not page.jpegtables
        assert page.photometric == tifffile.PHOTOMETRIC.YCBCR
        assert page.tags["YCbCrSubSampling"].value == (2, 2)
        assert page.tags["XResolution"].value == (20000, 1)
        assert page.tags["ResolutionUnit"].value == 3
        assert page.tags["Software"].value == "dask_slides"
        assert page.asarray().shape == (*shape, 3)


@pytest.mark.parametrize(
    ("compression", "quality", "bound"),
    [
        (None, 80, 0),
        ("lzw", 80, 0),
        ("deflate", 80, 0),
        ("zstd", 80, 0),
        ("jpeg2000", 100, 0),
        ("webp", 100, 0),
        ("jpeg2000", 80, 6),
        ("webp", 90, 12),
        ("jpeg", 90, 12),
    ],
)
def test_compression(tmp_path, compression, quality, bound):
    kept = read(sample_slide(tmp_path / "a.tif", (300, 400), compression="none"))
    path = sample_slide(tmp_path / "b.tif", (300, 400), compression=compression, quality=quality)
    off = np.abs(read(path).astype(int) - kept)
    assert off.max() == 0 if bound == 0 else 0 < off.mean() < bound


@pytest.mark.parametrize(("shape", "tile"), [((2048, 2048), 256), ((67, 18003), 48)])
def test_levels_are_area_averages(tmp_path, shape, tile):
    path = sample_slide(tmp_path / "a.tif", shape, tile=tile, compression="zstd", pyramid=True)
    full = read(path).astype(float)
    with tifffile.TiffFile(path) as tiff:
        levels = [level.shape for level in tiff.series[0].levels]
    steps = [4**n for n in range(len(levels))]
    assert len(levels) == (2 if shape[0] == 2048 else 4)
    for n, step in enumerate(steps):
        size = [max(1, (side + step // 2) // step) for side in shape]
        assert levels[n] == (*size, 3)
        sums, counts = full, np.ones((*shape, 1))
        for axis in (0, 1):
            at = np.arange(0, shape[axis], step)
            sums = np.add.reduceat(sums, at, axis)
            counts = np.add.reduceat(counts, at, axis)
        mean = (sums / counts)[: size[0], : size[1]]
        assert np.abs(read(path, n) - mean).max() <= 0.5001


def test_reused_tiles_show_the_same_picture(tmp_path):
    small = read(sample_slide(tmp_path / "a.tif", (512, 512), compression="zstd"))
    large = read(sample_slide(tmp_path / "b.tif", (2048, 2048), tile=32, compression="zstd"))
    glass = [(im.reshape(32, len(im) // 32, 32, -1).min((1, 3)) > 225) for im in (small, large)]
    assert (glass[0] == glass[1]).mean() > 0.9


def test_blank_rows_and_columns(slide):
    blank = slide.std(-1) <= 0.02 * slide.mean(-1)
    for lines in (blank.all(1), blank.all(0)):
        assert lines[0] and lines[-1]
        used = np.flatnonzero(~lines)
        assert lines[used[0] : used[-1]].any()


def test_tissue(slide):
    ratio = slide.std(-1) / slide.mean(-1)
    assert 0.3 < (ratio > 0.02).mean() < 0.5
    assert (ratio > 0.35).mean() > 0.08
    assert ((ratio > 0.06) & (ratio < 0.2)).mean() > 0.05


def test_dense_tiles_have_contrast(tmp_path):
    pixels = read(sample_slide(tmp_path / "a.tif", (5120, 5120)))
    tiles = pixels.reshape(20, 256, 20, 256, 3).transpose(0, 2, 1, 3, 4).reshape(20, 20, -1)
    ratio = tiles.std(-1) / tiles.mean(-1)
    inside = tiles.mean(-1) < 140
    assert inside.mean() > 0.05
    assert ratio[inside].min() > 0.35


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (0, 5)},
        {"shape": (5.0, 5)},
        {"shape": 5},
        {"shape": (10**6, 10**6)},
        {"tile": 100},
        {"tile": 0},
        {"compression": "gif"},
        {"quality": 0},
        {"quality": 101},
        {"mpp": 0},
        {"seed": -1},
    ],
)
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(SlideArgumentError, match=r"x\.tif: .+; (take|give) ") as caught:
        sample_slide(tmp_path / "x.tif", **{"shape": (64, 64), **wrong})
    assert "\n" not in str(caught.value)
    assert not os.listdir(tmp_path)


def test_paths(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    with pytest.raises(SlideNotFoundError, match="does not exist"):
        sample_slide(tmp_path / "no" / "x.tif", (64, 64))
    path.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="overwrite"):
        sample_slide(path, (64, 64))
    with pytest.raises(OutputExistsError):
        sample_slide(tmp_path, (64, 64), overwrite=True)
    assert path.read_bytes() == b"mine"
    sample_slide(path, (64, 64), overwrite=True)
    monkeypatch.chdir(tmp_path)
    assert sample_slide("y.tif", (64, 64)) == "y.tif"
    assert Path("y.tif").read_bytes() == path.read_bytes()


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("dask_slides.sample._Canvas.render", fail)
    with pytest.raises(OSError, match="no space"):
        sample_slide(tmp_path / "x.tif", (64, 64))
    assert not os.listdir(tmp_path)
