"""What is known of each file of a store that is written: size, checksum, what its pixels are.

A task writes whole shards, flushes them, and leaves one small record beside them under a
name of its own. A run that is killed loses the tasks it was at and no more: the same call
again finds the records of the others. When all is there the records become the manifest of
the store, which proves it complete and unchanged.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from dask_slides.core.bad_tiles import (
    STATUSES,
    BadTile,
    MissingRegion,
    missing_from_json,
    missing_to_json,
    sorted_bad_tiles,
)
from dask_slides.readers.remote.object_store import is_remote
from dask_slides.writers.store.bucket_prefix import BucketPrefix

JOURNAL = ".journal"
"""Folder of the records of tasks, in the hidden folder of a store that is being written."""
MANIFEST = "manifest.json"
"""In the folder of the first array: in that of a group Zarr would warn of it."""
ROOT = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
"""Files of the root, which hold the checksum of the manifest and are in nobody's."""


@dataclass(frozen=True)
class Record:
    """One file of a store."""

    file: str
    """Its path in the store, with slashes."""
    size: int
    """Bytes."""
    sha256: str
    status: str = ""
    """Of a shard: "corrupt" or "absent" where pixels show the fill for such a tile of the slide,
    "blank" where all of them are the same, else "ok"."""


class Location(Protocol):
    """Where a store lies. Names of its files have slashes."""

    def read(self, file: str) -> bytes:
        """Return the bytes of `file`; FileNotFoundError without it."""
        ...

    def read_each(self, files: Iterable[str]) -> Iterable[bytes]:
        """Return the bytes of each of `files`."""
        ...

    def write(self, file: str, data: bytes) -> None:
        """Write `file`, all of it or nothing."""
        ...

    def measured(self, file: str, fresh: bool = False) -> tuple[int, str]:
        """Return bytes and SHA-256 of `file`; a `fresh` one begins its way to the disk."""
        ...

    def flush(self, files: Iterable[str]) -> None:
        """Wait until `files` are on the disk."""
        ...

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and bytes of every file."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names of the files of a folder; none without it."""
        ...

    def remove(self, files: Iterable[str]) -> None:
        """Delete `files`."""
        ...

    def remove_folder(self, name: str) -> None:
        """Delete all files of a folder, if there is one."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A store on a disk."""

    path: str

    def read(self, file: str) -> bytes:
        """Return the bytes of `file`."""
        with open(os.path.join(self.path, file), "rb") as stream:
            return stream.read()

    def read_each(self, files: Iterable[str]) -> Iterable[bytes]:
        """Return the bytes of each of `files`."""
        return map(self.read, files)

    def write(self, file: str, data: bytes) -> None:
        """Write `file` under another name first, and flush it."""
        write_whole(os.path.join(self.path, file), data)

    def measured(self, file: str, fresh: bool = False) -> tuple[int, str]:
        """Return bytes and SHA-256 of `file`; the system begins to write a `fresh` one out."""
        with open(os.path.join(self.path, file), "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
            if fresh and hasattr(os, "posix_fadvise"):  # then files are not waited for one by one
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return size, digest

    def flush(self, files: Iterable[str]) -> None:
        """Wait until `files` are on the disk."""
        for file in files:
            # Windows flushes only what may be written to
            with open(os.path.join(self.path, file), "r+b") as stream:
                _flush(stream.fileno())

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and bytes of every file."""
        for folder, _, names in os.walk(self.path):
            inside = os.path.relpath(folder, self.path).replace(os.sep, "/")
            for name in names:
                with suppress(FileNotFoundError):  # one that had its name for a moment
                    size = os.path.getsize(os.path.join(folder, name))
                    yield name if inside == "." else f"{inside}/{name}", size

    def names(self, folder: str) -> list[str]:
        """Return the names of the files of a folder; none without it."""
        try:
            return [f"{folder}/{name}" for name in os.listdir(os.path.join(self.path, folder))]
        except FileNotFoundError:
            return []

    def remove(self, files: Iterable[str]) -> None:
        """Delete `files`."""
        for file in files:
            os.unlink(os.path.join(self.path, file))

    def remove_folder(self, name: str) -> None:
        """Delete all files of a folder, if there is one."""
        shutil.rmtree(os.path.join(self.path, name), ignore_errors=True)


def location_of(store: str) -> Location:
    """Return where the store at a path or an address lies."""
    return BucketPrefix(store) if is_remote(store) else LocalFolder(store)


def record(store: str, file: str, status: str = "") -> Record:
    """Return the record of a file of `store` that was written just now; it is not flushed yet."""
    return Record(file, *location_of(store).measured(file, fresh=True), status)


def record_of(store: str, file: str, data: bytes, status: str = "") -> Record:
    """Write a file of `store`, and return its record."""
    location_of(store).write(file, data)
    return Record(file, len(data), hashlib.sha256(data).hexdigest(), status)


def record_task(
    store: str,
    task: str,
    pixels: int,
    records: Iterable[Record],
    holes: Iterable[MissingRegion] = (),
) -> None:
    """Record that `task` is done: `pixels` are written, in the files of `records`.

    `holes` are those of the image, in pixels of level 0.
    """
    place, records = location_of(store), list(records)
    place.flush(one.file for one in records)  # first: what is recorded is not written again
    done: dict[str, Any] = {"pixels": pixels, "files": [asdict(one) for one in records]}
    if holes := tuple(holes):
        done["holes"] = missing_to_json(holes)
        done["bad_tiles"] = [asdict(tile) for tile in sorted_bad_tiles(hole.tile for hole in holes)]
    place.write(f"{JOURNAL}/{task}.json", json.dumps(done).encode())


def pixels_of_task(store: str, task: str) -> int | None:
    """Return the pixels that `task` wrote in this run or one before it; None if it did not."""
    try:
        return int(json.loads(location_of(store).read(f"{JOURNAL}/{task}.json"))["pixels"])
    except FileNotFoundError:
        return None


class Journal:
    """What the tasks of a store recorded; each record is read once."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.place = location_of(store)
        self._read: dict[str, dict[str, Any]] = {}

    def done(self) -> list[dict[str, Any]]:
        """Return the records that are there."""
        names = sorted(name for name in self.place.names(JOURNAL) if name.endswith(".json"))
        new = [name for name in names if name not in self._read]
        for name, data in zip(new, self.place.read_each(new), strict=True):
            self._read[name] = json.loads(data)
        return [self._read[name] for name in names]

    def holes(self) -> tuple[tuple[MissingRegion, ...], tuple[BadTile, ...]]:
        """Return the holes of what the tasks wrote, and the tiles of the slide that made them."""
        rows: list[list[Any]] = []
        tiles: list[BadTile] = []
        for done in self.done():
            rows += done.get("holes", ())
            tiles += (BadTile(**one) for one in done.get("bad_tiles", ()))
        return missing_from_json(rows), sorted_bad_tiles(tiles)


def write_whole(path: str, data: bytes) -> None:
    """Write a file that has its name only when all of it is on the disk."""
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as stream:
            stream.write(data)
            stream.flush()
            _flush(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


def is_store_file(file: str) -> bool:
    """Return whether `file` is of the store itself: no journal, no lock, not what seals it."""
    return not file.startswith(".") and file not in ROOT


def write_manifest(journal: Journal, first: str, shards: dict[str, int]) -> dict[str, Any]:
    """Make the manifest of a store from the records of its tasks; return what tells of it.

    `first` is the array that keeps it, `shards` says how many of them each array has. Other
    files, metadata and small arrays, are recorded here.
    """
    path = f"{first}/{MANIFEST}"
    store, place = journal.store, journal.place
    sizes = dict(place.files())
    present = {file for file in sizes if is_store_file(file)} - {path}
    left = {file for file in present if file.endswith(".partial")}  # of a killed worker
    place.remove(left)
    present -= left
    recorded = (Record(**one) for done in journal.done() for one in done["files"])
    records = {one.file: one for one in recorded if one.file in present}
    for name, expected in shards.items():
        own = (one for file, one in records.items() if file.startswith(f"{name}/"))
        statuses = Counter(one.status for one in own)
        found = sum(statuses[status] for status in STATUSES)
        if found != expected:
            raise AssertionError(f"{store}: {found} shards of {name} are recorded of {expected}")
    others = present - set(records)
    records |= {file: record(store, file) for file in others}
    place.flush(others)
    for file, one in records.items():
        if sizes[file] != one.size:
            raise AssertionError(f"{store}: {file} is not as it was written")
    listed = [asdict(records[file]) for file in sorted(records)]
    data = json.dumps({"files": listed}, indent=0).encode()
    place.write(path, data)
    total = sum(shards.values())
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "shards": total}


def flush_folders(store: str) -> None:
    """Flush what names the files of a store to the disk."""
    for folder, _, _ in os.walk(store):
        flush_folder(folder)


def flush_folder(path: str) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDERS:
            raise


def _flush(handle: int) -> None:
    """Flush a file to the disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems answer that know no flush, some of FUSE among them."""
_NO_FOLDERS = (*_NO_FLUSH, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""What they answer that flush files alone: shared folders of virtual machines and SMB; Windows
opens no folders at all."""
