"""What is installed and works here: versions, codecs, extras, cores, memory, a scheduler."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

import numpy as np
from dask.system import CPU_COUNT

from dask_slides.core.version import __version__
from dask_slides.runtime import memory_limit

REQUIRED = ("dask", "imagecodecs", "numpy", "pillow", "scikit-image", "scipy", "tifffile", "zarr")
EXTRAS = {
    "distributed": ("distributed", "to run on a cluster"),
    "matplotlib": ("plot", "to draw in notebooks"),
    "obstore": ("cloud", "for s3:// and https:// slides"),
}
CODECS = ("jpeg", "jpeg2k", "lzw", "deflate", "zstd", "webp")


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    good: bool
    found: str
    cure: str = ""
    needed: bool = True
    """Whether dask_slides cannot do its work without it."""


def examine(scheduler: str | None = None) -> list[Finding]:
    """Look at everything; connect to `scheduler` if one is named."""
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
    """Encode and decode a small picture with each codec: installed is not yet working."""
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
        except Exception as error:  # imagecodecs raises a class of its own for each codec
            good, found = False, f"fails ({type(error).__name__})"
        yield Finding(f"codec {name}", good, found, "pip install --upgrade imagecodecs")


def _machine() -> Iterator[Finding]:
    yield Finding("cores", True, str(CPU_COUNT))
    memory = memory_limit.memory()
    if memory is not None:
        yield Finding(
            "memory",
            memory >= 2e9,
            f"{memory / 1e9:.1f} GB",
            "2 GB or more are needed for work on large slides",
            needed=False,
        )
    free = shutil.disk_usage(os.getcwd()).free / 1e9
    yield Finding("free disk here", free >= 1, f"{free:.1f} GB", "make room", needed=False)


def _scheduler(address: str) -> Finding:
    what = f"scheduler {address}"
    if address == "threads":
        return Finding(what, True, "part of dask")
    if find_spec("distributed") is None:
        return Finding(
            what, False, "distributed is missing", "pip install 'dask-slides[distributed]'"
        )
    if address == "processes":
        return Finding(what, True, "distributed starts them")
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
