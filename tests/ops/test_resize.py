import math

import dask.array as da
import numpy as np
import oracle
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import KERNELS, channels, chunkings, images, kernels, pixels, seeds, shapes

import dask_slides as ds
from dask_slides.ops.resize import ladder, output_shape

LANCZOS = Image.Resampling.LANCZOS
out_shapes = st.tuples(st.integers(1, 90), st.integers(1, 90))


def computed(slide, chunks=None):
    return slide.to_dask(chunks=chunks).compute(scheduler="sync")


def plain(height=60, width=40, **kwargs):
    return ds.from_dask(da.zeros((height, width, 3), dtype="uint8"), **kwargs)


@given(images(), out_shapes, kernels)
def test_8_bit_images_equal_pillow(image, shape, kernel):
    small = ds.resize(ds.from_dask(image), shape=shape, kernel=kernel, gap=None)
    found = computed(small)
    assert found.dtype == np.uint8
    assert np.array_equal(found, oracle.pillow_resize(image, shape, kernel))


@given(seeds, shapes, channels, out_shapes, st.sampled_from(KERNELS[1:]), st.data())
def test_16_bit_images_equal_dense_matrices(seed, shape, count, target, kernel, data):
    dtype = data.draw(st.sampled_from(["uint16", "int16"]))
    image = pixels(seed, (*shape, count), dtype)
    found = computed(ds.resize(ds.from_dask(image), shape=target, kernel=kernel))
    expected = oracle.dense_resize(image, target, kernel)
    assert found.dtype == image.dtype
    # they may differ by 1 where float64 rounds a half the other way, and nowhere else
    assert np.abs(found - expected).max() <= 1
    ties = oracle.dense_ties(image, target, kernel)
    assert np.array_equal(found[~ties], expected[~ties])


@given(seeds, shapes, channels, out_shapes, st.sampled_from(KERNELS[1:]))
def test_floats_equal_dense_matrices_and_nan_stays_in_its_support(
    seed, shape, count, target, kernel
):
    image = pixels(seed, (*shape, count), "float32")
    holes = np.random.default_rng(seed).random(image.shape) < 0.002
    image[holes] = np.nan
    found = computed(ds.resize(ds.from_dask(image), shape=target, kernel=kernel))
    expected = oracle.dense_resize(image, target, kernel)
    assert found.dtype == np.float32
    good = ~np.isnan(expected)
    assert np.isnan(found[~good]).all()
    # a weight of 4e-17 instead of 0 lets a NaN through
    both = good & ~np.isnan(found)
    assert np.allclose(found[both], expected[both], rtol=1e-5, atol=1e-6)
    if not holes.any():
        assert both.all()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_nearest_copies_pixels_of_any_dtype(dtype):
    image = pixels(4, (50, 70, 3), dtype)
    found = computed(ds.resize(ds.from_dask(image), shape=(17, 9), kernel="nearest"))
    assert np.array_equal(found, oracle.nearest_resize(image, (17, 9)))


@given(st.data())
def test_chunks_of_input_and_output_do_not_change_pixels(data):
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "float64"]))
    image = data.draw(images(dtype=dtype))
    shape, kernel = data.draw(out_shapes), data.draw(kernels)
    whole = computed(ds.resize(ds.from_dask(image), shape=shape, kernel=kernel), chunks=-1)
    array = da.from_array(image, chunks=(*data.draw(chunkings(image.shape)), image.shape[2]))
    small = ds.resize(array, shape=shape, kernel=kernel)
    found = computed(small, chunks=data.draw(chunkings(shape)))
    assert np.array_equal(found, whole)


def test_the_height_of_strips_does_not_change_pixels(monkeypatch):
    image = pixels(9, (200, 150, 3), "float64")
    array = da.from_array(image, chunks=(16, 150, 3))
    whole = computed(ds.resize(array, downsample=3.3))
    monkeypatch.setattr("dask_slides.graph.resized.STRIP_PIXELS", 1)
    assert np.array_equal(computed(ds.resize(array, downsample=3.3)), whole)


def test_resizing_twice_equals_pillow_twice():
    image = pixels(2, (90, 70, 3), "uint8")
    first = ds.resize(ds.from_dask(image), shape=(41, 33))
    second = ds.resize(first, shape=(20, 9), kernel="cubic")
    step = oracle.pillow_resize(image, (41, 33), "lanczos")
    assert np.array_equal(computed(second), oracle.pillow_resize(step, (20, 9), "cubic"))


@pytest.fixture(scope="module")
def real_pixels(real_slide):
    return tifffile.imread(real_slide, series=0)


