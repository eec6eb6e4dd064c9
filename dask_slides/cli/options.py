"""What the commands share: options and the scheduler."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from importlib.util import find_spec
from typing import Any

import click
import dask
from dask.utils import parse_bytes

from dask_slides.cli.exit_codes import end_named, failing_softly
from dask_slides.cli.progress import progress_for
from dask_slides.errors import SlideArgumentError
from dask_slides.numerics.detectors import Contrast, Detector, checked_detector
from dask_slides.plots.pictures import bytes_text, pixels_text
from dask_slides.runtime.buffer_pool import LIMIT as WAITING
from dask_slides.runtime.local_cluster import distributed_logs_above, local_cluster
from dask_slides.runtime.scheduler import MEMORY, check_memory, report_progress_to
from dask_slides.slide import Slide
from dask_slides.writers.estimate import Estimate
from dask_slides.writers.store.attributes import absolute_path, bad_tiles_in
from dask_slides.writers.store.transaction import check_target

Command = Callable[..., Any]


@dataclass(frozen=True)
class Shared:
    """Options that every long command has."""

    scheduler: str
    workers: int | None
    memory: str | None
    insecure: bool
    overwrite: bool
    resume: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool

    @property
    def threads(self) -> int:
        """Threads or processes of this machine."""
        return self.workers or os.cpu_count() or 1

    def finish(self, facts: dict[str, Any], lines: list[str]) -> None:
        """Print the result: JSON, or lines."""
        if self.as_json:
            click.echo(json.dumps(facts))
        elif not self.quiet:
            for line in lines:
                click.echo(line)

    def finish_store(self, path: str, facts: dict[str, Any], line: str) -> None:
        """Print what was written to `path`; exit with 3 if it masks corrupt tiles, naming them."""
        bad_tiles = bad_tiles_in(path)
        if bad_tiles:
            facts = facts | {"bad_tiles": [asdict(tile) for tile in bad_tiles]}
        self.finish({"path": path} | facts, [line])
        end_named(bad_tiles)


def printable(text: str) -> str:
    """Return what a file says as one line without the characters that command a terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def shared_options(command: Command) -> Command:
    """Add the options of `Shared`, and hand them over as one value."""

    @wraps(command)
    def run(
        scheduler: str,
        workers: int | None,
        memory: str | None,
        insecure: bool,
        overwrite: bool,
        resume: bool,
        dry_run: bool,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        **kwargs: Any,
    ) -> Any:
        shared = Shared(
            scheduler, workers, memory, insecure, overwrite, resume, dry_run, as_json, quiet,
            verbose,
        )  # fmt: skip
        return failing_softly(_on_this_machine(command))(shared=shared, **kwargs)

    options = [
        click.option("--scheduler", default="threads", show_default=True, metavar="WHERE",
                     help="threads, processes, tcp://HOST:PORT or a scheduler file (.json)"),
        click.option("--workers", type=click.IntRange(1), help="threads or processes to use"),
        click.option("--memory", metavar="SIZE",
                     help="memory for all threads or processes together, such as 8GB"),
        click.option("--insecure", is_flag=True,
                     help="allow a scheduler of another machine without TLS"),
        click.option("--overwrite", is_flag=True, help="replace a store that dask-slides wrote"),
        click.option("--resume", is_flag=True,
                     help="go on from where the same command was killed; a failure keeps its work"),
        click.option("--dry-run", is_flag=True, help="tell what would be done, and do nothing"),
        click.option("--json", "as_json", is_flag=True, help="print the result as JSON"),
        click.option("-q", "--quiet", is_flag=True, help="print errors only"),
        click.option("-v", "--verbose", is_flag=True, help="show the traceback of an error"),
    ]  # fmt: skip
    decorated: Command = run
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


