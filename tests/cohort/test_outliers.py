"""Outliers of a job, by scores that a few of them hardly move."""

import numpy as np
import pytest

from dask_slides.cohort.outliers import find_outliers, z_scores


def names(slides):
    return [[one.name for one in found] for found in find_outliers(slides)]


def test_the_scores_are_those_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(5, 2, 100_001)
    scores = z_scores(values, 0)
    np.testing.assert_allclose([scores.mean(), scores.std()], [0, 1], atol=0.02)


def test_many_outliers_do_not_hide_each_other():
    usual = list(np.random.default_rng(1).normal(150, 4, 60))
    found = names([{"brightness": value} for value in [*usual, *[20.0] * 20]])
    assert sum(map(len, found[:60])) <= 1 and all(found[60:])


def test_small_differences_in_a_uniform_job_are_none():
    values = [0.300, 0.301, 0.302, 0.301, 0.300, 0.315]
    assert names([{"tissue": value} for value in values]) == [[]] * 6
    assert names([{"tissue": value} for value in [*values, 0.1]])[-1] == ["tissue"]


def test_counts_and_focus_are_compared_by_their_ratio():
    counts = [100.0, 200, 400, 800, 1600, 3200]
    assert not any(names([{"count": value} for value in counts]))
    for name in ("count", "focus"):
        values = [1.0, 1.1, 0.9, 1.05, 0.95, 0.05]
        assert names([{name: 1000 * value if name == "count" else value} for value in values]) == [
            *[[]] * 5, [name],
        ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_slides_have_no_outliers(count):
    assert names([{"focus": 10.0**number} for number in range(count)]) == [[]] * count


def test_numbers_that_are_not_known_do_not_count():
    slides = [{"focus": value} for value in (1.0, 1.1, None, 0.9, 1.0, None, 1.0, 0.01)]
    assert names(slides) == [*[[]] * 7, ["focus"]]


def test_an_outlier_says_which_way_and_how_far():
    ((*_, found), *_) = [
        find_outliers([{"brightness": v} for v in (150.0, 150, 150, 151, 150, 90)])
    ]
    (one,) = found
    assert (one.value, one.median) == (90, 150) and one.z < -3.5
