"""The page of the viewer: a Bokeh document with a slide, its layers and the controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from html import escape
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.events import (
    ClientReconnected,
    ConnectionLost,
    MouseMove,
    SelectionGeometry,
    Tap,
)
from bokeh.models import (
    CheckboxGroup,
    ColumnDataSource,
    CustomJS,
    FreehandDrawTool,
    LassoSelectTool,
    PolySelectTool,
    Row,
    Select,
)

from dask_slides.core.layout import CutoffMapping
from dask_slides.core.types import Array
from dask_slides.errors import SlideError
from dask_slides.ops.blank_map import BlankMap
from dask_slides.plots.overlay import ON_BRIGHT, Colours, colours_for
from dask_slides.view import style
from dask_slides.view.controls import (
    BesideControls,
    ChannelControls,
    CorrectionControls,
    LayerControls,
    ThresholdControls,
    TileControls,
    styled,
    text,
    watch,
)
from dask_slides.view.keyboard import NAMES
from dask_slides.view.layers import MapLayer, PackLayer, annotation_lines, hexadecimal
from dask_slides.view.look import Look
from dask_slides.view.picture import (
    add_scale_bar,
    fitting,
    move_buttons,
    move_keys,
    new_figure,
    set_size,
    show_tiles,
)
from dask_slides.view.slides import ViewedSlide
from dask_slides.view.tiles import Pyramid

OUTLINES = "Outlines of tissue"
"""The label of this layer."""
MOST_PIXELS = 1024
"""Longest side of a tile that is shown; of a larger one the middle."""
OPEN = """
const address = new URL(window.location.href);
address.searchParams.set("slide", cb_obj.value);
window.location.assign(address);
"""
PLACE = """
document.getElementById("beside").classList.toggle("empty", !cb_obj.tags.length);
slide.execute(null);
beside.execute(null);
"""
"""Gives the image beside the slide its place if the figure has a tag, and shows all of both.

The figure is never invisible: Bokeh scales the ranges of one that grows from nothing beyond all
bounds, and then looks for tiles without end."""
THEME = 'document.documentElement.dataset.theme = cb_obj.active.length ? "dark" : "light";'
LOST = """
status.text = "The viewer has ended or cannot be reached: start it again and load this page anew.";
"""
FOUND = 'status.text = "The viewer is there again.";'
START = """
for (const script of scripts) script.execute(null);
toggle.active = window.matchMedia("(prefers-color-scheme: dark)").matches ? [0] : [];
sized.execute(null);
"""
"""The script that `style.TEMPLATE` runs when the page is there: listens for keys, takes over the
colours of the system, and shows all of the slide.

