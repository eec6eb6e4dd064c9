"""The viewer in a real browser: pixels, layers, threshold, corrections, cursors, requests."""

import base64
import io
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import tifffile
from chromium import BROWSER, Browser
from click.testing import CliRunner
from PIL import Image
from wcag import contrast

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.view.content import Shown, open_paths, with_layers
from dask_slides.view.server import View
from dask_slides.view.tile_server import EMPTY

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
FIND = "[...Bokeh.documents[0].all_models].filter(m => m.type == {kind!r})"
FIGURE = FIND.format(kind="Figure") + "[0]"
CONTRASTS = """
(() => {
  const found = [];
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map(
      (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (at) => {
    for (; at; at = at.parentNode ?? at.host) {
      if (!(at instanceof Element)) continue;
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] == 255) return colour;
    }
  };
  const visit = (root) => {
    for (const at of root.querySelectorAll("*")) {
      if (at.shadowRoot) visit(at.shadowRoot);
      const own = [...at.childNodes].filter((one) => one.nodeType == 3);
      const text = String(at.value ?? own.map((one) => one.data).join("")).trim();
      if (!text || !at.checkVisibility() || at.matches("style, script, title, option")) continue;
      const style = getComputedStyle(at);
      const [one, two] = [rgba(style.color), behind(at)].map(light).sort((a, b) => b - a);
      found.push([text.slice(0, 40), (one + 0.05) / (two + 0.05)]);
    }
  };
  visit(document.body);
  return found;
})()
"""
"""The contrast of each text with what is behind it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a flat slide, all kinds of layers of it, and a browser."""
    folder = tmp_path_factory.mktemp("view")
    slide = ds.open_slide(ds.sample_slide(folder / "a.tif", shape=(2560, 3072), tile=256))
    found = ds.blank_map(slide).compute()
    pack = ds.pack_tiles(slide, blank_map=found)
    found.to_geojson(folder / "a.geojson")
    cut = ds.cutoff_resize(slide, downsample=2, blank_map=found, layout="islands")
    layers = [found, pack, cut, folder / "a.geojson"]
    with Browser() as browser:
        yield SimpleNamespace(
            slide=slide, found=found, pack=pack, cut=cut, layers=layers, folder=folder,
            browser=browser,
        )  # fmt: skip


@pytest.fixture
def shown(made):
    """Return a viewer of them in a new page, and test that nothing failed or left the machine."""
    view = View((with_layers(Shown(made.slide), made.layers),), folder=made.folder)
    browser = made.browser
    with view:
        browser.load("about:blank")
        for seen in (browser.requests, browser.messages, browser.responses):
            seen.clear()
        open_page(made, view.url)
        browser.wait(f"{texts()}.includes('tiles are blank')")
        yield SimpleNamespace(**vars(made), view=view)
        origins = (view.url, view.url.replace("http", "ws", 1), "data:", "blob:")
        assert browser.requests
        assert [url for url in browser.requests if not url.startswith(origins)] == []
        assert browser.messages == []
        assert {status for status in browser.responses.values() if status} <= {200, 101, 304}
        browser.load("about:blank")


def open_page(made, url, dark=False):
    made.browser.resize(1400, 900)
    made.browser.prefer(dark)
    made.browser.run("window.left = true")
    made.browser.open(url)
    made.browser.wait("!window.left && window.Bokeh && Bokeh.documents.length")


def texts():
    return FIND.format(kind="Div") + ".map(m => m.text).join(' ')"


def widget(kind, title):
    return FIND.format(kind=kind) + f".filter(m => m.title == {title!r})[0]"


def press(shown, label):
    button = FIND.format(kind="Button") + f".filter(m => m.label == {label!r})[0]"
    shown.browser.run(
        f"(() => {{ const m = {button}; const v = Bokeh.index.find_one_by_id(m.id);"
        "v.button_el.click(); })()"
    )


