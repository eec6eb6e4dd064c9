"""Writing on threads and on a cluster: the same bytes, progress, memory limits."""

import os

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from durable_work import contents
from rw_fixtures import noise, one_line, segments, tissue

import dask_slides as ds


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
        assert done == sorted(done)
        assert {total for _, total in done} == {done[-1][0]}


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
    slide = ds.from_dask(da.zeros((4500, 4500, 3), dtype="uint8", chunks=-1))
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
            pytest.raises(ds.errors.SlideMemoryError, match=r"needs \d MB and a thread has 2 MB"),
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
    path, slide = tmp_path / "a.zarr", ds.from_dask(tissue(300, 300))
    for tile in (64, 32, 50):
        found = ds.blank_map(slide, tile_size=tile).compute()
        ds.write(found, path, overwrite=True)
        stored = zarr.open_array(path / "0", mode="r")[0]
        np.testing.assert_array_equal(stored, np.where(found.blank, 0, 255))
