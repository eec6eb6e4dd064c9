"""Check the types of values in JSON files, which anybody may have changed."""

from __future__ import annotations

from typing import Any


def require_type(value: Any, *kinds: type) -> Any:
    """Return `value` if its type is one of `kinds`, not a subclass; else raise TypeError."""
    if type(value) not in kinds:
        raise TypeError(f"{value!r:.60} is not of type {kinds[0].__name__}")
    return value
