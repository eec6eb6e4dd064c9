"""A figure that shows the tiles of an image, and the ways to move in it.

Coordinates are x and -y in pixels of level 0, as the tiles of Bokeh want y to point up.
"""

from __future__ import annotations

from typing import Any

import bokeh
from bokeh.models import (
    Button,
    CustomJS,
    PanTool,
    Range1d,
    ScaleBar,
    WheelZoomTool,
    WMTSTileSource,
)
from bokeh.plotting import figure

from dask_slides.view.keyboard import KEYS, MOVE
from dask_slides.view.look import Look
from dask_slides.view.style import WIDGET
from dask_slides.view.tiles import FULL, TILE, Pyramid

SHARPNESS = 180
"""Side of a tile in pixels of the screen at the coarsest scale at which it is shown: with 256,
Bokeh would show enlarged tiles."""
FARTHEST = 16
"""Sides of the image that a view may have: Bokeh looks for tiles in all of it."""
HALF = "0.5" if tuple(map(int, bokeh.__version__.split(".")[:2])) < (3, 10) else "0"
"""Bokeh before 3.10 draws half a pixel to the right and below. With this, pixels of the image meet
those of the screen."""
FIT = """
const box = document.getElementById(place);
const fit = () => {
const [width, height] = x.tags, iw = figure.inner_width || 0, ih = figure.inner_height || 0;
if (iw < 9 || Math.abs(iw - box.clientWidth) > 4 || Math.abs(ih - box.clientHeight) > 4)
  return requestAnimationFrame(fit);
const one = full ? 1 : Math.max(width / iw, height / ih);
const cx = full ? Math.round((x.start + x.end) / 2) : width / 2;
const cy = full ? Math.round((y.start + y.end) / 2) : -height / 2;
const left = full ? Math.round(cx - iw / 2) + HALF : cx - iw * one / 2;
const top = full ? Math.round(cy + ih / 2) - HALF : cy + ih * one / 2;
x.setv({start: left, end: left + iw * one}); y.setv({start: top - ih * one, end: top});
};
fit();
"""
"""Shows all of the image, or one of its pixels in each pixel of the screen, as soon as the figure
has the size of its place."""
UNTIDY = ".bk-Canvas { clip-path: inset(1.5px) } .bk-Panel { display: none }"
"""Hides the outermost pixels, of which Bokeh leaves parts of earlier views, and the panel of
attributions, which is empty."""
CRISP = "tiles.smoothing = x.end - x.start > 1.001 * figure.inner_width;"
"""Shows the pixels of full resolution, and enlarged ones, as they are."""


def new_figure(shape: tuple[int, ...], label: str) -> tuple[Any, WMTSTileSource]:
    """Return a figure of an image of `shape`, which `label` describes, and the source of its tiles.

    The tiles are the first of the renderers.
    """
    fig = figure(
        x_range=Range1d(),
        y_range=Range1d(),
        tools=[PanTool(), wheel := WheelZoomTool()],
        active_scroll=wheel,
        toolbar_location=None,
        sizing_mode="stretch_both",
        min_border=0,
        min_width=150,
        min_height=150,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        html_attributes={"role": "img", "aria-label": label},
        lod_threshold=20_000,
        stylesheets=[UNTIDY],
    )
    set_size(fig, shape)
    fig.axis.visible = False
    fig.grid.visible = False
    # Bokeh never looks at a resolution or zoom that is set later, so all images have the same
    source = WMTSTileSource(
        tile_size=SHARPNESS, initial_resolution=TILE / SHARPNESS * 2**FULL, max_zoom=FULL,
        x_origin_offset=0, y_origin_offset=TILE * 2**FULL, attribution="", wrap_around=False,
    )  # fmt: skip
    tiles = fig.add_tile(source)
    crisp = CustomJS(args={"tiles": tiles, "figure": fig, "x": fig.x_range}, code=CRISP)
    fig.x_range.js_on_change("end", crisp)
    return fig, source


def set_size(fig: Any, shape: tuple[int, ...]) -> None:
    """Let a figure show all of an image of `shape`; its scripts find the size in the tags."""
    height, width = (max(1, side) for side in shape[:2])
    farthest = FARTHEST * max(height, width)
    fig.x_range.update(start=0, end=width, max_interval=farthest, tags=[width, height])
    fig.y_range.update(start=-height, end=0, max_interval=farthest)


def show_tiles(
    source: WMTSTileSource, number: int, image: Pyramid | None, look: Look | None = None
) -> None:
    """Let `source` show the tiles of the image of this number in the `TileServer`.

    By default they are shown in the look of the image.
    """
    version = 0 if image is None else image.version
    found = look or (image.look if image is not None else None)
    text = found.text if found else "none"
    source.url = f"tiles/{number}/{version}/{text}/{{Z}}/{{X}}/{{Y}}.png"


def add_scale_bar(fig: Any, mpp: float | None) -> None:
    """Add a scale bar, if micrometres per pixel are known."""
    if mpp is None:
        return
    size = mpp * 1e-6  # Bokeh's units begin with the metre
    metres = Range1d(fig.x_range.start * size, fig.x_range.end * size)
    follow = CustomJS(
        args={"metres": metres, "x": fig.x_range, "size": size},
        code="metres.setv({start: x.start * size, end: x.end * size});",
    )
    fig.x_range.js_on_change("start", follow)
    fig.x_range.js_on_change("end", follow)
    bar = ScaleBar(range=metres, unit="m", location="bottom_left", background_fill_alpha=0.9)
    bar.update(label_text_color="black", bar_line_color="black", label_text_font="system-ui")
    fig.add_layout(bar)


def fitting(fig: Any, place: str) -> tuple[CustomJS, CustomJS]:
    """Return scripts that show all of an image, and its full resolution.

    `place` is the id of the element that the figure is in.
    """
    args = {"x": fig.x_range, "y": fig.y_range, "figure": fig, "place": place}
    whole, full = (
        CustomJS(args=args | {"full": full}, code=FIT.replace("HALF", HALF))
        for full in (False, True)
    )
    return whole, full


def move_buttons(fig: Any, whole: CustomJS, full: CustomJS) -> list[Button]:
    """Return buttons to move and zoom; `whole` and `full` are the scripts of `fitting`."""
    ranges = {"x": fig.x_range, "y": fig.y_range}
    buttons = []
    for text, name, move in (
        ("←", "Move left", (-0.2, 0, 1)), ("→", "Move right", (0.2, 0, 1)),
        ("↑", "Move up", (0, 0.2, 1)), ("↓", "Move down", (0, -0.2, 1)),
        ("+", "Zoom in", (0, 0, 2)), ("-", "Zoom out", (0, 0, 0.5)),
    ):  # fmt: skip
        button = Button(label=text, width=40, stylesheets=[WIDGET])
        button.html_attributes = {"title": name, "data-names": name}
        button.js_on_click(CustomJS(args=ranges | {"move": move}, code=MOVE))
        buttons.append(button)
    for text, script in (("Whole slide", whole), ("Full resolution", full)):
        button = Button(label=text, width=130, stylesheets=[WIDGET])
        button.js_on_click(script)
        buttons.append(button)
    return buttons


def move_keys(fig: Any, whole: CustomJS, full: CustomJS, place: str) -> CustomJS:
    """Return the script that moves and zooms by keys in the element whose id is `place`."""
    ranges = {"x": fig.x_range, "y": fig.y_range}
    step = CustomJS(args=ranges, code=MOVE.replace("= move,", "= cb_data.move,"))
    return CustomJS(args={"step": step, "whole": whole, "full": full, "place": place}, code=KEYS)
