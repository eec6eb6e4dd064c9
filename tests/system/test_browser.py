"""A real browser sorts the report, and runs nothing in it but our script."""

import re

import pytest
from browser import BROWSER, browser

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
SLIDES = (
    "[...document.querySelectorAll('.scroll tbody tr')].map(row => row.cells[0].textContent.trim())"
)
SECTIONS = "[...document.querySelectorAll('.slide h2')].map(one => one.textContent)"
SORTED = (
    "[...document.querySelectorAll('thead th')].filter(one => one.ariaSort)"
    ".map(one => [one.textContent, one.ariaSort])"
)
SCRIPT = "<script>document.title = 'ran'</script></body>"
HANDLER = "<img src=x onerror=\"document.title = 'ran'\"></body>"


@pytest.fixture(scope="module")
def job(reported_job):
    return reported_job


@pytest.fixture(scope="module")
def new_page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as new:
        yield new


@pytest.fixture
def page(new_page, job):
    found = new_page()
    found.open((job / "report.html").as_uri())
    return found


@pytest.mark.parametrize("added", ["", SCRIPT, HANDLER], ids=["hostile texts", "script", "handler"])
@pytest.mark.parametrize("policy", [True, False])
def test_a_browser_runs_nothing_else(tmp_path, new_page, job, added, policy):
    text = (job / "report.html").read_text("utf-8")
    if not policy:
        text = re.sub('<meta http-equiv="Content-Security[^>]*>', "", text)
    (tmp_path / "page.html").write_text(text.replace("</body>", added or "</body>"), "utf-8")
    found = new_page()
    found.open((tmp_path / "page.html").as_uri())
    runs = bool(added) and not policy  # without the policy it runs: the test can tell
    assert found.evaluate("document.title") == ("ran" if runs else "Report of job")


def test_headers_sort_the_table_and_the_slides(page):
    assert page.evaluate(SORTED) == [["To look at", "ascending"]]
    given = page.evaluate(SLIDES)
    assert given == page.evaluate(SECTIONS) and given[:2] == ["_b_broken", "blurred"]
    for number, name in enumerate(["Slide", "Tissue"]):
        column = [0, 3][number]
        for order in ("ascending", "descending"):
            page.evaluate(f"document.querySelectorAll('thead button')[{column}].click()")
            assert page.evaluate(SORTED) == [[name, order]]
            assert page.evaluate(SLIDES) == page.evaluate(SECTIONS)
        names = page.evaluate(SLIDES)
        assert number or names == sorted(given, reverse=True)
    shares = page.evaluate(
        "[...document.querySelectorAll('.scroll tbody tr')].map(row => row.cells[3].dataset.value)"
    )
    assert shares[-1] == ""  # a slide that failed has none, and is last in both orders
    assert [float(one) for one in shares[:-1]] == sorted(map(float, shares[:-1]), reverse=True)


def test_the_keyboard_is_enough(page):
    for _ in range(20):
        page.press("Tab", 9)
        if page.evaluate("document.activeElement.textContent") == "Focus":
            break
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"  # it shows where the focus is
    page.press("Enter", 13, "\r")
    assert page.evaluate(SORTED) == [["Focus", "ascending"]]
    assert page.evaluate(SLIDES)[0] == "blurred"


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_its_window(new_page, job, width, dark):
    page = new_page(width, 900, dark)
    page.open((job / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") == (not dark)


def test_the_page_reads_without_a_script(tmp_path, new_page, job):
    text = (job / "report.html").read_text("utf-8")
    text = re.sub("<script>.*</script>", "", text, flags=re.DOTALL)
    (tmp_path / "page.html").write_text(text, "utf-8")
    page = new_page()
    page.open((tmp_path / "page.html").as_uri())
    assert page.evaluate(SLIDES)[0] == "_b_broken" and len(page.evaluate(SECTIONS)) == 9
    assert page.evaluate("document.querySelectorAll('button').length") == 0
