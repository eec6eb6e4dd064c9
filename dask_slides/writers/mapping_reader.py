"""Read from a written cut-off how its coordinates belong to those of its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_slides.core.layout import CutoffMapping, mapping_from_json
from dask_slides.errors import SlideFormatError
from dask_slides.readers.remote.object_store import open_group
from dask_slides.writers.exports.ome_tiff import facts_of_tiff
from dask_slides.writers.store.attributes import absolute_path, read_own_attributes


def open_mapping(path: Any) -> CutoffMapping:
    """Return the coordinates of a written cut-off and of its source; no pixel is read.

    Parameters
    ----------
    path : str or path
        A store that `write` made of a Cutoff, or its address; or the OME-TIFF of `export`.

    Returns
    -------
    CutoffMapping
        With `to_source` and `from_source`, which convert the same points as those of the Cutoff.

    Raises
    ------
    SlideFormatError
        The store is not a cut-off, or its attributes are damaged.

    Examples
    --------
    >>> import numpy as np, dask_slides as ds
    >>> image = np.random.default_rng(0).integers(0, 256, (800, 300, 3), dtype="uint8")
    >>> image[:400] = 240
    >>> cut = ds.cutoff_resize(image, downsample=2, tile_size=100, detector=ds.Contrast(0.05))
    >>> path = ds.write(cut, "cut.ome.zarr")
    >>> ds.open_mapping(path).to_source([0, 0])
    array([400.,   0.])
    """
    address = absolute_path(path)
    facts: Mapping[str, Any] | None
    if address.lower().endswith((".tif", ".tiff")):
        facts, size = facts_of_tiff(address)
    else:
        facts, size = read_own_attributes(address), None
    if facts is None or facts.get("kind") != "cutoff":
        raise SlideFormatError(f"{address}: not a cut-off; give a store written from a Cutoff")
    try:
        height, width = size or open_group(address)["0"].shape[-2:]
        return mapping_from_json(facts, (int(height), int(width)))
    except (KeyError, TypeError, ValueError) as error:
        raise SlideFormatError(
            f"{address}: its way back to the source cannot be read ({error!r}); write it again"
        ) from error
