"""CLAM: coordinates, with pixels on request, as mahmoodlab/CLAM writes them for a slide.

CLAM reads squares of `patch_size` pixels from the stored level `patch_level` with OpenSlide.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from dask_slides.errors import SlideArgumentError
from dask_slides.ops.pack import TilePack
from dask_slides.writers.exports.output import new_file
from dask_slides.writers.exports.pack_facts import (
    checked_stem,
    corners_xy,
    downsample_of,
    import_h5py,
    job_file,
    slide_size,
    source_name,
    square_tiles,
)

BATCH_BYTES = 2**26
"""Tiles of this size are in memory at a time."""


def export_clam(
    pack: TilePack,
    path: str,
    *,
    overwrite: bool = False,
    name: str | None = None,
    pixels: bool = False,
    patch_level: int | None = None,
) -> str:
    """Write ``patches/NAME.h5`` into the folder `path`, as CLAM's feature extraction reads it.

    Parameters
    ----------
    pack : TilePack
        Square tiles. Without `pixels` their scale must be that of a stored level of the slide, as
        CLAM does not resize.
    path : str
        CLAM's folder of results, new or with other slides.
    overwrite : bool
        Replace the file of this slide.
    name : str, optional
        Name of the slide without its suffix, by default that of its file.
    pixels : bool
        Also write the tiles as `imgs` (n, h, w, 3). They must be RGB of 8 bits.
    patch_level : int, optional
        Level that CLAM reads, by default the one with the scale of the tiles. CLAM gets the area of
        each tile with the pixels of that level, and its ``target_patch_size`` resizes them.

    Returns
    -------
    str
        The folder.
    """
    name = checked_stem(name, source_name(pack))
    facts = attributes_of(pack, pixels, patch_level)
    if pixels and (pack.tiles.dtype != np.uint8 or pack.tiles.shape[3] != 3):
        raise SlideArgumentError(
            f"{source_name(pack)}: CLAM has RGB of 8 bits, and the tiles have "
            f"{pack.tiles.shape[3]} channels of {pack.tiles.dtype}; export without pixels"
        )
    h5py = import_h5py()
    target = job_file(path, "CLAM", "patches", f"{name}.h5")
    nbytes = 16 * len(pack) + (pack.tiles.nbytes if pixels else 0)
    with new_file(target, overwrite, nbytes) as partial, h5py.File(partial, "w") as file:
        coords = file.create_dataset(
            "coords", data=corners_xy(pack), maxshape=(None, 2), chunks=(32, 2)
        )
        coords.attrs.update(facts | {"name": name, "save_path": path})
        if pixels:
            _write_pixels(file, pack)
            del facts["patch_size"]
            file["imgs"].attrs.update(facts | {"wsi_name": name})
    return path


def attributes_of(pack: TilePack, pixels: bool, patch_level: int | None) -> dict[str, Any]:
    """Return the attributes of `coords`, in the words of CLAM: pairs have x before y."""
    _, level0_side = square_tiles(pack, "CLAM")
    number, shape = _level(pack, pixels, patch_level)
    height, width = slide_size(pack)
    factors = (width / shape[1], height / shape[0])
    image = np.rint(np.divide((height, width), downsample_of(pack))).astype(int)
    read = image if pixels else shape
    return {
        "patch_size": round(level0_side / factors[0]),
        "patch_level": number,
        "downsample": factors,
        "downsampled_level_dim": (int(read[1]), int(read[0])),
        "level_dim": (int(shape[1]), int(shape[0])),
    }


def _level(pack: TilePack, pixels: bool, wanted: int | None) -> tuple[int, tuple[int, int]]:
    """Return the number and shape of the level that CLAM reads."""
    name, size = source_name(pack), slide_size(pack)
    if wanted is None:
        image = np.rint(np.divide(size, downsample_of(pack))).astype(int).tolist()
        found = _stored(pack, image)
        if found is not None:
            return found, (image[0], image[1])
        if not pixels:
            raise SlideArgumentError(_no_level(pack))
        wanted = 0
    if wanted == 0:
        return 0, size
    if pack.slide is None or wanted not in range(len(pack.slide.levels)):
        known = "0" if pack.slide is None else f"0 to {len(pack.slide.levels) - 1}"
        raise SlideArgumentError(f"{name}: patch_level={wanted!r} is not known; give {known}")
    return wanted, pack.slide.levels[wanted].shape


def _stored(pack: TilePack, image: list[int]) -> int | None:
    """Return the number of the stored level with the scale of the pack, if there is one."""
    read = re.fullmatch(r"level (\d+)", str(pack.attributes.get("read_from", "level 0")))
    if read is not None:
        return int(read[1])
    levels = () if pack.slide is None else pack.slide.levels
    return next((i for i, level in enumerate(levels) if list(level.shape) == image), None)


def _no_level(pack: TilePack) -> str:
    factor = f"{np.mean(downsample_of(pack)):.4g}"
    levels = () if pack.slide is None else pack.slide.levels
    scales = ", ".join(f"{np.mean(level.downsample):.4g}" for level in levels) or "1"
    return (
        f"{source_name(pack)}: CLAM reads stored levels, and none has the downsample {factor} of "
        f"these tiles; pack with downsample= one of {scales}, or export with pixels=True, or with "
        "patch_level=0 for the area of each tile at level 0, or to trident, which resizes"
    )


def _write_pixels(file: Any, pack: TilePack) -> None:
    """Write the tiles in batches, one tile per chunk."""
    count, *shape = pack.tiles.shape
    images = file.create_dataset(
        "imgs", shape=(count, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype="u1"
    )
    step = max(1, BATCH_BYTES // max(1, int(np.prod(shape))))
    for start in range(0, count, step):
        images[start : start + step] = pack[start : start + step]
