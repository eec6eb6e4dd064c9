from fractions import Fraction

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import KERNELS, images, kernels, pixels, seeds

from dask_slides.errors import SlideArgumentError
from dask_slides.numerics.area_means import area_levels
from dask_slides.numerics.kernels import (
    Axis,
    kernel_named,
    resample_columns,
    resample_rows,
    to_dtype,
)

dtypes = st.sampled_from(["uint8", "uint16", "int16", "float32", "float64", "int64", "uint64"])
long = st.sampled_from(["int64", "uint64"])


def axis_of(n_in, n_out, kernel):
    return Axis(n_in, n_out, kernel, n_in / n_out)


def by_hand(image, shape, kernel):
    """Resample a whole image with the two passes."""
    height, width = image.shape[:2]
    middle = resample_columns(image, axis_of(width, shape[1], kernel), 0, shape[1], 0)
    return resample_rows(middle, axis_of(height, shape[0], kernel), 0, shape[0], 0)


@given(
    seeds,
    st.integers(1, 400),
    st.integers(1, 60),
    st.sampled_from([k for k in KERNELS if k != "nearest"]),
)
def test_weights_are_the_dense_matrix(seed, n_in, n_out, kernel):
    axis = axis_of(n_in, n_out, kernel)
    if axis.identity:
        return
    start = seed % n_out
    first, weights = axis.weights(start, n_out)
    found = np.zeros((n_out - start, n_in + weights.shape[1]))
    for row, (at, line) in enumerate(zip(first, weights, strict=True)):
        found[row, at : at + len(line)] = line
    expected = oracle.weight_matrix(n_in, n_out, kernel)[start:]
    assert np.allclose(found[:, :n_in], expected, rtol=0, atol=1e-12)
    assert not found[:, n_in:].any()


@given(seeds, st.integers(1, 900), st.integers(1, 90), kernels, dtypes)
def test_a_window_with_its_halo_gives_the_pixels_of_the_whole(seed, n_in, n_out, kernel, dtype):
    rng = np.random.default_rng(seed)
    image = pixels(seed, (n_in, 3, 2), dtype)
    axis = axis_of(n_in, n_out, kernel)
    whole = resample_rows(image, axis, 0, n_out, 0)
    start = int(rng.integers(0, n_out))
    stop = int(rng.integers(start, n_out)) + 1
    low, high = axis.window(start, stop)
    assert 0 <= low < high <= n_in
    part = resample_rows(image[low:high], axis, start, stop, low)
    assert part.dtype == image.dtype
    assert np.array_equal(part, whole[start:stop])
    turned = image.transpose(1, 0, 2)
    part = resample_columns(turned[:, low:high], axis, start, stop, low)
    assert np.array_equal(part, whole[start:stop].transpose(1, 0, 2))


@pytest.mark.parametrize("kernel", ["area", "linear", "cubic", "lanczos"])
@pytest.mark.parametrize("shape", [(9, 7), (97, 151), (61, 1), (700, 800)])
def test_eight_bits_equal_pillow_above_the_size_of_one_product(kernel, shape):
    image = pixels(3, (650, 730, 3), "uint8")
    assert np.array_equal(by_hand(image, shape, kernel), oracle.pillow_resize(image, shape, kernel))


def test_overshoot_is_clipped():
    image = np.zeros((40, 40, 1), np.uint8)
    image[:, 20:] = 255
    wide = by_hand(image.astype(np.float64), (40, 90), "lanczos")
    assert wide.max() > 255 and wide.min() < 0
    found = by_hand(image, (40, 90), "lanczos")
    assert np.array_equal(found, oracle.pillow_resize(image, (40, 90), "lanczos"))


def test_a_window_of_one_pixel_stays_inside_the_axis():
    for kernel in KERNELS:
        axis = axis_of(1, 7, kernel)
        assert axis.window(0, 7) == (0, 1)


