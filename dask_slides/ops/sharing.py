"""One decode for the operations that are done with a slide together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from dask_slides.core.source import Sharing
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.resized import ResizedSource
from dask_slides.ops.resize import resize
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide


def reduction(slide: Slide, image: Slide) -> int:
    """Return how many times smaller level 0 of `slide` is read for `image`; 0 if it is not."""
    source = image.source
    if not isinstance(source, ResizedSource) or source.parent != slide.source:
        return 1
    return 0 if source.from_level else source.factor


def sharing(slide: Slide, folder: str, reads: Sequence[int]) -> AbstractContextManager[None]:
    """Let what reads level 0 of `slide` at these reductions decode each tile once.

    In this process, while the context is open; what several of the reads can use is in a file
    in `folder` meanwhile.
    """
    if isinstance(slide.source, Sharing) and max(reads, default=0) > 1:
        return slide.source.sharing(folder, reads)
    return nullcontext()


@contextmanager
def decode_once(
    slide: SlideLike,
    folder: Any,
    downsample: float | None = None,
    mpp: Mpp = None,
    max_size: int | None = None,
    shape: tuple[int, int] | None = None,
    kernel: str = "lanczos",
    gap: float | None = 2.0,
    means: bool = False,
) -> Iterator[Slide]:
    """Decode a slide once for its blank map, a resize and a cut-off of one scale.

    Of all codecs but JPEG a reduced tile is the means of the full one, which the blank map, if it
    comes first, leaves to the others. JPEG is decoded smaller, to other pixels than the means.
    So either a blank map decodes for itself, and the resize and the cut-off share what they
    decode; or, with `means`, all three share one decode and the images are made of means.
    Without it the results are the same to the bit as without all this.

    What is kept is 1/4, 1/16 or 1/64 of the bytes of the image, by the reduction that `resize`
    chooses; nothing is shared of images read in full or of stored levels, by schedulers of other
    processes, and where there is no room for it.

    Parameters
    ----------
    slide : Slide or path
        The image: one whose file has tiles. Nothing of any other is shared.
    folder : str or path
        Where the file of what is kept is, of this machine. It has no name and is gone with the
        process, however that ends.
    downsample, mpp, max_size, shape, kernel, gap
        As in `resize`, and as in the operations that follow.
    means : bool
        Reduce JPEG by means of full tiles too. It is for the slide that the block gives, which
        has the same pixels everywhere, shared or not.

    Returns
    -------
    context manager of Slide
        While it is open each tile is decoded once; its value is the slide.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or the folder is none.

    Examples
    --------
    >>> import dask_slides as ds, os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> path = os.path.join(folder, "s.tif")
    >>> path = ds.sample_slide(path, shape=(2048, 2048), compression="deflate")
    >>> with ds.decode_once(path, folder, downsample=10) as slide:
    ...     found = ds.blank_map(slide).compute()
    ...     small = ds.resize(slide, downsample=10).data.compute()
    ...     cut = ds.cutoff_resize(slide, downsample=10, blank_map=found).image.data.compute()
    >>> small.shape
    (205, 205, 3)
    """
    slide = as_slide(slide)
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise SlideArgumentError(f"{slide.name}: folder={folder!r} is none; make it first")
    if means and isinstance(slide.source, Sharing):
        slide = replace(slide, source=slide.source.with_means())
    factor = reduction(
        slide,
        resize(
            slide,
            downsample=downsample,
            mpp=mpp,
            max_size=max_size,
            shape=shape,
            kernel=kernel,
            gap=gap,
        ),
    )
    with sharing(slide, folder, (1, factor, factor)):
        yield slide
