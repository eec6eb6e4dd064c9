"""Write references into a slide: a store of Zarr whose chunks are byte ranges of the file.

The file is JSON as kerchunk has it, which fsspec reads: keys of a Zarr v3 store, each with its
content, or with address, offset and length of a chunk.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from dask_slides.core.arguments import absolute, is_remote
from dask_slides.core.bad_tiles import MARK
from dask_slides.core.source import placement_of
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideUnsupportedError
from dask_slides.runtime.scheduler import Progress
from dask_slides.slide import Slide
from dask_slides.writers import ome_metadata
from dask_slides.writers.exports.output import new_file
from dask_slides.writers.store.attributes import own_attributes
from dask_slides.writers.store.transaction import Target

KIND = "virtual"
VERSION = 1
"""Version of the format of references."""


def write_virtual(slide: Slide, target: Target, progress: Progress | None) -> str:
    """Write the references of `slide` to a JSON file; return its path. No tile is read."""
    path = target.absolute
    if is_remote(path) or not path.endswith(".json"):
        raise SlideArgumentError(
            f"{path}: codec='virtual' writes one local file of JSON; use a name like NAME.refs.json"
        )
    if target.overwrite and os.path.isfile(path) and not _is_own(path):
        raise OutputExistsError(
            f"{path}: was not written by dask_slides and is not overwritten; move it away"
        )
    references = {"version": VERSION, "refs": references_of(slide)}
    with new_file(path, target.overwrite) as partial, open(partial, "w") as file:
        json.dump(references, file)
        file.flush()
        os.fsync(file.fileno())
    if progress is not None:
        progress(1, 1)
    return path


def _is_own(path: str) -> bool:
    """Return whether a file holds references that `write_virtual` wrote."""
    try:
        with open(path, encoding="utf-8") as file:
            root = json.loads(json.load(file)["refs"]["zarr.json"])
        return bool(root["attributes"][MARK]["kind"] == KIND)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False  # a file of the user can hold anything


def references_of(slide: Slide) -> dict[str, Any]:
    """Return the content of each key of a store, or its address, offset and length."""
    import zarr
    from zarr.storage import MemoryStore

    from dask_slides.readers.codecs.zarr_codecs import register

    register()
    source = slide.source
    metadata: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(metadata), zarr_format=3)
    chunks: dict[str, Any] = {}
    downsamples: list[tuple[float, float]] = []
    for number, level in enumerate(source.levels):
        found = source.byte_ranges(number)
        if found is None:
            continue
        encoding, offsets, lengths = found
        name, channels = str(len(downsamples)), slide.shape[2]
        group.create_array(
            name,
            shape=(channels, *level.shape),
            chunks=(channels, *encoding.tile),
            dtype=slide.dtype,
            fill_value=source.fill,
            dimension_names=["c", "y", "x"],
            **encoding.options((1, 2, 0), checksum=False),
        )
        downsamples.append(level.downsample)
        across = -(-level.shape[1] // encoding.tile[1])
        address = absolute(str(slide.path))
        for tile in np.flatnonzero((offsets > 0) & (lengths > 0)).tolist():
            row, column = divmod(tile, across)
            key = f"{name}/c/0/{row}/{column}"
            chunks[key] = [address, int(offsets[tile]), int(lengths[tile])]
    if not downsamples or downsamples[0] != (1.0, 1.0):
        advice = "leave codec out" if source.encoding(0) is None else "use codec='source'"
        raise SlideUnsupportedError(
            f"{slide.name}: has no tiles that Zarr can decode where they lie in a file; {advice}"
        )
    placement = placement_of(source)
    parts = {
        "multiscales": ome_metadata.multiscales(
            slide.name, "cyx", placement, slide.mpp_yx, downsamples
        ),
        "omero": ome_metadata.omero(slide.channels, slide.dtype),
    }
    group.attrs.update(
        ome_metadata.attributes("0.5", parts) | own_attributes(KIND, source=slide.name)
    )
    texts = {key: buffer.to_bytes().decode() for key, buffer in metadata.items()}
    return texts | chunks
