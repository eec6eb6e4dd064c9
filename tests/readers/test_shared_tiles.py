"""Operations that are done together decode each tile once, and give what they give alone."""

import errno
import os
import pickle
import shutil
from collections import Counter, namedtuple
from contextlib import contextmanager
from pathlib import Path

import cohort_work as work
import dask
import numpy as np
import oracle
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rw_fixtures import smooth

import dask_slides as ds
from dask_slides.cli.main import main
from dask_slides.core.geometry import Region
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tiff import file as tiff_file
from dask_slides.readers.tile_cache import TILE_CACHE

SIDE, TILE = 2048, 256
TILES = (SIDE // TILE) ** 2
CELL = 512
STEPS = {
    "mask": {"tile_size": CELL},
    "resize": {"downsample": 10},
    "cutoff": {"downsample": 10, "tile_size": CELL},
}


@pytest.fixture(autouse=True)
def nothing_kept():
    TILE_CACHE.clear()
    tiff_file.opened.cache_clear()
    yield
    tiff_file.opened.cache_clear()


def slide_file(folder, compression, side=SIDE):
    """Write a slide whose second row of cells is glass and whose other cells are not."""
    pixels = smooth(side, side)
    pixels[CELL : 2 * CELL] = 240
    path = folder / f"{compression}.tif"
    options = {"photometric": "rgb", "tile": (TILE, TILE), "compression": compression}
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharing")
    return {name: slide_file(folder, name) for name in ("lzw", "zlib", "zstd", "jpeg", None)}


@contextmanager
def counting(monkeypatch):
    """Count the decodes by (tile number, reduction), on one thread."""
    counts, decoded = Counter(), TileDecoder.__call__

    def count(self, number, data, factor):
        counts[number, factor] += 1
        return decoded(self, number, data, factor)

    with monkeypatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(TileDecoder, "__call__", count)
        yield counts


def all_three(path):
    """Return the pixels of a blank map, a resize and a cut-off."""
    found = ds.blank_map(path, tile_size=CELL).compute()
    small = ds.resize(path, downsample=10).data.compute()
    cut = ds.cutoff_resize(path, downsample=10, blank_map=found)
    assert cut.rows.length == SIDE - CELL
    return found.statistics, small, cut.image.data.compute()


def same(found, expected):
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["lzw", "zlib", "zstd", None])
def test_all_three_decode_each_tile_once_in_all(paths, tmp_path, monkeypatch, name):
    alone = all_three(paths[name])
    TILE_CACHE.clear()
    with counting(monkeypatch) as counts, ds.decode_once(paths[name], tmp_path, downsample=10):
        together = all_three(paths[name])
    assert counts == {(number, 1): 1 for number in range(TILES)}
    assert same(together, alone)


def test_of_jpeg_what_is_reduced_is_shared(paths, tmp_path, monkeypatch):
    path = paths["jpeg"]
    alone = all_three(path)
    TILE_CACHE.clear()
    with counting(monkeypatch) as counts, ds.decode_once(path, tmp_path, downsample=10):
        together = all_three(path)
    assert counts == {(number, factor): 1 for number in range(TILES) for factor in (1, 4)}
    assert same(together, alone)


