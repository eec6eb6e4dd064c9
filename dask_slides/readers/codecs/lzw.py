"""LZW several times faster than imagecodecs decodes it, by the compiled loop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.readers.codecs.headers import Data
from dask_slides.runtime.numba_loader import numba_kernels

SAVED = 4e-9
"""Seconds a byte that the compiled loop is faster."""
_SLACK = bytes(8)


def unpacked(data: Data, room: int, total: int) -> NDArray[Any] | None:
    """Return the bytes that `data` is the LZW of, at most `room`; of `total` in the whole image.

    None if the loop is not to be used, or `data` is no such stream: then imagecodecs is to be
    asked, which takes more, and the error is the same as ever.
    """
    compiled = numba_kernels("lzw", total * SAVED)
    if compiled is None:
        return None
    out = np.empty(256 + room + len(_SLACK), np.uint8)
    out[:256] = np.arange(256)
    found = compiled.unpack(np.frombuffer(b"".join((data, _SLACK)), np.uint8), out)
    return out[256 : 256 + found] if found >= 0 else None
