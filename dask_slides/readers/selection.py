"""Choose one of several images in a file, and one plane of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError, SlideUnsupportedError

_MOST_NAMES = 12
"""Most images that a message lists."""


@dataclass(frozen=True)
class ImageSelection:
    """The arguments of `open_slide` that choose an image and a plane."""

    image: int | str | None = None
    axes: str | None = None
    z: int = 0
    t: int = 0

    def __post_init__(self) -> None:
        """Check the types of the arguments."""
        for name in "zt":
            value = getattr(self, name)
            if not _is_integer(value) or value < 0:
                raise SlideArgumentError(
                    f"{name}={value!r} is not the number of a plane; give an integer from 0 up"
                )
        if not (self.image is None or isinstance(self.image, str) or _is_integer(self.image)):
            raise SlideArgumentError(
                f"image={self.image!r} is not an image; give a name or a number"
            )
        if self.axes is not None and not isinstance(self.axes, str):
            raise SlideArgumentError(f"axes={self.axes!r} is not text; give letters, as 'CYX'")

    def check_single_plane(self, path: str) -> None:
        """Raise SlideArgumentError unless the first image and plane are chosen."""
        image_index(path, ("0",), self.image)
        if self.axes is not None:
            raise SlideArgumentError(f"{path}: axes={self.axes!r}: it has no stacked planes")
        Plane("YX", self.z, self.t).check(path, (1, 1))


@dataclass(frozen=True)
class Plane:
    """The plane of an image that is read."""

    axes: str = "YX"
    """One letter per stored axis. Y, X, S and C are read whole, Z and T at one index."""
    z: int = 0
    t: int = 0
    page: int | None = None
    """The page to read as an image of its own, from a stack along an unnamed axis."""
    channels: tuple[int, ...] | None = None
    """The stored channels to read, in this order; None for all."""

    def index(self, axis: str) -> int:
        """Return the index to read along an axis."""
        if axis.upper() in "YXSC":
            return 0
        return {"Z": self.z, "T": self.t}.get(axis.upper(), self.page or 0)

    def check(self, path: str, shape: Sequence[int]) -> dict[str, str]:
        """Raise if the plane does not exist; return the properties that count all planes."""
        properties = {}
        for axis, length in zip(self.axes, shape, strict=True):
            name, number = axis.lower(), self.index(axis)
            if axis in "ZT" and number >= length:
                raise SlideArgumentError(
                    f"{path}: {name}={number}: it has {_planes(length)} along {name}; choose one "
                    f"with {name}=0" + (f" to {length - 1}" if length > 1 else "")
                )
            if axis in "ZT" and length > 1:
                properties[name] = f"{length} planes, {number} is read"
            if axis not in "YXSCZT" and length > 1 and self.page is None:
                raise SlideUnsupportedError(
                    f"{path}: {length} planes along axis {axis} of {self.axes}, which is not C, Z "
                    f"or T; name the axis: {examples_of_axes(self.axes, shape)}"
                )
        for name in "zt":
            if self.index(name) and name.upper() not in self.axes:
                raise SlideArgumentError(
                    f"{path}: {name}={self.index(name)}: it has one plane along {name}; "
                    f"leave {name} out"
                )
        return properties


FIRST_PLANE = Plane()
"""The plane of an image that has only one."""


def plane_of(path: str, stored: str, shape: Sequence[int], choice: ImageSelection) -> Plane:
    """Return the chosen plane of an image of `stored` axes, which `choice.axes` may rename."""
    if choice.axes is None:
        return Plane(stored, choice.z, choice.t)
    given = choice.axes.upper()
    several = [n for n, (axis, size) in enumerate(zip(stored, shape, strict=True))
               if size > 1 or axis in "YX"]  # fmt: skip
    positions = several if len(given) == len(several) else list(range(len(stored)))
    named = dict(zip(positions, given, strict=False))
    fits = (
        len(given) == len(positions)
        and set(given) <= set("TCZYXS")
        and len(set(given)) == len(given)
        and all(
            letter == stored[at] or not ({letter, stored[at]} & set("YXS"))
            or (stored[at], letter) == ("S", "C")
            for at, letter in named.items()
        )
    )  # fmt: skip
    if not fits:
        raise SlideArgumentError(
            f"{path}: axes={choice.axes!r} does not fit: it has {stored} of "
            f"{' x '.join(map(str, shape))}; keep Y, X and S, and name the others C, Z or T: "
            f"{examples_of_axes(stored, shape)}"
        )
    axes = "".join(named.get(at, "Q") for at in range(len(stored)))
    return Plane(axes, choice.z, choice.t)


def _planes(count: int) -> str:
    return "1 plane" if count == 1 else f"{count} planes"


def examples_of_axes(stored: str, shape: Sequence[int]) -> str:
    """Return `axes` arguments that would fit an image of `stored` axes."""
    axes = [axis for axis, size in zip(stored, shape, strict=True) if size > 1 or axis in "YX"]
    found = []
    for letters in ("CZT", "ZTC", "TCZ"):
        free = iter([letter for letter in letters if letter not in axes])
        named = [axis if axis in "YXSCZT" else next(free, "?") for axis in axes]
        found.append(f"axes={''.join(named)!r}")
    return (
        " or ".join(dict.fromkeys(one for one in found if "?" not in one))
        or "save each plane as a file of its own"
    )


def read_channels(
    read: Callable[[slice], Array], channels: tuple[int, ...] | None, together: int
) -> Array:
    """Return the pixels (h, w, c) of `channels`, in this order; None for all.

    `read` returns those of a slice of the channels. `together` channels share a chunk, and are read
    at once.
    """
    if channels is None:
        return read(slice(None))
    chunks: dict[int, list[int]] = {}
    for number in channels:
        chunks.setdefault(number // together, []).append(number)
    found = {}
    for numbers in chunks.values():
        first, last = min(numbers), max(numbers)
        pixels = read(slice(first, last + 1))
        found.update({number: pixels[..., number - first] for number in numbers})
    return np.stack([found[number] for number in channels], axis=-1)


def unique_names(names: Sequence[str | None]) -> tuple[str, ...]:
    """Return a different name for each image: its own, or its number."""
    found: list[str] = []
    for number, name in enumerate(names):
        text = " ".join((name or "").split()) or str(number)
        found.append(text if text not in found else f"{text} ({number})")
        while found[-1] in found[:-1]:
            found[-1] += "'"
    return tuple(found)


def image_index(path: str, names: Sequence[str], image: int | str | None) -> int | None:
    """Return the number of the image with this name or number; None for None."""
    if image is None:
        return None
    if image in names:
        return list(names).index(str(image))
    number = int(image) if not isinstance(image, str) or image.isdecimal() else -1
    if 0 <= number < len(names):
        return number
    listed = ", ".join(f"{n} {name!r}" for n, name in enumerate(names[:_MOST_NAMES]))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    advice = f"give a number or a name: {listed}{more}" if len(names) > 1 else "it has one image"
    raise SlideArgumentError(f"{path}: image={image!r} does not exist; {advice}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
