"""GeoJSON files of outlines and annotations, as QuPath and TRIDENT have them.

Coordinates are pixels of level 0, x before y. The format is RFC 7946, except that it says
longitude and latitude. It is read and written here, below the writers, because blank maps do both.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import uuid
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from dask_slides.core.arguments import checked_path, local_path
from dask_slides.core.polygons import Outline, Polygons, starts_of
from dask_slides.core.types import Array
from dask_slides.errors import (
    SkippedGeometryWarning,
    SlideArgumentError,
    SlideError,
    SlideFormatError,
    SlideNotFoundError,
    reason_of,
)
from dask_slides.ops.annotations import Annotations, checked_slide_shape
from dask_slides.readers.remote.object_store import read_whole
from dask_slides.runtime.write_permission import check_parent, exists_error, permission_errors

STYLES = ("qupath", "trident")
TISSUE, TISSUE_COLOUR = "Tissue", (0, 160, 80)
UNCLASSIFIED = "unclassified"
"""The class of a polygon that has none in the file."""


def write_geojson(
    outlines: Iterable[Outline],
    path: str | os.PathLike[str],
    *,
    classification: str = TISSUE,
    colour: tuple[int, int, int] = TISSUE_COLOUR,
    style: str = "qupath",
    overwrite: bool = False,
) -> str:
    """Write outlines as GeoJSON; the file appears when it is complete.

    Parameters
    ----------
    outlines : sequence of Outline
        In pixels of level 0.
    path : str or path
        ``NAME.geojson``; a name that ends with ``.gz`` is compressed. TRIDENT looks for
        ``contours_geojson/NAME.geojson`` in its job folder.
    classification : str
        Name of the class in QuPath.
    colour : (int, int, int)
        Its red, green and blue, from 0 to 255.
    style : {"qupath", "trident"}
        "qupath" writes annotations with a class and an id, which is the same for the same outline.
        "trident" writes a ``tissue_id`` each, as TRIDENT does.
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
    SlideNotFoundError
        The folder does not exist.
    OutputDeniedError
        The folder cannot be written to.
    SlideArgumentError
        An argument is not valid.
    """
    name = local_path(path, "GeoJSON")
    if style not in STYLES:
        raise SlideArgumentError(f"unknown style {style!r}; use one of {', '.join(STYLES)}")
    if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
        raise SlideArgumentError(f"colour {colour!r} is not red, green and blue from 0 to 255")
    if style == "qupath":
        rgb = [int(value) for value in colour]
        content = _collection([_annotation(one, classification, rgb) for one in outlines])
    else:
        content = _collection([_contour(at, one) for at, one in enumerate(outlines)])
        # geopandas writes these two, and reads a file without a crs as longitude and latitude
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}
        content |= {"name": os.path.basename(name).split(".geojson")[0], "crs": crs}
    data = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    _write_file(name, gzip.compress(data, mtime=0) if name.endswith(".gz") else data, overwrite)
    return name


def _collection(features: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": features}


def _annotation(outline: Outline, classification: str, rgb: list[int]) -> dict[str, Any]:
    """Return an annotation of QuPath."""
    points = hashlib.sha256()
    for ring in outline.rings:
        points.update(ring.astype("<f8").tobytes() + b"/")
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{classification} {points.hexdigest()}")),
        "geometry": outline.__geo_interface__,
        "properties": {
            "objectType": "annotation",
            "classification": {"name": classification, "color": rgb},
        },
    }


def _contour(number: int, outline: Outline) -> dict[str, Any]:
    """Return a contour of TRIDENT."""
    properties = {"tissue_id": number}
    return {"type": "Feature", "properties": properties, "geometry": outline.__geo_interface__}


def _write_file(path: str, data: bytes, overwrite: bool) -> None:
    folder, base = os.path.split(path)
    check_parent(path)
    if os.path.isdir(path) or (os.path.lexists(path) and not overwrite):
        raise exists_error(path)
    hidden = os.path.join(folder, f".{base}.{secrets.token_hex(4)}.tmp")
    try:
        with permission_errors(path):
            with open(hidden, "wb") as stream:
                stream.write(data)
            os.replace(hidden, path)
    finally:
        if os.path.exists(hidden):
            os.remove(hidden)


def read_geojson(
    path: str | os.PathLike[str], *, slide_shape: tuple[int, ...] | None = None
) -> Annotations:
    """Read the polygons of a GeoJSON file, with their classes.

    The class is the first of ``classification.name`` (QuPath), ``name``, ``label`` and ``class``
    in the properties of a feature, "Tissue" for contours of TRIDENT, otherwise "unclassified".

    Parameters
    ----------
    path : str or path
        A FeatureCollection, a Feature, a geometry, or a list of features as QuPath exports it; a
        name that ends with ``.gz`` is compressed.
    slide_shape : tuple, optional
        Height and width of the slide at level 0, and anything after them. A file whose polygons do
        not fit the slide is refused.

    Returns
    -------
    Annotations
        A MultiPolygon becomes several polygons. Where the rings of one polygon cross, what an even
        number of them encloses is outside, in masks as in coverage.

    Raises
    ------
    SlideNotFoundError
        There is no file at the path.
    SlideFormatError
        The file is not GeoJSON, or its coordinates are not numbers.
    SlideArgumentError
        All polygons lie outside the slide, or are longitudes and latitudes, or an argument is not
        valid.

    Warns
    -----
    SkippedGeometryWarning
        Points, lines, and polygons of fewer than three points are skipped.

    Examples
    --------
    >>> import dask_slides as ds
    >>> slide = ds.open_slide(ds.sample_slide("a.tif", shape=(2048, 2048)))
    >>> path = ds.blank_map(slide).compute().to_geojson("tissue.geojson")
    >>> ds.read_geojson("tissue.geojson", slide_shape=slide.shape).classes
    ('Tissue',)
    """
    name = checked_path(path)
    if slide_shape is not None:
        slide_shape = checked_slide_shape(slide_shape)
    content = _json_of(name)
    try:
        polygons, names, skipped = _collected(content)
    except SlideFormatError as error:
        raise SlideFormatError(f"{name}: not valid GeoJSON: {error}") from None
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
        raise SlideFormatError(f"{name}: not valid GeoJSON: its parts are malformed") from error
    if skipped:
        what = ", ".join(f"{count:,} {kind}" for kind, count in sorted(skipped.items()))
        warnings.warn(
            f"{name}: geometries without an area are skipped: {what}",
            SkippedGeometryWarning,
            stacklevel=2,
        )
    if slide_shape is not None:
        _check_place(name, polygons, slide_shape, content)
    return Annotations.of(polygons, names, os.path.basename(name))


def _collected(content: Any) -> tuple[Polygons, list[str], Counter[str]]:
    """Return all polygons, their classes, and how many geometries of other kinds there are."""
    if isinstance(content, list):
        content = _collection(content)
    rings: list[Sequence[Any]] = []
    counts: list[int] = []
    names: list[str] = []
    skipped: Counter[str] = Counter()
    for geometry, label in _geometries(content, UNCLASSIFIED):
        found = list(_polygons(geometry))
        if not found:
            skipped["empty" if geometry is None else geometry["type"]] += 1
        for polygon in found:
            rings += polygon
            counts.append(len(polygon))
            names.append(label)
    lengths = [len(ring) for ring in rings]
    return Polygons(_points(rings), starts_of(lengths), starts_of(counts)), names, skipped


def _json_of(name: str) -> Any:
    """Return the content of a JSON file, compressed or not."""
    try:
        data = read_whole(name)
        return json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
    except SlideError:  # of a bucket
        raise
    except FileNotFoundError:
        raise SlideNotFoundError(f"{name}: there is no file at this path") from None
    except IsADirectoryError:
        raise SlideFormatError(f"{name}: is a folder, not a file of GeoJSON") from None
    except UnicodeDecodeError:
        raise SlideFormatError(f"{name}: not a JSON file: it is not text") from None
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise SlideFormatError(f"{name}: not a JSON file: {reason_of(error)}") from error


def _geometries(content: Any, label: str) -> Iterator[tuple[Any, str]]:
    """Yield all geometries that are not collections, with the names of their classes."""
    if not isinstance(content, dict):
        raise SlideFormatError(f"a {type(content).__name__} is not a GeoJSON object")
    elif content.get("type") == "FeatureCollection":
        parts = content["features"]
    elif content.get("type") == "GeometryCollection":
        parts = content["geometries"]
    elif content.get("type") == "Feature":
        label = _class_of(content.get("properties") or {})
        if content["geometry"] is None:
            yield None, label
            return
        parts = [content["geometry"]]
    elif content.get("type") in _KINDS:
        yield content, label
        return
    else:
        raise SlideFormatError(f"{content.get('type')!r:.40} is not a type of GeoJSON")
    for part in parts:
        yield from _geometries(part, label)


_KINDS = ("Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString")


def _class_of(properties: dict[str, Any]) -> str:
    """Return the name of the class of a feature."""
    classification = properties.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names")  # QuPath's way for a class derived from another one
        classification = classification.get("name") or (": ".join(names) if names else None)
    for value in (classification, *(properties.get(key) for key in ("name", "label", "class"))):
        if isinstance(value, (str, int)) and value != "":
            return str(value)
    return TISSUE if "tissue_id" in properties else UNCLASSIFIED


def _polygons(geometry: Any) -> Iterator[list[Sequence[Any]]]:
    """Yield the rings of each polygon, not closed; those of fewer than three points are left out.

    Nothing is yielded for points and lines.
    """
    if geometry is None or geometry["type"] not in ("Polygon", "MultiPolygon"):
        return
    many = geometry["coordinates"]
    for polygon in [many] if geometry["type"] == "Polygon" else _listed(many):
        rings = [
            ring[:-1] if len(ring) > 1 and ring[0] == ring[-1] else ring
            for ring in map(_listed, _listed(polygon))
        ]
        if rings and len(rings[0]) >= 3:
            yield [rings[0], *(ring for ring in rings[1:] if len(ring) >= 3)]


def _listed(coordinates: Any) -> list[Any]:
    if not isinstance(coordinates, list):
        raise SlideFormatError(f"coordinates of type {type(coordinates).__name__} are not a list")
    return coordinates


def _points(rings: list[Sequence[Any]]) -> Array:
    """Return the points (n, 2) of all rings as (y, x)."""
    flat = [*chain.from_iterable(rings)]
    sizes = set(map(len, flat))
    if not sizes <= {2, 3, 4}:  # a height and a measure may follow
        raise SlideFormatError("a point has not x and y")
    if sizes - {2}:
        flat = [point[:2] for point in flat]
    values = np.array(flat)
    if values.dtype.kind not in "iuf" and len(flat):
        raise SlideFormatError("a coordinate is not a number")
    points = values.reshape(-1, 2)[:, ::-1].astype(np.float64)
    if not np.isfinite(points).all():
        raise SlideFormatError("a coordinate is not finite")
    return points


def _check_place(name: str, polygons: Polygons, shape: tuple[int, int], content: Any) -> None:
    """Raise if no polygon lies on the slide, or if the coordinates are longitude and latitude."""
    height, width = shape
    if not len(polygons):
        return
    low, high = np.split(polygons.bounds, 2, axis=1)
    degrees = bool((np.abs(polygons.points) <= (90, 180)).all())
    crs = json.dumps(content.get("crs")) if isinstance(content, dict) else ""
    if degrees and ("CRS84" in crs or "4326" in crs or (high - low).max() < 1):
        raise SlideArgumentError(
            f"{name}: its coordinates seem to be longitudes and latitudes; export the polygons in "
            "pixels of level 0"
        )
    if not ((low < (height, width)) & (high > 0)).all(axis=1).any():
        (y, x), (stop_y, stop_x) = low.min(axis=0), high.max(axis=0)
        raise SlideArgumentError(
            f"{name}: all its polygons (y {y:g} to {stop_y:g}, x {x:g} to {stop_x:g}) lie outside "
            f"the slide of {height} x {width} px; are they of another slide?"
        )
