import warnings

import dask.array as da
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import chunkings, kernels, pixels, seeds

import dask_slides as ds

GLASS = 240
CONTRAST = ds.Contrast(0.05)


@st.composite
def slides(draw):
    """Return (image, tile) of islands of noise on flat glass; at least one island."""
    height, width = draw(st.integers(5, 90)), draw(st.integers(5, 90))
    tile = draw(st.integers(2, 30)), draw(st.integers(2, 30))
    image = np.full((height, width, 3), GLASS, np.uint8)
    seed = draw(seeds)
    rng = np.random.default_rng(seed)
    for _ in range(draw(st.integers(1, 3))):
        y, x = int(rng.integers(0, height - 2)), int(rng.integers(0, width - 2))
        part = image[y : y + int(rng.integers(2, 20)), x : x + int(rng.integers(2, 20))]
        part[:] = rng.integers(0, 200, part.shape)
        part[0, 0], part[-1, -1] = 0, 255
    return image, tile


def cut_of(image, tile, **kwargs):
    kwargs.setdefault("downsample", 1)
    if "blank_map" not in kwargs:
        kwargs.setdefault("detector", CONTRAST)
    return ds.cutoff_resize(image, tile_size=tile, **kwargs)


@given(slides(), st.data())
def test_a_cut_equals_deleting_blank_rows_and_columns(case, data):
    image, tile = case
    blank = oracle.contrast_blank(image, tile, 0.05)
    chunks = (*data.draw(chunkings(image.shape)), 3)
    cut = cut_of(da.from_array(image, chunks=chunks), tile)
    expected = oracle.cut(image, blank, tile)
    assert np.array_equal(cut.blank_map.blank, blank)
    assert np.array_equal(cut.image.data.compute(scheduler="sync"), expected)
    assert cut.gain == max(image.shape[:2]) / max(expected.shape[:2])


@given(slides(), st.floats(0.4, 5), kernels, st.data())
def test_the_image_equals_the_resized_cut_pixels(case, ratio, kernel, data):
    image, tile = case
    cut = cut_of(ds.from_dask(image), tile, downsample=ratio, kernel=kernel, gap=None)
    left = oracle.cut(image, oracle.contrast_blank(image, tile, 0.05), tile)
    shape = cut.image.shape[:2]
    found = cut.image.to_dask(chunks=data.draw(chunkings(shape))).compute(scheduler="sync")
    assert np.array_equal(found, oracle.pillow_resize(left, shape, kernel))


