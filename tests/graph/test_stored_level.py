"""A stored level as an image: its pixels, its place on the slide, its holes and its reductions."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from rw_fixtures import smooth, sparse_tiff

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.core.source import placement_of
from dask_slides.graph.stored_level import LevelSource, ReducedLevelSource

SHAPE = 768, 1024
"""Of `pyramid`, whose levels have 1/2, 1/4 and 1/8 of it."""


@st.composite
def regions(draw, shape):
    y, x = (draw(st.integers(0, n - 1)) for n in shape)
    height, width = (draw(st.integers(1, n - at)) for n, at in zip(shape, (y, x), strict=True))
    return Region(y, x, height, width)


@given(st.data(), st.integers(0, 3))
def test_pixels_are_those_of_the_level(pyramid, data, number):
    slide = ds.open_slide(pyramid)
    source = LevelSource(slide.source, number)
    assert [level.shape for level in source.levels] == [
        level.shape for level in slide.levels[number:]
    ]
    assert [level.downsample for level in source.levels] == [
        (2.0**n, 2.0**n) for n in range(4 - number)
    ]
    level = data.draw(st.integers(0, 3 - number))
    region = data.draw(regions(source.levels[level].shape))
    scale = 2 ** (number + level)
    expected = slide.read(
        region.y * scale, region.x * scale, region.height, region.width, level=number + level
    )
    assert np.array_equal(source.read(level, region), expected)
    pixels, valid = source.read_valid(level, region)
    assert np.array_equal(pixels, expected) and valid is None


@pytest.mark.parametrize("number", [1, 2])
def test_a_level_lies_on_the_whole_slide(pyramid, number):
    source = LevelSource(ds.open_slide(pyramid).source, number)
    corners = np.array([[0, 0], source.levels[0].shape])
    placement = placement_of(source)
    assert np.array_equal(corners * placement.scale, [[0, 0], SHAPE])


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    """Write an image of 513 x 1000 px and a level of half the size, as JPEG tiles."""
    path = tmp_path_factory.mktemp("jpeg") / "a.tif"
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "jpeg"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(smooth(513, 1000), subifds=1, **options)
        tiff.write(smooth(1026, 2000)[::4, ::4], subfiletype=1, **options)
    return ds.open_slide(path)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_reduced_level_has_the_reduced_pixels(jpeg, number, factor):
    level = LevelSource(jpeg.source, number)
    assert level.reductions(0) == jpeg.source.reductions(number) == (2, 4, 8)
    assert level.coarseness(0) == jpeg.source.coarseness(number)
    source = ReducedLevelSource(jpeg.source, number, factor)
    shape = tuple(-(-n // factor) for n in jpeg.levels[number].shape)
    assert [level.shape for level in source.levels] == [shape]
    for region in (Region(0, 0, *shape), Region(3, 5, 20, 30), Region(shape[0] - 1, 0, 1, 9)):
        expected = jpeg.source.read_reduced(number, factor, region)
        assert np.array_equal(source.read(0, region), expected)
        assert np.array_equal(level.read_reduced(0, factor, region), expected)
    # the mean of the pixels of the level, as far as JPEG keeps it
    whole = jpeg.source.read(number, Region(0, 0, *jpeg.levels[number].shape)).astype(float)
    height, width = (n // factor for n in whole.shape[:2])
    blocks = whole[: height * factor, : width * factor]
    mean = blocks.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    found = source.read(0, Region(0, 0, height, width)).astype(float)
    assert np.abs(found - mean).mean() < 2


def test_holes_are_those_of_the_level(tmp_path):
    path = sparse_tiff(tmp_path / "a.tif", shape=(300, 400), tile=64)
    slide = ds.open_slide(path)
    region = Region(10, 20, 200, 300)
    found = LevelSource(slide.source, 0).holes(0, region)
    assert found == slide.source.holes(0, region) and found
    reduced = ReducedLevelSource(slide.source, 0, 8).holes(0, Region(0, 0, 38, 50))
    covered = np.zeros((38, 50), bool)
    for hole in reduced:
        covered[hole.region.slices()] = True
    assert covered.all()


def test_packs_of_a_stored_level_read_its_bytes(pyramid):
    """At twice the pixel size of the slide the level of half the size is read as it is."""
    slide = ds.open_slide(pyramid, mpp=0.25)
    blank = ds.blank_map(slide, tile_size=64).with_blank(np.zeros((1, 1), bool))
    for mpp in (None, 0.5, 0.51):
        pack = ds.pack_tiles(slide, tile_size=128, mpp=mpp, blank_map=blank)
        assert pack.attributes["read_from"].startswith("level 1")
        assert len(pack) == 3 * 4 and pack.mpp == 0.5
        for tile, y, x in zip(np.asarray(pack.tiles), pack.y, pack.x, strict=True):
            assert np.array_equal(tile, slide.read(y, x, 128, 128, level=1))
    resized = ds.pack_tiles(slide, tile_size=128, mpp=0.54, blank_map=blank)
    assert not resized.attributes["read_from"].startswith("level 1") and resized.mpp != 0.5
