"""The groups of controls of a page. Each has widgets, and tells the page what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
from bokeh.models import (
    AbstractSlider,
    Button,
    CheckboxGroup,
    Column,
    CustomJS,
    Div,
    RadioButtonGroup,
    RangeSlider,
    Row,
    Select,
    Slider,
    Spinner,
    TextInput,
)

from dask_slides.core.channels import is_rgb
from dask_slides.core.types import Array
from dask_slides.numerics.detectors import AllOf, AnyOf, Brightness, Contrast, Otsu, Saturation
from dask_slides.ops.blank_map import BlankMap
from dask_slides.plots.display import display_colors
from dask_slides.plots.pictures import image_html, png
from dask_slides.view.layers import hexadecimal
from dask_slides.view.look import Look
from dask_slides.view.style import WIDGET

THRESHOLDS = {
    Contrast: ("ratio", "Most contrast of a blank tile"),
    Otsu: ("share", "Most pixels beyond Otsu's threshold"),
    Brightness: ("threshold", "Brightness of the background"),
    Saturation: ("threshold", "Most saturation of the background"),
}
"""The field of each detector of statistics that its slider moves, and what it means."""
MODES = {
    "Move": "Drag to move, turn the wheel to zoom.",
    "Brush": "Paint over an area.",
    "Lasso": "Draw a line around an area.",
    "Polygon": "Click the corners of an area; a double click or Enter closes it, Esc gives it up.",
}
"""What the mouse does, and how."""


def styled(widget: type[Any], **options: Any) -> Any:
    """Return a widget in the style of the page."""
    if issubclass(widget, AbstractSlider):
        options["margin"] = (5, 14, 5, 14)  # room for the handles at the ends
        options.setdefault("html_attributes", {"data-names": options["title"]})
    return widget(stylesheets=[WIDGET], sizing_mode="stretch_width", **options)


def text(content: str = "", **attributes: str) -> Div:
    """Return a text, which is HTML."""
    found: Div = styled(Div, text=content, disable_math=True, html_attributes=attributes)
    return found


def watch(model: Any, name: str, call: Callable[[Any], object]) -> None:
    """Call `call` with each new value of a property of a model."""
    model.on_change(name, lambda attr, old, new: call(new))


class LayerControls:
    """Check boxes of the layers, and what the boxes of packed tiles are coloured by."""

    def __init__(self, on_colour: Callable[[str], str]) -> None:
        self._renderers: list[Any] = []
        self._boxes = styled(CheckboxGroup, labels=[], active=[])
        self._lines: dict[str, str] = {}
        watch(self._boxes, "active", lambda _: self._apply())
        self._colour = styled(
            Select,
            title="Colour of tiles",
            options=["score", ("fraction", "share of tissue")],
            value="score",
            visible=False,
        )
        watch(self._colour, "value", lambda _: self._show(on_colour))
        self._scale = styled(Div, visible=False)
        self._on_colour = on_colour
        self.root = Column(self._boxes, self._colour, self._scale, sizing_mode="stretch_width")

    def add(self, label: str, renderers: Sequence[Any], shown: bool = True) -> None:
        """Add a layer."""
        self._renderers.append(renderers)
        self._boxes.labels = [*self._boxes.labels, label]
        if shown:
            self._boxes.active = [*self._boxes.active, len(self._renderers) - 1]
        self._apply()

    def draw_line(self, label: str, colour: str, dash: str) -> None:
        """Draw the line of a layer below its label, in the words of CSS."""
        self._lines[label] = f"3px {dash} {colour}"
        self._boxes.stylesheets = [WIDGET, *(
            f"label:nth-of-type({self._boxes.labels.index(one) + 1}) span "
            f"{{ border-bottom: {line}; padding-bottom: 1px }}"
            for one, line in self._lines.items()
        )]  # fmt: skip

    def show(self, label: str) -> None:
        """Switch a layer on."""
        at = self._boxes.labels.index(label)
        if at not in self._boxes.active:
            self._boxes.active = sorted([*self._boxes.active, at])

    def choose_colour(self) -> None:
        """Let the user choose a colour; there are packed tiles."""
        self._colour.visible = self._scale.visible = True
        self._show(self._on_colour)

    def _show(self, on_colour: Callable[[str], str]) -> None:
        self._scale.text = on_colour(self._colour.value)

    def _apply(self) -> None:
        for number, renderers in enumerate(self._renderers):
            for one in renderers:
                one.visible = number in self._boxes.active


class ThresholdControls:
    """Sliders that move the thresholds of the detector of a blank map."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._sliders: list[Any] = []
        self._note = ""
        self.facts = text("The blank map is being made.")
        self.root = Column(self.facts, sizing_mode="stretch_width")

    def show(self, found: BlankMap) -> None:
        """Make the sliders of the detector of a map."""
        if found.areas is not None and np.isin(found.tissue_fraction, (0, 1)).all():
            self._note = "No tile is tissue in part, so no threshold would change the map. "
        elif found.areas is not None:
            self._add("Blank below this share of tissue", found.min_tissue)
        for member in _members(found.detector):
            if type(member) in THRESHOLDS:
                name, title = THRESHOLDS[type(member)]
                self._add(title, getattr(member, name))
        self.root.children = [*self._sliders, self.facts]

    def tell(self, facts: str) -> None:
        """Show facts about the map."""
        self.facts.text = escape(self._note + facts)

    def _add(self, title: str, value: float) -> None:
        slider = styled(
            Slider, title=title, start=0, end=max(1.0, value), step=0.005, value=value,
            format="0.000",
        )  # fmt: skip
        watch(slider, "value", lambda _: self._on_change())
        self._sliders.append(slider)

    def applied(self, found: BlankMap) -> BlankMap:
        """Return the map with the thresholds of the sliders; nothing is read."""
        values = [float(slider.value) for slider in self._sliders]
        if found.areas is not None:
            return found.with_min_tissue(values[0]) if values else found
        members = []
        for member in _members(found.detector):
            if type(member) in THRESHOLDS:
                member = replace(member, **{THRESHOLDS[type(member)][0]: values.pop(0)})
            members.append(member)
        detector = found.detector
        group = isinstance(detector, AnyOf | AllOf)
        return found.with_detector(type(detector)(tuple(members)) if group else members[0])


