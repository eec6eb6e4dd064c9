"""Finding tissue: same from files and arrays, one decode per tile, few tasks, bounded memory."""

import tracemalloc
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
from dask._task_spec import Alias
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunkings

import dask_slides as ds
from dask_slides.graph import tissue as graph_tissue
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tile_cache import TILE_CACHE


def section(side, dtype="uint8", channels=3, seed=0):
    """Return a stained piece of tissue in the middle of a white or, for others, dark image."""
    rng = np.random.default_rng(seed)
    inside = np.zeros((side, side), bool)
    inside[side // 4 : side // 2, side // 5 : side * 3 // 4] = True
    if dtype == "uint8" and channels == 3:
        image = rng.integers(238, 243, (side, side, 3))
        stain = np.array([150, 60, 140]) + rng.integers(-30, 30, (side, side, 1))
    else:
        image = rng.integers(4, 9, (side, side, channels))
        stain = rng.integers(90, 200, (side, side, channels))
    image[inside] = np.broadcast_to(stain, image.shape)[inside]
    scale = np.iinfo(dtype).max // 255 if np.dtype(dtype).kind == "u" else 1 / 255
    return (image * scale).astype(dtype), inside


def test_the_areas_of_cells_are_those_of_the_mask_at_level_0(tmp_path):
    image, inside = section(1500)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), compression="jpeg")
    lazy = ds.blank_map(ds.open_slide(path, mpp=4), tile_size=(70, 130))
    found = lazy.compute()
    mask = found.mask
    repeats = np.diff(mask.y_edges), np.diff(mask.x_edges)
    whole = mask.tissue.repeat(repeats[0], axis=0).repeat(repeats[1], axis=1)
    assert whole.shape == (1500, 1500)
    assert (whole != inside).mean() < 0.02
    for y in range(0, 1500, 70):
        for x in range(0, 1500, 130):
            part = whole[y : y + 70, x : x + 130]
            area = part.sum(), 0, part.size
            assert tuple(found.areas[y // 70, x // 130]) == area
    assert np.array_equal(lazy.areas.compute(), found.areas)


@settings(max_examples=8)
@given(st.data(), st.integers(20, 400))
def test_tissue_does_not_depend_on_the_chunks_of_an_array(data, tile):
    image, _ = section(400)
    rows, columns = data.draw(chunkings(image.shape))
    array = da.from_array(image, chunks=(rows, columns, data.draw(st.sampled_from([1, 2, 3]))))
    maps = [ds.blank_map(ds.from_dask(one, mpp=4), tile_size=tile) for one in (image, array)]
    one, two = (found.compute(scheduler="sync") for found in maps)
    assert np.array_equal(one.mask.kinds, two.mask.kinds) and one.mask.tissue.any()
    assert np.array_equal(one.mask.grey, two.mask.grey)
    assert np.array_equal(one.areas, two.areas) and one.detector == two.detector


def test_a_file_and_its_pixels_have_the_same_tissue(tmp_path):
    image, _ = section(900)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), compression="zlib")
    slides = ds.open_slide(path, mpp=8), ds.from_dask(da.from_array(image, chunks=250), mpp=8)
    one, two = (ds.blank_map(slide).compute() for slide in slides)
    assert np.array_equal(one.mask.kinds, two.mask.kinds)
    assert np.array_equal(one.areas, two.areas) and 0.1 < one.tissue_share < 0.2


@pytest.fixture
def decodes(monkeypatch):
    """Count decodes by (tile of level 0 or of a smaller level, factor), on one thread."""
    counts, decode = Counter(), TileDecoder.__call__

    def count(self, number, data, factor, into=None):
        counts[id(self), number, factor] += 1
        return decode(self, number, data, factor, into)

    TILE_CACHE.clear()
    monkeypatch.setattr(TileDecoder, "__call__", count)
    with dask.config.set(scheduler="sync"):
        yield counts


@pytest.mark.parametrize("pyramid", [False, True])
def test_each_tile_is_decoded_at_most_once(tmp_path, decodes, pyramid):
    side, tile = 4096, 256
    path = ds.sample_slide(tmp_path / "a.tif", shape=(side, side), tile=tile, pyramid=pyramid)
    slide = ds.open_slide(path)
    level = 4 if pyramid else 1  # the pyramid has a level of the size of the picture
    decodes.clear()
    found = ds.blank_map(slide).compute()
    assert len(decodes) == (side // tile // level) ** 2
    assert set(decodes.values()) == {1}
    assert {factor for _, _, factor in decodes} == ({1} if pyramid else {4})
    decodes.clear()
    TILE_CACHE.clear()
    pack = ds.pack_tiles(slide, tile_size=tile, downsample=1, blank_map=found)
    crops = ds.random_crops(slide, n=5, size=100, blank_map=found)
    assert not decodes and len(crops) == 5
    pack.tiles.compute()
    assert 0 < len(pack) == len(decodes) < (side // tile) ** 2
    assert set(decodes.values()) == {1}


def test_all_arrays_of_a_map_share_one_search(monkeypatch):
    """Dask must not fuse the search into the tasks that measure the mask."""
    calls, search = [], graph_tissue.found_in_picture
    monkeypatch.setattr(
        graph_tissue, "found_in_picture", lambda *args: (calls.append(1), search(*args))[1]
    )
    image, _ = section(2000)
    found = ds.blank_map(ds.from_dask(image, mpp=4), tile_size=7)
    assert found.areas.npartitions > 1
    dask.compute(found.blank, found.unknown, found.areas, found.tissue_fraction, scheduler="sync")
    assert len(calls) == 1


def test_a_large_map_has_few_tasks(tmp_path):
    path = ds.sample_slide(tmp_path / "a.tif", shape=(8192, 8192), tile=256)
    found = ds.blank_map(path, tile_size=16)
    graph = dict(dask.optimize(found.areas)[0].dask)
    tasks = sum(not isinstance(task, Alias) for task in graph.values())
    pictures = sum(key[0].startswith("overview") for key in found.found.dask.to_dict())
    assert pictures <= 64
    assert tasks <= pictures + found.areas.npartitions + 2  # join the picture, search it
    assert found.areas.npartitions <= 1000


LAYOUTS = {"tiles": {"tile": (256, 256)}, "strips": {"rowsperstrip": 64}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [("uint8", 3), ("uint8", 1), ("uint16", 3), ("uint16", 9), ("float32", 3), ("float64", 5)],
)
def test_a_map_takes_no_more_memory_than_promised(tmp_path, dtype, channels, layout):
    """The peak of one thread, which holds the whole picture, is that of the largest task."""
    image, inside = section(1100, dtype, channels)
    path = tmp_path / "a.tif"
    planar = {} if channels in (1, 3) else {"planarconfig": "contig"}
    tifffile.imwrite(path, image, compression="zstd", **LAYOUTS[layout], **planar,
                     photometric="rgb" if channels == 3 else "minisblack")  # fmt: skip
    slide = ds.open_slide(path, mpp=4)
    found = ds.blank_map(slide, tile_size=100)
    slide.read(0, 0, 16, 16)  # opens the file, imports the codec
    ds.blank_map(ds.from_dask(image[:64, :64], mpp=4)).compute(scheduler="sync")  # imports
    TILE_CACHE.clear()
    tracemalloc.start()
    try:
        computed = found.compute(scheduler="sync")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= found.task_bytes
    assert computed.tissue_share == pytest.approx(inside.mean(), rel=0.1)
