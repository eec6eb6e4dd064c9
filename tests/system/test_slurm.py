"""The recipes for SLURM of docs/howto/clusters.md, on a real SLURM of one node, this machine."""

import os
import signal
import sys
from pathlib import Path

import dask
import distributed
import fault_work
import pytest
import slurm
from durable_work import contents
from fault_work import wait_until
from recipes import block, changed, slurm_cluster

import dask_slides as ds

SUPPORT = Path(__file__).parents[1] / "support"

pytestmark = pytest.mark.slow

HELD = """\
#!{python}
import os, signal, sys
sys.path.insert(0, {here!r})
import fault_work
from dask_slides.cli import main
signal.set_wakeup_fd(os.open({folder!r} + "/signals", os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK))
fault_work.held_up(fault_work.Path({folder!r}), main)
"""
"""A dask-slides command whose reads wait for the file "go"; it writes signals to "signals"."""


@pytest.fixture(scope="module", autouse=True)
def queue(tmp_path_factory):
    if lacking := slurm.lacking():
        pytest.skip(lacking)
    with slurm.running(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of jobs and their output; jobs can import the support modules."""
    monkeypatch.chdir(tmp_path)
    here = f"{SUPPORT}{os.pathsep}{Path(__file__).parent}"  # functions of this module run in jobs
    monkeypatch.setenv("PYTHONPATH", here, prepend=os.pathsep)
    (tmp_path / "out").mkdir()
    return tmp_path


def run_recipe(source, folder, jobs):
    """Run the Python recipe with the paths and the network of this test."""
    code = changed(block("python", "SLURMCluster"), {
        '"ib0"': '"lo"',
        "/shared/me": str(folder),
        "/shared/slide.svs": str(source),
        "downsample=10": "downsample=1",
        "/shared/small.ome.zarr": str(folder / "out" / "a.zarr"),
        "=32": f"={jobs}",
    })  # fmt: skip
    with slurm_cluster():
        exec(compile(code, "docs/howto/clusters.md", "exec"), {})


def in_queue():
    """Return the jobs that are waiting, running or ending."""
    return slurm.ask("squeue", "-h", "-o", "%A").split()


def journal(folder):
    return list((folder / "out").glob(".*/.journal/*.json"))


def listening():
    """Return the addresses at which this process listens."""
    import psutil

    found = psutil.Process().net_connections("inet")
    return [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]


def test_the_recipe_in_python(folder, source, expected, monkeypatch):
    """Write with two jobs; no dashboard is reachable, and all other connections use TLS."""
    write, addresses, protocols = ds.write, set(), set()

    def once_all_are_there(*args, **options):
        client = distributed.get_client()
        client.wait_for_workers(2, timeout=180)
        workers, nannies = client.run(listening), client.run(listening, nanny=True)
        assert len(workers) == len(nannies) == 2
        addresses.update(listening(), *workers.values(), *nannies.values())
        protocols.update(one.partition(":")[0] for one in workers)
        write(*args, **options)

    monkeypatch.setattr(ds, "write", once_all_are_there)
    run_recipe(source, folder, jobs=2)
    assert contents(folder / "out" / "a.zarr") == expected["image"]
    assert addresses == {"127.0.0.1"}
    assert protocols == {"tls"}
    wait_until(lambda: not in_queue())


def test_the_only_job_of_a_worker_is_cancelled(folder, source, expected, monkeypatch):
    """Another job replaces it and finishes the work."""
    slide = fault_work.slow(source, 0.5)  # the job ends before its seven other tasks
    write, jobs = ds.write, []

    def cancel(done, total):
        if done == 2 and not jobs:
            jobs[:] = in_queue()
            slurm.ask("scancel", *jobs)
        elif done == total:
            jobs[1:] = in_queue()

    monkeypatch.setattr(ds, "resize", lambda *_, downsample: slide)
    monkeypatch.setattr(ds, "write", lambda *args, **more: write(*args, progress=cancel, **more))
    settings = {
        # 15 s by default: the time that Dask waits for a lost worker
        "distributed.deploy.lost-worker-timeout": "1s",
        # unlimited by default, but a test must end
        "distributed.scheduler.no-workers-timeout": "2m",
    }
    with dask.config.set(settings):
        run_recipe(source, folder, jobs=1)
    assert contents(folder / "out" / "a.zarr") == expected["image"]
    cancelled, other = jobs
    assert cancelled != other
    wait_until(lambda: not in_queue())


def queued(source, folder):
    """Queue the recipe without a scheduler; return the job."""
    command = folder / "bin" / "dask-slides"
    command.parent.mkdir()
    command.write_text(HELD.format(python=sys.executable, here=str(SUPPORT), folder=str(folder)))
    command.chmod(0o755)
    script = folder / "job.sh"
    script.write_text(changed(block("sh", "#SBATCH"), {
        "/shared/slide.svs": str(source),
        "/shared/small.ome.zarr": str(folder / "out" / "a.zarr"),
        "--downsample 10": "--downsample 1",
    }))  # fmt: skip
    return submitted(folder)


def submitted(folder):
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    return slurm.ask("sbatch", "--parsable", "job.sh", env={**os.environ, "PATH": path}).strip()


def release(folder):
    """Let reads continue after the command received SIGTERM."""
    wait_until(lambda: (folder / "signals").read_bytes() == bytes([signal.SIGTERM]))
    (folder / "go").touch()


def test_a_job_that_runs_out_of_time_continues(folder, source, expected):
    job = queued(source, folder)
    wait_until((folder / "reading").exists)
    # the time limit is so close that SLURM, which checks twice per minute, sends SIGTERM
    slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    release(folder)
    wait_until(lambda: slurm.shown(job)["JobState"] == "PENDING")
    assert slurm.shown(job)["Restarts"] == "1"  # the script requeues the job after exit code 143
    said = (folder / f"slurm-{job}.out").read_text()
    assert "dask-slides: terminated; finished work is kept for --resume\n" in said
    assert "Exited with exit code 143\n" in said
    assert journal(folder)
    assert not (folder / "out" / "a.zarr").exists()
    # start later, because the credential of the same second is revoked
    slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=240", "StartTime=now+3")
    wait_until(lambda: slurm.shown(job)["JobState"] == "COMPLETED")
    assert contents(folder / "out" / "a.zarr") == expected["image"]
    assert os.listdir(folder / "out") == ["a.zarr"]


def test_a_cancelled_job_is_not_restarted(folder, source, expected):
    job = queued(source, folder)
    wait_until((folder / "reading").exists)
    slurm.ask("scancel", job)
    release(folder)
    wait_until(lambda: not in_queue())
    state = slurm.shown(job)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0")
    assert journal(folder)
    assert not (folder / "out" / "a.zarr").exists()
    job = submitted(folder)
    wait_until(lambda: slurm.shown(job)["JobState"] == "COMPLETED")
    assert contents(folder / "out" / "a.zarr") == expected["image"]
