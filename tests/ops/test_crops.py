import dask.array as da
import numpy as np
import oracle
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunkings, seeds

import dask_slides as ds
from dask_slides.ops import crops as crops_module
from dask_slides.readers.codecs.byte_codecs import ByteDecoder

DETECTOR = ds.Contrast(0.1)


def is_blank(tile, ratio=0.1):
    return tile.std(dtype=np.float64) <= ratio * tile.mean(dtype=np.float64)


@settings(max_examples=4)
@given(seeds, st.integers(1, 4), st.tuples(st.integers(1, 60), st.integers(1, 60)), st.data())
def test_crops_are_dense_slices_inside_the_image_for_any_chunks(tissue, seed, n, size, data):
    whole = ds.random_crops(ds.from_dask(tissue), n=n, size=size, seed=seed, detector=DETECTOR)
    y, x = whole.y, whole.x
    assert len(whole) == n and y.dtype == x.dtype == np.int64
    assert (y >= 0).all() and (x >= 0).all()
    assert (y + size[0] <= 300).all() and (x + size[1] <= 420).all()
    expected = oracle.tiles_at(tissue, y, x, size)
    assert not any(is_blank(tile) for tile in expected)
    assert np.allclose(whole.score, expected.reshape(n, -1).std(axis=1), rtol=1e-9)
    chunks = (*data.draw(chunkings(tissue.shape)), 3)
    other = ds.random_crops(
        da.from_array(tissue, chunks=chunks), n=n, size=size, seed=seed, detector=DETECTOR
    )
    assert np.array_equal(other.y, y) and np.array_equal(other.x, x)
    assert np.array_equal(other.score, whole.score)
    assert np.array_equal(other.tiles.compute(scheduler="sync"), expected)


def test_the_seed_decides_the_crops(tissue_tiff):
    def draw(seed):
        pack = ds.random_crops(tissue_tiff, n=20, size=32, seed=seed, detector=DETECTOR)
        return list(zip(pack.y.tolist(), pack.x.tolist(), strict=True))

    assert draw(1) == draw(1) == draw(np.int64(1)) != draw(2)
    assert len(set(draw(1))) > 10


