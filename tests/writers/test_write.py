"""Write on all schedulers, now and delayed: the same bytes, progress, memory limits, errors."""

import os

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from dask.delayed import Delayed
from durable_work import contents
from rw_fixtures import noise, one_line, segments, tissue
from scheduler_processes import local_client

import dask_slides as ds


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("write") / "a.tif"
    tifffile.imwrite(path, tissue(700, 530), photometric="rgb", tile=(64, 64), compression="zlib")
    return ds.open_slide(path, mpp=0.5)


@pytest.fixture(scope="module")
def large_slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("write") / "large.tif"
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib"}
    tifffile.imwrite(path, tissue(2100, 1500), **options)
    return ds.open_slide(path)


OPERATIONS = {
    "slide": lambda slide: slide,
    "array": lambda slide: ds.from_dask(slide.data),
    "resize": lambda slide: ds.resize(slide, downsample=1.5),
    "cutoff": lambda slide: ds.cutoff_resize(
        slide, downsample=1.5, tile_size=64, detector=ds.Contrast(0.05)
    ),
    "pack": lambda slide: ds.pack_tiles(slide, tile_size=64, detector=ds.Contrast(0.05)),
    "blank map": lambda slide: ds.blank_map(slide, tile_size=64),
}


@pytest.mark.parametrize("compute", [True, False])
def test_wrong_arguments_are_refused_immediately(tmp_path, slide, compute):
    for version in ("0.6", None, 0.5):
        with pytest.raises(ds.errors.SlideArgumentError, match=r"0\.5"):
            ds.write(slide, tmp_path / "a.zarr", ome_zarr=version, compute=compute)
    with pytest.raises(ds.errors.SlideArgumentError, match="ndarray"):
        ds.write(noise(30, 30), tmp_path / "a.zarr", compute=compute)
    found = ds.blank_map(slide, tile_size=64, detector=ds.Contrast(0.05))
    for obj in (found, ds.cutoff_resize(slide, blank_map=found)):
        with pytest.raises(ds.errors.SlideArgumentError, match="blank_map"):
            ds.write(obj, tmp_path / "a.zarr", blank_map=found, compute=compute)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", [None, "source"])
def test_a_blank_map_that_would_be_ignored_is_refused(tmp_path, codec):
    slide = ds.open_slide(ds.sample_slide(tmp_path / "a.tif", shape=(300, 400), tile=64))
    for given in ("tissue.geojson", np.zeros((5, 7), bool)):
        with pytest.raises(ds.errors.SlideArgumentError, match="is not a BlankMap"):
            ds.write(slide, tmp_path / "a.ome.zarr", codec=codec, blank_map=given)
    found = ds.blank_map(slide, tile_size=64, detector=ds.Contrast(0.0))
    cut = ds.cutoff_resize(slide, downsample=1, blank_map=found)
    pack = ds.pack_tiles(slide, tile_size=64, downsample=1, align="source", blank_map=found)
    for obj in (cut, pack):
        with pytest.raises(ds.errors.SlideArgumentError, match="only be given with a slide"):
            ds.write(obj, tmp_path / "a.zarr", codec=codec, blank_map=found)


def test_a_store_is_replaced_by_one_of_another_shape(tmp_path):
    """A process must not write to an array of the old store that it still has open."""
    path, slide = tmp_path / "a.zarr", ds.from_dask(tissue(300, 300))
    ds.write(ds.blank_map(slide, tile_size=40), path)
    found = ds.blank_map(slide, tile_size=50).compute()
    ds.write(found, path, overwrite=True)
    stored = zarr.open_array(path / "0", mode="r")[0]
    np.testing.assert_array_equal(stored, np.where(found.blank, 0, 255))


