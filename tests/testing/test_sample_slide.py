import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

import dask_slides
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideNotFoundError
from dask_slides.testing.sample_slide import sample_slide
from dask_slides.testing.sampling.canvas import canvas
from dask_slides.testing.sampling.texture import textures


def read(path, level=0):
    with tifffile.TiffFile(path) as tiff:
        return tiff.series[0].levels[level].asarray()


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    return read(sample_slide(path, shape=(1920, 1920), compression="zstd"))


@pytest.fixture(scope="module")
def grid(pixels):
    """Return 40 x 40 cells of 48 x 48 pixels."""
    return pixels.reshape(40, 48, 40, 48, 3).transpose(0, 2, 1, 3, 4).reshape(40, 40, -1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "s.tif"
    return read(sample_slide(path, shape=(300, 400), compression="none"))


def test_same_arguments_give_the_same_bytes(tmp_path):
    one = sample_slide(tmp_path / "a.tif", shape=(300, 1100), tile=128, pyramid=True)
    two = sample_slide(tmp_path / "b.ome.tif", shape=(300, 1100), tile=128, pyramid=True)
    other = sample_slide(tmp_path / "c.tif", shape=(300, 1100), tile=128, pyramid=True, seed=1)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (17, 300), (259, 255)])
@pytest.mark.parametrize("tile", [16, 256, 1024])
def test_any_shape(tmp_path, shape, tile):
    path = str(tmp_path / "a.tif")
    assert sample_slide(path, shape=shape, tile=tile, mpp=0.5) == path
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
def test_compression(tmp_path, plain, compression, quality, bound):
    path = sample_slide(
        tmp_path / "b.tif", shape=(300, 400), compression=compression, quality=quality
    )
    off = np.abs(read(path).astype(int) - plain)
    assert off.max() == 0 if bound == 0 else 0 < off.mean() < bound


def test_alike_tiles_are_the_same():
    drawn = canvas((16500, 16500), 256, 0)
    alone = replace(drawn, first=np.arange(drawn.ids.size))
    uses = np.bincount(drawn.ids.ravel())
    assert len(uses) < 0.6 * drawn.ids.size
    again = np.flatnonzero(uses[drawn.ids.ravel()] > 1)
    for n in np.random.default_rng(0).choice(again, 60, replace=False):
        assert np.array_equal(drawn.render(drawn.ids.ravel()[n]), alone.render(n))


def test_blank_rows_and_columns(grid):
    blank = grid.std(-1) <= 0.02 * grid.mean(-1)
    for lines in (blank.all(1), blank.all(0)):
        assert lines[0] and lines[-1]
        used = np.flatnonzero(~lines)
        assert lines[used[0] : used[-1]].any()


def test_tissue(grid):
    ratio = grid.std(-1) / grid.mean(-1)
    assert 0.3 < (ratio > 0.02).mean() < 0.5
    assert (ratio > 0.35).mean() > 0.08
    assert ((ratio > 0.06) & (ratio < 0.2)).mean() > 0.05


def test_dense_tiles_have_contrast(pixels):
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (256, 256), (0, 1))[::128, ::128]
    means, spreads = windows.mean((2, 3, 4)), windows.std((2, 3, 4))
    dense = means < 125
    assert dense.sum() > 5
    assert (spreads[dense] / means[dense]).min() > 0.35


def test_textures_repeat_without_a_seam():
    for texture, least, most in zip(
        textures(2048), (0, 0.06, 0.38, 0.38), (0.02, 0.2, 1, 1), strict=True
    ):
        tiles = texture.reshape(8, 256, 8, 256, 3).swapaxes(1, 2).reshape(64, -1)
        ratio = tiles.std(1) / tiles.mean(1)
        assert least < ratio.min() and ratio.max() < most
        for sides in (texture, texture.swapaxes(0, 1)):
            ends = np.roll(sides, 16, 0)[:32].astype(int)
            steps = np.abs(np.diff(ends, axis=0)).mean((1, 2))
            assert steps[15] < 1.3 * steps.mean()


def test_import_is_light():
    code = (
        "import sys, types; root = types.ModuleType('dask_slides'); root.__path__ = [sys.argv[1]];"
        "sys.modules['dask_slides'] = root; import dask_slides.testing.sample_slide;"
        "print({'tifffile', 'skimage', 'scipy', 'PIL'} & set(sys.modules))"
    )
    folder = os.path.dirname(dask_slides.__file__)
    command = [sys.executable, "-c", code, folder]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "set()\n"


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
        sample_slide(tmp_path / "no" / "x.tif", shape=(64, 64))
    path.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="overwrite"):
        sample_slide(path, shape=(64, 64))
    with pytest.raises(OutputExistsError):
        sample_slide(tmp_path, shape=(64, 64), overwrite=True)
    assert path.read_bytes() == b"mine"
    sample_slide(path, shape=(64, 64), overwrite=True)
    monkeypatch.chdir(tmp_path)
    assert sample_slide("y.tif", shape=(64, 64)) == "y.tif"
    assert Path("y.tif").read_bytes() == path.read_bytes()


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("dask_slides.testing.sampling.canvas.Canvas.render", fail)
    with pytest.raises(OSError, match="no space"):
        sample_slide(tmp_path / "x.tif", shape=(64, 64))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("shape", "tile"), [((1100, 1300), 256), ((67, 16400), 96)])
def test_levels_are_area_averages(tmp_path, shape, tile):
    path = sample_slide(
        tmp_path / "a.tif", shape=shape, tile=tile, compression="zstd", pyramid=True
    )
    full = read(path).astype(float)
    with tifffile.TiffFile(path) as tiff:
        levels = [level.shape for level in tiff.series[0].levels]
    steps = [4**n for n in range(len(levels))]
    assert len(levels) == (2 if shape[0] == 1100 else 4)
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


def test_period_of_large_tiles(tmp_path):
    pixels = read(sample_slide(tmp_path / "a.tif", shape=(500, 700), tile=2064, compression="none"))
    assert pixels.shape == (500, 700, 3)
    assert pixels.min() < 60 and pixels.max() > 240
