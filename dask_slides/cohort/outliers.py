"""Find the slides of a job that differ from the others.

A number of a slide is compared with those of all slides by the robust z-score, 0.6745 times its
distance from the median over the median absolute deviation; above 3.5 it is an outlier. B. Iglewicz
and D. Hoaglin, How to Detect and Handle Outliers, ASQC, 1993.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dask_slides.core.types import Array

LIMIT = 3.5
"""Least absolute z-score of an outlier."""
FEWEST = 5
"""Slides with a number that it takes to judge one of them."""
MAD_OF_NORMAL = 0.6745
"""Median absolute deviation of the normal distribution, in standard deviations."""
MEAN_OF_NORMAL = math.sqrt(2 / math.pi)
"""Its mean absolute deviation, which is used if more than half of the numbers are equal."""
LOGARITHMIC = {"count": 1.0, "focus": 1e-4}
"""Numbers that are compared by their ratio, so by their logarithms, and what is added to them."""
LEAST_SPREAD = 0.05
"""Smallest standard deviation that is assumed, relative to the median; for logarithms it is twice
as much. In a job of few slides that
are much alike, a small difference would be an outlier without it."""


@dataclass(frozen=True)
class Outlier:
    """A number of a slide that is far from those of the others."""

    name: str
    value: float
    median: float
    z: float


def find_outliers(slides: Sequence[Mapping[str, float | None]]) -> list[tuple[Outlier, ...]]:
    """Return the outliers of each slide, given its numbers by name; None is not known.

    Examples
    --------
    >>> slides = [{"brightness": value} for value in (150.0, 152, 149, 151, 150, 60)]
    >>> [one.name for one in find_outliers(slides)[-1]]
    ['brightness']
    """
    found: list[list[Outlier]] = [[] for _ in slides]
    for name in dict.fromkeys(name for slide in slides for name in slide):
        given = [(number, slide.get(name)) for number, slide in enumerate(slides)]
        known = [(number, value) for number, value in given if value is not None]
        if len(known) < FEWEST:
            continue
        values = np.array([value for _, value in known], float)
        median = float(np.median(values))
        if name in LOGARITHMIC:
            scores = z_scores(np.log(values + LOGARITHMIC[name]), 2 * LEAST_SPREAD)
        else:
            scores = z_scores(values, LEAST_SPREAD * abs(median))
        for (number, value), z in zip(known, scores, strict=True):
            if abs(z) >= LIMIT:
                found[number].append(Outlier(name, value, median, float(z)))
    return [tuple(sorted(one, key=lambda outlier: -abs(outlier.z))) for one in found]


def z_scores(values: Array, least: float) -> Array:
    """Return the robust z-score of each of `values` (n,), with a spread of at least `least`."""
    distance = values - np.median(values)
    spread = float(np.median(np.abs(distance))) / MAD_OF_NORMAL
    if spread == 0:
        spread = float(np.abs(distance).mean()) / MEAN_OF_NORMAL
    spread = max(spread, least)
    return np.asarray(distance / spread) if spread > 0 else np.zeros(len(values))
