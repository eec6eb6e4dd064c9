"""The tiles of a blank map."""

from __future__ import annotations

from typing import Any

from dask_slides.core.grid import tile_pair
from dask_slides.ops.resize import checked_mpp
from dask_slides.slide import Mpp, Slide

TILE_UM, TILE_PX = 64.0, 256
"""Side of a tile in micrometres, and in pixels if the pixel size is not known."""


def map_tile(slide: Slide, tile_size: Any, mpp: Mpp) -> tuple[int, int]:
    """Return the height and width of a tile of a blank map, in pixels of level 0."""
    wanted = None if mpp is None else checked_mpp(slide, mpp)
    if tile_size is None:
        own = slide.mpp_yx
        if own is None or max(own) > TILE_UM / 8:
            return TILE_PX, TILE_PX
        # a slide that is cut at multiples of 8 can be decoded at 1/8
        y, x = (max(8, 8 * round(TILE_UM / side / 8)) for side in own)
        return y, x
    tile = tile_pair(tile_size)
    if wanted is None:
        return tile
    own = slide.require_mpp("a tile size at an mpp")
    y, x = (max(1, round(t * w / o)) for t, w, o in zip(tile, wanted, own, strict=True))
    return y, x
