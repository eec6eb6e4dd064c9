"""Clusters of the command line and the recipes of docs/howto/clusters.md."""

import ast
import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import dask
import fault_work
import pytest
import yaml
from click.testing import CliRunner
from durable_work import contents
from fault_work import wait_until
from recipes import DOCS, block, blocks, dask_command, slurm_cluster
from scheduler_processes import scheduler_and_worker

from dask_slides.cli import main
from dask_slides.runtime.local_cluster import LOW_OVERHEAD, local_cluster


def test_other_machines_cannot_reach_a_local_cluster():
    """All ports of all processes listen on 127.0.0.1, including dashboards."""
    import psutil

    before = {one.laddr for one in psutil.Process().net_connections("inet")}
    with local_cluster(2, None, 50):
        found = []
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            found += [one for one in process.net_connections("inet") if one.laddr not in before]
    listening = [one.laddr for one in found if one.status == psutil.CONN_LISTEN]
    assert len(listening) >= 4  # scheduler, dashboard, two workers
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_a_command_names_the_block_that_kills_processes(tmp_path, source, monkeypatch):
    """The local cluster restarts processes, finishes all other blocks and exits with 3."""
    switch = tmp_path / "switch"
    switch.touch()
    slide = fault_work.faulty(source, [(700, 1100)], "killed", switch)
    monkeypatch.setattr("dask_slides.cli.slide_options.SlideOptions.open", lambda _: slide)
    out = tmp_path / "out" / "a.zarr"
    out.parent.mkdir()
    words = ["resize", source, out, "--downsample", 1, "--scheduler", "processes", "--workers", 2]
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        result = CliRunner().invoke(main, [*map(str, words), "-q"])
    assert result.exit_code == 3, result.stderr
    assert re.fullmatch(r"dask-slides: s\.tif: level 0, y 512, x 1024, .*\n", result.stderr)
    assert not out.exists()
    assert len(list(out.parent.glob(".*/.journal/*.json"))) == 9 - 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--memory", "1MB"], 1, "needs"),
        (["--memory", "much"], 2, "8GB"),
        (["--memory", "1GB", "--scheduler", "tcp://127.0.0.1:1"], 2, "on its workers"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_a_plan_respects_the_memory_option(tmp_path, source, words, code, message, dry):
    out = str(tmp_path / "a.ome.zarr")
    words = ["resize", str(source), out, "--downsample", "2", *words, *["--dry-run"] * dry]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def resize_command(source, out, scheduler):
    """Return the words of a command that writes the whole slide."""
    words = ["resize", source, out, "--downsample", 1, "--scheduler", scheduler, "-q"]
    return [sys.executable, "-m", "dask_slides", *map(str, words)]


def test_tls(tmp_path, source, expected):
    """Run a scheduler and a worker with TLS; a client without a certificate is refused."""
    from distributed.security import Security

    made = Security.temporary().get_tls_config_for_role("client")
    names = {"ca_file": "ca.pem", "cert": "dask.pem", "key": "dask.key"}
    for part, name in names.items():
        (tmp_path / name).write_text(made[part])
    tls = {"ca_file": str(tmp_path / "ca.pem")}
    pair = {"cert": str(tmp_path / "dask.pem"), "key": str(tmp_path / "dask.key")}
    env = dict(os.environ, DASK_DISTRIBUTED__COMM__TLS__CA_FILE=tls["ca_file"])
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        for part, path in pair.items():
            env[f"DASK_DISTRIBUTED__COMM__TLS__{role}__{part.upper()}"] = path
    where, out = tmp_path / "scheduler.json", tmp_path / "a.zarr"
    command = resize_command(source, out, where)
    with scheduler_and_worker(where, host="tls://127.0.0.1", env=env):
        bare = subprocess.run(command, capture_output=True, text=True, check=False)
        assert bare.returncode != 0
        assert "Traceback" not in bare.stderr
        assert not out.exists()
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    assert contents(out) == expected["image"]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_the_recipe_for_ssh(tmp_path, source, expected):
    """Run `dask ssh` over a real SSH connection; both hosts are this machine."""
    asyncssh = pytest.importorskip("asyncssh")
    words = block("sh", "dask ssh").split("\n", 1)[0].split()
    assert words[:4] == ["dask", "ssh", "--hostfile", "hosts.txt"]
    (tmp_path / "hosts.txt").write_text("127.0.0.1\nlocalhost\n")
    asyncssh.generate_private_key("ssh-rsa").write_private_key(tmp_path / "key")
    ports = tmp_path / "port"
    quiet = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = Path(__file__).parents[1] / "support" / "ssh_server.py"
    processes = [subprocess.Popen([sys.executable, str(server), str(ports)], **quiet)]
    try:
        wait_until(lambda: ports.exists() and ports.read_text())
        port, sizes = free_port(), {"--nworkers": "1", "--memory-limit": "1GB"}
        given = [sizes.get(before, word) for before, word in pairwise(words)]
        here = ["--scheduler-port", str(port), "--ssh-port", ports.read_text(), "--ssh-username",
                "x", "--ssh-private-key", str(tmp_path / "key"),
                "--remote-python", sys.executable]  # fmt: skip
        command = [sys.executable, "-m", dask_command("ssh").module, *given[1:], *here]
        processes.append(subprocess.Popen(command, **quiet))
        from distributed import Client

        address = f"tcp://127.0.0.1:{port}"
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        out = tmp_path / "a.zarr"
        command = resize_command(source, out, address)
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    finally:
        for one in reversed(processes):  # the server ends its processes when a client disconnects
            one.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                one.wait(20)
            one.kill()
            one.wait()
    assert contents(out) == expected["image"]
    wait_until(lambda: not answers(port))


def answers(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_the_recipe_for_slurm_makes_the_job_script(tmp_path):
    """Check the job script without SLURM; test_slurm.py runs the recipe."""
    (call,) = [
        node
        for node in ast.walk(ast.parse(block("python", "SLURMCluster")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "SLURMCluster"
    ]
    options = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
    del options["interface"]  # depends on the network of the user
    options["scheduler_options"]["host"] = "127.0.0.1"
    options["shared_temp_directory"] = str(tmp_path)
    with slurm_cluster() as made:
        with made(**options) as cluster:
            script = cluster.job_script()
        del cluster
    for line in ("-p normal", "-n 1", "--cpus-per-task=1", "--mem=4G", "-t 04:00:00"):
        assert f"#SBATCH {line}\n" in script
    command = script.splitlines()[-1]
    for words in ("--nthreads 1", "--lifetime=235m", "--lifetime-stagger=4m", "--protocol tls://"):
        assert words in command
    assert re.search(r"--memory-limit 3\.\d+GiB", command)
    assert list(tmp_path.iterdir()) == []  # no key is left


def test_dask_has_the_commands_of_the_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts.txt").touch()
    lines = [one for text in blocks("sh") for one in text.splitlines() if one.startswith("dask ")]
    commands = [shlex.split(one, comments=True) for one in lines]
    for name in ("scheduler", "worker"):
        (container,) = manifest()["spec"][name]["spec"]["containers"]
        commands.append(container["args"])
    assert len(commands) == 6
    for dask_, name, *words in commands:
        assert dask_ == "dask"
        dask_command(name).load().make_context(name, words)


def manifest():
    """Return the manifest for Kubernetes."""
    return yaml.safe_load(block("yaml", "kind:"))


@pytest.fixture(scope="module")
def operator():
    """Return the folder of the Dask operator for Kubernetes, without importing it."""
    found = importlib.util.find_spec("dask_kubernetes")
    if found is None:
        pytest.skip("dask-kubernetes is not installed; .ci/run has its files")
    return Path(found.submodule_search_locations[0])


def closed(schema):
    """Make unknown fields errors in a schema of Kubernetes, which ignores them."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(one) for key, one in schema.items()}
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def test_the_manifest_for_kubernetes_fits_the_schema_of_the_operator(operator):
    import jsonschema

    (path,) = operator.rglob("crds/daskcluster.yaml")
    resource = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = resource["spec"]["versions"]
    schema = jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))
    made = manifest()
    group, kind = resource["spec"]["group"], resource["spec"]["names"]["kind"]
    assert made.pop("apiVersion") == f"{group}/{version['name']}"
    assert made.pop("kind") == kind
    name = made.pop("metadata").pop("name")  # every resource has these three
    schema.validate(made)
    template = re.search(
        r'SCHEDULER_NAME_TEMPLATE.*"(.*)"', (operator / "constants.py").read_text()
    )
    assert f"tcp://{template[1].format(cluster_name=name)}:8786" in DOCS.read_text()
    (container,) = made["spec"]["worker"]["spec"]["containers"]
    made["spec"]["worker"]["replicas"] = "4"
    container["volumeMount"] = container.pop("volumeMounts")
    wrong = sorted(one.json_path for one in schema.iter_errors(made))
    assert wrong == ["$.spec.worker.replicas", "$.spec.worker.spec.containers[0]"]


def test_dask_has_the_settings_for_tls():
    (settings,) = [one for one in map(yaml.safe_load, blocks("yaml"))
                   if "comm" in one.get("distributed", {})]  # fmt: skip
    import distributed  # noqa: F401 - its defaults join the configuration

    known = dask.config.get("distributed.comm")
    comm = settings["distributed"]["comm"]
    assert set(comm) <= set(known)
    assert set(comm["tls"]) <= set(known["tls"])
    for role in ("scheduler", "worker", "client"):
        assert set(comm["tls"][role]) <= set(known["tls"][role])


def test_the_settings_for_long_runs_are_those_of_local_clusters():
    import distributed  # noqa: F401 - its defaults join the configuration

    (settings,) = [one for one in map(yaml.safe_load, blocks("yaml"))
                   if "admin" in one.get("distributed", {})]  # fmt: skip

    def flat(tree, name=""):
        if not isinstance(tree, dict):
            return {name: tree}
        return {k: v for key, one in tree.items()
                for k, v in flat(one, f"{name}.{key}" if name else key).items()}  # fmt: skip

    assert flat(settings) == LOW_OVERHEAD
    for key, value in LOW_OVERHEAD.items():  # Dask ignores unknown names
        assert type(dask.config.get(key)) is type(value), key
