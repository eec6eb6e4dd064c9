"""Every reader that a library does the reading for, on every scheduler."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from library_slides import SLIDES

import dask_slides as ds


@pytest.fixture(scope="module", params=SLIDES)
def slide_and_pixels(request, tmp_path_factory):
    write, package = SLIDES[request.param]
    pytest.importorskip(package)
    path, pixels = write(tmp_path_factory.mktemp(request.param))
    return ds.open_slide(path), pixels


def test_threads_processes_and_a_cluster_read_the_same(slide_and_pixels, client):
    slide, pixels = slide_and_pixels
    lazy = slide.to_dask(chunks=150)
    for scheduler in ("sync", "threads", "processes", client):
        np.testing.assert_array_equal(lazy.compute(scheduler=scheduler), pixels)


def test_threads_do_not_get_pixels_of_each_other(slide_and_pixels):
    """Threads switch often, so that state that they share in a library shows."""
    slide, pixels = slide_and_pixels
    rows, columns = (range(0, side - 60, 40) for side in pixels.shape[:2])
    corners = 6 * [(y, x) for y in rows for x in columns]

    def is_right(corner):
        y, x = corner
        return np.array_equal(slide.read(y, x, 60, 60), pixels[y : y + 60, x : x + 60])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(is_right, corners))
    finally:
        sys.setswitchinterval(interval)


def test_operations_write_what_they_compute(slide_and_pixels, client, tmp_path):
    slide, pixels = slide_and_pixels
    small = ds.resize(slide, downsample=3)
    stored = ds.open_slide(ds.write(small, tmp_path / "a.ome.zarr"))
    expected = ds.resize(ds.from_dask(pixels), downsample=3).data.compute(scheduler="sync")
    np.testing.assert_array_equal(stored.data.compute(scheduler="sync"), expected)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_reads_with_handles_of_its_own(slide_and_pixels, tmp_path):
    slide, pixels = slide_and_pixels
    np.save(tmp_path / "pixels.npy", pixels)
    script = Path(__file__).parents[1] / "support" / "forked.py"
    command = [sys.executable, script, "read_in_children", slide.path, tmp_path / "pixels.npy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
