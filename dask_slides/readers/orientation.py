"""Turn images upright that are stored mirrored or on their side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region
from dask_slides.core.types import Array


@dataclass(frozen=True)
class Orientation:
    """An optional swap of rows and columns, followed by optional mirroring along y and x."""

    swaps: bool = False
    mirrors_y: bool = False
    mirrors_x: bool = False

    def sides(self, pair: tuple[Any, Any]) -> tuple[Any, Any]:
        """Return a (y, x) pair of the stored image in the order of the upright one."""
        return (pair[1], pair[0]) if self.swaps else pair

    def stored(self, region: Region, shape: tuple[int, int]) -> Region:
        """Return `region` of the upright image of `shape` as a region of the stored one."""
        return self._swapped(self._mirrored(region, shape))

    def upright(self, region: Region, shape: tuple[int, int]) -> Region:
        """Return `region` of the stored image as a region of the upright one of `shape`."""
        return self._mirrored(self._swapped(region), shape)

    def pixels(self, stored: Array) -> Array:
        """Return `stored` pixels (h, w, c) upright."""
        if self == UPRIGHT:
            return stored
        turned = stored.swapaxes(0, 1) if self.swaps else stored
        steps = tuple(slice(None, None, -1 if m else 1) for m in (self.mirrors_y, self.mirrors_x))
        return np.ascontiguousarray(turned[steps])

    def _swapped(self, region: Region) -> Region:
        if not self.swaps:
            return region
        return Region(region.x, region.y, region.width, region.height)

    def _mirrored(self, region: Region, shape: tuple[int, int]) -> Region:
        y = shape[0] - region.stop_y if self.mirrors_y else region.y
        x = shape[1] - region.stop_x if self.mirrors_x else region.x
        return Region(y, x, region.height, region.width)


UPRIGHT = Orientation()
ORIENTATIONS = {
    1: UPRIGHT,
    2: Orientation(mirrors_x=True),
    3: Orientation(mirrors_y=True, mirrors_x=True),
    4: Orientation(mirrors_y=True),
    5: Orientation(swaps=True),
    6: Orientation(swaps=True, mirrors_x=True),
    7: Orientation(swaps=True, mirrors_y=True, mirrors_x=True),
    8: Orientation(swaps=True, mirrors_y=True),
}
"""By the number in the Orientation tag of TIFF and EXIF."""
