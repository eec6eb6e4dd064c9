"""A store appears whole or not at all, and nothing of anybody else's is touched."""

import itertools
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from rw_fixtures import noise, one_line, segments, tissue

import dask_slides as ds
from dask_slides.core.source import Level, Source
from dask_slides.slide import Slide

SHAPE = (2000, 2100)


@dataclass(frozen=True)
class Fails(Source):
    """A source whose third read raises."""

    calls: list
    error: type = ds.errors.TileDecodeError
    levels: tuple = (Level(SHAPE, (1.0, 1.0), (256, 256)),)
    channels: int = 3
    dtype: object = "uint8"
    name: str = "fails"

    def read(self, level, region):
        self.calls.append(region)
        if len(self.calls) == 3:
            raise self.error("a.svs: damaged; fetch it again")
        return np.full((region.height, region.width, 3), 7, self.dtype)


def failing(error=ds.errors.TileDecodeError):
    source = Fails([], error, dtype=np.dtype("uint8"))
    return Slide(source, "fails", None)


def contents(folder):
    """Return every file under `folder` with its bytes."""
    return {
        str(one.relative_to(folder)): one.read_bytes()
        for one in sorted(Path(folder).rglob("*"))
        if one.is_file()
    }


MADE = {
    "image": (lambda: ds.from_dask(noise(600, 600, 3)), "a.ome.zarr"),
    "cutoff": (lambda: ds.cutoff_resize(tissue_slide(), tile_size=64), "a.ome.zarr"),
    "blank map": (lambda: ds.blank_map(tissue_slide(), tile_size=64), "a.ome.zarr"),
    "pack": (lambda: ds.pack_tiles(tissue_slide(), tile_size=64), "a.tiles.zarr"),
}


def tissue_slide():
    return ds.from_dask(tissue(300, 300))


@pytest.mark.parametrize("kind", MADE)
def test_a_path_that_is_taken_is_left_alone(tmp_path, kind):
    make, name = MADE[kind]
    path = tmp_path / name
    made = make()
    ds.write(made, path)
    before = contents(tmp_path)
    with pytest.raises(ds.errors.OutputExistsError) as error:
        ds.write(made, path)
    assert isinstance(error.value, FileExistsError)
    assert str(path) in one_line(error)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", MADE)
def test_a_store_of_ours_is_replaced(tmp_path, kind):
    make, name = MADE[kind]
    path = tmp_path / name
    ds.write(ds.from_dask(noise(700, 900, 1)), path)
    ds.write(make(), path, overwrite=True)
    alone = tmp_path / "other"
    alone.mkdir()
    ds.write(make(), alone / name)
    assert contents(path) == contents(alone / name)  # nothing of the old one is left
    assert sorted(os.listdir(tmp_path)) == sorted([name, "other"])


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("foreign", ["folder", "zarr", "file", "empty folder", "link", "dead link"])
def test_what_is_not_ours_is_never_overwritten(tmp_path, kind, foreign):
    make, name = MADE[kind]
    path = tmp_path / name
    if foreign == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    elif foreign == "empty folder":
        path.mkdir()
    elif foreign == "zarr":
        zarr.create_group(path).create_array("0", data=np.zeros(3))
    elif foreign == "file":
        path.write_text("hello")
    elif foreign == "link":
        ds.write(ds.from_dask(noise(30, 30)), tmp_path / "ours.zarr")
        path.symlink_to(tmp_path / "ours.zarr")
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ds.errors.OutputExistsError) as error:
            ds.write(make(), path, overwrite=overwrite)
        assert str(path) in one_line(error)
    assert contents(tmp_path) == before
    assert path.is_symlink() == ("link" in foreign)
    assert path.is_dir() == (foreign in ("folder", "empty folder", "zarr", "link"))


