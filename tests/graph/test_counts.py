"""Count decoded tiles, read bytes, opened files, tasks and allocated arrays per operation.

benchmarks/ measures times. Counts are exact on one thread, so these tests fail if a tile is decoded
twice, or if a file is opened or an array allocated per tile.
"""

import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import dask
import numpy as np
import oracle
import pytest
import tifffile

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tiff import file as tiff_file
from dask_slides.readers.tiff import opening
from dask_slides.readers.tile_cache import TILE_CACHE
from dask_slides.writers import pyramid

SIDE, TILE = 4096, 256
TILES = (SIDE // TILE) ** 2
LARGE = 2**17
"""Bytes from which an array is counted."""


@dataclass
class Counts:
    decoded: Counter = field(default_factory=Counter)
    """Number of decodes by (tile number, factor)."""
    nbytes: int = 0
    reads: int = 0
    opened: int = 0
    arrays: int = 0

    def at(self, factor):
        return {number: n for (number, f), n in self.decoded.items() if f == factor}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return ds.sample_slide(
        tmp_path_factory.mktemp("gates") / "flat.tif", shape=(SIDE, SIDE), tile=TILE
    )


@pytest.fixture(scope="module")
def file_bytes(path):
    return os.path.getsize(path)


@pytest.fixture
def counting(monkeypatch):
    """Count inside a block, on one thread, with no file open before."""

    @contextmanager
    def block():
        counts = Counts()
        TILE_CACHE.clear()
        tiff_file.opened.cache_clear()
        decoded, pread = TileDecoder.__call__, os.pread
        open_file, empty = tiff_file.tiff_file, np.empty

        def count_decode(self, number, data, factor, into=None):
            counts.decoded[number, factor] += 1
            return decoded(self, number, data, factor, into)

        def count_read(file, count, offset):
            counts.reads += 1
            counts.nbytes += count
            return pread(file, count, offset)

        def count_open(*args, **options):
            counts.opened += 1
            return open_file(*args, **options)

        def count_empty(*args, **kwargs):
            array = empty(*args, **kwargs)
            counts.arrays += array.nbytes >= LARGE
            return array

        with monkeypatch.context() as patch, dask.config.set(scheduler="sync"):
            patch.setattr(TileDecoder, "__call__", count_decode)
            patch.setattr(os, "pread", count_read)
            for module in (opening, tiff_file):
                patch.setattr(module, "tiff_file", count_open)
            patch.setattr(np, "empty", count_empty)
            yield counts
        tiff_file.opened.cache_clear()

    return block


def check(counts, factor, expected, file_bytes, arrays):
    """Check that `expected` tiles were decoded at `factor`, each once, in few reads and arrays."""
    found = counts.at(factor)
    assert set(counts.decoded) == {(number, factor) for number in found}
    assert len(found) == expected
    assert set(found.values()) <= {1}
    assert counts.nbytes <= 1.02 * file_bytes  # one more tile, to check the decoder
    assert counts.opened == 1  # for its metadata and its pixels
    assert counts.arrays <= arrays


def test_a_resize_decodes_each_tile_once_and_reduced(path, counting, file_bytes):
    with counting() as counts:
        image = ds.resize(path, downsample=10).data
        assert image.npartitions == 16
        image.compute()
    check(counts, 4, TILES, file_bytes, arrays=60)
    assert counts.reads <= 90


def test_a_resize_of_level_0_decodes_only_its_margins_again(path, counting):
    with counting() as counts:
        ds.resize(path, downsample=10, gap=None).data.compute()
    found = counts.at(1)
    # 16 blocks, whose margins are too large for the cache at full size
    assert len(found) == TILES == len(counts.decoded)
    assert sum(found.values()) == 484
    assert max(found.values()) <= 4


@pytest.mark.parametrize(("downsample", "factor"), [(2, 1), (4, 2), (8, 2), (10, 4), (20, 8)])
def test_how_far_a_resize_is_reduced(path, downsample, factor):
    assert ds.resize(path, downsample=downsample).source.factor == factor
    assert ds.resize(path, downsample=downsample, gap=None).source.factor == 1
    assert ds.resize(path, downsample=downsample, kernel="nearest").source.factor == 1


def test_writing_a_resize_decodes_each_tile_once_and_clears_the_cache(path, counting, tmp_path):
    with counting() as counts:
        ds.write(ds.resize(path, downsample=4), tmp_path / "small.ome.zarr")
    found = counts.at(2)
    assert len(found) == TILES == len(counts.decoded)
    # 4 blocks of 8 x 8 tiles, and one more on two sides, which fit the cache
    assert sum(found.values()) == TILES
    assert TILE_CACHE.nbytes == 0


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_write_caches_the_tiles_of_the_next_block_below_or_above(
    path, counting, tmp_path, monkeypatch, scheduler
):
    """If not all shared tiles fit the cache, only blocks side by side decode some again."""
    reduced = (TILE // 2) ** 2 * 3
    between = 2 * (SIDE // 2 // TILE + 1)  # two rows of tiles, which two blocks share
    monkeypatch.setattr(pyramid, "CACHE_BYTES", (between + 4) * reduced)
    with counting() as counts, dask.config.set(scheduler=scheduler, num_workers=1):
        ds.write(ds.resize(path, downsample=4), tmp_path / "small.ome.zarr")
    twice = {number for number, n in counts.at(2).items() if n > 1}
    assert len(counts.decoded) == TILES
    assert {number % (SIDE // TILE) for number in twice} == {7, 8}
    assert sum(counts.decoded.values()) <= TILES + 2 * SIDE // TILE


def test_a_blank_map_decodes_each_tile_once_and_copies_none(path, counting, file_bytes):
    with counting() as counts:
        found = ds.blank_map(path, tile_size=512, detector=ds.Contrast(0.05))
        assert found.statistics.npartitions == 16
        found.compute()
    check(counts, 1, TILES, file_bytes, arrays=3)  # for decoding and for checking the decoder
    assert counts.reads <= 65


@pytest.mark.parametrize("detector", [ds.Contrast(), ds.Otsu()], ids=repr)
def test_arrays_of_a_blank_map_share_one_decode_of_each_tile(path, counting, detector):
    found = ds.blank_map(path, tile_size=512, detector=detector)
    for arrays in ([found.blank, found.unknown], [found.blank, found.unknown, found.statistics]):
        with counting() as counts:
            dask.compute(*arrays)
        assert len(counts.decoded) == TILES and set(counts.decoded.values()) == {1}


def map_with_a_gap(path, tile):
    """Return a blank map whose second row and column are blank, without reading pixels."""
    lazy = ds.blank_map(path, tile_size=tile)
    blank = np.zeros(lazy.shape, bool)
    blank[1] = blank[:, 1] = True
    return lazy.with_blank(blank)


def test_a_cutoff_decodes_only_its_tiles_once_and_reduced(path, counting):
    found = map_with_a_gap(path, 2 * TILE)
    with counting() as counts:
        cut = ds.cutoff_resize(path, downsample=10, blank_map=found)
        cut.image.data.compute()
    remaining = (SIDE // TILE - 2) ** 2
    assert len(counts.decoded) == remaining == len(counts.at(4))
    assert set(counts.decoded.values()) == {1}


@pytest.mark.parametrize(("tile", "factor"), [(500, 4), (510, 2), (501, 1)])
def test_a_cut_is_reduced_if_it_divides_no_pixel(path, tile, factor):
    cut = ds.cutoff_resize(path, downsample=10, blank_map=map_with_a_gap(path, tile))
    assert cut.layout.rows.length < SIDE
    assert cut.image.source.factor == factor


def test_a_cut_of_a_reduced_image_is_the_reduced_cut(path):
    cut = ds.cutoff_resize(path, downsample=1, blank_map=map_with_a_gap(path, 512)).image
    height, width = (n // 4 for n in cut.shape[:2])
    found = cut.source.read_reduced(0, 4, Region(0, 0, height, width))
    whole = ds.open_slide(path).source.read_reduced(0, 4, Region(0, 0, SIDE // 4, SIDE // 4))
    expected = np.delete(np.delete(whole, np.s_[128:256], axis=0), np.s_[128:256], axis=1)
    assert np.array_equal(found, expected)


def test_a_pack_decodes_only_the_dense_tiles_again(path, counting):
    with counting() as counts:
        pack = ds.pack_tiles(path, tile_size=TILE, downsample=1, detector=ds.Contrast(0.35))
        judged = counts.decoded.copy()
        pack.tiles.compute()
    assert 0 < len(pack) < TILES
    assert set(judged.values()) == {1} and len(judged) == TILES
    packed = counts.decoded - judged
    assert set(packed.values()) == {1}
    assert {number for number, _ in packed} == {
        int(y) // TILE * (SIDE // TILE) + int(x) // TILE
        for y, x in zip(pack.y, pack.x, strict=True)
    }


def test_crops_of_a_task_decode_each_tile_once(path, counting):
    crops = ds.random_crops(path, n=200, size=100, downsample=1, detector=ds.Contrast(0.35))
    assert crops.tiles.npartitions == 8
    needed = []
    for start in range(0, 200, 25):
        touched = set()
        for y, x in zip(crops.y[start : start + 25], crops.x[start : start + 25], strict=True):
            rows = range(y // TILE, (y + 99) // TILE + 1)
            touched |= {
                (row, col) for row in rows for col in range(x // TILE, (x + 99) // TILE + 1)
            }
        needed.append(len(touched))
    with counting() as counts:
        crops.tiles.compute()
    assert sum(counts.decoded.values()) == sum(needed)
    # each task is a band of the slide, so only adjacent tasks share tiles
    assert sum(needed) <= 1.5 * len(counts.decoded)


def test_a_thumbnail_of_a_pyramid_reads_one_level(tmp_path, counting):
    path = ds.sample_slide(tmp_path / "pyramid.tif", shape=(SIDE, SIDE), tile=TILE, pyramid=True)
    with counting() as counts:
        ds.open_slide(path).thumbnail(400)
    assert sum(counts.decoded.values()) == 16  # 1024 x 1024
    assert set(counts.decoded.values()) == {1}


def test_a_graph_opens_the_file_once_and_reads_no_tile(path, counting):
    with counting() as counts:
        slide = ds.open_slide(path)
        ds.resize(slide, downsample=10).data  # noqa: B018
        ds.blank_map(slide)
        slide.data  # noqa: B018
    assert (counts.opened, counts.reads, counts.arrays) == (1, 0, 0)


def test_equal_tiles_of_one_colour_are_decoded_once(tmp_path, monkeypatch):
    image = np.full((1024, 1024, 3), 240, np.uint8)
    image[256:512, 256:512] = np.random.default_rng(0).integers(0, 255, (256, 256, 3))
    image[600:, 600:] = 10
    path = tmp_path / "blank.tif"
    tifffile.imwrite(path, image, tile=(128, 128), compression="zlib", photometric="rgb")
    tile, decoded = TileDecoder._tile, []
    monkeypatch.setattr(
        TileDecoder, "_tile", lambda self, n, d, i=None: (decoded.append(n), tile(self, n, d, i))[1]
    )
    with dask.config.set(scheduler="sync"):
        slide = ds.open_slide(path)
        assert np.array_equal(slide.data.compute(), image)
        # 4 of noise, 7 at the edges of the dark part, and one per colour
        assert len(decoded) == 4 + 7 + 2
        found = ds.blank_map(slide, tile_size=100, detector=ds.Contrast(0.05)).compute()
    assert len(decoded) == 2 * (4 + 7) + 2
    assert np.array_equal(found.blank, oracle.contrast_blank(image, (100, 100), 0.05))
    squares = oracle.per_cell(image, (100, 100), lambda p: (p.astype(float) ** 2).sum())
    assert np.array_equal(found.stats.squares, squares)
    for factor, mean in zip((2, 4, 8), oracle.area_pyramid(image, 3), strict=True):
        region = Region(0, 0, 1024 // factor, 1024 // factor)
        assert np.array_equal(slide.source.read_reduced(0, factor, region), mean)


QUALITY = [(4, 2), (5.5, 2), (8, 2), (10, 4), (16.5, 4), (20, 8), (33.2, 8)]


@pytest.mark.parametrize(("downsample", "factor"), QUALITY)
def test_reduced_decoding_loses_no_visible_quality(path, downsample, factor):
    slide = ds.open_slide(path)
    small = ds.resize(slide, downsample=downsample)
    assert small.source.factor == factor
    expected = oracle.pillow_resize(slide.read(0, 0, SIDE, SIDE), small.shape[:2], "lanczos")
    assert oracle.psnr(small.data.compute(), expected) >= 48


@pytest.mark.parametrize("downsample", [4, 5.5, 8, 10, 16.5, 20, 33.2])
def test_reduced_decoding_of_a_real_slide_loses_no_visible_quality(real_slide, downsample):
    slide = ds.open_slide(real_slide)
    small = ds.resize(slide, downsample=downsample)
    assert small.source.factor > 1
    expected = oracle.pillow_resize(slide.read(0, 0, *slide.shape[:2]), small.shape[:2], "lanczos")
    assert oracle.psnr(small.data.compute(), expected) >= 48