def place_of(shown, y, x):
    """Return the place on the screen of a point of the slide."""
    left, top, width, height, x0, x1, y0, y1 = shown.browser.run(
        f"(() => {{ const f = {FIGURE}; const v = Bokeh.index.find_one_by_id(f.id);"
        "const box = v.el.getBoundingClientRect(), i = v.frame.bbox;"
        "return [box.left + i.left, box.top + i.top, i.width, i.height, f.x_range.start,"
        "f.x_range.end, f.y_range.start, f.y_range.end] })()"
    )
    return left + (x - x0) / (x1 - x0) * width, top + (y1 + y) / (y1 - y0) * height


def drawn(shown):
    """Wait until all tiles are there, and return the picture of the figure, (h, w, 3)."""
    browser = shown.browser
    browser.run("new Promise(done => setTimeout(done, 200))")  # Bokeh asks for tiles after 65 ms
    source = FIND.format(kind="WMTSTileSource") + "[0]"
    browser.wait(f"{source}.tiles.size && [...{source}.tiles.values()].every(t => t.loaded)")
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    left, top, width, height = browser.run(
        f"(() => {{ const v = Bokeh.index.find_one_by_id({FIGURE}.id);"
        "const box = v.el.getBoundingClientRect(), i = v.frame.bbox;"
        "return [box.left + i.left, box.top + i.top, i.width, i.height].map(Math.round) })()"
    )
    image = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB"))
    return image[top : top + height, left : left + width]


def only(shown, *labels):
    """Show these layers only."""
    boxes = FIND.format(kind="CheckboxGroup") + ".filter(m => m.labels.includes('Slide'))[0]"
    shown.browser.run(
        f"{boxes}.active = {boxes}.labels.map((l, i) => {list(labels)!r}.includes(l) ? i : -1)"
        ".filter(i => i >= 0)"
    )
    names = shown.browser.run(f"{boxes}.labels")
    shown.browser.wait(
        f"{FIGURE}.renderers[0].visible == {str('Slide' in labels).lower()}"
        f" && {FIGURE}.renderers[1].visible == {str('Blank map' in labels).lower()}"
    )
    return names


def test_pixels_are_those_of_the_reader(shown):
    only(shown, "Slide")
    for _ in range(10):  # a text that changes moves the figure by a part of a pixel
        drawn(shown)
        press(shown, "Full resolution")
        shown.browser.wait(f"{FIGURE}.x_range.end - {FIGURE}.x_range.start == {FIGURE}.inner_width")
        picture = drawn(shown)
        x, y = shown.browser.run(f"[{FIGURE}.x_range.start, -{FIGURE}.y_range.end]")
        height, width = picture.shape[0] // 2, picture.shape[1] - 4  # the scale bar is below
        seen, differences = picture[2 : height + 2, 2:-2].astype(int), []
        for off in (2, 1):  # Bokeh since 3.10 draws them a pixel to the right and below
            expected = shown.slide.read(int(y) + off, int(x) + off, height, width)
            differences.append(np.abs(seen - expected).max())
        if min(differences) <= 1:
            return
    raise AssertionError(f"the pixels differ by {differences}")


