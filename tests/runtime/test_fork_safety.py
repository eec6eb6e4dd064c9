"""Forked processes, such as PyTorch's loaders on Linux, read the right pixels and do not hang."""

import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
from PIL import Image

import dask_slides as ds

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
JPEG = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb"}
FILES = {
    "jpeg tiles": JPEG,
    "deflate tiles": {"tile": (64, 64), "compression": "zlib", "photometric": "rgb"},
    "lzw strips": {"rowsperstrip": 32, "compression": "lzw", "photometric": "rgb"},
    "planes": {"tile": (64, 64), "compression": "zlib", "planarconfig": "separate",
               "photometric": "rgb"},
    "plain": {"photometric": "rgb"},
}  # fmt: skip


def run(*arguments):
    script = Path(__file__).parents[1] / "support" / "forked.py"
    done = subprocess.run([sys.executable, script, *map(str, arguments)],
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [*FILES, "png", "zarr"])
def test_children_and_parent_read_the_pixels_of_the_file(tmp_path, stained, sync, kind):
    path = tmp_path / "slide.tif"
    if kind == "png":
        path = path.with_suffix(".png")
        Image.fromarray(stained).save(path)
        truth = stained
    elif kind == "zarr":
        path = path.with_suffix(".ome.zarr")
        ds.write(ds.from_dask(da.from_array(stained)), path)
        truth = stained
    else:
        options = dict(FILES[kind])
        planes = options.get("planarconfig") == "separate"
        tifffile.imwrite(path, stained.transpose(2, 0, 1) if planes else stained, **options)
        truth = tifffile.imread(path)
        truth = truth.transpose(1, 2, 0) if planes else truth
    np.save(tmp_path / "truth.npy", truth)
    run("read_in_children", path, tmp_path / "truth.npy")


def test_children_read_the_tiles_of_a_pack(tmp_path, stained, sync):
    pack = ds.pack_tiles(
        ds.from_dask(da.from_array(stained)), tile_size=64, detector=ds.Contrast(0.0)
    )
    np.save(tmp_path / "tiles.npy", pack.tiles.compute())
    run("tiles_in_children", ds.write(pack, tmp_path / "a.tiles.zarr"), tmp_path / "tiles.npy")


def test_a_child_computes_although_its_parent_has_a_cluster(tmp_path, stained):
    tifffile.imwrite(tmp_path / "slide.tif", stained, **JPEG)
    run("computed_in_a_child", tmp_path / "slide.tif")


def test_processes_share_no_memory():
    run("processes_share_no_memory")


def test_locks_are_free_in_a_child():
    run("locks_are_free_in_a_child")


@pytest.mark.parametrize("how", ["keeps_no_lock_of_a_write", "leaves_the_lock_to_its_parent"])
def test_a_child_forked_in_the_middle_of_a_write(tmp_path, how):
    run(f"a_child_{how}", tmp_path)


def test_a_child_refuses_a_remote_slide_of_its_parent(tmp_path, stained):
    pytest.importorskip("obstore")
    tifffile.imwrite(tmp_path / "slide.tif", stained, **JPEG)
    run("remote_is_refused_in_a_child", tmp_path, "slide.tif")
