"""What the tags of a TIFF tell of the image: format, scanner, micrometres per pixel."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import reason_of

Array = NDArray[Any]

_MAPPED_ROWS = 64
"""Rows read at a time of an image that lies in the file as in memory."""

_PHILIPS_SPACING = r'"DICOM_PIXEL_SPACING"[^>]*>\s*"([0-9.eE+-]+)"\s*"([0-9.eE+-]+)"'
_VENTANA_SCAN = r'\bScanRes="([0-9.eE+-]+)"'
_PLAUSIBLE_MPP = (0.01, 20.0)
"""Resolution tags outside of this are a printer's or a placeholder's, not a microscope's."""


def reason_of_tags(error: Exception) -> str:
    """Return in one line why tifffile does not read a file, in words about its tags."""
    if isinstance(error, TypeError):
        return "a tag holds several values where one is needed, as samples of different formats do"
    if isinstance(error, LookupError | AttributeError):
        return "a tag is missing, or has fewer values than it must have"
    if isinstance(error, ZeroDivisionError):
        return "a tag holds 0 where a size is needed"
    if isinstance(error, OverflowError):
        return "a tag holds a number that is too large"
    if isinstance(error, struct.error):
        return "a tag is cut off"
    return reason_of(error)


def is_single(level: Any) -> bool:
    """Whether a level of tifffile is one page, and lies in the slide's own file."""
    page = level.keyframe
    return len(level.pages) == 1 and page.parent is page.parent.root


def complete_tables(level: Any) -> None:
    """Give each page of a level of tifffile as many offsets and byte counts as it has tiles.

    Where none of them is in the file some writers, libtiff among them, keep a single 0 for all.
    """
    for page in level.pages:
        # a page that is missing is told where the tables are looked at
        if page is not None and tuple(page.dataoffsets) == tuple(page.databytecounts) == (0,):
            page.dataoffsets = page.databytecounts = (0,) * math.prod(level.keyframe.chunked)


def is_mapped(level: Any) -> bool:
    """Whether a level of tifffile lies in the slide's file as in memory, all of it."""
    page = level.keyframe
    whole = page.dataoffsets[0] and sum(page.databytecounts) >= page.nbytes
    return bool(whole and page.is_memmappable and is_single(level))


def photometric_of(page: Any) -> int:
    """Return what the samples of a page of tifffile mean; black is 0 where it does not say so."""
    if 262 in page.tags or page.compression in (2, 3, 4):  # fax, where white is
        return int(page.photometric)
    return 2 if page.samplesperpixel - len(page.extrasamples) == 3 else 1


def tile_of(level: Any, shape: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of what one decode gives of a level of `shape`."""
    page = level.keyframe
    if is_mapped(level):
        return (min(_MAPPED_ROWS, shape[0]), shape[1])
    if page.is_tiled:
        return (page.tilelength, page.tilewidth)
    return (min(page.rowsperstrip, shape[0]), shape[1])


def absent_units(level: Any, shape: tuple[int, int]) -> tuple[Array, Array] | None:
    """Return which units of a level the file lacks, and where they begin: (rows, columns) each.

    Of several planes a unit is absent that lacks one of them. None for an image that lies in
    the file as in memory.
    """
    if is_mapped(level):
        return None
    height, width = tile_of(level, shape)
    counts = (-1, -(-shape[0] // height), -(-shape[1] // width))
    offsets, nbytes = (
        np.array([getattr(page, name) for page in level.pages], np.int64).reshape(counts)
        for name in ("dataoffsets", "databytecounts")
    )
    return ((offsets == 0) | (nbytes == 0)).any(axis=0), offsets[0]


def properties_of(tiff: Any, series: Any) -> dict[str, str]:
    """Return what the file tells of itself, as text."""
    page = series.keyframe
    found = {
        "format": f"{'Big' if tiff.is_bigtiff else ''}TIFF ({series.kind})",
        "compression": getattr(page.compression, "name", str(page.compression)),
        "photometric": getattr(page.photometric, "name", str(page.photometric)),
    }
    if tiff.is_svs:
        found.update({f"aperio.{k}": str(v) for k, v in _svs_metadata(page).items() if k})
    if page.software:
        found["software"] = str(page.software)
    return found


def _svs_metadata(page: Any) -> Mapping[str, Any]:
    import tifffile

    try:
        metadata: Mapping[str, Any] = tifffile.tifffile.svs_description_metadata(page.description)
    except ValueError:
        return {}
    return metadata


def mpp_of(tiff: Any, series: Any) -> tuple[float, float] | None:
    """Return micrometres per pixel (y, x) where the file tells them believably."""
    page = series.keyframe
    if tiff.is_svs:
        value = _svs_metadata(page).get("MPP")
        return (float(value), float(value)) if value else None
    if tiff.is_ome:
        return _ome_mpp(tiff.ome_metadata)
    if tiff.is_philips:
        return _first_pair(_PHILIPS_SPACING, tiff.philips_metadata, 1000.0)  # millimetres
    if tiff.is_bif:
        xmp = tiff.pages[0].tags.valueof(700, b"")
        text = xmp.decode(errors="replace") if isinstance(xmp, bytes) else str(xmp)
        return _first_pair(_VENTANA_SCAN, text, 1.0)
    resolution = []
    for tag in (283, 282):  # YResolution, XResolution
        count, per = page.tags.valueof(tag, (0, 1)), page.tags.valueof(296, 2)
        micrometres = {2: 25_400.0, 3: 10_000.0}.get(int(per))
        if not count[0] or not count[1] or micrometres is None:
            return None
        resolution.append(micrometres * count[1] / count[0])
    low, high = _PLAUSIBLE_MPP
    return (resolution[0], resolution[1]) if all(low <= r <= high for r in resolution) else None


def _first_pair(pattern: str, text: str | None, factor: float) -> tuple[float, float] | None:
    """Return the first (y, x) that `pattern` finds in `text`, or one number for both."""
    found = re.search(pattern, text or "")
    if found is None:
        return None
    y = float(found.group(1)) * factor
    x = float(found.group(found.lastindex or 1)) * factor
    return (y, x) if y > 0 and x > 0 else None


def _ome_mpp(description: str | None) -> tuple[float, float] | None:
    if not description:
        return None
    found = []
    for axis in "YX":
        size = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"', description)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', description)
        factor = {"nm": 1e-3, "mm": 1e3, "cm": 1e4}.get(unit.group(1) if unit else "µm", 1.0)
        if size is None or float(size.group(1)) <= 0:
            return None
        found.append(float(size.group(1)) * factor)
    return (found[0], found[1])
