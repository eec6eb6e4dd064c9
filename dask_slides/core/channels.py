"""Names and display settings of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_COLORS = ("3C6EFF", "00DC50", "FF3CC8", "FFD200", "00D2FF", "F04600", "FFFFFF")
"""Colours (RRGGBB) of channels without one, in their order; the first is often a nuclear stain.

People with a colour vision deficiency can tell them apart, too.
"""


@dataclass(frozen=True)
class Channel:
    """One channel of an image."""

    name: str
    """The name in the file, else "red", "green", "blue" or the number of the channel."""
    color: str | None = None
    """RRGGBB in hexadecimal; None if unknown."""
    window: tuple[float, float] | None = None
    """The values that viewers show as black and as full colour; None if unknown."""


def plain_channels(count: int, stacked: bool = False) -> tuple[Channel, ...]:
    """Return the default channels: red, green and blue if there are three, else numbers.

    If they are `stacked` images of one channel each, three get numbers too.
    """
    if count == 3 and not stacked:
        return (
            Channel("red", "FF0000"),
            Channel("green", "00FF00"),
            Channel("blue", "0000FF"),
        )
    return tuple(Channel(str(number)) for number in range(count))


def described(
    count: int, names: Sequence[Any] = (), colors: Sequence[Any] = (), windows: Sequence[Any] = ()
) -> tuple[Channel, ...]:
    """Return `count` channels with the values of a file; invalid values are ignored."""

    def at(values: Sequence[Any], number: int) -> Any:
        return values[number] if number < len(values) else None

    found = []
    for number in range(count):
        name, color = at(names, number), at(colors, number)
        text = " ".join(name.split()) if isinstance(name, str) else ""
        found.append(Channel(text or str(number), color, _window(at(windows, number))))
    return tuple(found)


def _window(pair: Any) -> tuple[float, float] | None:
    try:
        low, high = (float(value) for value in pair)
    except (TypeError, ValueError):
        return None
    return (low, high) if -math.inf < low < high < math.inf else None


def hex_color(red: int, green: int, blue: int) -> str | None:
    """Return the colour as RRGGBB; None if a value is not in 0 to 255."""
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        return None
    return f"{red:02X}{green:02X}{blue:02X}"
