"""What the commands share: options, the scheduler, errors as one line, exit codes."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click
import dask

from dask_slides.cluster import reporting
from dask_slides.detectors import Contrast, Detector, checked_detector
from dask_slides.display import bytes_text
from dask_slides.errors import BlankSlideWarning, SlideArgumentError, SlideError
from dask_slides.estimate import Estimate
from dask_slides.progress import progress_for
from dask_slides.slide import Slide, open_slide
from dask_slides.writers.store import check_target

Command = Callable[..., Any]

_VERIFY_HASH = "dask_slides.verify_hash"


@dataclass(frozen=True)
class Shared:
    """Options that every long command has."""

    scheduler: str
    workers: int | None
    insecure: bool
    overwrite: bool
    resume: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool

    def finish(self, facts: dict[str, Any], lines: list[str]) -> None:
        """Print the result: JSON, or lines."""
        if self.as_json:
            click.echo(json.dumps(facts))
        elif not self.quiet:
            for line in lines:
                click.echo(line)


def px(shape: Any) -> str:
    """Return a shape as text."""
    return " x ".join(f"{side:,}" for side in shape)


def printable(text: str) -> str:
    """Return what a file says as one line without the characters that command a terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def failing_softly(command: Command) -> Command:
    """Turn errors of ours into one line on stderr and an exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _one_line_warning
                warnings.simplefilter("always", BlankSlideWarning)
                return command(*args, **kwargs)
        except SlideError as error:
            click.echo(f"dask-slides: {error}", err=True)
            sys.exit(2 if isinstance(error, SlideArgumentError) else 1)
        except KeyboardInterrupt:
            resume = getattr(kwargs.get("shared"), "resume", False)
            left = "what is done is kept for --resume" if resume else "nothing half-written is left"
            click.echo(f"dask-slides: interrupted; {left}", err=True)
            sys.exit(1)
        except (OSError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            click.echo(f"dask-slides: {reason}", err=True)
            sys.exit(1)

    return run


def _one_line_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    if issubclass(category, BlankSlideWarning):
        click.echo(f"dask-slides: note: {message}", err=True)


def shared_options(command: Command) -> Command:
    """Add the options of `Shared`, and hand them over as one value."""

    @wraps(command)
    def run(
        scheduler: str,
        workers: int | None,
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
            scheduler, workers, insecure, overwrite, resume, dry_run, as_json, quiet, verbose
        )
        if verbose:
            return command(shared=shared, **kwargs)
        return failing_softly(command)(shared=shared, **kwargs)

    options = [
        click.option("--scheduler", default="threads", show_default=True, metavar="WHERE",
                     help="threads, processes, tcp://HOST:PORT or a scheduler file (.json)"),
        click.option("--workers", type=click.IntRange(1), help="threads or processes to use"),
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
    with progress_for(megapixels, quiet) as progress, reporting(progress):
        if shared.scheduler in ("threads", "processes"):
            workers = shared.workers or os.cpu_count()
            with dask.config.set(scheduler=shared.scheduler, num_workers=workers):
                yield
            return
        with _client(shared.scheduler, shared.insecure):
            yield


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


def _client(address: str, insecure: bool) -> Any:
    if not ("://" in address or address.endswith(".json")):
        raise SlideArgumentError(
            f"--scheduler {address!r} is not known; use threads, processes, tcp://HOST:PORT "
            "or a scheduler file"
        )
    try:
        from distributed import Client
    except ImportError:
        raise SlideArgumentError(
            f"--scheduler {address} needs distributed; pip install 'dask-slides[distributed]'"
        ) from None
    is_file = address.endswith(".json")
    if is_file and not os.path.exists(address):
        raise SlideArgumentError(f"--scheduler {address}: there is no such file")
    if not insecure:
        _check_safe(address, _address_in(address) if is_file else address)
    if is_file:
        return Client(scheduler_file=address, timeout="10s")
    try:
        return Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SlideArgumentError(f"--scheduler {address} cannot be reached ({reason})") from error


def _address_in(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return str(json.load(stream)["address"])
    except (ValueError, KeyError, TypeError) as error:
        raise SlideArgumentError(f"--scheduler {path}: is not a scheduler file") from error


def slide_options(command: Command) -> Command:
    """Add the slide and how it is opened."""
    command = click.option("--slide-mpp", type=float, help="micrometres per pixel of the slide")(
        command
    )
    command = click.option(
        "--verify-hash", metavar="SHA256", expose_value=False, callback=_for_opening,
        help="read the whole file first, and refuse it if it has another checksum",
    )(command)  # fmt: skip
    return click.argument("slide", metavar="SLIDE")(command)


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


def detector_options(ratio: float) -> Callable[[Command], Command]:
    """Add the detector; `ratio` is the default of Contrast."""

    def add(command: Command) -> Command:
        command = click.option(
            "--detector", default="contrast", show_default=True,
            help="contrast, otsu, brightness or saturation",
        )(command)  # fmt: skip
        return click.option(
            "--ratio", type=float, default=ratio, show_default=True,
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


def _for_opening(context: click.Context, option: click.Parameter, value: str | None) -> None:
    """Keep an option of every command on slides for `opened`."""
    context.meta[_VERIFY_HASH] = value


def opened(slide: str, slide_mpp: float | None) -> Slide:
    """Open SLIDE with --slide-mpp and --verify-hash."""
    sha256 = click.get_current_context().meta.get(_VERIFY_HASH)
    return open_slide(slide, mpp=slide_mpp, sha256=sha256)


def check_out(out: str, shared: Shared) -> None:
    """Raise before any work is done if OUT cannot be written."""
    check_target(os.path.abspath(out), shared.overwrite)


def megapixels(slide: Slide) -> float:
    """Return the size that rates are told in."""
    return float(slide.shape[0]) * float(slide.shape[1]) / 1e6


def tell_estimate(shared: Shared, estimate: Estimate) -> None:
    """Print an estimate: the answer of --dry-run."""
    most = "at most " if estimate.upper_bound else ""
    threads = 1 if shared.scheduler == "processes" else shared.workers or os.cpu_count() or 1
    peak = threads * estimate.task_bytes
    facts = estimate.asdict() | {"dry_run": True, "threads": threads, "worker_bytes": peak}
    lines = [
        f"source   {px(estimate.source_shape)}",
        f"output   {most}{px(estimate.output_shape)}",
        f"tasks    {most}{estimate.tasks:,}",
        f"write    {most}{bytes_text(estimate.bytes_to_write)} before compression",
        f"memory   {bytes_text(peak)} a worker of {threads} threads",
    ]
    shared.finish(facts, lines)
