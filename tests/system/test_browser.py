"""A real browser runs nothing in the page of the demo, whatever texts it holds."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from dask_slides.plots import pictures
from dask_slides.plots.html_page import page

HOSTILE = (
    "</title><script>document.title = 'ran'</script><img src=x onerror=\"document.title='ran'\">'&"
)
RED = pictures.png(np.full((20, 30, 3), (255, 0, 0), np.uint8))
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WHOLE = page("quiet", {}, [("c", RED)])
BARE = re.sub("<meta http-equiv[^>]*>", "", WHOLE)
SCRIPT = "<script>document.title = 'ran'</script></body>"
HANDLER = "<img src=x onerror=\"document.title = 'ran'\"></body>"
PAGES = {
    "hostile texts": (page(HOSTILE, {HOSTILE: HOSTILE}, [(HOSTILE, RED)]), "quiet"),
    "script": (WHOLE.replace("</body>", SCRIPT), "quiet"),
    "handler": (WHOLE.replace("</body>", HANDLER), "quiet"),
    "script without the policy": (BARE.replace("</body>", SCRIPT), "ran"),
    "handler without the policy": (BARE.replace("</body>", HANDLER), "ran"),
}
"""Pages, and whether what was added to them runs. The last two show that the test can tell."""


def document(path, profile):
    """Return the document that the browser makes of a file, after scripts and pictures are done."""
    names = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync", "dump-dom",
             "disable-background-networking", "disable-component-update",
             f"user-data-dir={profile}", "virtual-time-budget=2000")  # fmt: skip
    command = [BROWSER, *(f"--{name}" for name in names), path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("name", PAGES)
def test_a_browser_runs_nothing(tmp_path, name):
    text, expected = PAGES[name]
    path = tmp_path / "page.html"
    path.write_text(text, "utf-8")
    title = re.search("<title>(.*?)</title>", document(path, tmp_path / "profile"), re.DOTALL)
    assert (title[1] == "ran") == (expected == "ran")
