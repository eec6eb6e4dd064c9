"""Classes of tiles against intersections of shapely and counts of pixels."""

import pickle

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_slides.core.polygons import Outline, Polygons
from dask_slides.errors import SlideArgumentError
from dask_slides.numerics import coverage
from dask_slides.ops.annotations import Annotations, class_coverage, label_mask

EMPTY = Annotations.of([], [])
EDGES = np.arange(0, 101, 10)


def rectangle(y, x, height, width):
    return np.array([[y, x], [y, x + width], [y + height, x + width], [y + height, x]], float)


def star(rng, y, x, radius, points=12):
    """Return a polygon that does not cross itself, with a hole if there is room."""
    angle = (np.arange(points) + rng.random(points)) / points * 2 * np.pi
    around = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    ring = (y, x) + radius * rng.uniform(0.5, 1, (points, 1)) * around
    inner = shapely.Polygon(ring).buffer(-radius / 9)
    hole = shapely.get_coordinates(getattr(inner, "exterior", None))[:-1]
    return Outline(ring, (hole,) * bool(len(hole)))


cells = st.integers(0, 30)
boxes = st.lists(st.tuples(cells, cells, st.integers(1, 40), st.integers(1, 40)), max_size=6)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 12),
    boxes=boxes,
    points=st.sampled_from([12, 500]),
    batch=st.sampled_from([1, 3, 100]),
)
def test_coverage_is_that_of_shapely(seed, count, boxes, points, batch):
    """Polygons overlap, have holes, share sides with boxes, lie inside and around them."""
    rng = np.random.default_rng(seed)
    outlines = [star(rng, *rng.uniform(-5, 45, 2), rng.uniform(2, 30)) for _ in range(count)]
    outlines += [Outline(rectangle(*rng.integers(0, 30, 2), *rng.integers(1, 30, 2)))] * (count % 3)
    outlines += [Outline(rectangle(*rng.integers(0, 30, 4) + 1)) for _ in range(count // 3)]
    names = rng.choice(["a", "b", "c"], len(outlines)).tolist()
    annotations = Annotations.of(outlines, names)
    boxes = np.array(boxes, np.int64).reshape(-1, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "_POINTS", points)
        patch.setattr(coverage, "_BOXES", batch)
        labels, shares = class_coverage(annotations, boxes, min_coverage=0.4)
    unions = [
        shapely.union_all(
            [
                shapely.geometry.shape(one)
                for one, other in zip(outlines, names, strict=True)
                if other == name
            ]
        )
        for name in annotations.classes
    ]
    assert shares.shape == (len(boxes), len(unions))
    for (y, x, height, width), share, label in zip(boxes, shares, labels, strict=True):
        cell = shapely.box(x, y, x + width, y + height)
        expected = [cell.intersection(union).area / cell.area for union in unions]
        np.testing.assert_allclose(share, expected, rtol=0, atol=1e-9)
        best = max(
            zip(share, annotations.classes, strict=True), default=(0, ""), key=lambda p: p[0]
        )
        assert label == (best[1] if best[0] >= 0.4 else "")


def test_a_polygon_that_crosses_itself_is_repaired():
    bow = Outline(np.array([[0, 0], [10, 10], [0, 10], [10, 0]]))
    _, shares = class_coverage(Annotations.of([bow, bow], ["a", "b"]), [[0, 0, 10, 10]])
    np.testing.assert_allclose(shares, 0.5)


def test_a_polygon_without_area_covers_nothing():
    flat = Outline(np.array([[0, 0], [5, 5], [10, 10]]))
    for others in ([], [Outline(rectangle(0, 0, 5, 10))]):
        annotations = Annotations.of([flat, *others], ["a"] * (1 + len(others)))
        _, shares = class_coverage(annotations, [[0, 0, 10, 10]])
        np.testing.assert_allclose(shares, [[0.5 * len(others)]])


def test_labels_of_boxes():
    annotations = Annotations.of(
        [Outline(rectangle(0, 0, 10, 6)), Outline(rectangle(0, 4, 10, 6))], ["left", "right"]
    )
    tiles = [[0, 0, 10, 10], [0, 0, 5, 5], [0, 5, 10, 10], [90, 90, 5, 5], [0, 9, 10, 10]]
    labels, shares = class_coverage(annotations, tiles)
    assert labels.tolist() == ["left", "left", "right", "", ""]
    np.testing.assert_allclose(shares, [[0.6, 0.6], [1, 0.2], [0.1, 0.5], [0, 0], [0, 0.1]])
    labels, _ = class_coverage(annotations, tiles, min_coverage=0)
    assert labels.tolist() == ["left", "left", "right", "", "right"]


def test_nothing_annotated_and_no_boxes():
    labels, shares = class_coverage(EMPTY, [[0, 0, 5, 5]])
    assert labels.tolist() == [""] and shares.shape == (1, 0)
    labels, shares = class_coverage(
        Annotations.of([Outline(rectangle(0, 0, 9, 9))], ["a"]), np.zeros((0, 4), int)
    )
    assert labels.shape == (0,) and shares.shape == (0, 1)
    assert not EMPTY.mask(EDGES, EDGES).any() and repr(EMPTY) == "Annotations<none>"


def test_masks_and_label_images_of_annotations():
    outlines = [
        Outline(rectangle(*one)) for one in ((0, 0, 50, 50), (20, 20, 60, 60), (0, 0, 9, 9))
    ]
    annotations = Annotations.of(outlines, ["fat", "tumour", "tumour"])
    fat, tumour = np.zeros((2, 10, 10), bool)
    fat[:5, :5] = tumour[2:8, 2:8] = tumour[0, 0] = True
    np.testing.assert_array_equal(annotations.mask(EDGES, EDGES), fat | tumour)
    np.testing.assert_array_equal(annotations.mask(EDGES, EDGES, name="tumour"), tumour)
    expected = np.where(tumour, 2, fat)
    np.testing.assert_array_equal(annotations.label_image(EDGES, EDGES), expected)
    assert len(annotations) == 3 and list(annotations.of_class("fat")) == outlines[:1]
    assert repr(annotations) == "Annotations<fat: 1, tumour: 2>"
    assert pickle.loads(pickle.dumps(annotations)) == annotations != EMPTY
    with pytest.raises(SlideArgumentError, match="'x'; there are 'fat', 'tumour'"):
        annotations.mask(EDGES, EDGES, name="x")
    with pytest.raises(SlideArgumentError, match="3 polygons need as many names, not 1"):
        Annotations.of(outlines, ["a"])


@given(
    values=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 3)
    ),
    scale=st.integers(1, 7),
    boxes=boxes.filter(bool),
)
def test_coverage_of_a_label_image_counts_pixels(values, scale, boxes):
    """Each pixel of the image is a square of pixels of the slide; beyond it there is nothing."""
    boxes = np.array(boxes)
    slide = np.kron(values, np.ones((scale, scale), int))
    image = label_mask(values, (*slide.shape, 3), {1: "a", 3: "c"})
    _, shares = class_coverage(image, boxes)
    canvas = np.zeros((80, 80), int)
    canvas[: slide.shape[0], : slide.shape[1]] = slide
    for (y, x, height, width), share in zip(boxes, shares, strict=True):
        part = canvas[y : y + height, x : x + width]
        np.testing.assert_allclose(share, [(part == 1).mean(), (part == 3).mean()], atol=1e-12)
    edges = [np.arange(size + 1) for size in slide.shape]
    np.testing.assert_array_equal(image.mask(*edges), (slide == 1) | (slide == 3))
    np.testing.assert_array_equal(image.mask(*edges, name="c"), slide == 3)
    np.testing.assert_array_equal(
        image.label_image(*edges), np.select([slide == 1, slide == 3], [1, 2])
    )


