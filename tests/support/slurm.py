"""Run SLURM for tests: its only node is this machine, and only this user can use it.

It authenticates with its own munge key and listens on this machine only.
"""

import ipaddress
import os
import pwd
import shutil
import socket
import subprocess
from contextlib import ExitStack, contextmanager, suppress

import pytest
from fault_work import wait_until

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue",
             "srun", "setpriv")  # fmt: skip
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
"""PATH with the folders of daemons, which ordinary users do not have in theirs."""

# The node declares more cores and memory than it has, so that the recipes run unchanged. Jobs
# are not limited to what they request, because that needs control groups.
_CONFIG = """\
ClusterName=tests
SlurmctldHost={host}({address})
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr={address} CPUs=64 RealMemory=256000
PartitionName=normal Nodes=one Default=YES MaxTime=INFINITE
"""


def lacking():
    """Return why SLURM cannot run on this machine, or an empty string."""
    missing = [one for one in _PROGRAMS if not shutil.which(one, path=_PATH)]
    if missing:
        return f"SLURM is not installed: {', '.join(missing)}"
    _, _, under = _named()
    if under and subprocess.run([*under, "true"], capture_output=True, check=False).returncode:
        return "others can reach the address of this machine's name, at which SLURM would listen"
    return ""


def _named():
    """Return a host name, its address, and a command that runs others with that host name.

    A daemon listens at the address of the host name.
    """
    name = socket.gethostname()
    with suppress(OSError):
        address = socket.gethostbyname(name)
        if ipaddress.ip_address(address).is_loopback:
            return name.partition(".")[0], address, []
    under = ["unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh"]
    return "localhost", "127.0.0.1", under


def ask(*words, **options):
    """Run a command of SLURM; return its output."""
    options = {"check": True, "capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run(list(map(str, words)), **options).stdout


def shown(job):
    """Return the state of a job: JobState, ExitCode, Restarts and so on."""
    words = ask("scontrol", "show", "job", job, "--oneliner").split()
    return dict(one.split("=", 1) for one in words if "=" in one)


@contextmanager
def running(folder):
    """Run SLURM inside the block, with its files in `folder` and SLURM_CONF set."""
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.touch(0o600)
    key.write_bytes(os.urandom(256))
    (folder / "state").mkdir()
    # not used, but slurmd would take over control groups of version 2
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    host, address, under = _named()
    conf.write_text(_CONFIG.format(
        host=host,
        address=address,
        ports=_free_ports(2),
        user=pwd.getpwuid(os.getuid()).pw_name,
        folder=folder,
    ))  # fmt: skip
    munge = [f"--{name}={folder}/munge.{end}" for name, end in [
        ("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"),
        ("seed-file", "seed"),
    ]]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("SLURM_CONF", str(conf))
        # --force, because the folder is private
        stack.enter_context(_daemon(folder, "munged", "--foreground", "--force", *munge))
        wait_until((folder / "munge.socket").exists, 20)
        control = stack.enter_context(_daemon(folder, "slurmctld", "-D", under=under))
        node = stack.enter_context(_daemon(folder, "slurmd", "-D", "-N", "one", under=under))

        def idle():
            assert control.poll() is node.poll() is None, _said(folder)
            return "idle" in ask("sinfo", "-h", "-o", "%T", check=False)

        wait_until(idle, 60)
        stack.callback(_end_jobs)
        yield


def _free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _daemon(folder, name, *words, under=()):
    ending = ["setpriv", "--pdeathsig", "TERM"]  # end with the tests
    command = [*ending, *under, shutil.which(name, path=_PATH), *words]
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def _said(folder):
    return "\n".join(one.read_text()[-1000:] for one in folder.glob("*.log"))


def _end_jobs():
    """Cancel the jobs that a failed test left, before the daemons end."""
    me = os.getuid()
    ask("scancel", "-u", me, check=False)
    ask("scancel", "-u", me, "--signal=KILL", "--full", check=False)
    with suppress(AssertionError):
        wait_until(lambda: not ask("squeue", "-h", check=False), 60)
