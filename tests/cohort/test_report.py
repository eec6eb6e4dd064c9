"""The report of a job: what it says, its size, and that texts of others are harmless."""

import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import dask
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageColor
from report_jobs import HOSTILE, SIDE, TILE, large_job
from wcag import contrast

import dask_slides as ds
from dask_slides.cohort import report, report_page
from dask_slides.cohort.card import read_card
from dask_slides.cohort.reported_slide import reported_slides

VOID = {"meta", "img", "br", "path", "line"}


class Parsed(HTMLParser):
    """The elements of a page: their attributes, by tag, and the text by tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(text)
        assert not self._open  # every element is closed

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def job(reported_job):
    return reported_job


@pytest.fixture(scope="module")
def page(job):
    return (job / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def parsed(page):
    return Parsed(page)


def by_name(job):
    return {slide.name: slide for slide in reported_slides(str(job))}


def test_slides_to_look_at_come_first(job, page):
    slides = reported_slides(str(job))
    assert [one.name for one in slides][:2] == ["_b_broken", "blurred"]
    flagged = [bool(one.reasons) for one in slides]
    assert flagged == sorted(flagged, reverse=True)
    found = {one.name: one.reasons for one in slides if one.reasons}
    assert found["_b_broken"] == ["failed"]
    assert any(text.startswith("focus is low: ") for text in found["blurred"])
    assert re.fullmatch(r"\d+ corrupt tiles?", found["damaged"][-1])
    order = [slide.name for slide in slides]
    assert re.findall(r'<h2 id="slide-\d+-name">(.*?)</h2>', page) == order
    assert "SlideFormatError: &lt;b&gt;broken.tif: " in page
    assert len(re.findall("absent or corrupt tiles? of the file", page)) == 1
    assert re.search(r"<li>level 0, y \d+, x \d+, 256 x 256 px, offset \d+: corrupt ", page)


def test_the_counts_are_those_of_the_pack_and_the_map(job):
    pack = ds.open_pack(job / "s0" / "s0.tiles.zarr")
    facts = read_card(str(job / "s0"))["steps"]["pack"]
    assert (facts["kept"], facts["kept"] + facts["dropped"]) == (len(pack), (SIDE // TILE) ** 2)
    shares, scores = facts["histograms"]
    assert shares["kept"] == np.histogram(pack.tissue_fraction, 20, (0, 1))[0].tolist()
    assert sum(shares["dropped"]) == facts["dropped"] and not any(shares["dropped"][10:])
    assert (shares["at"], scores["at"]) == (10, None)  # the score decides with top_k only
    assert scores["kept"] == np.histogram(pack.score, 20)[0].tolist() and not any(scores["dropped"])
    cells = ds.blank_map(job.parent / "slides" / "s0.tif").compute()
    mask = read_card(str(job / "s0"))["steps"]["mask"]
    assert mask["dropped"] == cells.blank.sum() and mask["tissue"] == cells.tissue_share


def test_the_sheets_show_the_tiles_nearest_to_the_threshold(job):
    path = job.parent / "slides" / "s0.tif"
    cells = ds.blank_map(path, tile_size=TILE).compute()  # the same grid
    shares = cells.tissue_fraction.reshape(-1)
    facts = read_card(str(job / "s0"))["steps"]["pack"]
    for name, side in (("kept", shares[shares >= 0.5]), ("dropped", shares[shares < 0.5])):
        near = sorted(side[side > 0], key=lambda share: abs(share - 0.5))[:8]
        assert facts[f"nearest_{name}"]["ends"] == [min(near), max(near)]
        picture = Image.open(io.BytesIO(base64.b64decode(facts[f"nearest_{name}"]["picture"])))
        assert len(picture.getcolors(2**20)) > 100


def test_columns_of_the_user_and_of_functions_are_shown(job, parsed):
    headers = [text.strip() for text in parsed.texts["th"]]
    for name in ("label <i>", "score_text", "score_number"):
        assert name in headers
    assert HOSTILE in parsed.texts["td"] and f"{SIDE}.0" in parsed.texts["td"]


def test_all_text_is_escaped(parsed):
    assert len(parsed.all("script")) == 1 and len(parsed.all("title")) == 1
    for tag, attributes in parsed.tags:
        assert tag not in ("i", "iframe", "object", "form", "link"), tag
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    for name in ("href", "src"):
        for _, attributes in parsed.tags:
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))


def test_the_policy_allows_only_our_style_and_script(parsed):
    policy = parsed.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"

    def digest(tag):
        text = "".join(parsed.texts[tag]).encode()
        return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"

    assert dict(rule.split(" ", 1) for rule in policy["content"].split("; ")) == {
        "default-src": "'none'", "img-src": "data:", "style-src": digest("style"),
        "script-src": digest("script"), "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip


def test_pictures_have_alternative_texts(parsed, job):
    pictures = parsed.all("img")
    thumbnails = [one for one in pictures if one.get("class") == "thumbnail"]
    assert len(thumbnails) == 8 and all(one["alt"] == "" for one in thumbnails)  # a link names them
    others = [one["alt"] for one in pictures if one not in thumbnails]
    assert others and all(len(text) > 20 for text in others)
    for one in parsed.all("svg"):
        assert one["role"] == "img" and "Histogram" in one["aria-label"]
    identifiers = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for one in parsed.all("a"):
        assert one["href"].removeprefix("#") in identifiers


def test_the_page_tells_nothing_about_folders(page, job):
    assert str(job.parent) not in page


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(number):
    style = report_page._file("style.css")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+)", blocks[number]))
    colours = {name: ImageColor.getrgb(value) for name, value in colours.items()}
    for ground in ("ground", "raised"):
        for name in ("text", "soft", "link", "bad"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in ("kept", "dropped"):  # drawings
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)


@pytest.mark.slow  # a part of a minute
def test_1000_slides_stay_below_20_megabytes(job, tmp_path):
    path = ds.write_report(large_job(job, tmp_path / "large", 1000))
    text = Path(path).read_text("utf-8")
    assert 5_000_000 < len(text.encode()) < 20_000_000
    assert text.count('<section class="slide"') == 1000
    assert text.count('class="thumbnail"') == sum(i % 9 != 0 for i in range(1000))


def test_long_texts_take_the_room_of_pictures(job, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "PAGE_BYTES", 150_000)
    monkeypatch.setattr(report, "PAGE_BYTES", 150_000)
    path = ds.write_report(large_job(job, tmp_path / "large", 20))
    assert os.path.getsize(path) <= 150_000


@pytest.mark.parametrize("nbytes", [200_000, 9_000, 2_500, 900, 100])
def test_a_picture_fits_its_bytes(job, nbytes):
    picture = read_card(str(job / "s0"))["slide"]["thumbnail"]
    found = report_page.fitted(picture, nbytes)
    if nbytes < 400:
        assert found is None
        return
    data = base64.b64decode(found)
    assert min(nbytes, 20_000) / 4 < len(data) <= nbytes
    assert Image.open(io.BytesIO(data)).format == "JPEG"


def run(slides, job, steps, **options):
    with dask.config.set(scheduler="sync"):
        return ds.run_cohort(slides, job=job, steps=steps, **options)


def values(slide):
    return {"levels": len(slide.levels)}


GLASS = ds.Contrast(0.1)
STEPS = {
    "mask": ["mask"],
    "statistics": [{"mask": {"detector": GLASS}}, {"pack": {"tile_size": TILE, "detector": GLASS}}],
    "resize": [{"resize": {"downsample": 4}}],
    "export": [{"export": {"of": {"pack": {"tile_size": TILE}}, "to": "csv"}}],
    "function": [values],
    "crops": [{"crops": {"n": 5, "size": 64}}],
}


@pytest.mark.parametrize("name", STEPS)
def test_jobs_with_some_steps_only_have_a_report(job, tmp_path, name):
    result = run(job.parent / "slides" / "s0.tif", tmp_path / "job", STEPS[name])
    assert result.done == 1 and result.report == str(tmp_path / "job" / "report.html")
    (slide,) = reported_slides(result.job)
    parsed = Parsed((tmp_path / "job" / "report.html").read_text("utf-8"))
    assert parsed.all("img")[0]["class"] == "thumbnail"
    has_tiles = name not in ("resize", "function")
    assert (slide.metrics["focus"] is not None) == has_tiles
    assert slide.metrics["brightness"] > 50
    drawings = {"mask": 1, "statistics": 3, "export": 2, "crops": 2}
    assert len(parsed.all("svg")) == drawings.get(name, 0)


@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
def test_slides_without_a_packed_tile_come_first(tmp_path):
    pixels = np.full((100, 100, 3), 240, np.uint8)
    for name in ("z", "a"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        pixels[:, :60] = np.random.default_rng(0).integers(0, 255, (100, 60, 3))
    pack = {"tile_size": 20, "detector": GLASS}
    result = run(tmp_path / "*.png", tmp_path / "job", [{"pack": pack}])
    assert [(one.name, one.reasons) for one in reported_slides(result.job)] == [
        ("z", ["no tile is kept"]), ("a", [])
    ]  # fmt: skip


def test_the_gain_of_a_cut_off_is_at_the_same_longest_side(tmp_path):
    pixels = np.full((100, 100, 3), 240, np.uint8)
    pixels[:50, :50] = np.random.default_rng(0).integers(0, 255, (50, 50, 3))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    cutoff = {"max_size": 50, "tile_size": 10, "detector": GLASS}
    result = run(tmp_path / "a.png", tmp_path / "job", [{"cutoff": cutoff}])
    with open(result.report, encoding="utf-8") as file:
        assert "2 times finer than the whole slide at the same longest side" in file.read()


def test_steps_of_later_runs_are_added(job, tmp_path):
    slide = job.parent / "slides" / "s0.tif"
    run(slide, tmp_path / "job", ["mask"])
    run(slide, tmp_path / "job", ["mask", {"pack": {"tile_size": TILE}}])
    assert list(read_card(str(tmp_path / "job" / "s0"))["steps"]) == ["mask", "pack"]


def test_a_step_that_fails_is_not_shown(job, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError("disk")

    monkeypatch.setattr("dask_slides.cohort.steps.write_to", fails)
    result = run(job.parent / "slides" / "s0.tif", tmp_path / "job", ["mask"])
    assert result.failed == 1 and not read_card(str(tmp_path / "job" / "s0"))["steps"]
    assert "OSError: disk" in (tmp_path / "job" / "report.html").read_text("utf-8")


def test_neither_a_card_nor_a_page_fails_a_run(job, tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise ValueError("no\nreport")

    monkeypatch.setattr("dask_slides.cohort.job.note_step", fails)
    monkeypatch.setattr("dask_slides.cohort.run.write_report", fails)
    result = run(job.parent / "slides" / "s0.tif", tmp_path / "job", ["mask"])
    assert (result.done, result.report) == (1, "")
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warned == [
        "the report will lack something: no report",
        "the report could not be written: no report",
    ]


def test_without_a_report_nothing_is_noted(job, tmp_path):
    result = run(job.parent / "slides" / "s0.tif", tmp_path / "job", ["mask"], report=False)
    assert result.report == "" and not (tmp_path / "job" / "report.html").exists()
    assert not (tmp_path / "job" / "s0" / ".slide-card.json").exists()
    page = Path(ds.write_report(tmp_path / "job")).read_text("utf-8")  # of the process list
    assert '<h2 id="slide-1-name">s0</h2>' in page


def test_a_run_without_a_report_forgets_what_it_replaces(job, tmp_path):
    slide, steps = job.parent / "slides" / "s0.tif", ["mask", {"pack": {"tile_size": TILE}}]
    run(slide, tmp_path / "job", steps)
    other = {"pack": {"tile_size": 2 * TILE}}
    run(slide, tmp_path / "job", ["mask", other], report=False, overwrite=True)
    assert list(read_card(str(tmp_path / "job" / "s0"))["steps"]) == ["mask"]


def test_a_job_without_slides_has_a_page(tmp_path):
    (tmp_path / "process_list.csv").write_text("name,path,mpp,status,seconds,error,message\n")
    page = Path(ds.write_report(tmp_path)).read_text("utf-8")
    Parsed(page)
    assert "This job has no slides." in page


def test_a_damaged_card_is_left_out(job, tmp_path):
    folder = large_job(job, tmp_path / "large", 3)
    for name, text in (("slide-0001", "{"), ("slide-0002", json.dumps({"slide": 3}))):
        (folder / name / ".slide-card.json").write_text(text)
    assert '<h2 id="slide-3-name">' in Path(ds.write_report(folder)).read_text("utf-8")


def test_another_folder_is_no_job(tmp_path):
    with pytest.raises(ds.SlideError, match="is not the folder of a run"):
        ds.write_report(tmp_path)


def test_grey_and_fluorescence_slides_have_pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4000, (4, 512, 512), np.uint16)
    tifffile.imwrite(tmp_path / "f.ome.tif", pixels, tile=(128, 128), metadata={"axes": "CYX"})
    steps = [{"mask": {"detector": ds.Contrast(0.01), "tile_size": 128}}]
    result = run(tmp_path / "f.ome.tif", tmp_path / "job", steps)
    (slide,) = reported_slides(result.job)
    assert slide.metrics["brightness"] == pytest.approx(pixels.mean(), rel=0.01)
    assert "thumbnail" in slide.card["slide"]
