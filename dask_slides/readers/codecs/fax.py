"""CCITT (fax) strips by libtiff, which says where it meets a code that it does not know.

The decoder of imagecodecs stops there, and what is left of the strip is white. So each strip is
handed to libtiff, which imagecodecs has too, as a file of its own. libtiff goes on after a bad
row, but warns of it; imagecodecs passes warnings on to its logger. While a strip is decoded that
logger lets warnings through, whatever its level; nobody sees more of other records for that.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.readers.codecs.headers import Data
from dask_slides.runtime.fork_safety import fork_safe_lock

FAX = frozenset({2, 3, 4})
"""Compression tags of CCITT."""
_OPTIONS = {3: 292, 4: 293}
"""By compression, the tag that says which of its forms is used (T4Options, T6Options)."""
_UNSORTED = "tags are not sorted"
_own = threading.local()
_logger = logging.getLogger("imagecodecs")
_lock = fork_safe_lock()
_levels: list[int] = []
"""The level of the logger as each thread found it that decodes a strip; the last puts it back."""


def _taken(record: logging.LogRecord) -> bool:
    """Keep what is said while this thread decodes a strip; let all else be logged as ever."""
    said: list[str] | None = getattr(_own, "said", None)
    if said is not None:
        said.append(record.getMessage())
        return False
    before = _levels[:1]
    return not before or record.levelno >= (before[0] or _level_above())


def _level_above() -> int:
    """Return the level that the logger has without one of its own."""
    return (_logger.parent or logging.root).getEffectiveLevel()


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Return what is said in this thread: many programs set the root logger to errors only."""
    _logger.addFilter(_taken)  # which is there once, however often
    with _lock:
        _levels.append(_logger.level)
        if _logger.getEffectiveLevel() > logging.WARNING:
            _logger.setLevel(logging.WARNING)
    _own.said = said = list[str]()
    try:
        yield said
    finally:
        _own.said = None
        with _lock:
            first = _levels.pop()
            if not _levels and _logger.level != first:
                _logger.setLevel(first)


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
    with _heard() as said:
        try:
            found: NDArray[np.bool_] = imagecodecs.tiff_decode(file, verbose=True)
        except MemoryError:
            raise
        except Exception as error:
            reason = said[-1] if len(said) > 1 else f"it holds less than {height} rows ({error})"
            raise ValueError(f"the CCITT stream cannot be decoded: {reason}") from None
    if not said or _UNSORTED not in said.pop(0):
        raise ValueError(
            "CCITT is read only while the warnings of the logger 'imagecodecs' are not switched off"
        )
    if said:
        raise ValueError(f"the CCITT stream is damaged: {said[0]}")
    return found.astype(bool, copy=False).reshape(height, width)
