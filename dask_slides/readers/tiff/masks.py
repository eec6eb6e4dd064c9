"""Find the nodata value and the mask page of a TIFF."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_slides.core.limits import Limits
from dask_slides.errors import SlideUnsupportedError
from dask_slides.readers.tiff.directories import Structure
from dask_slides.readers.tiff.page_checks import check_declared, check_tables
from dask_slides.readers.tiff.tags import MASK, fit_tables
from dask_slides.readers.tile_status import parse_nodata, text_of

_GDAL_NODATA = 42113


def nodata_of(page: Any) -> int | float | None:
    """Return GDAL's nodata value if it is a value of the dtype of `page`."""
    dtype = np.dtype(np.uint8) if page.dtype == np.bool_ else page.dtype
    return parse_nodata(str(page.tags.valueof(_GDAL_NODATA, "")).strip("\0 "), dtype)


def _mask_of(all_series: list[Any], levels: list[Any]) -> tuple[int, int] | None:
    """Return the index of the series that is the mask of an image, and its number of levels.

    A mask is a page of NewSubfileType 4 that has the size of the image, and for each level the
    size of that level.
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
    path: str, all_series: list[Any], series: Any, file: Structure, limits: Limits
) -> tuple[int, int] | None:
    """Return the index of the mask of `series` and its number of levels, if there is one."""
    found = _mask_of(all_series, series.levels)
    if found is None:
        return None
    index, count = found
    for number, level in enumerate(all_series[index].levels[:count]):
        page, where = level.keyframe, f"{path}: the mask of level {number}"
        if page.samplesperpixel != 1 or page.bitspersample not in (1, 8):
            raise SlideUnsupportedError(
                f"{where} has {page.samplesperpixel} samples of {page.bitspersample} bits; "
                "save it with one bit per pixel"
            )
        fit_tables(level)
        check_declared(where, level, limits)
        check_tables(where, page, page, file)
    return index, count


def nodata_properties(nodata: int | float | None, mask: int | None) -> dict[str, str]:
    """Return the properties that name the nodata value and the mask."""
    found = {} if nodata is None else {"nodata": text_of(nodata)}
    return found | ({} if mask is None else {"mask": "a page of the file"})