def test_a_level_that_ends_before_the_image_is_not_read_past_its_end():
    axis = Axis(n_in=333, n_out=100, kernel="lanczos", ratio=1001 / 100 / 3)
    first, last = axis.taps(0, 100)
    assert last.max() == 333 and (first < last).all()


def test_identity_changes_nothing():
    image = pixels(1, (13, 11, 3), "uint8")
    for kernel in KERNELS:
        assert np.array_equal(by_hand(image, (13, 11), kernel), image)


def test_rounding_to_integers_is_clipped():
    values = np.array([-5.0, -0.4, 0.6, 254.6, 300.0])
    assert to_dtype(values, np.dtype("uint8")).tolist() == [0, 0, 1, 255, 255]
    assert to_dtype(values, np.dtype("int8")).tolist() == [-5, 0, 1, 127, 127]
    assert to_dtype(values, np.dtype("float32")).dtype == np.float32


def long_pixels(seed, shape, dtype):
    """Return 64-bit integers from their whole range, near its ends, or similar ones."""
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    spread = 2 ** int(rng.integers(1, 64))
    centre = [info.min, info.max, 0, 2**53, 2**62][int(rng.integers(5))]
    low, high = max(info.min, centre - spread), min(info.max, centre + spread)
    return rng.integers(low, high, shape, dtype, endpoint=True)


@given(seeds, long, st.integers(1, 40), st.integers(1, 50), kernels)
def test_resampled_integers_of_64_bits_equal_those_of_python(seed, dtype, n_in, n_out, kernel):
    image = long_pixels(seed, (n_in, 2, 1), dtype)
    axis = axis_of(n_in, n_out, kernel)
    found = resample_rows(image, axis, 0, n_out, 0)
    info = np.iinfo(dtype)
    reach = int(image.max()) - int(image.min())
    first, weights = axis.weights(0, n_out)
    for row, (at, line) in enumerate(zip(first, weights, strict=True)):
        whole = [Fraction(float(w)) for w in line]
        for col in range(2):
            taps = [int(v) for v in image[at : at + len(whole), col, 0]]
            used = whole[: len(taps)]
            right = sum(w * v for w, v in zip(used, taps, strict=True)) / sum(used)
            right = min(max(right, info.min), info.max)
            assert abs(int(found[row, col, 0]) - right) <= 0.5 + reach * 2.0**-46
            if kernel == "area":
                inside = [v for w, v in zip(used, taps, strict=True) if w]
                assert min(inside) <= int(found[row, col, 0]) <= max(inside)


