"""Packs, crops and cuts obey a blank map, however it was made or edited.

The expected tiles come from the mask enlarged to level 0, in which pixels are counted.
"""

import pickle
import sys

import dask
import dask.array as da
import numpy as np
import oracle
import pytest
import tifffile
from bad_tiles import TILE, mask_of, picture, spoil, written
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import measure
from strategies import pixels, seeds

import dask_slides as ds
from dask_slides.errors import BlankSlideWarning, LittleTissueWarning

pytestmark = pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")


def unreadable(shape, mpp=None):
    """Return a slide whose pixels raise an error when they are read."""

    def read(block_info):
        raise AssertionError("the slide was read")

    meta = np.empty((0, 0, 0), np.uint8)
    chunks = ((shape[0],), (shape[1],), (3,))
    return ds.from_dask(da.map_blocks(read, chunks=chunks, dtype="uint8", meta=meta), mpp=mpp)


def enlarged(mask, shape):
    """Return `mask` with the size of the slide."""
    for axis in (0, 1):
        edges = np.arange(mask.shape[axis] + 1) * shape[axis] // mask.shape[axis]
        mask = np.repeat(mask, np.diff(edges), axis=axis)
    return mask


def fractions(tissue, tile):
    """Return the share of tissue in each tile, cut at the edges."""
    return oracle.per_cell(tissue, tile, np.mean)


def expected_tiles(tissue, image, tile, stride, edge, min_tissue):
    """Return (y, x, pixels of tissue, share) of the tiles that have enough tissue."""
    spans = []
    for axis in (0, 1):
        factor = tissue.shape[axis] / image[axis]
        ends = [
            (s, s + tile[axis]) for s in oracle.starts(image[axis], tile[axis], stride[axis], edge)
        ]
        spans.append([(round(start * factor), round(stop * factor)) for start, stop in ends])
    found = []
    for y, stop_y in spans[0]:
        for x, stop_x in spans[1]:
            count = int(tissue[y:stop_y, x:stop_x].sum())
            area = (stop_y - y) * (stop_x - x)
            if count and count >= min_tissue * area:
                found.append((y, x, count, count / area))
    return found


def tiles_of(pack):
    columns = pack.y, pack.x, pack.score, pack.tissue_fraction
    return list(zip(*(column.tolist() for column in columns), strict=True))


sixteenths = st.integers(0, 16).map(lambda n: n / 16)


@st.composite
def given_masks(draw, low=8, high=90):
    """Return the size of a slide, and a mask of tissue of any size that covers it."""
    shape = draw(st.integers(low, high)), draw(st.integers(low, high))
    size = tuple(draw(st.integers(1, n)) for n in shape)
    rng = np.random.default_rng(draw(seeds))
    noise = rng.random(size) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    top, left = (int(rng.integers(0, n)) for n in size)
    noise[top:, left:] = draw(st.booleans())
    return shape, noise


@given(st.integers(9, 60), st.integers(9, 60), st.integers(2, 20), seeds)
def test_a_value_for_each_tile_of_the_map_is_that_of_the_tile(height, width, side, seed):
    slide = unreadable((height, width))
    found = ds.blank_map(slide, tile_size=side)
    blank = np.random.default_rng(seed).random(found.shape) < 0.5
    found = found.with_blank(blank)
    assert np.array_equal(found.blank, blank)
    assert np.array_equal(found.tissue_fraction, (~blank).astype(float))
    pack = ds.pack_tiles(slide, tile_size=side, edge="pad", min_tissue=0, blank_map=found)
    assert np.array_equal(np.stack((pack.y, pack.x), axis=1), np.argwhere(~blank) * side)


@settings(max_examples=60)
@given(
    given_masks(),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.sampled_from(["drop", "pad", "shift"]),
    sixteenths,
    st.sampled_from([1, 2, 2.7]),
    st.integers(1, 30),
)
def test_a_pack_has_the_tiles_with_enough_of_the_given_tissue(
    case, tile, stride, edge, min_tissue, downsample, map_tile
):
    shape, mask = case
    slide = unreadable(shape)
    image = ds.resize(slide, downsample=downsample).shape[:2]
    tile = tuple(min(t, n) for t, n in zip(tile, image, strict=True))
    found = ds.blank_map(slide, tile_size=map_tile).with_blank(~mask)
    pack = ds.pack_tiles(
        slide, tile_size=tile, stride=stride, edge=edge, downsample=downsample,
        min_tissue=min_tissue, blank_map=found,
    )  # fmt: skip
    of_tiles = mask.shape == found.shape  # then each value is that of a tile
    tissue = tissue_of_tiles(mask, map_tile, shape) if of_tiles else enlarged(mask, shape)
    expected = expected_tiles(tissue, image, tile, stride, edge, min_tissue)
    assert tiles_of(pack) == expected
    assert pack.attributes["min_tissue"] == min_tissue
    assert pack.attributes["detector"] == "given by the user"


