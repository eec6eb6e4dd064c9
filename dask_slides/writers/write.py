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
from dask_slides.writers.packs import write_pack
from dask_slides.writers.store.arrays import check_version
from dask_slides.writers.store.attributes import absolute_path
from dask_slides.writers.store.transaction import Target

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
        Replace a store that dask_slides wrote, once the new one is complete. Other data is never
        replaced.
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
        A blank map of the source of a slide: adds the label image ``labels/tissue``.
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
    run = _writer_of(obj, target, ome_zarr, shards, blank_map)
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


def write_to(obj: Any, target: Target, version: str = "0.5", shards: bool = True) -> str:
    """Write `obj` to `target`; return its path or address."""
    return _writer_of(obj, target, version, shards, None)(None)


def _writer_of(
    obj: Any, target: Target, version: str, shards: bool, blank_map: BlankMap | None
) -> Write:
    """Return the function that writes `obj`; raise if there is none."""
    if isinstance(obj, Slide):
        check_version(version)
        return partial(write_slide, obj, target, version, shards, blank_map)
    if blank_map is not None:
        raise SlideArgumentError("blank_map can only be given with a slide; a Cutoff has its own")
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