@pytest.mark.parametrize("kind", [ds.errors.TileDecodeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("old", [True, False], ids=["over an old store", "new"])
def test_a_failure_leaves_nothing_behind(tmp_path, kind, old):
    path = tmp_path / "a.ome.zarr"
    if old:
        ds.write(ds.from_dask(noise(300, 300, 3)), path)
    before = contents(tmp_path)
    slide = failing(kind)
    with dask.config.set(scheduler="sync"), pytest.raises(kind):
        ds.write(slide, path, overwrite=True)
    assert len(slide.source.calls) == 3  # it did fail on the way, after shards were written
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == (["a.ome.zarr"] if old else [])


@dataclass(frozen=True)
class Lingers(Fails):
    """A source that fails in one thread while another one is still reading."""

    go_on: threading.Event = field(default_factory=threading.Event)
    count: object = field(default_factory=partial(itertools.count, 1))

    def read(self, level, region):
        number = next(self.count)
        if number == 2:
            self.go_on.wait(timeout=1)  # until the failure is known, or waited for
        elif number > 2:  # so the first one is done: there are two threads
            raise self.error("a.svs: damaged; fetch it again")
        return np.full((region.height, region.width, 3), 7, self.dtype)


def test_a_failure_of_a_thread_leaves_nothing_behind(tmp_path):
    source = Lingers([], dtype=np.dtype("uint8"))
    with (
        dask.config.set(scheduler="threads", num_workers=2),
        pytest.raises(ds.errors.TileDecodeError),
    ):
        ds.write(Slide(source, "fails", None), tmp_path / "a.ome.zarr")
    source.go_on.set()
    assert os.listdir(tmp_path) == []


def test_a_pack_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    from dask_slides.writers import packs

    path = tmp_path / "a.tif"
    image = tissue(640, 640)
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), compression="zlib")
    pack = ds.pack_tiles(path, tile_size=64)
    monkeypatch.setattr(packs, "TASK_BYTES", 3 * 64 * 64 * 3)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ds.errors.SlideChangedError):
        ds.write(pack, tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == ["a.tif"]


def test_somebody_faster_wins(tmp_path):
    path = tmp_path / "a.zarr"

    def elbow(done, total):
        if done == total and not path.exists():
            path.mkdir()
            (path / "theirs").write_text("first")

    with pytest.raises(ds.errors.OutputExistsError):
        ds.write(ds.from_dask(noise(600, 600, 3)), path, overwrite=True, progress=elbow)
    assert contents(tmp_path) == {"a.zarr/theirs": b"first"}


def test_no_folder(tmp_path):
    path = tmp_path / "no" / "such" / "a.ome.zarr"
    with pytest.raises(ds.errors.SlideNotFoundError, match="make it first") as error:
        ds.write(ds.from_dask(noise(30, 30)), path)
    assert isinstance(error.value, FileNotFoundError)
    one_line(error)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [None, 3, object()], ids=str)
def test_no_path(path):
    with pytest.raises(ds.errors.SlideArgumentError) as error:
        ds.write(ds.from_dask(noise(30, 30)), path)
    one_line(error)


def test_a_relative_path_becomes_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ds.write(ds.from_dask(noise(30, 30)), "a.zarr")
    assert path == str(tmp_path / "a.zarr")
    assert ds.open_slide("a.zarr").path == path


def test_nothing_is_seen_before_it_is_whole(tmp_path):
    seen = []

    def look(done, total):
        seen.append([name for name in os.listdir(tmp_path) if not name.startswith(".")])

    ds.write(ds.from_dask(noise(2100, 2100, 3)), tmp_path / "a.zarr", progress=look)
    assert len(seen) > 3
    assert not any(seen)
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("kind", ["image", "pack", "cutoff"])
def test_progress_reaches_the_total(tmp_path, kind):
    make, name = MADE[kind]
    done = []
    ds.write(make(), tmp_path / name, progress=lambda *at: done.append(at))
    assert done
    totals = {total for _, total in done}
    assert len(totals) == 1
    assert done[-1][0] == totals.pop()
    assert [at for at, _ in done] == sorted(at for at, _ in done)


# ---------------------------------------------------------------- on a cluster of processes


@pytest.fixture(scope="module")
def tissue_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "a.tif"
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib"}
    tifffile.imwrite(path, tissue(2100, 1500), **options)
    return path


def make(kind, slide):
    if kind == "image":
        return ds.resize(slide, downsample=1.5)
    if kind == "cutoff":
        return ds.cutoff_resize(slide, downsample=1.5, tile_size=64)
    if kind == "pack":
        return ds.pack_tiles(slide, tile_size=64)
    return ds.blank_map(slide, tile_size=64)


@pytest.mark.parametrize("kind", ["image", "cutoff", "pack", "blank map"])
def test_processes_write_the_same_bytes(tmp_path, tissue_file, kind, request):
    slide = ds.open_slide(tissue_file)
    with dask.config.set(scheduler="sync"):
        ds.write(make(kind, slide), tmp_path / "here.zarr")
    request.getfixturevalue("client")
    done = []
    ds.write(make(kind, slide), tmp_path / "there.zarr", progress=lambda *at: done.append(at))
    assert contents(tmp_path / "here.zarr") == contents(tmp_path / "there.zarr")
    if kind != "blank map":
        assert done[-1][0] == done[-1][1] > 0


