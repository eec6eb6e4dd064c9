"""What a disk has room for, and its errors as ours: full, over a quota, not to be written."""

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
    """Raise OutputDeniedError if nothing can be made beside `path`."""
    parent = os.path.dirname(path)
    if os.access(parent, os.W_OK | os.X_OK):
        return
    read_only = hasattr(os, "statvfs") and os.statvfs(parent).f_flag & os.ST_RDONLY
    reason = _DENIED[errno.EROFS if read_only else errno.EACCES]
    raise OutputDeniedError(_denied(path, reason, parent))


def warn_if_short(path: str, nbytes: int) -> None:
    """Warn if `nbytes` before compression are more than what is free; they may fit for all that."""
    free = shutil.disk_usage(os.path.dirname(path)).free
    if nbytes > free:
        warnings.warn(
            f"{path}: up to {bytes_text(nbytes)} before compression are to be written, and "
            f"{bytes_text(free)} are free; make room if it does not suffice",
            OutputRoomWarning,
            stacklevel=2,
        )


@contextmanager
def telling_of_room(path: str, parent: str, nbytes: int) -> Iterator[None]:
    """Raise errors of the system about room and permission in `parent` as ours, about `path`.

    `nbytes` is what is to be written, before compression. An error about permission that names
    a file elsewhere, such as the slide, is left alone.
    """
    try:
        yield
    except OSError as error:  # those of ours have no number
        if error.errno in _FULL:
            raise OutputFullError(
                f"{path}: {_FULL[error.errno]}: up to {bytes_text(nbytes)} before compression are "
                f"to be written, {_left(parent)}; make room and do the same again"
            ) from error
        if error.errno in _DENIED and _lies_in(error.filename, parent):
            raise OutputDeniedError(_denied(path, _DENIED[error.errno], parent)) from error
        raise


def _denied(path: str, reason: str, parent: str) -> str:
    return f"{path}: {reason} ({parent}); change that, or choose another place"


def _lies_in(file: object, folder: str) -> bool:
    return file is None or str(file) == folder or str(file).startswith(folder + os.sep)


def _left(folder: str) -> str:
    """Return what is free in words; names of files can be used up before bytes are."""
    free = f"{bytes_text(shutil.disk_usage(folder).free)} are free"
    if hasattr(os, "statvfs"):
        system = os.statvfs(folder)
        if system.f_files and system.f_favail < 1000:
            free += f" and {system.f_favail:,} more files"
    return free
