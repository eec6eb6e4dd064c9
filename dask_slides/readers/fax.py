"""CCITT (fax) strips by libtiff, which says where it meets a code that it does not know.

The decoder of imagecodecs stops there, and what is left of the strip is white. So each strip is
handed to libtiff, which imagecodecs has too, as a file of its own. libtiff goes on after a bad
row, but warns of it; imagecodecs passes warnings on to its logger.
"""

from __future__ import annotations

import logging
import struct
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.readers.frames import Data

FAX = frozenset({2, 3, 4})
"""Compression tags of CCITT."""
_OPTIONS = {3: 292, 4: 293}
"""By compression, the tag that says which of its forms is used (T4Options, T6Options)."""
_UNSORTED = "tags are not sorted"
_own = threading.local()


def _taken(record: logging.LogRecord) -> bool:
    """Keep what is said while this thread decodes a strip; let all else be logged."""
    said: list[str] | None = getattr(_own, "said", None)
    if said is None:
        return True
    said.append(record.getMessage())
    return False


def decode_fax(page: Any, data: Data, height: int, width: int) -> NDArray[np.bool_]:
    """Return the samples (height, width) of a strip or tile of `page`; ValueError if damaged."""
    import imagecodecs

    code = int(page.compression)
    tags = {
        256: width,
        257: height,
        258: 1,  # bit a sample
        259: code,
        262: 1,
        266: int(page.fillorder),
        273: 0,
        277: 1,  # sample a pixel
        278: height,
        279: len(data),
    }
    if code in _OPTIONS:
        tags[_OPTIONS[code]] = int(page.tags.valueof(_OPTIONS[code], 0))
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    # libtiff warns of tags that are not in order: where that is not heard, nothing else would be
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags, reverse=True)
    )
    file = b"".join((b"II*\0", struct.pack("<IH", 8, len(tags)), entries, bytes(4), data))
    logging.getLogger("imagecodecs").addFilter(_taken)  # which is there once, however often
    _own.said = said = list[str]()
    try:
        found: NDArray[np.bool_] = imagecodecs.tiff_decode(file, verbose=True)
    except Exception as error:
        reason = said[-1] if len(said) > 1 else f"it holds less than {height} rows ({error})"
        raise ValueError(f"the CCITT stream cannot be decoded: {reason}") from None
    finally:
        _own.said = None
    if not said or _UNSORTED not in said.pop(0):
        raise ValueError(
            "CCITT is read only while the warnings of the logger 'imagecodecs' are not switched off"
        )
    if said:
        raise ValueError(f"the CCITT stream is damaged: {said[0]}")
    return found.astype(bool, copy=False).reshape(height, width)
