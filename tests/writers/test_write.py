"""`write` itself: delayed writing, and arguments that are refused."""

import dask
import numpy as np
import pytest
import tifffile
from dask.delayed import Delayed
from rw_fixtures import noise, tissue

import dask_slides as ds


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("write") / "a.tif"
    tifffile.imwrite(path, tissue(700, 530), photometric="rgb", tile=(64, 64), compression="zlib")
    return ds.open_slide(path, mpp=0.5)


MADE = {
    "slide": lambda slide: slide,
    "array": lambda slide: ds.from_dask(slide.data),
    "resize": lambda slide: ds.resize(slide, downsample=3),
    "cutoff": lambda slide: ds.cutoff_resize(slide, downsample=2, tile_size=64),
    "map": lambda slide: ds.blank_map(slide, tile_size=64),
    "pack": lambda slide: ds.pack_tiles(slide, tile_size=64),
}


def contents(path):
    """Return the files of a store by name, without the root, which names its version."""
    files = (one for one in path.rglob("*") if one.is_file() and one.parent != path)
    return {str(one.relative_to(path)): one.read_bytes() for one in files}


@pytest.mark.parametrize("made", MADE)
def test_a_delayed_write_writes_the_same_store(tmp_path, slide, made, sync):
    obj = MADE[made](slide)
    path = tmp_path / "a.zarr"
    delayed = ds.write(obj, path, compute=False)
    assert isinstance(delayed, Delayed)
    assert not list(tmp_path.iterdir())
    assert delayed.compute() == str(path)
    assert ds.verify(path).files
    now = tmp_path / "now.zarr"
    ds.write(obj, now)
    assert contents(path) == contents(now)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers_of_this_machine_compute_delayed_writes(tmp_path, slide, scheduler):
    images = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    delayed = [ds.write(slide, path, compute=False) for path in images]
    assert dask.compute(*delayed, scheduler=scheduler) == tuple(map(str, images))
    for path in images:
        np.testing.assert_array_equal(ds.open_slide(path).data.compute(), slide.data.compute())


def test_a_cluster_computes_delayed_writes(tmp_path, slide, client):
    """More of them than there are threads: a task that waits leaves its thread to others."""
    paths = [tmp_path / f"{number}.zarr" for number in range(4)]
    pack = ds.pack_tiles(slide, tile_size=64)
    delayed = [ds.write(obj, path, compute=False) for obj, path in
               zip((slide, pack, slide, pack), paths, strict=True)]  # fmt: skip
    futures = client.compute(delayed)
    assert client.gather(futures) == list(map(str, paths))
    for path in paths[1::2]:
        np.testing.assert_array_equal(ds.open_pack(path)[:], pack[:])


def test_a_delayed_write_fails_as_a_write_does(tmp_path, slide, sync):
    path = tmp_path / "a.zarr"
    delayed = ds.write(slide, path, compute=False)
    path.mkdir()
    with pytest.raises(ds.errors.OutputExistsError):
        delayed.compute()
    assert not list(path.iterdir())


def test_the_path_is_that_of_the_folder_where_it_was_given(tmp_path, slide, monkeypatch, sync):
    monkeypatch.chdir(tmp_path)
    delayed = ds.write(slide, "a.zarr", compute=False)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    assert delayed.compute() == str(tmp_path / "a.zarr")


@pytest.mark.parametrize("compute", [True, False])
def test_wrong_arguments_are_refused_at_once(tmp_path, slide, compute):
    for version in ("0.6", None, 0.5):
        with pytest.raises(ds.errors.SlideArgumentError, match=r"0\.5"):
            ds.write(slide, tmp_path / "a.zarr", ome_zarr=version, compute=compute)
    with pytest.raises(ds.errors.SlideArgumentError, match="ndarray"):
        ds.write(noise(30, 30), tmp_path / "a.zarr", compute=compute)
    found = ds.blank_map(slide, tile_size=64)
    for obj in (found, ds.cutoff_resize(slide, blank_map=found)):
        with pytest.raises(ds.errors.SlideArgumentError, match="blank_map"):
            ds.write(obj, tmp_path / "a.zarr", blank_map=found, compute=compute)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["progress", "client"])
def test_a_delayed_write_takes_no_progress_and_no_client(tmp_path, slide, argument):
    with pytest.raises(ds.errors.SlideArgumentError, match="compute=False"):
        ds.write(slide, tmp_path / "a.zarr", compute=False, **{argument: print})


@pytest.mark.parametrize("made", ["slide", "map", "pack"])
def test_progress_counts_the_blocks(tmp_path, slide, made, sync):
    done = []
    ds.write(MADE[made](slide), tmp_path / "a.zarr", progress=lambda *at: done.append(at))
    assert done[0][0] == 0 and done[-1][0] == done[-1][1] > 0
