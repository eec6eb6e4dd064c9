"""Edit the mask of a blank map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import as_array, as_number
from dask_slides.core.grid import TileGrid
from dask_slides.errors import SlideArgumentError
from dask_slides.numerics.tissue_mask import TissueMask, edges_of_grid, edges_of_mask


class EditableMap:
    """The methods of `BlankMap` that change its mask. Nothing is read from the slide."""

    if TYPE_CHECKING:

        @property
        def grid(self) -> TileGrid:
            """The tiles, in pixels of level 0."""

        @property
        def name(self) -> str:
            """Name of the slide."""

        @property
        def shape(self) -> tuple[int, int]:
            """Rows and columns of the grid."""

        @property
        def mpp_yx(self) -> tuple[float, float] | None:
            """Micrometres per pixel of level 0."""

        @property
        def mask(self) -> TissueMask:
            """The tissue as a mask of the slide."""

        def compute(self) -> Self:
            """Return the map in memory."""

        def with_mask(self, mask: TissueMask, detector: Any = None) -> Self:
            """Return the computed map with another mask."""

    def with_blank(self, blank: Any) -> Self:
        """Return the map with the blank areas that you give; nothing is read.

        Parameters
        ----------
        blank : array_like
            (h, w) bool, True = blank, of any size; it covers the slide. If it has the rows and
            columns of the map, each value is that of a tile.

        Returns
        -------
        BlankMap
            In memory. No tile is unknown.

        Raises
        ------
        SlideArgumentError
            The array is not boolean, or has more pixels than the slide.

        Examples
        --------
        >>> import numpy as np, dask_slides as ds
        >>> found = ds.blank_map(np.zeros((4, 4), "uint8"), tile_size=2)
        >>> found.with_blank(np.eye(2, dtype=bool)).tissue_fraction
        array([[0., 1.],
               [1., 0.]])
        """
        tissue = ~checked_mask(blank, self.grid.shape, self.name)
        of_tiles = tissue.shape == self.shape
        shape = self.grid.shape
        edges = edges_of_grid(self.grid) if of_tiles else edges_of_mask(shape, tissue.shape)
        return self.with_mask(TissueMask.of(tissue, edges), "given by the user")

    def remove_small(self, area: float) -> Self:
        """Make pieces of tissue blank that are smaller than `area`.

        Parameters
        ----------
        area : float
            Square micrometres, or pixels of level 0 if the pixel size is not known. Pieces that
            touch at a corner are one.

        Returns
        -------
        BlankMap
            In memory.
        """
        return self._cleaned(self.mask.without_small(self._pixels(area)))

    def fill_holes(self, area: float) -> Self:
        """Make holes in tissue of up to `area` tissue; the unit is that of `remove_small`."""
        return self._cleaned(self.mask.without_holes(self._pixels(area)))

    def _cleaned(self, mask: TissueMask) -> Self:
        return self.compute().with_mask(mask)

    def _pixels(self, area: float) -> float:
        size = as_number(area)
        if not 0 <= size < np.inf:
            raise SlideArgumentError(f"{self.name}: area={area!r} is not an area; give 0 or more")
        return float(size) if self.mpp_yx is None else size / (self.mpp_yx[0] * self.mpp_yx[1])

    def union(self, other: Self) -> Self:
        """Return the map of what is tissue in this map or in `other`, on the tiles of this one."""
        return self._combined(other, np.logical_or)

    def intersection(self, other: Self) -> Self:
        """Return the map of what is tissue in this map and in `other`, on the tiles of this one."""
        return self._combined(other, np.logical_and)

    def _combined(self, other: Self, operation: Any) -> Self:
        if not isinstance(other, type(self)) or other.grid.shape != self.grid.shape:
            raise SlideArgumentError(f"{self.name}: give a BlankMap of the same slide")
        return self._cleaned(self.mask.combined(other.mask, operation))


def checked_mask(mask: Any, shape: tuple[int, int], name: str) -> NDArray[np.bool_]:
    """Return `mask` as an array; raise SlideArgumentError unless it is a mask of the slide."""
    array: NDArray[np.bool_] | None = as_array(mask)
    if array is None:
        raise SlideArgumentError(f"{name}: a mask with rows of several lengths; give (h, w)")
    if (
        array.dtype != np.bool_
        or array.ndim != 2
        or any(not min(1, m) <= n <= m for n, m in zip(array.shape, shape, strict=True))
    ):
        raise SlideArgumentError(
            f"{name}: a mask of shape {array.shape} and dtype {array.dtype}; give booleans (h, w) "
            f"that cover the slide of {shape[0]} x {shape[1]} px"
        )
    return array
