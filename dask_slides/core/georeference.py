"""Where an image lies on a map: its coordinate reference system and the place of its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dask_slides.core.geometry import Placement

_PREFIX = "geotiff."

Affine = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f: the corner of a pixel is at x = a * column + b * row + c and y = d * column +
e * row + f, as in rasterio."""


@dataclass(frozen=True)
class GeoReference:
    """The coordinate reference system (CRS) of a GeoTIFF, and the place of its pixels."""

    crs: str
    """Code of the CRS, such as "EPSG:32633"; without a code its name; "" if there is none."""
    crs_name: str = ""
    """Name of the CRS, such as "WGS 84 / UTM zone 33N"."""
    unit: str = ""
    """Unit of the coordinates, such as "metre" or "degree"."""
    pixel_size: tuple[float, float] | None = None
    """Width and height of a pixel in that unit, x before y."""
    transform: Affine | None = None
    """Place of the pixels; None if it is not known, or if parts were cut out of the image."""

    @property
    def origin(self) -> tuple[float, float] | None:
        """Coordinates (x, y) of the upper left corner of the first pixel."""
        return None if self.transform is None else (self.transform[2], self.transform[5])

    def placed(self, placement: Placement, *, whole: bool = True) -> GeoReference:
        """Return the reference of an image at `placement` on this one.

        Without `whole`, parts between its pixels were cut out, so that it has no transform.
        """
        (y, x), (top, left) = placement.scale, placement.offset
        size = self.pixel_size and (self.pixel_size[0] * x, self.pixel_size[1] * y)
        if self.transform is None or not whole:
            return replace(self, pixel_size=size, transform=None)
        a, b, c, d, e, f = self.transform
        corner = (c + a * left + b * top, f + d * left + e * top)
        moved = (a * x, b * y, corner[0], d * x, e * y, corner[1])
        return replace(self, pixel_size=size, transform=moved)

    def to_properties(self) -> dict[str, str]:
        """Return the reference as properties of a slide; what is not known is left out."""
        values = {**self.to_json(), "origin": self.origin}
        return {
            f"{_PREFIX}{key}": value if isinstance(value, str) else ", ".join(map(_text, value))
            for key, value in values.items()
            if value
        }

    def to_json(self) -> dict[str, Any]:
        """Return the reference as plain values for JSON; what is not known is left out."""
        values = {
            "crs": self.crs, "crs_name": self.crs_name, "unit": self.unit,
            "pixel_size": self.pixel_size and list(self.pixel_size),
            "transform": self.transform and list(self.transform),
        }  # fmt: skip
        return {key: value for key, value in values.items() if value}


def reference_of(properties: Mapping[str, str]) -> GeoReference | None:
    """Return the reference in the properties of a slide; None if there is none."""
    found: dict[str, Any] = {
        key.removeprefix(_PREFIX): value
        for key, value in properties.items()
        if key.startswith(_PREFIX)
    }
    for key in ("pixel_size", "transform"):
        if key in found:
            found[key] = [float(number) for number in found[key].split(",")]
    return reference_from_json(found) if found else None


def reference_from_json(values: Any) -> GeoReference | None:
    """Return the reference that `to_json` stored; None for other values."""
    if not isinstance(values, Mapping) or not values:
        return None
    crs, name, unit = (str(values.get(key, "")) for key in ("crs", "crs_name", "unit"))
    size, transform = (
        _numbers(values.get(key), count) for key, count in (("pixel_size", 2), ("transform", 6))
    )
    return GeoReference(crs, name, unit, size, transform)


def _numbers(values: Any, count: int) -> Any:
    """Return `count` finite numbers; None for other values."""
    if not (isinstance(values, list) and len(values) == count):
        return None
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None


def _text(number: float) -> str:
    return repr(float(number)).removesuffix(".0")
