"""What every store of ours says of itself, wherever it lies, and what it was asked to be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dask_slides.core.bad_tiles import MARK
from dask_slides.core.version import __version__
from dask_slides.errors import (
    ClusterLostError,
    OutputExistsError,
    RemoteAccessError,
    RemoteError,
    ResumeError,
    SlideArgumentError,
    WorkerKilledError,
)
from dask_slides.readers.remote.object_store import checked_address, is_remote, open_group

LOCK = ".lock"
"""Of a store that is being written: who writes it."""
KEY = ".key.json"
"""What a partial store is of; there once its arrays are made."""
KEEPING = (WorkerKilledError, ClusterLostError)
"""Errors after which what is done is kept: no fault of it, and workers may still write to it."""


@dataclass(frozen=True)
class Target:
    """Where a store is to appear, and how."""

    path: Any
    overwrite: bool = False
    resume: bool = False
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """What the caller records in the store's own attribute; part of the key to resume with."""

    @property
    def place(self) -> str:
        """The absolute path, or the address."""
        return place_text(self.path)


def place_text(path: Any) -> str:
    """Return the absolute path, or the address of a bucket, that `path` means."""
    try:
        text = os.fspath(path)
    except TypeError:
        raise SlideArgumentError(f"{path!r} is not a path; give where to write") from None
    return checked_address(text, ("s3",)) if is_remote(text) else os.path.abspath(text)


def attributes_with_key(kind: str, **facts: Any) -> dict[str, Any]:
    """Return the attribute that says what a store of ours is."""
    return {MARK: {"kind": kind, "version": __version__, **facts}}


def mark_of(path: str) -> Mapping[str, Any] | None:
    """Return the mark of the store at `path`, or None if it is not one of ours."""
    try:
        mark = open_group(path).attrs.get(MARK)
    except (RemoteError, RemoteAccessError):
        raise
    except Exception:  # zarr has no one class for "not a group"; then it is not ours
        return None
    return mark if isinstance(mark, Mapping) else None


def exists_error(path: str) -> OutputExistsError:
    """Return the error of a target that is there."""
    return OutputExistsError(f"{path}: is there already; choose another name or overwrite")


def foreign_error(path: str) -> OutputExistsError:
    """Return the error of a target that nobody here wrote."""
    return OutputExistsError(
        f"{path}: was not written by dask_slides and is not overwritten; move it away"
    )


def with_manifest(
    attributes: Mapping[str, Any], manifest: Mapping[str, Any], recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the attributes of a root that holds the checksums of the manifest and of itself."""
    mark = {**attributes[MARK], **recorded, "manifest": dict(manifest)}
    whole: dict[str, Any] = json.loads(json.dumps({**attributes, MARK: mark}))
    whole[MARK]["manifest"]["root"] = root_digest(whole)
    return whole


def root_digest(attributes: Mapping[str, Any]) -> str:
    """Return the checksum of the attributes of a root, but for itself."""
    plain = json.loads(json.dumps(attributes))
    plain[MARK]["manifest"].pop("root", None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def differs_error(path: str, before: Mapping[str, Any], key: Mapping[str, Any]) -> ResumeError:
    """Return the error of a store that was begun as something else."""
    differing = sorted(k for k in before.keys() | key.keys() if before.get(k) != key.get(k))
    first = differing[0]
    return ResumeError(
        f"{path}: what was begun differs in {', '.join(differing[:4])} "
        f"({first} was {_short(before.get(first))}, is {_short(key.get(first))}); "
        f"do it the same way again, or without resuming"
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
