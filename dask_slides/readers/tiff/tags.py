"""Read TIFF tags: format, scanner, micrometres per pixel, channels, tables of tiles."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from dask_slides.core.channels import Channel, described, hex_color, plain_channels
from dask_slides.core.types import Array
from dask_slides.errors import reason_of
from dask_slides.readers.physical_units import micrometres, number_above_zero
from dask_slides.readers.tiff.geotiff import band_names, mpp_of_page, reference_of_page
from dask_slides.readers.tiff.ome_xml import (
    channels_of_pixels,
    children,
    mpp_of_pixels,
    pixels_of,
    root_of_xml,
)

_MAPPED_ROWS = 64
"""Rows read at a time from an image that is mapped from the file."""

MASK = 4
"""The bit of NewSubfileType that is set for a mask."""
ASSOCIATED_IMAGES = {"label", "macro", "map", "overview", "thumbnail"}
"""Names of images beside the slide itself, in lower case. A label may show a person's name."""

PHILIPS_SPACING = r'"DICOM_PIXEL_SPACING"[^>]*>\s*"([^"]*)"\s*"([^"]*)"'
_VENTANA_SCAN = r'\bScanRes="([^"]*)"'
_RESOLUTION_UNITS = {2: 25_400.0, 3: 10_000.0, 4: 1000.0, 5: 1.0}
"""Micrometres per ResolutionUnit: inch, centimetre, and tifffile's millimetre and micrometre."""
_PLAUSIBLE_MPP = (0.01, 20.0)
"""Resolution tags outside of this range are placeholders or meant for a printer."""


def reason_of_tags(error: Exception) -> str:
    """Return the reason why tifffile cannot read a file, in one line and in terms of tags."""
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


def fit_tables(level: Any) -> None:
    """Give each page of a level as many offsets and byte counts as it has tiles.

    Some writers, libtiff among them, write a single 0 if the file holds no tile of the page.
    Further entries belong to no tile; libtiff ignores them too.
    """
    count = math.prod(level.keyframe.chunked)
    for page in (*level.pages, level.keyframe):
        if page is None:  # `check_tables` refuses a missing page
            continue
        if tuple(page.dataoffsets) == tuple(page.databytecounts) == (0,):
            page.dataoffsets = page.databytecounts = (0,) * count
        if level.keyframe.jpegheader is None:  # NDPI has a table of its own
            page.dataoffsets = page.dataoffsets[:count]
            page.databytecounts = page.databytecounts[:count]


def is_mapped(level: Any) -> bool:
    """Return whether a level is stored uncompressed in one piece, so that it can be mapped."""
    page = level.keyframe
    complete = page.dataoffsets[0] and sum(page.databytecounts) >= page.nbytes
    return bool(complete and page.is_memmappable and len(level.pages) == 1)


def photometric_of(page: Any) -> int:
    """Return the photometric tag of a page; without one, it is RGB or grey where 0 is black."""
    if 262 in page.tags or page.compression in (2, 3, 4):  # in fax 0 is white
        return int(page.photometric)
    return 2 if page.samplesperpixel - len(page.extrasamples) == 3 else 1


