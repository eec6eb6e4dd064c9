"""The axes of a stored array: those that it names, those that the user gives, or a safe guess."""

from __future__ import annotations

from collections.abc import Sequence

from dask_slides.errors import SlideArgumentError
from dask_slides.readers.selection import ImageSelection, Plane, image_index

_NAMES = {"channel": "C", "channels": "C", "band": "C", "bands": "C", "time": "T"}
"""Names of axes that are longer than one letter."""
_SAMPLES = (1, 3, 4)
"""Lengths of a last axis that holds grey values or colours."""


def array_plane(
    path: str, shape: Sequence[int], names: Sequence[str | None] | None, choice: ImageSelection
) -> tuple[Plane, dict[str, str]]:
    """Return the plane to read of an array of `shape`, and the properties that count all planes.

    The axes are those that the user gives, else the `names` that are stored with the array, else
    (y, x) or (y, x, colours). Other shapes may mean anything, and are refused.
    """
    image_index(path, ("0",), choice.image)
    if choice.axes is not None:
        axes = choice.axes.upper().replace("S", "C")
        fits = len(axes) == len(shape) and len(set(axes)) == len(axes) and set(axes) <= set("TCZYX")
        if not fits or not {"Y", "X"} <= set(axes):
            raise SlideArgumentError(
                f"{path}: axes={choice.axes!r} does not fit an array of {_text(shape)}; give a "
                f"letter for each axis, Y, X and of C, Z and T the others: {_examples(shape)}"
            )
    else:
        axes = _named(names) or _guessed(path, shape)
    plane = Plane(axes, choice.z, choice.t)
    return plane, plane.check(path, shape)


def _named(names: Sequence[str | None] | None) -> str | None:
    """Return the letters of `names`; None if there are none or they say too little."""
    letters = [_NAMES.get((name or "").lower(), (name or "?").upper()) for name in names or ()]
    known = set(letters) <= set("TCZYX") and len(set(letters)) == len(letters)
    return "".join(letters) if known and {"Y", "X"} <= set(letters) else None


def _guessed(path: str, shape: Sequence[int]) -> str:
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3 and shape[2] in _SAMPLES and min(shape[:2]) > max(_SAMPLES):
        return "YXC"
    raise SlideArgumentError(
        f"{path}: an array of {_text(shape)} does not say which axes are y and x; name them, as in "
        f"open_slide(path, axes=...) or --axes: {_examples(shape)}"
    )


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "no axes"


def _examples(shape: Sequence[int]) -> str:
    """Return `axes` that would fit an array of `shape`."""
    found = {2: "'YX'", 3: "'CYX', 'YXC', 'ZYX' or 'TYX'", 4: "'CZYX' or 'TCYX'", 5: "'TCZYX'"}
    return found.get(len(shape), "'YX' after you took a part of 2 to 5 axes out of it")
