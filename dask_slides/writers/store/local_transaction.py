"""A store appears whole or not at all: written under a hidden name, then renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import MARK, BadTile, bad_tile_from_json
from dask_slides.errors import (
    OutputBusyError,
    OutputExistsError,
    SlideFormatError,
    SlideNotFoundError,
    StoreDamagedError,
)
from dask_slides.readers.remote.object_store import is_remote, open_group
from dask_slides.runtime import fork_safety
from dask_slides.writers.store import manifest, verification
from dask_slides.writers.store.bucket_transaction import (
    BucketTransaction,
    bucket_transaction,
    check_bucket,
)
from dask_slides.writers.store.disk_space import check_writable, telling_of_room, warn_if_short
from dask_slides.writers.store.marker import (
    KEEPING,
    KEY,
    LOCK,
    Target,
    differs_error,
    exists_error,
    foreign_error,
    mark_of,
    place_text,
    root_digest,
    with_manifest,
)


def bad_tiles_in(path: str) -> tuple[BadTile, ...]:
    """Return the bad tiles of its slide that the store at `path` names.

    SlideFormatError if those are none.
    """
    attributes = open_group(path).attrs.asdict()
    rows = attributes.get("bad_tiles") or attributes.get(MARK, {}).get("bad_tiles", ())
    try:
        return tuple(bad_tile_from_json(row) for row in rows)
    except TypeError as error:
        raise SlideFormatError(
            f"{path}: names bad tiles that are none ({error}); write the store again"
        ) from error


def statuses_of(path: str, mark: Mapping[str, Any]) -> dict[str, int]:
    """Return how many shards of the store at `path` have each status, as its manifest says."""
    manifest = mark.get("manifest")
    return {} if manifest is None else verification.statuses_in(path, manifest)


def check_target(path: str, overwrite: bool) -> None:
    """Raise unless a store can be written at `path`; nothing is touched."""
    if is_remote(path):
        check_bucket(path, overwrite)
        return
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise SlideNotFoundError(f"{path}: there is no folder {parent}; make it first")
    check_writable(path)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise exists_error(path)
    if os.path.islink(path) or mark_of(path) is None:
        raise foreign_error(path)


@dataclass(frozen=True)
class LocalTransaction:
    """A store that is being written."""

    path: str
    """Of the hidden folder."""
    resumed: bool
    """Whether its arrays are there, from a run before this one."""
    key: Mapping[str, Any]
    recorded: Mapping[str, Any]
    """Of the target."""

    @cached_property
    def journal(self) -> manifest.Journal:
        """What its tasks recorded."""
        return manifest.Journal(self.path)

    def create(self, zarr_format: int) -> Any:
        """Return the root group, made anew."""
        import zarr

        return zarr.create_group(self.path, zarr_format=zarr_format)

    def ready(self) -> None:
        """Say that all arrays are made: from now on tasks may be found done."""
        os.makedirs(os.path.join(self.path, manifest.JOURNAL), exist_ok=True)
        text = json.dumps(self.key, indent=0, sort_keys=True)
        manifest.write_whole(os.path.join(self.path, KEY), text.encode())

    def finish(self, first: str, shards: dict[str, int], attributes: Mapping[str, Any]) -> None:
        """Make the manifest, and give the root its attributes: what lacks them is unfinished.

        `attributes` hold the mark; `first` and `shards` are those of `records.seal`.
        """
        import zarr

        facts = manifest.write_manifest(self.journal, first, shards)
        zarr.open_group(self.path, mode="r+").attrs.update(
            with_manifest(attributes, facts, self.recorded)
        )


@contextmanager
def transaction(
    target: Target, key: Mapping[str, Any], nbytes: int
) -> Iterator[LocalTransaction | BucketTransaction]:
    """Yield the store to write to; it gets its name when the block ends well.

    `key` says what the store will be, by dotted name (see `facts_of`), `nbytes` how many bytes
    it has before compression. On an error or an interrupt what was written is removed, and an
    old store stays; with ``target.resume``, or where it was the cluster that failed, it is kept,
    and the next call to resume with the same key goes on from there.
    """
    path = target.place
    plain = json.loads(json.dumps({**key, **target.recorded}))
    if is_remote(path):
        with bucket_transaction(target, plain) as store:
            yield store
        return
    parent, name = os.path.split(path)
    # another key has another folder: a task that a cluster still runs for a call that failed
    # can only ever write what a call of the same key writes too
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
    hidden = os.path.join(parent, f".{name}.{digest}.partial")
    check_target(path, target.overwrite)
    warn_if_short(path, nbytes)
    with telling_of_room(path, parent, nbytes), locked(hidden, path):
        try:
            _put_right(hidden, path)
            resumed = target.resume and os.path.exists(os.path.join(hidden, KEY))
            if not resumed:
                _check_others(hidden, path, plain, target.resume)
                _emptied(hidden)
            yield LocalTransaction(hidden, resumed, plain, target.recorded)
            _publish(hidden, path, target.overwrite)
        except BaseException as error:
            keeping = target.resume or (isinstance(error, KEEPING) and _any_kept(hidden))
            if not (keeping and os.path.exists(os.path.join(hidden, KEY))):
                shutil.rmtree(hidden, ignore_errors=True)
            raise


def _any_kept(hidden: str) -> bool:
    """Return whether any task is recorded as done."""
    return bool(glob.glob(os.path.join(glob.escape(hidden), manifest.JOURNAL, "*.json")))


@contextmanager
def locked(hidden: str, path: str) -> Iterator[None]:
    """Hold the folder `hidden` of what is written to `path`.

    The system lets go of it if this process dies, whatever processes it made by fork.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two writers at a time are not told from each other
        os.makedirs(hidden, exist_ok=True)
        yield
        return
    while True:
        try:
            os.makedirs(hidden, exist_ok=True)
            file = os.open(os.path.join(hidden, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
            handle = fork_safety.closed_after_fork(file)
        except FileNotFoundError:  # published or removed this very moment
            continue
        except OSError:
            with suppress(OSError):  # of no use without its lock; others than empty ones stay
                os.rmdir(hidden)
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fork_safety.close(handle)
            raise OutputBusyError(
                f"{path}: is being written by another process; wait for it, or stop it"
            ) from None
        except OSError:  # a file system without locks: then it goes without
            pass
        if _is_same(handle, os.path.join(hidden, LOCK)):
            break
        fork_safety.close(handle)
    try:
        yield
    finally:
        fork_safety.close(handle)


def _is_same(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _emptied(hidden: str) -> None:
    for entry in os.scandir(hidden):
        if entry.name == LOCK:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _check_others(hidden: str, path: str, key: Mapping[str, Any], resume: bool) -> None:
    """Look at what was begun under `path` with another key: to resume it is an error.

    Else it is given up, if nobody is at it.
    """
    parent, name = os.path.split(path)
    for other in sorted(
        glob.glob(os.path.join(glob.escape(parent), f".{glob.escape(name)}.*.partial"))
    ):
        try:
            with open(os.path.join(other, KEY), "rb") as stream:
                before = json.load(stream)
        except (OSError, ValueError):
            continue
        if not resume:
            with suppress(OutputBusyError), locked(other, path):
                shutil.rmtree(other)
            continue
        raise differs_error(path, before, key)


def facts_of(value: Any, name: str) -> dict[str, Any]:
    """Return what tells `value` from another one: plain values by dotted name."""
    if is_dataclass(value) and not isinstance(value, type):
        found: dict[str, Any] = {name: type(value).__name__}
        for field in fields(value):
            found |= facts_of(getattr(value, field.name), f"{name}.{field.name}")
        return found
    if isinstance(value, da.Array):
        return {name: value.name}
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {name: [str(value.dtype), list(value.shape), digest]}
    if isinstance(value, bytes):
        return {name: hashlib.sha256(value).hexdigest()}
    return {name: value if isinstance(value, str | int | float | None) else repr(value)}


def _publish(hidden: str, target: str, overwrite: bool) -> None:
    """Give the store at `hidden` its name; flushed before and after.

    The lock goes along: whoever opens the hidden name after this makes a folder of his own.
    """
    manifest.flush_folders(hidden)
    check_target(target, overwrite)  # somebody may have been faster
    old = f"{hidden}.old"
    if os.path.lexists(target):
        os.rename(target, old)
    try:
        os.rename(hidden, target)
    except OSError as error:
        if os.path.lexists(old):
            os.rename(old, target)
            raise
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise OutputExistsError(f"{target}: is there already; choose another name") from error
    manifest.flush_folder(os.path.dirname(target))
    for name in (KEY, LOCK):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(target, name))
    shutil.rmtree(os.path.join(target, manifest.JOURNAL))
    if os.path.lexists(old):
        shutil.rmtree(old)


def _put_right(hidden: str, target: str) -> None:
    """Undo half of a publication that was killed: the store that was there comes back."""
    old = f"{hidden}.old"
    if os.path.lexists(old):
        if os.path.lexists(target):
            shutil.rmtree(old)
        else:
            os.rename(old, target)


def verify(path: Any) -> verification.Verified:
    """Prove that a store is complete and unchanged: every file is read.

    Parameters
    ----------
    path : str or path
        A store that `write` made, or its address in a bucket.

    Returns
    -------
    Verified
        ``.files``, ``.nbytes``, and ``.statuses``: how many shards are ok, blank, absent and
        corrupt.

    Raises
    ------
    SlideNotFoundError
        There is nothing at the path.
    SlideFormatError
        It is not a store of dask_slides, or one from before there were manifests.
    StoreDamagedError
        A file is missing, was added, or is not as it was written.
    """
    target = place_text(path)
    if not is_remote(target) and not os.path.exists(target):
        raise SlideNotFoundError(f"{target}: No such file or directory; check the path")
    mark = mark_of(target)
    if mark is None or "manifest" not in mark:
        raise SlideFormatError(
            f"{target}: not a finished store of dask_slides with a manifest; write it again"
        )
    verified, wrong = verification.check(target, mark["manifest"])
    attributes = open_group(target).attrs.asdict()
    if not wrong and root_digest(attributes) != mark["manifest"].get("root"):
        wrong.append("the attributes of the root have changed")
    if wrong:
        more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise StoreDamagedError(f"{target}: {wrong[0]}{more}; write the store again")
    return verified
