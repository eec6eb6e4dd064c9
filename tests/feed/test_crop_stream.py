import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
from bad_tiles import spoil
from dask.system import CPU_COUNT
from rw_fixtures import smooth
from scipy import stats

import dask_slides as ds
from dask_slides import feed
from dask_slides.errors import (
    BlankSlideError,
    BlankSlideWarning,
    SlideArgumentError,
    SlideNotFoundError,
)
from dask_slides.feed.crop_batches import CHUNK, CropBatches
from dask_slides.feed.crop_reader import CropReader
from dask_slides.readers.tiff import file as tiff_file

SIZE = 32
OPTIONS = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb"}


def tissue_of(seed, shape=(400, 500)):
    """Return smooth tissue with a border of glass."""
    image = smooth(*shape, seed)
    image[:48] = image[:, :48] = 240
    return image


def map_of(slide, image):
    """Return a blank map that has the tissue of `image`, as a mask of 8 px."""
    return ds.blank_map(slide, tile_size=8).with_blank((image == 240).all(axis=2)[4::8, 4::8])


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Return the paths, the images and the blank maps of five slides."""
    folder = tmp_path_factory.mktemp("slides")
    paths, images, maps = [], [], []
    for seed in range(5):
        paths.append(str(folder / f"s{seed}.tif"))
        images.append(tissue_of(seed))
        tifffile.imwrite(paths[-1], images[-1], **OPTIONS)
        maps.append(map_of(paths[-1], images[-1]))
    return paths, images, maps


def stream_of(slides, **options):
    paths, _, maps = slides
    return feed.CropStream(paths, blank_maps=maps, size=SIZE, downsample=1, **options)


def facts(item):
    return tuple(item[name] for name in ("number", "slide", "y", "x", "flip"))


def test_crops_are_pixels_of_their_slides_where_they_say(slides):
    _, images, _ = slides
    stream = stream_of(slides, flips=True, seed=4, labels=list("ababa"))
    items = stream.__getitems__(range(200))
    assert [item["number"] for item in items] == list(range(200))
    assert {item["flip"] for item in items} == {0, 1, 2, 3}
    for item in items:
        image = images[int(item["slide"][1])]
        expected = image[item["y"] : item["y"] + SIZE, item["x"] : item["x"] + SIZE]
        expected = expected[::-1] if item["flip"] & 1 else expected
        expected = expected[:, ::-1] if item["flip"] & 2 else expected
        assert np.array_equal(item["pixels"], expected)
        assert (expected < 240).any(axis=2).mean() >= 0.5
        assert item["label"] == "ababa"[int(item["slide"][1])]


def test_a_crop_depends_on_the_seed_and_its_number_only(slides):
    stream = stream_of(slides, seed=9)
    order = np.random.default_rng(0).permutation(3000)[:200]
    found = {number: facts(stream[int(number)]) for number in order[:20]}
    others = pickle.loads(pickle.dumps(stream)).__getitems__(order.tolist())
    assert all(facts(item) == found[item["number"]] for item in others[:20])
    places = stream.places(order)
    assert places["y"].tolist() == [item["y"] for item in others]
    again = stream_of(slides, seed=10).places(order)
    assert (again["y"] != places["y"]).mean() > 0.9


@pytest.mark.parametrize("numbers", [[-1], [1.5], ["a"], [[1, 2]], 5])
def test_numbers_of_crops_are_checked(slides, numbers):
    stream = stream_of(slides)
    for read in (stream.places, stream.__getitems__):
        with pytest.raises(IndexError, match="there is no crop"):
            read(numbers)


def test_no_numbers_are_no_crops(slides):
    stream = stream_of(slides)
    assert stream.__getitems__([]) == []
    assert all(len(one) == 0 for one in stream.places(range(0)).values())


@pytest.mark.parametrize("per_visit", [1, 8])
def test_killed_and_resumed_runs_see_the_sequence_once(slides, per_visit):
    stream = stream_of(slides, per_visit=per_visit)
    rng = np.random.default_rng(per_visit)
    expected = [facts(item) for item in stream.__getitems__(range(1500))]
    seen, state = [], {"seed": 0, "number": 0}
    while state["number"] < 1000:
        world, size = int(rng.integers(1, 4)), int(rng.integers(1, 17))
        steps = int(rng.integers(1, 9))
        ranks = [
            stream.batches(size, rank=rank, world=world, start=state, window=40, threads=2)
            for rank in range(world)
        ]
        for rank in ranks:
            taken = [batch for _, batch in zip(range(steps), rank, strict=False)]
            names = ("number", "slide", "y", "x", "flip")
            for batch in taken:
                seen += zip(*(np.asarray(batch[n]).tolist() for n in names), strict=True)
        state = ranks[-1].state_dict(taken[-1])
    assert len(seen) == state["number"]
    assert sorted(seen) == expected[: len(seen)]


def test_batches_by_number_are_those_of_iterating(slides):
    stream = stream_of(slides, length=100)
    batches = stream.batches(8, rank=1, world=2, window=32)
    numbers = [batch["number"].tolist() for batch in batches]
    assert len(numbers) == 7 and numbers[1] == list(range(17, 32, 2))
    second = [batch["number"].tolist() for batch in batches]
    assert second[0][0] == numbers[-1][-1] + 2  # the next epoch goes on
    workers = [stream.batches(8, rank=1, world=2, window=32) for _ in range(3)]
    steps = list(workers[0].steps())
    assert [workers[n % 3][n]["number"].tolist() for n in steps] == numbers
    state = batches.state_dict()
    assert state == {"seed": 0, "number": len(numbers + second) * 16}


def test_the_crops_of_a_visit_are_read_together_wherever_a_run_starts(slides, monkeypatch):
    found = []
    find = CropReader.find
    monkeypatch.setattr(
        CropReader, "find", lambda self, numbers: found.append(numbers) or find(self, numbers)
    )
    stream = stream_of(slides, per_visit=2, length=10**6)
    for start in (0, 200):
        found.clear()
        batches = stream.batches(8, start=start, window=128, threads=1)
        for step in range(120):
            batches[step]
        assert {len(set((numbers // 128).tolist())) for numbers in found} == {1}
        assert sum(len(numbers) == 128 for numbers in found) >= 4
    assert stream.batches(8)._window == 512
    assert stream_of(slides, per_visit=16).batches(8)._window == 1024


def test_a_jump_stops_reading_what_was_read_ahead(slides, monkeypatch):
    stream, jumped, read = stream_of(slides), threading.Event(), []
    read_found, numbers = CropReader.read_found, CropBatches.numbers

    def read_once_it_jumped(reader, found):
        # other tests may still read ahead
        if reader is stream._reader and all(8 <= one.number < 8000 for one in found):
            read.append(len(found))
            jumped.wait(60)
        return read_found(reader, found)

    def numbers_of(batches, step):
        if step == 1000:  # what was read ahead is cancelled by now
            jumped.set()
        return numbers(batches, step)

    monkeypatch.setattr(CropReader, "read_found", read_once_it_jumped)
    monkeypatch.setattr(CropBatches, "numbers", numbers_of)
    batches = stream.batches(8, window=64, threads=1)
    assert batches[0]["number"].tolist() == list(range(8))
    # batches 1 and 2 are of several slides, so that they are read in several calls
    assert batches[1000]["number"].tolist() == list(range(8000, 8008))
    assert len(read) <= 1


def test_a_thousand_resumes_see_each_number_once(slides):
    stream = stream_of(slides)
    rng = np.random.default_rng(0)
    state, seen, some = {"seed": 0, "number": 0}, [], []
    for _ in range(1000):
        world, size, steps = (int(n) for n in rng.integers(1, (9, 65, 5)))
        ranks = [stream.batches(size, rank=r, world=world, start=state) for r in range(world)]
        seen += [rank.numbers(step) for rank in ranks for step in range(steps)]
        state = ranks[-1].state_dict({"number": ranks[-1].numbers(steps - 1)})
        some.append(seen[-int(rng.integers(world * steps)) - 1][:8])
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(state["number"]))
    parts = [stream.places(numbers) for numbers in some]
    whole = stream.places(np.concatenate(some))
    for name in ("slide", "y", "x"):
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    with pytest.raises(SlideArgumentError, match="the state is of seed=1"):
        stream.batches(4, start={"seed": 1, "number": 0})


def test_batches_take_up_a_state(slides):
    stream = stream_of(slides, length=100)
    batches = stream.batches(8, threads=1)
    for _, batch in zip(range(3), batches, strict=False):
        last = batch
    state = batches.state_dict()
    assert state == batches.state_dict(last) == {"seed": 0, "number": 24}
    other = stream.batches(16)
    other.load_state_dict(state)
    numbers = [batch["number"] for batch in other]
    assert np.concatenate(numbers).tolist() == list(range(24, 104))  # to the end of the epoch
    with pytest.raises(SlideArgumentError, match="the state is of seed=5"):
        other.load_state_dict({"seed": 5, "number": 0})
    for options in ({"rank": 2, "world": 2}, {"window": 0}, {"threads": -1}, {"start": -3}):
        with pytest.raises(SlideArgumentError, match=f"{next(iter(options))}="):
            stream.batches(8, **options)


def test_errors_of_threads_reach_the_loop(slides, tmp_path):
    path = tmp_path / "gone.tif"
    path.write_bytes(Path(slides[0][0]).read_bytes())
    found = map_of(path, slides[1][0])
    stream = feed.CropStream(path, blank_maps=[found], size=SIZE, downsample=1)
    path.unlink()
    with pytest.raises(SlideNotFoundError, match=r"gone\.tif"):
        next(iter(stream.batches(8)))


def assert_balanced(names, asked):
    """Check that counts are within 1 % of the shares `asked`, and hardly vary by chance."""
    assert set(names) == set(asked)
    for count in (1000, len(names)):
        found = np.array([np.count_nonzero(names[:count] == name) for name in asked])
        expected = np.array(list(asked.values())) * count
        assert np.allclose(found, expected, rtol=0.01)
        assert stats.chisquare(found, expected).pvalue > 0.999


@pytest.mark.parametrize("count", [5000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("balance", ["slide", "label", "class"])
def test_counts_are_within_1_percent_of_what_was_asked(slides, balance, count):
    image = np.ones((50, 63), np.uint8)
    image[25:, :20] = 2
    annotations = [ds.label_mask(image, (400, 500), {1: "stroma", 2: "rare"})] * 5
    stream = stream_of(slides, labels=list("aabbb"), balance=balance, annotations=annotations)
    found = stream.places(range(count))
    by_label = [1 / 4] * 2 + [1 / 6] * 3 if balance == "label" else [1 / 5] * 5
    assert_balanced(found["slide"], {f"s{n}.tif": share for n, share in enumerate(by_label)})
    assert_balanced(
        found["label"], {"a": 0.5, "b": 0.5} if balance == "label" else {"a": 0.4, "b": 0.6}
    )
    if balance == "class":
        assert_balanced(found["class"], {"stroma": 0.5, "rare": 0.5})


def test_classes_of_annotations_are_balanced(slides):
    image = np.zeros((50, 63), np.uint8)
    image[:25], image[25:, :8], image[25:, 8:] = 1, 2, 3
    annotations = ds.label_mask(image, (400, 500), {1: "stroma", 2: "rare", 3: "tumour"})
    shares = {"stroma": 1, "rare": 2, "tumour": 1}
    stream = stream_of(slides, annotations=[annotations] * 5, balance="class", shares=shares)
    found = stream.places(range(2000))
    assert np.unique(found["class"][:1000], return_counts=True)[1].tolist() == [500, 250, 250]
    # crops near the edge are moved, but not here
    y, x = found["y"] + SIZE // 2, found["x"] + SIZE // 2
    at = image[np.minimum(y // 8, 49), np.minimum(x * 63 // 500, 62)]
    named = np.array(["", "stroma", "rare", "tumour"])[at]
    inside = (
        (found["y"] > 0) & (found["x"] > 0) & (found["y"] < 400 - SIZE) & (found["x"] < 500 - SIZE)
    )
    # a pixel of the mask belongs to the class at its centre
    assert (named == found["class"])[inside].mean() > 0.97


def test_several_scales_have_one_centre(tmp_path, stained):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stained, tile=(64, 64), compression="zlib", photometric="rgb")
    slide = ds.open_slide(path, mpp=0.5)
    whole = ds.blank_map(slide, tile_size=8).with_blank(np.zeros((96, 128), bool))
    stream = feed.CropStream(slide, blank_maps=[whole], size=SIZE, mpp=(0.5, 2.0), seed=2)
    coarse = np.asarray(ds.resize(slide, mpp=2.0)).astype(int)
    for item in stream.__getitems__(range(20)):
        fine, wide = item["pixels"]
        assert item["mpp"] == (0.5, 2.0)
        y, x = item["y"], item["x"]
        assert np.array_equal(fine, stained[y : y + SIZE, x : x + SIZE])
        top, left = round((y + 16) / 4 - 16 + 1e-9), round((x + 16) / 4 - 16 + 1e-9)
        if top >= 0 and left >= 0 and top + SIZE <= 192 and left + SIZE <= 256:
            assert np.array_equal(wide, coarse[top : top + SIZE, left : left + SIZE])
        else:
            assert (wide == 255).all(axis=2).any()  # beyond the slide


def test_reduced_crops_are_means_of_pixels(tmp_path, stained):
    path = tmp_path / "a.tif"
    image = np.tile(stained, (2, 2, 1))  # small images are not reduced
    tifffile.imwrite(path, image, tile=(64, 64), compression="zlib", photometric="rgb")
    slide = ds.open_slide(path, mpp=0.25)
    whole = ds.blank_map(slide, tile_size=16).with_blank(np.zeros((96, 128), bool))
    stream = feed.CropStream(
        slide, blank_maps=[whole], size=SIZE, mpp=(0.5, 1.0), seed=2, reduced=True
    )
    means = {n: image.reshape(1536 // n, n, 2048 // n, n, 3).mean(axis=(1, 3)) for n in (2, 4)}
    for item in stream.__getitems__(range(20)):
        y, x = item["y"] // 2, item["x"] // 2
        fine, wide = item["pixels"]
        assert np.abs(fine - means[2][y : y + SIZE, x : x + SIZE]).max() <= 0.5
        top, left = (y + 1) // 2 - 8, (x + 1) // 2 - 8
        if min(top, left) >= 0 and top + SIZE <= 384 and left + SIZE <= 512:
            assert np.abs(wide - means[4][top : top + SIZE, left : left + SIZE]).max() <= 0.5


def test_corrupt_and_absent_tiles_are_never_fed(slides, tmp_path, caplog):
    paths, images = [], []
    for seed in range(2):
        paths.append(str(tmp_path / f"s{seed}.tif"))
        images.append(tissue_of(seed))
        tifffile.imwrite(paths[-1], images[-1], **OPTIONS)
    maps = [map_of(path, image) for path, image in zip(paths, images, strict=True)]
    spoil(paths[0], absent=[20], corrupt=[10, 11, 35])
    across = 8
    bad = np.zeros((7 * 64, across * 64), bool)
    for number in (20, 10, 11, 35):
        row, column = divmod(number, across)
        bad[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] = True
    stream = feed.CropStream(paths, blank_maps=maps, size=SIZE, downsample=1)
    items = stream.__getitems__(range(400))
    for item in items:
        y, x = item["y"], item["x"]
        if item["slide"] == "s0.tif":
            assert not bad[y : y + SIZE, x : x + SIZE].any()
        image = images[int(item["slide"][1])]
        assert np.array_equal(item["pixels"], image[y : y + SIZE, x : x + SIZE])
    assert sum(item["skipped"] for item in items) > 5
    assert len(stream.bad_tiles) == 3 and all("s0.tif: level 0" in one for one in stream.bad_tiles)
    assert sum("corrupt" in record.message for record in caplog.records) == 3
    alone = [stream[item["number"]] for item in items if item["skipped"]]
    assert [facts(one) for one in alone] == [facts(one) for one in items if one["skipped"]]


def test_crops_with_nodata_are_never_fed(tmp_path):
    image = np.maximum(smooth(300, 400), 1)
    image[100:130, 200:260] = 0
    path = tmp_path / "a.tif"
    nodata = (42113, "s", 0, "0", True)
    tifffile.imwrite(path, image, extratags=[nodata], **OPTIONS)
    whole = ds.blank_map(path, tile_size=8).with_blank(np.zeros((38, 50), bool))
    stream = feed.CropStream(path, blank_maps=[whole], size=SIZE, downsample=1)
    items = stream.__getitems__(range(300))
    assert all((item["pixels"] > 0).all() for item in items)
    assert any(item["skipped"] for item in items)


@pytest.mark.parametrize("kind", ["zarr", "dask"])
def test_stores_and_arrays_are_slides_too(slides, tmp_path, kind):
    image = slides[1][0]
    slide = ds.from_dask(da.from_array(image, chunks=(100, 90, 3)))
    if kind == "zarr":
        slide = ds.open_slide(ds.write(slide, tmp_path / "a.ome.zarr"))
    given = slide.data if kind == "dask" else slide
    stream = feed.CropStream(given, blank_maps=map_of(slide, image), size=SIZE, downsample=1)
    batch = next(iter(pickle.loads(pickle.dumps(stream)).batches(20, threads=2)))
    for pixels, y, x in zip(batch["pixels"], batch["y"], batch["x"], strict=True):
        assert np.array_equal(pixels, image[y : y + SIZE, x : x + SIZE])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_open_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_file, "OPEN_FILES", 16)
    tiff_file.opened.cache_clear()
    paths = [tmp_path / f"s{n}.tif" for n in range(40)]
    for path in paths:
        tifffile.imwrite(path, smooth(64, 64), **OPTIONS)
    maps = [ds.blank_map(path).with_blank(np.zeros((1, 1), bool)) for path in paths]
    stream = feed.CropStream(paths, blank_maps=maps, size=SIZE, downsample=1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in stream.batches(16, threads=2):
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * 16 + 4
    assert set(stream.places(range(40))["slide"]) == {path.name for path in paths}


def test_slides_without_tissue_are_named_and_left_out(slides):
    paths, _, maps = slides
    blank = maps[2].with_blank(np.ones((50, 63), bool))
    with pytest.warns(BlankSlideWarning, match=r"1 slide without tissue is left out: s2\.tif"):
        stream = stream_of((paths, None, [*maps[:2], blank, *maps[3:]]))
    assert stream.left_out == ("s2.tif",) and "s2.tif" not in stream.places(range(50))["slide"]
    with pytest.raises(BlankSlideError, match=r"s2\.tif: no slide has tissue"):
        stream_of((paths[2:3], None, [blank]))


@pytest.mark.parametrize("kind", ["slides", "corrupt", "scales", "transform", "packs"])
def test_batches_hold_the_crops_one_after_another(slides, tmp_path, kind):
    """Batches are read in windows and threads, and items one by one."""
    paths, images, maps = list(slides[0][:2]), list(slides[1][:2]), list(slides[2][:2])
    options = {"size": SIZE, "downsample": (1, 2) if kind == "scales" else 1, "blank_maps": maps}
    if kind == "corrupt":
        paths[0] = str(tmp_path / "s0.tif")
        tifffile.imwrite(paths[0], images[0], **OPTIONS)
        spoil(paths[0], absent=[20], corrupt=[10, 11, 35])
        maps[0] = map_of(paths[0], images[0])
    elif kind == "packs":  # a pack of five tiles, which one batch asks for several times
        packs = [ds.pack_tiles(paths[0], tile_size=SIZE, downsample=1, blank_map=maps[0], top_k=5)]
        paths, options = [ds.write(packs[0], tmp_path / "a.tiles.zarr")], {}
    transform = (lambda pixels: pixels.mean(axis=2)) if kind == "transform" else None
    stream = feed.CropStream(paths, flips=True, seed=8, length=96, transform=transform, **options)
    for batch in stream.batches(16, window=64, threads=2):
        items = [stream[int(number)] for number in batch["number"]]
        assert list(batch) == list(items[0])
        for name, values in batch.items():
            given = values if isinstance(values, tuple) else (values,)
            for which, array in enumerate(given):
                for one, item in zip(array, items, strict=True):
                    value = item[name][which] if isinstance(values, tuple) else item[name]
                    np.testing.assert_array_equal(one, value)


def test_packs_give_each_tile_once_an_epoch(slides, tmp_path):
    packs = []
    for path, found in zip(*(slides[0][:2], slides[2][:2]), strict=True):
        pack = ds.pack_tiles(path, tile_size=SIZE, downsample=1, blank_map=found)
        packs.append(ds.write(pack, tmp_path / f"{len(packs)}.tiles.zarr"))
    opened = [ds.open_pack(path) for path in packs]
    stream = feed.CropStream(packs, slide_weights="tissue", seed=3)
    assert len(stream) == sum(map(len, opened))
    items = stream.__getitems__(range(len(stream)))
    found = sorted((item["slide"], item["y"], item["x"]) for item in items)
    expected = [
        (f"{n}.tiles.zarr", y, x)
        for n, pack in enumerate(opened)
        for y, x in zip(pack.y.tolist(), pack.x.tolist(), strict=True)
    ]
    assert found == sorted(expected)
    for item in items[:30]:
        image = slides[1][int(item["slide"][0])]
        assert np.array_equal(item["pixels"], image[item["y"] :, item["x"] :][:SIZE, :SIZE])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed=-1 is not a seed"),
        ({"balance": "stain"}, "balance='stain' is not known"),
        ({"balance": "label"}, r"s0\.tif: has no label to balance"),
        ({"balance": "class"}, r"s0\.tif: has no annotations to balance"),
        ({"per_visit": 0}, "per_visit=0 is not a count"),
        ({"labels": ["a"]}, "labels: 1 values for 5 slides"),
        ({"labels": {"s9.tif": "a"}}, r"labels: 's9\.tif' is not among the slides"),
        ({"labels": list("ababa"), "balance": "label", "shares": {"a": 1}}, "for each of 'a', 'b'"),
        ({"slide_weights": [1, 2, 3, 4, 0]}, "slide_weights: give each slide a number above 0"),
        ({"weights": [np.ones(3)] * 5}, r"s0\.tif: weights of shape \(3,\)"),
        ({"weights": ["abc"] * 5}, r"s0\.tif: weights of type str"),
        ({"labels": {3: "a"}}, "labels: 3 is not among the slides"),
        ({"labels": ["a", float("nan"), "b", "a", "b"], "balance": "label"}, r"s1\.tif: has no la"),
        ({"labels": list("ababa"), "balance": "label", "shares": [0.5, 0.5]}, "for each of 'a'"),
        (
            {"labels": list("ab" * 2 + "a"), "balance": "label", "shares": {"a": "1", "b": 1}},
            "for each of 'a', 'b'",
        ),
        ({"slide_weights": list("abcde")}, "slide_weights: give each slide a number above 0"),
        (
            {"annotations": ["x.geojson"] * 5},
            r"s0\.tif: annotations of type str; give what read_ge",
        ),
        ({"length": 0}, "length=0 is not a count"),
    ],
)
def test_arguments_are_checked(slides, options, message):
    with pytest.raises(SlideArgumentError, match=message):
        stream_of(slides, **options)


@pytest.mark.parametrize("given", [None, 5])
def test_what_is_no_slide_is_refused(given):
    with pytest.raises(SlideArgumentError, match=f"slides={given}; give paths"):
        feed.CropStream(given)


def test_slides_may_be_named_by_the_paths_that_were_given(slides, monkeypatch):
    monkeypatch.chdir(Path(slides[0][0]).parent)
    paths = ["s0.tif", os.path.join("..", Path.cwd().name, "s1.tif"), Path(slides[0][2])]
    labels = {path: f"label {n}" for n, path in enumerate(paths)}
    stream = feed.CropStream(
        paths, size=SIZE, downsample=1, blank_maps=slides[2][:3], labels=labels
    )
    for item in stream.__getitems__(range(6)):
        assert item["label"] == f"label {item['slide'][1]}"


def test_a_path_names_all_entries_of_it(slides):
    paths, maps = [slides[0][0]] * 2, [slides[2][0]] * 2
    options = {"size": SIZE, "downsample": 1, "blank_maps": maps}
    stream = feed.CropStream(paths, labels={slides[0][0]: "a"}, **options)
    assert [item["label"] for item in stream.__getitems__(range(4))] == ["a"] * 4


def test_single_values_and_arrays_are_taken(slides):
    options = {"size": SIZE, "downsample": np.array(1.0), "blank_maps": [slides[2][0]]}
    weights = da.zeros((4, 4), chunks=2).compute()
    weights[:, 3] = 1
    for given in (weights, weights[None], da.from_array(weights), [weights]):
        stream = feed.CropStream(slides[0][0], labels=np.float64(2), weights=given, **options)
        assert stream[0]["label"] == 2
        assert (stream.places(range(50))["x"] + SIZE // 2 >= 374).all()
    columns = np.array(["a", "b"])
    labels = feed.CropStream(
        slides[0][:2], size=SIZE, downsample=1, blank_maps=slides[2][:2], labels=columns
    ).places(range(4))["label"]
    assert sorted(labels.tolist()) == ["a", "a", "b", "b"]


def test_packs_are_what_is_asked_for_or_refused(slides, tmp_path):
    pack = ds.pack_tiles(
        ds.open_slide(slides[0][0], mpp=0.5), tile_size=SIZE, mpp=1.0, detector=ds.Contrast(0)
    )
    path = ds.write(pack, tmp_path / "a.tiles.zarr")
    for scale in ({"mpp": 1.03}, {"magnification": 10}, {"downsample": 2}, {}):
        assert feed.CropStream(path, size=SIZE, **scale)[0]["mpp"] == pack.mpp
        assert feed.SlideDataset(path, size=SIZE, **scale)[0]["mpp"] == pack.mpp
    refused = [
        ({"mpp": 0.5}, r"mpp of its tiles is 1, not 0\.5"),
        ({"magnification": 20}, "magnification of its tiles is 10, not 20"),
        ({"downsample": 4}, "downsample of its tiles is 2, not 4"),
        ({"mpp": "x"}, "mpp of its tiles is 1, not 'x'"),
        ({"size": 64}, "its tiles have 32 x 32 px, not size="),
        ({"blank_maps": [slides[2][0]]}, "blank_map is for slides"),
    ]
    for options, message in refused:
        for kind in (feed.CropStream, feed.SlideDataset):
            with pytest.raises(SlideArgumentError, match=message):
                kind(path, **options)
    for options, message in (
        ({"mpp": (1.0, 2.0)}, "mpp of its tiles is 1, not"),
        ({"weights": [np.ones((3, 3))]}, "weights is for slides"),
    ):
        with pytest.raises(SlideArgumentError, match=message):
            feed.CropStream(path, **options)


def test_a_transform_may_change_its_array(slides, tmp_path):
    """A pack of five tiles, of which a batch has each several times."""

    def invert(pixels):
        np.subtract(255, pixels, out=pixels)
        return pixels

    found = slides[2][0]
    pack = ds.pack_tiles(slides[0][0], tile_size=SIZE, downsample=1, blank_map=found, top_k=5)
    path = ds.write(pack, tmp_path / "a.tiles.zarr")
    image = slides[1][0]
    for batch in (
        next(iter(feed.CropStream(path, transform=invert).batches(32))),
        *feed.SlideDataset(path, transform=invert).__getitems__([2, 2, 2]),
    ):
        pixels = batch["pixels"].reshape(-1, SIZE, SIZE, 3)
        for one, y, x in zip(pixels, np.ravel(batch["y"]), np.ravel(batch["x"]), strict=True):
            assert np.array_equal(one, 255 - image[y : y + SIZE, x : x + SIZE])


@pytest.mark.parametrize("unit", [1e-6, 1, 255, 1e6])
def test_the_unit_of_weights_has_no_effect(slides, unit):
    weights = np.zeros((4, 4))
    weights[:, 2:] = unit
    halves = [weights, weights, weights * 3, weights, weights]
    plain = stream_of(slides, slide_weights="tissue")
    stream = stream_of(slides, weights=halves, slide_weights="tissue", per_visit=8)
    # tissue is at x from 48 to 500, and weights are above 0 from 250
    assert len(stream) == pytest.approx(len(plain) * 250 / 452, rel=0.05)
    found = stream.places(range(2000))
    assert (found["x"] + SIZE // 2 >= 249).all()
    counts = np.unique(found["slide"], return_counts=True)[1]
    assert counts.max() <= counts.min() * 1.25
    places = stream_of(slides, weights=[weights] * 5, per_visit=8).places(range(512))
    expected = stream_of(slides, weights=[weights / unit] * 5, per_visit=8).places(range(512))
    assert np.array_equal(places["y"], expected["y"]) and np.array_equal(places["x"], expected["x"])


def test_a_loader_with_workers_must_say_what_was_used(slides):
    batches = stream_of(slides, length=96).batches(16)
    given = batches[1]
    assert batches.state_dict()["number"] == batches.state_dict(given)["number"] == 32
    steps = iter(batches.steps())
    batches[next(steps)]
    assert batches.state_dict()["number"] == 16  # a loader without workers
    next(steps)
    with pytest.raises(SlideArgumentError, match=r"give the last one, as state_dict\(batch\)"):
        batches.state_dict()
    assert batches.state_dict(given)["number"] == 32


def test_a_state_is_taken_up_by_samplers_and_by_copies_in_workers(slides):
    stream = stream_of(slides, length=96)
    batches = stream.batches(16)
    sampler, worker = batches.steps(), pickle.loads(pickle.dumps(batches))
    assert list(sampler) == list(range(6))
    batches.load_state_dict({"seed": 0, "number": 32})
    first = next(iter(sampler))
    for one in (batches, worker):
        assert one[first]["number"].tolist() == list(range(32, 48))
    batches.load_state_dict({"seed": 0, "number": 40})  # of another size of batches
    assert batches[next(iter(sampler))]["number"].tolist() == list(range(40, 56))


@pytest.mark.parametrize(
    "state", [{}, {"seed": 0}, {"seed": 0, "number": -8}, {"seed": 0, "number": "a"}]
)
def test_what_is_no_state_is_refused(slides, state):
    stream = stream_of(slides)
    with pytest.raises(SlideArgumentError, match="is not a state of a stream"):
        stream.batches(4).load_state_dict(state)
    with pytest.raises(SlideArgumentError, match="is not a state of a stream"):
        stream.batches(4, start=state)


SCRIPT = """
import atexit, concurrent.futures.thread, sys, threading
gate, read = threading.Event(), []
threading._register_atexit(gate.set)  # these run last in, first out: after that of the feed
import dask_slides as ds
from dask_slides import feed