@contextmanager
def running(shared: Shared, megapixels: float) -> Iterator[None]:
    """Set the scheduler and show progress while the block runs."""
    quiet = shared.quiet or shared.as_json
    with progress_for(megapixels, quiet) as progress, report_progress_to(progress):
        if shared.scheduler == "threads":
            with dask.config.set(scheduler="threads"):
                yield
            return
        level = logging.WARNING if shared.verbose else logging.CRITICAL
        with (
            distributed_logs_above(level),
            _client(shared, level),
        ):  # it tells of a lost scheduler when it closes
            yield


def _on_this_machine(command: Command) -> Command:
    """Let plans and checks of the command know --workers and --memory."""

    @wraps(command)
    def run(*, shared: Shared, **kwargs: Any) -> Any:
        memory = _memory_of(shared)
        with dask.config.set({"num_workers": shared.threads, MEMORY: memory}):
            return command(shared=shared, **kwargs)

    return run


def _memory_of(shared: Shared) -> int | None:
    if shared.memory is None:
        return None
    if shared.scheduler not in ("threads", "processes"):
        raise SlideArgumentError(
            "--memory is for threads and processes; workers of a cluster have limits of their own"
        )
    try:
        memory = int(parse_bytes(shared.memory))
    except ValueError:
        memory = 0
    if memory <= 0:
        raise SlideArgumentError(f"--memory {shared.memory!r}; give a size such as 8GB")
    return memory


def _check_distributed(where: str) -> None:
    if find_spec("distributed") is None:
        raise SlideArgumentError(
            f"--scheduler {where} needs distributed; pip install 'dask-slides[distributed]'"
        )


def _check_safe(address: str, where: str) -> None:
    """Raise if what is sent to `address` could be read, and code be run there, by anybody."""
    scheme, _, rest = where.partition("://")
    host = rest.rpartition(":")[0].strip("[]") or rest
    if scheme in ("tls", "wss", "inproc", "ucxx") or host in ("localhost", "::1"):
        return
    if not host.startswith("127."):
        raise SlideArgumentError(
            f"--scheduler {address}: {where} is another machine and {scheme} is not encrypted: who "
            "reaches it can run code there; use tls://, or --insecure on a network you trust"
        )


def _client(shared: Shared, level: int) -> Any:
    address = shared.scheduler
    if address == "processes":
        _check_distributed(address)
        return local_cluster(shared.threads, _memory_of(shared), level)
    if not ("://" in address or address.endswith(".json")):
        raise SlideArgumentError(
            f"--scheduler {address!r} is not known; use threads, processes, tcp://HOST:PORT "
            "or a scheduler file"
        )
    _check_distributed(address)
    from distributed import Client

    is_file = address.endswith(".json")
    if is_file and not os.path.exists(address):
        raise SlideArgumentError(f"--scheduler {address}: there is no such file")
    if not shared.insecure:
        _check_safe(address, _address_in(address) if is_file else address)
    where = {"scheduler_file": address} if is_file else {"address": address}
    try:
        return Client(**where, timeout="10s")
    except (OSError, ValueError, TypeError) as error:  # the last without certificates for TLS
        reason = " ".join(str(error).split())
        raise SlideArgumentError(f"--scheduler {address} cannot be reached ({reason})") from error


