"""A store appears whole or not at all, on a disk and in a bucket.

The rules, whose steps `Location` carries out:

- Only a store that dask_slides wrote is replaced, and only when the new one is complete.
- One process at a time writes a store.
- Tasks write whole shards and record them in a journal. Metadata of the root group is written
  last, with the checksum of the manifest, which lists every file.
- An unfinished store of a killed process does not open. Resuming it with the same key continues
  from the journal, and with another key is an error. Without resuming it is written from the start.
- After an error all written files are deleted, except with `resume` and after a failure of the
  cluster: then finished tasks are valid, and others may still be running.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.errors import (
    ClusterLostError,
    OutputBusyError,
    OutputExistsError,
    ResumeError,
    WorkerKilledError,
)
from dask_slides.writers.store import manifest
from dask_slides.writers.store.attributes import (
    absolute_path,
    with_manifest,
)
from dask_slides.writers.store.consolidated import ROOT_FILE, consolidate, is_metadata
from dask_slides.writers.store.location import KEY, ROOT, Data, Location, location_of

_CLUSTER_ERRORS = (WorkerKilledError, ClusterLostError)


@dataclass(frozen=True)
class Target:
    """The path of a store to write, and whether to overwrite or resume it."""

    path: Any
    overwrite: bool = False
    resume: bool = False
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """Facts that the caller adds to the store's own attribute; they are part of the key."""

    @property
    def absolute(self) -> str:
        """The absolute path, or the address."""
        return absolute_path(self.path)


