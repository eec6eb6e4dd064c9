"""A task writes in its own thread: no thread of Zarr's, with or without a running loop."""

import asyncio
import threading

import numpy as np
import pytest
import zarr

from dask_slides.writers.store.arrays import create_level, get, put


@pytest.fixture(params=[3, 2])
def path(request, tmp_path):
    group = zarr.create_group(tmp_path / "s.zarr", zarr_format=request.param)
    create_level(group, "0", (3, 100, 130), (16, 32), "uint8", "cyx")
    return str(tmp_path / "s.zarr" / "0")


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def stored(path):
    return zarr.open_array(path, mode="r")[...]


def test_puts_what_zarr_reads(path, rng):
    expected = np.zeros((3, 100, 130), np.uint8)
    part = rng.integers(0, 256, (3, 64, 98), np.uint8)
    put(path, (slice(None), slice(0, 64), slice(32, 130)), part)
    expected[:, :64, 32:] = part
    np.testing.assert_array_equal(stored(path), expected)


def test_takes_no_other_thread(path, rng, monkeypatch):
    put(path, ..., np.ones((3, 100, 130), np.uint8))  # the array is open now
    started = []
    start = threading.Thread.start
    monkeypatch.setattr(
        threading.Thread, "start", lambda self: (started.append(self.name), start(self))
    )
    put(path, ..., np.full((3, 100, 130), 7, np.uint8))
    assert (get(path, (slice(None), slice(5, 90), slice(1, 2))) == 7).all()
    assert started == []
    assert (stored(path) == 7).all()


def test_inside_a_running_loop(path):
    """As in a notebook, whose cells run in one."""

    async def cell():
        put(path, ..., np.full((3, 100, 130), 9, np.uint8))
        assert get(path, (0, slice(0, 3), slice(0, 4))).tolist() == [[9] * 4] * 3

    asyncio.run(cell())
    assert (stored(path) == 9).all()


def test_what_fails_is_raised(path):
    with pytest.raises(ValueError, match=r"broadcast|shape"):
        put(path, ..., np.zeros((3, 7, 7), np.uint8))
