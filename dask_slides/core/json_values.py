"""Check the types of values that were read from JSON files."""

from __future__ import annotations

from typing import Any


def require_type(value: Any, *kinds: type) -> Any:
    """Return `value` if its type is exactly one of `kinds`; raise TypeError otherwise."""
    if type(value) not in kinds:
        raise TypeError(f"{value!r:.60} is not of type {kinds[0].__name__}")
    return value
