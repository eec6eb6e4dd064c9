import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import dask
import dask.array as da
import numpy as np
import oracle
import pytest

import dask_slides as ds
from dask_slides.runtime.scheduler import compute

CHUNKS = 111
"""Many blocks, not aligned with the tiles of the file or of the grid."""


def results(slide):
    """Return the arrays of all operations on `slide` by name, in small blocks."""
    contrast = ds.Contrast(0.05)
    found = ds.blank_map(slide, tile_size=37, detector=contrast).compute()
    tissue = ds.blank_map(slide, tile_size=37)
    small = ds.resize(slide, downsample=2.3)
    cut = ds.cutoff_resize(slide, downsample=1.7, tile_size=30, detector=contrast)
    pack = ds.pack_tiles(slide, tile_size=60, stride=50, detector=ds.Contrast(0.1), edge="pad")
    crops = ds.random_crops(
        slide, n=6, size=(30, 40), seed=6, downsample=1.3, detector=ds.Contrast(0.1)
    )
    drawn = ds.random_crops(slide, n=6, size=(30, 40), seed=6)
    return {
        "tissue": tissue.compute().mask.kinds,
        "tissue areas": tissue.areas.compute(),
        "drawn": drawn.tiles.compute(),
        "drawn score": drawn.score,
        "blank": found.blank,
        "statistics": found.statistics,
        "lazy blank": ds.blank_map(slide, tile_size=37, detector=contrast).blank.compute(),
        "otsu": ds.blank_map(slide, tile_size=37, detector=ds.Otsu()).blank.compute(),
        "level 0": slide.to_dask(chunks=CHUNKS).compute(),
        "resize": small.to_dask(chunks=CHUNKS).compute(),
        "cutoff": cut.image.to_dask(chunks=CHUNKS).compute(),
        "pack": pack.tiles.compute(),
        "pack y": pack.y,
        "pack score": pack.score,
        "crops": crops.tiles.compute(),
        "crops y": crops.y,
        "crops x": crops.x,
    }


def as_floats(tissue):
    return np.sqrt(tissue.astype(np.float64)) / 16


@pytest.fixture(scope="module", params=["file", "array", "float array"])
def slide(request, tissue, tissue_tiff):
    if request.param == "file":
        return ds.open_slide(tissue_tiff)
    image = tissue if request.param == "array" else as_floats(tissue)
    array = da.from_array(image, chunks=(151, 167, 2))
    return ds.from_dask(array.map_blocks(np.ascontiguousarray, dtype=array.dtype))


@pytest.fixture(scope="module")
def alone(slide):
    """Return the results of one thread."""
    with dask.config.set(scheduler="sync"):
        return results(slide)


def assert_same(found, expected):
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


def test_one_thread_gives_the_results_of_the_oracle(alone, slide, tissue):
    assert len(alone["pack"]) and len(alone["crops"]) == len(alone["drawn"]) == 6
    assert 0 < alone["tissue"].mean() < 1
    if slide.dtype != np.uint8:
        assert np.array_equal(alone["level 0"], as_floats(tissue))
        shape = alone["resize"].shape[:2]
        expected = oracle.dense_resize(as_floats(tissue), shape, "lanczos")
        assert np.allclose(alone["resize"], expected, rtol=1e-9, atol=1e-12)
        return
    assert np.array_equal(alone["level 0"], tissue)
    assert np.array_equal(alone["blank"], oracle.contrast_blank(tissue, (37, 37), 0.05))
    shape = alone["resize"].shape[:2]
    assert np.array_equal(alone["resize"], oracle.pillow_resize(tissue, shape))
    left = oracle.cut(tissue, oracle.contrast_blank(tissue, (30, 30), 0.05), (30, 30))
    shape = alone["cutoff"].shape[:2]
    assert np.array_equal(alone["cutoff"], oracle.pillow_resize(left, shape))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_threads_give_the_same_bytes(alone, slide, workers):
    with dask.config.set(scheduler="threads", num_workers=workers):
        assert_same(results(slide), alone)


@pytest.fixture(scope="module")
def pool():
    """Start two processes for all tests; Dask would start new ones per computation."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        yield executor


def test_processes_give_the_same_bytes(alone, slide, pool):
    with dask.config.set(scheduler="processes", pool=pool):
        assert_same(results(slide), alone)


def test_a_cluster_gives_the_same_bytes(alone, slide, client):
    assert_same(results(slide), alone)


def test_blocks_of_a_cluster_are_fetched_together(client, monkeypatch):
    fetched = []
    gather = client.gather

    def counted(futures, **options):
        fetched.append(len(futures))
        return gather(futures, **options)

    monkeypatch.setattr(client, "gather", counted)
    array = da.arange(40, chunks=1)
    seen = []
    assert np.array_equal(compute(array, "count", lambda *done: seen.append(done)), range(40))
    assert sum(fetched) == 40
    assert len(fetched) <= 20  # a few, even on slow machines
    assert seen == [(n, 40) for n in range(41)]


def test_a_failed_computation_can_be_repeated_immediately(client, tmp_path):
    """The cancellation of the first one, which the client learns of later, does not reach it."""
    switch = tmp_path / "fail"

    def block(values, path):
        if os.path.exists(path):
            raise ValueError("failed on purpose")
        return values + 1

    array = da.zeros((8, 8), chunks=2).map_blocks(block, str(switch), dtype=float)
    for _ in range(20):
        switch.touch()
        with pytest.raises(ValueError, match="on purpose"):
            compute(array, "test")
        switch.unlink()
        np.testing.assert_array_equal(compute(array, "test"), np.ones((8, 8)))
