"""Check the space of a disk, and translate system errors about it."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dask_slides.errors import OutputFullError, OutputRoomWarning
from dask_slides.plots.pictures import bytes_text
from dask_slides.runtime.write_permission import permission_errors

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EFBIG: "a file would be larger than this process or its disk may write",
}


@contextmanager
def disk_errors(path: str, nbytes: int) -> Iterator[None]:
    """Translate errors about space and permissions beside `path`; warn if space may be short.

    `nbytes` are to be written, before compression. An error about permissions that names a file
    elsewhere, such as the slide, is raised as it is.
    """
    parent = os.path.dirname(path)
    _warn_if_short(path, parent, nbytes)
    try:
        with permission_errors(path):
            yield
    except OSError as error:  # errors of dask_slides have no errno
        if error.errno in _FULL:
            raise OutputFullError(
                f"{path}: {_FULL[error.errno]}: it needs up to {bytes_text(nbytes)} before "
                f"compression, and {_free_text(parent)}; make room and try again"
            ) from error
        raise


def _warn_if_short(path: str, parent: str, nbytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if nbytes > free:
        warnings.warn(
            f"{path}: needs up to {bytes_text(nbytes)} before compression, and "
            f"{bytes_text(free)} are free; make room if that is not enough",
            OutputRoomWarning,
            stacklevel=2,
        )


def _free_text(folder: str) -> str:
    """Describe the free space; a disk can run out of inodes before it runs out of bytes."""
    free = f"{bytes_text(shutil.disk_usage(folder).free)} are free"
    if hasattr(os, "statvfs"):
        system = os.statvfs(folder)
        if system.f_files and system.f_favail < 1000:
            free += f" and {system.f_favail:,} more files"
    return free
