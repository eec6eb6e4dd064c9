"""A real browser sorts the report, and runs nothing in it but our script."""

import re

import pytest
from chromium import BROWSER, Browser

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
def browser():
    with Browser() as found:
        yield found


@pytest.fixture
def page(browser, job):
    browser.load((job / "report.html").as_uri())
    return browser


@pytest.mark.parametrize("added", ["", SCRIPT, HANDLER], ids=["hostile texts", "script", "handler"])
@pytest.mark.parametrize("policy", [True, False])
def test_a_browser_runs_nothing_else(tmp_path, browser, job, added, policy):
    text = (job / "report.html").read_text("utf-8")
    if not policy:
        text = re.sub('<meta http-equiv="Content-Security[^>]*>', "", text)
    (tmp_path / "page.html").write_text(text.replace("</body>", added or "</body>"), "utf-8")
    browser.load((tmp_path / "page.html").as_uri())
    runs = bool(added) and not policy  # without the policy it runs: the test can tell
    assert browser.run("document.title") == ("ran" if runs else "Report of job")


def test_headers_sort_the_table_and_the_slides(page):
    assert page.run(SORTED) == [["To look at", "ascending"]]
    given = page.run(SLIDES)
    assert given == page.run(SECTIONS) and given[:2] == ["_b_broken", "blurred"]
    for number, name in enumerate(["Slide", "Tissue"]):
        column = [0, 3][number]
        for order in ("ascending", "descending"):
            page.run(f"document.querySelectorAll('thead button')[{column}].click()")
            assert page.run(SORTED) == [[name, order]]
            assert page.run(SLIDES) == page.run(SECTIONS)
        names = page.run(SLIDES)
        assert number or names == sorted(given, reverse=True)
    shares = page.run(
        "[...document.querySelectorAll('.scroll tbody tr')].map(row => row.cells[3].dataset.value)"
    )
    assert shares[-1] == ""  # a slide that failed has none, and is last in both orders
    assert [float(one) for one in shares[:-1]] == sorted(map(float, shares[:-1]), reverse=True)


def test_the_keyboard_is_enough(page):
    for _ in range(20):
        page.key("Tab", code=9)
        if page.run("document.activeElement.textContent") == "Focus":
            break
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(outline) == "solid"  # it shows where the focus is
    page.key("Enter", "\r", 13)
    assert page.run(SORTED) == [["Focus", "ascending"]]
    assert page.run(SLIDES)[0] == "blurred"


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_its_window(page, width, dark):
    page.resize(width, 900)
    page.prefer(dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    colour = page.run("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") == (not dark)


def test_the_page_reads_without_a_script(tmp_path, browser, job):
    text = (job / "report.html").read_text("utf-8")
    text = re.sub("<script>.*</script>", "", text, flags=re.DOTALL)
    (tmp_path / "page.html").write_text(text, "utf-8")
    browser.load((tmp_path / "page.html").as_uri())
    assert browser.run(SLIDES)[0] == "_b_broken" and len(browser.run(SECTIONS)) == 9
    assert browser.run("document.querySelectorAll('button').length") == 0
