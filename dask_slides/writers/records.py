"""What is known of each file of a store that is written: size, checksum, what its pixels are.

A task writes whole shards, flushes them, and leaves one small record beside them under a
name of its own. A run that is killed loses the tasks it was at and no more: the same call
again finds the records of the others. When all is there the records become the manifest of
the store, which proves it complete and unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

JOURNAL = ".journal"
"""Folder of the records of tasks, in the hidden folder of a store that is being written."""
MANIFEST = "manifest.json"
"""In the folder of the first array: in that of a group Zarr would warn of it."""
_ROOT = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
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
    """Of a shard: "ok", or "blank" where all of its pixels are the same."""


def record(store: str, file: str, status: str = "") -> Record:
    """Flush a file of `store` to the disk, and return its record."""
    with open(os.path.join(store, file), "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
        return Record(file, stream.tell(), digest, status)


def keep(store: str, task: str, pixels: int, records: Iterable[Record]) -> None:
    """Record that `task` is done: `pixels` are written, in the files of `records`."""
    folder = os.path.join(store, JOURNAL)
    text = json.dumps({"pixels": pixels, "files": [asdict(one) for one in records]})
    write_whole(os.path.join(folder, f"{task}.json"), text.encode())


def kept(store: str, task: str) -> int | None:
    """Return the pixels that `task` wrote in this run or one before it; None if it did not."""
    try:
        with open(os.path.join(store, JOURNAL, f"{task}.json"), "rb") as stream:
            return int(json.load(stream)["pixels"])
    except FileNotFoundError:
        return None


def any_kept(store: str) -> bool:
    """Return whether any task of `store` is recorded as done."""
    folder = os.path.join(store, JOURNAL)
    return os.path.isdir(folder) and any(name.endswith(".json") for name in os.listdir(folder))


def _all_kept(store: str) -> Iterator[Record]:
    folder = os.path.join(store, JOURNAL)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json"):
            with open(os.path.join(folder, name), "rb") as stream:
                yield from (Record(**one) for one in json.load(stream)["files"])


def write_whole(path: str, data: bytes) -> None:
    """Write a file that has its name only when all of it is on the disk."""
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


def files_in(store: str) -> Iterator[str]:
    """Yield the files of a store, hidden folders of its root excepted."""
    for folder, folders, names in os.walk(store):
        if folder == store:
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = [name for name in names if name not in _ROOT and not name.startswith(".")]
        inside = os.path.relpath(folder, store).replace(os.sep, "/")
        for name in names:
            yield name if inside == "." else f"{inside}/{name}"


def seal(store: str, first: str, shards: dict[str, int]) -> dict[str, Any]:
    """Make the manifest of a store from the records of its tasks; return what tells of it.

    `first` is the array that keeps it, `shards` says how many of them each array has. Other
    files, metadata and small arrays, are recorded here.
    """
    path = f"{first}/{MANIFEST}"
    present = set(files_in(store)) - {path}
    for file in [one for one in present if one.endswith(".partial")]:  # of a killed worker
        os.unlink(os.path.join(store, file))
        present.remove(file)
    records = {one.file: one for one in _all_kept(store) if one.file in present}
    for name, expected in shards.items():
        found = sum(file.startswith(f"{name}/") for file in records)
        if found != expected:
            raise AssertionError(f"{store}: {found} shards of {name} are recorded of {expected}")
    for file in present - set(records):
        records[file] = record(store, file)
    for file, one in records.items():
        if os.path.getsize(os.path.join(store, file)) != one.size:
            raise AssertionError(f"{store}: {file} is not as it was written")
    listed = [asdict(records[file]) for file in sorted(records)]
    data = json.dumps({"files": listed}, indent=0).encode()
    write_whole(os.path.join(store, path), data)
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest()}


def flush_folders(store: str) -> None:
    """Flush what names the files of a store to the disk."""
    for folder, _, _ in os.walk(store):
        flush_folder(folder)


def flush_folder(path: str) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Verified:
    """What a store was proven to hold."""

    path: str
    files: int
    nbytes: int
    statuses: dict[str, int]
    """Shards by status."""


def _is_inside(path: Any) -> bool:
    """Return whether what a store says is the path of a file of it: it may be anybody's store."""
    if not isinstance(path, str) or not path or "\0" in path:
        return False
    return not os.path.isabs(path) and ".." not in path.replace("\\", "/").split("/")


def check(store: str, manifest: Any) -> tuple[Verified, list[str]]:
    """Read a whole store; return what it should hold, and what is wrong with it."""
    nothing = Verified(store, 0, 0, {})
    told = manifest if isinstance(manifest, dict) else {}
    path, digest = told.get("path"), told.get("sha256")
    if not _is_inside(path):
        return nothing, ["what it says of its manifest has changed"]
    try:
        with open(os.path.join(store, str(path)), "rb") as stream:
            data = stream.read()
    except OSError:
        return nothing, [f"{path} is missing"]
    if hashlib.sha256(data).hexdigest() != digest:
        return nothing, [f"{path} has changed"]
    try:
        records = [Record(**one) for one in json.loads(data)["files"]]
    except (KeyError, TypeError, ValueError):
        return nothing, [f"{path} is no manifest"]
    if not all(_is_inside(one.file) and isinstance(one.size, int) for one in records):
        return nothing, [f"{path} names files that are not of the store"]
    known = {one.file for one in records} | {path}
    wrong = [f"{file} was added" for file in sorted(set(files_in(store)) - known)]
    with ThreadPoolExecutor() as pool:  # hashing needs no lock of Python's
        found = pool.map(lambda one: _difference(store, one), records)
        wrong += [one for one in found if one is not None]
    statuses = Counter(one.status for one in records if one.status)
    return Verified(store, len(records), sum(one.size for one in records), dict(statuses)), wrong


def _difference(store: str, expected: Record) -> str | None:
    try:
        with open(os.path.join(store, expected.file), "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return f"{expected.file} {'is missing' if missing else f'cannot be read ({error})'}"
    if size != expected.size:
        return f"{expected.file} has {size:,} bytes instead of {expected.size:,}"
    return None if digest == expected.sha256 else f"{expected.file} has changed"
