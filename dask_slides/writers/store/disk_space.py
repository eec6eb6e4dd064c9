"""Check the space of a disk, and translate system errors about space and permissions."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dask_slides.errors import OutputDeniedError, OutputFullError, OutputRoomWarning
from dask_slides.plots.pictures import bytes_text

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EFBIG: "a file would be larger than this process or its disk may write",
}
_DENIED = {
    errno.EROFS: "read-only file system",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
}


def check_writable(path: str) -> None:
    """Raise OutputDeniedError if nothing can be created beside `path`."""
    parent = os.path.dirname(path)
    if os.access(parent, os.W_OK | os.X_OK):
        return
    read_only = hasattr(os, "statvfs") and os.statvfs(parent).f_flag & os.ST_RDONLY
    reason = _DENIED[errno.EROFS if read_only else errno.EACCES]
    raise OutputDeniedError(_denied_message(path, reason, parent))


@contextmanager
def disk_errors(path: str, nbytes: int) -> Iterator[None]:
    """Translate errors about space and permissions beside `path`; warn if space may be short.

    `nbytes` are to be written, before compression. An error about permissions that names a file
    elsewhere, such as the slide, is raised as it is.
    """
    parent = os.path.dirname(path)
    _warn_if_short(path, parent, nbytes)
    try:
        yield
    except OSError as error:  # errors of dask_slides have no errno
        if error.errno in _FULL:
            raise OutputFullError(
                f"{path}: {_FULL[error.errno]}: it needs up to {bytes_text(nbytes)} before "
                f"compression, and {_free_text(parent)}; make room and try again"
            ) from error
        if error.errno in _DENIED and _lies_in(error.filename, parent):
            raise OutputDeniedError(_denied_message(path, _DENIED[error.errno], parent)) from error
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


def _denied_message(path: str, reason: str, parent: str) -> str:
    return f"{path}: {reason} ({parent}); change that, or choose another folder"


def _lies_in(file: object, folder: str) -> bool:
    return file is None or str(file) == folder or str(file).startswith(folder + os.sep)


def _free_text(folder: str) -> str:
    """Describe the free space; a disk can run out of inodes before it runs out of bytes."""
    free = f"{bytes_text(shutil.disk_usage(folder).free)} are free"
    if hasattr(os, "statvfs"):
        system = os.statvfs(folder)
        if system.f_files and system.f_favail < 1000:
            free += f" and {system.f_favail:,} more files"
    return free
