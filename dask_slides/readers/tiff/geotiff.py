"""Read the keys of a GeoTIFF (OGC 19-008r4), and the names that GDAL gives to its bands."""

from __future__ import annotations

import math
from typing import Any

from dask_slides.core.georeference import Affine, GeoReference
from dask_slides.readers.tiff.ome_xml import root_of_xml

_PIXEL_SCALE, _TIEPOINTS, _TRANSFORMATION, _KEYS, _GDAL_METADATA = 33550, 33922, 34264, 34735, 42112
_PROJECTED, _GEOGRAPHIC = 1, 2
_USER_DEFINED = 32767
_LENGTHS = {
    9001: ("metre", 1.0), 9002: ("foot", 0.3048), 9003: ("US survey foot", 1200 / 3937),
    9036: ("kilometre", 1000.0),
}  # fmt: skip
"""Name and metres of units of length, by their EPSG code."""
_METRIC = {3857, *range(32601, 32661), *range(32701, 32761)}
"""EPSG codes in metres, which some writers do not say: Web Mercator and UTM zones of WGS 84."""


def reference_of_page(page: Any) -> GeoReference | None:
    """Return the georeference of a page of tifffile; None if it has no valid one."""
    if _KEYS not in page.tags:
        return None
    try:
        keys = page.geotiff_tags
        code, name = _crs(keys)
        transform = _transform(page, keys)
    except Exception:  # tifffile raises errors of many classes for damaged keys
        return None
    if transform is None:
        return GeoReference(code, name, _unit(keys)[0])
    a, b, _, d, e, _ = transform
    return GeoReference(code, name, _unit(keys)[0], (math.hypot(a, d), math.hypot(b, e)), transform)


def mpp_of_page(page: Any) -> tuple[float, float] | None:
    """Return micrometres per pixel (y, x) if the unit of the coordinates is a length."""
    found = reference_of_page(page)
    if found is None or found.pixel_size is None:
        return None
    _, metres = _unit(page.geotiff_tags)
    if metres is None:
        return None
    x, y = (side * metres * 1e6 for side in found.pixel_size)
    return (y, x) if x > 0 and y > 0 else None


def _crs(keys: dict[str, Any]) -> tuple[str, str]:
    """Return the code and the name of the coordinate reference system."""
    projected = int(keys.get("GTModelTypeGeoKey", 0)) == _PROJECTED
    code = keys.get("ProjectedCSTypeGeoKey" if projected else "GeographicTypeGeoKey")
    names = ("PCSCitationGeoKey", "GTCitationGeoKey") if projected else ("GeogCitationGeoKey",)
    citations = [str(keys[key]).strip(" |") for key in (*names, "GTCitationGeoKey") if key in keys]
    name = next((text for text in citations if text and "=" not in text), "")
    if code is not None and 0 < int(code) < _USER_DEFINED:
        return f"EPSG:{int(code)}", name
    return name, name


def _unit(keys: dict[str, Any]) -> tuple[str, float | None]:
    """Return the name of the unit, and its metres if it is a known length."""
    model = int(keys.get("GTModelTypeGeoKey", 0))
    if model == _GEOGRAPHIC:
        return ("degree" if int(keys.get("GeogAngularUnitsGeoKey", 9102)) == 9102 else ""), None
    if model != _PROJECTED:
        return "", None
    code = int(keys.get("ProjLinearUnitsGeoKey", 0))
    if code == _USER_DEFINED:
        metres = float(keys.get("ProjLinearUnitSizeGeoKey", 0))
        same = (name for name, size in _LENGTHS.values() if math.isclose(size, metres))
        return next(same, f"{metres:g} m"), metres if 0 < metres < math.inf else None
    if code == 0 and int(keys.get("ProjectedCSTypeGeoKey", 0)) in _METRIC:
        code = 9001
    return _LENGTHS.get(code, ("", None))


def _transform(page: Any, keys: dict[str, Any]) -> Affine | None:
    """Return the place of the pixels, as GDAL does; None if only control points are given."""
    if page.tags.valueof(274, 1) not in (0, 1):  # the image is turned upright
        return None
    matrix = page.tags.valueof(_TRANSFORMATION)
    scale, tie = page.tags.valueof(_PIXEL_SCALE), page.tags.valueof(_TIEPOINTS)
    if matrix is not None and len(matrix) == 16:
        a, b, _, c, d, e, _, f = (float(number) for number in matrix[:8])
    elif scale is not None and tie is not None and len(tie) >= 6 and len(scale) >= 2:
        a, b, d, e = float(scale[0]), 0.0, 0.0, -abs(float(scale[1]))
        c, f = float(tie[3]) - a * float(tie[0]), float(tie[4]) - e * float(tie[1])
    else:
        return None
    if int(keys.get("GTRasterTypeGeoKey", 1)) == 2:  # coordinates are those of centres of pixels
        c, f = c - (a + b) / 2, f - (d + e) / 2
    found = (a, b, c, d, e, f)
    return found if all(map(math.isfinite, found)) and a * e - b * d else None


def band_names(page: Any, count: int) -> list[str | None]:
    """Return the descriptions of the bands in GDAL's metadata; None for bands without one."""
    names: list[str | None] = [None] * count
    root = root_of_xml(page.tags.valueof(_GDAL_METADATA))
    for item in () if root is None else root:
        number = item.get("sample", "")
        if item.get("role") == "description" and number.isdecimal() and int(number) < count:
            names[int(number)] = item.text
    return names
