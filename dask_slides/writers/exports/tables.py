"""Tiles as tables: CSV."""

from __future__ import annotations

from dask_slides.ops.pack import TilePack
from dask_slides.writers.exports.output import new_file


def export_csv(pack: TilePack, path: str, *, overwrite: bool = False) -> str:
    """Write the columns of `pack` as CSV, one row per tile, as `TilePack.to_frame` names them."""
    with new_file(path, overwrite) as partial:
        pack.to_frame().to_csv(partial, index=False)
    return path
