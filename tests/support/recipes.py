"""The code blocks of docs/howto/clusters.md, for tests that run them."""

import gc
import re
import signal
import warnings
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "howto" / "clusters.md"


def blocks(kind):
    """Return the code blocks of the page."""
    return re.findall(rf"^```{kind}[^\n]*\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)


def block(kind, word):
    """Return the only code block with `word`."""
    (found,) = [one for one in blocks(kind) if word in one]
    return found


def changed(text, changes):
    """Return a block with words replaced; each word must occur in it."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def dask_command(name):
    """Return the entry point of a command of dask."""
    (found,) = entry_points(group="dask_cli", name=name)
    return found


@contextmanager
def slurm_cluster():
    """Yield SLURMCluster; keep the handler of Ctrl-C, which importing its package replaces."""
    before = signal.getsignal(signal.SIGINT)
    found = pytest.importorskip("dask_jobqueue").SLURMCluster
    signal.signal(signal.SIGINT, before)
    with warnings.catch_warnings():
        # it closes the files of its certificates only when it is garbage
        warnings.simplefilter("ignore", ResourceWarning)
        yield found
        del found
        gc.collect()
