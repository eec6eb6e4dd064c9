"""Write slides, cut-offs, blank maps and packs as Zarr."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any
from uuid import uuid4

import dask
from dask.delayed import Delayed

from dask_slides.errors import SlideArgumentError
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.cutoff import Cutoff
from dask_slides.ops.pack import TilePack
from dask_slides.runtime.scheduler import Progress
from dask_slides.slide import Slide
from dask_slides.writers.blank_maps import write_blank_map
from dask_slides.writers.images import write_cutoff, write_slide
from dask_slides.writers.pack_chunks import PACK_CODECS, pack_chunks
from dask_slides.writers.packs import write_pack
from dask_slides.writers.source_copy import LEVEL_STEP, QUALITY, SourceCodec, write_source
from dask_slides.writers.store.arrays import check_version
from dask_slides.writers.store.attributes import absolute_path
from dask_slides.writers.store.transaction import Target
from dask_slides.writers.virtual import write_virtual

CODECS = (*PACK_CODECS, "virtual")
"""Codecs whose chunks are images."""

Write = Callable[[Progress | None], str]
"""Writes one object, reports its progress, and returns the path."""


def write(
    obj: Slide | Cutoff | BlankMap | TilePack,
    path: Any,
    *,
    compute: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    ome_zarr: str = "0.5",
    shards: bool = True,
    blank_map: BlankMap | None = None,
    codec: str | None = None,
    quality: int = QUALITY,
    drop_blank: bool = False,
    verify_pixels: float = 0.0,
    level_step: int | None = LEVEL_STEP,
    progress: Progress | None = None,
    client: Any = None,
) -> str | Delayed:
    """Compute `obj` on the active scheduler and write it as Zarr.

    A slide or a cut-off becomes an OME-Zarr image, whose pyramid is made in the same pass. A blank
    map becomes an OME-Zarr image of one pixel per cell, a pack a Zarr group of tiles. The store
    appears when it is complete; until then there is nothing at `path`.

    Parameters
    ----------
    obj : Slide, Cutoff, BlankMap or TilePack
        What to write.
    path : str or path
        ``NAME.ome.zarr``, or ``NAME.tiles.zarr`` for a pack. On a cluster, a folder that every
        worker can write to. Or ``s3://BUCKET/NAME.ome.zarr``, also ``gs://`` and ``az://``, with
        the extra ``cloud``.
    compute : bool
        False returns a ``dask.delayed.Delayed``, which writes the store when you compute it, on
        any scheduler. Its single task starts other tasks and waits for them. On a cluster it does
        not occupy a thread of a worker while it waits.
    overwrite : bool
        Replace a store or a file of references that dask_slides wrote, once the new one is
        complete. Other data is never replaced.
    resume : bool
        Continue an earlier call with the same arguments that was killed or failed: finished shards
        are not written again. If this call fails too, its finished shards stay, hidden beside
        `path`. After a failure of the cluster they always stay.
    ome_zarr : {"0.5", "0.4"}
        0.5 is Zarr v3 with shards; 0.4 is Zarr v2, for tools that read only that.
    shards : bool
        False writes every chunk as a file of its own, for tools that cannot read the Zarr codecs
        ``sharding_indexed`` and ``crc32c``. The pixels are the same, and zstd adds the checksums.
        Chunks of an image then have up to 1,024 x 1,024 pixels instead of 512 x 512, to keep the
        number of files low; a pack has a file per tile. OME-Zarr 0.4 has no shards.
    blank_map : BlankMap, optional
        A blank map of the source of a slide: adds the label image ``labels/tissue``. With
        ``drop_blank`` it also says which tiles are left out.
    codec : {None, "source", "jpeg", "jpegxl", "virtual"}
        How chunks are compressed. None compresses pixels with zstd, which loses nothing.

        "source" copies the compressed tiles of a whole slide as they are, without decoding them:
        JPEG, JPEG 2000, WebP, zstd, deflate, and LZW without a predictor. Levels that the slide
        lacks (`level_step`) are made from reduced pixels and encoded as JPEG, or as zstd if the
        slide is lossless. It copies the tiles of a cut-off too, if its scale is that of the slide
        (``downsample=1``) and its `tile_size` a multiple of the slide's tile; islands must not
        touch a partial tile at the right or bottom edge of the slide. It copies those of a pack if
        these are whole tiles of the slide, not resampled: use ``pack_tiles(align="source")``.

        "jpeg" encodes the tiles of any pack of 8-bit grey or RGB. "jpegxl" encodes those of 8 or 16
        bits as JPEG XL, which is smaller, and several times slower to write and to read.

        "virtual" copies nothing: it writes one JSON file, ``NAME.refs.json``, of the levels that
        the slide has, with the byte range of each tile in the slide. The reference file system of
        fsspec shows it to Zarr as a store.

        Other programs need the codecs of imagecodecs for Zarr v3 to read such stores.
    quality : int
        Quality of JPEG, 1 to 100, of what is encoded and not copied. JPEG XL of quality 100 loses
        nothing.
    drop_blank : bool
        With ``codec="source"``: leave out tiles that lie wholly in blank tiles of `blank_map`, by
        default a map in which no pixel of a blank tile is tissue. They read as the fill, which is
        white for colour. Levels that are made show the glass of the slide there.
    verify_pixels : float
        With ``codec="source"`` and a slide: the share of copied tiles, from 0 to 1, that are
        decoded from the slide and from the copy, and compared. Other tiles are not decoded: only
        the headers and ends of their streams are checked.
    level_step : {4, 2, 8, None}
        With ``codec="source"`` and an image: the largest ratio of two levels. Levels that the slide
        lacks are made to keep it; most slides have steps of 4, and then nothing is decoded. Some
        viewers need 2 (Viv, Vitessce). None makes no level.
    progress : callable, optional
        Called with the number of finished blocks and the number of all blocks.
    client : distributed.Client, optional
        The cluster to compute on, instead of the active scheduler.

    Returns
    -------
    str or Delayed
        The absolute path, or the address; with ``compute=False`` a Delayed that returns it.

    Raises
    ------
    OutputExistsError
        Something exists at the path, and it must not be overwritten.
    OutputBusyError
        Another process is writing the same store to this path.
    ResumeError
        The unfinished store is of a call with other arguments; the message names them.
    OutputFullError
        The disk is full, a quota is used up, or a file would be too large.
    OutputDeniedError
        The folder is read-only, or you have no permission to write to it.
    SlideMemoryError
        A task needs more memory than a thread of a worker has.
    WorkerKilledError
        Some tasks killed every worker that ran them; `blocks` lists these. All others are done.
    ClusterLostError
        The scheduler of the cluster cannot be reached any more.
    RemoteError, RemoteAccessError
        The server of a bucket gives no valid answer, or denies access.
    BlankSlideError
        The slide of the cut-off is entirely blank, so there is no image.
    SlideUnsupportedError
        With ``codec="source"``: the tiles of the slide cannot be copied.
    SlideArgumentError
        An argument is wrong, or `progress` or `client` is given with ``compute=False``.

    Examples
    --------
    >>> import dask.array as da, dask_slides as ds
    >>> slide = ds.from_dask(da.zeros((64, 64, 3), dtype="uint8"))
    >>> path = ds.write(slide, "small.ome.zarr")
    >>> delayed = ds.write(slide, "later.ome.zarr", compute=False)
    >>> ds.open_slide(delayed.compute()).shape
    (64, 64, 3)
    """
    target = Target(absolute_path(path), overwrite, resume)  # workers run in other folders
    options = SourceCodec(quality, drop_blank, verify_pixels, level_step)
    if (drop_blank or verify_pixels) and (codec != "source" or not isinstance(obj, Slide)):
        raise SlideArgumentError(
            "drop_blank and verify_pixels are for a slide with codec='source'; leave them out"
        )
    run = _writer_of(obj, target, ome_zarr, shards, blank_map, codec, options)
    if not compute:
        if progress is not None or client is not None:
            raise SlideArgumentError(
                "progress and client cannot be used with compute=False; give a scheduler or "
                "client to compute() of the Delayed"
            )
        # without traverse=False, dask would compute the arrays inside of `obj` first
        task = dask.delayed(partial(run, None), pure=False, traverse=False)
        return task(dask_key_name=f"write-{uuid4().hex}")
    with nullcontext() if client is None else client.as_current():
        return run(progress)


def write_to(
    obj: Any,
    target: Target,
    version: str = "0.5",
    shards: bool = True,
    codec: str | None = None,
    quality: int = QUALITY,
) -> str:
    """Write `obj` to `target`; return its path or address."""
    return _writer_of(obj, target, version, shards, None, codec, SourceCodec(quality))(None)


def _encoder_of(
    obj: Any,
    target: Target,
    version: str,
    shards: bool,
    blank_map: BlankMap | None,
    codec: str,
    options: SourceCodec,
) -> Write:
    """Return the function that writes `obj` with chunks that are images."""
    if codec not in CODECS:
        raise SlideArgumentError(
            f"codec={codec!r}; use one of {', '.join(CODECS)}, or None for zstd"
        )
    if version != "0.5" or not shards:
        raise SlideArgumentError(
            f"codec={codec!r} writes OME-Zarr 0.5 with shards; leave ome_zarr and shards out"
        )
    if codec == "virtual":
        if not isinstance(obj, Slide) or target.resume or blank_map is not None:
            raise SlideArgumentError(
                "codec='virtual' takes a whole slide, without resume and blank_map"
            )
        return partial(write_virtual, obj, target)
    if isinstance(obj, TilePack):
        chunks = pack_chunks(obj, codec, options.quality)
        return partial(write_pack, obj, target, True, chunks=chunks)
    if isinstance(obj, Cutoff) and codec == "source":
        return partial(write_source, obj.image, target, options, None, cut=obj)
    if not isinstance(obj, Slide) or codec != "source":
        raise SlideArgumentError(
            f"codec={codec!r} is not for a {type(obj).__name__}: 'source' is for whole slides and "
            "packs, 'jpeg' and 'jpegxl' for packs; leave codec out"
        )
    return partial(write_source, obj, target, options, blank_map)


def _writer_of(
    obj: Any,
    target: Target,
    version: str,
    shards: bool,
    blank_map: BlankMap | None,
    codec: str | None,
    options: SourceCodec,
) -> Write:
    """Return the function that writes `obj`; raise if there is none."""
    if blank_map is not None and not isinstance(obj, Slide):
        raise SlideArgumentError("blank_map can only be given with a slide; a Cutoff has its own")
    if not isinstance(blank_map, BlankMap | None):
        raise SlideArgumentError(
            f"blank_map={blank_map!r:.60} is not a BlankMap; give one: BlankMap.from_geojson and "
            "open_blank_map read files"
        )
    if codec is not None:
        return _encoder_of(obj, target, version, shards, blank_map, codec, options)
    if isinstance(obj, Slide):
        check_version(version)
        return partial(write_slide, obj, target, version, shards, blank_map)
    if isinstance(obj, Cutoff):
        check_version(version)
        return partial(write_cutoff, obj, target, version, shards)
    if isinstance(obj, BlankMap):
        check_version(version)
        return partial(write_blank_map, obj, target, version, shards)
    if isinstance(obj, TilePack):
        return partial(write_pack, obj, target, shards)
    raise SlideArgumentError(
        f"a {type(obj).__name__} cannot be written; give a Slide, Cutoff, BlankMap or TilePack"
    )
