"""What a process may take: limits of containers and batch jobs, in both versions of Linux."""

import os
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest

import dask_slides as ds
from dask_slides.runtime import memory_limit

GIB = 2**30


def limits(folder, groups, files):
    """Return the limits of a process whose groups and their files are these."""
    (folder / "cgroup").write_text("".join(f"{line}\n" for line in groups))
    for name, text in files.items():
        file = folder / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return list(memory_limit.limits_of_groups(str(folder / "cgroup"), str(folder / "fs")))


CASES = {
    "a job of SLURM": (
        ["0::/system.slice/slurmd/job_7/step_0"],
        {"system.slice/slurmd/job_7/step_0/memory.max": "max",
         "system.slice/slurmd/job_7/memory.max": 8 * GIB,
         "system.slice/memory.max": 64 * GIB, "other/memory.max": 1},
        [8 * GIB, 64 * GIB],
    ),
    "a container that sees its group as the root": (["0::/"], {"memory.max": 4 * GIB}, [4 * GIB]),
    "a container that sees the name of its group": (
        ["0::/docker/1f"], {"memory.max": 4 * GIB}, [4 * GIB]
    ),
    "version 1": (
        ["9:name=systemd:/", "4:cpu,memory:/docker/1f", "1:cpu:/docker/1f", "0::/"],
        {"memory/docker/1f/memory.limit_in_bytes": 2 * GIB,
         "memory/memory.limit_in_bytes": 9223372036854771712, "cpu/memory.limit_in_bytes": 1},
        [2 * GIB, 9223372036854771712],
    ),
    "no limit": (["0::/user.slice"], {"user.slice/memory.max": "max"}, []),
    "a colon in a name": (["0::/a:b"], {"a:b/memory.max": GIB}, [GIB]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_limits_of_groups(tmp_path, case):
    groups, files, expected = CASES[case]
    assert limits(tmp_path, groups, files) == expected


def test_a_system_without_groups(tmp_path):
    assert list(memory_limit.limits_of_groups(str(tmp_path / "none"))) == []


def test_the_least_counts(monkeypatch):
    monkeypatch.setattr(memory_limit, "_of_machine", lambda: iter([64 * GIB]))
    monkeypatch.setattr(memory_limit, "limits_of_groups", lambda: iter([8 * GIB, 16 * GIB]))
    assert memory_limit.memory() == 8 * GIB
    monkeypatch.setattr(memory_limit, "limits_of_groups", lambda: iter([]))
    assert memory_limit.memory() == 64 * GIB
    monkeypatch.setattr(memory_limit, "_of_machine", lambda: iter([]))
    assert memory_limit.memory() is None


def test_a_plan_is_held_against_the_limit_of_a_container(monkeypatch, tmp_path):
    slide = ds.from_dask(da.from_array(np.zeros((5000, 5000, 3), np.uint8), chunks=256))
    monkeypatch.setattr(memory_limit, "limits_of_groups", lambda: iter([4_000_000]))
    with (
        dask.config.set(scheduler="threads", num_workers=2),
        pytest.raises(ds.errors.SlideMemoryError, match="a thread has 2 MB"),
    ):
        ds.write(slide, tmp_path / "a.zarr")


@pytest.fixture
def group():
    """Return a control group of 300 MB, as root on Linux can make one."""
    for top, file in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = Path(memory_limit.ROOT, top, f"dask-slides-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / file).write_text(str(300 * 2**20))
        except OSError:  # no such controller there
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_a_process_knows_the_group_it_is_in(group):
    code = (
        "import os, sys\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "from dask_slides import machine\n"
        "print(machine.memory())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(group / "cgroup.procs")],
                          capture_output=True, text=True)  # fmt: skip
    if "PermissionError" in done.stderr or "OSError" in done.stderr:
        pytest.skip("no process can be put into a group here")
    assert done.stdout.strip() == str(300 * 2**20), done.stderr
