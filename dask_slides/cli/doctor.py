"""``dask-slides doctor``: check versions, codecs, cores, memory, disk space and a scheduler."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec

import click
import numpy as np
from dask.system import CPU_COUNT

from dask_slides.cli.exit_codes import report_errors
from dask_slides.cli.options import json_option
from dask_slides.core.version import __version__
from dask_slides.runtime.scheduler import memory_limit

REQUIRED = (
    "dask", "distributed", "imagecodecs", "numpy", "pillow", "scikit-image", "scipy", "tifffile",
    "zarr",
)  # fmt: skip
EXTRAS = {
    "matplotlib": ("plot", "to draw in notebooks"),
    "obstore": ("cloud", "for s3:// and https:// slides"),
}
CODECS = ("jpeg", "jpeg2k", "lzw", "deflate", "zstd", "webp")


@click.command("doctor")
@click.option(
    "--scheduler", metavar="WHERE", help="also connect to this scheduler, tcp://HOST:PORT"
)
@json_option
@report_errors
def command(scheduler: str | None, as_json: bool) -> None:
    """Check the installation, the machine and a scheduler, and say what to install."""
    findings = examine(scheduler)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            sign = "ok" if finding.good else ("MISSING" if finding.needed else "--")
            cure = "" if finding.good else f"   {finding.cure}"
            click.echo(f"{sign:8}{finding.what:20}{finding.found}{cure}")
    if any(finding.needed and not finding.good for finding in findings):
        sys.exit(1)


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    good: bool
    found: str
    cure: str = ""
    needed: bool = True
    """Whether dask_slides requires it."""


def examine(scheduler: str | None = None) -> list[Finding]:
    """Run all checks; connect to `scheduler` if it is given."""
    findings = [Finding("dask_slides", True, __version__)]
    python = platform.python_version_tuple()
    findings.append(
        Finding(
            "python",
            (int(python[0]), int(python[1])) >= (3, 11),
            platform.python_version(),
            "install Python 3.11 or newer",
        )
    )
    findings += _versions()
    findings += _codecs()
    findings += _machine()
    if scheduler is not None:
        findings.append(_scheduler(scheduler))
    return findings


def _versions() -> Iterator[Finding]:
    for name in REQUIRED:
        version = _version(name)
        yield Finding(name, version is not None, version or "missing", f"pip install {name}")
    for name, (extra, purpose) in EXTRAS.items():
        version = _version(name)
        cure = f"pip install 'dask-slides[{extra}]' {purpose}"
        yield Finding(name, version is not None, version or "not installed", cure, needed=False)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _codecs() -> Iterator[Finding]:
    """Encode and decode a small picture with each codec."""
    if find_spec("imagecodecs") is None:
        return
    import imagecodecs

    picture = np.full((32, 32, 3), 200, np.uint8)
    for name in CODECS:
        try:
            data = picture.tobytes() if name in ("lzw", "deflate", "zstd") else picture
            encode: Callable[..., bytes] = getattr(imagecodecs, f"{name}_encode")
            decoded = getattr(imagecodecs, f"{name}_decode")(encode(data))
            pixels = np.frombuffer(decoded, np.uint8) if isinstance(decoded, bytes) else decoded
            good = bool(np.abs(np.asarray(pixels, float) - 200).max() < 8)
            found = "works" if good else "decodes wrongly"
        except Exception as error:  # imagecodecs has an error class for each codec
            good, found = False, f"fails ({type(error).__name__})"
        yield Finding(f"codec {name}", good, found, "pip install --upgrade imagecodecs")


def _machine() -> Iterator[Finding]:
    yield Finding("cores", True, str(CPU_COUNT))
    memory = memory_limit()
    yield Finding(
        "memory",
        memory >= 2e9,
        f"{memory / 1e9:.1f} GB",
        "large slides need 2 GB or more",
        needed=False,
    )
    free = shutil.disk_usage(os.getcwd()).free / 1e9
    yield Finding(
        "free disk here", free >= 1, f"{free:.1f} GB", "free some disk space", needed=False
    )


def _scheduler(address: str) -> Finding:
    what = f"scheduler {address}"
    if address == "threads":
        return Finding(what, True, "part of dask")
    if address == "processes":
        return Finding(what, True, "part of distributed")
    from distributed import Client

    try:
        with Client(address, timeout="5s") as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
            client.get_versions(check=True)
            threads = sum(worker["nthreads"] for worker in workers.values())
    except (OSError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Finding(what, False, reason, "check the address and that the scheduler runs")
    return Finding(what, bool(workers), f"{len(workers)} workers, {threads} threads", "add workers")
