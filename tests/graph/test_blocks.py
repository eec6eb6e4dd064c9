"""Graphs have few tasks, one layer and a few kilobytes; tasks read each pixel once."""

import os
import pickle
import tracemalloc

import cloudpickle
import dask
import numpy as np
import pytest
import tifffile
from dask._task_spec import Alias
from dask.base import tokenize
from rw_fixtures import bytes_read, noise, sparse_tiff, tissue

import dask_slides as ds
from dask_slides.core.geometry import Region, bounds
from dask_slides.graph.blocks import ReadBlock
from dask_slides.graph.chunks import default_chunks, task_bytes
from dask_slides.ops.pack import pack_at
from dask_slides.writers.image_plan import plan_image
from dask_slides.writers.images import plan_that_fits, task_bytes_of_image
from dask_slides.writers.labels import tissue_label
from dask_slides.writers.packs import shard_tasks
from dask_slides.writers.pyramid import stage_array, stage_task

ATLAS = 102_400


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    path = sparse_tiff(
        tmp_path_factory.mktemp("atlas") / "a.tif",
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
    )
    return ds.open_slide(path)


def check(array, layers=1):
    """Check the size of a graph, and that dask computes a block in one task."""
    assert array.npartitions <= 1000
    assert len(cloudpickle.dumps(array)) <= 100_000
    graph = array.__dask_graph__()
    assert len(graph.layers) == layers
    assert len(dict(graph)) == layers * array.npartitions
    tasks = dict(dask.optimize(array)[0].dask).values()
    assert sum(not isinstance(task, Alias) for task in tasks) == array.npartitions
    return array.npartitions


