"""Progress is one line, whoever reports: nested calls, threads, a cluster, a run over slides."""

import io
import re
import threading

import dask
import numpy as np
import pytest

import dask_slides as ds
from dask_slides.runtime.progress import progress_shown
from dask_slides.runtime.scheduler import reported


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(stream):
    """Return what a terminal shows: a carriage return goes back to the start of the line."""
    lines = []
    for line in stream.getvalue().split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return ds.sample_slide(tmp_path_factory.mktemp("s") / "a.tif", shape=(1024, 1024), mpp=2)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_a_terminal_shows_one_line_for_each_computation(tmp_path, path):
    out = Terminal()
    with ds.progress(out):
        ds.blank_map(path).compute()
        ds.write(ds.resize(path, downsample=2), tmp_path / "a.ome.zarr")
        ds.export(ds.pack_tiles(path, tile_size=64), tmp_path / "a.tar", to="webdataset")
    shown = [line for line in screen(out) if line]
    assert [line.partition(":")[0] for line in shown] == [
        "blank map",
        "write",
        "blank map",
        "export",
    ]
    for line in shown:
        done, total = re.search(r"\] (\d+)/(\d+), \S+/s, \S+ s left$", line).groups()
        assert done == total and "#" * 24 in line


def test_a_log_has_a_line_for_each_tenth():
    out = io.StringIO()
    with ds.progress(out):
        report = reported("work")
        for done in range(201):
            report(done, 200)
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == [f"{n}/200," for n in range(20, 201, 20)]
    assert "\r" not in out.getvalue()


def test_nothing_is_shown_outside_the_block(capfd, path):
    with ds.progress(io.StringIO()):
        pass
    ds.blank_map(path).compute()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("whole_below", [250, 0])
def test_a_run_counts_slides(tmp_path, path, whole_below):
    out = Terminal()
    with ds.progress(out), dask.config.set(scheduler="sync"):
        ds.run_cohort(path, job=tmp_path / "job", steps=["mask"], whole_below=whole_below)
    shown = [line for line in screen(out) if line]
    assert len(shown) == 1 and shown[0].startswith("slides: ") and "] 1/1, " in shown[0]
    assert ("a: [" in out.getvalue()) == (whole_below == 0)  # the slide that all threads share


def test_nested_blocks_and_calls_share_the_line():
    out = Terminal()
    with ds.progress(out), ds.progress(out), progress_shown(None, out):
        outer = reported("outer")
        outer(0, 2)
        for step in (1, 2):
            inner = reported("inner")
            for done in range(4):  # fails before its end
                inner(done, 5)
            outer(step, 2)
    shown = [line for line in screen(out) if line]
    assert len(shown) == 1 and shown[0].startswith("outer: ") and "] 2/2, " in shown[0]


def test_threads_do_not_garble_the_line(monkeypatch):
    monkeypatch.setattr("dask_slides.runtime.progress.REDRAW_SECONDS", 0)
    out = Terminal()
    started = threading.Barrier(4)

    def work(number):
        with ds.progress(out):
            report = reported(f"part {number}")
            report(0, 300)
            started.wait()
            for done in range(1, 301):
                report(done, 300)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    with ds.progress(out):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    one = r"part \d: (\[#* *\] )?\d+/300, \S+/s, \S+ s left"
    for drawn in re.split(r"[\r\n]", out.getvalue()):
        assert re.fullmatch(f"({one}( \\| {one})*)?", drawn.rstrip()), drawn
    assert screen(out)[-1] == ""


def test_a_long_line_is_cut_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    out = Terminal()
    with ds.progress(out):
        for done in range(3):
            reported("a label that is longer than the terminal")(done, 2)
    assert max(len(part) for part in re.split(r"[\r\n]", out.getvalue())) <= 29


def test_a_cluster_reports_too(client, path):
    out = Terminal()
    with ds.progress(out), client.as_current():
        found = ds.blank_map(path, tile_size=64, detector=ds.Contrast()).compute()
    assert np.asarray(found.blank).size == 256
    assert re.search(r"blank map: \[#{24}\] (\d+)/\1, ", screen(out)[0])


def test_a_notebook_is_redrawn_like_a_terminal():
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    with ds.progress(notebook):
        for done in range(3):
            reported("work")(done, 2)
    assert notebook.getvalue().startswith("\rwork: [")
