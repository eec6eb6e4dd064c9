"""Polygons in arrays: a sequence of outlines, and polygons of shapely."""

import pickle
import sys

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_slides.core.polygons import Outline, Polygons

SQUARE = np.array([[0, 0], [0, 8], [8, 8], [8, 0]])
OUTLINES = (
    Outline(SQUARE),
    Outline(SQUARE * 3 + 1, (SQUARE + 3, SQUARE + 14)),
    Outline(SQUARE[[0, 2, 3]]),
    Outline(SQUARE[::-1] + 50, (SQUARE // 4 + 52,)),
)


@given(st.lists(st.sampled_from(OUTLINES)), st.data())
def test_polygons_are_a_sequence_of_outlines(outlines, data):
    polygons = Polygons.of(outlines)
    assert list(polygons) == outlines and len(polygons) == len(outlines)
    assert [list(row) for row in polygons.bounds] == [
        [*one.exterior.min(axis=0), *one.exterior.max(axis=0)] for one in outlines
    ]
    keep = data.draw(hnp.arrays(bool, len(outlines)))
    kept = [one for one, is_kept in zip(outlines, keep, strict=True) if is_kept]
    assert list(polygons.select(keep)) == kept
    assert pickle.loads(pickle.dumps(polygons)) == polygons
    made = polygons.to_shapely()
    assert shapely.is_valid(made).all()
    assert shapely.area(made).tolist() == [one.area for one in outlines]
    assert list(Polygons.from_shapely(made)) == outlines
    assert all(
        one.equals(shapely.geometry.shape(outline))
        for one, outline in zip(made, outlines, strict=True)
    )


def test_indices_count_from_both_ends():
    polygons = Polygons.of(OUTLINES)
    assert polygons[-1] == OUTLINES[-1]
    assert repr(polygons) == "Polygons<4 polygons, 27 points>"
    with pytest.raises(IndexError):
        polygons[4]


def test_outlines_differ_by_their_points_and_holes():
    one, other = OUTLINES[:2]
    assert one == Outline(SQUARE.copy()) != other
    assert other != Outline(other.exterior, other.holes[:1])
    assert one != 3


def test_without_shapely_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(ImportError, match=r"dask-slides\[annotations\]"):
        Polygons.of(OUTLINES).to_shapely()
