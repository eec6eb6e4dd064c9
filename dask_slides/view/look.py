"""How the channels of a slide are shown: which of them, and with which contrast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dask_slides.core.channels import Channel, is_rgb
from dask_slides.core.types import Array
from dask_slides.plots.display import MAX_CHANNELS, blend, screen_windows


@dataclass(frozen=True)
class Look:
    """The channels of a slide, and which of them are shown with which windows."""

    channels: tuple[Channel, ...]
    """Each has a window."""
    shown: tuple[int, ...]
    """Numbers of the channels that are shown."""

    @classmethod
    def of(cls, channels: tuple[Channel, ...], dtype: np.dtype[Any]) -> Look:
        """Return the look of a slide before its pixels are known."""
        whole = (0.0, float(np.iinfo(dtype).max)) if dtype.kind in "iu" else (0.0, 1.0)
        filled = tuple(replace(one, window=one.window or whole) for one in channels)
        return cls(filled, tuple(range(min(len(channels), MAX_CHANNELS))))

    def fitted(self, given: tuple[Channel, ...], picture: Array, fill: object) -> Look:
        """Return the look with the contrast of a `picture` (h, w, c) of the slide.

        `given` are the channels of the slide, some of which may have a window of their own.
        """
        return replace(self, channels=screen_windows(picture, given, fill=fill))

    def with_window(self, number: int, window: tuple[float, float]) -> Look:
        """Return the look with another window of channel `number`."""
        return replace(
            self,
            channels=tuple(
                replace(one, window=window) if at == number else one
                for at, one in enumerate(self.channels)
            ),
        )

    @property
    def text(self) -> str:
        """The look as a part of an address: channel, lowest and highest value of each."""
        parts = []
        for number in self.shown:
            low, high = self.channels[number].window or (0.0, 1.0)
            parts.append(f"{number}:{low:.8g}:{high:.8g}")
        return "_".join(parts) or "none"

    def with_text(self, text: str) -> Look:
        """Return the look that `text` describes; raise ValueError if it describes none."""
        look = replace(self, shown=())
        for part in text.split("_") if text != "none" else ():
            number, low, high = part.split(":")
            window = float(low), float(high)
            if not (int(number) < len(self.channels) and -np.inf < window[0] < window[1] < np.inf):
                raise ValueError(text)
            look = look.with_window(int(number), window)
            look = replace(look, shown=(*look.shown, int(number)))
        return look

    def rgb(self, pixels: Array) -> Array:
        """Return `pixels` (h, w, c) as 8-bit RGB; those of 8-bit RGB at its full range as is."""
        plain = is_rgb(self.channels) and {one.window for one in self.channels} == {(0.0, 255.0)}
        if plain and pixels.dtype == np.uint8 and self.shown == (0, 1, 2):
            return pixels
        return blend(pixels, self.channels, self.shown)
