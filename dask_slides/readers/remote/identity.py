"""Identify the version of a file that was opened, to detect that the file was replaced."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dask_slides.core.arguments import is_remote
from dask_slides.errors import (
    SlideChangedError,
    SlideNotFoundError,
)
from dask_slides.readers.remote.object_store import head


@dataclass(frozen=True)
class Identity:
    """Size, time of change and version of a file."""

    size: int
    mtime_ns: int
    version: str = ""
    """ETag of a remote file."""


def identify(path: str) -> Identity:
    """Return the identity of the file at `path`, which may be an address."""
    if is_remote(path):
        return Identity(*head(path))
    try:
        status = os.stat(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SlideNotFoundError(f"{path}: {reason}; check the path") from error
    return Identity(status.st_size, status.st_mtime_ns)


def check_identity(path: str, identity: Identity) -> None:
    """Raise SlideChangedError unless the file at `path` is the one that was opened."""
    if identify(path) != identity:
        raise SlideChangedError(f"{path}: the file changed since it was opened; open it again")
