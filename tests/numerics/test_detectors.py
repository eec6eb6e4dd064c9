import colorsys
import math
import sys

import dask.array as da
import numpy as np
import oracle
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu
from strategies import images, pixels, seeds, shapes, tiles

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.numerics.detectors import DETECTORS, Detector, checked_detector

ratios = st.integers(0, 40).map(lambda k: k / 20)


def blank_of(image, tile, detector, chunks="auto"):
    array = da.from_array(image, chunks=chunks)
    return ds.blank_map(array, tile_size=tile, detector=detector).blank.compute(scheduler="sync")


def faint(seed, shape, dtype):
    """Return an image whose cells have contrasts from zero to strong."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    spread = np.linspace(0, 1, shape[1])[None, :, None]
    noise = rng.integers(-top // 2, top // 2, shape) * spread
    return (top // 2 + noise).astype(dtype)


@given(seeds, shapes, st.sampled_from([1, 3, 4]), tiles, ratios, st.sampled_from(["u1", "u2"]))
def test_contrast_compares_std_with_ratio_times_mean(seed, shape, channels, tile, ratio, dtype):
    image = faint(seed, (*shape, channels), np.dtype(dtype))
    image[: shape[0] // 3] = 0
    expected = oracle.contrast_blank(image, tile, ratio)
    found = blank_of(image, tile, ds.Contrast(ratio))
    gap = oracle.per_cell(
        image, tile, lambda p: p.std(dtype=np.float64) - ratio * p.mean(dtype=np.float64)
    )
    decided = (gap == 0) | (np.abs(gap) > 1e-6)
    assert np.array_equal(found[decided], expected[decided])
    assert decided.mean() > 0.9


@given(images(channels=st.sampled_from([1, 3])), tiles, ratios)
def test_contrast_of_noise_with_flat_parts(image, tile, ratio):
    found = blank_of(image, tile, ds.Contrast(ratio))
    assert np.array_equal(found, oracle.contrast_blank(image, tile, ratio))


@pytest.mark.parametrize("value", [0, 1, 77, 254, 255])
def test_a_flat_cell_is_blank_with_any_ratio(value):
    image = np.full((41, 33, 3), value, np.uint8)
    assert blank_of(image, 17, ds.Contrast(0)).all()


@given(images(channels=st.just(3)), tiles, ratios)
def test_contrast_with_alpha_is_that_of_an_rgba_array(image, tile, ratio):
    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    rgba = np.concatenate((image, alpha), axis=2)
    found = blank_of(image, tile, ds.Contrast(ratio, with_alpha=True))
    gap = oracle.per_cell(
        rgba, tile, lambda p: p.std(dtype=np.float64) - ratio * p.mean(dtype=np.float64)
    )
    decided = np.abs(gap) > 1e-6
    assert np.array_equal(found[decided], gap[decided] < 0)


def test_alpha_changes_which_tiles_are_blank():
    image = np.full((20, 20, 3), 200, np.uint8)
    image[:10, :, 0] = 150
    plain, counted = (
        blank_of(image, 10, ds.Contrast(0.12, with_alpha=alpha)) for alpha in (False, True)
    )
    # (150, 200, 200): 0.129; with 255: 0.185. (200, 200, 200): 0; with 255: 0.111
    assert plain.tolist() == [[False, False], [True, True]]
    assert counted.tolist() == [[False, False], [True, True]]
    plain, counted = (
        blank_of(image, 10, ds.Contrast(0.15, with_alpha=alpha)) for alpha in (False, True)
    )
    assert plain.all() and counted.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(("shape", "dtype"), [((9, 9), "u1"), ((9, 9, 4), "u1"), ((9, 9, 3), "u2")])
def test_alpha_is_refused_for_images_that_are_not_rgb_of_8_bits(shape, dtype):
    detector = ds.Otsu() & (ds.Contrast(0.1, with_alpha=True) | ds.Saturation())
    for call in (
        lambda: ds.blank_map(np.zeros(shape, dtype), detector=detector),
        lambda: ds.pack_tiles(np.zeros(shape, dtype), tile_size=3, detector=detector),
        lambda: ds.random_crops(np.zeros(shape, dtype), n=2, size=3, detector=detector),
    ):
        with pytest.raises(ds.errors.SlideArgumentError, match=r"RGB images of 8 bits.*; use"):
            call()


def test_contrast_includes_its_ratio():
    image = np.array([[19, 21]], np.uint8).repeat(8, axis=0).repeat(4, axis=1)
    assert image.std() == 0.05 * image.mean()
    assert blank_of(image, 8, ds.Contrast(0.05)).all()
    assert not blank_of(image, 8, ds.Contrast(0.0499)).any()


@given(images(channels=st.sampled_from([1, 3])), tiles, st.sampled_from(["bright", "dark"]))
def test_otsu_is_the_threshold_of_the_whole_image(image, tile, background):
    greys = oracle.grey(image)
    if np.ptp(greys) == 0:
        assert blank_of(image, tile, ds.Otsu(background=background)).all()
        return
    threshold = threshold_otsu(greys)

    def judge(p):
        dark = float((oracle.grey(p) <= threshold).mean())
        return (dark if background == "bright" else 1 - dark) <= 0.02

    found = blank_of(image, tile, ds.Otsu(background=background))
    expected = oracle.per_cell(image, tile, judge)
    near = oracle.per_cell(
        image, tile, lambda p: abs((oracle.grey(p) <= threshold).mean() - 0.98) < 1e-9
    )
    if background == "bright":
        near[:] = False
    assert np.array_equal(found[~near], expected[~near])


def test_otsu_of_a_slide_splits_glass_from_tissue(tissue):
    found = blank_of(tissue, 30, ds.Otsu(), chunks=(50, 70, 3))
    threshold = threshold_otsu(oracle.grey(tissue))
    expected = oracle.per_cell(
        tissue, (30, 30), lambda p: (oracle.grey(p) <= threshold).mean() <= 0.02
    )
    assert np.array_equal(found, expected)
    assert 0 < found.mean() < 1


@given(images(channels=st.just(3)), tiles, st.integers(0, 254), st.integers(0, 99))
def test_brightness_counts_pixels_beyond_its_threshold(image, tile, level, percent):
    share = percent / 100 + 0.0037  # no cell has exactly this share
    bright = ds.Brightness(level / 256, share)
    dark = ds.Brightness(level / 256, share, "dark")
    below = oracle.per_cell(image, tile, lambda p: (oracle.grey(p) < level).mean())
    decided = (abs(below - share) > 1e-9) & (abs(1 - below - share) > 1e-9)
    assert np.array_equal(blank_of(image, tile, bright)[decided], (below <= share)[decided])
    assert np.array_equal(blank_of(image, tile, dark)[decided], (1 - below <= share)[decided])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_share_counts_pixels_whatever_their_channels(dtype):
    """Stain darkens one channel of three in 3 % of the pixels: 1 % of the samples."""
    image = np.full((40, 40, 3), 240, dtype)
    image[:3, :16, 1] = 0  # grey 160
    image[39, 39] = 255
    for share, blank in ((0.029, False), (0.031, True)):
        assert blank_of(image, 40, ds.Brightness(0.8, share)) == blank
        assert blank_of(image, 40, ds.Otsu(share)) == blank


def sensor(seed, dtype, low, high):
    """Return dim noise with a bright part, with values from `low` to `high`."""
    rng = np.random.default_rng(seed)
    share = rng.normal(0.1, 0.02, (60, 80)).clip(0, 1)
    share[15:45, 20:60] = rng.uniform(0.3, 1, (30, 40))
    share[0, 0], share[20, 20] = 0, 1
    return (low + share * (high - low)).astype(dtype)[..., None]


IN_USE = [
    ("uint16", 0, 65535),
    ("uint16", 0, 4095),
    ("uint16", 100, 250),
    ("int16", -2000, 2000),
    ("int32", 100, 250),
    ("uint32", 7, 2**31),
    ("int64", -(2**40), 2**41),
    ("float32", 0, 1),
    ("float32", 0, 255),
    ("float64", -96, -30),
]
"""Ranges of values of sensors: full, 12 bits, counts, metres, decibels."""


@pytest.mark.parametrize(("dtype", "low", "high"), IN_USE)
@pytest.mark.parametrize("background", ["bright", "dark"])
def test_otsu_splits_the_range_in_use(dtype, low, high, background):
    image = sensor(3, dtype, low, high)
    found = blank_of(image, 10, ds.Otsu(background=background), chunks=(20, 30, 1))
    if background == "dark":
        bright = np.zeros((60, 80), bool)
        bright[15:45, 20:60] = True
        assert np.array_equal(found, oracle.per_cell(bright, (10, 10), lambda p: p.mean() <= 0.02))
    threshold = threshold_otsu(image.astype(float).ravel())  # integers would get one bin per value
    fitted = ds.blank_map(image, tile_size=10, detector=ds.Otsu()).compute()
    level = fitted.detector.fit(fitted.stats).level
    assert abs(level - threshold) <= 0.05 * (high - low)


@pytest.mark.parametrize(("dtype", "low", "high"), IN_USE)
@pytest.mark.parametrize("background", ["bright", "dark"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.55, 1.0])
def test_brightness_is_a_share_of_the_range_in_use(dtype, low, high, background, threshold):
    image = sensor(4, dtype, low, high)
    values = image.astype(np.float64)
    base = min(0.0, values.min())
    level = base + threshold * (values.max() - base)
    step = 2.0 ** math.ceil(math.log2(values.max() - values.min() + 1e-9) - 7)  # two bins

    def share(p, at):
        return float((p >= at).mean())

    detector = ds.Brightness(threshold, 0.0213, background)
    found = blank_of(image, 9, detector, chunks=(20, 30, 1))
    tissue = (
        (lambda p, at: 1 - share(p, at)) if background == "bright" else (lambda p, at: share(p, at))
    )
    sides = [
        oracle.per_cell(values, (9, 9), lambda p, at=at: tissue(p, at) <= 0.0213)
        for at in (level, level + step)
    ]
    same = sides[0] == sides[1]
    assert np.array_equal(found[same], sides[0][same])
    assert same.mean() > 0.4


@given(seeds, shapes, tiles, st.integers(0, 256), st.sampled_from(["bright", "dark"]))
def test_brightness_and_otsu_of_16_bits_are_those_of_their_upper_8(
    seed, shape, tile, level, background
):
    image = pixels(seed, (shape[0] + 1, shape[1], 1), "uint16")
    image[0, 0], image[-1, 0] = 0, 65535  # the whole range is in use
    eight = (image >> 8).astype(np.uint8)
    for detector in (ds.Brightness(level / 256, 0.1, background), ds.Otsu(0.3, background)):
        assert np.array_equal(blank_of(image, tile, detector), blank_of(eight, tile, detector))


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("value", [-9999, -1, 0, 0.1, 12345.678, -3.4e38, -1.797e308])
def test_a_cell_of_one_signed_value_is_blank_with_any_ratio(dtype, value):
    info = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    flat = np.full((1000, 30, 1), max(float(info.min), value)).astype(dtype)
    for detector in (ds.Contrast(0), ds.Contrast(), ds.Otsu(), ds.Brightness(background="dark")):
        assert blank_of(flat, (500, 30), detector).all()
    busy = flat.copy()
    busy[::2] = 1 if flat[0, 0] == 0 else 0
    assert not blank_of(busy, (500, 30), ds.Contrast(0.35)).any()


def test_contrast_of_signed_data_uses_the_absolute_mean():
    image = part = np.array([[-19, -21]], np.int16).repeat(8, axis=0).repeat(4, axis=1)
    assert part.std() == 0.05 * abs(part.mean())
    assert blank_of(image, 8, ds.Contrast(0.05)).all()
    assert not blank_of(image, 8, ds.Contrast(0.0499)).any()


def saturation_of(p):
    return rgb2hsv(p)[..., 1] * 255


@given(seeds, shapes, tiles, st.integers(0, 200))
def test_saturation_is_that_of_hsv(seed, shape, tile, threshold):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 1)) + rng.integers(-20, 20, (*shape, 3))
    image = np.clip(image, 0, 255).astype(np.uint8)
    values = saturation_of(image)
    image[abs(values - threshold - 0.5) < 1e-6] = 0  # the last bit would decide the rounding
    found = blank_of(image, tile, ds.Saturation(threshold / 255, 0.1003))
    expected = oracle.per_cell(
        image, tile, lambda p: (np.rint(saturation_of(p)) > threshold).mean() <= 0.1003
    )
    assert np.array_equal(found, expected)


def test_saturation_of_black_and_of_pure_colours():
    for colour in [(0, 0, 0), (255, 0, 0), (90, 90, 90), (200, 180, 180)]:
        image = np.full((8, 8, 3), colour, np.uint8)
        expected = colorsys.rgb_to_hsv(*(c / 255 for c in colour))[1] <= 8.5 / 255
        assert blank_of(image, 8, ds.Saturation()).all() == expected


def test_grey_images_have_no_saturation():
    assert blank_of(pixels(1, (20, 20, 1), "uint8"), 10, ds.Saturation()).all()


@given(images(channels=st.just(3)), tiles)
def test_unions_and_intersections_are_those_of_the_masks(image, tile):
    one, two, three = ds.Contrast(0.55), ds.Otsu(0.4), ds.Saturation(0.5, 0.5)
    masks = [blank_of(image, tile, one), blank_of(image, tile, two), blank_of(image, tile, three)]
    assert np.array_equal(blank_of(image, tile, one | two), masks[0] | masks[1])
    assert np.array_equal(blank_of(image, tile, one & three), masks[0] & masks[2])
    nested = blank_of(image, tile, (one | two) & three)
    assert np.array_equal(nested, (masks[0] | masks[1]) & masks[2])


def test_groups_combine_needs_and_pooled():
    group = ds.Contrast() | (ds.Saturation() & ds.Otsu())
    assert set(group.needs) == {"histogram", "saturation"}
    assert group.pooled and not (ds.Contrast() | ds.Saturation()).pooled


def test_a_fitted_detector_has_the_threshold_of_the_slide(tissue):
    found = ds.blank_map(
        ds.from_dask(tissue), tile_size=30, detector=ds.Otsu() | ds.Contrast()
    ).compute()
    fitted = found.detector.fit(found.stats)
    assert not fitted.pooled
    assert fitted.detectors[0].level == threshold_otsu(oracle.grey(tissue)) + 1


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_by_name(name):
    detector = checked_detector(name)
    assert isinstance(detector, Detector) and type(detector) is DETECTORS[name]


def test_a_custom_detector_needs_no_base_class():
    class EveryOther:
        needs = ()
        pooled = False

        def fit(self, stats):
            return self

        def __call__(self, stats):
            return stats.count > 100

    image = np.zeros((12, 15, 1), np.uint8)
    found = blank_of(image, 12, EveryOther())
    assert found.tolist() == [[True, False]]


@pytest.mark.parametrize("wrong", [None, 0.05, "otsus", ds.Contrast])
def test_other_values_are_refused_with_a_solution(wrong):
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"is not a detector; use Tissue\(\), Contrast\(0.05\)"
    ):
        ds.blank_map(np.zeros((9, 9), np.uint8), detector=wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ds.Contrast(-0.1),
        lambda: ds.Contrast(math.nan),
        lambda: ds.Contrast(math.inf),
        lambda: ds.Contrast("a"),
        lambda: ds.Brightness(1.1),
        lambda: ds.Brightness(share=-1),
        lambda: ds.Brightness(background="white"),
        lambda: ds.Otsu(share=2),
        lambda: ds.Otsu(background=None),
        lambda: ds.Saturation(threshold="a"),
        lambda: ds.Saturation(share=math.nan),
        lambda: ds.Contrast() | 5,
        lambda: ds.Otsu() & ds.Contrast,
        lambda: ds.AnyOf((None,)),
        lambda: ds.AnyOf(()),
        lambda: ds.AllOf(()),
        lambda: ds.Contrast() | ds.Tissue(),
        lambda: ds.AllOf((ds.Otsu(), ds.Tissue())),
        lambda: ds.Tissue(background="white"),
        lambda: ds.Tissue(min_area=-1),
        lambda: ds.Tissue(min_area=math.nan),
        lambda: ds.Tissue(max_hole=math.inf),
        lambda: ds.Tissue(max_hole="a"),
        lambda: ds.Tissue(pen="blue"),
        lambda: ds.Tissue(mpp=0),
        lambda: ds.Tissue(mpp=None),
    ],
)
def test_invalid_values_are_refused_in_one_line_with_a_solution(make):
    with pytest.raises(ds.errors.SlideArgumentError, match=r"; (give|use|combine) ") as error:
        make()
    assert "\n" not in str(error.value)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package that adds the detectors spots, broken, none and contrast."""
    (tmp_path / "spots_package.py").write_text(
        "from dask_slides import Contrast\n"
        "def spots(): return Contrast(0.123)\n"
        "def none(): return 3\n"
    )
    info = tmp_path / "spots_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spots-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[dask_slides.detectors]\nspots = spots_package:spots\nbroken = spots_package:broken\n"
        "none = spots_package:none\ncontrast = spots_package:spots\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("spots_package", None)


def test_other_packages_add_detectors(package):
    assert checked_detector("contrast") == ds.Contrast()
    assert "spots_package" not in sys.modules
    image = da.zeros((8, 8, 3), dtype="u1")
    assert ds.blank_map(image, tile_size=4, detector="spots").detector == ds.Contrast(0.123)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broken", "spots-package cannot be made: AttributeError"),
        ("none", "detector='none' is not a detector"),
        ("nose", "saturation, broken, none, spots"),
    ],
)
def test_detectors_of_other_packages_that_fail(package, name, text):
    with pytest.raises(ds.errors.SlideArgumentError) as caught:
        checked_detector(name)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_takes_detectors_of_other_packages(package, tmp_path):
    path = ds.sample_slide(tmp_path / "slide.tif", shape=(256, 256), tile=128)
    out = tmp_path / "mask.ome.zarr"
    result = CliRunner().invoke(main, ["mask", str(path), str(out), "--detector", "spots"])
    assert result.exit_code == 0, result.output
    assert any("Contrast(ratio=0.123" in one.read_text() for one in out.rglob("zarr.json"))
    result = CliRunner().invoke(main, ["mask", str(path), str(out), "--detector", "nose"])
    assert result.exit_code == 2
