"""Compare a finished store with its manifest. The store may come from an untrusted source."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dask_slides.core.bad_tiles import STATUSES
from dask_slides.core.json_values import require_type
from dask_slides.errors import (
    RemoteAccessError,
    RemoteError,
    SlideFormatError,
    StoreDamagedError,
)
from dask_slides.readers.remote.object_store import open_group
from dask_slides.writers.store.attributes import (
    absolute_path,
    check_there,
    read_own_attributes,
    root_digest,
)
from dask_slides.writers.store.checksum import algorithm_of, checksum_of, stored_checksum
from dask_slides.writers.store.consolidated import ROOT_FILE, is_consistent, is_metadata
from dask_slides.writers.store.location import Location, location_of
from dask_slides.writers.store.manifest import Record, is_store_file


@dataclass(frozen=True)
class Verified:
    """The result of `verify` for a complete and unchanged store."""

    path: str
    files: int
    nbytes: int
    statuses: dict[str, int]
    """Number of shards per status: "ok", "blank", "absent" and "corrupt"."""


def verify(path: Any) -> Verified:
    """Check that a store is complete and unchanged. Every file is read.

    Parameters
    ----------
    path : str or path
        A store that `write` made, or its address in a bucket.

    Returns
    -------
    Verified
        With ``.files``, ``.nbytes``, and ``.statuses``, the number of shards per status.

    Raises
    ------
    SlideNotFoundError
        There is nothing at the path.
    SlideFormatError
        The path is not a store of dask_slides, or the store has no manifest.
    StoreDamagedError
        A file is missing, was added or has changed.

    Examples
    --------
    >>> import dask_slides as ds
    >>> small = ds.resize(ds.sample_slide("a.tif", shape=(600, 800)), downsample=2)
    >>> ds.verify(ds.write(small, "a.ome.zarr")).statuses
    {'ok': 1}
    """
    target = absolute_path(path)
    own = read_own_attributes(target)
    if own is None:
        check_there(target)
        raise SlideFormatError(
            f"{target}: is no store of dask_slides, or its metadata are damaged; to check the "
            "tiles of a slide, use check_slide or dask-slides info --check"
        )
    if "manifest" not in own:
        raise SlideFormatError(f"{target}: has no manifest, so is not finished; write it again")
    location = location_of(target)
    try:
        manifest = own["manifest"]
        path = _path_in(manifest)
        records = _records(_checked(location, path, stored_checksum(manifest)))
        if not all(_is_inside(record.file) for record in records):
            raise ValueError(f"{path} names files outside the store")
    except (KeyError, TypeError, ValueError) as error:
        raise _damage_error(target, [f"its manifest has changed ({error})"]) from error
    wrong = _differences(location, records, path)
    statuses = Counter(record.status for record in records if record.status)
    counted = sum(statuses[status] for status in STATUSES)
    if counted != manifest.get("shards", counted):
        wrong.append(f"{counted:,} of {manifest['shards']} shards have a status")
    if root_digest(open_group(target).attrs.asdict()) != manifest.get("root"):
        wrong.append("the attributes of the root have changed")
    if not wrong and not _is_consolidated(location, records):
        wrong.append("the metadata in the root differ from those of the arrays")
    if wrong:
        raise _damage_error(target, wrong)
    return Verified(target, len(records), sum(record.size for record in records), dict(statuses))


def _is_consolidated(location: Location, records: list[Record]) -> bool:
    """Return whether the copies of metadata in the root, if there are any, equal the originals."""
    try:
        root = location.read(ROOT_FILE)
    except FileNotFoundError:  # Zarr v2
        return True
    nodes = (record.file for record in records if is_metadata(record.file))
    return is_consistent(root, ((file, location.read(file)) for file in nodes))


def _damage_error(path: str, wrong: list[str]) -> StoreDamagedError:
    more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
    return StoreDamagedError(f"{path}: {wrong[0]}{more}; write the store again")


def _checked(location: Location, file: str, checksum: Any) -> bytes:
    """Return the bytes of `file`; raise StoreDamagedError unless it has this checksum."""
    algorithm = algorithm_of(require_type(checksum, str))
    try:
        data = location.read(file)
    except (RemoteError, RemoteAccessError):
        raise
    except OSError as error:
        raise _damage_error(location.path, [f"{file} is missing"]) from error
    if checksum_of([data], algorithm) != checksum:
        raise _damage_error(location.path, [f"{file} has changed"])
    return data


def statuses_of(path: str, own: Mapping[str, Any]) -> dict[str, int]:
    """Return how many shards of the store at `path` have each status, as its manifest says.

    `own` is the dask_slides attribute of the store. Raises SlideFormatError if the manifest cannot
    be read.
    """
    if own.get("manifest") is None:
        return {}
    try:
        records = _records(location_of(path).read(_path_in(own["manifest"])))
    except (KeyError, TypeError, ValueError) as error:
        raise SlideFormatError(
            f"{path}: its manifest cannot be read ({error}); write the store again"
        ) from error
    return dict(Counter(record.status for record in records if record.status))


def _records(data: bytes) -> list[Record]:
    """Return the files listed in a manifest; KeyError, TypeError or ValueError if it is invalid."""
    records = [Record.from_json(fields) for fields in json.loads(data)["files"]]
    for record in records:
        for text in (record.file, record.checksum, record.status):
            require_type(text, str)
        require_type(record.size, int)
        algorithm_of(record.checksum)
    return records


def _path_in(manifest: Any) -> str:
    """Return the path of a manifest; ValueError if it is invalid."""
    path = manifest.get("path") if isinstance(manifest, dict) else None
    if not _is_inside(path):
        raise ValueError("a path outside the store")
    return str(path)


def _is_inside(path: Any) -> bool:
    """Return whether `path` names a file inside the store."""
    if not isinstance(path, str) or not path or "\0" in path:
        return False
    return not os.path.isabs(path) and ".." not in path.replace("\\", "/").split("/")


def _differences(location: Location, records: list[Record], manifest: str) -> list[str]:
    known = {record.file for record in records} | {manifest}
    present = {file for file, _ in location.files() if is_store_file(file)}
    wrong = [f"{file} was added" for file in sorted(present - known)]
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        found = pool.map(lambda record: _difference(location, record), records)
        return wrong + [text for text in found if text is not None]


def _difference(location: Location, expected: Record) -> str | None:
    try:
        size, checksum = location.measure(expected.file, algorithm_of(expected.checksum))
    except (RemoteError, RemoteAccessError):  # a failing server does not mean damage
        raise
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return f"{expected.file} {'is missing' if missing else f'cannot be read ({error})'}"
    if size != expected.size:
        return f"{expected.file} has {size:,} bytes instead of {expected.size:,}"
    return None if checksum == expected.checksum else f"{expected.file} has changed"