@pytest.mark.parametrize("first", ["map", "resize"])
def test_with_means_jpeg_is_decoded_once_for_all_three(paths, tmp_path, monkeypatch, first):
    path = paths["jpeg"]
    with counting(monkeypatch) as counts, ds.decode_once(path, tmp_path, 10, means=True) as slide:
        small = ds.resize(slide, downsample=10).data.compute() if first == "resize" else None
        found, again, _ = all_three(slide)
    every = {number for number in range(TILES)}
    assert {number for number, factor in counts if factor == 1} == every
    if first == "map":
        assert set(counts.values()) == {1} and len(counts) == TILES
    else:
        assert np.array_equal(small, again)
    # the means of what another library decodes
    mean = list(oracle.area_pyramid(tifffile.imread(path), 2))[1]
    read = slide.source.read_reduced(0, 4, Region(0, 0, SIDE // 4, SIDE // 4))
    assert np.array_equal(read, mean)
    assert np.array_equal(found, all_three(path)[0])
    # and near what is made of level 0
    exact = ds.resize(path, downsample=10, gap=None).data.compute()
    assert oracle.psnr(again, exact) >= 48


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_means_are_the_same_wherever_they_are_made(paths, tmp_path, scheduler):
    with ds.decode_once(paths["jpeg"], tmp_path, downsample=10, means=True) as slide:
        alone = all_three(slide)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        assert same(all_three(slide), alone)
    assert not same(all_three(paths["jpeg"]), alone)
    assert pickle.loads(pickle.dumps(slide)) == slide


@pytest.mark.parametrize("name", ["zlib", "jpeg"])
def test_the_order_of_the_three_changes_nothing(paths, tmp_path, monkeypatch, name):
    found, small, _ = all_three(paths[name])
    TILE_CACHE.clear()
    with counting(monkeypatch) as counts, ds.decode_once(paths[name], tmp_path, downsample=10):
        assert np.array_equal(ds.resize(paths[name], downsample=10).data.compute(), small)
        again = ds.blank_map(paths[name], tile_size=CELL).compute()
        assert np.array_equal(again.statistics, found)
        ds.resize(paths[name], downsample=10, kernel="cubic").data.compute()
    assert counts == {(number, factor): 1 for number in range(TILES) for factor in (4, 1)}


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_any_scheduler_gives_the_same(paths, tmp_path, scheduler):
    with dask.config.set(scheduler="sync"):
        alone = all_three(paths["zlib"])
    with (
        dask.config.set(scheduler=scheduler, num_workers=2),
        ds.decode_once(paths["zlib"], tmp_path, downsample=10),
    ):
        assert same(all_three(paths["zlib"]), alone)


def test_nothing_is_seen_of_what_is_kept_and_it_ends_with_the_block(paths, tmp_path, monkeypatch):
    handles = Path("/proc/self/fd")
    if not handles.exists():
        pytest.skip("open files cannot be listed here")

    def kept():
        names = (os.readlink(one) for one in handles.iterdir() if one.exists())
        return [name for name in names if name.startswith(str(tmp_path))]

    with ds.decode_once(paths["zlib"], tmp_path, downsample=10) as slide:
        ds.blank_map(slide, tile_size=CELL).compute()
        assert len(kept()) == 1
        assert os.listdir(tmp_path) == []
    assert kept() == []
    with counting(monkeypatch) as counts:
        ds.resize(paths["zlib"], downsample=10).data.compute()
    assert set(counts) == {(number, 4) for number in range(TILES)}


def test_what_is_kept_ends_with_an_error_too(paths, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError), ds.decode_once(paths["zlib"], tmp_path, downsample=10):
        ds.blank_map(paths["zlib"], tile_size=CELL).compute()
        1 / 0  # noqa: B018
    with counting(monkeypatch) as counts:
        ds.resize(paths["zlib"], downsample=10).data.compute()
    assert set(counts) == {(number, 4) for number in range(TILES)}


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def failing_after(call, count, end):
    """Return `call`, whose calls after `count` are those of `end`."""
    calls = iter(range(count))
    return lambda *args: call(*args) if next(calls, None) is not None else end(*args)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("pwrite", full),
        ("pwrite", lambda handle, data, place: len(data) - 1),
        ("pread", full),
        ("pread", lambda handle, size, place: b""),
    ],
)
@pytest.mark.parametrize("count", [0, 20])
def test_a_disk_that_fails_costs_time_and_no_pixel(paths, tmp_path, monkeypatch, name, end, count):
    with dask.config.set(scheduler="sync"):
        _, small, _ = all_three(paths["zlib"])
        TILE_CACHE.clear()
        with ds.decode_once(paths["zlib"], tmp_path, downsample=10) as slide:
            if name == "pwrite":
                monkeypatch.setattr(os, name, failing_after(os.pwrite, count, end))
            ds.blank_map(slide, tile_size=CELL).compute()
            if name == "pread":
                shared = opened_page(slide)._shared._file.fileno()
                pread = os.pread
                failing = failing_after(pread, count, end)
                monkeypatch.setattr(
                    os, name, lambda file, *a: (failing if file == shared else pread)(file, *a)
                )
            found = ds.resize(slide, downsample=10).data.compute()
    assert np.array_equal(found, small)


def opened_page(slide):
    return slide.source._open().array(0)


def test_without_room_nothing_is_kept(paths, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    kept_bytes = SIDE**2 // 16 * 3
    for free, factors in ((2 * kept_bytes - 1, None), (2 * kept_bytes, (4,))):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, n=free: usage(2**40, 0, n))
        with ds.decode_once(paths["zlib"], tmp_path, downsample=10) as slide:
            shared = opened_page(slide)._shared
            assert (None if shared is None else shared.factors) == factors


@pytest.mark.parametrize(
    "scale", [{"downsample": 1.5}, {"downsample": 10, "gap": None}, {"shape": (SIDE, SIDE)}]
)
def test_what_is_read_in_full_is_not_kept(paths, tmp_path, scale):
    with ds.decode_once(paths["zlib"], tmp_path, **scale) as slide:
        assert opened_page(slide)._shared is None


def test_slides_without_tiles_are_left_as_they_are(tmp_path):
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, smooth(SIDE, SIDE), photometric="rgb", compression="zlib")
    with ds.decode_once(path, tmp_path, downsample=10) as slide:
        assert slide.shape == (SIDE, SIDE, 3)
    array = ds.open_slide(path).data
    with ds.decode_once(array, tmp_path, downsample=10) as slide:
        assert slide.shape == (SIDE, SIDE, 3)


def test_a_folder_that_is_none_is_told(paths, tmp_path):
    with (
        pytest.raises(
            ds.errors.SlideArgumentError, match=r"folder=.*none.* is none; make it first"
        ),
        ds.decode_once(paths["zlib"], tmp_path / "none"),
    ):
        pass


