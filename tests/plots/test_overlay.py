"""Masks and tile boxes are drawn where they are, in colours that everybody sees."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import deltaE_ciede2000, rgb2lab

from dask_slides.errors import SlideArgumentError
from dask_slides.plots import overlay as module
from dask_slides.plots.overlay import OKABE_ITO, box_of_pixels, mask_border, overlay

WHITE = np.full((40, 60, 3), 240, np.uint8)
BLACK = np.full((40, 60, 3), 4, np.uint8)
RED = (255, 0, 0)
masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def drawn(picture, **options):
    """Return the pixels that `overlay` changes, (h, w) bool."""
    return (overlay(picture, **options) != picture).any(axis=-1)


@given(masks)
def test_the_line_is_where_the_mask_changes_and_nowhere_else(mask):
    expected = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        beside = mask[y, max(0, x - 1) : x + 2], mask[max(0, y - 1) : y + 2, x]
        expected[y, x] = not all(values.all() for values in beside)
    assert np.array_equal(mask_border(mask), expected)
    assert np.array_equal(drawn(WHITE[: len(mask), : len(mask[0])], mask=mask, veil=0), expected)


@given(masks, st.integers(1, 3))
def test_a_wide_line_is_half_outside(mask, width):
    """The distance of a pixel to the other side is the least number of steps along y and x."""
    line = mask_border(mask, width)
    for y, x in np.ndindex(mask.shape):
        other = np.argwhere(mask != mask[y, x])
        distance = np.abs(other - (y, x)).sum(axis=1).min(initial=99)
        limit = (width + 1) // 2 if mask[y, x] else width // 2
        assert line[y, x] == (distance <= limit)


def test_lines_are_wider_on_larger_pictures():
    for size, expected in ((300, 1), (800, 2), (1024, 3), (4000, 3)):
        picture = np.full((4, size, 3), 240, np.uint8)
        mask = np.arange(size)[None] < size // 2
        assert np.count_nonzero(drawn(picture, mask=mask, veil=0)[0]) == expected


@pytest.mark.parametrize("picture", [WHITE, BLACK], ids=["bright", "dark"])
def test_blank_areas_have_a_veil(picture):
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    found = overlay(picture, mask=mask, outlines=False)
    assert np.array_equal(found[mask], picture[mask])
    assert (np.abs(found[~mask].astype(int) - picture[~mask]) > 20).all()
    assert np.array_equal(overlay(picture, mask=mask, outlines=False, veil=0), picture)
    whole = overlay(picture, mask=mask, outlines=False, veil=1)
    assert (whole[~mask] == module.colours_for(picture).veil).all()


@pytest.mark.parametrize("picture", [WHITE, BLACK], ids=["bright", "dark"])
def test_missing_areas_are_orange_and_not_veiled(picture):
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:25] = True
    missing = np.zeros((20, 30), bool)
    missing[10:18, :12] = True
    found = overlay(picture, mask=mask, missing=missing, outlines=False, veil=1)
    mask, missing = (values.repeat(2, 0).repeat(2, 1) for values in (mask, missing))
    expected = np.where(mask[..., None], picture, module.colours_for(picture).veil)
    expected[missing & ~mask] = module.OKABE_ITO[6]
    assert np.array_equal(found, expected)


def test_a_mask_of_cells_covers_the_picture():
    mask = np.array([[True, False, True]])
    assert drawn(WHITE, mask=mask, outlines=False)[7].tolist() == [
        *[False] * 20, *[True] * 20, *[False] * 20,
    ]  # fmt: skip


@given(
    masks,
    st.tuples(st.floats(0.6, 9), st.floats(0.6, 9)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_cells_lie_where_their_size_says(mask, cell, shape):
    found = drawn(WHITE[: shape[0], : shape[1]], mask=mask, mask_cell=cell, outlines=False)
    for y, x in np.ndindex(found.shape):
        row, column = (y + 0.5) / cell[0], (x + 0.5) / cell[1]
        if min(abs(row - round(row)), abs(column - round(column))) < 1e-9:
            continue  # between two cells, where rounding decides
        assert found[y, x] != mask[min(int(row), len(mask) - 1), min(int(column), len(mask[0]) - 1)]


sides = st.floats(4, 50)  # more than the width of a line
places = st.floats(-30, 80)


@given(st.lists(st.tuples(places, places, sides, sides), max_size=12), st.integers(1, 3))
def test_boxes_lie_at_their_coordinates(boxes, width):
    """Draw each box into an array with a margin, so that nothing needs to be cut."""
    margin, (height, length) = 200, WHITE.shape[:2]
    expected = np.full((height + 2 * margin, length + 2 * margin), -1)
    for number, (y, x, h, w) in enumerate(boxes):
        top, left, bottom, right = (int(np.floor(v + 0.5)) for v in (y, x, y + h, x + w))
        bottom = min(bottom, height - width) if bottom <= height else bottom
        right = min(right, length - width) if right <= length else right
        thin = np.zeros_like(expected, bool)
        rows, columns = (
            np.arange(first, last + 1) + margin for first, last in ((top, bottom), (left, right))
        )
        thin[rows[:, None], [margin + left, margin + right]] = len(columns) > 0
        thin[np.ix_([margin + top, margin + bottom], columns)] = len(rows) > 0
        thin = thin[margin : margin + height, margin : margin + length]
        for d in range(width):
            part = expected[margin + d : margin + height, margin + d : margin + length]
            part[thin[: height - d, : length - d]] = number
    found = box_of_pixels(np.array(boxes, float).reshape(-1, 4), WHITE.shape, width)
    assert np.array_equal(found, expected[margin : margin + height, margin : margin + length])


def test_neighbouring_boxes_share_a_line_and_the_last_is_at_the_edge():
    boxes = [(0, 0, 40, 30), (0, 30, 40, 30)]
    found = drawn(WHITE, boxes=boxes)
    assert np.flatnonzero(found[20]).tolist() == [0, 30, 59]
    assert np.flatnonzero(found[:, 20]).tolist() == [0, 39]


def test_boxes_have_their_colours_and_the_last_is_on_top():
    boxes = np.array([(2, 2, 30, 30), (10, 10, 25, 40)])
    colours = np.array([RED, (0, 0, 255)], np.uint8)
    found = overlay(WHITE, boxes=boxes, box_colours=colours)
    assert found[2, 5].tolist() == [255, 0, 0] and found[10, 45].tolist() == [0, 0, 255]
    assert found[10, 32].tolist() == found[32, 10].tolist() == [0, 0, 255]
    assert (overlay(WHITE, boxes=boxes, box_colours=RED)[10, 32] == RED).all()


def test_small_boxes_let_tissue_show():
    grid = np.stack(np.meshgrid(np.arange(0, 40, 4), np.arange(0, 60, 4)), -1).reshape(-1, 2)
    boxes = np.c_[grid, np.full((len(grid), 2), 4)]
    lines = overlay(WHITE, boxes=boxes)
    changed = (lines != WHITE).any(axis=-1)
    assert np.array_equal(changed[:39, :59], box_of_pixels(boxes, WHITE.shape)[:39, :59] >= 0)
    assert lines.min() > 100  # black lines, which are mixed with the picture


@given(masks)
def test_the_picture_is_not_changed(mask):
    picture = WHITE.copy()
    overlay(picture, mask=mask, boxes=[(1, 1, 9, 9)], mpp=0.5)
    assert np.array_equal(picture, WHITE)


def test_nothing_to_draw():
    assert np.array_equal(overlay(WHITE), WHITE)
    assert np.array_equal(overlay(WHITE, boxes=np.empty((0, 4)), mpp=1, scale_bar=False), WHITE)
    empty = np.empty((0, 9, 3), np.uint8)
    assert overlay(empty, mask=np.ones((2, 2), bool), mpp=1).shape == (0, 9, 3)


def test_colours_of_lines_have_contrast():
    """Lines on glass and on H&E colours from public slides, and on dark fluorescence."""
    bright = [(240, 240, 240), (226, 150, 190), (190, 80, 140), (110, 60, 120)]
    dark = [(0, 0, 0), (0, 0, 110), (0, 110, 40), (90, 0, 90)]
    for colours, grounds in ((module.ON_BRIGHT, bright), (module.ON_DARK, dark)):
        grounds = [*grounds, colours.veil]
        for line, ground in itertools.product((colours.outline, colours.box), grounds):
            lab = rgb2lab(np.array([line, ground]) / 255)
            assert deltaE_ciede2000(*lab) > 20
    assert module.colours_for(WHITE) is module.ON_BRIGHT
    assert module.colours_for(BLACK) is module.ON_DARK
    assert len(np.unique(OKABE_ITO, axis=0)) == 8


def test_few_small_boxes_stand_out_from_dark_and_bright_tissue():
    picture = WHITE.copy()
    picture[:, :20] = 40
    found = overlay(picture, boxes=[(8, 4, 6, 6), (8, 40, 6, 6)])
    for row, column in ((8, 4), (8, 10), (14, 7), (8, 40), (14, 43)):
        change = found[row, column].astype(int) - picture[row, column]
        assert np.abs(change).min() > 120


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mask": np.ones((4, 4))}, "mask of shape (4, 4), float64; give (rows, cols) bool"),
        ({"mask": np.ones((0, 4), bool)}, "mask of shape (0, 4)"),
        ({"mask": np.ones((4, 4), bool), "veil": 2}, "veil=2 is not an opacity"),
        ({"mask": np.ones((4, 4), bool), "mask_cell": (0, 4)}, "mask_cell=(0, 4) is not a size"),
        ({"boxes": [(1, 2, 3)]}, "boxes of shape (1, 3); give (n, 4): y, x, height, width"),
        ({"boxes": [(1, 2, 3, np.nan)]}, "boxes must be finite"),
        ({"boxes": [(1, 2, 3, -1)]}, "sides of 0 or more"),
        ({"boxes": [(1, 2, 3, 4)], "box_colours": 7}, "box_colours of shape ()"),
        ({"mpp": 0}, "mpp=0 is not a size of pixels"),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(SlideArgumentError) as caught:
        overlay(WHITE, **options)
    assert text in str(caught.value)


def test_a_picture_that_is_not_8_bit_rgb():
    with pytest.raises(SlideArgumentError, match="display_rgb"):
        overlay(WHITE.astype(float))