@pytest.mark.parametrize("ratio", [2, 2.5, 3.7, 10, 33.2])
def test_a_real_slide_equals_pillow(real_slide, real_pixels, ratio):
    small = ds.resize(real_slide, downsample=ratio, gap=None)
    expected = oracle.pillow_resize(real_pixels, small.shape[:2], "lanczos")
    assert np.array_equal(small.to_dask(chunks=333).compute(), expected)


@given(seeds, shapes, channels, st.integers(0, 40), st.integers(1, 90), kernels)
def test_an_image_that_does_not_shrink_in_height_equals_one_call_of_pillow(
    seed, shape, channels, taller, width, kernel
):
    # every version of Pillow then resizes the width first
    image = pixels(seed, (*shape, channels), "uint8")
    target = (shape[0] + taller, width)
    expected = np.stack(
        [
            Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
                target[::-1], oracle.PILLOW[kernel]
            )
            for c in range(channels)
        ],
        axis=-1,
    )
    small = ds.resize(ds.from_dask(image), shape=target, kernel=kernel)
    assert np.array_equal(computed(small), expected)


@pytest.mark.parametrize("ratio", [2, 2.5, 3.7, 10, 33.2])
def test_a_real_slide_differs_from_one_call_of_pillow_by_at_most_1(real_slide, real_pixels, ratio):
    small = ds.resize(real_slide, downsample=ratio, gap=None)
    height, width = small.shape[:2]
    expected = np.asarray(Image.fromarray(real_pixels).resize((width, height), LANCZOS))
    found = small.to_dask(chunks=333).compute()
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.fixture(scope="module")
def real_pyramid(real_pixels, write_pyramid):
    return write_pyramid(np.ascontiguousarray(real_pixels[:2048, :2048]))


@pytest.mark.parametrize("ratio", [4, 5.5, 8, 9.3, 16, 16.5, 20, 33.2])
def test_stored_levels_of_a_real_slide_lose_no_visible_quality(real_pyramid, real_pixels, ratio):
    small = ds.resize(real_pyramid, downsample=ratio)
    assert small.source.from_level > 0
    whole = np.ascontiguousarray(real_pixels[:2048, :2048])
    expected = oracle.pillow_resize(whole, small.shape[:2], "lanczos")
    assert oracle.psnr(small.data.compute(), expected) >= 48


@pytest.mark.parametrize("ratio", [4, 5.5, 7.5, 9.3])
def test_stored_levels_lose_no_visible_quality(pyramid, stained, ratio):
    small = ds.resize(pyramid, downsample=ratio)
    assert small.source.from_level > 0
    expected = oracle.pillow_resize(stained, small.shape[:2], "lanczos")
    found = small.data.compute()
    assert oracle.psnr(found, expected) >= 48


def test_without_a_gap_stored_levels_are_not_read(pyramid, stained):
    small = ds.resize(pyramid, downsample=9.3, gap=None)
    expected = oracle.pillow_resize(stained, small.shape[:2], "lanczos")
    assert np.array_equal(small.data.compute(), expected)


@pytest.mark.parametrize(
    ("downsample", "gap", "level"),
    [
        (3.9, 2.0, 0),
        (4, 2.0, 1),
        (7.9, 2.0, 1),
        (8, 2.0, 2),
        (16, 2.0, 2),
        (20, 2.0, 3),
        (4, 1.0, 2),
        (4, 4, 0),
    ],
)
def test_the_gap_decides_which_level_is_read(pyramid, downsample, gap, level):
    assert ds.resize(pyramid, downsample=downsample, gap=gap).source.from_level == level


def test_a_level_of_odd_size_does_not_shift_the_image(write_pyramid, stained):
    image = np.ascontiguousarray(stained[:601, :755])
    small = ds.resize(write_pyramid(image, levels=2), downsample=8)
    assert small.source.from_level == 2
    expected = oracle.pillow_resize(image, small.shape[:2], "lanczos")
    assert oracle.psnr(small.data.compute(), expected) >= 45


def test_building_computes_nothing_and_computing_reads_each_block_once():
    calls = []

    def block(block_id):
        calls.append(block_id)
        return np.full((20, 20, 3), 7, np.uint8)

    array = da.map_blocks(
        block, chunks=((20,) * 4, (20,) * 3, (3,)), dtype="uint8", meta=np.empty((0, 0, 0), "u1")
    )
    small = ds.resize(array, downsample=2)
    lazy = small.data
    assert calls == []
    lazy.compute(scheduler="sync")
    assert sorted(calls) == [(y, x, 0) for y in range(4) for x in range(3)]


