"""Outlines of a blank map, and blank maps from outlines and label images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.polygons import Outline
from dask_slides.graph.overview import overview_shape
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR
from dask_slides.numerics.outlines import mask_outlines
from dask_slides.numerics.tissue_mask import TissueMask, edges_of_mask
from dask_slides.ops.annotations import Annotations, LabelImage, label_mask
from dask_slides.ops.geojson import read_geojson, write_geojson
from dask_slides.ops.map_tiles import map_tile
from dask_slides.slide import Slide, SlideLike, as_slide


class OutlinedMap:
    """The methods of `BlankMap` for outlines and label images."""

    if TYPE_CHECKING:

        @property
        def mask(self) -> TissueMask:
            """The tissue as a mask of the slide."""

        @classmethod
        def of_mask(
            cls, slide: Slide, mask: NDArray[np.bool_], tile: tuple[int, int], detector: str
        ) -> Self:
            """Return the computed map of a mask that covers the slide."""

    def polygons(self) -> tuple[Outline, ...]:
        """Return the outlines of the tissue, with holes, in pixels of level 0.

        Returns
        -------
        tuple of Outline
            ``exterior`` and each of ``holes`` are rings (n, 2) of corners (y, x). The area of all
            outlines is that of the mask. ``shapely.geometry.shape`` converts one.
        """
        mask = self.mask
        return mask_outlines(mask.tissue, mask.y_edges, mask.x_edges)

    def to_geojson(
        self, path: str | os.PathLike[str], *, style: str = "qupath", overwrite: bool = False
    ) -> str:
        """Write the outlines of the tissue as GeoJSON, x before y, in pixels of level 0.

        Parameters
        ----------
        path : str or path
            ``NAME.geojson``, or ``NAME.geojson.gz``.
        style : {"qupath", "trident"}
            Annotations for QuPath, or contours as TRIDENT writes them.
        overwrite : bool
            Replace a file at `path`.

        Returns
        -------
        str
            The path.

        Raises
        ------
        OutputExistsError
            The path exists, and `overwrite` is not set.
        """
        return write_geojson(self.polygons(), path, style=style, overwrite=overwrite)

    @classmethod
    def from_geojson(
        cls,
        path: str | os.PathLike[str],
        slide: SlideLike,
        *,
        name: str | None = None,
        tile_size: int | Sequence[int] | None = None,
    ) -> Self:
        """Return the map of the polygons in a GeoJSON file, such as QuPath exports.

        Parameters
        ----------
        path : str or path
            Polygons in pixels of level 0, x before y.
        slide : Slide, path or dask array
            The slide that the polygons belong to; only its metadata is read.
        name : str, optional
            The class that is tissue; by default all polygons are.
        tile_size : int or (int, int), optional
            As in `blank_map`.

        Returns
        -------
        BlankMap
            In memory. A pixel of its mask is tissue if its centre lies in a polygon. Where a
            polygon crosses itself, what it encloses twice is outside.

        Raises
        ------
        SlideFormatError
            The file is not GeoJSON.
        SlideArgumentError
            The polygons do not lie on the slide.
        """
        found = as_slide(slide)
        annotations = read_geojson(path, slide_shape=found.shape)
        return cls.from_labels(annotations, found, name=name, tile_size=tile_size)

    @classmethod
    def from_labels(
        cls,
        labels: Any,
        slide: SlideLike,
        *,
        name: str | None = None,
        tile_size: int | Sequence[int] | None = None,
    ) -> Self:
        """Return the map of annotations, or of a label image that covers the slide.

        Parameters
        ----------
        labels : Annotations, LabelImage or array
            An array (h, w) of integers or booleans of any scale: 0 is blank.
        slide, name, tile_size
            As in `from_geojson`.

        Returns
        -------
        BlankMap
            In memory.
        """
        found = as_slide(slide)
        tile, size = map_tile(found, tile_size, None), found.shape[:2]
        if not isinstance(labels, Annotations | LabelImage):
            labels = label_mask(labels, size)
        shape = overview_shape(size, found.mpp_yx, DEFAULT_DETECTOR.mpp)
        if isinstance(labels, LabelImage):
            shape = labels.values.shape
        y_edges, x_edges = edges_of_mask(size, shape)
        tissue = labels.mask(y_edges, x_edges, name=name)
        return cls.of_mask(found, tissue, tile, f"{type(labels).__name__} of the user")