@pytest.fixture(scope="module")
def atlas_map(atlas):
    """Return a blank map of the atlas with tissue in the middle, without reading pixels."""
    lazy = ds.blank_map(atlas, tile_size=512)
    row, column = np.mgrid[: lazy.shape[0], : lazy.shape[1]]
    inside = ((row // 7 + column // 5) % 2 == 0) & (row > 20) & (row < 180) & (column % 50 > 7)
    found = lazy.with_blank(~inside)
    np.testing.assert_array_equal(found.blank, ~inside)
    return found


SCALES = {
    "downsample": {"downsample": 10},
    "a little": {"downsample": 1.1},
    "enlarged": {"downsample": 0.5},
    "mpp": {"mpp": 1.3},
    "max_size": {"max_size": 3000},
    "shape": {"shape": (777, 999)},
    "ladder": {},
    "one pixel": {"shape": (1, 1)},
}


def test_blank_map_of_the_atlas(atlas):
    contrast = ds.Contrast(0.05)
    assert check(ds.blank_map(atlas, tile_size=2560, detector=contrast).blank, layers=2) > 100
    assert check(ds.blank_map(atlas, tile_size=256, detector=contrast).blank, layers=2) > 100
    small = ds.blank_map(atlas, tile_size=(1000, 37), detector=contrast)
    assert check(small.statistics) > 100


@pytest.mark.parametrize("scale", SCALES)
def test_resize_of_the_atlas(atlas, scale):
    image = ds.resize(atlas, **SCALES[scale])
    check(image.data)
    if scale == "ladder":
        assert image.shape == (10_240, 10_240, 3)


@pytest.mark.parametrize("scale", SCALES)
def test_cutoff_of_the_atlas(atlas, atlas_map, scale):
    cut = ds.cutoff_resize(atlas, blank_map=atlas_map, **SCALES[scale])
    check(cut.image.data)
    assert cut.layout.rows.length < ATLAS


@pytest.mark.parametrize("chunks", [None, 5000, (4096, 8192)])
def test_to_dask_of_the_atlas(atlas, chunks):
    assert check(atlas.to_dask(chunks=chunks)) > 50


@pytest.mark.parametrize("order", ["grid", "random"])
@pytest.mark.parametrize("downsample", [1, 2])
def test_tiles_of_the_atlas(atlas, order, downsample):
    image = ds.resize(atlas, downsample=downsample)
    step = 512 * downsample
    yx = np.stack(np.mgrid[0 : ATLAS - step + 1 : step, 0 : ATLAS - step + 1 : step], axis=-1)
    yx = yx.reshape(-1, 2) // downsample
    if order == "random":
        yx = np.random.default_rng(0).integers(0, image.shape[0] - 512, (10_000, 2))
    pack = pack_at(atlas, image, yx, (512, 512), np.zeros(len(yx)), {}, 255)
    assert pack.tiles.shape == (len(yx), 512, 512, 3)
    check(pack.tiles)
    np.testing.assert_array_equal(np.stack([pack.y, pack.x], axis=1), yx * downsample)
    # tasks that write them
    written = shard_tasks(pack, "/nowhere/tiles", 40)
    check(written)


def test_writing_the_atlas(atlas, atlas_map):
    for image in (atlas, ds.resize(atlas, downsample=10)):
        cut = ds.cutoff_resize(image if image is atlas else atlas, blank_map=atlas_map)
        for slide, label in [
            (image, None),
            (cut.image, tissue_label(atlas_map, cut.layout, cut.factors)),
        ]:
            plan = plan_that_fits(slide)
            parts = (plan, plan.stages[0], slide.source, "/nowhere", label, slide.dtype)
            blocks = stage_array(stage_task(*parts), slide.source)
            check(blocks)
            assert plan.tasks <= 1000


def test_a_task_writes_two_shards_where_pixels_are_read_at_a_fraction(atlas):
    """One after the other: there are half as many tasks, each with the memory for one shard."""
    tenth = ds.resize(atlas, downsample=10)
    usual = plan_that_fits(tenth)
    assert (usual.stages[0].blocks_per_read, usual.stages[0].reads_per_task) == (1, 2)
    alone = plan_image(tenth.shape[:2], 10)
    assert usual.levels == alone.levels
    assert usual.tasks < 0.6 * alone.tasks
    assert task_bytes_of_image(usual, tenth) == task_bytes_of_image(alone, tenth)


def test_a_block_of_the_atlas_is_computed_alone(atlas):
    small = ds.resize(atlas, downsample=100).data
    assert (np.asarray(small.blocks[0, 0].compute(scheduler="sync")) == 255).all()


def test_planning_reads_nothing(atlas, atlas_map):
    ds.resize(atlas, downsample=10).data  # noqa: B018 - imports
    before = bytes_read()
    ds.resize(atlas, downsample=10).data  # noqa: B018
    ds.blank_map(atlas)
    atlas.data  # noqa: B018
    ds.cutoff_resize(atlas, blank_map=atlas_map)
    assert bytes_read() - before < 10_000


def test_pickled_slides_are_small(atlas, atlas_map, tmp_path):
    cut = ds.cutoff_resize(atlas, downsample=3, blank_map=atlas_map).image
    for slide in (atlas, ds.resize(atlas, downsample=10), cut, ds.resize(cut, downsample=2)):
        data = pickle.dumps(slide)
        assert len(data) < 20_000
        copy = pickle.loads(data)
        assert copy == slide
        assert tokenize(copy) == tokenize(slide)
        assert (copy.shape, copy.mpp_yx, copy.levels) == (slide.shape, slide.mpp_yx, slide.levels)
    assert (pickle.loads(pickle.dumps(cut)).read(0, 0, 3, 3) == 255).all()


def test_tokens_change_with_the_file(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64))
    os.utime(path, ns=(5, 5))
    first, again = ds.open_slide(path), ds.open_slide(path)
    assert first.data.name == again.data.name
    assert tokenize(first) == tokenize(again)
    os.utime(path, ns=(6, 6))  # same size, another time
    changed = ds.open_slide(path)
    assert changed.data.name != first.data.name
    assert tokenize(changed) != tokenize(first)
    other = ds.open_slide(path, fill=9)
    assert other.data.name != changed.data.name


def test_different_operations_have_different_names(atlas):
    names = {
        ds.resize(atlas, downsample=10).data.name,
        ds.resize(atlas, downsample=10, kernel="area").data.name,
        ds.resize(atlas, downsample=10, gap=None).data.name,
        ds.resize(atlas, downsample=11).data.name,
        atlas.data.name,
        atlas.to_dask(chunks=5000).name,
        ds.blank_map(atlas).blank.name,
        ds.blank_map(atlas).unknown.name,
        ds.blank_map(atlas, min_tissue=0.1).blank.name,
        ds.blank_map(atlas, tile_size=999).blank.name,
        ds.blank_map(atlas, detector=ds.Tissue(mpp=16)).blank.name,
        ds.blank_map(atlas, detector=ds.Tissue(min_area=1)).blank.name,
        ds.blank_map(atlas, detector=ds.Contrast(0.05)).blank.name,
        ds.blank_map(atlas, detector=ds.Contrast(0.1)).blank.name,
    }
    assert len(names) == 14
    assert ds.resize(atlas, downsample=10).data.name in names


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    image = tissue(1500, 1300)
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), compression="zlib")
    return ds.open_slide(path)


