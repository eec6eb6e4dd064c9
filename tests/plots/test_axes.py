"""Plots have the coordinates of level 0."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dask_slides.core.channels import Channel
from dask_slides.plots.axes import border_lines, plot_overlay

MASK = np.array([[False, True, True], [False, True, False]])
PIXELS = np.full((20, 30, 3), 240, np.uint8)
SIZE = (2000, 3000)


def between(mask):
    """Return the sides of cells, as two corners (x, y), on whose two sides the mask differs."""
    rows, columns = mask.shape
    found = set()
    for y, x in np.ndindex(mask.shape):
        if y + 1 < rows and mask[y, x] != mask[y + 1, x]:
            found.add(((x, y + 1), (x + 1, y + 1)))
        if x + 1 < columns and mask[y, x] != mask[y, x + 1]:
            found.add(((x + 1, y), (x + 1, y + 1)))
    return found


def unit_sides(lines):
    """Yield the sides of cells of 1 x 1 px that make up straight lines."""
    for start, stop in lines.astype(int):
        step = np.sign(stop - start)
        for n in range(np.abs(stop - start).max()):
            yield tuple(start + n * step), tuple(start + (n + 1) * step)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_lines_lie_between_cells_that_differ(mask):
    sides = list(unit_sides(border_lines(mask, (1, 1))))
    assert len(sides) == len(set(sides))
    assert set(sides) == between(mask)
    assert np.array_equal(border_lines(mask, (3, 7)), border_lines(mask, (1, 1)) * (7, 3))


def test_lines_end_at_the_image():
    lines = border_lines(MASK, (10, 10), size=(15, 25))
    assert lines[..., 0].max() == 25 and lines[..., 1].max() == 15
    assert not len(border_lines(MASK, (10, 10), size=(9, 9)))


def test_everything_is_in_pixels_of_level_0(axes):
    boxes = [(100, 200, 300, 400), (1500, 2500, 500, 500)]
    colours = np.array([(255, 0, 0), (0, 0, 255)], np.uint8)
    found = plot_overlay(
        PIXELS, SIZE, "title", axes, mask=MASK, mask_cell=(1000, 1200), boxes=boxes,
        box_colours=colours, mpp=0.5,
    )  # fmt: skip
    assert found is axes and axes.get_title() == "title"
    assert axes.get_xlim() == (0, 3000) and axes.get_ylim() == (2000, 0)
    (image,) = axes.images
    assert image.get_extent() == [0, 3000, 2000, 0]
    veiled = (np.asarray(image.get_array()) != 240).all(axis=-1)
    assert veiled[:, :12].all() and not veiled[:, 12:24].any()  # cells of 1,200 of 3,000 px
    assert not veiled[:10, 24:].any() and veiled[10:, 24:].all()

    polygons, lines = axes.collections
    corners = [path.vertices[:4] for path in polygons.get_paths()]
    assert corners[0].tolist() == [[200, 100], [600, 100], [600, 400], [200, 400]]
    assert corners[1].min(0).tolist() == [2500, 1500] and corners[1].max(0).tolist() == [3000, 2000]
    assert polygons.get_edgecolor()[:, :3].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert sorted(map(np.ndarray.tolist, lines.get_segments())) == [
        [[1200, 0], [1200, 2000]], [[2400, 1000], [2400, 2000]], [[2400, 1000], [3000, 1000]],
    ]  # fmt: skip

    (bar,) = axes.lines
    (label,) = axes.texts
    assert label.get_text() == "200 µm" and np.ptp(bar.get_xdata()) == 200 / 0.5
    assert set(bar.get_ydata()) == {1940}


def test_channels_have_their_colours(axes):
    pixels = np.zeros((10, 10, 2), "uint16")
    pixels[5:, :, 1] = 900
    channels = [Channel("a", "FF0000"), Channel("b", "00FF00")]
    plot_overlay(pixels, (10, 10), "", axes, channels=channels)
    shown = np.asarray(axes.images[0].get_array())
    assert shown[0, 0].tolist() == [0, 0, 0] and shown[9, 9].tolist() == [0, 255, 0]


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"dask-slides\[plot\]"):
        plot_overlay(PIXELS, SIZE, "")


def test_an_empty_image(axes):
    plot_overlay(np.empty((0, 0, 3), np.uint8), (0, 0), "", axes, mpp=1)