@given(slides(), st.sampled_from([1, 0.7, 1.3, 3, 3.7, 7]))
def test_points_convert_there_and_back_and_cut_points_are_nan(case, ratio):
    image, tile = case
    cut = cut_of(ds.from_dask(image), tile, downsample=ratio)
    blank = oracle.contrast_blank(image, tile, 0.05)
    rows, columns = (oracle.kept_lines(blank, a, tile[a], image.shape[a]) for a in (0, 1))
    fractions = np.arange(16) / 16
    y, x = ((kept[:, None] + fractions).ravel() for kept in (rows, columns))
    points = np.stack((y[np.arange(999) % len(y)], x[np.arange(999) * 7 % len(x)]), axis=-1)
    there = cut.from_source(points)
    assert np.array_equal(cut.to_source(there), points)
    kept = np.stack(
        (np.searchsorted(rows, points[:, 0] // 1), np.searchsorted(columns, points[:, 1] // 1)), -1
    )
    factors = np.array([len(rows), len(columns)]) / cut.image.shape[:2]
    assert np.allclose(there, (kept + points % 1) / factors, rtol=1e-12)
    every = np.stack(np.mgrid[: image.shape[0], : image.shape[1]], axis=-1)
    lost = np.isnan(cut.from_source(every)).all(axis=-1)
    expected = ~(np.isin(every[..., 0], rows) & np.isin(every[..., 1], columns))
    assert np.array_equal(lost, expected)


def test_points_outside_the_image_are_nan(tissue):
    cut = cut_of(ds.from_dask(tissue), 30, downsample=2)
    height = cut.image.shape[0]
    assert np.isnan(cut.to_source([[-0.1, 0], [height + 0.1, 3]])).any(axis=-1).all()
    assert np.isnan(cut.from_source([-1, 5])).all()
    assert cut.to_source(np.zeros((4, 5, 2))).shape == (4, 5, 2)
    assert cut.to_source([0, 0]).tolist() == [60.0, 90.0]


@pytest.mark.parametrize("points", [5, [1, 2, 3], [[1], [2]]])
def test_points_that_are_not_pairs_are_refused(points, tissue):
    cut = cut_of(ds.from_dask(tissue), 30)
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"give \(\.\.\., 2\), which is \(y, x\)"
    ):
        cut.to_source(points)


@pytest.fixture
def islands(stained):
    """Tissue at 320:576 and 640:832 of the rows, from column 192 on; glass elsewhere."""
    image = np.full_like(stained, GLASS)
    image[320:576, 192:] = stained[320:576, 192:]
    image[640:, 192:832] = stained[640:, 192:832]
    return image


@pytest.mark.parametrize(("tile", "level"), [(64, 2), (20, 2), (62, 1), (65, 0)])
def test_stored_levels_are_used_if_cuts_fall_between_their_pixels(
    write_pyramid, islands, tile, level, monkeypatch
):
    path = write_pyramid(islands, levels=2)
    cut = cut_of(path, tile, downsample=9)
    kind = type(ds.open_slide(path).source)
    read, seen = kind.read, set()

    def counted(self, number, region):
        seen.add(number)
        return read(self, number, region)

    monkeypatch.setattr(kind, "read", counted)
    found = cut.image.data.compute(scheduler="sync")
    assert seen == {level}
    left = oracle.cut(islands, oracle.contrast_blank(islands, (tile, tile), 0.05), (tile, tile))
    assert left.shape != islands.shape
    expected = oracle.pillow_resize(left, found.shape[:2], "lanczos")
    assert oracle.psnr(found, expected) >= (48 if level else np.inf)


def test_levels_of_a_cut_slide_are_cut_levels(write_pyramid, islands):
    cut = cut_of(write_pyramid(islands, levels=2), 64)
    blank = oracle.contrast_blank(islands, (64, 64), 0.05)
    assert [level.downsample for level in cut.image.levels] == [(1, 1), (2, 2), (4, 4)]
    small = oracle.area_pyramid(islands, 2)[1]
    found = cut.image.to_dask(level=2).compute()
    assert np.array_equal(found, oracle.cut(small, blank, (16, 16)))


def test_a_scale_applies_to_the_cut_image_and_the_ladder_to_the_whole_slide():
    array = da.full((10_500, 300), GLASS, dtype="uint8", chunks=1000)
    noise = da.from_array(pixels(0, (100, 300), "uint8"))
    tall = da.concatenate([noise, array])
    options = {"tile_size": 100, "detector": CONTRAST}
    assert ds.cutoff_resize(tall, **options).image.shape == (50, 150, 1)
    assert ds.cutoff_resize(tall, max_size=150, **options).image.shape == (50, 150, 1)
    assert ds.cutoff_resize(tall, shape=(7, 9), **options).image.shape == (7, 9, 1)
    scaled = ds.cutoff_resize(ds.from_dask(tall, mpp=0.5), mpp=2, **options).image
    assert scaled.shape == (25, 75, 1) and scaled.mpp == 2


def test_a_slide_without_blank_rows_is_not_cut():
    image = pixels(3, (50, 70, 3), "uint8")
    image[:, ::2] = 0
    image[:, 1::2] = 255
    cut = cut_of(ds.from_dask(image), 10)
    assert cut.image.shape == image.shape and cut.gain == 1
    assert np.array_equal(cut.image.data.compute(), image)
    assert cut.to_source([13.5, 7.25]).tolist() == [13.5, 7.25]


def test_the_cutoff_of_a_blank_slide_is_empty():
    glass = np.full((80, 60, 3), GLASS, np.uint8)
    with pytest.warns(
        ds.errors.BlankSlideWarning, match=r"every tile is blank under Tissue"
    ) as warned:
        cut = ds.cutoff_resize(glass, downsample=3)
    assert warned[0].filename == __file__
    assert cut.image.shape == (0, 0, 3) and cut.blank_map.blank.all() and cut.gain == 1
    assert cut.image.data.compute().shape == (0, 0, 3)
    assert np.isnan(cut.to_source([[0, 0]])).all() and np.isnan(cut.from_source([[0, 0]])).all()
    assert "0 x 0 px" in cut._repr_html_()
    assert ds.resize(cut.image, downsample=2).shape == (0, 0, 3)
    with pytest.warns(ds.errors.BlankSlideWarning):
        again = ds.cutoff_resize(cut.image)
    assert again.image.shape == (0, 0, 3) and "0 x 0 px" in again._repr_html_()
    assert cut.image.thumbnail().shape == np.asarray(cut.image).shape == (0, 0, 3)
    assert "shape=(0, 0, 3)" in repr(cut) and repr(again.blank_map)


def test_a_given_computed_blank_map_is_used_without_reading(tissue):
    def read(block_info):
        raise AssertionError("the slide was read")

    found = ds.blank_map(ds.from_dask(tissue), tile_size=30, detector=CONTRAST).compute()
    meta = np.empty((0, 0, 0), np.uint8)
    unreadable = da.map_blocks(read, chunks=((300,), (420,), (3,)), dtype="uint8", meta=meta)
    cut = ds.cutoff_resize(unreadable, downsample=1, blank_map=found)
    left = oracle.cut(tissue, oracle.contrast_blank(tissue, (30, 30), 0.05), (30, 30))
    assert cut.image.shape == left.shape and cut.blank_map is found
    lazy = ds.blank_map(ds.from_dask(tissue), tile_size=30, detector=CONTRAST)
    again = ds.cutoff_resize(ds.from_dask(tissue), downsample=1, blank_map=lazy)
    assert np.array_equal(again.image.data.compute(), left)


def test_a_blank_map_of_another_slide_is_refused(tissue):
    other = ds.blank_map(np.zeros((300, 421, 3), np.uint8), tile_size=30)
    with pytest.raises(ds.errors.SlideArgumentError, match=r"300 x 421 px, and the slide"):
        ds.cutoff_resize(ds.from_dask(tissue), blank_map=other)
    with pytest.raises(ds.errors.SlideArgumentError, match=r"blank_map=ndarray; give a BlankMap"):
        ds.cutoff_resize(ds.from_dask(tissue), blank_map=np.zeros((10, 14), bool))


@pytest.mark.parametrize(
    "arguments",
    [
        {"downsample": 0},
        {"downsample": 2, "max_size": 9},
        {"kernel": "x"},
        {"gap": 0.5},
        {"mpp": 1},
    ],
)
def test_wrong_arguments_are_refused_before_the_slide_is_read(arguments):
    def read(block_info):
        raise AssertionError("the slide was read")

    meta = np.empty((0, 0), np.uint8)
    slide = ds.from_dask(da.map_blocks(read, chunks=((30,), (40,)), dtype="uint8", meta=meta))
    with pytest.raises(ds.errors.SlideArgumentError, match=r"; (give|use)"):
        ds.cutoff_resize(slide, **arguments)


def test_a_cut_and_resized_slide_can_be_resized_and_cut_again(tissue):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut = cut_of(ds.from_dask(tissue), 30, gap=None)
        again = ds.resize(cut.image, downsample=2, gap=None)
    left = oracle.cut(tissue, oracle.contrast_blank(tissue, (30, 30), 0.05), (30, 30))
    expected = oracle.pillow_resize(left, again.shape[:2], "lanczos")
    assert np.array_equal(again.data.compute(), expected)


def test_html_escapes_the_name(tissue):
    slide = ds.from_dask(tissue, mpp=0.5)
    object.__setattr__(slide, "name", "<b>&.tif")
    html = cut_of(slide, 30)._repr_html_()
    assert "<b>&.tif" not in html and "&lt;b&gt;&amp;.tif" in html and "0.5 µm" in html
    assert "300 x 420 px" in html


def test_the_repr_and_equality_of_a_cutoff(tissue, sync):
    cut, same = (cut_of(ds.from_dask(tissue), 30, downsample=2) for _ in range(2))
    assert repr(cut) == (
        "Cutoff<cut off and resized by 2 with lanczos from dask array, shape=(105, 135, 3), "
        "dtype=uint8, mpp=None, chunksize=(105, 135, 3), source_shape=(300, 420), gain=1.56>"
    )
    assert cut == same and cut != cut_of(ds.from_dask(tissue), 20, downsample=2)


def test_a_plot_shows_what_is_kept_on_the_slide(tissue, axes):
    cut = cut_of(ds.from_dask(tissue), 30)
    assert cut.plot(axes) is axes
    assert axes.images[0].get_extent() == [0, 420, 300, 0]
    assert axes.get_title() == f"dask array: cut off, gain {cut.gain:.2f}"
    blank = oracle.contrast_blank(tissue, (30, 30), 0.05)
    kept = np.zeros((300, 420), bool)
    kept[np.ix_(*(oracle.kept_lines(blank, a, 30, kept.shape[a]) for a in (0, 1)))] = True
    assert 0 < kept.mean() < 1 and np.array_equal(cut.kept_mask(), kept)
    assert np.array_equal(cut.kept_mask(max_size=42), kept[5::10, 5::10])
