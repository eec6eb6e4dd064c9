"""Write images as OME-TIFF with a pyramid, or as TIFF whose levels are pages.

The tasks are those of `ds.write`: they read each block once, compute all levels of it, and write
whole shards to a hidden folder beside the output. Here a shard holds tiles as TIFF stores them,
already compressed. When all tasks are done, their bytes are copied into the file in the order of
TIFF, and no pixel is decoded or encoded again.

So the tasks may run in any order, on any scheduler, and a killed run can be resumed; memory is that
of writing Zarr. The price is disk space: while it is assembled, the file exists twice. Appending
the tiles to the file as tasks finish would need the space once, but results would travel to the
client, or wait there for their turn, and a killed run would start from the beginning. Writing Zarr
first and converting it would encode all pixels twice, with larger files between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.arguments import local_path
from dask_slides.core.bad_tiles import BadTile, bad_tile_from_json
from dask_slides.core.channels import is_rgb, plain_channels
from dask_slides.errors import SlideArgumentError, SlideFormatError
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.cutoff import Cutoff
from dask_slides.readers.tiff.own_facts import facts_in
from dask_slides.slide import Slide, from_dask
from dask_slides.writers.blank_maps import SHADES, kinds_of
from dask_slides.writers.exports.ome_xml import TYPES, ome_xml, plain_description
from dask_slides.writers.exports.tiff_tiles import PutTiles, TileCodec
from dask_slides.writers.images import (
    ImageJob,
    bytes_of_image,
    compute_stages,
    create_sums,
    facts_of_image,
    image_job,
)
from dask_slides.writers.store.single_file import ASSEMBLED, SingleFile
from dask_slides.writers.store.transaction import (
    Target,
    Transaction,
    check_location,
    facts_of,
    transaction,
)

SUFFIXES = (".ome.tif", ".ome.tiff")
"""Ends of names that choose this format."""
CODECS = ("jpeg", "zstd", "deflate")
SUBSAMPLINGS = ("4:2:0", "4:4:4")
PYRAMIDS = ("subifds", "pages")
QUALITY = 90
_COMPRESSIONS = {"jpeg": "jpeg", "zstd": "zstd", "deflate": "adobe_deflate"}
_CLASSIC_BYTES = 2**32 - 2**26
"""Bytes of tiles up to which the file is a classic TIFF, whose offsets have 32 bits. The rest is
for directories and metadata."""
_TABLE_ENTRY = 16
"""Bytes of offset and length of a tile."""
_GDAL_NODATA = 42113


@dataclass(frozen=True)
class TiffOptions:
    """How the file is written."""

    codec: str
    quality: int
    subsampling: str
    pyramid: str
    tile: int | None


def export_ome_tiff(
    obj: Slide | Cutoff | BlankMap,
    path: str,
    *,
    overwrite: bool = False,
    resume: bool = False,
    codec: str | None = None,
    quality: int = QUALITY,
    subsampling: str = "4:2:0",
    pyramid: str = "subifds",
    tile: int | None = None,
) -> str:
    """Write an image as TIFF with all levels down to 256 px, on the active scheduler.

    The levels have the pixels of those that `write` makes; lossless codecs keep them. Memory is
    that of `write`. While the file is put together it needs its size twice on the disk.

    Parameters
    ----------
    obj : Slide, Cutoff or BlankMap
        A blank map becomes an image of one pixel per cell: 255 tissue, 128 unknown, 0 blank.
    path : str
        ``NAME.ome.tif``. On a cluster, in a folder that every worker can write to.
    overwrite : bool
        Replace a file that exists, once the new one is complete.
    resume : bool
        Continue an earlier call with the same arguments that was killed or failed.
    codec : {"jpeg", "zstd", "deflate"}, optional
        By default JPEG for 8-bit RGB without nodata, and deflate, which every program reads, for
        all else. JPEG is for 8-bit images of one channel or RGB. zstd is as lossless as deflate and
        faster; programs with a libtiff without zstd do not read it, such as the wheels of pyvips.
    quality : int
        Of JPEG, 1 to 100.
    subsampling : {"4:2:0", "4:4:4"}
        Of the colours in JPEG: half their resolution, as most scanners write them, or all of it.
        4:4:4 is for ``pyramid="pages"`` only, as Bio-Formats shows it in wrong colours.
    pyramid : {"subifds", "pages"}
        "subifds" is OME-TIFF, for Bio-Formats and QuPath. With "pages" every level is a page, as
        OpenSlide and libvips read it; there is no OME-XML, and the image has one channel or RGB.
    tile : int, optional
        Side of a tile in pixels: 128, 256, 512 or 1024. By default 512, or 256 for small images
        and large reductions. The larger it is, the more memory a task needs.

    Returns
    -------
    str
        The path.

    Raises
    ------
    SlideArgumentError
        An option does not fit the image; the message says which.
    BlankSlideError
        The slide of the cut-off is entirely blank, so there is no image.
    OutputExistsError, OutputBusyError, OutputFullError, OutputDeniedError, ResumeError
        As of `write`.
    """
    final, target = _file_at(path), Target(path, overwrite, resume)
    slide, blank_map, facts = _image_of(obj)
    rgb = _is_rgb(slide)
    if codec is None:
        fits = rgb and slide.dtype == np.uint8 and not slide.source.masked
        codec = "jpeg" if fits else "deflate"
    options = TiffOptions(codec, quality, subsampling, pyramid, tile)
    _check_options(options, slide, rgb, final.path)
    job = image_job(slide, "0.5", True, None, blank_map, facts, tile)
    put = PutTiles(
        TileCodec(codec, quality, subsampling, codec != "jpeg" and slide.dtype.kind in "ui"),
        job.plan.levels[0].chunk,
        tuple(level.shard for level in job.plan.levels),
        planar=not rgb,
    )
    _write(replace(job, put=put), put, options, target, final)
    return path


def _image_of(obj: Slide | Cutoff | BlankMap) -> tuple[Slide, BlankMap | None, dict[str, Any]]:
    """Return the image to write, its blank map, and the facts about it, those of a store."""
    if isinstance(obj, Slide):
        return obj, None, {"kind": "image", "source": obj.name}
    if isinstance(obj, Cutoff):
        facts = {"kind": "cutoff", "source": obj.image.name, **obj.mapping.to_json()}
        return obj.image, obj.blank_map, facts
    found, tile = obj.compute(), obj.grid.tile
    mpp = None if obj.mpp_yx is None else (obj.mpp_yx[0] * tile[0], obj.mpp_yx[1] * tile[1])
    slide = from_dask(da.from_array(SHADES[kinds_of(found)], chunks=-1), mpp=mpp)
    facts = {"kind": "blank map", "source": obj.name, "tile_size": list(tile)}
    return replace(slide, name=obj.name), found, facts


def _is_rgb(slide: Slide) -> bool:
    """Return whether pixels are colours; three named channels are planes, to keep their names."""
    plain = [one.name for one in plain_channels(3)]
    return is_rgb(slide.channels) and [one.name for one in slide.channels] == plain


def _check_options(options: TiffOptions, slide: Slide, rgb: bool, path: str) -> None:
    """Raise SlideArgumentError with one line if an option is wrong or does not fit the image."""
    choices = {"codec": CODECS, "subsampling": SUBSAMPLINGS, "pyramid": PYRAMIDS,
               "tile": (None, 128, 256, 512, 1024)}  # fmt: skip
    wrong = None
    for name, known in choices.items():
        if getattr(options, name) not in known:
            listed = ", ".join(map(str, known))
            wrong = f"{name}={getattr(options, name)!r} is not known; use one of {listed}"
    samples, quality = slide.shape[2], options.quality
    what = f"{slide.name} has {samples} channels of {slide.dtype}"
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        wrong = f"quality={quality!r} is not a quality of JPEG; give 1 to 100"
    elif str(slide.dtype) not in TYPES:
        wrong = f"{what}, and OME-TIFF has no such type; convert it to one of {', '.join(TYPES)}"
    elif options.codec == "jpeg" and not (slide.dtype == np.uint8 and (rgb or samples == 1)):
        wrong = f"{what}, and JPEG holds 8-bit RGB or grey; give codec='zstd' or 'deflate'"
    elif (options.subsampling, options.pyramid) == ("4:4:4", "subifds"):
        # Bio-Formats 7.3 converts YCbCr twice if the tag says that it is not subsampled
        wrong = (
            "Bio-Formats and QuPath show subsampling='4:4:4' in wrong colours; leave it out, or "
            "give a lossless codec or pyramid='pages'"
        )
    elif options.pyramid == "pages" and not (slide.dtype.kind == "u" and (rgb or samples == 1)):
        wrong = f"{what}, and levels as pages are for RGB or grey; give pyramid='subifds'"
    if wrong is not None:
        raise SlideArgumentError(f"{path}: {wrong}")


def _write(
    job: ImageJob, put: PutTiles, options: TiffOptions, target: Target, final: SingleFile
) -> None:
    """Write the file, all of it or nothing."""
    key = job.key() | facts_of(options, "tiff") | {"kind": "tiff"}
    nbytes = bytes_of_image(job.plan, job.slide)
    with transaction(target, key, nbytes, final) as unfinished:
        if len(job.plan.stages) > 1:
            create_sums(unfinished.create(3), job)
            unfinished.ready()
        compute_stages(job, unfinished.journal, None)
        _assemble(unfinished, job, put, options)


def _assemble(unfinished: Transaction, job: ImageJob, put: PutTiles, options: TiffOptions) -> None:
    """Copy the tiles of all levels into one file."""
    from tifffile import TiffWriter

    slide, store, levels = job.slide, unfinished.path, job.plan.levels
    facts = facts_of_image(job, unfinished.journal)
    tiles = sum(one["size"] for done in unfinished.journal.done() for one in done["files"])
    count = job.plan.pixels // put.tile**2 * (slide.shape[2] if put.planar else 1)
    big = tiles + _TABLE_ENTRY * count > _CLASSIC_BYTES
    tags = _tags(slide, put, options)
    with TiffWriter(os.path.join(store, ASSEMBLED), bigtiff=big, byteorder="<", ome=False) as tiff:
        for number, level in enumerate(levels):
            # several channels are pages, for which tifffile wants them first
            planes = (slide.shape[2],) if put.planar and slide.shape[2] > 1 else ()
            samples = () if put.planar else (slide.shape[2],)
            tiff.write(
                put.tiles(store, number, level.shape, slide.shape[2]),
                shape=(*planes, *level.shape, *samples),
                dtype=slide.dtype,
                **tags,
                **_resolution(slide, number),
                **_place(job, options, facts, number),
            )


def _tags(slide: Slide, put: PutTiles, options: TiffOptions) -> dict[str, Any]:
    """Return the arguments of tifffile that are the same for all levels."""
    codec = put.codec
    halved = codec.subsampling == "4:2:0"
    colour = codec.name == "jpeg" and not put.planar
    return {
        "tile": (put.tile, put.tile),
        "photometric": "minisblack" if put.planar else "rgb",
        "compression": _COMPRESSIONS[codec.name],
        "predictor": codec.predictor,
        "subsampling": ((2, 2) if halved else (1, 1)) if colour else None,
        "software": "dask_slides",
        "metadata": None,
    }


def _resolution(slide: Slide, number: int) -> dict[str, Any]:
    """Return the pixels per centimetre of a level; OpenSlide has no other pixel size."""
    if slide.mpp_yx is None:
        return {}
    y, x = (1e4 / (size * 2**number) for size in slide.mpp_yx)
    return {"resolution": (x, y), "resolutionunit": "CENTIMETER"}


def _place(
    job: ImageJob, options: TiffOptions, facts: Mapping[str, Any], number: int
) -> dict[str, Any]:
    """Return where a level lies in the file, and the description of the first one."""
    if number:
        return {"subfiletype": 1}
    slide = job.slide
    first: dict[str, Any] = {}
    if options.pyramid == "pages":
        first["description"] = plain_description(facts)
    else:
        channels = slide.channels[:1] if _is_rgb(slide) else slide.channels
        first["description"] = ome_xml(
            slide.name, slide.shape, slide.dtype, channels, slide.mpp_yx, facts
        )
        first["subifds"] = len(job.plan.levels) - 1
    if "nodata" in facts and options.codec != "jpeg":  # which changes pixels to and from nodata
        first["extratags"] = [(_GDAL_NODATA, "s", 0, facts["nodata"], True)]
    return first


def check_tiff(path: Any, overwrite: bool) -> None:
    """Raise unless a TIFF can be written at `path`. Nothing is changed there."""
    check_location(_file_at(path), overwrite)


def _file_at(path: Any) -> SingleFile:
    """Return the location of the file; raise SlideArgumentError for an address."""
    return SingleFile(local_path(path, "a TIFF"))


def facts_of_tiff(path: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return the facts that dask_slides wrote into the TIFF at `path`, and height and width.

    Raises SlideFormatError if there are none.
    """
    from tifffile import TiffFile

    try:
        with TiffFile(path) as tiff:
            page = tiff.pages[0]
            return facts_in(page.description), (page.imagelength, page.imagewidth)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise SlideFormatError(
            f"{path}: is no TIFF of dask_slides, or its facts cannot be read ({error!r})"
        ) from error


def bad_tiles_in_tiff(path: str) -> tuple[BadTile, ...]:
    """Return the bad tiles that the TIFF at `path` lists, which dask_slides wrote.

    Raises SlideFormatError if the list cannot be read.
    """
    facts, _ = facts_of_tiff(path)
    try:
        return tuple(bad_tile_from_json(row) for row in facts.get("bad_tiles", ()))
    except TypeError as error:
        raise SlideFormatError(
            f"{path}: its list of bad tiles cannot be read ({error}); write it again"
        ) from error
