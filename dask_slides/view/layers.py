"""What is drawn over the tiles of a slide: its blank map, outlines, packed tiles, annotations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper
from bokeh.palettes import Cividis256
from bokeh.transform import linear_cmap

from dask_slides.core.polygons import Outline
from dask_slides.core.types import Array
from dask_slides.ops.annotations import Annotations
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.pack import TilePack
from dask_slides.plots.overlay import OKABE_ITO, ON_BRIGHT, UNKNOWN, Colours
from dask_slides.writers.blank_maps import kinds_of

DASHES = ("solid", "dashed", "dotted")
"""Lines of classes differ in more than their colours. These are words of Bokeh and of CSS."""
BORDER = "#808080"
"""Of boxes without pixels below them: it stands out from light and dark pages, which some colours
of scores do not."""
CASING = "#1b1f24"
"""Of the lines of classes."""
VEIL = "90"
"""Opacity of blank tiles, in hexadecimal."""
CLASS_COLOURS = (6, 7, 2, 1, 3, 5, 4)
"""Indices into `OKABE_ITO`, those first that stand out from stained tissue."""
TIP = """<div style="color: #1b1f24; background: white">y @y{0,0}, x @x{0,0}<br>
score @score{0.0}<br>tissue @fraction{0%}<br>@label</div>"""
"""What is shown of the tile under the mouse, in colours with enough contrast."""


def hexadecimal(colour: Array) -> str:
    """Return a colour (3,) as #rrggbb."""
    return "#" + "".join(f"{int(value):02x}" for value in colour)


class MapLayer:
    """The blank tiles of a map, veiled, and the outlines of its tissue."""

    def __init__(self, fig: Any) -> None:
        self._tiles = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self._lines = ColumnDataSource({"xs": [], "ys": []})
        self._colours = LinearColorMapper(low=0, high=2)
        self.veil = fig.image(
            "image", source=self._tiles, x="x", y="y", dw="dw", dh="dh", origin="top_left",
            anchor="top_left", color_mapper=self._colours,
        )  # fmt: skip
        self.outlines = fig.multi_line("xs", "ys", source=self._lines, line_width=2.5)
        self.recolour(ON_BRIGHT)

    def recolour(self, colours: Colours) -> None:
        """Use colours that suit the slide."""
        veil, unknown = hexadecimal(colours.veil), hexadecimal(UNKNOWN)
        self._colours.palette = [veil + VEIL, "#00000000", unknown + VEIL]
        self.outlines.glyph.line_color = hexadecimal(colours.outline)

    def show_tiles(self, found: BlankMap) -> None:
        """Show the tiles of a computed map; nothing is read."""
        grid, kinds = found.grid, kinds_of(found)
        parts = [
            (kinds[rows, columns], left, -top, width, height)
            for rows, top, height in _whole_and_rest(grid.rows, grid.stride[0], grid.shape[0])
            for columns, left, width in _whole_and_rest(grid.cols, grid.stride[1], grid.shape[1])
        ]
        names = ("image", "x", "y", "dw", "dh")
        self._tiles.data = dict(zip(names, map(list, zip(*parts, strict=True)), strict=True))

    def show_outlines(self, outlines: Iterable[Outline]) -> None:
        """Show the outlines of the tissue."""
        self._lines.data = dict(zip(("xs", "ys"), rings_of(outlines), strict=True))


def _whole_and_rest(count: int, stride: int, size: int) -> list[tuple[slice, int, int]]:
    """Return the whole tiles along an axis and the last one: which, their start and length.

    The last one ends with the slide, and an image of Bokeh has pixels of one size.
    """
    start = (count - 1) * stride
    parts = [(slice(count - 1), 0, start), (slice(count - 1, count), start, size - start)]
    return [part for part in parts if part[2]]


def rings_of(outlines: Iterable[Outline]) -> tuple[list[Array], list[Array]]:
    """Return x and y of all rings of outlines, closed, in coordinates of the figure."""
    rings = [np.concatenate([ring, ring[:1]]) for one in outlines for ring in one.rings]
    return [ring[:, 1].astype(float) for ring in rings], [-ring[:, 0].astype(float)
                                                          for ring in rings]  # fmt: skip


class PackLayer:
    """The tiles of a pack as boxes, in colours of their scores or shares of tissue."""

    def __init__(self, fig: Any, pack: TilePack, has_pixels: bool) -> None:
        self.pack, self.boxes = pack, pack.boxes
        self._coloured = ("fill_color", "line_color") if has_pixels else ("fill_color",)
        y, x, height, width = self.boxes.T
        data = {
            "left": x, "right": x + width, "top": -y, "bottom": -y - height, "x": x, "y": y,
            "score": pack.score, "fraction": pack.tissue_fraction,
            "label": np.full(len(pack), "") if pack.labels is None else pack.labels,
        }  # fmt: skip
        self._source = ColumnDataSource(data)
        self.renderer = fig.quad(
            "left", "right", "top", "bottom", source=self._source, line_width=2, line_color=BORDER,
            fill_alpha=0.25 if has_pixels else 0.8,
        )  # fmt: skip
        fig.add_tools(HoverTool(renderers=[self.renderer], tooltips=TIP))
        self.colour_by("score")

    def colour_by(self, column: str) -> tuple[float, float]:
        """Colour the boxes by "score" or "fraction"; return the least and the greatest value."""
        values = self.pack.score if column == "score" else self.pack.tissue_fraction
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        high = high if high > low else low + 1
        colour = linear_cmap(column, Cividis256, low, high)
        self.renderer.glyph.update(**dict.fromkeys(self._coloured, colour))
        return low, high

    def tile_at(self, y: float, x: float) -> int | None:
        """Return the number of the tile at a point, the last one if several overlap."""
        top, left, height, width = self.boxes.T
        found = np.flatnonzero((top <= y) & (y < top + height) & (left <= x) & (x < left + width))
        return int(found[-1]) if len(found) else None


def annotation_lines(fig: Any, annotations: Annotations) -> list[tuple[str, list[Any], str, str]]:
    """Draw the polygons of each class; return the names, renderers, colours and dashes."""
    found = []
    for number, name in enumerate(annotations.classes):
        xs, ys = rings_of(annotations.of_class(name))
        colour = hexadecimal(OKABE_ITO[CLASS_COLOURS[number % len(CLASS_COLOURS)]])
        dash = DASHES[number % len(DASHES)]
        source = ColumnDataSource({"xs": xs, "ys": ys})
        # light colours stand out from glass by the dark line below
        lines = [
            fig.multi_line("xs", "ys", source=source, line_color=CASING, line_width=5),
            fig.multi_line(
                "xs", "ys", source=source, line_color=colour, line_width=3, line_dash=dash
            ),
        ]
        found.append((name, lines, colour, dash))
    return found
