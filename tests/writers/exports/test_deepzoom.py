"""Deep Zoom images, read back by the published schema and compared with libvips."""

import xml.etree.ElementTree as ET
from collections import Counter
from itertools import pairwise

import dask
import numpy as np
import oracle
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dask_slides as ds
from dask_slides.errors import (
    OutputExistsError,
    SlideArgumentError,
    SlideMemoryError,
)
from dask_slides.writers.exports import deepzoom
from dask_slides.writers.exports.deepzoom import Grid, plan_stages

SCHEMA = "{http://schemas.microsoft.com/deepzoom/2008}"


def described(path):
    """Return tile size, overlap, format, height and width of a .dzi file."""
    root = ET.parse(path).getroot()
    assert root.tag == f"{SCHEMA}Image"
    size = root.find(f"{SCHEMA}Size").attrib
    numbers = (root.attrib["TileSize"], root.attrib["Overlap"], size["Height"], size["Width"])
    return root.attrib["Format"], *map(int, numbers)


def read_levels(path):
    """Return the levels from 1 x 1 px to the full one. Overlaps must be equal in both tiles."""
    suffix, tile, overlap, height, width = described(path)
    folder = path.with_name(f"{path.stem}_files")
    top = int(np.ceil(np.log2(max(height, width))))
    assert {int(one.name) for one in folder.iterdir()} == set(range(top + 1))
    levels = []
    for level in range(top + 1):
        h, w = (-(-n // 2 ** (top - level)) for n in (height, width))
        files = {one.name for one in (folder / str(level)).iterdir()}
        image = None
        for row, y in enumerate(range(0, h, tile)):
            for col, x in enumerate(range(0, w, tile)):
                name = f"{col}_{row}.{suffix}"
                files.remove(name)
                pixels = np.asarray(Image.open(folder / str(level) / name))
                pixels = pixels.reshape(*pixels.shape[:2], -1)
                if image is None:
                    image = np.full((h, w, pixels.shape[2]), -1, np.int64)
                top_y, left_x = max(0, y - overlap), max(0, x - overlap)
                stop_y, stop_x = min(h, y + tile + overlap), min(w, x + tile + overlap)
                seen = image[top_y:stop_y, left_x:stop_x]
                assert seen.shape == pixels.shape
                assert ((seen == -1) | (seen == pixels)).all() or suffix == "jpg"
                seen[...] = pixels
        assert not files and (image >= 0).all()
        levels.append(image)
    return levels


def size_of(path):
    with Image.open(path) as image:
        return image.size


def random_image(height, width, channels=3, dtype="uint8"):
    rng = np.random.default_rng(height)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype)


def assert_exact(levels, image):
    expected = [image, *oracle.area_pyramid(image, len(levels) - 1)]
    for level, wanted in zip(reversed(levels), expected, strict=True):
        assert np.array_equal(level, wanted)


@pytest.mark.parametrize("shape", [(1, 1), (3, 513), (254, 255), (1300, 777), (509, 2100)])
def test_all_levels_are_the_exact_area_means(tmp_path, shape):
    image = random_image(*shape)
    path = tmp_path / "x.dzi"
    assert ds.export(ds.from_dask(image), path, image="png") == str(path)
    assert described(path) == ("png", 254, 1, *shape)
    levels = read_levels(path)
    assert levels[0].shape == (1, 1, 3)
    assert_exact(levels, image)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.dzi", "x_files"]


@given(
    st.integers(1, 700), st.integers(1, 700), st.sampled_from([(32, 0), (32, 5), (33, 16)]),
    st.integers(50, 800),
)  # fmt: skip
def test_other_tiles_overlaps_and_chunks(tmp_path_factory, height, width, tiles, chunk):
    image = random_image(height, width, 1, "uint16")
    slide = ds.from_dask(dask.array.from_array(image, chunks=(chunk, chunk, 1)))
    path = tmp_path_factory.mktemp("dz") / "x.dzi"
    options = {"tile_size": tiles[0], "overlap": tiles[1], "image": "png"}
    with dask.config.set(scheduler="sync"):
        ds.export(slide, path, **options)
    assert_exact(read_levels(path), image)


@pytest.mark.parametrize("shape", [(1000, 777), (255, 254), (3, 513), (1, 1)])
def test_files_and_sizes_are_those_of_libvips(tmp_path, shape):
    pyvips = pytest.importorskip("pyvips")
    image = random_image(*shape)
    ds.export(ds.from_dask(image), tmp_path / "ours.dzi")
    pyvips.Image.new_from_array(image).dzsave(str(tmp_path / "vips"), suffix=".jpg")
    assert described(tmp_path / "ours.dzi") == described(tmp_path / "vips.dzi")
    ours, theirs = (
        {str(one.relative_to(folder)): size_of(one) for one in folder.rglob("*.jpg")}
        for folder in (tmp_path / "ours_files", tmp_path / "vips_files")
    )
    assert ours == theirs


def test_a_file_and_its_cutoff(tissue_tiff, tmp_path):
    ds.export(ds.open_slide(tissue_tiff), tmp_path / "slide.dzi", quality=95)
    whole = ds.open_slide(tissue_tiff).read(0, 0, 300, 420)
    assert abs(read_levels(tmp_path / "slide.dzi")[-1] - whole.astype(float)).mean() < 3
    cut = ds.cutoff_resize(tissue_tiff, downsample=1, tile_size=50, detector=ds.Contrast(0.05))
    ds.export(cut, tmp_path / "cut.dzi", image="png")
    assert np.array_equal(read_levels(tmp_path / "cut.dzi")[-1], cut.image.data.compute())


def test_memory_limits_the_blocks_and_not_the_pixels(tmp_path, sync):
    image = random_image(2100, 1100)
    slide = ds.from_dask(dask.array.from_array(image, chunks=500))
    with dask.config.set({"dask-slides.memory": "12MB"}):
        ds.export(slide, tmp_path / "x.dzi", image="png")
    assert_exact(read_levels(tmp_path / "x.dzi"), image)
    with (
        dask.config.set({"dask-slides.memory": "1MB"}),
        pytest.raises(SlideMemoryError, match="a task needs"),
    ):
        ds.export(slide, tmp_path / "y.dzi")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.dzi", "x_files"]


def test_a_plan_of_a_huge_image_writes_each_level_once():
    grid = Grid((1_000_000, 700_000), 254, 1)
    stages = plan_stages(grid, 4)
    assert [number for stage in stages for number in stage.levels] == list(range(21))
    assert grid.top == 20 and grid.size(20) == (1, 1)
    for stage, following in pairwise(stages):
        assert following.base == stage.levels[-1]
    assert max(stages[-1].block) <= 4064


def test_only_tiles_at_the_edges_of_blocks_are_decoded_again(
    noise_tiff, tmp_path, decodes, monkeypatch
):
    slide = ds.open_slide(noise_tiff)
    decodes.clear()
    ds.export(slide, tmp_path / "x.dzi")
    assert len(decodes) == 64 and set(decodes.values()) == {1}
    decodes.clear()
    for name in ("LARGEST_SIDE", "SMALL_SIDE"):
        monkeypatch.setattr(deepzoom, name, 512)
    ds.export(slide, tmp_path / "y.dzi", image="png")
    # blocks of 2 x 254 px with a margin of 2 px
    windows = [(max(0, n - 2), min(1024, n + 510)) for n in range(0, 1024, 508)]
    times = [sum(a < n + 128 and n < b for a, b in windows) for n in range(0, 1024, 128)]
    assert decodes == Counter(
        {row * 8 + col: times[row] * times[col] for row in range(8) for col in range(8)}
    )
    assert_exact(read_levels(tmp_path / "y.dzi"), slide.read(0, 0, 1024, 1024))


def test_strips_are_read_across_the_whole_image(tmp_path, decodes):
    image = np.repeat(random_image(500, 3000), 10, axis=0)
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, image, rowsperstrip=20, compression="zlib", photometric="rgb")
    slide = ds.open_slide(path)
    decodes.clear()
    ds.export(slide, tmp_path / "x.dzi")
    assert len(decodes) == 250
    assert sum(decodes.values()) <= 250 + 2 * 2  # margins of two edges between blocks


