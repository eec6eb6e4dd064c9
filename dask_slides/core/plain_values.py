"""Values of tables and of functions of a user, as JSON and CSV hold them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

Plain = str | int | float | bool | None


def plain(value: Any) -> Plain:
    """Return a number, text, truth value or None as a plain value of Python.

    Raises
    ------
    TypeError
        `value` is of another type.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__}")


def plain_or_text(value: Any) -> Plain:
    """Return `plain` of a value of a table; None if it is missing, and text of other types."""
    if type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float) and value != value
    ):
        return None
    try:
        return plain(value)
    except TypeError:
        return str(value)
