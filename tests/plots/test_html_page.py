"""HTML pages have escaped text, and a policy that allows no script."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
from click.testing import CliRunner
from PIL import Image

from dask_slides.cli import main
from dask_slides.plots import pictures
from dask_slides.plots.html_page import page

HOSTILE = (
    "</title><script>document.title = 'ran'</script><img src=x onerror=\"document.title='ran'\">'&"
)
RED = pictures.png(np.full((20, 30, 3), (255, 0, 0), np.uint8))


class Parsed(HTMLParser):
    """The tags of a page with their attributes, and the text by tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def policy(parsed):
    """Return the content security policy of a page, by directive."""
    (meta,) = [one for one in parsed.all("meta") if "http-equiv" in one]
    assert meta["http-equiv"] == "Content-Security-Policy"
    content = meta["content"]
    return {rule.split()[0]: rule.split()[1:] for rule in content.split("; ")}


def test_all_text_is_escaped():
    parsed = Parsed(page(HOSTILE, {HOSTILE: HOSTILE}, [(HOSTILE, RED)]))
    assert {tag for tag, _ in parsed.tags} == {
        "html", "head", "meta", "title", "style", "body", "h1", "table", "tr", "th", "td", "figure",
        "img", "figcaption",
    }  # fmt: skip
    for tag in ("title", "h1", "th", "td", "figcaption"):
        assert "".join(parsed.texts[tag]) == HOSTILE
    assert parsed.all("img")[0]["alt"] == HOSTILE
    assert not any(name.startswith("on") for _, found in parsed.tags for name in found)


def test_the_policy_allows_only_the_style_and_pictures():
    parsed = Parsed(page("t", {}, [("c", RED)]))
    digest = hashlib.sha256("".join(parsed.texts["style"]).encode()).digest()
    assert policy(parsed) == {
        "default-src": ["'none'"],
        "img-src": ["data:"],
        "style-src": [f"'sha256-{base64.b64encode(digest).decode()}'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    order = [tag for tag, _ in parsed.tags]
    assert order.index("meta") < order.index("style")  # a policy applies to what follows it
    (image,) = parsed.all("img")
    data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).getpixel((3, 3)) == (255, 0, 0)


def test_the_page_of_the_demo(tmp_path):
    folder = tmp_path / "<b onclick=alert(1)> demo"
    result = CliRunner().invoke(main, ["demo", str(folder), "--side", "1536"])
    assert result.exit_code == 0, result.stderr
    assert "index.html" in result.stdout
    text = (folder / "index.html").read_text("utf-8")
    parsed = Parsed(text)
    assert policy(parsed)["default-src"] == ["'none'"]
    assert str(tmp_path) not in text
    pictures = [base64.b64decode(one["src"].partition(",")[2]) for one in parsed.all("img")]
    assert len(pictures) == 7
    for data in pictures:
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) <= 640
            assert len(picture.convert("RGB").getcolors(2**24)) > 100  # not empty
    for name in re.findall(r"\((\S+\.(?:zarr|tif))\)", text):
        assert (folder / name).exists()