def tissue_of_tiles(tissue, side, shape):
    return np.repeat(np.repeat(tissue, side, 0), side, 1)[: shape[0], : shape[1]]


@given(given_masks(), st.tuples(st.integers(1, 40), st.integers(1, 40)), sixteenths)
def test_the_tiles_of_a_map_have_the_share_of_the_given_tissue(case, tile, min_tissue):
    shape, mask = case
    first = ds.blank_map(unreadable(shape), tile_size=shape, min_tissue=min_tissue)
    found = first.with_blank(~mask)
    tissue = enlarged(mask, shape)
    assert found.tissue_share == tissue.mean()
    found = found.with_tile_size(tile)
    share = fractions(tissue, tile)
    blank = (share < min_tissue) | (share == 0)
    assert np.array_equal(found.tissue_fraction, share)
    assert np.array_equal(found.blank, blank) and not found.unknown.any()
    assert np.array_equal(found.tissue, ~blank)
    assert np.array_equal(found.mask.tissue, mask)


@pytest.mark.parametrize("mpp", [None, (0.5, 2.0)])
@given(given_masks(), st.integers(0, 400), st.integers(0, 400))
def test_removed_pieces_and_filled_holes_are_obeyed(mpp, case, small, hole):
    shape, mask = case
    pixel = 1 if mpp is None else mpp[0] * mpp[1]
    slide = unreadable(shape, mpp)
    found = ds.blank_map(slide, tile_size=shape).with_blank(~mask)
    found = found.remove_small(small * pixel).fill_holes(hole * pixel)
    tissue = enlarged(mask, shape)
    labels = measure.label(tissue, connectivity=2)
    tissue &= np.bincount(labels.reshape(-1))[labels] >= small
    labels = measure.label(np.pad(~tissue, 1, constant_values=True), connectivity=1)
    holes = (labels != labels[0, 0]) & (np.bincount(labels.reshape(-1))[labels] <= hole)
    tissue |= holes[1:-1, 1:-1]
    tile = tuple(max(1, n // 3) for n in shape)
    pack = ds.pack_tiles(slide, tile_size=tile, downsample=1, min_tissue=0, blank_map=found)
    assert tiles_of(pack) == expected_tiles(tissue, shape, tile, tile, "drop", 0)


@given(given_masks(), st.data())
def test_unions_and_intersections_are_obeyed(case, data):
    shape, mask = case
    other = np.random.default_rng(data.draw(seeds)).random(shape) < 0.5
    slide = unreadable(shape)
    one = ds.blank_map(slide, tile_size=shape).with_blank(~mask).with_tile_size(5)
    two = ds.BlankMap.from_labels(other.astype(np.uint8) * 3, slide, tile_size=7)
    for found, operation in (
        (one.union(two), np.logical_or),
        (one.intersection(two), np.logical_and),
    ):
        expected = operation(enlarged(mask, shape), other)
        assert np.array_equal(found.tissue_fraction, fractions(expected, (5, 5)))


def test_pieces_of_a_map_of_statistics_are_tiles(tissue):
    found = ds.blank_map(tissue, tile_size=10, detector=ds.Contrast(0.1)).compute()
    assert np.array_equal(found.tissue_fraction, (~found.blank).astype(float))
    labels = measure.label(~found.blank, connectivity=2)
    sizes = np.bincount(labels.reshape(-1))
    least = 100 * int(np.sort(sizes[1:])[-1])
    assert len(sizes) > 2
    edited = found.remove_small(least)
    assert np.array_equal(edited.blank, found.blank | (sizes[labels] * 100 < least))
    pack = ds.pack_tiles(tissue, tile_size=10, blank_map=edited)
    expected = np.argwhere(~edited.blank) * 10
    assert np.array_equal(np.stack((pack.y, pack.x), axis=1), expected)


def test_a_map_from_geojson_is_the_map_that_was_written(tmp_path, tissue_tiff, reads):
    found = ds.blank_map(tissue_tiff, tile_size=40).compute()
    found.to_geojson(tmp_path / "tissue.geojson")
    reads.clear()
    again = ds.BlankMap.from_geojson(tmp_path / "tissue.geojson", tissue_tiff, tile_size=40)
    assert np.array_equal(again.mask.tissue, found.mask.tissue)
    packs = [ds.pack_tiles(tissue_tiff, tile_size=25, blank_map=one) for one in (found, again)]
    assert reads == [] and len(packs[0])
    assert packs[0].boxes.tolist() == packs[1].boxes.tolist()


def test_maps_of_other_slides_and_wrong_values_are_refused():
    slide = unreadable((60, 80))
    found = ds.blank_map(slide, tile_size=20).with_blank(np.zeros((3, 4), bool))
    other = ds.blank_map(unreadable((60, 81)), tile_size=20)
    for wrong, call in [
        ("image of 60 x 81 px", lambda: ds.pack_tiles(slide, tile_size=9, blank_map=other)),
        ("image of 60 x 81 px", lambda: ds.random_crops(slide, n=2, size=9, blank_map=other)),
        ("BlankMap of the same slide", lambda: found.union(other)),
        ("BlankMap of the same slide", lambda: found.intersection(np.zeros((60, 80), bool))),
        ("give a BlankMap", lambda: ds.pack_tiles(slide, tile_size=9, blank_map=np.eye(3))),
        ("either detector or blank_map",
         lambda: ds.pack_tiles(slide, tile_size=9, detector=ds.Otsu(), blank_map=found)),
        ("either detector or blank_map",
         lambda: ds.random_crops(slide, n=2, size=9, detector=ds.Otsu(), blank_map=found)),
        ("shape (3, 4) and dtype uint8", lambda: found.with_blank(np.zeros((3, 4), np.uint8))),
        ("shape (3,)", lambda: found.with_blank(np.zeros(3, bool))),
        ("shape (61, 80)", lambda: found.with_blank(np.zeros((61, 80), bool))),
        ("shape (0, 4)", lambda: found.with_blank(np.zeros((0, 4), bool))),
        ("min_tissue=2", lambda: found.with_min_tissue(2)),
        ("area=-1", lambda: found.remove_small(-1)),
        ("area='a'", lambda: found.fill_holes("a")),
        ("tile_size=0", lambda: found.with_tile_size(0)),
    ]:  # fmt: skip
        with pytest.raises(ds.errors.SlideArgumentError) as error:
            call()
        assert wrong in str(error.value) and "\n" not in str(error.value)


# crops


@st.composite
def crops_of(draw):
    """Return a slide size, a mask with much tissue, a crop size, and a smallest share."""
    shape, mask = draw(given_masks(low=30))
    size = tuple(draw(st.integers(1, n // 3)) for n in shape)
    mask[: len(mask) // 2 + 1] = True
    return shape, mask, size, draw(st.sampled_from([0, 0.25, 0.5]))


@given(crops_of(), seeds)
def test_crops_have_enough_of_the_given_tissue_and_their_centres_in_it(case, seed):
    shape, mask, size, min_tissue = case
    slide = unreadable(shape)
    found = ds.blank_map(slide, tile_size=max(shape)).with_blank(~mask)
    options = {"n": 40, "size": size, "min_tissue": min_tissue, "blank_map": found}
    crops = ds.random_crops(slide, seed=seed, **options)
    tissue = enlarged(mask, shape) if mask.size > 1 else np.ones(shape, bool)
    assert len(crops) == 40 and crops.tiles.shape == (40, *size, 3)
    for y, x, score, share in tiles_of(crops):
        assert 0 <= y <= shape[0] - size[0] and 0 <= x <= shape[1] - size[1]
        part = tissue[y : y + size[0], x : x + size[1]]
        assert part.shape == size and (score, share) == (part.sum(), part.mean())
        assert share >= min_tissue
        # a crop at the edge of the slide is moved in, so that its centre may leave the tissue
        if 0 < y < shape[0] - size[0] and 0 < x < shape[1] - size[1]:
            assert tissue[y + size[0] // 2, x + size[1] // 2]
    again = ds.random_crops(slide, seed=seed, **options)
    assert tiles_of(again) == tiles_of(crops)


def test_the_shares_of_crops_at_a_scale_are_counted_at_level_0():
    shape = 230, 310
    rng = np.random.default_rng(3)
    mask = rng.random((23, 31)) < 0.6
    slide = unreadable(shape, mpp=0.5)
    found = ds.blank_map(slide).with_blank(~mask)
    crops = ds.random_crops(slide, n=60, size=(20, 30), downsample=2.7, blank_map=found)
    tissue = enlarged(mask, shape)
    image = ds.resize(slide, downsample=2.7).shape
    factors = np.array(shape) / image[:2]
    for y, x, _, share in tiles_of(crops):
        corner = np.rint([y, x] / factors)
        top, left = np.rint(corner * factors).astype(int)
        bottom, right = np.rint((corner + np.array([20, 30])) * factors).astype(int)
        part = tissue[top:bottom, left:right]
        assert share == part.mean() >= 0.5


def test_seeds_decide_crops_and_a_map_may_be_lazy(tissue_tiff):
    lazy = ds.blank_map(tissue_tiff, tile_size=50)

    def draw(seed, blank_map):
        pack = ds.random_crops(tissue_tiff, n=20, size=32, seed=seed, blank_map=blank_map)
        return tiles_of(pack)

    assert draw(1, lazy) == draw(1, lazy.compute()) == draw(np.int64(1), lazy) != draw(2, lazy)
    assert draw(1, lazy) == draw(1, None)


def slide_with_tissue_of_10_px():
    """Return a slide of 100 x 100 px, and a map with 10 x 10 px of tissue."""
    slide = unreadable((100, 100))
    mask = np.zeros((100, 100), bool)
    mask[40:50, 40:50] = True
    return slide, ds.blank_map(slide).with_blank(~mask)


def test_crops_with_the_most_tissue_are_repeated_if_too_few_have_enough():
    slide, found = slide_with_tissue_of_10_px()
    with pytest.warns(LittleTissueWarning, match=r"12 of 12 crops .* 0.5 of .* down to 0.062; low"):
        crops = ds.random_crops(slide, n=12, size=40, min_tissue=0.5, blank_map=found)
    assert len(crops) == 12 and len(set(tiles_of(crops))) <= 12 // 4
    assert set(crops.tissue_fraction) == {100 / 40**2}


def test_a_pack_without_enough_tissue_says_how_much_there_is():
    slide, found = slide_with_tissue_of_10_px()
    with pytest.warns(BlankSlideWarning, match=r"no tile has min_tissue 0.3 of .* is 0.25; lower"):
        assert not len(ds.pack_tiles(slide, tile_size=20, min_tissue=0.3, blank_map=found))


@pytest.mark.parametrize("size", [(2, 1), (40, 60), (400, 600), (7, 11)])
def test_centres_are_drawn_in_proportion_to_weights(size):
    shape = 400, 600
    slide = unreadable(shape)
    found = ds.blank_map(slide, tile_size=600).with_blank(np.zeros((1, 1), bool))
    weights = np.zeros(size)
    weights[: -(-size[0] // 2)] = 3
    weights[-(-size[0] // 2) :] = 1
    if size[1] > 1:
        weights[:, size[1] * 3 // 4 :] = 0
    crops = ds.random_crops(slide, n=3000, size=1, blank_map=found, weights=weights)
    large = enlarged(weights, shape)
    assert (large[crops.y, crops.x] > 0).all()
    share = (large == 3).sum() * 3 / large.sum()
    drawn = (large[crops.y, crops.x] == 3).mean()
    assert abs(drawn - share) < 5 * np.sqrt(share * (1 - share) / 3000)
    columns = crops.x[large[crops.y, crops.x] == 3]
    assert len(set(columns.tolist())) > 200  # not only the corners of pixels


def test_weights_of_zero_leave_nothing_to_draw():
    slide = unreadable((40, 40))
    found = ds.blank_map(slide, tile_size=10).with_blank(np.zeros((4, 4), bool))
    with pytest.warns(ds.errors.BlankSlideWarning):
        crops = ds.random_crops(slide, n=5, size=8, blank_map=found, weights=np.zeros((2, 2)))
    assert len(crops) == 0


def test_an_all_blank_map_gives_no_tiles_and_no_crops():
    slide = unreadable((90, 70))
    found = ds.blank_map(slide, tile_size=16).with_blank(np.ones((3, 3), bool))
    for call in (
        lambda: ds.pack_tiles(slide, tile_size=10, min_tissue=0, blank_map=found),
        lambda: ds.random_crops(slide, n=4, size=10, min_tissue=0, blank_map=found),
    ):
        with pytest.warns(ds.errors.BlankSlideWarning, match="given by the user"):
            assert len(call()) == 0


# cuts


@given(given_masks(), st.tuples(st.integers(2, 40), st.integers(2, 40)), sixteenths)
def test_a_cut_removes_the_rows_and_columns_without_enough_of_the_given_tissue(
    case, tile, min_tissue
):
    shape, mask = case
    image = pixels(1, (*shape, 3), "uint8")
    tissue = enlarged(mask, shape)
    found = ds.blank_map(ds.from_dask(image), tile_size=shape, min_tissue=min_tissue)
    found = found.with_blank(~mask).with_tile_size(tile)
    cut = ds.cutoff_resize(ds.from_dask(image), downsample=1, blank_map=found)
    share = fractions(tissue, tile)
    expected = oracle.cut(image, (share < min_tissue) | (share == 0), tile)
    if not expected.size:
        expected = np.empty((0, 0, 3), np.uint8)
    assert np.array_equal(cut.image.data.compute(scheduler="sync"), expected)


# files


@pytest.fixture
def islands(stained):
    image = np.full_like(stained, 240)
    image[128:512, 256:640] = stained[128:512, 256:640]
    return image


@pytest.mark.parametrize(
    ("mpp", "level"), [(0.25, 0), (0.5, 1), (0.52, 1), (0.48, 1), (1.0, 2), (0.7, None)]
)
def test_a_stored_level_is_packed_as_it_is(write_pyramid, islands, monkeypatch, mpp, level):
    path = write_pyramid(islands, levels=2)
    slide = ds.open_slide(path, mpp=0.25)
    mask = np.zeros((24, 32), bool)
    mask[3:16, 7:20] = True
    found = ds.blank_map(slide).with_blank(~mask)
    kind = type(slide.source)
    read, seen = kind.read_valid, set()

    def counted(self, number, region):
        seen.add(number)
        return read(self, number, region)

    monkeypatch.setattr(kind, "read_valid", counted)
    pack = ds.pack_tiles(slide, tile_size=50, stride=30, mpp=mpp, min_tissue=0.25, blank_map=found)
    assert not seen  # nothing is read to choose tiles
    if level is None:
        assert pack.attributes["read_from"] == "resized by 2.8 with lanczos from level 0"
        return
    pyramid = [islands, *oracle.area_pyramid(islands, 2)]
    image = pyramid[level]
    expected = expected_tiles(
        enlarged(mask, islands.shape[:2]), image.shape[:2], (50, 50), (30, 30), "drop", 0.25
    )
    assert tiles_of(pack) == expected and expected
    assert pack.mpp == 0.25 * 2**level
    assert pack.attributes["read_from"] == f"level {level}"
    y, x = pack.y // 2**level, pack.x // 2**level
    assert np.array_equal(pack.tiles.compute(), oracle.tiles_at(image, y, x, (50, 50)))
    assert np.array_equal(pack[len(pack) - 1], oracle.tiles_at(image, y, x, (50, 50))[-1])
    crops = ds.random_crops(slide, n=9, size=50, mpp=mpp, blank_map=found)
    y, x = crops.y // 2**level, crops.x // 2**level
    assert np.array_equal(crops.tiles.compute(), oracle.tiles_at(image, y, x, (50, 50)))
    assert seen == {level}


def test_a_detected_map_is_obeyed_at_any_tile_size_without_reading(tissue_tiff, reads):
    found = ds.blank_map(tissue_tiff, tile_size=64).compute()
    tissue = found.mask.tissue
    assert tissue.shape == (300, 420) and 0.1 < tissue.mean() < 0.5
    grey = found.mask.grey.astype(float)
    reads.clear()
    assert np.array_equal(found.tissue_fraction, fractions(tissue, (64, 64)))
    assert found.tissue_share == tissue.mean()
    pack = ds.pack_tiles(tissue_tiff, tile_size=40, stride=17, edge="shift", blank_map=found)
    expected = expected_tiles(tissue, (300, 420), (40, 40), (17, 17), "shift", 0.5)
    assert [(y, x, share) for y, x, _, share in tiles_of(pack)] == [
        (y, x, share) for y, x, _, share in expected
    ]
    scores = []
    for y, x, *_ in expected:
        part = slice(y, y + 40), slice(x, x + 40)
        scores.append(grey[part][tissue[part]].std())
    np.testing.assert_allclose(pack.score, scores, rtol=1e-9)
    best = ds.pack_tiles(
        tissue_tiff, tile_size=40, stride=17, edge="shift", blank_map=found, top_k=9
    )
    chosen = np.sort(np.argsort(-np.array(scores), kind="stable")[:9])
    assert best.y.tolist() == pack.y[chosen].tolist()
    assert best.x.tolist() == pack.x[chosen].tolist()
    crops = ds.random_crops(tissue_tiff, n=30, size=(30, 40), blank_map=found)
    for y, x, score, share in tiles_of(crops):
        part = slice(y, y + 30), slice(x, x + 40)
        assert share == tissue[part].mean() >= 0.5
        assert score == pytest.approx(grey[part][tissue[part]].std(), rel=1e-9)
    cut = ds.cutoff_resize(tissue_tiff, downsample=1, blank_map=found)
    assert reads == []
    left = oracle.cut(tissue, found.blank, (64, 64))
    assert cut.image.shape[:2] == left.shape


def test_threshold_sweeps_read_nothing(tissue_tiff, reads):
    lazy = ds.blank_map(tissue_tiff, tile_size=30)
    found = lazy.compute()
    share = fractions(found.mask.tissue, (30, 30))
    reads.clear()
    for least in (0, 0.01, 0.3, 0.9, 1):
        expected = (share < least) | (share == 0)
        assert np.array_equal(found.with_min_tissue(least).blank, expected)
        assert not lazy.with_min_tissue(least).computed
        packed = ds.pack_tiles(tissue_tiff, tile_size=30, min_tissue=least, blank_map=found)
        assert len(packed) == (~expected)[:, : 420 // 30].sum()
    sizes = [len(found.remove_small(area).polygons()) for area in (0, 500, 10**9)]
    assert sizes[0] >= sizes[1] >= sizes[2] == 0
    assert reads == []


def test_a_sweep_of_lazy_maps_reads_the_slide_once(tissue_tiff, reads, sync):
    lazy = ds.blank_map(tissue_tiff, tile_size=30)
    sweep = [lazy.with_min_tissue(least).blank for least in (0, 0.3, 0.9)]
    found = dask.compute(*sweep, lazy.tissue_fraction)
    seen = np.zeros((300, 420), int)
    for region in reads:
        seen[region.slices()] += 1
    assert (seen == 1).all()
    for blank, least in zip(found, (0, 0.3, 0.9), strict=False):
        assert np.array_equal(blank, (found[-1] < least) | (found[-1] == 0))


def test_maps_and_packs_travel_by_pickle(tissue_tiff, tissue):
    lazy = ds.blank_map(tissue_tiff, tile_size=30)
    again = pickle.loads(pickle.dumps(lazy))
    assert again == lazy and np.array_equal(again.compute().blank, lazy.blank.compute())
    found = lazy.compute().remove_small(100)
    copy = pickle.loads(pickle.dumps(found))
    assert copy == found and np.array_equal(copy.mask.tissue, found.mask.tissue)
    pack = ds.pack_tiles(tissue_tiff, tile_size=30, blank_map=copy)
    other = pickle.loads(pickle.dumps(pack))
    assert tiles_of(other) == tiles_of(pack)
    tiles = oracle.tiles_at(tissue, pack.y, pack.x, (30, 30))
    assert np.array_equal(other.tiles.compute(), tiles)


# missing pixels


def dark_picture(shape):
    """Return a fluorescence image of one channel (y, x, 1) with bright islands."""
    image = np.random.default_rng(4).normal(300, 20, shape).clip(1)
    for y, x in ((20, 30), (150, 40), (90, 200), (180, 280)):
        image[y : y + 100, x : x + 120] *= 10
    return image.astype(np.uint16)[..., None]


@pytest.fixture(params=["deflate", "uint16"])
def damaged(request, tmp_path):
    """Return a slide with absent and corrupt tiles, and a mask of the lost pixels."""
    shape, kind = (300, 420), request.param
    path = tmp_path / "damaged.tif"
    written(path, kind, dark_picture(shape) if kind == "uint16" else picture(kind, shape))
    spoil(path, absent=(0, 9), corrupt=(16, 23))
    slide = ds.open_slide(path, on_bad_tile="mask")
    return slide, mask_of(kind, shape, (0, 9, 16, 23))


def test_tiles_without_known_pixels_are_unknown_and_never_packed(damaged, sync):
    slide, lost = damaged
    detector = ds.Tissue(min_area=0, max_hole=0)
    lazy = ds.blank_map(slide, tile_size=20, detector=detector)
    found = lazy.compute()
    assert np.array_equal(lazy.blank.compute(), found.blank)
    assert np.array_equal(lazy.unknown.compute(), found.unknown)
    tissue = found.mask.tissue
    assert not (tissue & lost).any() and np.array_equal(found.mask.missing, lost)
    empty = fractions(tissue, (20, 20)) < 0.05
    touched = oracle.per_cell(lost, (20, 20), np.any)
    assert np.array_equal(found.unknown, empty & touched) and found.unknown.any()
    assert np.array_equal(found.blank, empty & ~touched)
    corners = {(bad.y, bad.x) for bad in found.bad_tiles}
    assert corners == {(TILE * (n // 7), TILE * (n % 7)) for n in (0, 9, 16, 23)}
    assert found.fill_holes(10**6).mask.missing.sum() == lost.sum()
    every = ds.blank_map(slide, tile_size=20).with_blank(np.zeros((1, 1), bool))
    assert not every.unknown.any()
    for union in (found.union(every), every.intersection(found)):
        assert not (union.blank & touched).any()
    whole = [
        (y, x) for y in range(0, 281, 20) for x in range(0, 401, 20)
        if not lost[y : y + 20, x : x + 20].any()
    ]  # fmt: skip
    pack = ds.pack_tiles(slide, tile_size=20, min_tissue=0.5, blank_map=found)
    share = fractions(tissue, (20, 20))
    enough = share * oracle.per_cell(lost, (20, 20), np.size) >= 200
    assert len(pack) == (enough & ~touched)[:, :21].sum()
    assert pack.attributes["skipped"] == touched[:, :21].sum()
    pack = ds.pack_tiles(slide, tile_size=20, blank_map=every)
    assert list(zip(pack.y.tolist(), pack.x.tolist(), strict=True)) == whole
    assert pack.attributes["skipped"] == 15 * 21 - len(whole)
    assert len(pack.attributes["bad_tiles"]) == 4
    crops = ds.random_crops(slide, n=60, size=20, blank_map=every)
    assert len(crops) == 60
    assert not any(lost[y : y + 20, x : x + 20].any() for y, x, *_ in tiles_of(crops))
    for made in (
        ds.pack_tiles(slide, tile_size=20, detector=detector, min_tissue=0.1),
        ds.random_crops(slide, n=60, size=20, detector=detector, min_tissue=0.1),
    ):
        assert len(made)
        assert made.attributes["skipped"] > 0
        assert not any(lost[y : y + 20, x : x + 20].any() for y, x, *_ in tiles_of(made))


def test_a_tile_that_a_stored_level_lacks_is_not_packed(write_pyramid, islands):
    path = write_pyramid(islands, levels=1)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        level = tiff.pages[0].pages[0]
        assert level.shape[:2] == (384, 512) and level.tilelength == TILE
        for code, values in ((324, level.dataoffsets), (325, level.databytecounts)):
            level.tags[code].overwrite([0 if n == 9 else v for n, v in enumerate(values)])
    slide = ds.open_slide(path, mpp=0.25)
    found = ds.blank_map(slide).with_blank(np.zeros((1, 1), bool))
    pack = ds.pack_tiles(slide, tile_size=TILE, mpp=0.5, blank_map=found)
    corners = [(y, x) for y in range(0, 768, 2 * TILE) for x in range(0, 1024, 2 * TILE)]
    del corners[9]
    assert list(zip(pack.y.tolist(), pack.x.tolist(), strict=True)) == corners
    assert pack.attributes["skipped"] == 1 and pack.attributes["read_from"] == "level 1"


def test_nodata_is_blank_and_never_packed(tmp_path, sync):
    rng = np.random.default_rng(0)
    image = rng.normal(300, 20, (400, 500)).clip(1).astype(np.uint16)
    image[100:300, 100:400] = rng.normal(4000, 300, (200, 300))
    image[:, 250:330] = 0
    path = tmp_path / "nodata.tif"
    tifffile.imwrite(
        path, image, tile=(64, 64), compression="zlib", metadata=None,
        extratags=[(42113, "s", 0, "0", True)],
    )  # fmt: skip
    slide = ds.open_slide(path, mpp=4)
    lazy = ds.blank_map(slide, tile_size=20)
    found = lazy.compute()
    assert np.array_equal(lazy.blank.compute(), found.blank)
    assert found.detector.background == "dark" and not found.unknown.any()
    tissue = found.mask.tissue
    assert not tissue[:, 250:330].any()
    assert tissue[100:300, 100:250].mean() > 0.9 and tissue[100:300, 330:400].mean() > 0.9
    assert found.blank[:, 13:16].all()
    pack = ds.pack_tiles(slide, tile_size=20, min_tissue=0.1)
    assert pack.tiles.dtype == np.uint16 and pack.tiles.shape[3] == 1 and len(pack) > 50
    found_pixels = pack.tiles.compute()
    assert (found_pixels > 0).all()
    padded = oracle.tiles_at(image[..., None], pack.y, pack.x, (20, 20))
    assert np.array_equal(found_pixels, padded)


# other slides


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_fluorescence_slide_of_one_channel(dtype):
    image = np.random.default_rng(1).normal(20, 2, (700, 900))
    image[200:500, 300:600] += 60 + 40 * np.sin(np.arange(300) / 9)
    image = image.astype(dtype)
    inner = np.zeros((7, 9), bool)
    inner[2:5, 3:6] = True
    for array in (image, image[..., None]):
        found = ds.blank_map(ds.from_dask(array, mpp=4), tile_size=100).compute()
        assert found.detector.background == "dark"
        assert np.array_equal(found.tissue, inner)
        assert abs(found.tissue_share - 9 / 63) < 0.02


def test_chunks_of_an_array_do_not_change_the_default_map(tissue, sync):
    whole = ds.blank_map(tissue, tile_size=30).compute()
    for chunks in ((300, 420, 3), (37, 51, 3), (100, 420, 1)):
        found = ds.blank_map(da.from_array(tissue, chunks=chunks), tile_size=30).compute()
        assert np.array_equal(found.mask.kinds, whole.mask.kinds)
        assert np.array_equal(found.mask.grey, whole.mask.grey)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (1, 40, 3), (40, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_slides_of_a_pixel_or_a_line_are_blank_unless_the_user_says_otherwise(shape, dtype, sync):
    slide = ds.from_dask(np.full(shape, 7, dtype))
    lazy = ds.blank_map(slide, tile_size=1)
    found = lazy.compute()
    assert found.shape == shape[:2] and found.blank.all()
    assert np.array_equal(lazy.blank.compute(), found.blank)
    tissue = found.with_blank(~found.blank)
    assert tissue.tissue_share == 1
    pack = ds.pack_tiles(slide, tile_size=1, blank_map=tissue)
    assert len(pack) == shape[0] * shape[1] and (pack.tiles.compute() == 7).all()
    assert len(ds.random_crops(slide, n=3, size=1, blank_map=tissue)) == 3


def test_a_slide_without_pixels():
    empty = ds.cutoff_resize(np.full((80, 60, 3), 240, np.uint8)).image
    lazy = ds.blank_map(empty)
    found = lazy.compute()
    same = found.with_blank(found.blank)
    for one in (found, same, found.remove_small(3), found.fill_holes(3), found.union(same)):
        assert one.shape == (0, 0) and one.tissue_share == 0 and one.polygons() == ()
    assert found.with_tile_size(7).with_min_tissue(0.3).tissue_fraction.shape == (0, 0)
    assert len(ds.pack_tiles(empty, blank_map=found)) == 0
    assert ds.cutoff_resize(empty, blank_map=found).image.shape == (0, 0, 3)


# columns of packs


def test_the_frame_of_a_pack_has_its_columns():
    pandas = pytest.importorskip("pandas")
    slide = unreadable((100, 120))
    values = np.zeros((10, 12), np.uint8)
    values[:5, :], values[:5, :3] = 2, 1
    labels = ds.label_mask(values, slide.shape, {1: "tumour", 2: "stroma"})
    found = ds.BlankMap.from_labels(labels, slide)
    frame = ds.pack_tiles(slide, tile_size=20, blank_map=found, labels=labels).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == [
        "y", "x", "score", "tissue_fraction", "label", "coverage_tumour", "coverage_stroma",
    ]  # fmt: skip
    first = frame.iloc[1]
    assert (first.y, first.x, first.tissue_fraction) == (0, 20, 1)
    assert (first.coverage_tumour, first.coverage_stroma) == (0.5, 0.5)
    plain = ds.pack_tiles(slide, tile_size=20, blank_map=found).to_frame()
    assert list(plain.columns) == ["y", "x", "score", "tissue_fraction"] and len(plain) == 18


def test_a_frame_without_pandas_says_what_to_install(monkeypatch):
    slide = unreadable((100, 120))
    found = ds.blank_map(slide).with_blank(np.zeros((1, 1), bool))
    pack = ds.pack_tiles(slide, tile_size=20, blank_map=found)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        pack.to_frame()


@given(given_masks(), seeds, st.sampled_from([1, 2]))
def test_labels_are_the_classes_that_cover_half_of_a_tile(case, seed, downsample):
    shape, _ = case
    slide = unreadable(shape)
    values = np.random.default_rng(seed).integers(0, 4, shape)
    values[: shape[0] // 2, : shape[1] // 2] = 2
    labels = ds.label_mask(values, slide.shape)
    found = ds.BlankMap.from_labels(np.ones((1, 1), bool), slide)
    tile = tuple(max(1, n // (3 * downsample)) for n in shape)
    pack = ds.pack_tiles(
        slide, tile_size=tile, downsample=downsample, blank_map=found, labels=labels
    )
    names = pack.attributes["classes"]
    assert names == [str(n) for n in np.unique(values) if n]
    assert len(pack) >= 4 and pack.coverage.shape == (len(pack), len(names))
    for (y, x, height, width), label, shares in zip(
        pack.boxes, pack.labels, pack.coverage, strict=True
    ):
        part = values[y : y + height, x : x + width]
        expected = [(part == int(name)).sum() / (height * width) for name in names]
        np.testing.assert_allclose(shares, expected, atol=1e-12)
        half = [name for name, share in zip(names, expected, strict=True) if share >= 0.5]
        assert label in (half or [""])