def _members(detector: Any) -> tuple[Any, ...]:
    return detector.detectors if isinstance(detector, AnyOf | AllOf) else (detector,)


class ChannelControls:
    """Check boxes of the channels with their colours, and the contrast of one of them or of all."""

    def __init__(self, look: Look, dtype: np.dtype[Any], on_change: Callable[[Look], None]) -> None:
        self._look, self._dtype, self._on_change = look, dtype, on_change
        names = [one.name for one in look.channels]
        self._boxes = styled(CheckboxGroup, labels=names, active=list(look.shown))
        if len(names) > 1 and not is_rgb(look.channels):
            self._boxes.stylesheets = [WIDGET, *(
                f"label:nth-of-type({number + 1}) span::before {{ background: {hexadecimal(one)}; "
                'border: 1px solid var(--line); content: ""; display: inline-block; height: 12px; '
                "margin-right: 5px; vertical-align: -1px; width: 12px }"
                for number, one in enumerate(display_colors(look.channels))
            )]  # fmt: skip
        watch(self._boxes, "active", lambda _: self._changed())
        together = ["all channels"] if is_rgb(look.channels) else []
        self._which = styled(Select, title="Contrast of", options=[
            *((str(-1 - n), name) for n, name in enumerate(together)),
            *((str(n), name) for n, name in enumerate(names)),
        ])  # fmt: skip
        self._which.value = self._which.options[0][0]
        watch(self._which, "value", lambda _: self._show())
        self._window = styled(
            RangeSlider, title="Black and full colour at", start=0, end=1, value=(0, 1),
            step=0.01, html_attributes={"data-names": "Shown as black|Shown as full colour"},
        )  # fmt: skip
        watch(self._window, "value_throttled", lambda _: self._windowed())
        self.root = Column(self._boxes, self._which, self._window, sizing_mode="stretch_width")
        self.fit(look)

    def fit(self, look: Look) -> None:
        """Take over the windows of `look`."""
        self._look = look
        self._show()

    @property
    def _chosen(self) -> list[int]:
        number = int(self._which.value)
        return [number] if number >= 0 else list(range(len(self._look.channels)))

    def _show(self) -> None:
        low, high = self._look.channels[self._chosen[0]].window or (0.0, 1.0)
        if high - low >= 100:  # decimals would not be seen
            low, high = round(low), round(high)
        span = high - low
        end = high + span
        if self._dtype.kind in "iu":  # no sample is larger
            end = max(high, min(end, int(np.iinfo(self._dtype).max)))
        self._window.update(
            start=0 if low >= 0 else low - span,
            end=end,
            step=max(1, span // 256) if span >= 100 else span / 100,
            value=(low, high),
        )

    def _windowed(self) -> None:
        low, high = (float(value) for value in self._window.value)
        for number in self._chosen if low < high else ():
            self._look = self._look.with_window(number, (low, high))
        self._changed()

    def _changed(self) -> None:
        self._look = replace(self._look, shown=tuple(sorted(self._boxes.active)))
        self._on_change(self._look)


class BesideControls:
    """The choice of what is shown beside the slide."""

    def __init__(self, names: Sequence[str], on_change: Callable[[str], None]) -> None:
        labels = {"grid": "cut-off of the slide", "islands": "islands of tissue"}
        options = [("", "nothing"), *((name, labels.get(name, name)) for name in names)]
        self.choice = styled(Select, title="Cut-off or islands", options=options, value="")
        watch(self.choice, "value", on_change)
        self.facts = text()
        self.root = Column(self.choice, self.facts, sizing_mode="stretch_width")


class CorrectionControls:
    """What the mouse draws, and the file to which corrections are saved."""

    def __init__(
        self,
        tools: Sequence[Any],
        file: str,
        on_undo: Callable[[], None],
        on_view: Callable[[], None],
        on_save: Callable[[str], None],
    ) -> None:
        self.mode = styled(
            RadioButtonGroup, labels=list(MODES), active=0,
            html_attributes={"role": "group", "aria-label": "What the mouse does"},
        )  # fmt: skip
        how = text(MODES["Move"])
        code = """tools.forEach((tool, number) => { tool.active = number == cb_obj.active; });
        how.text = texts[cb_obj.active];"""
        args = {"tools": list(tools), "how": how, "texts": list(MODES.values())}
        self.mode.js_on_change("active", CustomJS(args=args, code=code))
        self.paint = styled(
            RadioButtonGroup, labels=["Tissue", "Blank"], active=0,
            html_attributes={"role": "group", "aria-label": "What a drawn area is"},
        )  # fmt: skip
        self.width = styled(
            Slider, title="Brush in pixels of the screen", start=2, end=100, step=1, value=20
        )
        self._file = styled(TextInput, title="File for the outlines", value=file)
        view, undo, save = (styled(Button, label=label) for label in
                            ("Mark all in view", "Undo", "Save as GeoJSON"))  # fmt: skip
        view.on_click(on_view)
        undo.on_click(on_undo)
        save.on_click(lambda: on_save(self._file.value))
        self.root = Column(
            text("The mouse"), self.mode, how, text("What it draws is"), self.paint, self.width,
            text("Without a mouse, move and zoom to an area by keys, and mark all of it."),
            Row(view, undo, sizing_mode="stretch_width"), self._file, save,
            sizing_mode="stretch_width",
        )  # fmt: skip

    @property
    def tissue(self) -> bool:
        """Whether what is drawn is tissue."""
        return bool(self.paint.active == 0)


class TileControls:
    """The tile that was clicked, at full resolution."""

    def __init__(
        self, count: int, on_number: Callable[[int], None], on_middle: Callable[[], None]
    ) -> None:
        self._picture = text("Click on the slide to see a tile at full resolution.")
        middle = styled(Button, label="Show the tile in the middle of the view")
        middle.on_click(on_middle)
        self.root = Column(middle, self._picture, sizing_mode="stretch_width")
        if count:
            number = styled(
                Spinner, title="Number of a packed tile", low=0, high=count - 1, step=1, value=None
            )
            watch(number, "value", lambda n: None if n is None else on_number(int(n)))
            self.root.children = [number, middle, self._picture]

    def show(self, rgb: Array, facts: Sequence[str]) -> None:
        """Show the pixels (h, w, 3) of a tile, and facts about it."""
        items = "".join(f"<li>{escape(one)}</li>" for one in facts)
        picture = image_html(", ".join(facts), png(rgb, quickly=True))
        self._picture.text = f"{picture}<ul>{items}</ul>"

    def say(self, reason: str) -> None:
        """Show a text in place of a tile."""
        self._picture.text = escape(reason)
