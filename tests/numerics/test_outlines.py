"""Outlines of masks against shapely, scipy and counts of pixels, and back to masks."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from shapely.geometry import Polygon, shape

from dask_slides.core.polygons import Outline, Polygons
from dask_slides.errors import SlideArgumentError
from dask_slides.numerics import outlines as module
from dask_slides.numerics.outlines import mask_outlines, outlines_mask


@st.composite
def masks(draw, side=9):
    """Return a mask and its edges, which start at 0 and are not evenly spaced."""
    mask = draw(hnp.arrays(bool, st.tuples(st.integers(1, side), st.integers(1, side))))
    edges = []
    for size in mask.shape:
        steps = draw(st.lists(st.integers(1, 5), min_size=size, max_size=size))
        edges.append(np.cumsum([0, *steps]))
    return (mask, *edges)


@given(masks())
def test_outlines_are_exact(case):
    mask, y_edges, x_edges = case
    outlines = mask_outlines(*case)
    polygons = [shape(outline) for outline in outlines]
    pieces, count = ndimage.label(mask)
    assert len(polygons) == count
    areas = np.diff(y_edges)[:, None] * np.diff(x_edges)
    for number, polygon in enumerate(polygons, 1):
        assert polygon.is_valid
        assert polygon.area == areas[pieces == number].sum() == outlines[number - 1].area
        assert polygon.exterior.is_ccw and not any(hole.is_ccw for hole in polygon.interiors)
        same = shapely.multipolygons(
            [
                shapely.box(x_edges[j], y_edges[i], x_edges[j + 1], y_edges[i + 1])
                for i, j in np.argwhere(pieces == number)
            ]
        )
        assert shapely.union_all(shapely.get_parts(same)).equals(polygon)


@given(masks())
def test_rings_turn_at_every_point(case):
    for outline in mask_outlines(*case):
        for ring in outline.rings:
            assert ring.dtype == np.int64
            steps = np.roll(ring, -1, axis=0) - ring
            along_y = steps[:, 0] != 0
            assert ((steps != 0).sum(axis=1) == 1).all()
            assert (along_y != np.roll(along_y, 1)).all()


@given(masks())
def test_the_mask_of_outlines_is_the_mask(case):
    mask, *edges = case
    np.testing.assert_array_equal(outlines_mask(mask_outlines(*case), *edges), mask)


def test_a_piece_that_touches_itself_has_a_hole():
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    (outline,) = mask_outlines(mask, np.arange(4) * 10, np.arange(4) * 7)
    np.testing.assert_array_equal(
        outline.exterior, [[0, 0], [0, 21], [20, 21], [20, 14], [30, 14], [30, 0]]
    )
    (hole,) = outline.holes
    np.testing.assert_array_equal(hole, [[10, 7], [20, 7], [20, 14], [10, 14]])
    assert repr(outline) == "Outline<6 points, 1 holes, area=490>"


@pytest.mark.parametrize("blank", [np.zeros((0, 4), bool), np.zeros((3, 4), bool)])
def test_a_blank_mask_has_no_outlines(blank):
    edges = np.arange(len(blank) + 1), np.arange(5)
    assert mask_outlines(blank, *edges) == ()
    np.testing.assert_array_equal(outlines_mask((), *edges), blank)


rings = st.lists(
    st.tuples(st.floats(-4, 14, width=32), st.floats(-4, 14, width=32)), min_size=3, max_size=9
)


@given(st.lists(rings, max_size=4), masks())
def test_mask_of_any_polygons(rings, case):
    """Compare with shapely for each centre, except those on a line."""
    _, y_edges, x_edges = case
    outlines = [Outline(np.array(ring, float)) for ring in rings]
    mask = outlines_mask(outlines, y_edges, x_edges)
    y, x = ((edges[1:] + edges[:-1]) / 2 for edges in (y_edges, x_edges))
    for i, j in np.ndindex(mask.shape):
        at = shapely.Point(x[j], y[i])
        lines = [shapely.LinearRing([(b, a) for a, b in ring]) for ring in rings]
        if all(line.distance(at) > 1e-6 for line in lines):
            # an even number of crossings from afar: polygons of shapely may not cross themselves
            inside = [
                sum(
                    (a[0] > y[i]) != (b[0] > y[i])
                    and x[j] < a[1] + (y[i] - a[0]) * (b[1] - a[1]) / (b[0] - a[0])
                    for a, b in zip(ring, ring[1:] + ring[:1], strict=True)
                )
                % 2
                for ring in rings
            ]
            assert mask[i, j] == any(inside)
            for ring, found in zip(rings, inside, strict=True):
                polygon = Polygon([(b, a) for a, b in ring])
                if polygon.is_valid:
                    assert polygon.contains(at) == found


def test_overlapping_polygons_and_holes(monkeypatch):
    """A polygon fills the hole of another one, in one batch or in many."""
    square = np.array([[0, 0], [0, 10], [10, 10], [10, 0]])
    outlines = [Outline(square, (square // 2 + 2,)), Outline(square + 4), Outline(square - 7)]
    expected = np.zeros((12, 12), bool)
    expected[:10, :10] = True
    expected[2:7, 2:7] = False
    expected[4:14, 4:14] = expected[:3, :3] = True
    edges = np.arange(13)
    np.testing.assert_array_equal(outlines_mask(outlines, edges, edges), expected)
    monkeypatch.setattr(module, "_CROSSINGS", 1)
    np.testing.assert_array_equal(outlines_mask(Polygons.of(outlines), edges, edges), expected)


def test_wrong_masks_and_edges_are_refused():
    mask, edges = np.ones((2, 3), bool), (np.arange(3), np.arange(4))
    for wrong, message in (
        ((mask.astype(int), *edges), "2-D array of bool"),
        ((mask, edges[1], edges[0]), "has 3 edges along y and 4 along x, not 4 and 3"),
        ((mask, edges[0], np.array([0, 2, 2, 3])), "must rise"),
    ):
        with pytest.raises(SlideArgumentError, match=message):
            mask_outlines(*wrong)
    with pytest.raises(SlideArgumentError, match="must rise"):
        outlines_mask((), np.array([1, 0]), edges[1])