def transform(pixels):
    if len(read) >= 31 * 16:  # the batches that are used
        gate.wait()
    read.append(None)
    return pixels

options = {"size": 32, "downsample": 1, "detector": ds.Contrast(0), "length": 10_000}
batches = feed.CropStream(sys.argv[1], transform=transform, **options).batches(16, threads=1)
for number, batch in enumerate(batches):
    if number == 30:
        break
atexit.register(lambda: print(len(read)))  # runs once the threads have ended
"""


def test_python_exits_without_reading_what_is_queued(slides):
    words = [sys.executable, "-c", SCRIPT, slides[0][0]]
    result = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    assert int(result.stdout) <= 31 * 16 + CHUNK  # a thread ends what it has begun


def test_a_process_of_its_own_is_no_worker_of_a_loader(slides):
    """Ranks are started so; workers of loaders are daemons."""
    context = multiprocessing.get_context("spawn")
    batches = stream_of(slides, length=96).batches(16)
    counts = {}
    for daemon in (False, True):
        queue = context.Queue()
        process = context.Process(target=_threads_of, args=(batches, queue), daemon=daemon)
        process.start()
        counts[daemon] = queue.get(timeout=300)
        process.join()
    assert counts == {False: CPU_COUNT, True: 1}


def _threads_of(batches, queue):
    batches[0]
    queue.put(batches._ahead._pool._max_workers)
