"""Stores of SpatialData: the image, the tissue as labels and outlines, and the tiles of a pack.

The format is that of spatialdata 0.7 and later (container 0.2, rasters and shapes 0.3): a Zarr v3
group with elements in ``images``, ``labels`` and ``shapes``. Rasters are OME-Zarr 0.5 with
coordinate transformations of their own, shapes are GeoParquet. It is written here, without the
package spatialdata, because that loads and halves images as dask arrays in several passes, and
because its releases for Python 3.11 exclude current releases of dask.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import MARK
from dask_slides.core.geometry import Placement
from dask_slides.core.polygons import Outline
from dask_slides.core.source import placement_of, root_of
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.pack import TilePack
from dask_slides.slide import Slide
from dask_slides.writers.blank_map_reader import open_blank_map
from dask_slides.writers.exports.output import new_folder
from dask_slides.writers.exports.pack_facts import source_name
from dask_slides.writers.exports.tables import export_geoparquet
from dask_slides.writers.pack_reader import open_pack
from dask_slides.writers.write import write

IMAGE, TISSUE, OUTLINES, TILES = "image", "tissue", "outlines", "tiles"
"""Names of the elements. They differ, as SpatialData has one name space for all elements."""
PIXELS, MICRONS = "global", "microns"
"""Names of the coordinate systems: pixels of level 0 of the file, and micrometres."""
RASTER_VERSION = "0.5-dev-spatialdata"
"""What spatialdata calls OME-Zarr 0.5 with its coordinate transformations."""
_ELEMENT = {"version": "0.3"}
_CONTAINER = {"version": "0.2"}


def export_spatialdata(
    slide: Slide,
    path: str,
    *,
    overwrite: bool = False,
    blank_map: BlankMap | str | os.PathLike[str] | None = None,
    pack: TilePack | str | os.PathLike[str] | None = None,
) -> str:
    """Write a slide as a store that ``spatialdata.read_zarr`` opens.

    Its elements are ``images/image`` with all levels of a pyramid; with a blank map
    ``labels/tissue`` (0 blank, 1 tissue, 2 unknown) and ``shapes/outlines``; with a pack
    ``shapes/tiles``, whose columns are those of GeoParquet. Without any tissue or tile, the store
    has no such shapes. All elements have the coordinate system ``global``, in pixels of level 0 of
    the file; if the pixel size is known also ``microns``.

    Parameters
    ----------
    slide : Slide
        It is read once, on the active scheduler, with the memory of `write`.
    path : str
        ``NAME.spatialdata.zarr``; a folder that exists must be empty.
    overwrite : bool
        Folders with files are never replaced.
    blank_map : BlankMap or path, optional
        Of the same file, or the store of one.
    pack : TilePack or path, optional
        Of the same file, or the store of one. Its pixels are not read.

    Returns
    -------
    str
        `path`.

    Raises
    ------
    SlideArgumentError
        The blank map or the pack is of another slide.
    ImportError
        pyarrow, which writes shapes, is not installed.
    """
    if blank_map is not None or pack is not None:
        _check_pyarrow()
    if isinstance(blank_map, str | os.PathLike):
        blank_map = open_blank_map(blank_map)
    if isinstance(pack, str | os.PathLike):
        pack = open_pack(pack)
    outlines_on = tiles_on = Placement()
    if blank_map is not None:
        outlines_on = _placement(slide, blank_map.slide, blank_map.grid.shape, blank_map.name, path)
    if pack is not None:
        shape = tuple(pack.attributes.get("source_shape", ()))[:2]
        tiles_on = _placement(slide, pack.slide, shape, source_name(pack), path)
    systems = _Systems(slide)
    with new_folder(path, _bytes_of(slide)) as store:
        for group in ("images", "labels", "shapes"):
            os.mkdir(os.path.join(store, group))
        _write_image(slide, store, blank_map, systems)
        shapes = []
        if blank_map is not None:
            outlines = blank_map.polygons()
            if outlines:
                _write_outlines(outlines, _new_shapes(store, OUTLINES))
                shapes.append((OUTLINES, outlines_on))
        if pack is not None and len(pack):
            export_geoparquet(pack, _new_shapes(store, TILES))
            shapes.append((TILES, tiles_on))
        for name, placement in shapes:
            _write_json(store, f"shapes/{name}", _shapes_attributes(systems, placement))
        _write_groups(store)
    return path


def _check_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "shapes of SpatialData need pyarrow; pip install 'dask-slides[export]'"
        ) from error


def _bytes_of(slide: Slide) -> int:
    """Return the bytes of all levels of the image."""
    return slide.shape[0] * slide.shape[1] * slide.shape[2] * int(slide.dtype.itemsize) * 4 // 3


def _placement(
    slide: Slide, other: Slide | None, shape: tuple[int, ...], name: str, path: str
) -> Placement:
    """Return the placement on the file of the image that a blank map or a pack is of.

    `other` is this image if it is known, and `shape` its size. Raise if it is not of the file.
    """
    root = root_of(slide.source).levels[0].shape
    if other is not None and root_of(other.source).levels[0].shape == root:
        return placement_of(other.source)
    if shape == root:
        return Placement()
    if shape == slide.shape[:2]:
        return placement_of(slide.source)
    raise _other_slide_error(path, name, shape, root)


def _other_slide_error(
    path: str, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> SlideArgumentError:
    sizes = " x ".join(map(str, shape)), " x ".join(map(str, wanted))
    return SlideArgumentError(
        f"{path}: {name} of {sizes[0]} px is not the slide of {sizes[1]} px; give a blank map and "
        "a pack of this slide"
    )


class _Systems:
    """The coordinate systems of a store, and the transformations into them."""

    def __init__(self, slide: Slide) -> None:
        self.image = placement_of(slide.source)
        self.mpp: tuple[float, float] | None = None
        """Micrometres per pixel of level 0 of the file."""
        if slide.mpp_yx is not None:
            (y, x), (down_y, down_x) = slide.mpp_yx, self.image.scale
            self.mpp = y / down_y, x / down_x

    def transformations(self, axes: str, placement: Placement) -> list[dict[str, Any]]:
        """Return the transformations of an element with `axes` that lies on the file."""
        found = [_transformation(axes, placement, PIXELS, "unit")]
        if self.mpp is not None:
            on_file = placement.on(Placement(self.mpp))
            found.append(_transformation(axes, on_file, MICRONS, "micrometer"))
        return found


def _transformation(axes: str, placement: Placement, system: str, unit: str) -> dict[str, Any]:
    """Return the transformation from pixels to a coordinate system, as spatialdata writes it."""
    scale = dict(zip("yx", placement.scale, strict=True))
    offset = dict(zip("yx", placement.offset, strict=True))
    ends = {"input": _system(axes, axes, "unit"), "output": _system(system, axes, unit)}
    steps: list[dict[str, Any]] = [
        {"type": "scale", "scale": [float(scale.get(axis, 1.0)) for axis in axes], **ends}
    ]
    if any(placement.offset):
        shift = [float(offset.get(axis, 0.0)) for axis in axes]
        steps.append({"type": "translation", "translation": shift, **ends})
    return steps[0] if len(steps) == 1 else {"type": "sequence", "transformations": steps, **ends}


def _system(name: str, axes: str, unit: str) -> dict[str, Any]:
    described = [
        {"name": axis, "type": "channel"}
        if axis == "c"
        else {"name": axis, "type": "space", "unit": unit}
        for axis in axes
    ]
    return {"name": name, "axes": described}


def _write_image(slide: Slide, store: str, blank_map: BlankMap | None, systems: _Systems) -> None:
    """Write the image and its tissue label in one pass, and move the label to ``labels``."""
    image, labels = f"images/{IMAGE}", f"labels/{TISSUE}"
    write(slide, os.path.join(store, image), blank_map=blank_map)
    attributes = _read_json(store, image)["attributes"]
    manifest = attributes[MARK].pop("manifest")  # it lists files that move
    os.unlink(os.path.join(store, image, manifest["path"]))
    _write_json(store, image, _raster_attributes(attributes, systems, "cyx"))
    if blank_map is None:
        return
    os.rename(os.path.join(store, image, labels), os.path.join(store, labels))
    for left in ("labels", "blank_map"):
        shutil.rmtree(os.path.join(store, image, left))
    attributes = _read_json(store, labels)["attributes"]
    del attributes["ome"]["image-label"]["source"]  # spatialdata would follow it to the image
    _write_json(store, labels, _raster_attributes(attributes, systems, "yx"))


def _raster_attributes(attributes: dict[str, Any], systems: _Systems, axes: str) -> dict[str, Any]:
    """Return the attributes of an image as spatialdata writes them."""
    ome = {**attributes["ome"], "version": RASTER_VERSION}
    (multiscale,) = ome["multiscales"]
    transformations = systems.transformations(axes, systems.image)
    ome["multiscales"] = [{**multiscale, "coordinateTransformations": transformations}]
    return {**attributes, "ome": ome, "spatialdata_attrs": _ELEMENT}


def _shapes_attributes(systems: _Systems, placement: Placement) -> dict[str, Any]:
    return {
        "encoding-type": "ngff:shapes",
        "axes": ["x", "y"],
        "coordinateTransformations": systems.transformations("xy", placement),
        "spatialdata_attrs": _ELEMENT,
    }


def _new_shapes(store: str, name: str) -> str:
    """Create the folder of shapes; return the path of their table."""
    folder = os.path.join(store, "shapes", name)
    os.mkdir(folder)
    return os.path.join(folder, "shapes.parquet")


def _write_outlines(outlines: Sequence[Outline], path: str) -> None:
    """Write outlines as GeoParquet 1.1, x before y."""
    import pyarrow as pa
    from pyarrow import parquet

    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": None,
        "orientation": "counterclockwise",
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    shapes = pa.array([_wkb(one) for one in outlines], pa.binary())
    areas = pa.array([float(one.area) for one in outlines])
    table = pa.table({"geometry": shapes, "area": areas})
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)


def _wkb(outline: Outline) -> bytes:
    """Return the polygon as well-known binary of closed rings."""
    rings: list[Array] = [
        np.array(ring, "<f8") for ring in outline.__geo_interface__["coordinates"]
    ]
    head = struct.pack("<BII", 1, 3, len(rings))
    return head + b"".join(struct.pack("<I", len(ring)) + ring.tobytes() for ring in rings)


def _write_groups(store: str) -> None:
    """Write the root group, with the metadata of all others, and the groups of the elements."""
    for kind in ("images", "labels", "shapes"):
        names = sorted(os.listdir(os.path.join(store, kind)))
        _write_json(store, kind, {"ome": {"labels": names}} if kind == "labels" else {})
    nodes = {}
    for folder, _, files in os.walk(store):
        if "zarr.json" in files:
            name = os.path.relpath(folder, store).replace(os.sep, "/")
            nodes[name] = _read_json(store, name)
    consolidated = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {name: nodes[name] for name in sorted(nodes)},
    }
    attributes = {"spatialdata_attrs": _CONTAINER}
    _write_json(store, ".", attributes, consolidated_metadata=consolidated)


def _read_json(store: str, group: str) -> Any:
    with open(os.path.join(store, group, "zarr.json"), encoding="utf-8") as file:
        return json.load(file)


def _write_json(store: str, group: str, attributes: Mapping[str, Any], **more: Any) -> None:
    node = {"zarr_format": 3, "node_type": "group", "attributes": attributes, **more}
    with open(os.path.join(store, group, "zarr.json"), "w", encoding="utf-8") as file:
        json.dump(node, file)
