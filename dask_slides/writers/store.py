"""A store appears whole or not at all: written under a hidden name, then renamed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dask_slides._version import __version__
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideNotFoundError

MARK = "dask_slides"
"""Attribute that tells a store of ours from anybody else's."""


def marked(kind: str, **facts: Any) -> dict[str, Any]:
    """Return the attribute that says what a store of ours is."""
    return {MARK: {"kind": kind, "version": __version__, **facts}}


def mark_of(path: str) -> Mapping[str, Any] | None:
    """Return the mark of the store at `path`, or None if it is not one of ours."""
    import zarr

    try:
        mark = zarr.open_group(path, mode="r").attrs.get(MARK)
    except Exception:  # zarr has no one class for "not a group"; then it is not ours
        return None
    return mark if isinstance(mark, Mapping) else None


def check_target(path: str, overwrite: bool) -> None:
    """Raise unless a store can be written at `path`; nothing is touched."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise SlideNotFoundError(f"{path}: there is no folder {parent}; make it first")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputExistsError(f"{path}: is there already; choose another name or overwrite")
    if os.path.islink(path) or mark_of(path) is None:
        raise OutputExistsError(
            f"{path}: was not written by dask_slides and is not overwritten; move it away"
        )


@contextmanager
def new_store(path: Any, overwrite: bool) -> Iterator[str]:
    """Yield the hidden path to write to; it becomes `path` when the block ends well.

    On an error or an interrupt what was written is removed, and an old store stays.
    """
    try:
        target = os.path.abspath(os.fspath(path))
    except TypeError:
        raise SlideArgumentError(f"{path!r} is not a path; give where to write") from None
    check_target(target, overwrite)
    parent, name = os.path.split(target)
    hidden = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield hidden
        _publish(hidden, target, overwrite)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def _publish(hidden: str, target: str, overwrite: bool) -> None:
    check_target(target, overwrite)  # somebody may have been faster
    if not os.path.lexists(target):
        os.rename(hidden, target)
        return
    old = f"{hidden}.old"
    os.rename(target, old)
    try:
        os.rename(hidden, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)