@pytest.mark.parametrize("kernel", KERNELS)
@given(seeds, long, st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_a_flat_image_of_64_bits_stays_flat(kernel, seed, dtype, shape):
    image = np.full((31, 17, 2), long_pixels(seed, (), dtype), dtype)
    assert (by_hand(image, shape, kernel) == image[0, 0, 0]).all()


def test_halves_of_64_bits_round_to_even_as_other_dtypes():
    image = np.array([0, 1, 1, 2, 2, 3, 3, 4, -1, 0, -2, -1], np.int64)[:, None, None]
    axis = axis_of(12, 6, "area")
    found = resample_rows(image, axis, 0, 6, 0)
    assert found.reshape(-1).tolist() == [0, 2, 2, 4, 0, -2]
    assert np.array_equal(found, resample_rows(image.astype("i4"), axis, 0, 6, 0))


@pytest.mark.parametrize("kernel", ["area", "linear", "cubic", "lanczos"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_finite_floats_stay_finite(kernel, dtype):
    info = np.finfo(dtype)
    image = np.zeros((40, 44, 1), dtype)
    image[10:23], image[23:], image[:, 17] = info.min, info.max, info.max
    image[0, 0], image[1, 1] = np.inf, np.nan
    for shape in [(13, 14), (90, 60)]:
        found = by_hand(image, shape, kernel)
        reached = by_hand((~np.isfinite(image)).astype("f8"), shape, kernel)
        assert found.dtype == image.dtype
        assert np.isfinite(found[reached == 0]).all()
        assert not np.isfinite(found[0, 0]).any()
    flat = np.full((9, 9, 1), info.min, dtype)
    found = by_hand(flat, (3, 4), kernel)
    assert np.allclose(found.astype(np.longdouble), flat[0, 0], rtol=1e-3)


def levels_of(image, count):
    """Return the levels of a whole image from area_levels."""
    ones = tuple(np.ones(n, np.int64) for n in image.shape[:2])
    return [mean for mean, _ in area_levels(image, ones, image.dtype, range(1, count + 1))]


@given(images(), st.integers(1, 5))
def test_area_levels_are_the_rounded_means_of_level_0(image, count):
    found = list(levels_of(image, count))
    for level, expected in zip(found, oracle.area_pyramid(image, count), strict=True):
        assert np.array_equal(level, expected)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32"])
def test_area_levels_of_wide_integers_do_not_overflow(dtype):
    image = np.full((16, 16, 1), np.iinfo(dtype).max, dtype)
    for level in levels_of(image, 4):
        assert level.dtype == image.dtype and (level == np.iinfo(dtype).max).all()


def test_area_levels_of_signed_integers_and_floats():
    image = pixels(5, (17, 33, 2), "int16")
    for level, expected in zip(levels_of(image, 3), oracle.area_pyramid(image, 3), strict=True):
        assert np.array_equal(level, expected)
    image = pixels(5, (16, 32, 2), "float32")
    (level,) = levels_of(image, 1)
    expected = image.astype(np.float64).reshape(8, 2, 16, 2, 2).mean(axis=(1, 3))
    assert np.allclose(level, expected, rtol=1e-6)


@given(seeds, long | st.sampled_from(["uint32", "int32"]), st.integers(1, 40), st.integers(1, 40))
def test_area_levels_of_64_bits_equal_those_of_python(seed, dtype, height, width):
    image = long_pixels(seed, (height, width, 2), "int64").astype(dtype)
    if dtype in ("int64", "uint64"):
        image = long_pixels(seed, image.shape, dtype)
    for number, level in enumerate(levels_of(image, 4), 1):
        assert level.dtype == image.dtype
        for row, col, cell in oracle.cells(image, (2**number, 2**number)):
            count = cell.shape[0] * cell.shape[1]
            for channel in range(2):
                total = sum(int(v) for v in cell[..., channel].reshape(-1))
                assert int(level[row, col, channel]) == (2 * total + count) // (2 * count)


@pytest.mark.parametrize("dtype", ["uint32", "int32"])
@pytest.mark.parametrize("end", ["min", "max"])
def test_area_levels_after_16_halvings_do_not_overflow(dtype, end):
    value = getattr(np.iinfo(dtype), end)
    sums = np.full((4, 4, 1), value * 4**14, np.int64)
    covered = (np.full(4, 2**14),) * 2
    found = area_levels(sums, covered, np.dtype(dtype), range(15, 17))
    assert [level.reshape(-1).tolist() for level, _ in found] == [[value] * 4, [value]]


def test_area_levels_of_floats_near_the_limits_stay_finite():
    info = np.finfo(np.float64)
    image = np.full((9, 8, 1), info.min)
    image[:, 5] = info.max
    for level, number in zip(levels_of(image, 3), (1, 2, 3), strict=True):
        assert np.isfinite(level).all()
        assert (level[:, 0] == info.min).all() or number == 3


@pytest.mark.parametrize("name", ["bicubic", "", None, 3, ["lanczos"]])
def test_an_unknown_kernel_is_an_error_that_lists_the_names(name):
    with pytest.raises(SlideArgumentError, match="use one of nearest, area, linear, cubic, lanc"):
        kernel_named(name)


def test_weights_of_floats_do_not_depend_on_the_width_of_the_window():
    # np.sum adds 71 and 72 taps in different orders
    axis = axis_of(893, 75, "lanczos")
    whole, part = axis.weights(0, 75)[1], axis.weights(68, 71)[1]
    taps = min(whole.shape[1], part.shape[1])
    assert np.array_equal(whole[68:71, :taps], part[:, :taps])
