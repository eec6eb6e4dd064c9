"""The code blocks of docs/clusters.md, and what it takes to run them in a test."""

import gc
import re
import signal
import warnings
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "clusters.md"


def blocks(kind):
    """Return the code blocks of the page."""
    return re.findall(rf"^```{kind}[^\n]*\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)


def block(kind, word):
    """Return the one code block with `word`."""
    (found,) = [one for one in blocks(kind) if word in one]
    return found


def changed(text, changes):
    """Return a block in which words stand for others; each of them is there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def dask_command(name):
    """Return what is behind a command of dask."""
    (found,) = entry_points(group="dask_cli", name=name)
    return found


@contextmanager
def slurm_cluster():
    """Give SLURMCluster, whose package takes Ctrl-C for itself where it is imported."""
    before = signal.getsignal(signal.SIGINT)
    found = pytest.importorskip("dask_jobqueue").SLURMCluster
    signal.signal(signal.SIGINT, before)
    with warnings.catch_warnings():
        # it closes the files of its certificates when nobody has it any more
        warnings.simplefilter("ignore", ResourceWarning)
        yield found
        del found
        gc.collect()
