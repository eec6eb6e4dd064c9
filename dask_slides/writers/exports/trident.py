"""TRIDENT: the folder of a job, from which its feature extraction goes on.

The layout is that of mahmoodlab/TRIDENT: ``{mag}x_{px}px_{overlap}px_overlap/patches`` has a file
of coordinates for each slide, and ``contours_geojson`` the outlines of its tissue.
"""

from __future__ import annotations

import filecmp
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import SlideArgumentError, SlideMppError
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.pack import TilePack
from dask_slides.slide import magnification_of
from dask_slides.writers.exports.output import check_new, new_file
from dask_slides.writers.exports.pack_facts import (
    checked_stem,
    corners_xy,
    downsample_of,
    import_h5py,
    job_file,
    slide_mpp,
    slide_size,
    source_name,
    square_tiles,
    stride_of,
)


def export_trident(
    obj: TilePack | BlankMap,
    path: str,
    *,
    overwrite: bool = False,
    name: str | None = None,
    blank_map: BlankMap | None = None,
) -> str:
    """Write coordinates of tiles, or outlines of tissue, into the job folder `path` of TRIDENT.

    Parameters
    ----------
    obj : TilePack or BlankMap
        A pack becomes ``{mag}x_{px}px_{overlap}px_overlap/patches/NAME_patches.h5``, a blank map
        ``contours_geojson/NAME.geojson``.
    path : str
        The job folder, new or with other slides.
    overwrite : bool
        Replace the files of this slide.
    name : str, optional
        Name of the slide without its suffix, by default that of its file; TRIDENT finds the files
        by it.
    blank_map : BlankMap, optional
        With a pack, also write the outlines of this map.

    Returns
    -------
    str
        The job folder.
    """
    if isinstance(obj, BlankMap):
        _write_contours(obj, path, checked_stem(name, obj.name), overwrite)
        return path
    import_h5py()  # before folders are made
    stem = checked_stem(name, source_name(obj))
    facts = attributes_of(obj, stem)
    overlap = facts["overlap"]
    mag = magnification_of(_known_mpp(obj) * float(np.mean(downsample_of(obj))))
    folder = f"{mag:g}x_{facts['patch_size']}px_{overlap}px_overlap"
    target = job_file(path, "TRIDENT", folder, "patches", f"{stem}_patches.h5")
    facts["savetodir"] = os.path.join(path, folder)
    check_new(target, overwrite)
    if blank_map is not None:
        _write_contours(blank_map, path, stem, overwrite)
    _write_coordinates(target, corners_xy(obj), facts, overwrite)
    return path


def _known_mpp(pack: TilePack) -> float:
    mpp = slide_mpp(pack)
    if mpp is None:
        raise SlideMppError(
            f"{source_name(pack)}: TRIDENT needs a magnification, and the micrometres per pixel "
            "are not known; give them as open_slide(..., mpp=0.25) or --slide-mpp"
        )
    return mpp


def attributes_of(pack: TilePack, name: str) -> dict[str, Any]:
    """Return the attributes of `coords`, in the words of TRIDENT.

    TRIDENT cuts ``patch_size * level0_magnification / target_magnification`` pixels. Nominal
    magnifications are written if they give the side of the tiles; if not, as for 0.5 µm of a slide
    with 0.27 µm that is called 40x, `target_magnification` is a number such as 21.6 that does.
    """
    side, level0_side = square_tiles(pack, "TRIDENT")
    stride = stride_of(pack)
    if stride[0] != stride[1]:
        raise SlideArgumentError(
            f"{source_name(pack)}: TRIDENT has one overlap, and the stride is {stride[0]} x "
            f"{stride[1]} px; give one stride for both axes"
        )
    mpp, factor = _known_mpp(pack), float(np.mean(downsample_of(pack)))
    source, target = magnification_of(mpp), magnification_of(mpp * factor)
    if round(side * source / target) != level0_side:
        target = source * side / level0_side
    height, width = slide_size(pack)
    return {
        "patch_size": side,
        "patch_size_level0": level0_side,
        "level0_magnification": _whole(source),
        "target_magnification": _whole(target),
        "overlap": max(0, side - stride[0]),
        "name": name,
        "level0_width": width,
        "level0_height": height,
    }


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _write_coordinates(
    path: str, corners: NDArray[np.int64], attributes: dict[str, Any], overwrite: bool
) -> None:
    h5py = import_h5py()
    # bytes: up to 65 per chunk of 16, with its place in the index
    nbytes = 65 * len(corners)
    with new_file(path, overwrite, nbytes) as partial, h5py.File(partial, "w") as file:
        coords = file.create_dataset(
            "coords", shape=corners.shape, maxshape=(None, 2), chunks=(1, 2), dtype="<i8"
        )
        _write_chunks(coords.id.write_direct_chunk, corners)
        coords.attrs.update(attributes)


def _write_chunks(write: Any, corners: NDArray[np.int64]) -> None:
    """Write one chunk per tile, as TRIDENT does, past the cache of HDF5, in half the time."""
    data = memoryview(corners.astype("<i8").tobytes())
    for at in range(len(corners)):
        write((at, 0), data[16 * at : 16 * at + 16])


def _write_contours(found: BlankMap, path: str, name: str, overwrite: bool) -> None:
    """Write the outlines; a file with the same ones, of another magnification, stays."""
    target = job_file(path, "TRIDENT", "contours_geojson", f"{name}.geojson")
    with tempfile.TemporaryDirectory(prefix=".partial.", dir=os.path.dirname(target)) as folder:
        # TRIDENT's files have their own name inside
        made = found.to_geojson(os.path.join(folder, os.path.basename(target)), style="trident")
        if os.path.isfile(target) and filecmp.cmp(made, target, shallow=False):
            return
        check_new(target, overwrite)
        os.replace(made, target)
