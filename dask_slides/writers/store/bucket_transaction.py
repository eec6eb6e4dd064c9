"""A store in a bucket: whole or not there, without a rename.

Its objects lie under their final names from the beginning; what makes a group of them, the
metadata of the root, comes last, after the manifest. A claim is an object that the server lets
only one writer make. To replace a store, the new one is written beside it and copied by the
server once it is complete.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from dask_slides.errors import OutputBusyError
from dask_slides.writers.store import manifest
from dask_slides.writers.store.bucket_prefix import BucketPrefix
from dask_slides.writers.store.marker import (
    KEEPING,
    KEY,
    LOCK,
    Target,
    differs_error,
    exists_error,
    foreign_error,
    mark_of,
    with_manifest,
)


@dataclass(frozen=True)
class BucketTransaction:
    """A store that is being written to a bucket."""

    path: str
    """Address that tasks write to."""
    key: Mapping[str, Any]
    recorded: Mapping[str, Any]
    """Of the target."""
    resumed: bool = False
    """Metadata is made anew each time: the same bytes again."""
    made: dict[str, Any] = field(default_factory=dict)
    """Metadata and small arrays, as Zarr made them in memory."""
    sent: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def journal(self) -> manifest.Journal:
        """What its tasks recorded."""
        return manifest.Journal(self.path)

    def create(self, zarr_format: int) -> Any:
        """Return the root group, in memory."""
        import zarr
        from zarr.storage import MemoryStore

        return zarr.create_group(MemoryStore(self.made), zarr_format=zarr_format)

    def ready(self) -> None:
        """Send what was made but for the root: from now on tasks may write."""
        for file, buffer in self.made.items():
            data = buffer.to_bytes()
            if file not in manifest.ROOT and self.sent.get(file) != data:
                BucketPrefix(self.path).write(file, data)
                self.sent[file] = data

    def finish(self, first: str, shards: dict[str, int], attributes: Mapping[str, Any]) -> None:
        """Make the manifest, and the attributes of the root, which is not sent yet."""
        import zarr
        from zarr.storage import MemoryStore

        self.ready()
        facts = manifest.write_manifest(self.journal, first, shards)
        root = zarr.open_group(MemoryStore(self.made), mode="r+")
        root.attrs.update(with_manifest(attributes, facts, self.recorded))

    def publish(self, place: BucketPrefix) -> None:
        """Send the root; the file that makes a group of it is the last one."""
        for file in reversed(manifest.ROOT):
            if file in self.made:
                place.write(file, self.made[file].to_bytes())


def check_bucket(url: str, overwrite: bool) -> None:
    """Raise unless a store can be written at `url`; nothing is touched."""
    place = BucketPrefix(url)
    names = {file for file, _ in place.files()}
    if names & set(manifest.ROOT):
        if not overwrite:
            raise exists_error(url)
        if mark_of(url) is None:
            raise foreign_error(url)
    elif names - {LOCK} and KEY not in names:
        raise foreign_error(url)


@contextmanager
def bucket_transaction(target: Target, key: Mapping[str, Any]) -> Iterator[BucketTransaction]:
    """Yield the store to write to; it is one when the block ends well.

    On an error or an interrupt what was written is removed, and an old store stays; with
    ``target.resume``, or where it was the cluster that failed, it is kept, and the next call to
    resume with the same key goes on from there.
    """
    url = target.place
    final = BucketPrefix(url)
    check_bucket(url, target.overwrite)
    with _claim(final, target, key) as is_ours:
        check_bucket(url, target.overwrite)  # somebody may have been faster
        aside = BucketPrefix(_beside(url))
        replaces = target.overwrite and (_has_root(final) or aside.there(KEY))
        place = aside if replaces else final
        if not (target.resume and _key_of(place) == key):
            _empty(place)
        place.write(KEY, json.dumps(key, indent=0, sort_keys=True).encode())
        store = BucketTransaction(place.url, key, target.recorded)
        keeps = target.resume
        try:
            yield store
            if not is_ours():
                raise _taken_over(url)
            if replaces:
                keeps = True  # from here on the old one is gone
                _replace(final, aside, key)
            store.publish(final)
        except BaseException as error:
            ours = is_ours()
            if isinstance(error, Exception) and not ours:  # what failed was another's doing
                raise _taken_over(url) from error
            if ours and not (keeps or isinstance(error, KEEPING)):
                _empty(place)
                place.remove([KEY])
            raise
        _tidy(final)
        if replaces:
            _empty(aside)
            aside.remove([KEY])


def _beside(url: str) -> str:
    parent, _, name = url.rpartition("/")
    return f"{parent}/.{name}.partial"


def _has_root(place: BucketPrefix) -> bool:
    return any(place.there(file) for file in manifest.ROOT)


def _key_of(place: BucketPrefix) -> Mapping[str, Any] | None:
    """Return what a store that was begun is of."""
    try:
        key: Mapping[str, Any] = json.loads(place.read(KEY))
    except FileNotFoundError:
        return None
    return key


def _empty(place: BucketPrefix) -> None:
    """Remove all that was written, but for what says that it is ours.

    What tells that a task is done goes first: nothing is taken for done that is gone.
    """
    place.remove_folder(manifest.JOURNAL)
    place.remove([file for file, _ in place.files() if file not in (KEY, LOCK)])


def _tidy(place: BucketPrefix) -> None:
    """Remove what a store needed while it was written."""
    place.remove_folder(manifest.JOURNAL)
    place.remove([KEY])


def _replace(final: BucketPrefix, aside: BucketPrefix, key: Mapping[str, Any]) -> None:
    """Put the objects of `aside` in the place of those of `final`, but for the root."""
    final.write(KEY, json.dumps(key, indent=0, sort_keys=True).encode())
    final.remove(manifest.ROOT)
    _empty(final)
    aside.copy([file for file, _ in aside.files() if manifest.is_store_file(file)], final)


@contextmanager
def _claim(place: BucketPrefix, target: Target, key: Mapping[str, Any]) -> Iterator[Any]:
    """Hold the claim of a store; yield what tells whether it is still held."""
    if target.resume:
        for begun in (place, BucketPrefix(_beside(place.url))):
            before = _key_of(begun)
            if before is not None and before != key:
                raise differs_error(place.url, before, key)
    who = {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
    mine = json.dumps({**who, "since": datetime.now(UTC).isoformat(timespec="seconds")}).encode()
    other = None
    if place.claim(LOCK, mine) is None:
        other = place.claimed(LOCK)
        stale = target.resume and other is not None
        if not stale or place.claim(LOCK, mine, instead=other[1]) is None:  # type: ignore[index]
            raise OutputBusyError(_busy(place.url, other))
    try:
        yield lambda: _holds(place, mine)
    finally:
        with suppress(Exception):  # the error of the block, if there is one, says more
            if _holds(place, mine):
                place.remove([LOCK])


def _holds(place: BucketPrefix, mine: bytes) -> bool:
    found = place.claimed(LOCK)
    return found is not None and found[0] == mine


def _taken_over(url: str) -> OutputBusyError:
    return OutputBusyError(f"{url}: was taken over by another process that resumed it; wait for it")


def _busy(url: str, other: tuple[bytes, str] | None) -> str:
    who = "another process"
    if other is not None:
        with suppress(ValueError, KeyError, TypeError):
            facts = json.loads(other[0])
            who = f"process {facts['process']} of {facts['host']} since {facts['since']}"
    return (
        f"{url}: is being written by {who}; wait for it, or go on with resume if that one is dead"
    )
