"""The site names everything public: functions, errors and commands."""

import re
from pathlib import Path

import pytest

import dask_slides as ds
from dask_slides import errors, feed
from dask_slides.cli.group import main

DOCS = Path(__file__).parents[1] / "docs"
API = (DOCS / "reference" / "api.rst").read_text()
PAGES = [path for path in DOCS.rglob("*.md") if "_build" not in path.parts]


def listed(module):
    """Return the names that the reference lists for a module."""
    text = API.split(f".. currentmodule:: {module}\n")[1].split(".. currentmodule::")[0]
    return set(re.findall(r"^(?:   |\.\. data:: )(\w+)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("module", "left_out"), [(ds, {"SlideError", "__version__"}), (feed, set())]
)
def test_the_reference_lists_every_public_name(module, left_out):
    assert listed(module.__name__) == set(module.__all__) - left_out


def test_the_reference_leaves_out_functions_among_the_errors_only():
    page = (DOCS / "reference" / "errors.rst").read_text()
    names = re.search(r":exclude-members: (.*)", page)[1].split(", ")
    assert not [name for name in names if isinstance(getattr(errors, name), type)]


def test_troubleshooting_names_every_error():
    text = (DOCS / "troubleshooting.md").read_text()
    classes = (value for value in vars(errors).values() if isinstance(value, type))
    names = {one.__name__ for one in classes if issubclass(one, errors.SlideError | UserWarning)}
    assert names - {"SlideError"} <= set(re.findall(r"`(\w+)`", text))


def test_the_cheat_sheet_has_every_command():
    text = (DOCS / "cheatsheet.md").read_text()
    elsewhere = {"demo", "doctor", "sample"}  # in Installation, or for tests
    shown = set(re.findall(r"^dask-slides (\w+)", text, re.MULTILINE))
    assert set(main.commands) - elsewhere <= shown


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_of_code_has_a_language(path):
    fences = re.findall(r"^```(.*)$", path.read_text("utf-8"), re.MULTILINE)
    assert all(fences[::2]), path
    assert not any(fences[1::2]), path
