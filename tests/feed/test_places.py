import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dask_slides.feed import places as module
from dask_slides.feed.places import CropPlaces
from dask_slides.numerics.tissue_mask import MISSING, TissueMask, edges_of_mask

SIZE = (17, 23)


def places_of(mask, kinds=None, shape=(301, 407), scale=1, **options):
    """Return the places on a slide of `shape`, and the mask enlarged to level 0."""
    edges = edges_of_mask(shape, mask.shape)
    found = TissueMask.of(mask, edges)
    if kinds is not None:
        found = TissueMask(np.where(kinds, np.uint8(MISSING), found.kinds), *edges)
    image = (shape[0] // scale, shape[1] // scale)
    places = CropPlaces.of(found, found.tissue, shape=image, size=SIZE, min_tissue=0.5, **options)
    return places, mask.repeat(np.diff(edges[0]), 0).repeat(np.diff(edges[1]), 1)


def centres_along(places, along):
    return places.centres_of(np.stack([along, np.full(len(along), 0.5), np.full(len(along), 0.5)]))


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(3, 90), st.integers(3, 90)))
def test_centres_lie_on_tissue_and_fractions_count_pixels(seed, size):
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < 0.3
    mask[rng.integers(size[0]), rng.integers(size[1])] = True
    places, full = places_of(mask)
    places = pickle.loads(pickle.dumps(places))
    assert places.weight == full.sum()
    drawn = np.array([*rng.random((40, 3)), [0, 0, 0], [1 - 2**-53] * 3]).T
    centres = places.centres_of(drawn)
    corners = places.corners(centres)
    fractions = places.tissue_fractions(corners)
    for one, (y, x), fraction in zip(
        centres.astype(int), corners.tolist(), fractions.tolist(), strict=True
    ):
        assert full[tuple(one)]
        assert 0 <= y <= 301 - SIZE[0] and 0 <= x <= 407 - SIZE[1]
        box = full[y : y + SIZE[0], x : x + SIZE[1]]
        assert fraction == pytest.approx(box.mean(), abs=1e-12)


def test_places_found_together_are_those_found_one_by_one(monkeypatch):
    rng = np.random.default_rng(5)
    places, _ = places_of(rng.random((61, 83)) < 0.4, rng.random((61, 83)) < 0.01)
    drawn = rng.random((3, 50))
    monkeypatch.setattr(module, "MOST_PIXELS", 3 * module.BLOCK**2)
    centres = places.centres_of(drawn)
    corners = places.corners(centres)
    assert np.array_equal(
        centres, np.concatenate([places.centres_of(drawn[:, n : n + 1]) for n in range(50)])
    )
    fractions = places.tissue_fractions(corners)
    alone = [places.tissue_fractions(corners[n : n + 1]) for n in range(50)]
    np.testing.assert_array_equal(fractions, np.concatenate(alone))
    assert np.isnan(fractions).any() and not np.isnan(fractions).all()


def test_every_pixel_of_tissue_has_the_same_probability():
    mask = np.random.default_rng(0).random((70, 90)) < 0.2
    places, _ = places_of(mask, shape=(140, 180))
    along = (np.arange(12_000) + 0.5) / 12_000
    at = centres_along(places, along).astype(int) // 2
    counts = np.zeros(mask.shape, int)
    np.add.at(counts, tuple(at.T), 1)
    assert np.abs(counts[mask] - 12_000 / mask.sum()).max() <= 1 and not counts[~mask].any()


def test_weights_are_the_probabilities_of_centres():
    mask = np.zeros((70, 90), bool)
    mask[5:60, 10:80] = True
    weights = np.array([[1.0, 0, 3], [0.5, 2, 0]])
    places, full = places_of(mask, weights=weights)
    rng = np.random.default_rng(1)
    drawn = places.centres_of(rng.random((3, 6_000))).astype(int)
    rows, columns = np.arange(301) * 2 // 301, np.arange(407) * 3 // 407
    # the edges of the parts of 301 x 407 px are those of whole pixels
    starts = [np.arange(n + 1) * size // n for n, size in ((2, 301), (3, 407))]
    rows = np.searchsorted(starts[0], np.arange(301), side="right") - 1
    columns = np.searchsorted(starts[1], np.arange(407), side="right") - 1
    share = full * weights[np.ix_(rows, columns)]
    part = np.ix_([0, 1], [0, 1, 2])
    expected, counts = np.zeros((2, 3)), np.zeros((2, 3))
    np.add.at(expected, (rows[:, None], columns[None]), share)
    np.add.at(counts, (rows[drawn[:, 0]], columns[drawn[:, 1]]), 1)
    used = expected[part] > 0
    assert not counts[~used].any()
    wanted = expected[used] / expected.sum() * 6_000
    assert stats.chisquare(counts[used], wanted).pvalue > 1e-3


def test_crops_with_missing_pixels_are_refused():
    mask = np.ones((43, 58), bool)
    kinds = np.zeros_like(mask)
    kinds[20, 30] = True
    hole = (100, 50, 110, 60)
    places, _ = places_of(mask, kinds, holes=[hole])
    touching = [(20 * 7 - SIZE[0] + 1, 30 * 7 - SIZE[1] + 1), (109, 59)]
    beside = [(20 * 7 - SIZE[0], 30 * 7), (110, 59), (100 - SIZE[0], 55)]
    fractions = places.tissue_fractions(np.array(touching + beside))
    assert np.isnan(fractions[:2]).all() and (fractions[2:] == 1).all()


def test_places_near_each_other_lie_near_each_other():
    mask = np.ones((200, 200), bool)
    places, _ = places_of(mask, shape=(2000, 2000))
    starts = np.random.default_rng(3).random(50)
    for start in starts:
        stretch = centres_along(places, (start + np.array([0, 0.003, 0.006])) % 1)
        # 0.6 % of 2,000 x 2,000 px is a square of 155 px; a block of the mask is 320 px wide
        assert np.ptp(stretch, axis=0).max() < 2000
    spread = [
        np.ptp(centres_along(places, (s + np.array([0, 0.006])) % 1), 0).max() for s in starts
    ]
    assert np.median(spread) < 330