def test_a_cluster_writes_the_same_files(noise_tiff, tmp_path, client):
    slide = ds.open_slide(noise_tiff)
    ds.export(slide, tmp_path / "a.dzi", tile_size=128)
    with dask.config.set(scheduler="sync"):
        ds.export(slide, tmp_path / "b.dzi", tile_size=128)
    a, b = (
        {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*.jpg")}
        for folder in (tmp_path / "a_files", tmp_path / "b_files")
    )
    assert a == b and len(a) > 64


def test_a_failed_export_leaves_nothing(tmp_path, sync, monkeypatch):
    def fail(self, pixels):
        raise OSError("no")

    monkeypatch.setattr(deepzoom.Encoder, "__call__", fail)
    with pytest.raises(OSError, match="no"):
        ds.export(ds.from_dask(random_image(300, 300)), tmp_path / "x.dzi")
    assert list(tmp_path.iterdir()) == []


def test_tiles_that_exist_stay(tmp_path):
    slide = ds.from_dask(random_image(10, 10))
    (tmp_path / "x_files").mkdir()
    ds.export(slide, tmp_path / "x.dzi")
    with pytest.raises(OutputExistsError, match=r"x\.dzi: already exists"):
        ds.export(slide, tmp_path / "x.dzi")
    with pytest.raises(OutputExistsError, match="x_files: is not empty"):
        ds.export(slide, tmp_path / "x.dzi", overwrite=True)
    assert read_levels(tmp_path / "x.dzi")[-1].shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.zip", {"to": "deepzoom"}, "the name of a Deep Zoom image is NAME.dzi"),
        ("x.dzi", {"tile_size": 8}, "tile_size from 32 to 2048"),
        ("x.dzi", {"overlap": 200}, "an overlap from 0 to half of it"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, name, options, message):
    with pytest.raises(SlideArgumentError, match=message):
        ds.export(ds.from_dask(random_image(10, 10)), tmp_path / name, **options)
    with pytest.raises(SlideArgumentError, match="holds 8-bit grey or RGB"):
        ds.export(ds.from_dask(random_image(10, 10, 5)), tmp_path / "x.dzi")
    assert list(tmp_path.iterdir()) == []
