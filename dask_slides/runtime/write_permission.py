"""Errors about what is to be written: it is there already, or has no folder or permission."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dask_slides.errors import OutputDeniedError, OutputExistsError, SlideNotFoundError

_DENIED = {
    errno.EROFS: "read-only file system",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
}


def exists_error(path: str) -> OutputExistsError:
    """Return the error for a path where something is; a folder cannot be overwritten."""
    advice = "" if os.path.isdir(path) else "overwrite it, or "
    return OutputExistsError(f"{path}: already exists; {advice}choose another name")


def check_parent(path: str) -> None:
    """Raise SlideNotFoundError unless the folder of `path` exists."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise SlideNotFoundError(f"{path}: {folder} is not a directory; create it first")


def check_writable(path: str) -> None:
    """Raise OutputDeniedError if nothing can be created beside `path`."""
    parent = os.path.dirname(path)
    if os.access(parent, os.W_OK | os.X_OK):
        return
    read_only = hasattr(os, "statvfs") and os.statvfs(parent).f_flag & os.ST_RDONLY
    raise _denied_error(path, errno.EROFS if read_only else errno.EACCES, parent)


@contextmanager
def permission_errors(path: str) -> Iterator[None]:
    """Raise OutputDeniedError for an error about permissions beside the absolute `path`.

    This includes its folder and the folders above, which cannot be created. An error that names a
    file elsewhere, such as the slide, is raised as it is.
    """
    parent = os.path.dirname(path)
    try:
        yield
    except OSError as error:  # errors of dask_slides have no errno
        if error.errno not in _DENIED:
            raise
        file = path if error.filename is None else os.path.abspath(str(error.filename))
        if _lies_in(file, parent):
            raise _denied_error(path, error.errno, parent) from error
        if _lies_in(path, file):
            folder = file if os.path.isdir(file) else os.path.dirname(file)
            raise _denied_error(path, error.errno, folder) from error
        raise


def _denied_error(path: str, number: int, folder: str) -> OutputDeniedError:
    return OutputDeniedError(
        f"{path}: {_DENIED[number]} ({folder}); change that, or choose another folder"
    )


def _lies_in(file: str, folder: str) -> bool:
    return file.startswith(os.path.join(folder, ""))
