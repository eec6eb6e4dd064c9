"""The attributes that identify a store of dask_slides."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dask_slides.core.arguments import checked_path, is_remote
from dask_slides.core.bad_tiles import MARK, BadTile, bad_tile_from_json
from dask_slides.core.version import __version__
from dask_slides.errors import (
    RemoteAccessError,
    RemoteError,
    SlideError,
    SlideFormatError,
    SlideNotFoundError,
    known_reason,
)
from dask_slides.readers.remote.object_store import (
    BUCKETS,
    checked_address,
    exists,
    list_folder,
    not_found,
    open_group,
)

Opened = TypeVar("Opened")


def absolute_path(path: Any) -> str:
    """Return `path` as an absolute path, or as an address of a bucket."""
    text = checked_path(path)
    return checked_address(text, tuple(BUCKETS)) if is_remote(text) else os.path.abspath(text)


def open_own(path: Any, kind: str, advice: str, opening: Callable[[str], Opened]) -> Opened:
    """Return what `opening` makes of a store of the `kind`, with the errors of `open_pack`."""
    target = absolute_path(path)
    try:
        return opening(target)
    except SlideError:
        raise
    except Exception as error:  # Zarr raises many classes for paths that are not a group
        check_there(target)
        reason = known_reason(error)
        raise SlideFormatError(f"{target}: not a {kind} of dask_slides{reason}; {advice}") from None


def check_there(target: str) -> None:
    """Raise SlideNotFoundError if nothing is at a path, or below an address of a bucket."""
    if is_remote(target):
        if not exists(target) and list_folder(target) == ([], []):
            raise not_found(target)
    elif not os.path.exists(target):
        raise SlideNotFoundError(f"{target}: No such file or directory; check the path")


def may_be_store(path: str) -> bool:
    """Return whether `path` is a folder, or an address of a bucket."""
    return os.path.isdir(path) or path.partition("://")[0] in BUCKETS


def own_attributes(kind: str, **facts: Any) -> dict[str, Any]:
    """Return the attribute that describes a store of dask_slides."""
    return {MARK: {"kind": kind, "version": __version__, **facts}}


def read_own_attributes(path: str) -> Mapping[str, Any] | None:
    """Return the dask_slides attribute of the store at `path`; None if it has none."""
    try:
        own = open_group(path).attrs.get(MARK)
    except (RemoteError, RemoteAccessError):
        raise
    except Exception:  # Zarr raises many classes for paths that are not a group
        return None
    return own if isinstance(own, Mapping) else None


def bad_tiles_in(path: str) -> tuple[BadTile, ...]:
    """Return the bad tiles that the store at `path` lists.

    Raises SlideFormatError if the list cannot be read.
    """
    attributes = open_group(path).attrs.asdict()
    rows = attributes.get("bad_tiles") or attributes.get(MARK, {}).get("bad_tiles", ())
    try:
        return tuple(bad_tile_from_json(row) for row in rows)
    except TypeError as error:
        raise SlideFormatError(
            f"{path}: its list of bad tiles cannot be read ({error}); write the store again"
        ) from error


def with_manifest(
    attributes: Mapping[str, Any], manifest: Mapping[str, Any], recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the attributes of a root group with the manifest's checksum and their own."""
    own = {**attributes[MARK], **recorded, "manifest": dict(manifest)}
    result: dict[str, Any] = json.loads(json.dumps({**attributes, MARK: own}))
    result[MARK]["manifest"]["root"] = root_digest(result)
    return result


def root_digest(attributes: Mapping[str, Any]) -> str:
    """Return the checksum of the attributes of a root group, without the checksum itself."""
    plain = json.loads(json.dumps(attributes))
    plain[MARK]["manifest"].pop("root", None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
