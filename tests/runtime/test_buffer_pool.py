"""Memory is reused once the last view is gone, and the pool stays within its limit."""

import gc

import numpy as np

from dask_slides.runtime.buffer_pool import BufferPool


def address(array):
    return array.__array_interface__["data"][0]


def test_free_memory_is_reused():
    pool = BufferPool()
    first = pool.array((100, 100, 3), np.uint8)
    first[...] = 7
    where = address(first)
    assert pool.nbytes == 0
    view = first[50:, :, 1]
    del first
    gc.collect()
    assert pool.nbytes == 0  # a view is left
    assert (view == 7).all()
    del view
    assert pool.nbytes >= 100 * 100 * 3
    again = pool.array((99, 100, 3), np.uint8)  # nearly as large
    assert address(again) == where
    assert again.shape == (99, 100, 3)
    assert again.flags.writeable
    assert pool.nbytes == 0


def test_arrays_in_use_share_no_memory():
    pool = BufferPool()
    one, two = (pool.array((64, 64), np.float32) for _ in range(2))
    one[...], two[...] = 1, 2
    assert (one == 1).all()
    assert (two == 2).all()
    assert not np.shares_memory(one, two)


def test_free_memory_stays_within_the_limit():
    pool = BufferPool(limit=1_000_000)
    arrays = [pool.array((100_000,), np.uint8) for _ in range(30)]
    del arrays
    assert 800_000 < pool.nbytes <= 1_000_000
    large = pool.array((900_000,), np.uint8)  # smaller ones are dropped for it
    del large
    assert 800_000 < pool.nbytes <= 1_000_000


def test_an_empty_array():
    assert BufferPool().array((0, 5, 3), np.uint8).shape == (0, 5, 3)