def test_a_label_image_whose_scale_is_no_integer():
    """Three pixels cover ten: each of them three and a third."""
    image = label_mask(np.array([[1, 0, 2]]), (10 // 3, 10))
    assert image.classes == ("1", "2")
    labels, shares = class_coverage(image, [[0, 0, 3, 4], [0, 6, 3, 4]])
    np.testing.assert_allclose(shares, [[5 / 6, 0], [0, 5 / 6]])
    assert labels.tolist() == ["1", "2"]
    assert repr(image) == "LabelImage<shape=(1, 3), slide=(3, 10), classes=1, 2>"


def test_wrong_label_images_and_boxes_are_refused():
    for values in (np.ones((3, 3, 3), int), np.ones((3, 3)), np.ones((0, 3), int)):
        with pytest.raises(SlideArgumentError, match="2-D array of integers"):
            label_mask(values, (30, 30))
    with pytest.raises(SlideArgumentError, match="20 x 10 does not cover a slide of 100 x 200"):
        label_mask(np.ones((20, 10), int), (100, 200))
    for wrong in ([1, 2, 3, 4], [[1, 2, 3]], [[0, 0, 0, 5]]):
        with pytest.raises(SlideArgumentError, match=r"boxes are \(n, 4\)"):
            class_coverage(EMPTY, wrong)


def test_polygons_are_used_as_they_are():
    polygons = Polygons.of([Outline(rectangle(0, 0, 2, 2))])
    assert Annotations.of(polygons, ["a"]).polygons is polygons


@pytest.mark.parametrize("names", [{1: "tumour", 2: "tumour", 3: "rest"}, {3: "rest", 2: "tumour"}])
def test_values_with_one_name_are_one_class(names):
    values = np.random.default_rng(0).integers(0, 4, (40, 40), dtype=np.uint8)
    labels = label_mask(values, (40, 40), names | {300: "tumour"})
    assert labels.classes == tuple(dict.fromkeys(names.values()))
    pixels = {name: np.zeros(values.shape, bool) for name in labels.classes}
    for value, name in names.items():
        pixels[name] |= values == value
    edges = np.arange(41)
    for name, expected in pixels.items():
        np.testing.assert_array_equal(labels.mask(edges, edges, name=name), expected)
    boxes = np.array([[0, 0, 40, 40], [3, 5, 10, 20]])
    shares = [
        [expected[y : y + h, x : x + w].mean() for expected in pixels.values()]
        for y, x, h, w in boxes.tolist()
    ]
    names_of_boxes, coverage = class_coverage(labels, boxes, min_coverage=0.01)
    np.testing.assert_allclose(coverage, shares)
    expected = [labels.classes[np.argmax(one)] for one in shares]
    assert names_of_boxes.tolist() == expected


KINDS = ("one ring", "holes that cross", "edges that coincide", "spikes", "traversed twice")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_coverage_and_masks_have_one_rule_for_rings_that_cross(kind, seed):
    """What an even number of rings encloses is outside, counted here point by point."""
    rng = np.random.default_rng(seed)
    coarse = kind == "edges that coincide"
    rings = [
        rng.integers(0, 8, (n, 2)) * 8.0 if coarse else rng.uniform(0, 64, (n, 2))
        for n in (rng.integers(5, 9), *(4, 5)[: 0 if kind == "one ring" else 2])
    ]
    if kind == "spikes":
        rings[0] = np.concatenate([rings[0], rings[0][-2:-1]])
    if kind == "traversed twice":
        rings[0] = np.concatenate([rings[0], rings[0]])
    outline = Annotations.of([Outline(rings[0], tuple(rings[1:]))], ["a"])
    edges = np.arange(0, 64.1, 0.125)
    centres = edges[:-1] + 0.0625
    inside = np.zeros((512, 512), bool)
    for ring in rings:
        for (y0, x0), (y1, x1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                at = x0 + (centres - y0) * (x1 - x0) / (y1 - y0)
                rows = (y0 > centres) != (y1 > centres)
                inside ^= rows[:, None] & (at[:, None] > centres)
    boxes = np.array([[y, x, 16, 16] for y in range(0, 64, 16) for x in range(0, 64, 16)])
    shares = inside.reshape(4, 128, 4, 128).mean(axis=(1, 3)).reshape(-1, 1)
    np.testing.assert_allclose(outline.coverage(boxes), shares, atol=0.01)
    assert np.mean(outline.mask(edges, edges) != inside) < 0.001