def test_the_size_ladder():
    sides = [100_000, 50_001, 50_000, 25_001, 25_000, 10_001, 10_000, 5]
    assert [ladder(side) for side in sides] == [10, 10, 5, 5, 2, 2, 1, 1]


def test_without_a_scale_the_longest_side_decides():
    array = da.zeros((30_000, 101, 1), dtype="uint8", chunks=5000)
    assert ds.resize(array).shape == (6000, 20, 1)
    small = plain()
    assert ds.resize(small) is small


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 5000))
def test_max_size_is_the_longest_side_and_never_enlarges(height, width, longest):
    slide = ds.from_dask(da.zeros((height, width), dtype="uint8", chunks=2**20))
    found = output_shape(slide, max_size=longest)
    if max(height, width) <= longest:
        assert found == (height, width)
    else:
        assert max(found) == longest
        exact = min(height, width) * longest / max(height, width)
        assert abs(min(found) - exact) <= 0.5 or min(found) == 1


def test_a_target_mpp_sets_the_scale_and_the_exact_mpp_is_reported():
    slide = plain(1001, 800, mpp=(0.25, 0.5))
    small = ds.resize(slide, mpp=1.0)
    assert small.shape == (250, 400, 3)
    assert small.mpp_yx == pytest.approx((0.25 * 1001 / 250, 1.0))
    assert small.mpp == pytest.approx((0.25 * 1001 / 250 + 1.0) / 2)
    assert ds.resize(slide, mpp=(0.5, 1.0)).shape == (501, 400, 3)
    assert ds.resize(slide, mpp=0.25).shape == (1001, 1600, 3)
    assert ds.resize(plain(), downsample=2).mpp is None


@pytest.mark.parametrize("one", ["downsample", "mpp", "max_size", "shape"])
@pytest.mark.parametrize("two", ["downsample", "mpp", "max_size", "shape"])
def test_scale_arguments_exclude_each_other(one, two):
    if one == two:
        return
    values = {"downsample": 2, "mpp": 1.0, "max_size": 10, "shape": (5, 5)}
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"exclude each other; give one"
    ) as caught:
        ds.resize(plain(mpp=0.5), **{one: values[one], two: values[two]})
    assert one in str(caught.value) and two in str(caught.value)


def test_an_unknown_mpp_is_reported_with_a_cure():
    with pytest.raises(ds.errors.SlideMppError, match=r"mpp.*open_slide\(\.\.\., mpp=0\.25\)"):
        ds.resize(plain(), mpp=1.0)


WRONG_ARGUMENTS = [
    {"downsample": 0},
    {"downsample": -2},
    {"downsample": math.nan},
    {"downsample": math.inf},
    {"downsample": "2x"},
    {"downsample": True},
    {"max_size": 0},
    {"max_size": math.nan},
    {"mpp": 0},
    {"mpp": math.nan},
    {"mpp": (1.0, -1.0)},
    {"mpp": (1.0,)},
    {"mpp": (1.0, 1.0, 1.0)},
    {"shape": (0, 5)},
    {"shape": (5, -5)},
    {"shape": 5},
    {"shape": (5,)},
    {"shape": (5.5, 5)},
    {"shape": "ab"},
    {"kernel": "bicubic"},
    {"kernel": None},
    {"gap": 0.99},
    {"gap": 0},
    {"gap": math.nan},
    {"gap": math.inf},
    {"gap": "2"},
    {"downsample": 1e-9},
]


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS, ids=str)
def test_wrong_arguments_are_refused_in_one_line_with_a_cure(arguments):
    with pytest.raises(ds.errors.SlideArgumentError) as caught:
        ds.resize(plain(mpp=0.5), **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert any(cure in message for cure in ("; give", "; use one of", "; enlarge less"))


def test_chunks_of_an_enlarged_image_are_limited():
    """Few pixels become many, so that the pixels of the input do not limit a chunk."""
    for shape in ((40_000, 40_000), (200, 60_000), (60_000, 150)):
        large = ds.resize(np.zeros((100, 100), "u1"), shape=shape).to_dask()
        assert max(map(max, large.chunks[:2])) <= 4096 + 64
        assert large.npartitions <= 1000
    assert ds.resize(np.zeros((100, 100), "u1"), shape=(900, 900)).to_dask().npartitions == 1
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8), dtype="u1")
    found = ds.resize(pixels, shape=(30, 9_000), kernel="nearest").to_dask()
    assert found.npartitions > 1
    expected = pixels.repeat(10, axis=0).repeat(1125, axis=1)
    np.testing.assert_array_equal(found[..., 0], expected)
