"""The Numba kernels give the same bits as numpy and Pillow, compiled or as plain Python."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.numerics import histograms, resample_means
from dask_slides.numerics import kernels as exact
from dask_slides.numerics import numba_kernels as kernels
from dask_slides.numerics.box_means import box_mean
from dask_slides.numerics.kernels import Axis
from dask_slides.runtime import numba_loader


@pytest.fixture(params=["compiled", "python"])
def kernel(request):
    """Return a function that finds a kernel by name: compiled, or its Python source."""
    if request.param == "compiled":
        return lambda name: getattr(kernels, name)
    return lambda name: getattr(kernels, name).py_func


@pytest.fixture(autouse=True)
def not_loaded(monkeypatch):
    """Start without loaded kernels, as in a new process, and restore them after the test."""
    monkeypatch.setattr(numba_loader, "_loaded", [])
    monkeypatch.setattr(numba_loader, "_missed", 0.0)


def noise(shape, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (2, 33_000)])
def test_moments(kernel, shape):
    values = noise((shape[0], shape[1] + 5), 1)[:, 3 : 3 + shape[1]]
    wide = values.astype(np.int64)
    assert kernel("moments")(values) == (wide.sum(), (wide**2).sum())


def test_moments_of_the_largest_row():
    """65,536 white samples are two pieces, of which the squares nearly fill 32 bits."""
    values = np.full((1, 2**16), 255, np.uint8)
    assert kernels.moments(values) == (255 * 2**16, 255**2 * 2**16)


def counted(count, values):
    counts, whole = np.zeros(256, np.int64), values.shape[1] // 8 * 8
    for _ in range(2):
        count(values[:, :whole].view(np.uint64), values[:, whole:], counts)
    return counts


@pytest.mark.parametrize("width", [0, 5, 8, 16, 24, 37, 48, 61, 125])
def test_count_bytes(kernel, width):
    values = noise((5, width + 3), 2)[:, 3:]
    expected = 2 * np.bincount(values.reshape(-1), minlength=256)
    np.testing.assert_array_equal(counted(kernel("count_bytes"), values), expected)


@given(
    runs=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=12),
    words=st.integers(1, 4),
    rest=st.integers(0, 9),
)
@settings(deadline=None)
def test_count_of_groups_that_repeat(runs, words, rest):
    """On glass the same 24 bytes repeat. Groups of other lengths share words."""
    line = [noise(8 * words, word) for word, times in runs for _ in range(times)]
    values = np.concatenate([*line, noise(rest, 9)])[None]
    expected = 2 * np.bincount(values[0], minlength=256)
    np.testing.assert_array_equal(counted(kernels.count_bytes, values), expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_box_means(kernel, channels, factor):
    pixels = noise((16, 24, channels), factor)
    means = np.zeros((16 // factor, 24 // factor, channels), np.uint8)
    kernel("box_means")(pixels.reshape(16, -1), channels, factor, means.reshape(len(means), -1))
    blocks = pixels.reshape(16 // factor, factor, 24 // factor, factor, channels)
    exact = blocks.astype(np.int64).sum(axis=(1, 3))
    np.testing.assert_array_equal(means, (2 * exact + factor**2) // (2 * factor**2))


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (16, 40)])
def test_transpose(kernel, shape):
    values = noise(shape, 3)
    out = np.zeros(shape[::-1], np.uint8)
    kernel("transpose")(values.view(np.uint64), out.view(np.uint64))
    np.testing.assert_array_equal(out, values.T)


@pytest.mark.parametrize("width", [5, 600])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_weighted_sums(kernel, width, kind):
    """Compare with integer sums, with weights that overshoot and taps beyond the end."""
    rng = np.random.default_rng(5)
    block = noise((20, width), 6)
    first = np.array([0, 2, 2, 9, 16], np.int64)
    whole = rng.integers(-9000, 15000, (5, 7))
    whole[4, 4:] = 0  # rows 20 to 22 do not exist
    out = np.zeros((5, width), np.uint8)
    if kind is np.float32:
        weights, half, bits = (whole * 2.0**-15).astype(kind), kind(0.5), np.int32(0)
    else:
        weights, half, bits = whole.astype(kind), kind(2**14), np.int32(15)
    kernel("weighted_sums")(block, first, weights, half, bits, out)
    padded = np.pad(block.astype(np.int64), ((0, 3), (0, 0)))
    sums = np.stack([w @ padded[f : f + 7] for f, w in zip(first, whole, strict=True)])
    np.testing.assert_array_equal(out, np.clip((sums + 2**14) >> 15, 0, 255))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(40, 900), st.integers(40, 700), st.floats(1.3, 6), st.floats(0, 1), st.data()
)  # fmt: skip
def test_shrink_is_the_same_bits(height, width, ratio, at, data):
    channels = data.draw(st.sampled_from([1, 3]))
    rows, columns = (
        Axis(n, max(1, int(n / ratio)), "lanczos", n / max(1, int(n / ratio)), 4.0)
        for n in (height, width)
    )
    y, x = int(at * (rows.n_out - 1)), int(at * (columns.n_out - 1) / 2)
    region = Region(y, x, rows.n_out - y, columns.n_out - x)
    (top, bottom), (left, right) = (
        rows.window(y, region.stop_y),
        columns.window(x, region.stop_x),
    )
    block = noise((bottom - top, right - left, channels), height)
    plain = np.zeros((region.height, region.width, channels), np.uint8)
    fast = plain.copy()
    assert not numba_loader._loaded
    resample_means.shrink(block, rows, columns, region, (top, left), plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_loader, "_loaded", [kernels])
        resample_means.shrink(block, rows, columns, region, (top, left), fast)
    np.testing.assert_array_equal(fast, plain)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_exact_resampling_is_the_same_bits(data):
    """Whole integers of NumPy and of the compiled loops, at the rim and inside, up and down."""
    draw = data.draw
    axis_of = lambda n_in: Axis(  # noqa: E731
        n_in, (n_out := max(1, round(n_in / draw(st.floats(0.3, 6))))), name, n_in / n_out,
        draw(st.sampled_from([1.0, 4.0])),
    )  # fmt: skip
    name = draw(st.sampled_from(["area", "linear", "cubic", "lanczos"]))
    axis = axis_of(draw(st.integers(1, 900)))
    start = draw(st.integers(0, axis.n_out - 1))
    stop = draw(st.integers(start + 1, axis.n_out))
    low, high = axis.window(start, stop)
    other, channels = draw(st.integers(1, 70)), draw(st.sampled_from([1, 3, 4]))
    strip = noise((other, high - low, channels), other)
    strip[:, ::5], strip[:, 1::7] = 0, 255
    block = np.ascontiguousarray(strip.transpose(1, 0, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "CACHED", draw(st.sampled_from([1, 2**19])))
        patch.setattr(numba_loader, "_loaded", [None])
        plain = [exact.resample_columns(strip, axis, start, stop, low)]
        plain.append(exact.resample_rows(block, axis, start, stop, low))
        patch.setattr(numba_loader, "_loaded", [kernels])
        fast = [exact.resample_columns(strip, axis, start, stop, low)]
        fast.append(exact.resample_rows(block, axis, start, stop, low))
    for one, expected in zip(fast, plain, strict=True):
        np.testing.assert_array_equal(one, expected)
    assert np.abs(axis.weights(start, stop)[1]).sum(axis=1).max() < 2  # sums fit 32 bits


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_box_mean_is_the_same_bits(factor, monkeypatch):
    for shape in ((32, 48, 3), (32, 48, 1), (30, 47, 3)):
        pixels = noise(shape, factor)
        plain = box_mean(pixels, factor)
        with monkeypatch.context() as patch:
            patch.setattr(numba_loader, "_loaded", [kernels])
            np.testing.assert_array_equal(box_mean(pixels, factor), plain)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("histogram", [True, False])
def test_sums_of_cells_are_those_of_pillow(histogram, channels, monkeypatch):
    """Pieces of three cells alternate: whole arrays, parts of wider ones, and repeated rows."""
    wide = noise((40, 60, 3), 9)
    parts = [wide, wide[3:20, 5:31], np.broadcast_to(wide[:1], (7, 60, 3)), wide[:, :, ::-1]]
    plain = histograms.byte_sums((1, 3), histogram, 0, channels)
    monkeypatch.setattr(numba_loader, "_loaded", [kernels])
    fast = histograms.byte_sums((1, 3), histogram, 0, channels)
    assert fast._compiled is kernels and getattr(plain, "_compiled", None) is None
    for at, part in enumerate([*parts, *parts[:2], wide, wide]):
        plain.add((0, min(at % 4, 2)), part)
        fast.add((0, min(at % 4, 2)), part)
    if histogram:
        np.testing.assert_array_equal(fast.counts(), plain.counts())
    np.testing.assert_array_equal(fast.moments(), plain.moments())


def test_blank_map_and_resize_are_the_same_bits(tmp_path, monkeypatch):
    path = tmp_path / "s.tif"
    ds.sample_slide(path, shape=(4096, 4096), tile=256)

    def results():
        return (
            ds.blank_map(path, tile_size=512).compute().statistics,
            ds.blank_map(path, tile_size=32).compute().statistics,
            ds.resize(path, downsample=10).data.compute(),
        )

    plain = results()
    monkeypatch.setattr(numba_loader, "_loaded", [kernels])
    for fast, expected in zip(results(), plain, strict=True):
        np.testing.assert_array_equal(fast, expected)


def test_a_small_job_loads_nothing(monkeypatch):
    monkeypatch.setattr(numba_loader, "_import", lambda: pytest.fail("loaded"))
    assert numba_loader.numba_kernels(0.9 * numba_loader.LOADING) is None


def test_many_small_calls_load_the_kernels(monkeypatch):
    monkeypatch.setattr(numba_loader, "_missed", 0.0)
    found = [numba_loader.numba_kernels(call=0.3 * numba_loader.LOADING) for _ in range(4)]
    assert found == [None, None, None, kernels]


def test_a_large_job_loads_the_kernels_once(monkeypatch):
    assert numba_loader.numba_kernels(10) is kernels
    monkeypatch.setattr(numba_loader, "_import", lambda: pytest.fail("loaded twice"))
    assert numba_loader.numba_kernels(10) is kernels
    assert numba_loader.numba_kernels(0) is kernels  # already loaded


def test_without_numba(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        assert numba_loader.numba_kernels(10) is None
    monkeypatch.setattr(numba_loader, "_import", lambda: pytest.fail("tried again"))
    assert numba_loader.numba_kernels(10) is None


def test_with_numba_disabled(monkeypatch):
    import numba

    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert numba_loader.numba_kernels(10) is None


def test_while_another_thread_loads_the_kernels():
    with numba_loader._lock:
        assert numba_loader.numba_kernels(10) is None
    assert numba_loader.numba_kernels(10) is kernels
