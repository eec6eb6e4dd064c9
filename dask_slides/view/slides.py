"""A slide in the viewer: its tiles, its blank map and the corrections of it.

Pages share it, so a page that is loaded again shows the same corrections.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, count
from typing import Any

import numpy as np

from dask_slides.core.layout import CutoffMapping
from dask_slides.core.types import Array
from dask_slides.errors import (
    OutputDeniedError,
    OutputExistsError,
    SlideArgumentError,
    SlideError,
)
from dask_slides.graph.tissue import found_in_picture
from dask_slides.numerics.detectors import checked_detector
from dask_slides.ops.blank_map import BlankMap, blank_map, mpp_of_picture
from dask_slides.ops.cutoff import LAYOUTS, Cutoff, cutoff_resize
from dask_slides.slide import Slide
from dask_slides.view.content import Shown
from dask_slides.view.corrections import Corrections
from dask_slides.view.look import Look
from dask_slides.view.tile_server import TileServer
from dask_slides.view.tiles import Pyramid, in_memory


class ViewedSlide:
    """A slide and its layers, with what the viewer computes of them in the background."""

    def __init__(self, shown: Shown, detector: Any, folder: str, tiles: TileServer) -> None:
        self.shown, self.slide, self.tiles = shown, shown.slide, tiles
        self.pyramid = Pyramid(shown.slide) if shown.has_pixels else None
        self.number = tiles.add(self.pyramid)
        self.corrections = Corrections(shown.slide.shape[:2], shown.slide.mpp_yx)
        self.folder = os.path.abspath(folder)
        self._detector = checked_detector(detector)
        self._saved: set[str] = set()
        self._jobs = ThreadPoolExecutor(1, "dask-slides view")
        self._found: Future[BlankMap | None] | None = None

    def close(self) -> None:
        """End the thread that computes."""
        self._jobs.shutdown(wait=False, cancel_futures=True)

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Call a function in the background, after those that were submitted before."""
        return self._jobs.submit(call, *args)

    def load(self) -> tuple[Future[Any], Future[BlankMap | None]]:
        """Return the picture of the slide and its blank map, which are computed once."""
        if self._found is None:
            self._picture = self.submit(lambda: self.pyramid and self.pyramid.load())
            self._found = self.submit(self._find)
        return self._picture, self._found

    def _find(self) -> BlankMap | None:
        if self.shown.blank_map is not None:
            return self.shown.blank_map.compute()
        if self.pyramid is None:
            return None
        lazy = blank_map(self.slide, detector=self._detector)
        if lazy.found is None or self.pyramid.mpp != lazy.detector.mpp:
            return lazy.compute()
        picture = self.pyramid.load()  # the one that the detector would read
        mpp = mpp_of_picture(self.slide, picture.shape[1])
        item = found_in_picture(picture, mpp, lazy.detector, self.slide.shape[:2])
        return replace(lazy, found=None).with_mask(item.mask, item.detector)

    @property
    def cut_names(self) -> tuple[str, ...]:
        """What can be shown beside the slide: cut-offs that are given, and layouts."""
        layouts = LAYOUTS if self.pyramid is not None else ()
        return (*(one.name for one in self.shown.cuts), *layouts)

    def cut(self, name: str, found: BlankMap | None) -> tuple[Pyramid, CutoffMapping]:
        """Return the image of `cut_names` to show beside the slide, and its coordinates."""
        for one in self.shown.cuts:
            if one.name == name:
                return Pyramid(one.image), one.mapping
        cut = cutoff_resize(self.slide, downsample=1, blank_map=found, layout=name)
        assert self.pyramid is not None
        return Pyramid(cut.image, in_memory(cut_picture(cut, self.pyramid.load()))), cut.mapping

    def pixels(self, y: int, x: int, height: int, width: int, look: Look) -> Array:
        """Read a region at full resolution, as 8-bit RGB."""
        return look.rgb(self.slide.read(y, x, height, width))

    @property
    def has_map(self) -> bool:
        """Whether a blank map is given or can be found."""
        return self.shown.blank_map is not None or self.pyramid is not None

    @property
    def usual_file(self) -> str:
        """The name of a file for the corrections that is not there yet."""
        stem = self.slide.name.split(".")[0]
        numbers = chain([""], (f"-{number}" for number in count(2)))
        names = (f"{stem}.corrections{number}.geojson" for number in numbers)
        return next(one for one in names if not self._is_foreign(os.path.join(self.folder, one)))

    def save(self, found: BlankMap, name: str) -> str:
        """Write the outlines of the corrected map into the folder; return the path.

        A file that the viewer wrote before is replaced.

        Raises
        ------
        SlideArgumentError
            `name` is not the name of a GeoJSON file.
        OutputDeniedError
            The folder cannot be written to.
        OutputExistsError
            There is another file of that name.
        """
        if os.path.basename(name) != name or not name.endswith((".geojson", ".geojson.gz")):
            raise SlideArgumentError(
                f"{name!r} is no name of a GeoJSON file; give a file name like {self.usual_file}"
            )
        path = os.path.join(self.folder, name)
        if self._is_foreign(path):
            raise OutputExistsError(f"{path}: exists already; give another name")
        try:
            self.corrections.applied(found).to_geojson(path, overwrite=True)
        except SlideError:  # the folder is gone
            raise
        except OSError as error:
            raise OutputDeniedError(
                f"{path}: cannot be written ({error.strerror}); start the viewer in another folder"
            ) from error
        self._saved.add(path)
        return path

    def _is_foreign(self, path: str) -> bool:
        """Return whether a file is there that the viewer did not write."""
        return os.path.lexists(path) and path not in self._saved


def cut_picture(cut: Cutoff, overview: Array) -> Array:
    """Return the picture of a cut-off, made from that of its source, `Pyramid.overview`."""
    sides = zip(cut.layout.shape, overview.shape[1:], cut.source_shape, strict=True)
    size = [max(1, round(own * small / full)) for own, small, full in sides]
    y, x = ((np.arange(m) + 0.5) * n / m for n, m in zip(cut.layout.shape, size, strict=True))
    points = cut.layout.to_source(np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1))
    kept = ~np.isnan(points[..., 0])
    rows, columns = (
        np.minimum(points[kept][:, axis] * overview.shape[1 + axis] / cut.source_shape[axis],
                   overview.shape[1 + axis] - 1).astype(np.int64)
        for axis in (0, 1)
    )  # fmt: skip
    image: Slide = cut.image
    out = np.full((*size, image.shape[2]), image.source.fill or 0, image.dtype)
    out[kept] = overview[:-1, rows, columns].T
    return out
