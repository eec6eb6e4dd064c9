"""Files of exports: they appear under their names only when they are complete."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dask_slides.errors import OutputExistsError
from dask_slides.runtime.write_permission import check_parent, check_writable, exists_error
from dask_slides.writers.store.disk_space import disk_errors


@contextmanager
def new_file(path: str, overwrite: bool, nbytes: int = 0) -> Iterator[str]:
    """Yield the name of a temporary file beside `path`, which is renamed to it at the end.

    The temporary name has the suffix of `path`. Nothing is left after an error. `nbytes` is an
    upper bound of the size, for the warning about a full disk.
    """
    check_new(path, overwrite)
    path = os.path.abspath(path)
    folder, name = os.path.split(path)
    check_parent(path)
    check_writable(path)
    partial = os.path.join(folder, f".{uuid.uuid4().hex}.partial.{name}")
    try:
        with disk_errors(path, nbytes):
            yield partial
            os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def check_new(path: str, overwrite: bool) -> None:
    """Raise OutputExistsError if `path` exists, unless it is a file that may be replaced."""
    if os.path.lexists(path) and not (overwrite and os.path.isfile(path)):
        raise exists_error(path)


@contextmanager
def new_folder(path: str, nbytes: int = 0) -> Iterator[str]:
    """Yield a temporary folder beside `path`, which is renamed to it at the end.

    A folder that exists is replaced only if it is empty. Nothing is left after an error. `nbytes`
    is an upper bound of the size, for the warning about a full disk.
    """
    path = os.path.abspath(path)
    check_new_folder(path)
    with staging_folder(path, nbytes) as staging:
        partial = os.path.join(staging, os.path.basename(path))
        os.mkdir(partial)
        yield partial
        check_new_folder(path)  # again, as another process may have written there meanwhile
        with suppress(FileNotFoundError):
            os.rmdir(path)
        os.rename(partial, path)


def check_new_folder(path: str) -> None:
    """Raise OutputExistsError if `path` exists, unless it is an empty folder."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        raise OutputExistsError(f"{path}: already exists and is not a folder; choose another name")
    if os.listdir(path):
        raise OutputExistsError(f"{path}: is not empty; choose another name or move it away")


@contextmanager
def staging_folder(path: str, nbytes: int = 0) -> Iterator[str]:
    """Yield a hidden folder beside `path`, and remove it with all that is left in it at the end.

    Files that are complete are renamed out of it.
    """
    check_parent(path)
    check_writable(path)
    staging = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.partial")
    try:
        with disk_errors(path, nbytes):
            os.mkdir(staging)
            yield staging
    finally:
        _remove(staging)


def _remove(folder: str) -> None:
    for _ in range(3):  # tasks of a cluster that were cancelled may still write files
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
