"""Files of exports: they appear under their names only when they are complete."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dask_slides.errors import OutputExistsError, SlideNotFoundError
from dask_slides.writers.store.disk_space import check_writable, disk_errors


@contextmanager
def new_file(path: str, overwrite: bool, nbytes: int = 0) -> Iterator[str]:
    """Yield the name of a temporary file beside `path`, which is renamed to it at the end.

    The temporary name has the suffix of `path`. Nothing is left after an error. `nbytes` is an
    upper bound of the size, for the warning about a full disk.
    """
    check_new(path, overwrite)
    path = os.path.abspath(path)
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise SlideNotFoundError(f"{path}: {folder} is not a directory; create it first")
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
        advice = "choose another name" if os.path.isdir(path) else "give overwrite=True"
        raise OutputExistsError(f"{path}: already exists; {advice}")
