"""A small slide, and the stores of it that nothing disturbed."""

import durable_work as work
import pytest


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return work.slide_file(tmp_path_factory.mktemp("system") / "s.tif")


@pytest.fixture(scope="session")
def expected(source, tmp_path_factory):
    """Return the files of an undisturbed store of each kind."""
    return work.undisturbed(source, tmp_path_factory.mktemp("expected"))