def times_read(regions, shape=(1500, 1300)):
    count = np.zeros(shape, int)
    for region in regions:
        count[region.slices()] += 1
    return count


def test_a_blank_map_reads_each_pixel_once(slide, reads):
    ds.blank_map(slide, tile_size=100, detector=ds.Contrast(0.05)).compute(scheduler="sync")
    assert (times_read(reads) == 1).all()


def test_pixels_are_read_once(slide, reads):
    slide.data.compute(scheduler="sync")
    assert (times_read(reads) == 1).all()


def test_more_detectors_read_nothing(slide, reads):
    found = ds.blank_map(slide, tile_size=100, detector=ds.Contrast(0.05)).compute()
    tissue = ds.blank_map(slide).compute()
    del reads[:]
    for share in (0, 0.5, 1):
        changed = tissue.with_min_tissue(share).with_tile_size(77).remove_small(9).fill_holes(9)
        changed.polygons()
    for ratio in np.linspace(0, 1, 20):
        found.with_detector(ds.Contrast(float(ratio)))
    assert not reads


def test_writing_reads_each_pixel_once(slide, reads, tmp_path):
    import dask

    with dask.config.set(scheduler="sync"):
        found = ds.blank_map(slide, tile_size=100, detector=ds.Contrast(0.05)).compute()
        ds.write(slide, tmp_path / "a.zarr", blank_map=found)
    count = times_read(reads)
    assert (count == 2).all()  # the map, and the image with all its levels


def test_a_resize_reads_its_halos_at_most_twice(slide, reads):
    for chunks in (None, 64):
        del reads[:]
        ds.resize(slide, downsample=5).to_dask(chunks=chunks).compute(scheduler="sync")
        count = times_read(reads)
        assert count.min() >= 1
        assert count.mean() < (1.6 if chunks is None else 2.5)


def test_a_cutoff_reads_only_its_pixels(slide, reads):
    found = ds.blank_map(slide, tile_size=100)
    blank = np.zeros(found.shape, bool)
    blank[3:6] = True
    blank[:, 2] = True
    cut = ds.cutoff_resize(slide, downsample=1, blank_map=found.with_blank(blank))
    assert not reads
    cut.image.data.compute(scheduler="sync")
    count = times_read(reads)
    assert (count[300:600] == 0).all()
    assert (count[:, 200:300] == 0).all()
    assert count.max() == 1


def test_a_pack_reads_only_its_tiles(slide, reads):
    pack = ds.pack_tiles(slide, tile_size=64)
    assert 0 < len(pack) < (1500 // 64) * (1300 // 64)
    del reads[:]
    pack.tiles.compute(scheduler="sync")
    assert sum(region.area for region in reads) == len(pack) * 64 * 64


@pytest.fixture(scope="module", params=["uint8", "uint16", "float32"])
def deep(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("deep") / "a.tif"
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "zstd"}
    tifffile.imwrite(path, noise(1400, 1600, 3, dtype=request.param), **options)
    return ds.open_slide(path)


def cut_of(slide):
    found = ds.blank_map(slide, tile_size=128)
    blank = np.zeros(found.shape, bool)
    blank[3::5] = True
    blank[:, 2::4] = True
    return found.with_blank(blank)


MEMORY = {
    "plain": lambda slide: slide,
    "resized": lambda slide: ds.resize(slide, downsample=3.3),
    "barely resized": lambda slide: ds.resize(slide, downsample=1.2, gap=None),
    "enlarged": lambda slide: ds.resize(slide, downsample=0.5),
    "cut": lambda slide: ds.cutoff_resize(slide, downsample=1, blank_map=cut_of(slide)).image,
    "cut and resized": lambda slide: (
        ds.cutoff_resize(slide, downsample=2.2, blank_map=cut_of(slide)).image
    ),
    "resized twice": lambda slide: ds.resize(ds.resize(slide, downsample=2.5), downsample=1.7),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_a_task_takes_no_more_memory_than_estimated(deep, kind):
    made = MEMORY[kind](deep)
    source = made.source
    height, width = (min(n, s) for n, s in zip(made.shape, default_chunks(source, 0), strict=False))
    task = ReadBlock(0, bounds((height,)), bounds((width,)))
    source.read(0, Region(0, 0, 16, 16))  # opens the file, imports the codec
    tracemalloc.start()
    try:
        result = task(source, (0, 0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.shape == (height, width, 3)
    estimate = task_bytes(source, 0, Region(0, 0, height, width))
    assert peak <= estimate + 200_000  # for Python objects
