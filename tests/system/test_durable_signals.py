"""Processes that are interrupted, are terminated, or lose their scheduler."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import distributed
import durable_work as work
import pytest
from durable_work import contents
from fault_work import wait_until
from scheduler_processes import scheduler_and_worker

import dask_slides as ds

SUPPORT = Path(__file__).parents[1] / "support"


def started(folder, *words):
    """Start a command in its own process group; return it once a read waits."""
    command = [sys.executable, str(SUPPORT / "fault_work.py"), str(folder), *map(str, words)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: (folder / "reading").exists() or process.poll() is not None)
    return process


def ended(process, folder, number, group):
    """Send a signal, let the reads continue, and return the exit code and the output."""
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    (folder / "go").touch()
    _, said = process.communicate(timeout=120)
    return process.returncode, said.splitlines()


@pytest.mark.parametrize(
    ("number", "group", "code", "word"),
    [
        (signal.SIGINT, True, 130, "interrupted"),
        (signal.SIGTERM, False, 143, "terminated"),
    ],
)
@pytest.mark.parametrize("resume", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_signal_ends_a_command(tmp_path, source, expected, number, group, code, word, resume):
    out = tmp_path / "out" / "a.zarr"
    out.parent.mkdir()
    words = ["resize", source, out, "--downsample", 1, "-q", "--workers", 2]
    words += ["--resume"] * resume
    process = started(tmp_path, *words)
    assert ended(process, tmp_path, number, group) == (code, [
        f"dask-slides: {word}; "
        + ("finished work is kept for --resume" if resume else "no partial output is left")
    ])  # fmt: skip
    left = os.listdir(out.parent)
    assert len(left) == resume
    assert all(name.startswith(".a.zarr.") for name in left)
    if resume:
        done = list(out.parent.glob(".*/.journal/*.json"))
        assert done  # tasks that were running are finished too
        work.write("image", source, out, resume=True)
        assert contents(out) == expected["image"]
        assert os.listdir(out.parent) == ["a.zarr"]


IN_A_DESTRUCTOR = """
import signal, threading
from dask_slides.cli.exit_codes import report_errors

class Future:
    def __del__(self):
        signal.raise_signal(signal.{name})
        for _ in range(9):
            pass

@report_errors
def command():
    Future()
    print("goes on", flush=True)
    Future()
    threading.Event().wait(100)

command()
"""


@pytest.mark.parametrize(
    ("name", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_a_signal_in_a_destructor_is_not_lost(name, code, word):
    """Python drops what is raised there, as in the destructors of futures of dask."""
    words = [sys.executable, "-c", IN_A_DESTRUCTOR.format(name=name)]
    found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert found.stdout == "goes on\n"
    assert found.stderr == f"dask-slides: {word}\n"
    assert found.returncode == code


PROGRAM = """
import signal, sys, fault_work
import durable_work as work
{before}
fault_work.held_up(fault_work.Path(sys.argv[1]), lambda: work.write_threaded(*sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("before", "number", "code", "partial"),
    [
        ("", signal.SIGINT, -signal.SIGINT, False),  # Python raises KeyboardInterrupt
        ("", signal.SIGTERM, -signal.SIGTERM, True),  # the system ends the process at once
        ("signal.signal(15, lambda *_: sys.exit(9))", signal.SIGTERM, 9, False),
    ],
)
def test_a_signal_ends_a_program_that_writes(
    tmp_path, source, expected, before, number, code, partial
):
    """The library handles no signals, so the handlers of the program decide."""
    out = tmp_path / "out" / "a.zarr"
    out.parent.mkdir()
    program = PROGRAM.format(before=before)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(source), str(out)],
        stderr=subprocess.PIPE, text=True, cwd=SUPPORT,
    )  # fmt: skip
    wait_until(lambda: (tmp_path / "reading").exists() or process.poll() is not None)
    assert ended(process, tmp_path, number, False)[0] == code
    assert not out.exists()
    assert len(os.listdir(out.parent)) == partial
    work.write("image", source, out, resume=True)
    assert contents(out) == expected["image"]
    assert os.listdir(out.parent) == ["a.zarr"]


def journal(out):
    return list(out.parent.glob(".*/.journal/*.json"))


def test_a_killed_scheduler(tmp_path, source, expected):
    """The client raises an error, and the next cluster finishes the store."""
    out, file = tmp_path / "out" / "a.zarr", tmp_path / "scheduler.json"
    out.parent.mkdir()
    with scheduler_and_worker(file, cwd=SUPPORT) as (scheduler, worker):

        def killed(done, total):
            if done == 2:
                scheduler.kill()

        where = {"scheduler_file": str(file), "timeout": "10s", "set_as_default": False}
        with distributed.Client(**where) as client:
            client.wait_for_workers(2, timeout=120)
            with pytest.raises(ds.errors.ClusterLostError, match="scheduler was lost") as error:
                ds.write(ds.open_slide(source), out, client=client, progress=killed)
        assert isinstance(error.value, ConnectionError)
        assert "\n" not in str(error.value)
        assert not out.exists()
        assert len(journal(out)) >= 2
        worker.wait(timeout=60)  # workers without a scheduler end
    work.write("image", source, out, resume=True)
    assert contents(out) == expected["image"]
    assert os.listdir(out.parent) == ["a.zarr"]


@pytest.mark.slow
def test_a_command_whose_scheduler_is_killed(tmp_path, source):
    out, file = tmp_path / "out" / "a.zarr", tmp_path / "scheduler.json"
    out.parent.mkdir()
    command = [sys.executable, "-m", "dask_slides", "resize", source, out, "--downsample", 1]
    with scheduler_and_worker(file, cwd=SUPPORT) as (scheduler, _):
        run = subprocess.Popen(
            [*map(str, command), "--scheduler", str(file), "--resume", "-q"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: journal(out) or run.poll() is not None)
        scheduler.kill()
        said = run.communicate(timeout=120)[1].splitlines()
    if run.returncode:  # unless it was done before the kill
        assert run.returncode == 1
        assert len(said) == 1 and "the scheduler was lost" in said[0]
        assert not out.exists()
