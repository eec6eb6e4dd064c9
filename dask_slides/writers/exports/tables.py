"""Tiles as tables, one row each: CSV, Parquet and GeoParquet.

All three have the same columns, and each row says what it is of, so that the tables of many slides
can be put together: `source`, `mpp`, `downsample_y`, `downsample_x`, `tile_height` and
`tile_width`. Files of Parquet also hold all attributes of the pack as JSON under ``dask_slides`` in
their metadata.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.types import Array
from dask_slides.ops.pack import TilePack
from dask_slides.writers.exports.output import new_file
from dask_slides.writers.exports.pack_facts import downsample_of, source_name

ROWS = 2**17
"""Rows of a group of a Parquet file, which readers take or leave as one."""
POLYGON = np.dtype(
    [("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("count", "<u4"), ("xy", "<f8", (5, 2))]
)
"""A rectangle as well-known binary."""
BATCH = 2**12
"""Rows of CSV that are text in memory at a time."""
LONGEST_NUMBER = 24
"""Bytes of a number as text."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def export_csv(pack: TilePack, path: str, *, overwrite: bool = False) -> str:
    """Write the table of `pack` as CSV: the columns of `tile_columns`, then of `pack_columns`.

    Numbers have all their digits; an mpp that is not known is an empty field.
    """
    columns, constants = tile_columns(pack), pack_columns(pack)
    if "label" in columns:
        quoted = {name: _field(name) for name in np.unique(columns["label"]).tolist()}
        columns["label"] = np.array([quoted[name] for name in columns["label"].tolist()], object)
    same = ",".join(map(_field, constants.values()))
    # a template is twice as fast as a writer of csv, which looks at each field
    template = ",".join(["%s"] * len(columns)) + "," + same.replace("%", "%%") + "\n"
    nbytes = len(pack) * (LONGEST_NUMBER * len(columns) + len(template))
    with (
        new_file(path, overwrite, nbytes) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        file.write(",".join(map(_field, [*columns, *constants])) + "\n")
        for start in range(0, len(pack), BATCH):
            lists = (values[start : start + BATCH].tolist() for values in columns.values())
            file.write("".join(map(template.__mod__, zip(*lists, strict=True))))
    return path


def _field(value: Any) -> str:
    """Return a field of CSV, in quotes if it needs them."""
    text = "" if value is None else str(value)
    if any(one in text for one in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def export_parquet(pack: TilePack, path: str, *, overwrite: bool = False) -> str:
    """Write the table of `pack` as Parquet (zstd), with its attributes in the metadata."""
    return _write_parquet(pack, path, overwrite, geo=False)


def export_geoparquet(pack: TilePack, path: str, *, overwrite: bool = False) -> str:
    """Write the table of `pack` as GeoParquet 1.1.

    `geometry` has the rectangle of each tile in pixels of level 0, x before y, without a
    coordinate reference system; `bbox` lets readers skip groups of rows.
    """
    return _write_parquet(pack, path, overwrite, geo=True)


def tile_columns(pack: TilePack) -> dict[str, Array]:
    """Return the columns with one value per tile, by name.

    `y`, `x`, `height` and `width` are in pixels of level 0.
    """
    boxes = pack.boxes
    columns: dict[str, Array] = {"y": pack.y, "x": pack.x}
    columns |= {"height": boxes[:, 2], "width": boxes[:, 3]}
    columns |= {"score": pack.score, "tissue_fraction": pack.tissue_fraction}
    if pack.labels is not None and pack.coverage is not None:
        columns["label"] = np.asarray(pack.labels)
        shares = zip(pack.attributes["classes"], pack.coverage.T, strict=True)
        columns |= {f"coverage_{name}": values for name, values in shares}
    return columns


def pack_columns(pack: TilePack) -> dict[str, Any]:
    """Return the values that are the same for all tiles, by the names of their columns."""
    y, x = downsample_of(pack)
    height, width = pack.tiles.shape[1:3]
    return {
        "source": source_name(pack), "mpp": pack.mpp, "downsample_y": y, "downsample_x": x,
        "tile_height": int(height), "tile_width": int(width),
    }  # fmt: skip


def _write_parquet(pack: TilePack, path: str, overwrite: bool, geo: bool) -> str:
    pa, parquet = _import_pyarrow()
    columns, constants = tile_columns(pack), pack_columns(pack)
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), type(None): pa.float64()}

    def table(start: int) -> Any:
        parts = {name: pa.array(all_[start : start + ROWS]) for name, all_ in columns.items()}
        count = len(parts["y"])
        for name, value in constants.items():
            parts[name] = pa.repeat(pa.scalar(value, kinds[type(value)]), count)
        if geo:
            bounds = _bounds(pack.boxes[start : start + ROWS])
            parts["geometry"] = _polygons(pa, bounds)
            parts["bbox"] = pa.StructArray.from_arrays(list(bounds.T), list(CORNERS))
        return pa.table(parts)

    metadata = {"dask_slides": json.dumps({"kind": "tiles", **pack.attributes})}
    if geo:
        metadata["geo"] = json.dumps(_geo_metadata(_bounds(pack.boxes)))
    schema = table(0).schema.with_metadata(metadata)
    nbytes = len(pack) * (8 * len(columns) + (POLYGON.itemsize + 32 if geo else 0))
    with (
        new_file(path, overwrite, nbytes) as partial,
        parquet.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for start in range(0, len(pack), ROWS):
            writer.write_table(table(start).replace_schema_metadata(metadata))
    return path


def _bounds(boxes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return `CORNERS` (n, 4) of boxes of y, x, height and width."""
    top, left, height, width = boxes.T
    return np.stack((left, top, left + width, top + height), axis=1).astype(np.float64)


def _polygons(pa: Any, bounds: NDArray[np.float64]) -> Any:
    """Return the rectangles as well-known binary, counterclockwise where y points up."""
    shapes = np.zeros(len(bounds), POLYGON)
    shapes["order"], shapes["kind"], shapes["rings"], shapes["count"] = 1, 3, 1, 5
    shapes["xy"] = bounds[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2)
    starts = np.arange(len(bounds) + 1, dtype=np.int32) * np.int32(POLYGON.itemsize)
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(shapes.tobytes())]
    return pa.Array.from_buffers(pa.binary(), len(bounds), buffers)


def _geo_metadata(bounds: NDArray[np.float64]) -> dict[str, Any]:
    """Return the metadata of GeoParquet 1.1 for `geometry` and `bbox`."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": None,  # without it, readers take longitude and latitude
        "orientation": "counterclockwise",
        "covering": {"bbox": {name: ["bbox", name] for name in CORNERS}},
    }
    if len(bounds):
        column["bbox"] = [*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet; raise ImportError with the name of the extra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow; pip install 'dask-slides[export]'") from error
    return pyarrow, pyarrow.parquet