def test_the_centre_of_a_crop_lies_in_a_dense_cell(tissue, tissue_tiff):
    pack = ds.random_crops(tissue_tiff, n=200, size=30, seed=8, detector=DETECTOR)
    dense = ~oracle.contrast_blank(tissue, (30, 30), 0.1)
    assert dense[(pack.y + 15) // 30, (pack.x + 15) // 30].all()
    assert len(set((pack.y % 30).tolist())) > 20  # not on a grid


def test_crops_come_from_every_dense_cell(tissue, tissue_tiff):
    pack = ds.random_crops(tissue_tiff, n=400, size=60, seed=5, detector=DETECTOR)
    dense = ~oracle.contrast_blank(tissue, (60, 60), 0.1)
    seen = np.zeros_like(dense)
    seen[(pack.y + 30) // 60, (pack.x + 30) // 60] = True
    assert dense.sum() > 5 and seen[dense].all()


def test_a_single_dense_tile_is_found_even_if_no_draw_hits_it():
    image = np.full((200, 200, 1), 240, np.uint8)
    image[120:140:2, 60:80] = 0
    image[120:140, 60:80:5] = 0
    assert not is_blank(image[120:140, 60:80], 1.0)
    pack = ds.random_crops(ds.from_dask(image), n=7, size=20, seed=0, detector=ds.Contrast(1.0))
    assert len(pack) == 7
    for tile in oracle.tiles_at(image, pack.y, pack.x, (20, 20)):
        assert not is_blank(tile, 1.0)


def test_a_pooled_detector_uses_the_threshold_of_the_slide_for_crops(tissue):
    from skimage.filters import threshold_otsu

    pack = ds.random_crops(ds.from_dask(tissue), n=30, size=25, seed=1, detector=ds.Otsu(0.2))
    threshold = threshold_otsu(tissue.ravel())
    for tile in oracle.tiles_at(tissue, pack.y, pack.x, (25, 25)):
        assert (tile <= threshold).mean() > 0.2


def test_crops_at_a_scale_are_slices_of_the_resized_slide(tissue):
    slide = ds.from_dask(tissue, mpp=0.5)
    pack = ds.random_crops(slide, n=9, size=(20, 30), seed=4, downsample=2, detector=DETECTOR)
    small = oracle.pillow_resize(tissue, (150, 210), "lanczos")
    expected = oracle.tiles_at(small, pack.y // 2, pack.x // 2, (20, 30))
    assert np.array_equal(pack.tiles.compute(), expected)
    assert (pack.y % 2 == 0).all() and pack.mpp == 1.0
    same = ds.random_crops(slide, n=9, size=(20, 30), seed=4, mpp=1.0, detector=DETECTOR)
    assert np.array_equal(same.y, pack.y) and np.array_equal(same.x, pack.x)


def test_attributes_hold_the_seed(tissue_tiff):
    pack = ds.random_crops(tissue_tiff, n=2, size=(20, 30), seed=11, detector=DETECTOR)
    assert pack.attributes["seed"] == 11 and pack.attributes["tile_size"] == [20, 30]
    assert pack.attributes["source_shape"] == [300, 420, 3]
    assert pack.attributes["stride"] is None


def test_attributes_hold_the_share_of_tissue_as_those_of_a_pack(tissue_tiff):
    found = ds.blank_map(tissue_tiff, tile_size=50).with_blank(np.zeros((1, 1), bool))
    for decides, expected in (({"blank_map": found}, 0.3), ({"detector": DETECTOR}, None)):
        crops = ds.random_crops(tissue_tiff, n=2, size=20, min_tissue=0.3, **decides)
        pack = ds.pack_tiles(tissue_tiff, tile_size=20, min_tissue=0.3, **decides)
        for one in (crops, pack):
            assert one.attributes.get("min_tissue") == expected


def test_the_file_lists_its_absent_tiles_once_for_all_rounds(tmp_path, monkeypatch):
    tifffile.imwrite(
        tmp_path / "a.tif",
        iter([b"", *[bytes(64 * 64)] * 35]),
        shape=(384, 384), dtype="uint8", tile=(64, 64), metadata=None,
    )  # fmt: skip
    slide = ds.open_slide(tmp_path / "a.tif")
    blank = np.random.default_rng(0).random((96, 96)) < 0.6
    found = ds.blank_map(slide).with_blank(blank)
    calls, holes = [], type(slide.source).holes

    def count(self, level, region):
        calls.append(region)
        return holes(self, level, region)

    monkeypatch.setattr(type(slide.source), "holes", count)
    rounds, draw = [], crops_module._MaskCrops._draw_round
    monkeypatch.setattr(
        crops_module._MaskCrops, "_draw_round", lambda *args: rounds.append(1) or draw(*args)
    )
    pack = ds.random_crops(slide, n=20, size=16, min_tissue=0.6, blank_map=found)
    assert len(rounds) > 2 and len(calls) == 1
    assert ((pack.y >= 64) | (pack.x >= 64)).all()


def test_a_crop_may_be_the_whole_image(tissue):
    pack = ds.random_crops(ds.from_dask(tissue), n=2, size=(300, 420), detector=DETECTOR)
    assert np.array_equal(pack.tiles.compute(), np.stack([tissue, tissue]))


def test_a_blank_slide_gives_no_crops_and_a_warning():
    glass = np.full((80, 60, 3), 240, np.uint8)
    for options, name in (({}, "Tissue"), ({"detector": ds.Contrast(0.35)}, "Contrast")):
        with pytest.warns(ds.errors.BlankSlideWarning, match=f"is blank under {name}") as caught:
            pack = ds.random_crops(glass, n=5, size=20, **options)
        assert caught[0].filename == __file__
        assert len(pack) == 0 and pack.tiles.compute().shape == (0, 20, 20, 3)


@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
def test_crops_do_not_fit_an_empty_image():
    empty = ds.cutoff_resize(np.full((80, 60, 3), 240, np.uint8)).image
    with pytest.raises(
        ds.errors.SlideArgumentError, match="does not fit the image of 0 x 0 px; use"
    ):
        ds.random_crops(empty, n=5, size=20)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 0},
        {"n": 2.5},
        {"n": "3"},
        {"size": 0},
        {"size": None},
        {"size": (5, 5, 5)},
        {"size": 301},
        {"size": (5, 421)},
        {"size": 151, "downsample": 2},
        {"seed": -1},
        {"seed": None},
        {"seed": [1, 2]},
        {"seed": 1.5},
        {"downsample": -1},
        {"downsample": 2, "mpp": 1},
        {"mpp": 1},
        {"detector": None},
        {"magnification": 20},
        {"magnification": 20, "mpp": 0.5},
        {"min_tissue": 1.1},
        {"min_tissue": "all"},
        {"weights": np.ones((3, 3)), "detector": DETECTOR},
        {"weights": np.full((3, 3), -1)},
        {"weights": np.full((3, 3), np.nan)},
        {"weights": np.ones(3)},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_in_one_line(arguments, tissue):
    with pytest.raises(ds.errors.SlideArgumentError, match=r"; (give|use) ") as caught:
        ds.random_crops(ds.from_dask(tissue), **({"n": 2, "size": 20} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [16, 512])
@pytest.mark.parametrize("n", [4, 64])
def test_small_crops_decode_a_strip_once_per_step(tmp_path, monkeypatch, rows, n):
    """Once for the blank map and once for the crops, except strips that tasks share."""
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", rowsperstrip=rows)
    decoded = []
    real = ByteDecoder.unpacked

    def unpacked(self, data, number):
        decoded.append(number)
        return real(self, data, number)

    monkeypatch.setattr(ByteDecoder, "unpacked", unpacked)
    slide = ds.open_slide(path)
    crops = ds.random_crops(slide, n=n, size=8, detector=ds.Contrast(0.35))
    strips = 512 // rows
    # a crop may lie in two strips, and a strip in two of eight tasks
    limit = 1 if strips == 1 else min(2 * n, strips + 8)
    assert strips <= len(decoded) <= strips + limit
    decoded.clear()
    tiles = crops.tiles.compute()
    assert len(decoded) <= limit
    for y, x, tile in zip(crops.y, crops.x, tiles, strict=True):
        np.testing.assert_array_equal(tile, pixels[y : y + 8, x : x + 8])
