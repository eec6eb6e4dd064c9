"""A store that lies in a bucket: objects under a prefix, which have no folders and no renames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dask_slides.errors import SlideNotFoundError
from dask_slides.readers.remote.object_store import (
    call_store,
    exists,
    fetch,
    fetch_whole,
    head,
    list_objects,
    locate,
)

_PART = 2**23
"""Bytes of an object that are read at a time to take its checksum."""
_REQUESTS = 16
"""Requests of one call under way at a time."""


@dataclass(frozen=True)
class BucketPrefix:
    """The objects of a store. Every request may be made twice, and leaves the same behind."""

    url: str

    def _of(self, file: str) -> str:
        return f"{self.url}/{file}"

    def read(self, file: str) -> bytes:
        """Return the bytes of `file`; FileNotFoundError without it."""
        return fetch_whole(self._of(file))

    def read_each(self, files: Iterable[str]) -> Iterable[bytes]:
        """Return the bytes of each of `files`."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(self.read, files))

    def write(self, file: str, data: bytes) -> None:
        """Write `file`: an object is there whole, or not at all."""
        call_store(self._of(file), lambda store, key: _put(store, key, data))

    def there(self, file: str) -> bool:
        """Return whether there is a `file`."""
        return exists(self._of(file))

    def measured(self, file: str, fresh: bool = False) -> tuple[int, str]:
        """Return bytes and SHA-256 of `file`; what the server has taken it keeps."""
        url = self._of(file)
        facts = head(url)
        digest = hashlib.sha256()
        for start in range(0, facts[0], _PART):
            digest.update(fetch(url, start, min(start + _PART, facts[0]), facts))
        return facts[0], digest.hexdigest()

    def flush(self, files: Iterable[str]) -> None:
        """Return at once: what the server has taken it keeps."""

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and bytes of every object."""
        return list_objects(self.url)

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects below `folder`."""
        return [f"{folder}/{name}" for name, _ in list_objects(self._of(folder))]

    def remove(self, files: Iterable[str]) -> None:
        """Delete `files`, those that are there: a thousand with a request."""
        import obstore

        names = list(files)
        if names:
            call_store(
                self.url, lambda store, key: obstore.delete(store, [f"{key}/{n}" for n in names])
            )

    def remove_folder(self, name: str) -> None:
        """Delete all objects below `name`."""
        self.remove([file for file, _ in self.files() if file.startswith(f"{name}/")])

    def copy(self, files: Iterable[str], other: BucketPrefix) -> None:
        """Copy `files` to `other`, of the same bucket; no byte passes this machine."""
        import obstore

        def one(file: str) -> None:
            _, key = locate(other._of(file))
            call_store(self._of(file), lambda store, own: obstore.copy(store, own, key))

        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(one, files))

    def claim(self, file: str, data: bytes, instead: str | None = None) -> str | None:
        """Write `file` if it is not there, or is the version `instead`; return its version.

        None if another one was faster. Of two who claim one file at a time the server lets one
        succeed; `data` is of one claim only, so that one whose answer was lost is known again.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if instead is None else {"e_tag": instead}

        def request(store: Any, key: str) -> bool:
            try:
                _put(store, key, data, mode)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

        call_store(self._of(file), request)
        found = self.claimed(file)
        return found[1] if found is not None and found[0] == data else None

    def claimed(self, file: str) -> tuple[bytes, str] | None:
        """Return bytes and version of `file`; None without it."""
        import obstore

        def request(store: Any, key: str) -> tuple[bytes, str]:
            result = obstore.get(store, key)
            return bytes(result.bytes()), result.meta["e_tag"] or ""

        try:
            return call_store(self._of(file), request)
        except SlideNotFoundError:
            return None


def _put(store: Any, key: str, data: bytes, mode: Any = "overwrite") -> None:
    import obstore

    # in one request: an upload in parts leaves parts behind when it is killed
    obstore.put(store, key, data, mode=mode, use_multipart=False)
