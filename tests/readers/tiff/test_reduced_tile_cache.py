"""A resize reuses the reduced tiles of a blank map: fewer decodes, same pixels."""

import errno
import os
import shutil
from collections import Counter, namedtuple
from contextlib import contextmanager

import cohort_work as work
import dask
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from rw_fixtures import smooth

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.cohort.steps import Cutoff
from dask_slides.core.geometry import Region
from dask_slides.numerics.detectors import checked_detector
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tiff import file as tiff_file
from dask_slides.readers.tiff.reduced_tile_cache import cached_reduced_tiles
from dask_slides.readers.tile_cache import TILE_CACHE

SIDE, TILE, CELL = 2048, 256, 512
TILES = (SIDE // TILE) ** 2
STEPS = {
    "mask": {"tile_size": CELL, "detector": "contrast"},
    "resize": {"downsample": 10},
    "cutoff": {"downsample": 10, "tile_size": CELL, "detector": "contrast"},
}


@pytest.fixture(autouse=True)
def empty_caches():
    TILE_CACHE.clear()
    tiff_file.opened.cache_clear()
    yield
    tiff_file.opened.cache_clear()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Write slides whose second row of cells is glass."""
    pixels = smooth(SIDE, SIDE)
    pixels[CELL : 2 * CELL] = 240
    paths = {}
    for name in ("zlib", "jpeg"):
        paths[name] = tmp_path_factory.mktemp("slides") / f"{name}.tif"
        tifffile.imwrite(
            paths[name], pixels, photometric="rgb", tile=(TILE, TILE), compression=name
        )
    return paths


@contextmanager
def counted_decodes(monkeypatch):
    """Count the decodes by (tile number, reduction), on one thread."""
    counts, decode = Counter(), TileDecoder.__call__

    def count(self, number, data, factor, into=None):
        counts[number, factor] += 1
        return decode(self, number, data, factor, into)

    with monkeypatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(TileDecoder, "__call__", count)
        yield counts


def test_a_cohort_decodes_each_tile_once(paths, tmp_path, monkeypatch):
    with counted_decodes(monkeypatch) as counts:
        # the report would look at some tiles again
        ds.run_cohort([paths["zlib"]], job=tmp_path / "job", steps=STEPS, report=False)
    assert counts == {(number, 1): 1 for number in range(TILES)}
    alone = {}
    for step in STEPS:
        with dask.config.set(scheduler="sync"):
            folder = tmp_path / "single" / step
            ds.run_cohort([paths["zlib"]], job=folder, steps={step: STEPS[step]}, report=False)
        alone |= work.contents(folder)
    assert work.contents(tmp_path / "job") == alone


@pytest.mark.parametrize(("name", "factors"), [("zlib", [1]), ("jpeg", [1, 4])])
def test_the_cutoff_command_decodes_no_tile_twice(paths, tmp_path, monkeypatch, name, factors):
    out = tmp_path / "cut.ome.zarr"
    args = ["cutoff", str(paths[name]), str(out), "--downsample", "10", "--tile-size", str(CELL),
            "--detector", "contrast"]  # fmt: skip
    with counted_decodes(monkeypatch) as counts:
        found = CliRunner().invoke(main, [*args, "--workers", "1"])
    assert found.exit_code == 0, found.output
    assert set(counts.values()) == {1}
    assert {factor for _, factor in counts} == set(factors)
    with dask.config.set(scheduler="sync"):
        cut = ds.cutoff_resize(
            paths[name], downsample=10, tile_size=CELL, detector=ds.Contrast(0.05)
        )
        assert np.array_equal(ds.open_slide(out).data.compute(), cut.image.data.compute())


@pytest.mark.parametrize("detector", ["tissue", "contrast"])
def test_the_cutoff_command_expects_the_reads_of_a_cohort(paths, tmp_path, monkeypatch, detector):
    expected = Cutoff(downsample=10, detector=checked_detector(detector)).reductions(
        ds.open_slide(paths["zlib"], mpp=1)
    )
    found = []

    def record(source, folder, reads):
        found.append(tuple(reads))
        return cached_reduced_tiles(source, folder, reads)

    monkeypatch.setattr("dask_slides.cli.cutoff.cached_reduced_tiles", record)
    args = ["cutoff", str(paths["zlib"]), str(tmp_path / "cut.ome.zarr"), "--downsample", "10",
            "--slide-mpp", "1", "--detector", detector]  # fmt: skip
    result = CliRunner().invoke(main, [*args, "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert found == [expected] and len(expected) == 2
    assert (expected[0] == 1) == (detector == "contrast")


def read_after_full(source, folder):
    """Return level 0 at 1/4 after a read at full size with the cache."""
    with cached_reduced_tiles(source, str(folder), (1, 4)):
        assert os.listdir(folder) == []  # the file has no name
        source.read(0, Region(0, 0, SIDE, SIDE))
        return source.read_reduced(0, 4, Region(0, 0, SIDE // 4, SIDE // 4))


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("failing", [no_space, lambda handle, data, offset: len(data) - 1])
@pytest.mark.parametrize("writes", [0, 20])
def test_a_full_disk_does_not_change_pixels(paths, tmp_path, monkeypatch, failing, writes):
    source = ds.open_slide(paths["zlib"]).source
    expected = source.read_reduced(0, 4, Region(0, 0, SIDE // 4, SIDE // 4))
    pwrite, left = os.pwrite, iter(range(writes))
    monkeypatch.setattr(
        os, "pwrite", lambda *a: (failing if next(left, None) is None else pwrite)(*a)
    )
    assert np.array_equal(read_after_full(source, tmp_path), expected)


def test_nothing_is_cached_without_free_space(paths, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    source, size = ds.open_slide(paths["zlib"]).source, SIDE**2 // 16 * 3
    for free, is_cached in ((2 * size - 1, False), (2 * size, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, n=free: usage(2**40, 0, n))
        with cached_reduced_tiles(source, str(tmp_path), (1, 4)):
            assert (source.tiled_page().reduced_tiles is not None) == is_cached
        assert source.tiled_page().reduced_tiles is None


@pytest.mark.parametrize("pixels", [smooth(200, 180), np.full((200, 180), 230, np.uint8)])
@pytest.mark.parametrize("factor", [2, 8])
def test_tiles_at_the_edges_and_of_one_colour(tmp_path, monkeypatch, pixels, factor):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, tile=(64, 48), compression="zlib")
    source = ds.open_slide(path).source
    reduced = Region(0, 0, -(-200 // factor), -(-180 // factor))
    expected = source.read_reduced(0, factor, reduced)
    with cached_reduced_tiles(source, str(tmp_path), (1, factor)):
        source.read(0, Region(0, 0, 200, 180))
        with counted_decodes(monkeypatch) as counts:
            assert np.array_equal(source.read_reduced(0, factor, reduced), expected)
    assert not counts
