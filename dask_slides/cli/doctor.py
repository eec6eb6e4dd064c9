"""``dask-slides doctor``: check versions, codecs, cores, memory, disk space and a scheduler.

It also compiles the Numba kernels, which the first large job would do otherwise.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

import click
import numpy as np
from dask.system import CPU_COUNT

from dask_slides.cli.exit_codes import report_errors
from dask_slides.cli.options import json_option
from dask_slides.cli.scheduling import CONNECTION_ERRORS, client_at
from dask_slides.core.version import __version__
from dask_slides.runtime.numba_loader import LOADING, numba_kernels
from dask_slides.runtime.scheduler import memory_limit

REQUIRED = (
    "dask", "distributed", "imagecodecs", "numpy", "pillow", "scikit-image", "scipy", "tifffile",
    "zarr",
)  # fmt: skip
EXTRAS = {
    "bokeh": "view", "h5py": "export", "matplotlib": "plot", "obstore": "cloud",
    "onnxruntime": "onnx",
    "openslide-python": "openslide", "pyarrow": "export", "pylibCZIrw": "czi",
    "shapely": "annotations", "wsidicom": "dicom",
}  # fmt: skip
"""Optional packages, and the extra of each."""
CODECS = ("jpeg", "jpeg2k", "lzw", "deflate", "zstd", "webp")


@click.command("doctor")
@click.option(
    "--scheduler",
    metavar="WHERE",
    show_default="none",
    help="also connect to this scheduler, tcp://HOST:PORT",
)
@json_option
@report_errors
def command(scheduler: str | None, as_json: bool) -> None:
    """Check the installation, the machine and a scheduler, and say what to install."""
    findings = [*_versions(), *_codecs(), _kernels(), *_machine()]
    if scheduler is not None:
        findings.append(_scheduler(scheduler))
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


def _versions() -> Iterator[Finding]:
    yield Finding("dask_slides", True, __version__)
    yield Finding("python", True, platform.python_version())
    for name in (*REQUIRED, *EXTRAS):
        package = f"'dask-slides[{EXTRAS[name]}]'" if name in EXTRAS else name
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = ""
        found, cure = version or "not installed", f"pip install {package}"
        yield Finding(name, bool(version), found, cure, needed=name in REQUIRED)


def _codecs() -> Iterator[Finding]:
    """Encode and decode a small picture with each codec."""
    try:
        import imagecodecs
    except ImportError:  # the check of versions names it
        return
    picture = np.full((32, 32, 3), 200, np.uint8)
    for name in CODECS:
        try:
            data = picture.tobytes() if name in ("lzw", "deflate", "zstd") else picture
            decoded = getattr(imagecodecs, f"{name}_decode")(
                getattr(imagecodecs, f"{name}_encode")(data)
            )
            pixels = np.frombuffer(decoded, np.uint8) if isinstance(decoded, bytes) else decoded
            good = bool(np.abs(np.asarray(pixels, float) - 200).max() < 8)
            found = "works" if good else "decodes wrongly"
        except Exception as error:  # imagecodecs has an error class for each codec
            good, found = False, f"fails ({type(error).__name__})"
        yield Finding(f"codec {name}", good, found, "pip install --upgrade imagecodecs")


def _kernels() -> Finding:
    start = time.perf_counter()
    loaded = numba_kernels(LOADING) is not None
    found = f"loaded in {time.perf_counter() - start:.1f} s" if loaded else "not loaded"
    return Finding("numba kernels", loaded, found, "pip install --upgrade numba", needed=False)


def _machine() -> Iterator[Finding]:
    memory, free = memory_limit() / 1e9, shutil.disk_usage(os.getcwd()).free / 1e9
    cure = "large slides need 2 GB or more"
    yield Finding("cores", True, str(CPU_COUNT))
    yield Finding("memory", memory >= 2, f"{memory:.1f} GB", cure, needed=False)
    yield Finding("free disk here", free >= 1, f"{free:.1f} GB", "free some space", needed=False)


def _scheduler(address: str) -> Finding:
    what = f"scheduler {address}"
    try:
        with client_at(address, "5s") as client:
            threads = client.nthreads()
            client.get_versions(check=True)
    except CONNECTION_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Finding(what, False, reason, "check the address and that the scheduler runs")
    found = f"{len(threads)} workers, {sum(threads.values())} threads"
    return Finding(what, bool(threads), found, "add workers")