def _address_in(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return str(json.load(stream)["address"])
    except (ValueError, KeyError, TypeError) as error:
        raise SlideArgumentError(f"--scheduler {path}: is not a scheduler file") from error


def output_argument(command: Command) -> Command:
    """Add where to write."""
    return click.argument("out", metavar="OUT")(command)


def scale_options(command: Command) -> Command:
    """Add the scale arguments of `resize`."""
    options = [
        click.option("--downsample", type=float, help="how many times smaller"),
        click.option("--mpp", type=float, help="micrometres per pixel wanted"),
        click.option("--max-size", type=int, help="longest side at most, in pixels"),
        click.option("--shape", type=(int, int), help="height and width wanted"),
        click.option("--kernel", default="lanczos", show_default=True,
                     help="lanczos, cubic, linear, area or nearest"),
        click.option("--gap", default="2.0", show_default=True,
                     help="least share left to the kernel by a stored level, or none"),
        click.option("--ome-zarr", "ome_zarr", default="0.5", show_default=True,
                     help="0.5 (Zarr v3) or 0.4 (Zarr v2)"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def cell_options(prefix: str = "") -> Callable[[Command], Command]:
    """Add the cells of a blank map and how they are judged."""

    def add(command: Command) -> Command:
        command = detector_options(0.05, prefix)(command)
        return click.option(
            f"--{prefix}tile-size", type=int, help="side of a cell in pixels"
        )(command)  # fmt: skip

    return add


def pack_options(prefix: str = "") -> Callable[[Command], Command]:
    """Add the tiles of a pack and how they are judged."""
    options: list[Callable[[Command], Command]] = [
        click.option(f"--{prefix}tile-size", type=int, help="side of a tile in pixels of the pack"),
        click.option(f"--{prefix}stride", type=int, help="distance between tiles"),
        click.option(f"--{prefix}downsample", type=float, help="how many times smaller"),
        click.option(f"--{prefix}mpp", type=float, help="micrometres per pixel wanted"),
        click.option(f"--{prefix}edge", default="drop", show_default=True,
                     help="drop, pad or shift"),
        click.option(f"--{prefix}top-k", type=int, help="only the k tiles of the highest score"),
        detector_options(0.35, prefix),
    ]  # fmt: skip

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def detector_options(ratio: float, prefix: str = "") -> Callable[[Command], Command]:
    """Add the detector; `ratio` is the default of Contrast."""

    def add(command: Command) -> Command:
        command = click.option(
            f"--{prefix}detector", default="contrast", show_default=True,
            help="contrast, otsu, brightness or saturation",
        )(command)  # fmt: skip
        return click.option(
            f"--{prefix}ratio", type=float, default=ratio, show_default=True,
            help="of the contrast detector: blank when std <= ratio * mean",
        )(command)  # fmt: skip

    return add


def chosen_detector(name: str, ratio: float) -> Detector:
    """Return the detector of --detector and --ratio."""
    return Contrast(ratio) if name == "contrast" else checked_detector(name)


def _gap(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise SlideArgumentError(f"--gap {text!r}; give 1 or more, or none") from None


def scale_of(options: dict[str, Any]) -> dict[str, Any]:
    """Take the scale arguments out of `options`."""
    names = ("downsample", "mpp", "max_size", "shape", "kernel")
    scale = {name: options.pop(name) for name in names}
    return scale | {"gap": _gap(options.pop("gap"))}


def check_out(out: str, shared: Shared) -> None:
    """Raise before any work is done if OUT cannot be written."""
    check_target(absolute_path(out), shared.overwrite)


def megapixels(slide: Slide) -> float:
    """Return the size that rates are told in."""
    return float(slide.shape[0]) * float(slide.shape[1]) / 1e6


def tell_estimate(shared: Shared, estimate: Estimate) -> None:
    """Print an estimate: the answer of --dry-run."""
    most = "at most " if estimate.upper_bound else ""
    threads = 1 if shared.scheduler == "processes" else shared.threads
    if shared.scheduler in ("threads", "processes") and not estimate.upper_bound:
        check_memory(estimate.task_bytes, "this plan")
    peak = threads * estimate.task_bytes
    facts = estimate.asdict() | {"dry_run": True, "threads": threads, "worker_bytes": peak}
    lines = [
        f"source   {pixels_text(estimate.source_shape)}",
        f"output   {most}{pixels_text(estimate.output_shape)}",
        f"tasks    {most}{estimate.tasks:,}",
        f"write    {most}{bytes_text(estimate.bytes_to_write)} before compression",
        f"memory   {bytes_text(peak)} a worker of {threads} threads, and up to "
        f"{bytes_text(WAITING)} that it keeps for the next task",
    ]
    shared.finish(facts, lines)
