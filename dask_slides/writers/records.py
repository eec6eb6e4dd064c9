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
from dataclasses import asdict, dataclass
from typing import Any

from dask_slides.readers.bad_tiles import STATUSES, BadTile, Hole, holes_of, in_order, rows_of

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
    """Of a shard: "corrupt" or "absent" where pixels show the fill for such a tile of the slide,
    "blank" where all of them are the same, else "ok"."""


def record(store: str, file: str, status: str = "") -> Record:
    """Flush a file of `store` to the disk, and return its record."""
    with open(os.path.join(store, file), "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
        return Record(file, stream.tell(), digest, status)


def keep(
    store: str, task: str, pixels: int, records: Iterable[Record], holes: Iterable[Hole] = ()
) -> None:
    """Record that `task` is done: `pixels` are written, in the files of `records`.

    `holes` are those of the image, in pixels of level 0.
    """
    folder = os.path.join(store, JOURNAL)
    done: dict[str, Any] = {"pixels": pixels, "files": [asdict(one) for one in records]}
    if holes := tuple(holes):
        done["holes"] = rows_of(holes)
        done["bad_tiles"] = [asdict(tile) for tile in in_order(hole.tile for hole in holes)]
    text = json.dumps(done)
    write_whole(os.path.join(folder, f"{task}.json"), text.encode())


def kept(store: str, task: str) -> int | None:
    """Return the pixels that `task` wrote in this run or one before it; None if it did not."""
    try:
        with open(os.path.join(store, JOURNAL, f"{task}.json"), "rb") as stream:
            return int(json.load(stream)["pixels"])
    except FileNotFoundError:
        return None


def _all_kept(store: str) -> Iterator[dict[str, Any]]:
    folder = os.path.join(store, JOURNAL)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json"):
            with open(os.path.join(folder, name), "rb") as stream:
                yield json.load(stream)


def kept_holes(store: str) -> tuple[tuple[Hole, ...], tuple[BadTile, ...]]:
    """Return the holes of what the tasks wrote, and the tiles of the slide that made them."""
    rows: list[list[Any]] = []
    tiles: list[BadTile] = []
    for done in _all_kept(store):
        rows += done.get("holes", ())
        tiles += (BadTile(**one) for one in done.get("bad_tiles", ()))
    return holes_of(rows), in_order(tiles)


def write_whole(path: str, data: bytes) -> None:
    """Write a file that has its name only when all of it is on the disk."""
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


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
    kept = (Record(**one) for done in _all_kept(store) for one in done["files"])
    records = {one.file: one for one in kept if one.file in present}
    for name, expected in shards.items():
        own = (one for file, one in records.items() if file.startswith(f"{name}/"))
        statuses = Counter(one.status for one in own)
        found = sum(statuses[status] for status in STATUSES)
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
    """Shards by status: "ok", "blank", "absent" and "corrupt" are all of them."""


def statuses_in(store: str, manifest: dict[str, Any]) -> dict[str, int]:
    """Return how many shards of a store its manifest says to have each status."""
    with open(os.path.join(store, manifest["path"]), "rb") as stream:
        files = json.load(stream)["files"]
    return dict(Counter(one["status"] for one in files if one["status"]))


def check(store: str, manifest: dict[str, Any]) -> tuple[Verified, list[str]]:
    """Read a whole store; return what it should hold, and what is wrong with it."""
    try:
        with open(os.path.join(store, manifest["path"]), "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        return Verified(store, 0, 0, {}), [f"{manifest['path']} is missing"]
    if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        return Verified(store, 0, 0, {}), [f"{manifest['path']} has changed"]
    records = [Record(**one) for one in json.loads(data)["files"]]
    known = {one.file for one in records} | {manifest["path"]}
    wrong = [f"{file} was added" for file in sorted(set(files_in(store)) - known)]
    with ThreadPoolExecutor() as pool:  # hashing needs no lock of Python's
        found = pool.map(lambda one: _difference(store, one), records)
        wrong += [one for one in found if one is not None]
    statuses = Counter(one.status for one in records if one.status)
    told = sum(statuses[status] for status in STATUSES)
    expected = manifest.get("shards", told)  # older stores do not say
    if told != expected:
        wrong.append(f"{told:,} shards of {expected:,} have a status")
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