def test_tiles_are_exact_and_served_to_this_page_only(shown):
    url = shown.browser.run(FIND.format(kind="WMTSTileSource") + "[0].url")
    top = shown.browser.run(FIND.format(kind="WMTSTileSource") + "[0].max_zoom")
    path = url.replace("{Z}", str(top)).replace("{X}", "3").replace("{Y}", "2")
    with urllib.request.urlopen(shown.view.url + path) as answer:
        found = np.asarray(Image.open(io.BytesIO(answer.read())))
    assert (found == shown.slide.read(512, 768, 256, 256)).all()
    request = urllib.request.Request(shown.view.url + path, headers={"Host": "evil.example:80"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403
    refused.value.close()
    other = shown.view.url.rsplit("/", 2)[0] + "/" + path
    with pytest.raises(urllib.error.HTTPError) as refused:  # without the secret of the address
        urllib.request.urlopen(other)
    refused.value.close()
    assert shown.view.url.startswith("http://127.0.0.1:")


def test_nothing_of_an_earlier_view_is_left_at_the_edge(shown):
    only(shown, "Slide", "Blank map", "Outlines of tissue")
    press(shown, "Full resolution")
    drawn(shown)
    press(shown, "Whole slide")
    edge = drawn(shown)[2:-2, 0]
    assert (edge == edge[0]).all()


def test_every_layer_can_be_switched(shown):
    names = only(shown)
    press(shown, "Whole slide")
    empty = drawn(shown)
    pictures = {}
    for name in names:
        only(shown, name)
        shown.browser.wait(
            f"{FIGURE}.renderers.filter(r => r.visible && r.type != 'TileRenderer').length >= "
            f"{0 if name == 'Slide' else 1}"
        )
        pictures[name] = drawn(shown)
    assert len(names) == 5  # slide, blank map, outlines, tiles, annotations
    for name, picture in pictures.items():
        assert (picture != empty).any(), name


def test_channels_and_their_contrast_can_be_changed(shown):
    only(shown, "Slide")
    press(shown, "Whole slide")
    assert drawn(shown).min(axis=(0, 1)).max() < 200
    boxes = FIND.format(kind="CheckboxGroup") + ".filter(m => m.labels.includes('red'))[0]"
    url = FIND.format(kind="WMTSTileSource") + "[0].url"
    before = shown.browser.run(url)
    shown.browser.run(f"{boxes}.active = [0]")
    shown.browser.wait(f"{url} != {before!r}")
    part = drawn(shown)[300:400, 400:600]  # of the slide, without the scale bar
    assert part[..., 0].any() and not part[..., 1:].any()
    window = FIND.format(kind="RangeSlider") + "[0]"
    bright = part[..., 0].astype(int)
    before = shown.browser.run(url)
    shown.browser.run(f"{window}.setv({{value: [0, 120], value_throttled: [0, 120]}})")
    shown.browser.wait(f"{url} != {before!r}")
    assert (drawn(shown)[300:400, 400:600, 0] >= bright).all()


def test_the_threshold_moves_the_mask_without_reading(shown):
    drawn(shown)
    only(shown, "Blank map")
    slider = widget("Slider", "Blank below this share of tissue")
    address = FIND.format(kind="WMTSTileSource") + "[0].url"
    before = shown.browser.run(address)
    for value in (0.5, 0.9, 0.05):
        shown.browser.run(f"{slider}.value = {value}")
        blank = int(shown.found.with_min_tissue(value).blank.sum())
        shown.browser.wait(f"{texts()}.includes('{blank:,} of {shown.found.blank.size:,} tiles')")
    source = "[...Bokeh.documents[0].all_models].filter(m => m.type == 'ColumnDataSource')"
    columns = f"{source}.map(s => Object.fromEntries(s.data.entries?.() ?? Object.entries(s.data)))"
    blank, right, bottom = shown.browser.run(
        f"(veil => [veil.image.flatMap(i => [...i]).filter(kind => kind == 0).length,"
        "Math.max(...veil.x.map((x, n) => x + veil.dw[n])),"
        "Math.max(...veil.y.map((y, n) => veil.dh[n] - y))])"
        f"({columns}.filter(data => data.image)[0])"
    )
    assert blank == shown.found.with_min_tissue(0.05).blank.sum()
    assert (bottom, right) == shown.slide.shape[:2]
    # Bokeh may still fetch the tiles below those that are shown, but it fetches none again
    assert shown.browser.run(address) == before
    tiles = [url for url in shown.browser.requests if "/tiles/" in url]
    assert len(set(tiles)) == len(tiles)


def test_a_click_shows_the_tile_at_full_resolution(shown):
    only(shown, "Slide", f"{len(shown.pack):,} tiles of TilePack")
    press(shown, "Whole slide")
    drawn(shown)
    number = len(shown.pack) // 2
    y, x, height, width = shown.pack.boxes[number]
    shown.browser.click(*place_of(shown, y + height / 2, x + width / 2))
    shown.browser.wait(f"{texts()}.includes('tile {number:,}, ') ")
    source = shown.browser.run(texts() + ".match(/base64,([^']*)/)[1]")
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    assert (found == shown.pack[number]).all()
    alternative = shown.browser.run(texts() + ".match(/alt='([^']*)/)[1]")
    assert f"score {shown.pack.score[number]:.4g}" in alternative


def test_cursors_are_linked(shown):
    select = widget("Select", "Cut-off or islands")
    shown.browser.run(f"{select}.value = 'Cutoff'")
    shown.browser.wait(f"{FIND.format(kind='Figure')}[1].tags.length")
    shown.browser.wait(f"{texts()}.includes('the cross marks')")
    part = shown.cut.islands[0]
    y, x = (float(part[name] + part[side] / 2) for name, side in (("y", "height"), ("x", "width")))
    press(shown, "Whole slide")
    drawn(shown)
    shown.browser.mouse("mouseMoved", *place_of(shown, y, x))
    crosses = (
        f"{FIND.format(kind='Figure')}[1].renderers.filter(r => r.glyph && r.glyph.type == "
        "'Scatter').map(r => r.data_source.data).map(d => d.x ? [...d.x, ...d.y] : "
        "[...d.get('x'), ...d.get('y')])"
    )
    shown.browser.wait(f"{crosses}.some(one => one.length == 2)")
    found_x, found_y = shown.browser.run(f"{crosses}[0]")
    expected = shown.cut.from_source((y, x))
    assert np.allclose((-found_y, found_x), expected, atol=8)


def test_both_pictures_are_shown_in_windows_of_any_width(shown):
    select, sources = widget("Select", "Cut-off or islands"), FIND.format(kind="WMTSTileSource")
    shown.browser.run(f"{select}.value = 'Cutoff'")
    shown.browser.wait(f"{FIND.format(kind='Figure')}[1].tags.length")
    top, right = shown.cut.image.shape[:2]
    for width in (1000, 400, 1400):
        shown.browser.resize(width, 900)
        drawn(shown)
        shown.browser.wait(
            f"{sources}[1].tiles.size && [...{sources}[1].tiles.values()].every(t => t.loaded)"
        )
        x0, x1, y0, y1 = shown.browser.run(
            f"(f => [f.x_range.start, f.x_range.end, f.y_range.start, f.y_range.end])"
            f"({FIND.format(kind='Figure')}[1])"
        )
        assert x0 < right and x1 > 0 and y0 < 0 and y1 > -top
        assert 0 < x1 - x0 < 20 * right and 0 < y1 - y0 < 20 * top


def test_corrections_are_saved_as_geojson_that_operations_take(shown):
    browser = shown.browser
    only(shown, "Slide", "Outlines of tissue")
    press(shown, "Whole slide")
    drawn(shown)
    mode = FIND.format(kind="RadioButtonGroup") + ".filter(m => m.labels.includes('Brush'))[0]"
    paint = FIND.format(kind="RadioButtonGroup") + ".filter(m => m.labels.includes('Blank'))[0]"
    browser.run(f"{mode}.active = 1")  # a brush of tissue on glass
    browser.drag([place_of(shown, 60, x) for x in (100, 300, 500)])
    browser.wait(f"{texts()}.includes('1 correction')")
    browser.run(f"{mode}.active = 2; {paint}.active = 1")  # a lasso of blank
    corners = [(1000, 500), (1000, 1500), (1800, 1500), (1800, 500), (1000, 500)]
    browser.drag([place_of(shown, *corner) for corner in corners])
    browser.wait(f"{texts()}.includes('2 corrections')")
    browser.run(f"{mode}.active = 3; {paint}.active = 0")
    for corner in [(2300, 100), (2300, 400), (2500, 400)]:
        browser.click(*place_of(shown, *corner))
        browser.run("new Promise(done => setTimeout(done, 400))")  # no double click
    browser.key("Enter")
    browser.wait(f"{texts()}.includes('3 corrections')")
    press(shown, "Save as GeoJSON")
    browser.wait(f"{texts()}.includes('Saved to')")
    path = shown.folder / "a.corrections.geojson"
    corrected = ds.BlankMap.from_geojson(path, shown.slide)
    assert json.loads(path.read_text())["features"]
    tissue = corrected.with_tile_size(20).tissue_fraction
    assert (tissue[60 // 20, 120 // 20 : 480 // 20] == 1).all()
    assert (tissue[1100 // 20 : 1700 // 20, 600 // 20 : 1400 // 20] == 0).all()
    assert tissue[2330 // 20, 360 // 20] == 1
    same = shown.view.slides[0].corrections.applied(shown.found)
    assert (same.mask.tissue == corrected.mask.tissue).all()
    for made in (
        ds.pack_tiles(shown.slide, blank_map=path),
        ds.random_crops(shown.slide, n=5, size=64, blank_map=path),
    ):
        assert len(made)
    assert ds.cutoff_resize(shown.slide, downsample=4, blank_map=path).image.shape[0]
    command = ["pack", str(shown.folder / "a.tif"), str(shown.folder / "x.tiles.zarr"),
               "--blank-map", str(path)]  # fmt: skip
    assert CliRunner().invoke(main, command).exit_code == 0
    assert len(ds.open_pack(shown.folder / "x.tiles.zarr")) == len(
        ds.pack_tiles(shown.slide, blank_map=path)
    )
    press(shown, "Undo")
    browser.wait(f"{texts()}.includes('2 corrections')")


@pytest.mark.parametrize(("place", "number"), [("slide", 0), ("beside", 1)])
def test_keys_move_and_zoom(shown, place, number):
    browser, select = shown.browser, widget("Select", "Cut-off or islands")
    figure = FIND.format(kind="Figure") + f"[{number}]"
    browser.run(f"{select}.value = {'Cutoff' if number else ''!r}")
    browser.wait(f"{FIND.format(kind='Figure')}[1].tags.length == {2 * number}")
    drawn(shown)
    browser.run(f"document.getElementById({place!r}).focus()")
    span = f"{figure}.x_range.end - {figure}.x_range.start"
    browser.key("0", "0")
    browser.run("new Promise(done => setTimeout(done, 400))")  # it waits for its size
    before = browser.run(span)
    browser.key("+", "+")
    browser.wait(f"Math.abs({span} - {before / 2}) < 1")
    left = browser.run(f"{figure}.x_range.start")
    browser.key("ArrowRight")
    browser.wait(f"{figure}.x_range.start > {left}")


def test_every_control_is_reached_by_tab_and_works_by_keys(shown):
    """Each has a name and an outline; space, arrows and Enter do what the mouse does."""
    browser, stops = shown.browser, []
    browser.run(f"{widget('Select', 'Cut-off or islands')}.value = 'Cutoff'")
    browser.wait(f"{FIND.format(kind='Figure')}[1].tags.length")
    stop = (
        "(() => { let at = document.activeElement;"
        "while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;"
        "const style = getComputedStyle(at);"
        "return [at.tagName, at.ariaLabel || at.textContent || at.parentElement.textContent,"
        "style.outlineStyle, parseFloat(style.outlineWidth)] })()"
    )
    boxes = FIND.format(kind="CheckboxGroup") + ".filter(m => m.labels.includes('Slide'))[0]"
    slider = widget("Slider", "Blank below this share of tissue")
    active, value = browser.run(f"{boxes}.active.length"), browser.run(f"{slider}.value")
    # the top left of a packed tile, if they are shown, and of a tile of the blank map
    corners, (height, width) = shown.pack.boxes[:, :2], shown.slide.shape[:2]
    nearest = np.abs(corners - (height / 2, width / 2)).sum(axis=1).argmin()
    y, x = (int(side) for side in corners[nearest])
    assert y % shown.found.grid.tile[0] == x % shown.found.grid.tile[1] == 0
    drawn(shown)  # the figures have their sizes now
    browser.key("Tab", code=9)
    while browser.run(stop)[0] != "BODY":  # it begins at the last click
        browser.key("Tab", code=9)
    browser.key("Tab", code=9)
    while (found := browser.run(stop))[0] != "BODY" and len(stops) < 99:
        tag, name, outline, width = found
        assert outline == "solid" and width >= 2, found
        stops.append(name.strip())
        if tag == "INPUT" and name == "Outlines of tissue":
            browser.key(" ", " ", code=32)
            browser.wait(f"{boxes}.active.length != {active}")
            browser.key(" ", " ", code=32)
            browser.wait(f"{boxes}.active.length == {active}")
        if name == "Blank below this share of tissue":
            browser.key("ArrowRight", code=39)
            browser.wait(f"Math.abs({slider}.value - {value + 0.005}) < 1e-9")
            browser.key("ArrowLeft", code=37)
            browser.wait(f"Math.abs({slider}.value - {value}) < 1e-9")
        if name == "Show the tile in the middle of the view":
            browser.run(
                f"(() => {{ const f = {FIGURE}; const h = f.y_range.end - f.y_range.start;"
                "const w = f.x_range.end - f.x_range.start;"
                f"f.x_range.setv({{start: {x + 60} - w / 2, end: {x + 60} + w / 2}});"
                f"f.y_range.setv({{start: -{y + 60} - h / 2, end: -{y + 60} + h / 2}}) }})()"
            )
            browser.key("Enter", "\r", code=13)
            browser.wait(f"{texts()}.includes('y {y:,}, x {x:,}, ')")
        browser.key("Tab", code=9)
    names = {"Move left", "Zoom in", "Whole slide", "Beside the slide: the same\nkeys", "Slide",
             "Shown as black", "Shown as full colour", "Polygon", "Undo",
             "Save as GeoJSON"}  # fmt: skip
    assert names <= set(stops)
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    controls = [one for one in tree if not one["ignored"] and one["role"]["value"] in
                ("button", "checkbox", "combobox", "slider", "spinbutton", "textbox")]  # fmt: skip
    assert len(controls) >= 30
    assert [one for one in controls if not one["name"]["value"]] == []
    pressed = [one["name"]["value"] for one in controls for more in one["properties"]
               if more["name"] == "pressed" and more["value"]["value"] == "true"]  # fmt: skip
    assert pressed == ["Move", "Tissue"]


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_contrast_and_fit_a_narrow_window(shown, dark):
    """4.5 to 1, as WCAG 2.2 asks for at level AA."""
    browser = shown.browser
    for width in (1400, 400):
        browser.resize(width, 900)
        browser.run(f"document.documentElement.dataset.theme = {'dark' if dark else 'light'!r}")
        drawn(shown)
        ratios = browser.run(CONTRASTS)
        assert len(ratios) > 40
        assert [one for one in ratios if one[1] < 4.5] == []
        assert browser.run("document.documentElement.scrollWidth") == width


def test_the_command_ends_with_one_line_and_the_page_says_so(tmp_path, made):
    path = ds.sample_slide(tmp_path / "b.tif", shape=(512, 512), tile=128)
    command = [sys.executable, "-m", "dask_slides", "view", str(path), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url = process.stdout.readline().split()[1]
    open_page(made, url)
    made.browser.wait("document.title.includes('b.tif')")
    made.browser.wait(f"{texts()}.includes('tiles are blank')")
    drawn(made)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert (rest.strip(), process.returncode) == ("ended", 0)
    made.browser.wait(f"{texts()}.includes('The viewer has ended')")


@pytest.mark.parametrize("dark", [False, True])
def test_packed_tiles_without_a_slide_stand_out(made, dark):
    """3 to 1, as WCAG 2.2 asks for of graphics at level AA, whatever their scores."""
    alone = with_layers(Shown(made.slide, has_pixels=False), [made.pack])
    with View((alone,)) as view:
        open_page(made, view.url)
        made.browser.run(
            f"document.documentElement.dataset.theme = {'dark' if dark else 'light'!r}"
        )
        press(made, "Whole slide")
        drawn(made)
        image = Image.open(io.BytesIO(made.browser.screenshot())).convert("RGB")
        paper = image.getpixel((2, 2))
        for y, x, height, _ in made.pack.boxes:
            left, middle = (int(one) for one in place_of(made, y + height / 2, x))
            row = [image.getpixel((left + d, middle)) for d in range(-2, 3)]
            assert contrast(row, paper).max() >= 3


def test_classes_stand_out_from_glass(made, tmp_path):
    """3 to 1 too, of each of the colours that classes have."""
    pixels = np.full((600, 800, 3), 243, np.uint8)
    tifffile.imwrite(tmp_path / "glass.tif", pixels, photometric="rgb", tile=(256, 256))
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[
                [x, 200], [x + 60, 200], [x + 60, 400], [x, 400], [x, 200]
            ]]},
            "properties": {"classification": {"name": f"class {x}"}},
        }
        for x in range(50, 750, 100)
    ]  # fmt: skip
    path = tmp_path / "classes.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with View((with_layers(Shown(ds.open_slide(tmp_path / "glass.tif")), [path]),)) as view:
        open_page(made, view.url)
        press(made, "Whole slide")
        drawn(made)
        image = Image.open(io.BytesIO(made.browser.screenshot())).convert("RGB")
        for x in range(50, 750, 100):
            for middle in (290, 300, 310):  # in dashes, and between them
                left, top = (int(one) for one in place_of(made, middle, x))
                row = [image.getpixel((left + d, top)) for d in range(-4, 5)]
                assert contrast(row, (243, 243, 243)).max() >= 3


def test_channels_have_the_colours_in_which_they_are_shown(made):
    planes = np.zeros((300, 400, 4), np.uint16)
    planes[::2] = 1000
    with ds.from_dask(da.from_array(planes)).view() as view:
        open_page(made, view.url)
        made.browser.wait(f"{texts()}.includes('tiles are blank')")
        boxes = FIND.format(kind="CheckboxGroup") + ".filter(m => m.labels.includes('3'))[0]"
        only(made, "Slide")
        for number in range(4):
            made.browser.run(f"{boxes}.active = [{number}]")
            made.browser.wait(f"{FIND.format(kind='WMTSTileSource')}[0].url.includes('/{number}:')")
            press(made, "Full resolution")
            shade = made.browser.run(
                f"getComputedStyle(Bokeh.index.find_one_by_id({boxes}.id).shadow_el"
                f".querySelectorAll('label span')[{number}], '::before').backgroundColor"
            )
            colour = [int(one) for one in shade[4:-1].split(",")]
            x, y = place_of(made, 200.5, 200.5)
            drawn(made)
            image = Image.open(io.BytesIO(made.browser.screenshot())).convert("RGB")
            seen = np.array([image.getpixel((int(x), int(y) + d)) for d in range(-2, 3)]).max(
                axis=0
            )
            assert np.abs(seen - colour).max() <= 2


def test_keys_and_colours_do_not_wait_for_tiles(made):
    answer = threading.Event()
    with View((Shown(made.slide),)) as view:
        view.tiles.tile = lambda *place: (EMPTY, answer.wait())
        open_page(made, view.url, dark=True)
        dark = FIND.format(kind="CheckboxGroup") + ".filter(m => m.labels[0] == 'Dark colours')[0]"
        made.browser.wait(f"{dark}.active.length")
        span = f"{FIGURE}.x_range.end - {FIGURE}.x_range.start"
        before = made.browser.run(span)
        made.browser.run("document.getElementById('slide').focus()")
        made.browser.key("+", "+")
        made.browser.wait(f"{span} < {before * 0.6}")
        answer.set()


def test_the_page_tells_that_the_slide_is_gone(made, tmp_path):
    path = ds.sample_slide(tmp_path / "gone.tif", shape=(2048, 2048), tile=128)
    with View(open_paths([path])) as view:
        open_page(made, view.url)
        made.browser.wait(f"{texts()}.includes('tiles are blank')")
        drawn(made)
        (tmp_path / "gone.tif").unlink()
        press(made, "Full resolution")
        made.browser.wait(f"{texts()}.includes('gone.tif: No such file')")


def test_polygons_beyond_the_slide_are_reported(made, tmp_path):
    corners = np.array([[0, 0], [0, 100], [100, 100]])
    features = [
        {"type": "Polygon", "coordinates": [[*(corners + off).tolist(), [off, off]]]}
        for off in (500, 9000, 9500)
    ]
    path = tmp_path / "a.other.geojson"
    path.write_text(json.dumps({"type": "GeometryCollection", "geometries": features}))
    with View((with_layers(Shown(made.slide), [path]),)) as view:
        open_page(made, view.url)
        made.browser.wait(f"{texts()}.includes('a.other.geojson: 2 of 3 polygons lie outside')")
        port = int(view.url.split(":")[2].split("/")[0])
        command = ["view", str(made.folder / "a.tif"), str(path), "--port", str(port)]
        note, error = CliRunner().invoke(main, command).output.splitlines()
    assert "note: a.other.geojson: 2 of 3 polygons lie outside a.tif" in note
    assert "cannot be used" in error
