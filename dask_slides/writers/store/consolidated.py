"""Consolidated metadata: a copy of the metadata of all arrays in the root of a Zarr v3 group.

It has the form that zarr-python writes and xarray asks for. zarr-python would warn that the
specification of Zarr v3 does not describe it, and warnings cannot be silenced in one thread only,
so the copy is made here. Readers that do not know it ignore it (``must_understand``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

ROOT_FILE = "zarr.json"
_KEY = "consolidated_metadata"


def is_metadata(file: str) -> bool:
    """Return whether `file` holds the metadata of an array or group below the root."""
    return file.endswith(f"/{ROOT_FILE}")


def consolidate(root: bytes, nodes: Mapping[str, bytes]) -> bytes:
    """Return the metadata file of a root group with copies of those of its `nodes`, by file."""
    metadata = {
        file.removesuffix(f"/{ROOT_FILE}"): json.loads(nodes[file]) for file in sorted(nodes)
    }
    added = {_KEY: {"kind": "inline", "must_understand": False, "metadata": metadata}}
    return json.dumps(json.loads(root) | added, indent=2).encode()


def is_consistent(root: bytes, nodes: Iterable[tuple[str, bytes]]) -> bool:
    """Return whether the copies in `root` equal the `nodes`, or there are none."""
    found: Any = json.loads(root).get(_KEY)
    if found is None:
        return True
    expected = {file.removesuffix(f"/{ROOT_FILE}"): json.loads(data) for file, data in nodes}
    return isinstance(found, dict) and found.get("metadata") == expected
