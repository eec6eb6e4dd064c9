"""What a finished store says of itself, held against what it holds; it may be anybody's store."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dask_slides.core.bad_tiles import STATUSES
from dask_slides.core.json_values import require_type
from dask_slides.errors import RemoteAccessError, RemoteError, SlideFormatError
from dask_slides.writers.store.manifest import Location, Record, is_store_file, location_of


@dataclass(frozen=True)
class Verified:
    """What a store was proven to hold."""

    path: str
    files: int
    nbytes: int
    statuses: dict[str, int]
    """Shards by status: "ok", "blank", "absent" and "corrupt" are all of them."""


def statuses_in(store: str, manifest: Any) -> dict[str, int]:
    """Return how many shards of a store its manifest says to have each status.

    SlideFormatError if it is none.
    """
    try:
        records = _records(location_of(store).read(_path_in(manifest)))
    except (KeyError, TypeError, ValueError) as error:
        raise SlideFormatError(
            f"{store}: has no manifest that can be read ({error}); write the store again"
        ) from error
    return dict(Counter(one.status for one in records if one.status))


def _records(data: bytes) -> list[Record]:
    """Return the files that a manifest names; KeyError, TypeError or ValueError if it is none."""
    records = [Record(**one) for one in json.loads(data)["files"]]
    for one in records:
        for text in (one.file, one.sha256, one.status):
            require_type(text, str)
        require_type(one.size, int)
    return records


def _path_in(manifest: Any) -> str:
    """Return the path of a manifest, as the root of a store tells it; ValueError if it is none."""
    path = manifest.get("path") if isinstance(manifest, dict) else None
    if not _is_inside(path):
        raise ValueError("a path that is not of the store")
    return str(path)


def _is_inside(path: Any) -> bool:
    """Return whether what a store says is the path of a file of it: it may be anybody's store."""
    if not isinstance(path, str) or not path or "\0" in path:
        return False
    return not os.path.isabs(path) and ".." not in path.replace("\\", "/").split("/")


def check(store: str, manifest: Any) -> tuple[Verified, list[str]]:
    """Read a whole store; return what it should hold, and what is wrong with it."""
    nothing = Verified(store, 0, 0, {})
    try:
        path, digest = _path_in(manifest), manifest.get("sha256")
    except ValueError:
        return nothing, ["what it says of its manifest has changed"]
    place = location_of(store)
    try:
        data = place.read(path)
    except (RemoteError, RemoteAccessError):
        raise
    except OSError:
        return nothing, [f"{path} is missing"]
    if hashlib.sha256(data).hexdigest() != digest:
        return nothing, [f"{path} has changed"]
    try:
        records = _records(data)
    except (KeyError, TypeError, ValueError):
        return nothing, [f"{path} is no manifest"]
    if not all(_is_inside(one.file) for one in records):
        return nothing, [f"{path} names files that are not of the store"]
    known = {one.file for one in records} | {path}
    present = {file for file, _ in place.files() if is_store_file(file)}
    wrong = [f"{file} was added" for file in sorted(present - known)]
    with ThreadPoolExecutor() as pool:  # hashing needs no lock of Python's
        found = pool.map(lambda one: _difference(place, one), records)
        wrong += [one for one in found if one is not None]
    statuses = Counter(one.status for one in records if one.status)
    counted = sum(statuses[status] for status in STATUSES)
    expected = manifest.get("shards", counted)  # older stores do not say
    if type(expected) is not int:
        return nothing, ["what it says of its manifest has changed"]
    if counted != expected:
        wrong.append(f"{counted:,} shards of {expected:,} have a status")
    return Verified(store, len(records), sum(one.size for one in records), dict(statuses)), wrong


def _difference(place: Location, expected: Record) -> str | None:
    try:
        size, digest = place.measured(expected.file)
    except (RemoteError, RemoteAccessError):  # which proves nothing
        raise
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return f"{expected.file} {'is missing' if missing else f'cannot be read ({error})'}"
    if size != expected.size:
        return f"{expected.file} has {size:,} bytes instead of {expected.size:,}"
    return None if digest == expected.sha256 else f"{expected.file} has changed"
