"""Decode CCITT (fax) strips with libtiff, which reports invalid codes.

The CCITT decoder of imagecodecs stops at an invalid code and leaves the rest white. So
each strip is wrapped in a TIFF file and decoded by the libtiff of imagecodecs. libtiff continues
after a bad row and warns of it, and imagecodecs passes warnings to its logger. While a strip is
decoded, that logger accepts warnings whatever its level. A filter collects them, and drops the
records of other threads that the original level would have dropped.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import SlideUnsupportedError
from dask_slides.readers.codecs.headers import Data
from dask_slides.readers.codecs.page_decoder import PageDecoder
from dask_slides.readers.codecs.tile_sizes import TileSizes
from dask_slides.runtime.fork_safety import fork_safe_lock

FAX = frozenset({2, 3, 4})
"""Compression tags of CCITT."""
_OPTIONS = {3: 292, 4: 293}
"""By compression, the tag of its options (T4Options, T6Options)."""
_UNSORTED = "tags are not sorted"
_thread = threading.local()
_logger = logging.getLogger("imagecodecs")
_lock = fork_safe_lock()
_levels: list[int] = []
"""The level of the logger before each thread that decodes a strip; the last one restores it."""


def _filter(record: logging.LogRecord) -> bool:
    """Collect the messages of a strip that this thread decodes; log all others as before."""
    messages: list[str] | None = getattr(_thread, "messages", None)
    if messages is not None:
        messages.append(record.getMessage())
        return False
    before = _levels[:1]
    return not before or record.levelno >= (before[0] or _level_above())


def _level_above() -> int:
    """Return the level that the logger would inherit."""
    return (_logger.parent or logging.root).getEffectiveLevel()


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Collect the messages that this thread logs, even if the level of the root logger is ERROR."""
    _logger.addFilter(_filter)  # adding it again does nothing
    with _lock:
        _levels.append(_logger.level)
        if _logger.getEffectiveLevel() > logging.WARNING:
            _logger.setLevel(logging.WARNING)
    _thread.messages = messages = list[str]()
    try:
        yield messages
    finally:
        _thread.messages = None
        with _lock:
            first = _levels.pop()
            if not _levels and _logger.level != first:
                _logger.setLevel(first)


class FaxDecoder(PageDecoder):
    """Decode the CCITT strips or tiles of a page."""

    def __init__(self, page: Any) -> None:
        super().__init__(page)
        self._sizes = TileSizes(page)

    def unpacked(self, data: Any, number: int) -> bytes:
        """Return the bytes of tile `number`, eight pixels in each."""
        height, width = self._sizes.full
        if not self._page.is_tiled:  # the last strip has fewer rows
            height, _ = self._sizes.valid(number)
        return np.packbits(_decode_fax(self._page, data, height, width), axis=1).tobytes()


def _decode_fax(page: Any, data: Data, height: int, width: int) -> NDArray[np.bool_]:
    """Return the samples (height, width) of a strip or tile of `page`; ValueError if damaged."""
    import imagecodecs

    code = int(page.compression)
    tags = {
        256: width,
        257: height,
        258: 1,  # bits per sample
        259: code,
        262: 1,
        266: int(page.fillorder),
        273: 0,
        277: 1,  # samples per pixel
        278: height,
        279: len(data),
    }
    if code in _OPTIONS:
        tags[_OPTIONS[code]] = int(page.tags.valueof(_OPTIONS[code], 0))
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    # libtiff warns of unsorted tags first: if that is not logged, no other warning would be
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags, reverse=True)
    )
    file = b"".join((b"II*\0", struct.pack("<IH", 8, len(tags)), entries, bytes(4), data))
    with _messages() as messages:
        try:
            found: NDArray[np.bool_] = imagecodecs.tiff_decode(file, verbose=True)
        except MemoryError:
            raise
        except Exception as error:
            reason = f"it holds less than {height} rows ({error})"
            if len(messages) > 1:
                reason = messages[-1]
            raise ValueError(f"the CCITT stream cannot be decoded: {reason}") from None
    if not messages or _UNSORTED not in messages.pop(0):
        raise SlideUnsupportedError(  # which is no damage, and masks no tile
            f"{os.path.basename(page.parent.filename)}: CCITT cannot be checked while warnings of "
            "the logger 'imagecodecs' are switched off; call logging.disable(logging.NOTSET), or "
            "pass disable_existing_loggers=False to logging.config"
        )
    if messages:
        raise ValueError(f"the CCITT stream is damaged: {messages[0]}")
    return found.astype(bool, copy=False).reshape(height, width)