def test_an_error_of_a_worker_is_the_one_it_raised(tmp_path, client):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(600, 600, 3), photometric="rgb", tile=(64, 64), compression="zlib")
    offset, count = segments(path)[33]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\x01" * count)
    for progress in (None, lambda *at: None):
        with pytest.raises(ds.errors.TileDecodeError, match="cannot be decoded") as error:
            ds.write(ds.open_slide(path), tmp_path / "a.zarr", progress=progress)
        assert str(path) in one_line(error)
        assert not (tmp_path / "a.zarr").exists()


def test_a_client_that_is_given_does_the_work(tmp_path, cluster):
    """Without being anybody's default, and for this call only."""
    distributed = pytest.importorskip("distributed")
    from dask_slides.runtime.client import active_client

    with distributed.Client(cluster, set_as_default=False) as client:
        before = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
        ds.write(ds.from_dask(noise(300, 300, 3)), tmp_path / "a.zarr", client=client)
        after = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
        assert after > before
        assert active_client() is None
    ds.verify(tmp_path / "a.zarr")


def test_a_plan_that_cannot_fit_is_refused_before_anything_is_made(tmp_path):
    """A real cluster whose worker has 50 MB for each of its two threads."""
    distributed = pytest.importorskip("distributed")
    slide = ds.from_dask(noise(2100, 2100, 3))
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=True,
            memory_limit="100MB",
            dashboard_address="127.0.0.1:0",  # None is port 8787
            host="127.0.0.1",
            silence_logs=50,
        ) as small,
        distributed.Client(small, set_as_default=False) as client,
    ):
        with pytest.raises(
            ds.errors.SlideMemoryError, match=r"needs \d+ MB and a thread has 50 MB"
        ) as error:
            ds.write(slide, tmp_path / "a.zarr", client=client)
        assert isinstance(error.value, RuntimeError)
        one_line(error)
        assert os.listdir(tmp_path) == []
    with dask.config.set(num_workers=10**6), pytest.raises(ds.errors.SlideMemoryError):
        ds.write(slide, tmp_path / "a.zarr")
    with dask.config.set(scheduler="sync"):
        ds.write(slide, tmp_path / "a.zarr")


def test_shards_are_smaller_where_memory_is_short(tmp_path):
    """The pixels are the same, a shard at a time fits, and less than the least is refused."""
    slide = ds.from_dask(da.from_array(noise(5000, 5000, 3), chunks=256))
    stored, shards = [], []
    with dask.config.set(scheduler="threads", num_workers=2):
        for memory in ("8GB", "20MB"):
            with dask.config.set({"dask-slides.memory": memory}):
                out = ds.write(slide, tmp_path / f"{memory}.zarr")
            array = zarr.open_array(f"{out}/0", mode="r")
            shards.append(array.shards[-1])
            stored.append(array[...])
        np.testing.assert_array_equal(stored[0], stored[1])
        assert shards[1] < shards[0]
        with (
            dask.config.set({"dask-slides.memory": "4MB"}),
            pytest.raises(ds.errors.SlideMemoryError, match="needs 5 MB and a thread has 2 MB"),
        ):
            ds.write(slide, tmp_path / "none.zarr")
        with (
            dask.config.set({"dask-slides.memory": "4MB"}),
            pytest.raises(ds.errors.SlideMemoryError, match="a thread has 2 MB"),
        ):
            ds.blank_map(slide, tile_size=500).compute()


def test_shards_of_a_pack_are_smaller_where_memory_is_short(tmp_path, tissue_file):
    pack = ds.pack_tiles(tissue_file, tile_size=64, detector=ds.Contrast(0.0))
    tiles = []
    for memory in ("8GB", "2200kB"):
        with dask.config.set({"dask-slides.memory": memory, "num_workers": 1}):
            out = ds.write(pack, tmp_path / f"{memory}.zarr")
        array = zarr.open_array(f"{out}/tiles", mode="r")
        tiles.append((array.shards or array.chunks)[0])
    assert tiles[1] < tiles[0]
    one, two = (ds.open_pack(tmp_path / f"{memory}.zarr") for memory in ("8GB", "2200kB"))
    np.testing.assert_array_equal(one.tiles.compute(), two.tiles.compute())


def test_the_same_path_for_grids_of_two_sizes(tmp_path):
    """What a worker keeps open of the first must not be written to for the second."""
    path, slide = tmp_path / "a.zarr", tissue_slide()
    for tile in (64, 32, 50):
        found = ds.blank_map(slide, tile_size=tile).compute()
        ds.write(found, path, overwrite=True)
        stored = zarr.open_array(path / "0", mode="r")[0]
        np.testing.assert_array_equal(stored, np.where(found.blank, 0, 255))
