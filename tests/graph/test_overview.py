"""The picture in which tissue is found: its size, where it is read from, and missing pixels."""

import math

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from rw_fixtures import noise, smooth

import dask_slides as ds
from dask_slides.graph.overview import (
    NO_VALUE,
    NOT_THERE,
    VALUE,
    overview_blocks,
    overview_shape,
    overview_source,
)

SIDES = st.integers(1, 300_000)


@given(SIDES, SIDES, st.floats(0.05, 8), st.floats(0.5, 2))
def test_a_pixel_has_the_target_size_unless_the_picture_would_be_small(height, width, mpp, ratio):
    own = mpp, min(8.0, mpp * ratio)
    found = overview_shape((height, width), own, 8.0)
    at_target = [
        max(1, math.floor(n * m / 8 + 0.5)) for n, m in zip((height, width), own, strict=True)
    ]
    if max(at_target) >= 1024:
        assert np.abs(np.subtract(found, at_target)).max() <= 1
    else:  # finer, with square pixels if they can be, and never finer than the slide
        assert max(found) <= 1025
        assert max(found) >= min(1023, max(at_target)) and max(found) <= max(height, width)
        assert all(a <= n for a, n in zip(found, (height, width), strict=True))


@pytest.mark.parametrize(
    ("shape", "mpp", "expected"),
    [
        ((100_000, 80_000), (0.25, 0.25), (3125, 2500)),
        ((100_000, 80_000), (0.25, 0.5), (3125, 5000)),
        ((10_000, 8_000), (0.25, 0.25), (1024, 819)),  # 313 x 250 at 8 µm
        ((900, 700), (0.25, 0.25), (900, 700)),
        ((300_000, 30_000), (0.5, 0.5), (18_750, 1875)),  # a strip of tissue may be long
        ((100_000, 80_000), None, (4096, 3277)),
        ((20_000, 10_000), None, (1250, 625)),  # of 0.5 µm
        ((2_000, 1_000), None, (1024, 512)),
        ((40_000, 20_000), (1e7, 1e7), (4096, 2048)),  # a satellite
        ((3_000, 2_000), (50.0, 50.0), (3000, 2000)),
    ],
)
def test_sizes_of_pictures(shape, mpp, expected):
    assert overview_shape(shape, mpp, 8.0) == expected


def test_the_cheapest_level_or_reduced_decode_is_read(tmp_path):
    """A level within a factor of 1.4 is read as it is; else the slide is resized."""
    pixels = smooth(2048, 2048)
    options = {"tile": (128, 128), "photometric": "rgb"}
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, subifds=2, compression="jpeg", **options)
        for step in (4, 16):
            small = pixels[::step, ::step]
            tiff.write(small, subfiletype=1, compression="jpeg", **options)
    slide = ds.open_slide(path)
    for mpp, operations, shape in (
        ((4.0, 4.0), "level 0 decoded at 1/2", 1024),
        ((8.0, 8.0), None, 2048),
        ((0.01, 0.01), "level 0 decoded at 1/2", 1024),
    ):
        found = overview_source(slide.source, mpp, 8.0)
        assert (found.operation if operations else None) == operations
        assert (found is slide.source) == (operations is None)
        assert found.levels[0].shape == (shape, shape)
    zlib = tmp_path / "b.tif"
    tifffile.imwrite(zlib, noise(2000, 1500), rowsperstrip=16)
    found = overview_source(ds.open_slide(zlib).source, None, 8.0)
    assert found.operation.startswith("resized") and found.levels[0].shape == (1024, 768)


def test_pixels_without_a_value_are_told_from_absent_ones(tmp_path):
    """Row 0 of tiles is whole, row 1 nodata, row 2 absent; a mask page hides half of row 3."""
    pixels = noise(256, 256, dtype="uint8")
    pixels[pixels == 7] = 8
    pixels[64:128] = 7
    path = tmp_path / "a.tif"
    options = {"tile": (64, 64), "photometric": "minisblack", "compression": "zlib"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, extratags=[(42113, "s", 0, "7", True)], **options)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        counts, starts = list(tag.value), tiff.pages[0].tags["TileOffsets"]
        offsets = list(starts.value)
        counts[8:12] = offsets[8:12] = [0] * 4
        tag.overwrite(counts)
        starts.overwrite(offsets)
    slide = ds.open_slide(path)
    found = np.moveaxis(np.asarray(overview_blocks(overview_source(slide.source, None, 8.0))), 0, 2)
    assert found.shape == (256, 256, 2)
    state = found[..., 1]
    assert (state[:64] == VALUE).all() and (state[192:] == VALUE).all()
    assert (state[64:128] == NO_VALUE).all() and (state[128:192] == NOT_THERE).all()
    assert np.array_equal(found[:64, :, 0], pixels[:64])
    areas = ds.blank_map(slide, tile_size=64).compute().areas
    assert areas[..., 1].tolist() == [[0] * 4, [0] * 4, [64 * 64] * 4, [0] * 4]


@pytest.mark.parametrize("compression", ["jpeg", "zstd"])
def test_gutters_between_islands_have_no_value(tmp_path, compression):
    """Also where a picture is decoded reduced, or is a stored level."""
    path = tmp_path / "a.tif"
    side, cell = 2048, 256
    tifffile.imwrite(path, smooth(side, side), photometric="rgb", tile=(256, 256),
                     compression=compression)  # fmt: skip
    blank = np.ones((side // cell, side // cell), bool)
    blank[:2, :2] = blank[5:, 4] = blank[1:3, 6:] = False
    slide = ds.open_slide(path, mpp=2)
    given = ds.blank_map(slide, tile_size=cell).with_blank(blank)
    image = ds.cutoff_resize(slide, downsample=1, blank_map=given, layout="islands").image
    source = overview_source(image.source, (2.0, 2.0), 4.0)
    state = np.asarray(overview_blocks(source))[-1]
    assert (state == VALUE).mean() < 1
    # one pixel of the picture may hold an edge
    tissue = (~blank).sum() * cell * cell / (image.shape[0] * image.shape[1])
    assert (state == VALUE).mean() == pytest.approx(tissue, abs=0.02)


def test_masked_pixels_have_no_value(tmp_path):
    pixels, mask = noise(256, 256, 3), np.zeros((256, 256), bool)
    mask[:, 100:] = True
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, photometric="rgb", tile=(64, 64), compression="zlib")
        tiff.write(mask, subfiletype=4, photometric="mask", tile=(64, 64), compression="zlib")
    slide = ds.open_slide(path)
    assert slide.source.masked
    found = np.moveaxis(np.asarray(overview_blocks(overview_source(slide.source, None, 8.0))), 0, 2)
    assert np.array_equal(found[..., 3] == VALUE, mask)
    assert not (found[..., 3] == NOT_THERE).any()