@dataclass(frozen=True)
class Transaction:
    """A store that is being written."""

    location: Location
    """The location of the unfinished store; it may be published elsewhere."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """Facts that the caller adds to the store's own attribute."""
    _metadata: dict[str, Any] = field(default_factory=dict)
    """Metadata and small arrays, which Zarr creates in memory."""
    _written: dict[str, Data] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Path or address that tasks write to."""
        return self.location.path

    @cached_property
    def journal(self) -> manifest.Journal:
        """The records of finished tasks."""
        return manifest.Journal(self.location)

    def create(self, zarr_format: int) -> Any:
        """Create the root group in memory. A resumed run creates the same bytes again."""
        import zarr
        from zarr.storage import MemoryStore

        return zarr.create_group(MemoryStore(self._metadata), zarr_format=zarr_format)

    def ready(self) -> None:
        """Write the metadata of all arrays, so that tasks can write to them."""
        for file, buffer in self._metadata.items():
            data = buffer.to_bytes()
            if file not in ROOT and self._written.get(file) != data:
                self.location.write(file, data, flush=False)
                self._written[file] = data

    def finish(
        self,
        first: str,
        shards: dict[str, int],
        attributes: Mapping[str, Any],
        consolidated: bool = False,
    ) -> None:
        """Write the manifest, and add its checksum to the `attributes` of the root group.

        `first` and `shards` are those of `manifest.write_manifest`. If `consolidated`, the root
        group of Zarr v3 gets a copy of the metadata of all arrays.
        """
        import zarr
        from zarr.storage import MemoryStore

        self.ready()
        facts = manifest.write_manifest(self.journal, first, shards)
        root = zarr.open_group(MemoryStore(self._metadata), mode="r+")
        root.attrs.update(with_manifest(attributes, facts, self.recorded))
        if consolidated:
            nodes = {file: data.to_bytes() for file, data in self._metadata.items()
                     if is_metadata(file)}  # fmt: skip
            buffer = self._metadata[ROOT_FILE]
            self._metadata[ROOT_FILE] = type(buffer).from_bytes(
                consolidate(buffer.to_bytes(), nodes)
            )

    def root_files(self) -> dict[str, Data]:
        """Return the metadata files of the root group, last the one that makes it a group."""
        return {
            file: self._metadata[file].to_bytes()
            for file in reversed(ROOT)
            if file in self._metadata
        }


@contextmanager
def transaction(
    target: Target, key: Mapping[str, Any], nbytes: int, final: Location | None = None
) -> Iterator[Transaction]:
    """Yield a store to write to, and publish it when the block ends without an error.

    Parameters
    ----------
    target : Target
        Where the store appears.
    key : mapping
        Facts that describe the store, by dotted name (see `facts_of`). A store is resumed only if
        its key is equal.
    nbytes : int
        Bytes of the store before compression.
    final : Location, optional
        The location of `target`, for an output that is not a folder or a prefix of a bucket.
    """
    final = final or location_of(target.absolute)
    key = json.loads(json.dumps({**key, **target.recorded}))
    check_location(final, target.overwrite)
    with final.write_errors(nbytes):
        staging = final.staging(key, target.overwrite)
        if target.resume:
            _check_key(final, staging, key)
        with final.claim(staging, target.resume) as is_held:
            unfinished = Transaction(staging, target.recorded)
            try:
                final.recover(staging)
                # again, as another process may have finished since the first check
                check_location(final, target.overwrite)
                _begin(final, staging, key, target.resume)
                yield unfinished
                if not is_held():
                    raise _taken_over_error(final)
                final.publish(
                    staging,
                    unfinished.root_files(),
                    lambda: check_location(final, target.overwrite),
                )
            except BaseException as error:
                if not is_held():
                    if isinstance(error, Exception):  # probably caused by the other process
                        raise _taken_over_error(final) from error
                elif not _keeps_unfinished(final, unfinished, target.resume, error):
                    staging.delete()
                raise


def check_target(path: str, overwrite: bool) -> None:
    """Raise unless a store can be written at `path`. Nothing is changed there."""
    check_location(location_of(path), overwrite)


def check_location(final: Location, overwrite: bool) -> None:
    """Raise unless an output can be written at `final`."""
    final.check_parent()
    path = final.path
    if not final.is_occupied():
        return
    if not overwrite:
        raise OutputExistsError(f"{path}: already exists; choose another name or overwrite it")
    if not final.is_own():
        raise OutputExistsError(
            f"{path}: was not written by dask_slides and is not overwritten; move it away"
        )


def _begin(final: Location, staging: Location, key: Mapping[str, Any], resume: bool) -> None:
    """Delete unfinished stores and write the key, unless the same store is resumed."""
    if resume and _read_key(staging) == key:
        return
    for other in final.unfinished():
        if other != staging and _read_key(other) is not None:
            final.discard(other)
    staging.clear()
    staging.write(KEY, json.dumps(key, indent=0, sort_keys=True).encode())


def _read_key(location: Location) -> Mapping[str, Any] | None:
    """Return the key of an unfinished store; None if there is none."""
    try:
        key: Mapping[str, Any] = json.loads(location.read(KEY))
    except (FileNotFoundError, ValueError):
        return None
    return key


def _check_key(final: Location, staging: Location, key: Mapping[str, Any]) -> None:
    """Raise ResumeError if there are unfinished stores, and all have another key."""
    if _read_key(staging) == key:
        return
    for other in final.unfinished():
        before = _read_key(other)
        if before is None or before == key:
            continue
        names = sorted(k for k in before.keys() | key.keys() if before.get(k) != key.get(k))
        old, new = (_shortened(facts.get(names[0])) for facts in (before, key))
        raise ResumeError(
            f"{final.path}: the unfinished store differs in {', '.join(names[:4])} "
            f"({names[0]} was {old}, is {new}); "
            "repeat the call with the same arguments, or without resume"
        )


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keeps_unfinished(
    final: Location, unfinished: Transaction, resume: bool, error: BaseException
) -> bool:
    """Return whether an unfinished store stays after `error`."""
    if final.must_keep(unfinished.location):
        return True
    return (resume or isinstance(error, _CLUSTER_ERRORS)) and bool(unfinished.journal.done())


def _taken_over_error(final: Location) -> OutputBusyError:
    return OutputBusyError(
        f"{final.path}: was taken over by another process that resumed it; wait for that process"
    )


def facts_of(value: Any, name: str) -> dict[str, Any]:
    """Return plain values by dotted name that are equal only for equal `value`s."""
    if is_dataclass(value) and not isinstance(value, type):
        found: dict[str, Any] = {name: type(value).__name__}
        for item in fields(value):
            found |= facts_of(getattr(value, item.name), f"{name}.{item.name}")
        return found
    if isinstance(value, da.Array):
        return {name: value.name}
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {name: [str(value.dtype), list(value.shape), digest]}
    if isinstance(value, bytes):
        return {name: hashlib.sha256(value).hexdigest()}
    return {name: value if isinstance(value, str | int | float | None) else repr(value)}
