"""Tasks that read many regions decode each tile, strip or chunk only once."""

from collections import Counter

import dask
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.core.source import Level, Source
from dask_slides.graph import batch_read
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tiff import file as tiff_file
from dask_slides.readers.tiff.source import TiffSource

EVERYTHING = ds.Contrast(0)
PIXELS = np.random.default_rng(5).integers(0, 255, (300, 520, 3)).astype(np.uint8)
PLANES = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))

TIFFS = {
    "strips": {"rowsperstrip": 16, "compression": "zlib", "photometric": "rgb"},
    "strips of one row": {"rowsperstrip": 1, "compression": "lzw", "photometric": "rgb"},
    "one strip": {"rowsperstrip": 300, "compression": "zlib", "photometric": "rgb"},
    "planes": {
        "rowsperstrip": 16, "compression": "zlib", "photometric": "rgb", "planarconfig": "separate"
    },
    "planes of tiles": {
        "tile": (128, 128), "compression": "zlib", "photometric": "rgb", "planarconfig": "separate"
    },
}  # fmt: skip


def written(folder, name):
    path = folder / f"{name}.tif"
    options = TIFFS[name]
    planes = options.get("planarconfig") == "separate"
    tifffile.imwrite(path, PLANES if planes else PIXELS, **options)
    return path


def stored(folder, chunks):
    """Write PIXELS as OME-Zarr in chunks (c, y, x)."""
    path = folder / "chunks.ome.zarr"
    group = zarr.create_group(path, zarr_format=3)
    array = group.create_array("0", shape=PLANES.shape, chunks=chunks, dtype="u1")
    array[...] = PLANES
    scale = {"type": "scale", "scale": [1, 1, 1]}
    dataset = {"path": "0", "coordinateTransformations": [scale]}
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}]}
    return path


@pytest.fixture
def decodes(monkeypatch):
    """Count the decodes of each tile or strip of a file, or the reads of each chunk of a store."""
    tiff_file.opened.cache_clear()
    counts = Counter()
    once, strict, get = TileDecoder._tile, tiff_file.strict_decode, zarr.storage.LocalStore.get

    def tile(self, number, data, into=None):
        counts[number] += 1
        return once(self, number, data, into)

    def of_page(page):
        decode = strict(page)

        def counted(data, number, **options):
            counts[number] += 1
            return decode(data, number, **options)

        return counted

    async def chunk(self, key, *args, **kwargs):
        if "/c/" in key:
            counts[key] += 1
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(TileDecoder, "_tile", tile)
    monkeypatch.setattr(tiff_file, "strict_decode", of_page)
    monkeypatch.setattr(zarr.storage.LocalStore, "get", chunk)
    yield counts
    tiff_file.opened.cache_clear()


def slices(yx, tile):
    return np.stack([PIXELS[y : y + tile, x : x + tile] for y, x in yx])


@pytest.mark.parametrize("name", [*TIFFS, "chunks"])
def test_a_task_of_a_pack_decodes_each_tile_once(tmp_path, decodes, sync, name):
    path = stored(tmp_path, (1, 200, 200)) if name == "chunks" else written(tmp_path, name)
    pack = ds.pack_tiles(path, tile_size=32, stride=24, detector=EVERYTHING)
    assert len(pack) == 12 * 21
    for number in range(pack.tiles.numblocks[0]):
        decodes.clear()
        block = pack.tiles.blocks[number].compute()
        assert len(block) > 1
        assert decodes and set(decodes.values()) == {1}
    expected = slices(zip(pack.y, pack.x, strict=True), 32)
    assert np.array_equal(pack.tiles.compute(), expected)
    assert np.array_equal(pack[3:200], expected[3:200])


@pytest.mark.parametrize("name", ["strips", "planes", "chunks"])
def test_only_strips_that_a_tile_touches_are_decoded(tmp_path, decodes, sync, name):
    path = stored(tmp_path, (3, 50, 50)) if name == "chunks" else written(tmp_path, name)
    reader = ds.pack_tiles(path, tile_size=20, detector=EVERYTHING).reader
    decodes.clear()
    # the tiles at the left and right of rows 0 and 240: strips 0, 1 and 15, 16
    numbers = np.array([0, 25, 26 * 12, 26 * 12 + 25])
    out = np.zeros((4, 20, 20, 3), np.uint8)
    reader.read(numbers, list(out))
    corners = [(0, 0), (0, 500), (240, 0), (240, 500)]
    assert np.array_equal(out, slices(corners, 20))
    if name == "chunks":
        expected = {f"0/c/0/{row}/{column}" for row in (0, 4, 5) for column in (0, 10)}
    else:
        expected = {0, 1, 15, 16}
        if name == "planes":  # 19 strips each
            expected = {number + 19 * plane for number in expected for plane in range(3)}
    assert dict(decodes) == dict.fromkeys(expected, 1)


