"""`write`: which writer takes which object."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from dask_slides.errors import SlideArgumentError
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.cutoff import Cutoff
from dask_slides.ops.pack import TilePack
from dask_slides.runtime.scheduler import Progress
from dask_slides.slide import Slide
from dask_slides.writers.blank_maps import write_blank_map
from dask_slides.writers.images import write_cutoff, write_slide
from dask_slides.writers.packs import write_pack
from dask_slides.writers.store.transaction import Target


def write(
    obj: Slide | Cutoff | BlankMap | TilePack,
    path: Any,
    *,
    overwrite: bool = False,
    resume: bool = False,
    ome_zarr: str = "0.5",
    blank_map: BlankMap | None = None,
    progress: Progress | None = None,
    client: Any = None,
) -> str:
    """Compute `obj` on the active scheduler and write it as Zarr.

    A slide or cut-off becomes an OME-Zarr image with a pyramid made in the same pass, a
    blank map an OME-Zarr image of one pixel per tile, a pack a Zarr group of tiles. The store
    appears whole or not at all.

    Parameters
    ----------
    obj : Slide, Cutoff, BlankMap or TilePack
        What to write.
    path : str or path
        ``NAME.ome.zarr``, or ``NAME.tiles.zarr`` for a pack. On a cluster: in a folder that
        every worker sees. Or ``s3://BUCKET/NAME.ome.zarr``, with the extra ``cloud``.
    overwrite : bool
        Replace a store that dask_slides wrote, once the new one is complete. Anything else
        at the path is never touched.
    resume : bool
        Go on from where the same call was killed or failed: shards that it finished are not
        made again. What a failure leaves is then kept, hidden beside `path`; what a failure of
        the cluster leaves always is.
    ome_zarr : {"0.5", "0.4"}
        0.5 is Zarr v3 with shards; 0.4 is Zarr v2, for tools that read only that.
    blank_map : BlankMap, optional
        Of the source of a slide: adds the label image ``labels/tissue``.
    progress : callable, optional
        Called with the blocks done and the blocks in all.
    client : distributed.Client, optional
        The cluster to compute on, instead of the active scheduler.

    Returns
    -------
    str
        The absolute path written, or the address.

    Raises
    ------
    OutputExistsError
        There is something at the path that is not overwritten.
    OutputBusyError
        Another process is writing the same to this path.
    ResumeError
        What was begun at the path differs from what is asked for; the message says in what.
    OutputFullError
        The disk is full, a quota is used up, or a file would be too large.
    OutputDeniedError
        The folder is read-only, or there is no permission to write to it.
    SlideMemoryError
        A task would need more memory than a thread of a worker has.
    WorkerKilledError
        Tasks ended every worker that took them; all others are done. `blocks` are their numbers.
    ClusterLostError
        The scheduler of the cluster cannot be reached any more.
    RemoteError, RemoteAccessError
        The server of a bucket does not answer right, or does not allow it.
    BlankSlideError
        A cut-off of a slide that is blank all over has no image.
    """
    target = Target(path, overwrite, resume)
    with nullcontext() if client is None else client.as_current():
        return write_to(obj, target, ome_zarr, blank_map, progress)


def write_to(
    obj: Any,
    target: Target,
    ome_zarr: str = "0.5",
    blank_map: BlankMap | None = None,
    progress: Progress | None = None,
) -> str:
    """Write `obj` to `target`, on the active scheduler; return its path or address."""
    if isinstance(obj, Slide):
        return write_slide(obj, target, ome_zarr, progress, blank_map)
    if blank_map is not None:
        raise SlideArgumentError("blank_map goes with a slide; a Cutoff brings its own")
    if isinstance(obj, Cutoff):
        return write_cutoff(obj, target, ome_zarr, progress)
    if isinstance(obj, BlankMap):
        return write_blank_map(obj, target, ome_zarr)
    if isinstance(obj, TilePack):
        return write_pack(obj, target, progress)
    raise SlideArgumentError(
        f"{type(obj).__name__} is not written; give a Slide, Cutoff, BlankMap or TilePack"
    )
