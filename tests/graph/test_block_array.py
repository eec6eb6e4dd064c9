"""Dask arrays compute their blocks into one result, without joining them."""

import tracemalloc

import dask
import dask.array as da
import numpy as np
import pytest

from dask_slides.graph.block_array import block_array


def numbered():
    values = da.arange(4 * 10**6, chunks=10**5).reshape(200, -1).rechunk((20, 5000))
    return block_array(values + 1), np.asarray(values) + 1


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_the_result_is_that_of_a_plain_array(scheduler):
    array, expected = numbered()
    np.testing.assert_array_equal(array.compute(scheduler=scheduler), expected)
    with dask.config.set(scheduler=scheduler):
        np.testing.assert_array_equal(np.asarray(array), expected)
        np.testing.assert_array_equal(array[3:50, ::7].compute(), expected[3:50, ::7])


def test_a_client_computes_it_as_a_plain_array(client):
    array, expected = numbered()
    np.testing.assert_array_equal(array.compute(), expected)
    np.testing.assert_array_equal(client.persist(array).compute(), expected)


def test_finished_blocks_are_freed():
    array = block_array(da.ones((64, 2**18), chunks=(1, -1), dtype=np.uint8))
    tracemalloc.start()
    try:
        array.compute(scheduler="sync")
        assert tracemalloc.get_traced_memory()[1] < 1.3 * array.nbytes
    finally:
        tracemalloc.stop()
