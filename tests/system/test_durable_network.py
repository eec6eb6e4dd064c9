"""Three network namespaces as hosts; the link of one is cut during a write."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import fault_work
import pytest
from durable_work import contents
from fault_work import wait_until

import dask_slides as ds

pytest.importorskip("distributed")
SUPPORT = Path(__file__).parents[1] / "support"

pytestmark = pytest.mark.slow

CLIENT = """
import sys, time
import distributed
import dask_slides as ds
import fault_work

out, source, address, pace = sys.argv[1:]
slide = fault_work.slow(source, float(pace))
with distributed.Client(address, timeout="30s") as client:
    client.wait_for_workers(2, timeout=120)
    try:
        ds.write(slide, out, resume=True)
    except ds.SlideError as error:
        print(type(error).__name__, error, sep=": ")
        sys.exit(1)
"""


def ip(*words, check=True):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


@dataclass
class Hosts:
    """Namespaces `first`, ... on one bridge, 10.87.0.1 and so on."""

    names: list[str]
    bridge: str
    processes: list = field(default_factory=list)

    def run(self, number, *words, **options):
        """Start a process on a host."""
        command = ["ip", "netns", "exec", self.names[number], sys.executable, *map(str, words)]
        process = subprocess.Popen(command, cwd=SUPPORT, **options)
        self.processes.append(process)
        return process

    def link(self, number, state):
        """Set the link of a host up or down, at the bridge."""
        ip("link", "set", f"{self.names[number]}b", state)


numbers = itertools.count()


@pytest.fixture
def hosts():
    # unique names, as the system removes the links of a deleted namespace with a delay
    own = f"ds{os.getpid() % 10000}{next(numbers)}"
    made = Hosts([f"{own}{n}" for n in "xyz"], f"{own}br")
    try:
        result = ip("link", "add", made.bridge, "type", "bridge", check=False)
    except FileNotFoundError:
        pytest.skip("the command ip is not here")
    if result.returncode:
        pytest.skip(f"no network can be made here: {result.stderr.strip()}")
    try:
        ip("link", "set", made.bridge, "up")
        for number, name in enumerate(made.names, 1):
            ip("netns", "add", name)
            ip("link", "add", f"{name}b", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}b", "master", made.bridge)
            ip("link", "set", f"{name}b", "up")
            ip("-n", name, "addr", "add", f"10.87.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        for process in made.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for name in made.names:
            pids = ip("netns", "pids", name, check=False).stdout.split()
            for pid in pids:  # workers of a nanny that was killed
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            ip("link", "del", f"{name}b", check=False)
            ip("netns", "del", name, check=False)
        ip("link", "del", made.bridge, check=False)


@pytest.mark.parametrize("seconds", [1, 10, 60])
def test_a_link_of_a_worker_is_cut(tmp_path, hosts, source, expected, seconds):
    """The run succeeds or raises a clear error; resuming then gives the same bytes."""
    out = tmp_path / "out" / "a.zarr"
    out.parent.mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    address = "tcp://10.87.0.1:8786"
    hosts.run(0, "-m", "distributed.cli.dask_scheduler", "--host", "10.87.0.1", "--port", 8786,
              "--no-dashboard", **quiet)  # fmt: skip
    for number in (1, 2):
        hosts.run(number, "-m", "distributed.cli.dask_worker", address, "--nthreads", 1,
                  "--host", f"10.87.0.{number + 1}", "--no-dashboard", **quiet)  # fmt: skip
    # slow enough that the link is restored during the run of nine tasks on two workers
    pace = max(1.0, seconds / 4)
    client = hosts.run(0, "-c", CLIENT, out, source, address, pace,
                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip

    def tasks():
        return len(list(out.parent.glob(".*/.journal/*.json")))

    wait_until(lambda: tasks() >= 1 or client.poll() is not None)
    assert client.poll() is None
    hosts.link(1, "down")
    time.sleep(seconds)  # the time without a link
    hosts.link(1, "up")
    said = client.communicate(timeout=300)[0]
    print(json.dumps({"cut": seconds, "exit": client.returncode, "said": said}))
    if client.returncode:
        assert said.startswith(("ClusterLostError", "WorkerKilledError"))
        assert not out.exists()
        ds.write(fault_work.slow(source, pace), out, resume=True)
    assert contents(out) == expected["image"]
    ds.verify(out)
