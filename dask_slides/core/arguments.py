"""Numbers, sizes and paths that a user gives: of Python, of NumPy, or anything that is one."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dask_slides.errors import SlideArgumentError


def as_number(value: Any) -> int | float:
    """Return a number as an int or float of Python, and NaN for anything else.

    Texts and truth values are not numbers, although Python converts them.
    """
    shape: Any = getattr(value, "shape", ())
    if shape or isinstance(value, bool | np.bool_ | str | bytes):
        return math.nan
    for convert in (operator.index, float):
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError):
            continue
    return math.nan


def as_whole(value: Any) -> int | None:
    """Return a whole number as an int of Python, and None for anything else, floats included."""
    number = as_number(value)
    return number if isinstance(number, int) else None


def is_several(value: Any) -> bool:
    """Return whether a value is a list, tuple or array, and no text or array of one value."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)


def as_pair(value: Any) -> tuple[Any, ...]:
    """Return what (y, x) holds, or the value twice if it is no list, tuple or array."""
    return tuple(value) if is_several(value) else (value, value)


def as_shape(value: Any) -> tuple[int, int] | None:
    """Return height and width of a shape, and None unless both are whole numbers above 0."""
    try:
        height, width = (as_number(side) for side in tuple(value)[:2])
    except (TypeError, ValueError):
        return None
    whole = all(0 < side < math.inf and side == int(side) for side in (height, width))
    return (int(height), int(width)) if whole else None


def as_array(values: Any, dtype: Any = None) -> Any:
    """Return values as a NumPy array, and None if they are ragged or of other types."""
    try:
        return np.asarray(values, dtype)
    except (TypeError, ValueError):
        return None


def checked_size(value: Any, argument: str) -> int:
    """Return a number of pixels or of things; raise SlideArgumentError unless it is 1 or more."""
    size = as_whole(value)
    if size is None or size < 1:
        raise SlideArgumentError(f"{argument}={value!r} is not a whole number from 1; give one")
    return size


def checked_seed(value: Any) -> int:
    """Return a seed; raise SlideArgumentError unless it is a whole number from 0 of 63 bits."""
    seed = as_whole(value)
    if seed is None or not 0 <= seed < 2**63:
        raise SlideArgumentError(f"seed={value!r} is not a seed; give a whole number from 0")
    return seed


def checked_share(value: Any, argument: str) -> float:
    """Return `value` as a float; raise SlideArgumentError unless it is from 0 to 1."""
    share = as_number(value)
    if not 0 <= share <= 1:
        raise SlideArgumentError(f"{argument}={value!r} is not a share; give a number from 0 to 1")
    return float(share)


def is_remote(path: str) -> bool:
    """Return whether `path` is an address and not a local path."""
    return "://" in path


def absolute(path: str) -> str:
    """Return a local path as an absolute one, and an address without a slash at its end."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(path)


def local_path(path: Any, what: str) -> str:
    """Return the absolute path of an output; raise SlideArgumentError for an address."""
    text = checked_path(path)
    if is_remote(text):
        raise SlideArgumentError(f"{text}: {what} is written to a disk; give a path, no address")
    return os.path.abspath(text)


def checked_path(path: Any) -> str:
    """Return a path or address as text; raise SlideArgumentError for anything else."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise SlideArgumentError(f"{type(path).__name__} is not a path; give a str or a Path")
    if "\0" in text:
        raise SlideArgumentError(f"{text!r} is not a path, as it has a null character; check it")
    return text