def tile_of(level: Any, shape: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a tile or strip of a level of `shape`."""
    page = level.keyframe
    if is_mapped(level):
        return (min(_MAPPED_ROWS, shape[0]), shape[1])
    if page.is_tiled:
        return (page.tilelength, page.tilewidth)
    return (min(page.rowsperstrip, shape[0]), shape[1])


def absent_tiles(
    level: Any, shape: tuple[int, int], channels: tuple[int, ...] | None = None
) -> tuple[Array, Array] | None:
    """Return which tiles of a level are absent, and their offsets, as arrays (rows, columns).

    A tile of several planes is absent if it is absent in one of them, or in one of the planes of
    `channels`. Return None for an image that is mapped from the file.
    """
    if is_mapped(level):
        return None
    height, width = tile_of(level, shape)
    counts = (-1, -(-shape[0] // height), -(-shape[1] // width))
    offsets, nbytes = (
        np.array([getattr(page, name) for page in level.pages], np.int64).reshape(counts)
        for name in ("dataoffsets", "databytecounts")
    )
    absent = (offsets == 0) | (nbytes == 0)
    if channels is not None and len(level.pages) == 1 and level.keyframe.planarconfig == 2:
        absent, offsets = absent[list(channels)], offsets[list(channels)]
    return absent.any(axis=0), offsets[0]


def properties_of(tiff: Any, series: Any) -> dict[str, str]:
    """Return the format, the codec and the scanner's metadata as text."""
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
    reference = reference_of_page(page)
    if reference is not None:
        found |= reference.to_properties()
    return found


def _svs_metadata(page: Any) -> Mapping[str, Any]:
    import tifffile

    try:
        metadata: Mapping[str, Any] = tifffile.tifffile.svs_description_metadata(page.description)
    except ValueError:
        return {}
    return metadata


def mpp_of(tiff: Any, series: Any) -> tuple[float, float] | None:
    """Return micrometres per pixel (y, x), or None if the file holds no plausible values."""
    page = series.keyframe
    is_scan = series.name.lower() not in ASSOCIATED_IMAGES  # metadata describe only the scan
    if tiff.is_svs:
        value = number_above_zero(_svs_metadata(page).get("MPP"))
        return None if value is None else (value, value)
    if tiff.is_ome:
        return mpp_of_pixels(pixels_of(tiff, series))
    if tiff.is_philips and is_scan:
        return _first_pair(PHILIPS_SPACING, tiff.philips_metadata, 1000.0)  # millimetres
    if tiff.is_bif and is_scan:
        xmp = tiff.pages[0].tags.valueof(700, b"")
        text = xmp.decode(errors="replace") if isinstance(xmp, bytes) else str(xmp)
        return _first_pair(_VENTANA_SCAN, text, 1.0)
    if page.is_geotiff:  # its resolution tags are for a printer
        return mpp_of_page(page)
    metadata = (tiff.is_imagej and tiff.imagej_metadata) or {}
    if unit := str(metadata.get("unit", "")).strip():
        x, y = micrometres(unit), micrometres(metadata.get("yunit", unit))
        # inch and centimetre may be meant for a printer
        explicit = not {x, y} & {_RESOLUTION_UNITS[2], _RESOLUTION_UNITS[3]}
    else:
        code = page.tags.valueof(296, 2)
        x = y = _RESOLUTION_UNITS.get(code) if isinstance(code, int) else None
        explicit = False
    found = _mpp_of_tags(page, x, y)
    low, high = _PLAUSIBLE_MPP
    if found is None or explicit or all(low <= size <= high for size in found):
        return found
    return None


def _mpp_of_tags(page: Any, x: float | None, y: float | None) -> tuple[float, float] | None:
    """Return the size of a pixel (y, x); `x` and `y` are the units of the tags in micrometres."""
    sizes = []
    for tag, unit in ((283, y), (282, x)):  # YResolution, XResolution
        value = page.tags.valueof(tag)
        parts = value if isinstance(value, tuple) else (value,)
        if len(parts) == 2 and parts[1]:  # a fraction, as TIFF requires
            parts = (parts[0] / parts[1],)
        per_unit = number_above_zero(parts[0]) if len(parts) == 1 else None
        if unit is None or per_unit is None:
            return None
        sizes.append(unit / per_unit)
    return sizes[0], sizes[1]


def _first_pair(pattern: str, text: str | None, factor: float) -> tuple[float, float] | None:
    """Return the first (y, x) that `pattern` finds in `text`, or one number for both."""
    found = re.search(pattern, text or "")
    if found is None:
        return None
    y, x = (number_above_zero(found.group(n)) for n in (1, found.lastindex or 1))
    return None if y is None or x is None else (y * factor, x * factor)


def channels_of(tiff: Any, series: Any, axes: str, count: int) -> tuple[Channel, ...]:
    """Return the names and colours of the `count` channels of a series whose axes are `axes`."""
    bands = band_names(series.keyframe, count)
    stacked = not (count > 1 and dict(zip(axes, series.shape, strict=True)).get("C", 1) == 1)
    if any(bands):
        plain = plain_channels(count, stacked)
        names = [own or one.name for own, one in zip(bands, plain, strict=True)]
        return described(count, names, [one.color for one in plain])
    if not stacked:
        return plain_channels(count)
    if tiff.is_ome and len(pixels := pixels_of(tiff, series)) == 1:
        return channels_of_pixels(pixels[0], count)
    if series.kind == "imagej":
        return _channels_of_imagej(tiff.imagej_metadata or {}, count)
    if series.kind == "qpi":
        return _channels_of_qpi([page.description for page in series.pages], count)
    return plain_channels(count, stacked=True)


def _channels_of_imagej(metadata: Mapping[str, Any], count: int) -> tuple[Channel, ...]:
    # the description may have the same keys, with any values
    tables, ranges, labels = (
        value if isinstance(value := metadata.get(key), tuple | list) else ()
        for key in ("LUTs", "Ranges", "Labels")
    )
    tables = [np.asarray(table) for table in tables]
    tops = [table[:, -1].tolist() if table.shape == (3, 256) else (0, 0, 0) for table in tables]
    colors = [hex_color(*top) if any(top) else None for top in tops]
    if not ranges:  # one range for all channels
        ranges = (metadata.get("min"), metadata.get("max")) * count
    # there is a label for each plane, and all planes of a channel may have the same
    of_channels = [[str(label) for label in labels[number::count]] for number in range(count)]
    names = [one[0] if one and len(set(one)) == 1 else None for one in of_channels]
    return described(count, names, colors, list(zip(ranges[::2], ranges[1::2], strict=False)))


def _channels_of_qpi(descriptions: list[str], count: int) -> tuple[Channel, ...]:
    names, colors = [], []
    for text in descriptions:
        root = root_of_xml(text)
        found = [] if root is None else [children(root, name) for name in ("Name", "Biomarker")]
        names.append(next((one[0].text for one in found if one and one[0].text), None))
        color = None
        if root is not None and (one := children(root, "Color")):
            parts = [part.strip() for part in (one[0].text or "").split(",")]
            if len(parts) == 3 and all(part.isdecimal() for part in parts):
                color = hex_color(*map(int, parts))
        colors.append(color)
    return described(count, names, colors)
