"""The scheduler, memory and progress of a command."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any

import dask
from dask.utils import parse_bytes

from dask_slides.cli.exit_codes import report_errors
from dask_slides.cli.options import Command, CommonOptions, common_options
from dask_slides.errors import SlideArgumentError
from dask_slides.runtime.local_cluster import local_cluster
from dask_slides.runtime.progress import progress_shown
from dask_slides.runtime.scheduler import MEMORY
from dask_slides.slide import Slide


def computing(command: Command) -> Command:
    """Add the common options; report errors, and apply --workers and --memory to all plans."""

    @wraps(command)
    def run(*, common: CommonOptions, **kwargs: Any) -> Any:
        memory = _memory(common)
        with dask.config.set({"num_workers": common.threads, MEMORY: memory}):
            return command(common=common, **kwargs)

    return common_options(report_errors(run))


@contextmanager
def scheduler(common: CommonOptions, megapixels: float) -> Iterator[None]:
    """Compute on the chosen scheduler and show progress inside the block."""
    quiet = common.quiet or common.as_json
    with nullcontext() if quiet else progress_shown(megapixels):
        if common.scheduler == "threads":
            with dask.config.set(scheduler="threads"):
                yield
            return
        from distributed.utils import silence_logging_cmgr

        level = logging.WARNING if common.verbose else logging.CRITICAL
        # a client that has lost its scheduler logs this when it is closed
        with silence_logging_cmgr(level), _cluster(common, level):
            yield


def megapixels(slide: Slide) -> float:
    """Return the size of a slide in megapixels, for the progress rate."""
    return float(slide.shape[0]) * float(slide.shape[1]) / 1e6


def _memory(common: CommonOptions) -> int | None:
    if common.memory is None:
        return None
    if common.scheduler not in ("threads", "processes"):
        raise SlideArgumentError(
            "--memory is for threads and processes; set the limits of a cluster on its workers"
        )
    try:
        memory = int(parse_bytes(common.memory))
    except ValueError:
        memory = 0
    if memory <= 0:
        raise SlideArgumentError(f"--memory {common.memory!r}: give a size such as 8GB")
    return memory


def _cluster(common: CommonOptions, level: int) -> Any:
    """Return a context that uses a local cluster, or the cluster at an address."""
    where = common.scheduler
    if where == "processes":
        return local_cluster(common.threads, _memory(common), level)
    if "://" in where:
        return _client(where, where)
    if not where.endswith(".json"):
        raise SlideArgumentError(
            f"--scheduler {where!r} is not known; use threads, processes, tcp://HOST:PORT "
            "or a scheduler file"
        )
    return _client(where, _address_in(where))


def _address_in(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return str(json.load(stream)["address"])
    except FileNotFoundError:
        raise SlideArgumentError(f"--scheduler {path}: there is no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SlideArgumentError(f"--scheduler {path}: is not a scheduler file") from error


@contextmanager
def _client(where: str, address: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(client_at(address, "10s"))
        except CONNECTION_ERRORS as error:
            reason = " ".join(str(error).split())
            raise SlideArgumentError(f"--scheduler {where} cannot be reached ({reason})") from error
        yield


CONNECTION_ERRORS = (OSError, ValueError, TypeError, RuntimeError)
"""Errors of a client that cannot connect. TypeError: it has no certificates for TLS. RuntimeError:
Dask's configuration requires encryption."""


@contextmanager
def client_at(address: str, timeout: str) -> Iterator[Any]:
    """Connect to the scheduler at an address inside the block, and compute on it."""
    from distributed import Client

    # a client that fails to connect leaves its setting, so it is undone here
    before = dask.config.get("scheduler", None)
    with dask.config.set(scheduler=before), Client(address, timeout=timeout) as client:
        yield client
