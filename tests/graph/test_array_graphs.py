"""An operation on a dask array has one layer, whose tasks need only the blocks they read."""

import tracemalloc

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from dask.task_spec import Alias
from hypothesis import given
from hypothesis import strategies as st
from rw_fixtures import noise, sparse_tiff
from strategies import chunkings, images, seeds

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.graph.chunks import default_chunks, task_bytes


def recorded(image, chunks, computed):
    """Return `image` as a dask array that adds the numbers of computed blocks to `computed`."""

    def block(part, block_id):
        computed.append(block_id[:2])
        return part

    array = da.from_array(image, chunks=(*chunks, image.shape[2]))
    return array.map_blocks(block, dtype=image.dtype, meta=np.empty((0, 0, 0), image.dtype))


def test_the_graph_of_a_large_resize():
    side, chunk = 102_400, 4096
    source = da.zeros((side, side, 3), dtype="uint8", chunks=(chunk, chunk, 3))
    small = ds.resize(source, downsample=10).data
    graph = small.__dask_graph__()
    assert len(graph.layers) == len(source.__dask_graph__().layers) + 1
    assert graph.dependencies[small.name] == {source.name}
    assert len(dict(graph)) == small.npartitions + source.npartitions == 1354
    assert len(cloudpickle.dumps(small)) < 220_000
    (optimized,) = dask.optimize(small)
    assert len(dict(optimized.__dask_graph__())) == 1354


def test_a_block_of_one_source_block_is_fused_with_it():
    source = da.zeros((80, 80, 3), dtype="uint8", chunks=(20, 20, 3))
    halved = ds.resize(source, downsample=2, kernel="area").to_dask(chunks=10)
    (optimized,) = dask.optimize(halved)
    tasks = [one for one in dict(optimized.__dask_graph__()).values() if not isinstance(one, Alias)]
    assert len(tasks) == halved.npartitions == 16


def test_data_of_an_array_is_the_array():
    array = da.zeros((30, 40, 3), dtype="uint16", chunks=(7, 9, 3))
    assert ds.from_dask(array).data is array
    image = noise(30, 40, 3, dtype="uint16")
    for other in (
        da.from_array(image, chunks=(7, 9, 2)),
        da.from_array(image.astype(">u2"), chunks=(7, 9, 3)),
    ):
        data = ds.from_dask(other).data
        assert data.dtype == np.dtype("uint16") and data.numblocks == (5, 5, 1)
        assert np.array_equal(data.compute(), image)
    assert ds.from_dask(da.zeros((30, 40), chunks=9)).data.shape == (30, 40, 1)
    assert ds.from_dask(array).to_dask(chunks=20).chunks == ((20, 10), (20, 20), (3,))


def test_layers_have_the_names_of_operations(tmp_path):
    file = ds.open_slide(sparse_tiff(tmp_path / "a.tif", shape=(2048, 2048)))
    blank = np.ones((8, 8), bool)
    blank[2:5, 3] = False
    for slide in (file, ds.from_dask(da.zeros((2048, 2048, 3), dtype="uint8"))):
        found = ds.blank_map(slide, tile_size=256)
        contrast = ds.blank_map(slide, tile_size=256, detector=ds.Contrast(0.05))
        cut = ds.cutoff_resize(slide, downsample=2, blank_map=found.with_blank(blank))
        names = {
            "read": slide.to_dask(chunks=1000),
            "resize": ds.resize(slide, downsample=2).data,
            "cutoff": cut.image.data,
            "blank-tiles": contrast.blank,
            "unknown-tiles": found.unknown,
            "statistics": contrast.statistics,
            "tissue-areas": found.areas,
            "find-tissue": found.found,
        }
        for name, array in names.items():
            assert array.name.startswith(f"{name}-"), array.name
            assert array.name in array.__dask_graph__().layers


@st.composite
def chunked(draw):
    """Draw an image, and the same as a dask array with any chunks, also empty ones."""
    image = draw(images())
    rows, columns = draw(chunkings(image.shape))
    rows = (*rows, 0) if draw(st.booleans()) else rows
    return image, recorded(image, ((0, *rows), columns), [])