@pytest.mark.parametrize("name", ["strips", "strips of one row", "planes", "chunks"])
def test_a_pack_of_a_resized_slide_decodes_a_row_of_tiles_at_once(tmp_path, decodes, sync, name):
    path = stored(tmp_path, (1, 300, 520)) if name == "chunks" else written(tmp_path, name)
    slide = ds.open_slide(path)
    pack = ds.pack_tiles(slide, tile_size=25, downsample=2, detector=EVERYTHING)
    assert len(pack) == 6 * 10
    decodes.clear()
    found = pack.reader(0, 10)
    assert decodes and set(decodes.values()) == {1}
    small = ds.resize(slide, downsample=2).data.compute()
    assert np.array_equal(found, [small[:25, x : x + 25] for x in range(0, 250, 25)])


def test_crops_share_decoded_strips(tmp_path, decodes, sync):
    crops = ds.random_crops(written(tmp_path, "strips"), n=200, size=16, detector=EVERYTHING)
    for number in range(crops.tiles.numblocks[0]):
        decodes.clear()
        assert len(crops.tiles.blocks[number].compute()) > 1
        assert set(decodes.values()) == {1}
    assert np.array_equal(crops.tiles.compute(), slices(zip(crops.y, crops.x, strict=True), 16))


def test_pieces_of_a_cut_slide_share_strips(tmp_path, decodes, sync):
    pixels = PIXELS.copy()
    pixels[:, 100:200] = pixels[:, 300:400] = 255
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", rowsperstrip=16)
    cut = ds.cutoff_resize(path, downsample=1, tile_size=100, detector=ds.Contrast(0.05)).image
    assert cut.shape == (300, 320, 3)
    decodes.clear()
    expected = np.concatenate((pixels[:, :100], pixels[:, 200:300], pixels[:, 400:]), axis=1)
    assert np.array_equal(cut.read(0, 0, 300, 320), expected)
    assert dict(decodes) == dict.fromkeys(range(19), 1)


@pytest.mark.parametrize("name", ["strips", "strips of one row"])
def test_a_blank_map_and_an_array_decode_strips_once(tmp_path, decodes, name):
    slide = ds.open_slide(written(tmp_path, name))
    once = dict.fromkeys(range(-(-300 // TIFFS[name]["rowsperstrip"])), 1)
    with dask.config.set(scheduler="sync"):
        # cells of whole strips, many per row
        ds.blank_map(slide, tile_size=32, detector=ds.Contrast(0.05)).compute()
        assert dict(decodes) == once
        decodes.clear()
        assert np.array_equal(slide.data.compute(), PIXELS)
        assert dict(decodes) == once


def test_memory_mapped_files_are_read_region_by_region(tmp_path, monkeypatch, sync):
    path = tmp_path / "mapped.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", rowsperstrip=300)
    pack = ds.pack_tiles(path, tile_size=20, detector=EVERYTHING)
    read, reads = TiffSource.read, []
    monkeypatch.setattr(
        TiffSource, "read", lambda self, n, region: (reads.append(region), read(self, n, region))[1]
    )
    assert np.array_equal(pack[[0, 25]], slices([(0, 0), (0, 500)], 20))
    assert sorted(region.x for region in reads) == [0, 500]
    assert {region.area for region in reads} == {20 * 20}


class Whole(Source):
    """A source of PIXELS in tiles of any size, which records the regions that are read."""

    name, channels, dtype = "whole", 3, np.dtype(np.uint8)

    def __init__(self, tile):
        self.levels = (Level(PIXELS.shape[:2], (1.0, 1.0), tile),)
        self.reads = []

    def read(self, level, region):
        self.reads.append(region)
        return PIXELS[region.slices()]


corners = st.tuples(st.integers(0, 299), st.integers(0, 519))
sides = st.tuples(st.integers(1, 60), st.integers(1, 60))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(corners, sides), min_size=1, max_size=12),
    st.tuples(st.integers(1, 300), st.integers(1, 520)),
    st.integers(1, 40_000),
)
def test_regions_are_read_in_bounded_pieces_for_any_tile_size(rectangles, tile, most):
    image = Region(0, 0, *PIXELS.shape[:2])
    regions = [Region(*corner, *side).intersect(image) for corner, side in rectangles]
    source = Whole(tile)
    out = [np.zeros((r.height, r.width, 3), np.uint8) for r in regions]
    batch_read.read_each(source, 0, regions, out, most)
    for region, pixels in zip(regions, out, strict=True):
        assert np.array_equal(pixels, PIXELS[region.slices()])
    if len(regions) == 1:
        return
    assert max(region.area for region in source.reads) <= max(most, tile[0] * tile[1])
    touched = Counter()
    for region in source.reads:
        for row in range(region.y // tile[0], -(-region.stop_y // tile[0])):
            for column in range(region.x // tile[1], -(-region.stop_x // tile[1])):
                touched[row, column] += 1
    assert set(touched.values()) == {1}