def test_masked_tiles_stay_holes(paths, tmp_path):
    path = tmp_path / "damaged.tif"
    shutil.copy(paths["zlib"], path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = [(page.dataoffsets[n], page.databytecounts[n]) for n in (3, TILES - 1)]
    with path.open("r+b") as file:
        for start, count in places:
            file.seek(start)
            file.write(os.urandom(count))

    def made():
        slide = ds.open_slide(path, on_bad_tile="mask")
        found = ds.blank_map(slide, tile_size=CELL).compute()
        image = ds.resize(slide, downsample=10)
        pixels = image.data.compute()
        holes = image.source.holes(0, Region(0, 0, *image.shape[:2]))
        return (found.statistics, pixels), (found.bad_tiles, holes)

    alone, told = made()
    assert [tile.status for tile in told[0]] == ["corrupt"] * 2
    tiff_file.opened.cache_clear()
    with ds.decode_once(ds.open_slide(path, on_bad_tile="mask"), tmp_path, downsample=10):
        together, told_again = made()
    assert same(together, alone)
    assert told_again == told


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    tile=st.tuples(st.sampled_from([16, 32, 48, 64]), st.sampled_from([16, 32, 80])),
    factor=st.sampled_from([2, 4, 8]),
    compression=st.sampled_from(["zlib", "lzw", "jpeg", None]),
    glass=st.booleans(),
    grey=st.booleans(),
    full_first=st.booleans(),
)
def test_any_tile_comes_back_as_it_would_be_decoded(
    tmp_path, shape, tile, factor, compression, glass, grey, full_first
):
    pixels = np.full((*shape, 3), 230, np.uint8) if glass else smooth(*shape)
    pixels = pixels[..., 0] if grey else pixels
    path = tmp_path / "any.tif"
    photometric = "minisblack" if grey else "rgb"
    tifffile.imwrite(path, pixels, tile=tile, compression=compression, photometric=photometric)
    slide = ds.open_slide(path)
    small = Region(0, 0, -(-shape[0] // factor), -(-shape[1] // factor))
    expected = slide.source.read_reduced(0, factor, small)
    with slide.source.sharing(str(tmp_path), (1, factor, factor)):
        for _ in range(2):
            if full_first:
                assert np.array_equal(slide.read(0, 0, *shape).reshape(pixels.shape), pixels) or (
                    compression == "jpeg"
                )
            found = slide.source.read_reduced(0, factor, small)
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(("name", "factors"), [("zlib", [1]), ("jpeg", [1, 4])])
def test_a_run_decodes_each_tile_once(paths, tmp_path, monkeypatch, name, factors):
    with counting(monkeypatch) as counts:
        result = ds.run_cohort([paths[name]], job=tmp_path / "job", steps=STEPS)
    assert result.done == 1
    assert counts == {(number, factor): 1 for number in range(TILES) for factor in factors}
    with dask.config.set(scheduler="sync"):
        for step in STEPS:
            tiff_file.opened.cache_clear()
            ds.run_cohort([paths[name]], job=tmp_path / "single" / step, steps={step: STEPS[step]})
    alone = {}
    for step in STEPS:
        alone |= work.contents(tmp_path / "single" / step)
    assert work.contents(tmp_path / "job") == alone
    assert any("cutoff" in store for store in alone)


def test_steps_that_are_done_share_nothing(paths, tmp_path, monkeypatch):
    path = paths["zlib"]
    with dask.config.set(scheduler="sync"):
        ds.run_cohort([path], job=tmp_path / "job", steps={"mask": STEPS["mask"]})
    made = []
    monkeypatch.setattr(
        "dask_slides.readers.tiff.tiled_page.shared_tiles", lambda *args: made.append(args[1])
    )
    with dask.config.set(scheduler="sync"):
        ds.run_cohort(
            [path], job=tmp_path / "job", steps={name: STEPS[name] for name in ("mask", "resize")}
        )
        ds.run_cohort(
            [path], job=tmp_path / "job", steps={name: STEPS[name] for name in ("mask", "resize")}
        )
    assert made == [{}]  # of a resize alone, and then of nothing at all


def test_the_command_of_a_cutoff_decodes_each_tile_once(paths, tmp_path, monkeypatch):
    out = tmp_path / "cut.ome.zarr"
    args = ["cutoff", str(paths["zlib"]), str(out), "--downsample", "10", "--tile-size", str(CELL)]
    with counting(monkeypatch) as counts:
        found = CliRunner().invoke(main, [*args, "--workers", "1"])
    assert found.exit_code == 0, found.output
    assert counts == {(number, 1): 1 for number in range(TILES)}
    with dask.config.set(scheduler="sync"):
        cut = ds.cutoff_resize(paths["zlib"], downsample=10, tile_size=CELL)
        assert np.array_equal(ds.open_slide(out).data.compute(), cut.image.data.compute())


def test_a_job_of_many_slides_on_threads_is_that_of_one_thread(tmp_path):
    folder = work.slide_files(tmp_path / "s", 3)
    for scheduler in ("sync", "threads"):
        with dask.config.set(scheduler=scheduler, num_workers=2):
            ds.run_cohort(folder, job=tmp_path / scheduler, steps=work.STEPS)
    assert work.contents(tmp_path / "sync") == work.contents(tmp_path / "threads") != {}
