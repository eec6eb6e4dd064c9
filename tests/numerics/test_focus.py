import numpy as np
from scipy.ndimage import gaussian_filter

from dask_slides.numerics.focus import grey_and_focus

TILES = np.random.default_rng(0).integers(0, 200, (3, 64, 64, 3)).astype(np.uint8)


def blurred(sigma):
    return np.stack([gaussian_filter(one.astype(float), (sigma, sigma, 0)) for one in TILES])


def test_focus_falls_with_blur():
    found = [grey_and_focus(blurred(sigma))[1] for sigma in (0, 0.5, 1, 2, 4)]
    assert found == sorted(found, reverse=True) and found[-1] < found[0] / 100


def test_neither_contrast_nor_exposure_changes_focus():
    one, other = (grey_and_focus(tiles)[1] for tiles in (TILES, TILES // 2 + 50))
    np.testing.assert_allclose(one, other, rtol=0.02)


def test_brightness_is_the_mean():
    np.testing.assert_allclose(grey_and_focus(TILES)[0], TILES.mean(), rtol=1e-6)


def test_flat_tiles_have_no_detail():
    assert grey_and_focus(np.full((2, 16, 16, 1), 7, np.uint16)) == (7, 0)
