"""The fast resampling of averaged images is close to dense matrices and exact in any order."""

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import images, pixels, seeds

from dask_slides.core.geometry import Region
from dask_slides.numerics.kernels import GEMM_LIMIT, KERNELS, Axis
from dask_slides.numerics.resample_means import _bands, _samples_per_product, shrink

names = st.sampled_from(["area", "linear", "cubic", "lanczos"])


def axis(n_in, n_out, kernel, averaged=1.0):
    return Axis(n_in, n_out, kernel, n_in / n_out, averaged)


def shrunk(image, rows, columns, region=None):
    """Return `region` of the result, resampled from the window that it needs."""
    region = region or Region(0, 0, rows.n_out, columns.n_out)
    top, bottom = rows.window(region.y, region.stop_y)
    left, right = columns.window(region.x, region.stop_x)
    out = np.empty((region.height, region.width, image.shape[2]), np.uint8)
    block = np.ascontiguousarray(image[top:bottom, left:right])
    shrink(block, rows, columns, region, (top, left), out)
    return out


def rows_then_columns(image, shape, kernel):
    """Resample with dense matrices in float64, rounded between the passes."""
    columns = oracle.dense_resize(image.transpose(1, 0, 2), shape[::-1], kernel)
    return columns.transpose(1, 0, 2)


def off(found, exact, taps):
    """Return the error of `found` beyond that of rounding and of weights of 15 bits."""
    weights = taps * 255 * 2.0**-15  # half a step each, and the sum of these for the largest
    return np.abs(found - np.clip(exact, 0, 255)).max() - 0.5 - weights


@given(images(), st.integers(1, 60), names)
def test_a_pass_equals_the_dense_matrix_up_to_15_bits(image, size, kernel):
    height, width = image.shape[:2]
    matrix = oracle.weight_matrix(height, size, kernel)
    if height != size:
        found = shrunk(image, axis(height, size, kernel), axis(width, width, kernel))
        exact = np.einsum("iy,yxc->ixc", matrix, image.astype(np.float64))
        assert off(found, exact, height) <= 1e-9
    if width != size:
        matrix = oracle.weight_matrix(width, size, kernel)
        found = shrunk(image, axis(height, height, kernel), axis(width, size, kernel))
        exact = np.einsum("jx,yxc->yjc", matrix, image.astype(np.float64))
        assert off(found, exact, width) <= 1e-9


@given(seeds, names, st.floats(1.0, 9.0), st.sampled_from([1.0, 2.0, 8.0]), st.data())
def test_a_region_has_the_pixels_of_the_whole(seed, kernel, ratio, averaged, data):
    image = pixels(seed, (90, 130, 3), "uint8")
    size = [max(1, round(n / ratio)) for n in image.shape[:2]]
    rows, columns = (
        axis(n, m, kernel, averaged) for n, m in zip(image.shape[:2], size, strict=True)
    )
    whole = shrunk(image, rows, columns)
    y, x = (data.draw(st.integers(0, m - 1)) for m in size)
    height, width = (data.draw(st.integers(1, m - a)) for m, a in zip(size, (y, x), strict=True))
    region = Region(y, x, height, width)
    assert np.array_equal(shrunk(image, rows, columns, region), whole[region.slices()])


def test_wide_images_need_several_groups_and_pieces():
    image = pixels(3, (700, 1100, 3), "uint8")
    rows, columns = axis(700, 280, "lanczos"), axis(1100, 440, "lanczos")
    expected = rows_then_columns(image, (280, 440), "lanczos")
    found = shrunk(image, rows, columns)
    assert np.abs(found - expected).max() <= 2
    assert (found != expected).mean() < 0.05


@given(st.integers(0, 255), names, st.integers(2, 300), st.integers(1, 300))
def test_a_flat_image_stays_flat(value, kernel, n_in, n_out):
    image = np.full((n_in, 5, 3), value, np.uint8)
    found = shrunk(image, axis(n_in, n_out, kernel, 4.0), axis(5, 5, kernel, 4.0))
    assert (found == value).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ratio", [1.0, 1.25, 2.0, 2.5, 3.99, 16.0])
@pytest.mark.parametrize("averaged", [1.0, 2.0, 64.0])
def test_sums_are_exact_in_float32(kernel, ratio, averaged):
    n_out = 300
    one = Axis(round(n_out * ratio), n_out, kernel, ratio, averaged)
    for band in _bands(one, 0):
        steps = band.matrix.astype(np.float64) * 2**15
        assert np.array_equal(steps, np.rint(steps))
        # the largest partial sum in any order adds all terms of one sign
        assert 255 * np.abs(steps).sum(axis=0).max() + 2**14 < 2**24
        assert np.allclose(band.matrix.sum(axis=0), 1, rtol=0, atol=0)


def test_products_are_too_small_for_threads_of_the_blas():
    for size in (1, 24 * 76, 24 * 200, 24 * 600):
        assert _samples_per_product(size) * size <= max(GEMM_LIMIT, 16 * size)


def test_the_tasks_of_an_image_share_its_weights(monkeypatch):
    """Weights of an output are computed once, not once per block."""
    computed = []

    def weights(self, start, stop):
        computed.append((self.n_in, start, stop))
        return real(self, start, stop)

    real = Axis.weights
    rows, columns = axis(1033, 413, "lanczos", 4.0), axis(25_603, 10_241, "lanczos", 4.0)
    block = np.zeros((1033, 2600, 3), np.uint8)
    monkeypatch.setattr(Axis, "weights", weights)
    for y in (0, 206):
        for x in range(0, columns.n_out, 1024):
            region = Region(y, x, 206, min(1024, columns.n_out - x))
            left, right = columns.window(x, region.stop_x)
            top, bottom = rows.window(y, region.stop_y)
            out = np.empty((region.height, region.width, 3), np.uint8)
            part = block[top:bottom, : right - left]
            shrink(np.ascontiguousarray(part), rows, columns, region, (top, left), out)
    for one in (rows, columns):
        spans = sorted(span[1:] for span in computed if span[0] == one.n_in)
        assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
        assert spans[-1][1] == one.n_out
