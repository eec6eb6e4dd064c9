"""Tissue found in made pictures whose truth is known."""

import numpy as np
import pytest
from dask import config
from scipy import ndimage

from dask_slides.numerics.tissue import Parameters, _median, background_side, find_tissue

EOSIN, HEMATOXYLIN = np.array([0.10, 0.93, 0.32]), np.array([0.65, 0.70, 0.29])
INKS = {"green": (30, 130, 105), "red": (225, 40, 70), "black": (32, 30, 34), "blue": (40, 70, 180)}
SHAPE = (420, 560)


def disc(shape=SHAPE, centre=(210, 280), radius=120):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def stained(mask, strength=0.7, seed=0):
    """Return the optical density of tissue: pink with blue dots."""
    rng = np.random.default_rng(seed)
    dots = ndimage.gaussian_filter(rng.gamma(1.2, 1, mask.shape), 0.7)
    pink = 0.7 + 0.2 * ndimage.gaussian_filter(rng.standard_normal(mask.shape), 2)
    density = pink[..., None] * EOSIN + 0.6 * dots[..., None] * HEMATOXYLIN
    return strength * density * mask[..., None]


def photographed(density, colour=(242, 240, 243), noise=1.2, seed=1):
    """Return what a scanner stores of `density` on glass of `colour`."""
    light = np.asarray(colour) * np.exp(-density)
    light = light + noise * np.random.default_rng(seed).standard_normal(light.shape)
    return np.clip(light, 0, 255).round().astype(np.uint8)


def overlap(found, truth):
    return (found & truth).sum() / max(1, (found | truth).sum())


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.2, 0.1])
def test_tissue_is_found_however_faint(strength):
    truth = disc()
    assert overlap(find_tissue(photographed(stained(truth, strength)), mpp=8), truth) > 0.95


@pytest.mark.parametrize("mpp", [2, 4, 8, 16])
def test_tissue_is_found_at_other_resolutions(mpp):
    truth = disc()
    assert overlap(find_tissue(photographed(stained(truth)), mpp=mpp), truth) > 0.96


@pytest.mark.parametrize("colour", [(235, 225, 200), (226, 222, 224), (250, 250, 250)])
def test_glass_may_have_any_pale_colour_and_a_vignette(colour):
    truth = disc()
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    shade = 0.12 * (x**2 + y**2)[..., None] * (0.8, 1, 1.2)
    picture = photographed(stained(truth) + shade, colour)
    assert overlap(find_tissue(picture, mpp=8), truth) > 0.96


@pytest.mark.parametrize("colour", [(242, 240, 243), (235, 225, 200), (255, 255, 255)])
@pytest.mark.parametrize("noise", [0, 1.2, 5])
def test_empty_glass_is_blank(colour, noise):
    picture = photographed(np.zeros((*SHAPE, 3)), colour, noise)
    assert not find_tissue(picture, mpp=8).any()


def test_grey_dust_and_shadows_are_no_tissue():
    dust = 0.8 * disc(centre=(60, 80), radius=25) + 0.06 * disc(centre=(300, 400), radius=90)
    lint = disc(centre=(200, 200), radius=80) & ~disc(centre=(200, 200), radius=78)
    density = dust[..., None] + lint[..., None] * np.array([0.5, 0.1, 0.1])
    assert not find_tissue(photographed(density), mpp=8).any()


def test_black_bars_and_skipped_areas_are_no_tissue():
    truth = disc()
    picture = photographed(stained(truth))
    picture[:, :40], picture[-30:] = 0, 255
    assert overlap(find_tissue(picture, mpp=8), truth) > 0.96


def test_a_picture_without_glass_is_all_tissue():
    picture = photographed(stained(np.ones(SHAPE, bool)))
    assert find_tissue(picture, mpp=8).mean() > 0.99


@pytest.mark.parametrize("ink", INKS)
def test_pen_on_glass_is_no_tissue(ink):
    truth, pen = disc(), disc(radius=180) & ~disc(radius=160)
    density = stained(truth)
    density[pen] += -np.log(np.array(INKS[ink]) / 242)
    for keep_ink in (False, True):
        found = find_tissue(photographed(density), mpp=8, parameters=Parameters(keep_ink=keep_ink))
        assert found[pen].mean() < 0.05
        assert found[truth].mean() > 0.97


