"""The journal and the manifest of a store: size, checksum and status of each file.

A task writes whole shards, flushes them, and then writes one small record to the journal of the
store. If a run is killed, the same call finds the records of the finished tasks. In the end the
records become the manifest, which shows later whether the store is complete and unchanged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

from dask_slides.core.bad_tiles import (
    STATUSES,
    BadTile,
    MissingRegion,
    missing_from_json,
    missing_to_json,
    sorted_bad_tiles,
)
from dask_slides.core.json_values import require_type
from dask_slides.writers.store.checksum import checksum_of, stored_checksum
from dask_slides.writers.store.location import (
    JOURNAL,
    ROOT,
    Content,
    Location,
    location_of,
    parts_of,
)

MANIFEST = "manifest.json"
"""Name of the manifest. It lies in the folder of the first array, as Zarr warns of unknown files in
the folder of a group."""


@dataclass(frozen=True)
class Record:
    """One file of a store."""

    file: str
    """Its path in the store, with slashes."""
    size: int
    """Bytes."""
    checksum: str
    status: str = ""
    """Of a shard: "corrupt" or "absent" if pixels show the fill for such a tile of the slide,
    "blank" if all pixels are the same, else "ok"."""

    @classmethod
    def from_json(cls, fields: Any) -> Self:
        """Return the record with these fields; KeyError or TypeError if they are not its."""
        given = require_type(fields, dict) | {"checksum": stored_checksum(fields)}
        given.pop("sha256", None)
        return cls(**given)


def write_file(store: str, file: str, data: Content, status: str = "") -> Record:
    """Write a file of `store` and return its record; `record_task` flushes it."""
    location_of(store).write(file, data, flush=False)
    parts = parts_of(data)
    return Record(file, sum(map(len, parts)), checksum_of(parts), status)


def record_task(
    store: str,
    task: str,
    pixels: int,
    records: Iterable[Record],
    holes: Iterable[MissingRegion] = (),
) -> None:
    """Record that `task` has written `pixels`, in the files of `records`.

    `holes` are missing regions of the image, in pixels of level 0.
    """
    location, records = location_of(store), list(records)
    # before the record is written, as files with a record are not written again
    location.flush(record.file for record in records)
    done: dict[str, Any] = {"pixels": pixels, "files": [asdict(record) for record in records]}
    if holes := tuple(holes):
        done["holes"] = missing_to_json(holes)
        done["bad_tiles"] = [asdict(tile) for tile in sorted_bad_tiles(hole.tile for hole in holes)]
    location.write(f"{JOURNAL}/{task}.json", json.dumps(done).encode())


def pixels_of_task(store: str, task: str) -> int | None:
    """Return how many pixels `task` wrote, in this run or an earlier one; None if unfinished."""
    try:
        return int(json.loads(location_of(store).read(f"{JOURNAL}/{task}.json"))["pixels"])
    except FileNotFoundError:
        return None


class Journal:
    """The records of the tasks of a store; each record is read once."""

    def __init__(self, location: Location, only: Callable[[str], bool] | None = None) -> None:
        """Read the records at `location`, or `only` those of some tasks, by name."""
        self.location = location
        self._only = only
        self._read: dict[str, dict[str, Any]] = {}

    def done(self) -> list[dict[str, Any]]:
        """Return the records of all finished tasks."""
        names = sorted(name for name in self.location.names(JOURNAL) if name.endswith(".json"))
        if self._only is not None:
            names = [name for name in names if self._only(_task_of(name))]
        new = [name for name in names if name not in self._read]
        with ThreadPoolExecutor() as pool:  # in a bucket each read is a request
            self._read |= zip(new, map(json.loads, pool.map(self.location.read, new)), strict=True)
        return [self._read[name] for name in names]

    def holes(self) -> tuple[tuple[MissingRegion, ...], tuple[BadTile, ...]]:
        """Return the missing regions of the image, and the bad tiles that cause them."""
        rows: list[list[Any]] = []
        tiles: list[BadTile] = []
        for done in self.done():
            rows += done.get("holes", ())
            tiles += (BadTile(**tile) for tile in done.get("bad_tiles", ()))
        return missing_from_json(rows), sorted_bad_tiles(tiles)


def _task_of(file: str) -> str:
    """Return the task whose record is in `file`."""
    return file.removeprefix(f"{JOURNAL}/").removesuffix(".json")


def is_store_file(file: str) -> bool:
    """Return whether `file` belongs in the manifest: not the journal, the lock or the root."""
    return not file.startswith(".") and file not in ROOT


def write_manifest(journal: Journal, first: str, shards: dict[str, int]) -> dict[str, Any]:
    """Write the manifest of a store from the records of its tasks; return its path and checksum.

    It lies in the folder of the array `first`. `shards` is the number of shards of each array.
    Other files, such as metadata and small arrays, are recorded here.
    """
    location, path = journal.location, f"{first}/{MANIFEST}"
    sizes = dict(location.files())
    temporary = {file for file in sizes if file.endswith(".partial")}  # left by killed processes
    location.remove(temporary)
    present = {file for file in sizes if is_store_file(file)} - temporary - {path}
    recorded = (Record.from_json(fields) for done in journal.done() for fields in done["files"])
    records = {record.file: record for record in recorded if record.file in present}
    _check_shards(location.path, records, shards)
    others = present - set(records)
    records |= {file: Record(file, *location.measure(file)) for file in others}
    location.flush(others)
    for file, record in records.items():
        if sizes[file] != record.size:
            raise AssertionError(f"{location.path}: {file} has another size than was written")
    listed = [asdict(records[file]) for file in sorted(records)]
    data = json.dumps({"files": listed}, indent=0).encode()
    location.write(path, data)
    total = sum(shards.values())
    return {"path": path, "checksum": checksum_of([data]), "shards": total}


def _check_shards(path: str, records: dict[str, Record], shards: dict[str, int]) -> None:
    """Raise AssertionError unless every shard of every array is recorded."""
    for name, expected in shards.items():
        own = (record for file, record in records.items() if file.startswith(f"{name}/"))
        statuses = Counter(record.status for record in own)
        found = sum(statuses[status] for status in STATUSES)
        if found != expected:
            raise AssertionError(f"{path}: {found} of {expected} shards of {name} are recorded")
