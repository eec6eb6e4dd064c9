"""Export slides, cut-offs, blank maps and packs to the formats of other tools."""

from __future__ import annotations

import os
from typing import Any

from dask_slides.core.arguments import local_path
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.cutoff import Cutoff
from dask_slides.ops.pack import TilePack
from dask_slides.slide import Slide
from dask_slides.writers.exports.registry import exporter_for


def export(
    obj: Slide | Cutoff | BlankMap | TilePack,
    path: Any,
    *,
    to: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> str:
    """Write `obj` in the format of another tool.

    Parameters
    ----------
    obj : Slide, Cutoff, BlankMap or TilePack
        What to write. Coordinates of a pack are written without reading its pixels.
    path : str or path
        A file, or a folder for formats of several files.
    to : str, optional
        The format, such as "csv", "parquet", "geojson", "trident" or "clam". By default the suffix
        of `path` chooses it.
    overwrite : bool
        Replace a file that exists.
    **options
        Options of the format.

    Returns
    -------
    str
        The path of what was written.

    Raises
    ------
    SlideArgumentError
        The format is not known, or does not take such an object or option; or the path is an
        address.
    OutputExistsError
        The file exists, and it must not be overwritten.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> slide = ds.from_dask(da.random.randint(0, 200, (512, 512, 3)).astype("uint8"), mpp=0.5)
    >>> pack = ds.pack_tiles(slide, detector=ds.Contrast(0.05))
    >>> ds.export(pack, "tiles.csv")
    'tiles.csv'
    """
    path = os.fspath(path)
    exporter = exporter_for(path, to, type(obj).__name__)
    local_path(path, "an export")
    exporter.check_options(path, options)
    return exporter.load()(obj, path, overwrite=overwrite, **options)