@pytest.mark.parametrize("strength", [0.7, 0.3])
@pytest.mark.parametrize("ink", INKS)
def test_pen_on_tissue_is_kept_on_request(ink, strength):
    truth, pen = disc(), np.zeros(SHAPE, bool)
    pen[200:220, 220:340] = True
    density = stained(truth, strength)
    density[pen] += -np.log(np.array(INKS[ink]) / 242)
    found = find_tissue(photographed(density), mpp=8)
    assert found[pen].mean() < 0.05
    assert found[truth & ~ndimage.binary_dilation(pen, iterations=3)].mean() > 0.97
    kept = find_tissue(photographed(density), mpp=8, parameters=Parameters(keep_ink=True))
    assert kept[pen].mean() > 0.95


def test_folds_are_tissue():
    truth, fold = disc(), np.zeros(SHAPE, bool)
    fold[200:220, 180:380] = True
    density = stained(truth) * (1 + 2 * fold[..., None])
    assert overlap(find_tissue(photographed(density), mpp=8), truth) > 0.97


@pytest.mark.parametrize("mpp", [0.5, 1, 4])
def test_strokes_of_vivid_ink_may_be_thin(mpp):
    truth, pen = disc(), np.zeros(SHAPE, bool)
    pen[200 : 200 + round(12 / mpp), 300:520] = True
    density = stained(truth)
    density[pen] += -np.log(np.array(INKS["green"]) / 242)
    parameters = Parameters(min_area=0)
    assert not find_tissue(photographed(density), mpp=mpp, parameters=parameters)[pen].any()


@pytest.mark.parametrize("mpp", [4, 8, 12])
def test_pieces_and_holes_obey_areas_in_square_micrometres(mpp):
    radius = 30
    area = np.pi * (radius * mpp) ** 2
    piece, hole = disc(centre=(60, 80), radius=radius), disc(radius=radius)
    picture = photographed(stained((disc() & ~hole) | piece))
    for factor in (0.7, 1.4):
        areas = Parameters(min_area=factor * area, max_hole=factor * area)
        found = find_tissue(picture, mpp=mpp, parameters=areas)
        assert found[60, 80] == (factor < 1)
        assert found[210, 280] == (factor > 1)


@pytest.mark.parametrize("strength", [0.7, 0.15])
def test_flips_and_turns_change_little_but_outlines(strength):
    picture = photographed(stained(disc(), strength))
    found = find_tissue(picture, mpp=8)
    assert np.array_equal(find_tissue(picture, mpp=8), found)
    for turns in range(4):
        for step in (1, -1):
            turned = find_tissue(np.rot90(picture, turns)[:, ::step], mpp=8)
            back = np.rot90(turned[:, ::step], -turns)
            assert np.count_nonzero(back != found) < 0.005 * found.sum()


def test_the_number_of_threads_does_not_matter():
    picture = np.tile(photographed(stained(disc(), 0.3)), (2, 2, 1))
    with config.set(num_workers=1):
        one = find_tissue(picture, mpp=8)
    with config.set(num_workers=3):
        assert np.array_equal(find_tissue(picture, mpp=8), one)


def glowing(mask, dtype, background, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    full = 150 if dtype == np.uint8 else 5000
    light = ndimage.gaussian_filter(rng.gamma(1.2, 0.3, mask.shape), 0.7) + 0.2
    light = light * mask + background + 0.01 * rng.standard_normal(mask.shape)
    light = np.repeat(light[..., None], channels, axis=2)
    return np.clip(full * light, 0, None).astype(dtype)


@pytest.mark.parametrize("background", [0, 0.1])
@pytest.mark.parametrize(
    ("dtype", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 2), (np.float32, 1)]
)
def test_dark_field(dtype, channels, background):
    truth = disc()
    picture = glowing(truth, dtype, background, channels)
    assert background_side(picture, None) == "dark"
    assert overlap(find_tissue(picture, mpp=8), truth) > 0.97


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_noise_in_dark_field_is_blank(dtype):
    picture = glowing(np.zeros(SHAPE, bool), dtype, 0.1, 2)
    assert not find_tissue(picture, mpp=8, background="dark").any()


def test_the_side_of_the_background_is_found_and_can_be_given():
    bright = photographed(stained(disc()))
    assert background_side(bright, None) == "bright"
    assert background_side(255 - bright, None) == "dark"
    assert overlap(find_tissue(bright, mpp=8, background="dark"), disc()) < 0.2


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_bright_field_of_other_types(dtype):
    truth = disc()
    picture = photographed(stained(truth)).astype(dtype) * 100
    found = find_tissue(picture, mpp=8, background="bright")
    assert overlap(found, truth) > 0.95


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_pictures_show_tissue_by_its_darkness(channels):
    truth = disc()
    grey = photographed(stained(truth)).mean(axis=2).round().astype(np.uint8)
    picture = np.repeat(grey[..., None], channels, axis=2)
    assert overlap(find_tissue(picture, mpp=8, background="bright"), truth) > 0.95


