"""A store in a bucket, which has no folders and no renames.

The objects of a new store have their final names from the beginning; the metadata of the root
group, without which Zarr opens nothing, is written last. A store that replaces another one is
written beside it, and copied by the server once it is complete. A lock is an object that the
server lets only one writer create.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dask_slides.errors import OutputBusyError, SlideNotFoundError
from dask_slides.readers.remote.object_store import (
    ATTEMPTS,
    call_store,
    exists,
    fetch,
    fetch_whole,
    head,
    list_objects,
    locate,
)
from dask_slides.writers.store.checksum import ALGORITHM, checksum_of
from dask_slides.writers.store.location import (
    JOURNAL,
    KEY,
    LOCK,
    ROOT,
    Content,
    Data,
    Location,
    parts_of,
)

Version = dict[str, str]
"""ETag and version of an object; Google compares the second, other servers the first."""

_PART = 2**23
"""Bytes of an object that are read at a time to compute its checksum."""
_REQUESTS = 16
"""Requests of one call that run at the same time."""


@dataclass(frozen=True)
class Bucket(Location):
    """The objects of a bucket that begin with a prefix. Any request can be repeated."""

    path: str

    def _address_of(self, file: str) -> str:
        return f"{self.path}/{file}"

    def read(self, file: str) -> bytes:
        """Return the bytes of `file`; FileNotFoundError if there is none."""
        return fetch_whole(self._address_of(file))

    def write(self, file: str, data: Content, flush: bool = True) -> None:
        """Write `file`; a server stores it whole or not at all."""
        content = b"".join(parts_of(data))
        call_store(self._address_of(file), lambda store, key: _put(store, key, content), ATTEMPTS)

    def flush(self, files: Iterable[str]) -> None:
        """Do nothing: a written object is already stored."""

    def measure(self, file: str, algorithm: str = ALGORITHM) -> tuple[int, str]:
        """Return the size and the checksum of `file`."""
        url = self._address_of(file)
        facts = head(url)
        size = facts[0]
        starts = range(0, size, _PART)
        parts = (fetch(url, start, min(start + _PART, size), facts) for start in starts)
        return size, checksum_of(parts, algorithm)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every object."""
        return list_objects(self.path)

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects below `folder`."""
        return [f"{folder}/{name}" for name, _ in list_objects(self._address_of(folder))]

    def remove(self, files: Iterable[str]) -> None:
        """Delete `files`, many per request; missing ones are ignored."""
        names = list(files)
        try:
            self._delete(names)
        except SlideNotFoundError:  # not all servers ignore missing ones, and the rest is left
            for name in names:
                with suppress(SlideNotFoundError):
                    self._delete([name])

    def _delete(self, names: list[str]) -> None:
        import obstore

        if names:
            call_store(
                self.path,
                lambda store, key: obstore.delete(store, [f"{key}/{name}" for name in names]),
                ATTEMPTS,
            )

    def remove_folder(self, folder: str) -> None:
        """Delete all objects below `folder`."""
        self.remove(self.names(folder))

    def clear(self) -> None:
        """Delete all objects except `KEY` and `LOCK`, first the records of finished tasks."""
        self.remove_folder(JOURNAL)
        self.remove([file for file, _ in self.files() if file not in (KEY, LOCK)])

    def delete(self) -> None:
        """Delete an unfinished store; objects without a key were written by others."""
        if self._has(KEY):
            self.clear()
            self.remove([KEY])

    def is_occupied(self) -> bool:
        """Return whether there is a root group, or objects that are not of an unfinished store."""
        names = {file for file, _ in self.files()} - {LOCK}
        return bool(names) and (KEY not in names or not names.isdisjoint(ROOT))

    def staging(self, key: Mapping[str, Any], overwrite: bool) -> Bucket:
        """Return this location for a new store, and one beside it to replace an old store."""
        beside = self._beside()
        return beside if beside._has(KEY) or (overwrite and self._has(*ROOT)) else self

    def unfinished(self) -> Sequence[Bucket]:
        """Return the location beside this one, and this one if it has no root group."""
        return [self._beside()] if self._has(*ROOT) else [self._beside(), self]

    def _beside(self) -> Bucket:
        parent, _, name = self.path.rpartition("/")
        return Bucket(f"{parent}/.{name}.partial")

    def _has(self, *files: str) -> bool:
        """Return whether there is any of `files`."""
        return any(exists(self._address_of(file)) for file in files)

    @contextmanager
    def claim(self, staging: Bucket, resume: bool) -> Iterator[Callable[[], bool]]:
        """Create the lock; with `resume`, take over the lock of a process that may be dead."""
        owner = {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
        since = datetime.now(UTC).isoformat(timespec="seconds")
        content = json.dumps({**owner, "since": since}).encode()
        if not self.create_lock(content):
            other = self.read_lock()
            if other is None or not resume or not self.create_lock(content, instead_of=other[1]):
                raise OutputBusyError(_busy_message(self.path, other))
        try:
            yield lambda: self._has_lock(content)
        finally:
            with suppress(Exception):  # an error of the block is more informative
                if self._has_lock(content):
                    self.remove([LOCK])

    def create_lock(self, data: bytes, instead_of: Version | None = None) -> bool:
        """Write the lock if there is none, or in place of the version `instead_of`.

        Return whether it was written: the server lets only one of two writers succeed. The server's
        answer may be lost, so the lock is read again; `data` is different for every writer.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if instead_of is None else instead_of

        def request(store: Any, key: str) -> None:
            with suppress(AlreadyExistsError, PreconditionError):
                _put(store, key, data, mode)

        call_store(self._address_of(LOCK), request, ATTEMPTS)
        return self._has_lock(data)

    def read_lock(self) -> tuple[bytes, Version] | None:
        """Return content and version of the lock; None if there is none."""
        import obstore

        def request(store: Any, key: str) -> tuple[bytes, Version]:
            result = obstore.get(store, key)
            version = {"e_tag": result.meta["e_tag"] or ""}
            if result.meta["version"]:
                version["version"] = result.meta["version"]
            return bytes(result.bytes()), version

        try:
            return call_store(self._address_of(LOCK), request, ATTEMPTS)
        except SlideNotFoundError:
            return None

    def _has_lock(self, content: bytes) -> bool:
        found = self.read_lock()
        return found is not None and found[0] == content

    def publish(self, staging: Bucket, root: Mapping[str, Data], check: Callable[[], None]) -> None:
        """Copy the objects if they replace another store, and write the root group last."""
        check()
        if staging != self:
            self.write(KEY, staging.read(KEY))
            self.remove(ROOT)
            self.clear()
            names = [file for file, _ in staging.files() if not file.startswith(".")]
            staging._copy(names, self)
        for file, data in root.items():
            self.write(file, data)
        self.remove_folder(JOURNAL)
        self.remove([KEY])
        if staging != self:
            staging.delete()

    def _copy(self, files: Iterable[str], other: Bucket) -> None:
        """Copy `files` to `other` in the same bucket, without reading them here."""
        import obstore

        def copy(file: str) -> None:
            _, key = locate(other._address_of(file))
            call_store(
                self._address_of(file), lambda store, own: obstore.copy(store, own, key), ATTEMPTS
            )

        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(copy, files))

    def must_keep(self, staging: Bucket) -> bool:
        """Return whether `staging` is finished, or the old store was already deleted."""
        return self._has(*ROOT) if staging == self else self._has(KEY)


def _put(store: Any, key: str, data: Data, mode: Any = "overwrite") -> None:
    import obstore

    # in one request, as an upload in parts leaves parts behind if it is killed
    obstore.put(store, key, data, mode=mode, use_multipart=False)


def _busy_message(path: str, other: tuple[bytes, Version] | None) -> str:
    writer = "another process"
    if other is not None:
        with suppress(ValueError, KeyError, TypeError):
            facts = json.loads(other[0])
            writer = f"process {facts['process']} on {facts['host']} since {facts['since']}"
    return f"{path}: is being written by {writer}; wait for it, or resume if that process is dead"
