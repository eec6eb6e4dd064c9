"""Names and display settings of channels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.errors import SlideArgumentError

DEFAULT_COLORS = ("3C6EFF", "00DC50", "FF3CC8", "FFD200", "00D2FF", "F04600", "FFFFFF")
"""Colours (RRGGBB) of channels without one, in their order; the first is often a nuclear stain.

People with a colour vision deficiency can tell them apart, too.
"""
_RGB = ("FF0000", "00FF00", "0000FF")


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


def is_rgb(channels: Sequence[Channel]) -> bool:
    """Return whether the channels are the red, green and blue of one colour image.

    Three stains in these colours have a window each, and a colour image has one, if any.
    """
    same = len({one.window for one in channels}) == 1
    return same and tuple(one.color for one in channels) == _RGB


def channels_to_json(channels: Sequence[Channel]) -> list[dict[str, Any]]:
    """Return the channels as plain values for JSON."""
    return [
        {"name": one.name, "color": one.color, "window": one.window and list(one.window)}
        for one in channels
    ]


def channels_from_json(values: Any, count: int) -> tuple[Channel, ...]:
    """Return the channels that `channels_to_json` stored; the default ones for other values."""
    if not (isinstance(values, list) and len(values) == count):
        return plain_channels(count)
    entries = [one if isinstance(one, dict) else {} for one in values]
    colors = [str(one.get("color")) for one in entries]
    return described(
        count,
        [one.get("name") for one in entries],
        [color if re.fullmatch("[0-9A-F]{6}", color) else None for color in colors],
        [one.get("window") for one in entries],
    )


def channel_numbers(
    name: str, channels: Sequence[Channel], wanted: Sequence[int | str]
) -> tuple[int, ...]:
    """Return the numbers of the `wanted` channels of the image `name`, in their order.

    Parameters
    ----------
    name : str
        The image, for messages.
    channels : sequence of Channel
        All channels of the image.
    wanted : sequence of str or int
        Names, or numbers from 0. A name may differ in case if only one channel has it.

    Raises
    ------
    SlideArgumentError
        A channel does not exist, several have that name, or one is given twice.
    """
    if isinstance(wanted, str | int) or not isinstance(wanted, Sequence) or not wanted:
        raise SlideArgumentError(
            f"{name}: channels={wanted!r}; give a list of names or numbers, such as "
            f"channels=[{channels[0].name!r}]"
        )
    numbers = tuple(_number_of(name, channels, one) for one in wanted)
    twice = next((one for at, one in enumerate(numbers) if one in numbers[:at]), None)
    if twice is not None:
        raise SlideArgumentError(
            f"{name}: channel {channels[twice].name!r} is given twice; give each channel once"
        )
    return numbers


def _number_of(name: str, channels: Sequence[Channel], wanted: Any) -> int:
    if isinstance(wanted, str):
        names = [one.name for one in channels]
        found = [n for n, one in enumerate(names) if one == wanted]
        found = found or [n for n, one in enumerate(names) if one.lower() == wanted.lower()]
        if not found and wanted.isdecimal() and int(wanted) < len(channels):
            found = [int(wanted)]
    else:
        is_number = isinstance(wanted, int | np.integer) and not isinstance(wanted, bool)
        found = [int(wanted)] if is_number and 0 <= wanted < len(channels) else []
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{n} {one.name!r}" for n, one in enumerate(channels))
    problem = "is the name of several" if found else "does not exist"
    advice = "give a number" if found else "give a name or a number"
    raise SlideArgumentError(f"{name}: channel {wanted!r} {problem}; {advice}: {listed}")


def hex_color(red: int, green: int, blue: int) -> str | None:
    """Return the colour as RRGGBB; None if a value is not in 0 to 255."""
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        return None
    return f"{red:02X}{green:02X}{blue:02X}"