`DocumentReady` may never come: Bokeh sends it once all tiles are drawn."""


def build(doc: Document, slides: Sequence[ViewedSlide]) -> None:
    """Fill the document of a page: the slide of the number in its address."""
    request = doc.session_context.request
    given = request.arguments.get("slide", [b"0"])[0]
    number = int(given) if given.isdigit() else 0
    Page(doc, slides[min(number, len(slides) - 1)], slides, request.host)


class Page:
    """One page that shows a slide."""

    def __init__(
        self, doc: Document, viewed: ViewedSlide, slides: Sequence[ViewedSlide], host: str
    ) -> None:
        self.doc, self.viewed, self.slide = doc, viewed, viewed.slide
        self.found: BlankMap | None = None
        """The map before its thresholds are moved and it is corrected."""
        self.current: BlankMap | None = None
        """The map that is shown."""
        height, width = self.slide.shape[:2]
        label = f"Picture of {self.slide.name}, {height:,} x {width:,} px"
        self.fig, self.source = new_figure(self.slide.shape, label)
        self.whole, self.full = fitting(self.fig, "slide")
        self.status, self.readout = text(role="status"), text()
        self.beside = _Beside(self)
        self._add_layers()
        self._add_controls()
        self._add_roots(slides, host)
        show_tiles(self.source, viewed.number, viewed.pyramid)
        notes = list(viewed.shown.notes)
        if viewed.pyramid is None:
            notes.append(
                "The file of the slide is not among the paths, so its pixels are not shown."
            )
        self.say(" ".join(notes))
        viewed.tiles.listeners.add(self._tell_of_tile)
        doc.on_session_destroyed(lambda _: viewed.tiles.listeners.discard(self._tell_of_tile))
        picture, found = viewed.load()
        self.when_done(picture, self._show_picture)
        self.when_done(found, self._show_map)

    def _add_layers(self) -> None:
        shown, fig = self.viewed.shown, self.fig
        self.layers = LayerControls(self._colour_tiles)
        if self.viewed.pyramid is not None:
            self.layers.add("Slide", [fig.renderers[0]])
        self.map = MapLayer(fig)
        if self.viewed.has_map:
            self.layers.add("Blank map", [self.map.veil], shown.blank_map is not None)
            self.layers.add(OUTLINES, [self.map.outlines])
            self._recolour(ON_BRIGHT)
        self.packs = [PackLayer(fig, pack, shown.has_pixels) for _, pack in shown.packs]
        for (name, pack), layer in zip(shown.packs, self.packs, strict=True):
            self.layers.add(f"{len(pack):,} tiles of {name}", [layer.renderer])
        for one in shown.annotations:
            for name, lines, colour, dash in annotation_lines(fig, one):
                label = f"{name} in {one.name}"
                self.layers.add(label, lines)
                self.layers.draw_line(label, colour, dash)
        if self.packs:
            self.layers.choose_colour()
        add_scale_bar(fig, None if self.slide.mpp_yx is None else self.slide.mpp_yx[1])
        self.cursor = Cursor(fig)
        fig.on_event(MouseMove, self._moved)
        fig.on_event(Tap, self._clicked)

    def _add_controls(self) -> None:
        viewed, fig = self.viewed, self.fig
        look = Look.of(self.slide.channels, self.slide.dtype)
        self.look = look if viewed.pyramid is None else viewed.pyramid.look
        self._stroke = ColumnDataSource({"xs": [], "ys": []})
        line = fig.multi_line("xs", "ys", source=self._stroke, line_cap="round", line_join="round",
                              line_color="#cc79a7", line_alpha=0.6, line_width=20)  # fmt: skip
        lasso, polygon = LassoSelectTool(renderers=[]), PolySelectTool(renderers=[])
        brush = FreehandDrawTool(renderers=[line], num_objects=1)
        fig.add_tools(brush, lasso, polygon)
        fig.toolbar.active_drag = fig.tools[0]
        fig.toolbar.active_tap = None
        tools = [fig.tools[0], brush, lasso, polygon]
        self.thresholds = ThresholdControls(self._move_threshold)
        self.channels = ChannelControls(self.look, self.slide.dtype, self._change_look)
        self.cuts = BesideControls(viewed.cut_names, self.beside.choose)
        self.corrections = CorrectionControls(
            tools, viewed.usual_file, self._undo, self._mark_view, self._save
        )
        self.corrections.width.js_link("value", line.glyph, "line_width")
        watch(self._stroke, "data", lambda _: self._draw_stroke())
        fig.on_event(SelectionGeometry, self._draw_polygon)
        count = len(self.packs[-1].pack) if self.packs else 0
        self.tile = TileControls(
            count, lambda number: self._show_packed(self.packs[-1], number), self._show_middle
        )

    def _add_roots(self, slides: Sequence[ViewedSlide], host: str) -> None:
        names = [(str(number), one.slide.name) for number, one in enumerate(slides)]
        choice = styled(Select, title="Slide", options=names, visible=len(names) > 1)
        choice.value = str(slides.index(self.viewed))
        choice.js_on_change("value", CustomJS(code=OPEN))
        dark = CheckboxGroup(labels=["Dark colours"], stylesheets=[style.WIDGET], width=130,
                             align="end")  # fmt: skip
        dark.js_on_change("active", CustomJS(code=THEME))
        buttons = move_buttons(self.fig, self.whole, self.full)
        roots = {
            "choice": Row(choice, dark),
            "moves": Row(*buttons, styles={"flex-wrap": "wrap"}),
            "slide": self.fig,
            "beside": self.beside.fig,
            "readout": self.readout,
            "status": self.status,
            "layers": self.layers.root,
        }
        if self.viewed.pyramid is not None or self.packs:
            roots["tile"] = self.tile.root
        if self.viewed.has_map:
            roots |= {"threshold": self.thresholds.root, "correct": self.corrections.root}
        if self.viewed.pyramid is not None:
            roots["channels"] = self.channels.root
        if self.viewed.cut_names:
            roots["cut"] = self.cuts.root
        for name, root in roots.items():
            root.name = name
            self.doc.add_root(root)
        scripts = [
            move_keys(self.fig, self.whole, self.full, "slide"),
            move_keys(self.beside.fig, self.beside.whole, self.beside.full, "beside"),
            CustomJS(code=NAMES),
        ]
        args = {"scripts": scripts, "toggle": dark, "sized": self.whole}
        self.fig.js_on_change("name", CustomJS(args=args, code=START, name="start"))
        self.doc.config.notify_connection_status = False  # its colours have too little contrast
        for event, code in ((ConnectionLost, LOST), (ClientReconnected, FOUND)):
            self.doc.js_on_event(event, CustomJS(args={"status": self.status}, code=code))
        self.doc.title = f"{self.slide.name} - dask-slides"
        self.doc.template = style.TEMPLATE
        self.doc.template_variables.update(
            heading=self.slide.name,
            sections=[one for one in style.SECTIONS if one[0] in roots],
            policy=style.POLICY.format(host=host),
        )

    def say(self, message: str) -> None:
        """Show a message, which screen readers read out."""
        self.status.text = escape(message)

    def when_done(self, future: Future[Any], call: Callable[[Any], None]) -> None:
        """Call `call` with a result of the background, or show its error."""

        def finish() -> None:
            try:
                call(future.result())
            except (SlideError, ImportError, OSError, MemoryError) as error:
                self.say(str(error))

        future.add_done_callback(lambda _: self._soon(finish))

    def _soon(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the viewer has ended
            self.doc.add_next_tick_callback(call)

    def _tell_of_tile(self, number: int, reason: str) -> None:
        """Show why a tile cannot be read, for example because the file is gone."""
        if number in (self.viewed.number, self.beside.number):
            self._soon(partial(self.say, reason))

    def _show_picture(self, picture: Array | None) -> None:
        pyramid = self.viewed.pyramid
        if picture is None or pyramid is None:
            return
        self.look = pyramid.look
        self.channels.fit(self.look)
        middle = self.look.rgb(np.moveaxis(picture[:-1, ::8, ::8], 0, 2))
        self._recolour(colours_for(middle))
        show_tiles(self.source, self.viewed.number, pyramid)

    def _recolour(self, colours: Colours) -> None:
        self.map.recolour(colours)
        self.layers.draw_line(OUTLINES, hexadecimal(colours.outline), "solid")

    def _show_map(self, found: BlankMap | None) -> None:
        if found is None:
            return
        self.found = found
        self.thresholds.show(found)
        if found.unknown.any():
            self.layers.show("Blank map")
        self._refresh()

    def _refresh(self, outlines: bool = True) -> None:
        """Show the map with the present thresholds and corrections."""
        if self.found is None:
            return
        found = self.thresholds.applied(self.found)
        if self.viewed.corrections.made:
            found = self.viewed.corrections.applied(found)
        self.current = found
        self.map.show_tiles(found)
        blank, count = int(found.blank.sum()), found.blank.size
        facts = [
            f"{blank:,} of {count:,} tiles are blank",
            f"{found.tissue_share:.1%} tissue by {found.detector}",
        ]
        if self.viewed.corrections.made:
            facts.append(_some(len(self.viewed.corrections.made), "correction"))
        if found.unknown.any():
            unknown = _some(int(found.unknown.sum()), "tile")
            facts.append(f"{unknown} unknown (orange), as the file is damaged there")
        self.thresholds.tell("; ".join(facts))
        if outlines or found.areas is None:
            self.when_done(self.viewed.submit(found.polygons), self.map.show_outlines)

    def _move_threshold(self) -> None:
        self.layers.show("Blank map")
        self._refresh(outlines=False)

    def _change_look(self, look: Look) -> None:
        self.look = look
        show_tiles(self.source, self.viewed.number, self.viewed.pyramid, look)
        self.beside.change_look()

    def _colour_tiles(self, column: str) -> str:
        ranges = [layer.colour_by(column) for layer in self.packs]
        low, high = min(a for a, _ in ranges), max(b for _, b in ranges)
        return f"Dark blue is {low:.3g}, yellow is {high:.3g}"

    def _moved(self, event: Any) -> None:
        y, x = -event.y, event.x
        self.readout.text = f"y {y:,.0f}, x {x:,.0f} px"
        self.cursor.hide()
        self.beside.point(y, x)

    def _clicked(self, event: Any) -> None:
        if self.corrections.mode.active:  # the mouse draws
            return
        self._show_tile(-event.y, event.x)

    def _show_middle(self) -> None:
        x, y = self.fig.x_range, self.fig.y_range
        self._show_tile(-(y.start + y.end) / 2, (x.start + x.end) / 2)

    def _show_tile(self, y: float, x: float) -> None:
        """Show the tile at a point, the packed one if there is one."""
        for layer in reversed(self.packs):
            number = layer.tile_at(y, x) if layer.renderer.visible else None
            if number is not None:
                self._show_packed(layer, number)
                return
        height, width = self.slide.shape[:2]
        if self.viewed.pyramid is None or not (0 <= y < height and 0 <= x < width):
            self.tile.say("There is no tile at this place.")
            return
        tile = (256, 256) if self.current is None else self.current.grid.tile
        row, column = int(y // tile[0]), int(x // tile[1])
        facts = []
        if self.current is not None:
            share = float(self.current.tissue_fraction[row, column])
            kind = "blank" if self.current.blank[row, column] else "not blank"
            facts = [f"tile of the blank map, {kind}", f"tissue {share:.0%}"]
        box = [row * tile[0], column * tile[1], *tile]
        self._show_region(_inside(box, (height, width)), facts)

    def _show_region(self, box: tuple[int, int, int, int], facts: list[str]) -> None:
        y, x, height, width = box
        facts = [f"y {y:,}, x {x:,}, {height} x {width} px", *facts]
        job = self.viewed.tiles.pool.submit(self.viewed.pixels, *box, self.look)
        self.when_done(job, lambda rgb: self.tile.show(rgb, facts))

    def _show_packed(self, layer: PackLayer, number: int) -> None:
        pack, box = layer.pack, layer.boxes[number]
        facts = [
            f"tile {number:,}",
            f"y {box[0]:,}, x {box[1]:,}, {box[2]:,} x {box[3]:,} px of the slide",
            f"score {pack.score[number]:.4g}",
            f"tissue {pack.tissue_fraction[number]:.0%}",
        ]
        if pack.labels is not None:
            facts.append(f"class {pack.labels[number] or 'none'}")
        look = self.look if len(self.look.channels) == pack.tiles.shape[3] else None
        look = look or Look.of(pack.channels, pack.tiles.dtype)
        job = self.viewed.tiles.pool.submit(lambda: look.rgb(pack[number]))
        self.when_done(job, lambda rgb: self.tile.show(rgb, facts))

    def _draw_stroke(self) -> None:
        xs, ys = self._stroke.data["xs"], self._stroke.data["ys"]
        if not len(xs):
            return
        points = np.stack([-np.asarray(ys[-1], float), np.asarray(xs[-1], float)], axis=1)
        scale = (self.fig.x_range.end - self.fig.x_range.start) / max(1, self.fig.inner_width or 1)
        width = float(self.corrections.width.value) * scale
        self._stroke.data = {"xs": [], "ys": []}
        self._correct(partial(self.viewed.corrections.stroke, points, width))

    def _draw_polygon(self, event: Any) -> None:
        geometry = event.geometry or {}
        if event.final and geometry.get("type") == "poly":
            points = np.stack([-np.asarray(geometry["y"], float), np.asarray(geometry["x"], float)],
                              axis=1)  # fmt: skip
            self._correct(partial(self.viewed.corrections.polygon, points))

    def _mark_view(self) -> None:
        x, y = self.fig.x_range, self.fig.y_range
        corners = [(-y.end, x.start), (-y.end, x.end), (-y.start, x.end), (-y.start, x.start)]
        self._correct(partial(self.viewed.corrections.polygon, np.array(corners, float)))

    def _correct(self, make: Callable[[bool], None]) -> None:
        if self.found is None:
            self.say("The blank map is not there yet.")
            return
        make(self.corrections.tissue)
        self.layers.show(OUTLINES)
        self._refresh()
        self.say(f"Marked as {'tissue' if self.corrections.tissue else 'blank'}")

    def _undo(self) -> None:
        self.viewed.corrections.undo()
        self._refresh()
        self.say(f"{_some(len(self.viewed.corrections.made), 'correction')} left".capitalize())

    def _save(self, name: str) -> None:
        if self.found is None:
            self.say("The blank map is not there yet.")
            return
        found = self.thresholds.applied(self.found)
        job = self.viewed.submit(self.viewed.save, found, name)
        self.when_done(job, lambda path: self.say(f"Saved to {path}"))


def _some(count: int, name: str) -> str:
    return f"{count or 'no'} {name}{'s' * (count != 1)}"


def _inside(box: list[int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the part of a box on the slide; of a large one, its middle."""
    spans = []
    for start, length, size in zip(box[:2], box[2:], shape, strict=True):
        length = min(length, size - start)
        shown = min(length, MOST_PIXELS)
        spans.append((start + (length - shown) // 2, shown))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


class Cursor:
    """A cross that marks the place under the mouse in the other figure."""

    def __init__(self, fig: Any) -> None:
        self.source = ColumnDataSource({"x": [], "y": []})
        for colour, width in (("white", 6), ("black", 2)):
            fig.scatter("x", "y", source=self.source, marker="cross", size=36,
                        line_color=colour, line_width=width)  # fmt: skip

    def point(self, y: float, x: float) -> None:
        """Show the cross at a point, or hide it if that is NaN."""
        good = bool(np.isfinite(y) and np.isfinite(x))
        self.source.data = {"x": [x] * good, "y": [-y] * good}

    def hide(self) -> None:
        """Hide the cross."""
        if len(self.source.data["x"]):
            self.source.data = {"x": [], "y": []}


class _Beside:
    """The figure of a cut-off beside the slide, with a cursor that follows."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._tiles = page.viewed.tiles
        self._image: Pyramid | None = None
        self.number: int | None = None
        """Of the image in the `TileServer`."""
        self._mapping: CutoffMapping | None = None
        self.fig, self.source = new_figure((256, 256), "Cut-off of the slide")
        show_tiles(self.source, self._tiles.add(None), None)  # Bokeh asks for tiles all the same
        self.whole, self.full = fitting(self.fig, "beside")
        self._cursor = Cursor(self.fig)
        scripts = {"slide": page.whole, "beside": self.whole}
        self.fig.js_on_change("tags", CustomJS(args=scripts, code=PLACE))
        self.fig.on_event(MouseMove, self._moved)

    def choose(self, name: str) -> None:
        """Show the cut-off of this name, or none."""
        page = self._page
        if name:
            page.say("The image beside the slide is being made.")
            page.when_done(page.viewed.submit(page.viewed.cut, name, page.current), self._show)
        else:
            self._forget()
            self.fig.tags = []
            page.cuts.facts.text = ""
            page.say("")

    def _forget(self) -> None:
        if self.number is not None:
            self._tiles.remove(self.number)
        self._image = self.number = self._mapping = None

    def _show(self, made: tuple[Pyramid, CutoffMapping]) -> None:
        self._forget()
        self._image, self._mapping = made
        self.number = self._tiles.add(self._image)
        height, width = self._image.slide.shape[:2]
        page = self._page
        page.cuts.facts.text = f"{height:,} x {width:,} px"
        page.say("The image beside the slide is there; the cross marks the place of the mouse.")
        set_size(self.fig, (height, width))
        self.change_look()
        self.fig.tags = [height, width]

    def change_look(self) -> None:
        """Show the image with the channels and contrast of the slide."""
        if self._image is not None and self.number is not None:
            look = self._page.look
            same = len(look.channels) == len(self._image.look.channels)
            show_tiles(self.source, self.number, self._image, look if same else None)

    def point(self, y: float, x: float) -> None:
        """Mark a point of the slide."""
        if self._mapping is not None:
            self._cursor.point(*self._mapping.from_source((y, x)))

    def _moved(self, event: Any) -> None:
        if self._mapping is not None:
            y, x = self._mapping.to_source((-event.y, event.x))
            self._page.cursor.point(y, x)
            self._cursor.hide()
            known = bool(np.isfinite(y) and np.isfinite(x))
            self._page.readout.text = f"y {y:,.0f}, x {x:,.0f} px" if known else "between islands"
