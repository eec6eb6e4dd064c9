import pickle

import numpy as np
import pytest
import tifffile
from bad_tiles import spoil
from rw_fixtures import smooth

import dask_slides as ds
from dask_slides import feed
from dask_slides.errors import (
    BlankSlideError,
    BlankSlideWarning,
    SlideArgumentError,
    TileDecodeError,
)

SIZE = 32


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Return the paths and the images of three slides, the last of which is glass."""
    folder = tmp_path_factory.mktemp("slides")
    images = [smooth(400, 500, 0), smooth(300, 260, 1), np.full((200, 200, 3), 240, np.uint8)]
    paths = [str(folder / f"s{n}.tif") for n in range(3)]
    for path, image in zip(paths, images, strict=True):
        tifffile.imwrite(path, image, tile=(64, 64), compression="zlib", photometric="rgb")
    return paths, images


def maps_of(paths):
    """Return blank maps in which a slide is tissue from row 64 on."""
    maps = []
    for path in paths:
        found = ds.blank_map(path, tile_size=16)
        blank = np.zeros(found.shape, bool)
        blank[:4] = True
        maps.append(found.with_blank(blank))
    return maps


def test_tiles_of_slides_and_packs_are_those_of_the_images(slides, tmp_path):
    paths, images = slides
    first, second = maps_of(paths[:2])
    pack = ds.pack_tiles(paths[1], tile_size=SIZE, downsample=1, blank_map=second)
    stored = ds.write(pack, tmp_path / "s1.tiles.zarr")
    data = feed.SlideDataset(
        [paths[0], stored, pack], size=SIZE, downsample=1, blank_maps={"s0.tif": first},
        labels=["a", "b", "b"], transform=lambda pixels: pixels[::-1],
    )  # fmt: skip
    assert len(data) == 10 * 15 + 2 * 7 * 8
    assert data.labels.tolist() == ["a"] * 150 + ["b"] * 112
    for item in (*data.__getitems__(range(0, len(data), 3)), data[-1]):
        image = images[0 if item["slide"] == "s0.tif" else 1]
        y, x = item["y"], item["x"]
        assert np.array_equal(item["pixels"][::-1], image[y : y + SIZE, x : x + SIZE])
        assert item["label"] == ("a" if item["slide"] == "s0.tif" else "b")
    assert [item["number"] for item in data.__getitems__([200, 3, 200])] == [200, 3, 200]
    with pytest.raises(IndexError, match="there is no tile 262 in a dataset of 262"):
        data[262]


def test_a_batch_decodes_each_tile_once(slides, reads):
    paths, _ = slides
    data = feed.SlideDataset(paths[:1], size=128, downsample=1, blank_maps=maps_of(paths[:1]))
    del reads[:]
    data.__getitems__(range(len(data)))
    tiles = {(part.y // 64, part.x // 64) for part in reads}
    assert len(reads) == len(tiles) == 6 * 6


def test_a_pickle_has_paths_and_numbers_only(slides):
    paths, _ = slides
    data = feed.SlideDataset(paths[:2], size=SIZE, downsample=1, blank_maps=maps_of(paths[:2]))
    expected = data[7]["pixels"]
    packed = pickle.dumps(data)
    assert len(packed) < 20_000
    assert np.array_equal(pickle.loads(packed)[7]["pixels"], expected)


def test_corrupt_tiles_are_left_out_counted_and_named(slides, tmp_path, caplog):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, slides[1][0], tile=(64, 64), compression="zlib", photometric="rgb")
    found = maps_of([path])
    spoil(path, corrupt=[8, 17])
    data = feed.SlideDataset(path, size=SIZE, downsample=1, blank_maps=found)
    items = data.__getitems__(range(len(data)))
    assert len(items) == len(data) - 8 and data.skipped == 8
    bad = {(64 + dy, dx) for dy in (0, 32) for dx in (0, 32)}
    bad |= {(128 + dy, 64 + dx) for dy in (0, 32) for dx in (0, 32)}
    assert not bad & {(item["y"], item["x"]) for item in items}
    assert sum("a.tif: level 0" in record.message for record in caplog.records) == 2
    with pytest.raises(TileDecodeError, match=r"a\.tif: tile 0 is corrupt"):
        data[0]
    data.__getitems__(range(len(data)))  # names them once
    assert sum("a.tif: level 0" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("detector", [ds.Tissue(), ds.Contrast(0)], ids=repr)
def test_corrupt_tiles_do_not_end_the_search_for_tissue(tissue, tmp_path, detector):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue, tile=(64, 64), compression="zlib", photometric="rgb")
    spoil(path, corrupt=[10])
    slide = ds.open_slide(path, mpp=4.0)
    data = feed.SlideDataset(slide, size=SIZE, downsample=1, detector=detector)
    items = data.__getitems__(range(len(data)))
    assert len(items) > 10
    for item in items:
        y, x = item["y"], item["x"]
        assert (y // 64, x // 64) != (1, 3)
        assert np.array_equal(item["pixels"], tissue[y : y + SIZE, x : x + SIZE])


def test_numbers_count_from_the_end_too_and_are_checked(slides):
    data = feed.SlideDataset(
        slides[0][:1], size=SIZE, downsample=1, blank_maps=maps_of(slides[0][:1])
    )
    last, first = data.__getitems__([-1, np.int64(0)])
    assert (last["number"], first["number"]) == (len(data) - 1, 0)
    for numbers in ([len(data)], [-len(data) - 1]):
        with pytest.raises(IndexError, match="there is no tile"):
            data.__getitems__(numbers)
    with pytest.raises(TypeError):
        data.__getitems__([1.7])


def test_tiles_of_a_damaged_shard_are_left_out(slides, tmp_path):
    paths, _ = slides
    pack = ds.pack_tiles(paths[1], tile_size=SIZE, downsample=1, blank_map=maps_of(paths[1:2])[0])
    path = ds.write(pack, tmp_path / "a.tiles.zarr")
    (shard,) = (tmp_path / "a.tiles.zarr" / "tiles" / "c").rglob("0/0/0/0")
    data = bytearray(shard.read_bytes())
    data[100:110] = bytes(10)
    shard.write_bytes(data)
    opened = feed.SlideDataset(path)
    assert len(opened.__getitems__(range(len(opened)))) == len(opened) - 1


def test_classes_of_tiles_come_with_them(slides):
    paths, _ = slides
    image = np.zeros((100, 125), np.uint8)
    image[:50] = 1
    labels = ds.label_mask(image, (400, 500), {1: "upper"})
    data = feed.SlideDataset(
        paths[0], size=SIZE, downsample=1, blank_maps=maps_of(paths[:1]), annotations=[labels]
    )
    for item in data:
        # the tile at 192 has 8 of 32 rows in the class
        assert item["class"] == ("upper" if item["y"] < 192 else "")


@pytest.mark.parametrize("shape", [(1200, 1400), (1203, 1405)])
def test_reduced_tiles_are_means_of_pixels(tmp_path, shape):
    path = tmp_path / "a.tif"
    image = smooth(*shape)
    tifffile.imwrite(path, image, tile=(64, 64), compression="zlib", photometric="rgb")
    slide = ds.open_slide(path, mpp=0.25)
    whole = ds.blank_map(slide, tile_size=16)
    whole = whole.with_blank(np.zeros(whole.shape, bool))
    data = feed.SlideDataset(slide, size=SIZE, mpp=1.0, blank_maps=[whole], reduced=True)
    items = data.__getitems__(range(0, len(data), 7))
    for item in items:
        y, x = round(item["y"] / 4), round(item["x"] / 4)
        box = image[4 * y : 4 * y + 4 * SIZE, 4 * x : 4 * x + 4 * SIZE]
        means = box.reshape(SIZE, 4, SIZE, 4, 3).mean(axis=(1, 3))
        assert np.abs(item["pixels"] - means).max() <= 0.5
    assert len(items) > 10


def test_empty_and_unequal_slides_are_named(slides):
    paths, images = slides
    options = {"size": SIZE, "downsample": 1, "detector": ds.Contrast(0.05)}
    with pytest.warns(BlankSlideWarning, match=r"s2\.tif"):
        data = feed.SlideDataset(paths, **options)
    assert data.left_out == ("s2.tif",) and data.slides == ("s0.tif", "s1.tif")
    with (
        pytest.warns(BlankSlideWarning),
        pytest.raises(BlankSlideError, match=r"s2\.tif: no slide has a tile"),
    ):
        feed.SlideDataset(paths[2:], **options)
    grey = ds.from_dask(images[0][..., 0])
    with pytest.raises(SlideArgumentError, match=r"dask array: its tiles are \(32, 32, 1"):
        feed.SlideDataset([paths[0], grey], **options)
    with pytest.raises(SlideArgumentError, match=r"s0\.tif: tiles of a slide need size="):
        feed.SlideDataset(paths[:1])
