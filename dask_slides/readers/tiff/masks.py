"""Which pixels of a TIFF have no value: its nodata number, and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dask_slides.core.limits import Limits
from dask_slides.errors import SlideUnsupportedError
from dask_slides.readers.tiff.directories import Structure
from dask_slides.readers.tiff.page_checks import check_declared, check_tables
from dask_slides.readers.tiff.tags import MASK, complete_tables
from dask_slides.readers.tile_status import text_of, value_in

_GDAL_NODATA = 42113


def nodata_of(page: Any) -> int | float | None:
    """Return the value that GDAL marks pixels without a value by, if the dtype of `page` has it."""
    dtype = np.dtype(np.uint8) if page.dtype == np.bool_ else page.dtype
    return value_in(str(page.tags.valueof(_GDAL_NODATA, "")).strip("\0 "), dtype)


def _mask_of(all_series: list[Any], levels: list[Any]) -> tuple[int, int] | None:
    """Return which series is the mask of an image, and of how many of its `levels`.

    A mask is a page of NewSubfileType 4 and of the size of its image, all of it or a level.
    """
    for index, series in enumerate(all_series):
        if not int(series.keyframe.subfiletype) & MASK or len(series.pages) != 1:
            continue
        pairs = zip(series.levels, levels, strict=False)
        same = [_size(one) == _size(other) for one, other in pairs]
        if same and same[0]:
            return index, same.index(False) if False in same else len(same)
    return None


def _size(level: Any) -> tuple[int, int]:
    sizes = dict(zip(level.axes, level.shape, strict=True))
    return sizes.get("Y", 0), sizes.get("X", 0)


def checked_mask(
    path: str, all_series: list[Any], series: Any, files: Mapping[str, Structure], limits: Limits
) -> tuple[int, int] | None:
    """Return the series of the mask of `series` and the levels it has, if there is one."""
    found = _mask_of(all_series, series.levels)
    if found is None:
        return None
    index, count = found
    for number, level in enumerate(all_series[index].levels[:count]):
        page, where = level.keyframe, f"{path}: the mask of level {number}"
        if page.samplesperpixel != 1 or page.bitspersample not in (1, 8):
            raise SlideUnsupportedError(
                f"{where} has {page.samplesperpixel} samples of {page.bitspersample} bits; "
                "save it as one bit a pixel"
            )
        complete_tables(level)
        check_declared(where, level, limits)
        check_tables(where, page, page, files[path])
    return index, count


def told_of(nodata: int | float | None, mask: int | None) -> dict[str, str]:
    """Return what a file says of pixels without a value, as text."""
    found = {} if nodata is None else {"nodata": text_of(nodata)}
    return found | ({} if mask is None else {"mask": "a page of the file"})
