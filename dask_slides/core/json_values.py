"""Plain values that a file of ours says, which may be anybody's: each must be of its kind."""

from __future__ import annotations

from typing import Any


def require_type(value: Any, *kinds: type) -> Any:
    """Return `value` if it is of one of the kinds, and of none made of them; else TypeError."""
    if type(value) not in kinds:
        raise TypeError(f"{value!r:.60} where {kinds[0].__name__} must be")
    return value
