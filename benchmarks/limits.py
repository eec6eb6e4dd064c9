"""Decode every tile and do nothing else: the limit for methods that decode the same tiles.

The pixels are not copied or used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.scenarios import Job, method


def decode_all(job: Job, decoder: Callable[[Any], Callable[[bytes, int], Any]]) -> None:
    """Decode every tile; each thread gets its own decode function from `decoder(page)`."""
    import tifffile

    with tifffile.TiffFile(job.slide) as tiff:
        page = tiff.pages[0]
        spans = list(enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)))
        file = os.open(job.slide, os.O_RDONLY)

        def part(number: int) -> None:
            decode = decoder(page)
            for tile, (offset, count) in spans[number :: job.threads]:
                decode(os.pread(file, count, offset), tile)

        try:
            with ThreadPoolExecutor(job.threads) as threads:
                list(threads.map(part, range(job.threads)))
        finally:
            os.close(file)


def jpeg_decoder(factor: int, page: Any) -> Callable[[bytes, int], Any]:
    """Return a decoder of JPEG at 1 / `factor` into one array, which is the fastest."""
    import simplejpeg

    height, width = page.tilelength // factor, page.tilewidth // factor
    into = np.empty((height, width, 3), np.uint8)
    size = {"min_height": height, "min_width": width, "min_factor": 1, "buffer": into}
    return lambda data, tile: simplejpeg.decode_jpeg(data, **size)


def tifffile_decoder(page: Any) -> Callable[[bytes, int], Any]:
    """Return the decoder of tifffile, which uses imagecodecs."""
    return lambda data, tile: page.decode(data, tile, _fullsize=True)


@method("resize", "limit: bare decode at 1/4", "tifffile", "simplejpeg", limit=True)
@method("resize", "bare decode at 1/4, 1 thread", "tifffile", "simplejpeg", threads=1)
@method("resize-256", "limit: bare decode at 1/4", "tifffile", "simplejpeg", limit=True)
def bare_quarter(job: Job) -> None:
    decode_all(job, partial(jpeg_decoder, 4))


@method("resize", "bare decode at full size", "tifffile", "simplejpeg")
@method("blank-map", "limit: bare decode", "tifffile", "simplejpeg", limit=True)
@method("blank-map", "bare decode, 1 thread", "tifffile", "simplejpeg", threads=1)
def bare_full(job: Job) -> None:
    decode_all(job, partial(jpeg_decoder, 1))


@method("resize-lzw", "limit: bare decode", "tifffile", "imagecodecs", limit=True)
@method("resize-lzw", "bare decode, 1 thread", "tifffile", "imagecodecs", threads=1)
@method("resize-deflate", "limit: bare decode", "tifffile", "imagecodecs", limit=True)
@method("resize-deflate", "bare decode, 1 thread", "tifffile", "imagecodecs", threads=1)
@method("resize-jpeg2000", "limit: bare decode", "tifffile", "imagecodecs", limit=True)
@method("resize-jpeg2000", "bare decode, 1 thread", "tifffile", "imagecodecs", threads=1)
def bare_tifffile(job: Job) -> None:
    decode_all(job, tifffile_decoder)
