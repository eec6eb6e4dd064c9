"""Equality of dataclasses whose fields may be arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

import dask.array as da
import numpy as np


def equal(one: Any, other: Any) -> bool:
    """Return whether two values are equal.

    NumPy arrays are equal if their shapes and all items are. Dask arrays are equal if their names
    are; nothing is computed.
    """
    if isinstance(one, da.Array) or isinstance(other, da.Array):
        return isinstance(one, da.Array) and isinstance(other, da.Array) and one.name == other.name
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
            return False
        return np.array_equal(one, other, equal_nan=one.dtype.kind == other.dtype.kind == "f")
    return bool(one == other)


class EqualByFields:
    """Base class of dataclasses (``eq=False``) whose ``==`` compares fields by `equal`."""

    __array_ufunc__: ClassVar[None] = None
    """Makes ``array == value`` return False too, and not an array of booleans."""

    def __eq__(self, other: object) -> bool:
        """Return whether `other` has the same class and all fields are equal."""
        if type(other) is not type(self):
            return NotImplemented
        return all(
            equal(getattr(self, one.name), getattr(other, one.name))
            for one in fields(self)  # type: ignore[arg-type]
        )