@pytest.mark.parametrize("background", ["bright", "dark", None])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (1, 300), (3, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiny_and_constant_pictures_are_blank(background, channels, shape, dtype):
    for value in (0, 7, 255):
        picture = np.full((*shape, channels), value, dtype)
        found = find_tissue(picture, background=background)
        assert found.shape == shape
        assert not found.any()


@pytest.mark.parametrize("background", ["bright", "dark", None])
def test_pixels_that_are_not_valid_are_no_tissue(background):
    truth = disc()
    picture = photographed(stained(truth))
    valid = np.ones(SHAPE, bool)
    valid[:, :280] = False
    picture[~valid] = 0
    assert not find_tissue(picture, valid=valid, mpp=8, background=background)[~valid].any()
    none = np.zeros(SHAPE, bool)
    assert not find_tissue(picture, valid=none, background=background).any()


def test_nan_is_not_valid():
    truth = disc()
    for picture in (
        photographed(stained(truth)).astype(np.float32),
        glowing(truth, np.float32, 0.1, 3),
    ):
        side = background_side(picture, None)
        picture[:, :280] = np.nan
        found = find_tissue(picture, mpp=8)
        assert background_side(picture, None) == side
        assert not found[:, :280].any()
        assert overlap(found[:, 290:], truth[:, 290:]) > 0.95
        assert not find_tissue(np.full_like(picture, np.nan), mpp=8).any()


@pytest.mark.parametrize("colour", [HEMATOXYLIN, (0.9, 0.3, 0.6), (0.2, 0.3, 1.0)])
def test_flat_coloured_specks_are_dust(colour):
    specks = np.zeros(SHAPE)
    for row in (60, 200, 340):
        for number, column in enumerate(range(60, 520, 90)):
            specks[disc(centre=(row, column), radius=4 + 2 * number)] = 0.5
    density = ndimage.gaussian_filter(specks, 0.7)[..., None] * np.asarray(colour)
    assert not find_tissue(photographed(density), mpp=8).any()


def test_small_pieces_of_tissue_are_found():
    truth = np.zeros(SHAPE, bool)
    for row in (60, 200, 340):
        for column in range(60, 520, 90):
            truth |= disc(centre=(row, column), radius=12)
    assert overlap(find_tissue(photographed(stained(truth)), mpp=8), truth) > 0.9


@pytest.mark.parametrize("mpp", [1, 4])
def test_narrow_margins_of_glass_beside_skipped_areas_are_no_tissue(mpp):
    truth = disc(radius=180)
    picture = photographed(stained(truth), (228, 224, 229))
    picture[~ndimage.binary_dilation(truth, iterations=20)] = 255
    assert overlap(find_tissue(picture, mpp=mpp), truth) > 0.96


def test_sparse_counts_in_dark_field_are_noise():
    rng = np.random.default_rng(0)
    for share in (0.001, 0.01, 0.05, 0.3):
        counts = (rng.random((*SHAPE, 2)) < share).astype(np.uint8)
        assert not find_tissue(counts, mpp=8, background="dark").any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 1), (2, 2), (130, 701)])
def test_median_equals_that_of_scipy(shape):
    plane = np.random.default_rng(0).integers(0, 50, shape).astype(np.float32)
    assert np.array_equal(_median(plane), ndimage.median_filter(plane, 3, mode="nearest"))


@pytest.mark.parametrize("contrast", [2, 5, 50])
def test_edges_in_dark_field_lie_where_they_are(contrast):
    truth = disc()
    picture = glowing(truth, np.float32, 1 / contrast)
    found = find_tissue(picture, mpp=8)
    assert abs(found.sum() / truth.sum() - 1) < 0.01
    assert overlap(found, truth) > 0.98


def test_glowing_dust_of_one_brightness_is_no_tissue():
    truth, dust = disc(), np.zeros(SHAPE, bool)
    for column in (60, 500):
        dust |= disc(centre=(60, column), radius=10)
    picture = glowing(truth, np.float32, 0.05)
    picture[dust] += 2000
    found = find_tissue(picture, mpp=8)
    assert not found[dust].any()
    assert overlap(found, truth) > 0.97
