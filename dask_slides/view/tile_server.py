"""Tiles as PNG, made in threads; those that were asked for last are kept."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.plots.pictures import png
from dask_slides.view.tiles import FULL, TILE, Pyramid

CACHE_BYTES = 2**26
"""Bytes of encoded tiles that are kept."""
EMPTY = png(np.zeros((1, 1, 4), np.uint8))
"""A transparent tile."""


class TileServer:
    """The tiles of several images, each with a number."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(os.cpu_count(), "dask-slides tiles")
        self.listeners: set[Callable[[int, str], None]] = set()
        """Called with the number of an image, and why one of its tiles cannot be made."""
        self._images: dict[int, Pyramid | None] = {}
        self._numbers = count()
        self._kept: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, image: Pyramid | None) -> int:
        """Return the number under which the tiles of `image` are found; None has no pixels."""
        number = next(self._numbers)
        self._images[number] = image
        return number

    def remove(self, number: int) -> None:
        """Forget an image."""
        self._images.pop(number, None)

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)

    def tile(self, number: int, look: str, z: int, x: int, y: int) -> tuple[bytes, bool]:
        """Return the PNG of a tile, and whether it is final.

        `look` is a `Look.text`. At `z` the image is halved `FULL` - z times.

        Raises
        ------
        ValueError
            There is no such look.
        """
        key = (number, look, z, x, y)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found, True
        image = self._images.get(number)  # a page may still ask for one that was removed
        if image is None or z > FULL:  # Bokeh also fetches what is below the last tiles
            return EMPTY, True
        colours = image.look.with_text(look)
        pixels, final = image.pixels(FULL - z, y, x)
        data = EMPTY if pixels is None else png(_padded(colours.rgb(pixels)), quickly=True)
        if final:
            self._keep(key, data)
        return data, final

    def _keep(self, key: tuple[Any, ...], data: bytes) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = data
                self._bytes += len(data)
            while self._bytes > CACHE_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])


def _padded(rgb: Array) -> Array:
    """Return a tile of 256 x 256 px; what lies beyond the image is transparent."""
    height, width = rgb.shape[:2]
    if (height, width) == (TILE, TILE):
        return rgb
    out = np.zeros((TILE, TILE, 4), np.uint8)
    out[:height, :width, :3] = rgb
    out[:height, :width, 3] = 255
    return out