@given(chunked(), st.integers(3, 30), st.floats(0.5, 6), seeds)
def test_results_do_not_depend_on_the_chunks_of_the_source(pair, tile, ratio, seed):
    whole, array = (ds.from_dask(one) for one in pair)
    found = ds.blank_map(whole, tile_size=tile)
    blank = np.random.default_rng(seed).random(found.shape) < 0.5
    blank[0, 0] = False
    found = found.with_blank(blank)
    results = []
    for slide in (whole, array):
        cut = ds.cutoff_resize(slide, downsample=ratio, blank_map=found).image
        results.append(
            [
                ds.blank_map(slide, tile_size=tile, detector=ds.Contrast(0.05)).statistics,
                ds.blank_map(slide, tile_size=tile).areas,
                slide.to_dask(chunks=tile),
                ds.resize(slide, downsample=ratio).to_dask(chunks=tile),
                cut.to_dask(chunks=tile),
                ds.resize(cut, downsample=1.5).data,
            ]
        )
    for expected, got in zip(
        *(dask.compute(*one, scheduler="sync") for one in results), strict=True
    ):
        assert np.array_equal(expected, got)


def test_blocks_between_the_pieces_of_a_cutoff_are_not_computed():
    image = noise(1000, 400, 3)
    computed = []
    array = recorded(image, (100, 100), computed)
    found = ds.blank_map(image, tile_size=100)
    blank = np.ones((10, 4), bool)
    blank[[0, 9], 1] = False
    cut = ds.cutoff_resize(array, downsample=2, blank_map=found.with_blank(blank)).image
    assert np.array_equal(
        cut.data.compute(scheduler="sync"),
        ds.resize(
            np.concatenate((image[:100, 100:200], image[900:, 100:200])), downsample=2
        ).data.compute(),
    )
    assert sorted(computed) == [(0, 1), (9, 1)]


@pytest.mark.parametrize("downsample", [1, 2])
def test_blocks_between_islands_are_not_computed(downsample):
    image = noise(1000, 400, 3)
    computed = []
    array = recorded(image, (100, 100), computed)
    found = ds.blank_map(image, tile_size=50).compute()
    blank = np.ones((20, 8), bool)
    blank[0, 1] = blank[1, 2] = blank[19, 7] = False  # two diagonal cells, and one far away
    options = {"downsample": downsample, "blank_map": found.with_blank(blank)}
    cut = ds.cutoff_resize(array, **options, layout="islands").image
    expected = ds.cutoff_resize(image, **options, layout="islands").image
    assert cut.data.npartitions == 1
    assert np.array_equal(cut.data.compute(scheduler="sync"), expected.data.compute())
    assert sorted(computed) == [(0, 0), (0, 1), (9, 3)]
    if downsample > 1:  # pixels of gutters need their neighbours
        return
    gutter = np.argwhere((np.asarray(cut) == 255).all(axis=-1))[0]
    pixel = cut.to_dask(chunks=1).blocks[tuple(gutter)]
    del computed[:]
    assert (pixel.compute(scheduler="sync") == 255).all() and not computed


def test_tiles_of_the_same_source_blocks_are_one_task():
    computed = []
    array = recorded(noise(240, 240, 3), (120, 80), computed)
    pack = ds.pack_tiles(array, tile_size=40, detector=ds.Contrast(0.35))
    assert pack.tiles.chunks[0] == (2,) * 18  # two tiles of a row lie in each block
    del computed[:]
    pack.tiles.compute(scheduler="sync")
    assert len(computed) == 6


@pytest.mark.parametrize("chunk", [150, 512, 2000])
@pytest.mark.parametrize("downsample", [1, 3.3])
def test_a_task_takes_no_more_memory_than_estimated(chunk, downsample):
    source = da.full((2000, 2000, 3), 7, dtype="uint16", chunks=(chunk, chunk, 3))
    small = ds.resize(source.map_blocks(np.array), downsample=downsample)
    sides = default_chunks(small.source, 0)
    block = small.to_dask(chunks=sides).blocks[0, 0]
    block.compute(scheduler="sync")  # imports
    tracemalloc.start()
    try:
        shape = block.compute(scheduler="sync").shape
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= task_bytes(small.source, 0, Region(0, 0, *shape[:2])) + 1_000_000  # the graph
