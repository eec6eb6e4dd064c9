"""Show the pixels of any image as 8-bit RGB."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dask_slides.core.channels import DEFAULT_COLORS, Channel, is_rgb, plain_channels
from dask_slides.core.types import Array

PERCENTILES = (1.0, 99.8)
"""Percentiles of a channel that are shown as black and as its full colour."""
MAX_CHANNELS = 7
"""Channels of one picture; the sum of more is white nearly everywhere."""


def display_rgb(
    pixels: Array, channels: Sequence[Channel] | None = None, *, fill: Any = None
) -> Array:
    """Convert an image (h, w, c) of any dtype and channels to 8-bit RGB.

    8-bit RGB is returned as it is. Other images get a new contrast: the range of the file, or else
    the percentiles `PERCENTILES` of the pixels, becomes black to full colour. One channel is shown
    grey, RGB of other dtypes with one range for its three channels. The first `MAX_CHANNELS` of
    other channels are added, each in its colour; where the sum would be too bright to keep its hue,
    the whole picture is dimmed.

    Parameters
    ----------
    pixels : ndarray, (h, w, c)
        The image, a thumbnail for instance. Values that are not finite are shown black.
    channels : sequence of Channel, optional
        Colours and display ranges, such as `Slide.channels`. A range that is the whole range of
        the dtype is ignored, because writers store it for channels without one. Without a colour a
        channel gets one of `DEFAULT_COLORS`.
    fill : scalar or array_like (c,), optional
        Value of pixels without data; they do not count in the percentiles.

    Returns
    -------
    ndarray, (h, w, 3), uint8

    Examples
    --------
    >>> pixels = np.array([[[0], [500], [1000], [9000]]], "uint16")
    >>> display_rgb(pixels, [Channel("DAPI", "0000FF", (0, 1000))])[0, :, 2]
    array([  0, 128, 255, 255], dtype=uint8)
    """
    if channels is None or len(channels) != pixels.shape[-1]:
        channels = plain_channels(pixels.shape[-1])
    if _has_alpha(pixels, channels):
        pixels, channels = pixels[..., :3], plain_channels(3)
    if is_rgb(channels):
        if pixels.dtype == np.uint8:
            return np.ascontiguousarray(pixels)
        values = pixels[_valid(pixels, fill)]
        return _bytes(_stretched(pixels, _range(values, channels[0].window)))
    valid = _valid(pixels, fill)
    numbers = range(len(channels[:MAX_CHANNELS]))
    ranges = [_range(pixels[..., n][valid], channels[n].window) for n in numbers]
    return _bytes(_dimmed(_summed(pixels, channels, ranges, numbers), valid))


def blend(pixels: Array, channels: Sequence[Channel], shown: Sequence[int]) -> Array:
    """Add the channels `shown` of an image (h, w, c) in their colours, as 8-bit RGB.

    Each channel has a window, so that parts of an image fit together: unlike `display_rgb`, a sum
    that is too bright is cut.
    """
    ranges = [one.window or _whole_range(pixels.dtype) for one in channels]
    return _bytes(_summed(pixels, channels, ranges, shown))


def _summed(
    pixels: Array,
    channels: Sequence[Channel],
    ranges: Sequence[tuple[float, float]],
    shown: Iterable[int],
) -> Array:
    """Return the sum of the channels `shown` in their colours, (h, w, 3) float32."""
    out = np.zeros((*pixels.shape[:2], 3), np.float32)
    colors = display_colors(channels)
    for number in shown:
        share = _stretched(pixels[..., number], ranges[number])
        out += share[..., None] * (colors[number] / np.float32(255))
    return out


def display_colors(channels: Sequence[Channel]) -> Array:
    """Return the colours in which the channels are added, (c, 3) uint8.

    Some writers give white to every channel; white counts as no colour if several channels have it.
    """
    colors = [one.color for one in channels]
    if len(channels) == 1:
        colors = [colors[0] or "FFFFFF"]
    elif colors.count("FFFFFF") > 1:
        colors = [None if color == "FFFFFF" else color for color in colors]
    found = [
        color or DEFAULT_COLORS[number % len(DEFAULT_COLORS)] for number, color in enumerate(colors)
    ]
    return np.array([list(bytes.fromhex(color)) for color in found], np.uint8).reshape(-1, 3)


def _has_alpha(pixels: Array, channels: Sequence[Channel]) -> bool:
    """Return whether the last of four unnamed 8-bit channels is opaque nearly everywhere."""
    return (
        tuple(channels) == plain_channels(4)
        and pixels.dtype == np.uint8
        and bool(np.count_nonzero(pixels[..., 3] == 255) * 2 > pixels[..., 3].size)
    )


def _valid(pixels: Array, fill: Any) -> Array:
    """Return which pixels have data, (h, w) bool; all of them if none has."""
    valid = np.asarray(np.isfinite(pixels).all(axis=-1))
    if fill is not None:
        valid &= (pixels != np.asarray(fill)).any(axis=-1)
    return valid if valid.any() else np.ones_like(valid)


def shows_all_values(dtype: np.dtype[Any], channels: Sequence[Channel]) -> bool:
    """Return whether viewers show all values without windows: those of 8 bits, and of colours."""
    return dtype == np.uint8 or is_rgb(channels)


def windows_of(
    pixels: Array, channels: Sequence[Channel], *, fill: Any = None
) -> tuple[Channel, ...]:
    """Return the channels, each with a window: its own, or `PERCENTILES` of `pixels` (h, w, c).

    Channels of which `shows_all_values` is true stay as they are.
    """
    if shows_all_values(pixels.dtype, channels):
        return tuple(channels)
    valid = _valid(pixels, fill)
    found = []
    for number, channel in enumerate(channels):
        low, high = channel.window or _range(pixels[..., number][valid], None)
        if channel.window is None and pixels.dtype.kind in "ui":
            low, high = math.floor(low), math.ceil(high)
        found.append(replace(channel, window=(float(low), float(high))))
    return tuple(found)


def screen_windows(
    pixels: Array, channels: Sequence[Channel], *, fill: Any = None
) -> tuple[Channel, ...]:
    """Return the channels with the windows in which `display_rgb` shows `pixels` (h, w, c)."""
    valid = _valid(pixels, fill)
    if is_rgb(channels):
        whole = pixels.dtype == np.uint8
        window = (0.0, 255.0) if whole else _range(pixels[valid], channels[0].window)
        return tuple(replace(one, window=window) for one in channels)
    planes = np.moveaxis(pixels, 2, 0)
    return tuple(
        replace(one, window=_range(plane[valid], one.window))
        for one, plane in zip(channels, planes, strict=True)
    )


def _range(values: Array, window: tuple[float, float] | None) -> tuple[float, float]:
    """Return the values that are shown black and in full colour."""
    whole = _whole_range(values.dtype)
    if window is not None and not (window[0] <= whole[0] and window[1] >= whole[1]):
        return window
    values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        return whole
    low, high = (float(one) for one in np.percentile(values, PERCENTILES))
    if low == high:  # nearly all pixels have one value
        low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else whole


def _whole_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    return (0.0, float(np.iinfo(dtype).max)) if dtype.kind in "ui" else (0.0, 1.0)


def _stretched(pixels: Array, limits: tuple[float, float]) -> Array:
    """Return the pixels as shares of the range, 0 to 1."""
    low, high = limits
    share = (pixels.astype(np.float64) - low) / (high - low)
    return np.clip(np.nan_to_num(share, posinf=0.0, neginf=0.0), 0, 1).astype(np.float32)


def _dimmed(shown: Array, valid: Array) -> Array:
    """Scale a sum of channels (h, w, 3) down so that nearly all pixels keep their hue."""
    if not valid.any():
        return shown
    brightest = float(np.percentile(shown[valid].max(axis=-1), PERCENTILES[1]))
    return np.asarray(shown / max(1.0, brightest))


def _bytes(shares: Array) -> Array:
    return np.asarray(np.rint(np.clip(shares, 0, 1) * 255), np.uint8)