# delayed


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_delayed_write_writes_the_same_store(tmp_path, slide, operation, sync):
    obj = OPERATIONS[operation](slide)
    path = tmp_path / "a.zarr"
    delayed = ds.write(obj, path, compute=False)
    assert isinstance(delayed, Delayed)
    assert not list(tmp_path.iterdir())
    assert delayed.compute() == str(path)
    assert ds.verify(path).files
    immediate = tmp_path / "immediate.zarr"
    ds.write(obj, immediate)
    assert contents(path) == contents(immediate)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_local_schedulers_compute_delayed_writes(tmp_path, slide, scheduler):
    images = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    delayed = [ds.write(slide, path, compute=False) for path in images]
    assert dask.compute(*delayed, scheduler=scheduler) == tuple(map(str, images))
    for path in images:
        np.testing.assert_array_equal(ds.open_slide(path).data.compute(), slide.data.compute())


def test_a_cluster_computes_more_delayed_writes_than_it_has_threads(tmp_path, slide, client):
    """A task that waits for others does not occupy a thread."""
    paths = [tmp_path / f"{number}.zarr" for number in range(4)]
    pack = ds.pack_tiles(slide, tile_size=64, detector=ds.Contrast(0.05))
    delayed = [ds.write(obj, path, compute=False) for obj, path in
               zip((slide, pack, slide, pack), paths, strict=True)]  # fmt: skip
    futures = client.compute(delayed)
    assert client.gather(futures) == list(map(str, paths))
    for path in paths[1::2]:
        np.testing.assert_array_equal(ds.open_pack(path)[:], pack[:])


@pytest.mark.parametrize("argument", ["progress", "client"])
def test_a_delayed_write_takes_no_progress_and_no_client(tmp_path, slide, argument):
    with pytest.raises(ds.errors.SlideArgumentError, match="compute=False"):
        ds.write(slide, tmp_path / "a.zarr", compute=False, **{argument: print})


# clusters


@pytest.mark.parametrize("operation", ["resize", "cutoff", "pack", "blank map"])
def test_a_cluster_writes_the_same_store(tmp_path, large_slide, operation, request):
    obj = OPERATIONS[operation](large_slide)
    with dask.config.set(scheduler="sync"):
        ds.write(obj, tmp_path / "local.zarr")
    request.getfixturevalue("client")
    done = []
    obj = OPERATIONS[operation](large_slide)
    ds.write(obj, tmp_path / "cluster.zarr", progress=lambda *counts: done.append(counts))
    assert contents(tmp_path / "local.zarr") == contents(tmp_path / "cluster.zarr")
    if operation != "blank map":
        assert done == sorted(done)
        assert {total for _, total in done} == {done[-1][0]}


def test_an_error_of_a_worker_is_raised_unchanged(tmp_path, client):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(600, 600, 3), photometric="rgb", tile=(64, 64), compression="zlib")
    offset, count = segments(path)[33]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\x01" * count)
    for progress in (None, lambda *counts: None):
        with pytest.raises(ds.errors.TileDecodeError, match="cannot be decoded") as error:
            ds.write(ds.open_slide(path), tmp_path / "a.zarr", progress=progress)
        assert str(path) in one_line(error)
        assert not (tmp_path / "a.zarr").exists()


# memory


def test_a_worker_without_memory_for_a_task_is_refused_before_writing(tmp_path):
    """The worker has 50 MB for each of two threads; the client is used for this call only."""
    slide = ds.from_dask(da.zeros((4500, 4500, 3), dtype="uint8", chunks=-1))
    message = r"needs \d+ MB and a thread has 50 MB"
    with local_client(1, 2, memory_limit="100MB") as client, dask.config.set(scheduler="sync"):
        with pytest.raises(ds.errors.SlideMemoryError, match=message):
            ds.write(slide, tmp_path / "a.zarr", client=client)
        assert os.listdir(tmp_path) == []
        ds.write(slide, tmp_path / "a.zarr")


def test_shards_are_smaller_if_memory_is_short(tmp_path):
    """The pixels are the same. If not even the smallest shard fits, the call is refused."""
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
        with dask.config.set({"dask-slides.memory": "4MB"}):
            with pytest.raises(
                ds.errors.SlideMemoryError, match=r"needs \d MB and a thread has 2 MB"
            ):
                ds.write(slide, tmp_path / "none.zarr")
            with pytest.raises(ds.errors.SlideMemoryError, match="a thread has 2 MB"):
                ds.blank_map(slide, tile_size=500).compute()
