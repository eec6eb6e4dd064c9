"""Errors and warnings of dask_slides.

Each error is also one of Python's own (`SlideArgumentError` is a `ValueError`). Each message is
one line that names the slide, the cause and what to do.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any

_UNINTENDED = (
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    struct.error,
)
"""Errors that a library does not raise on purpose. On a damaged file, their text is about code."""
_NO_MEMORY = r"^out of memory error|^Insufficient memory"
"""How Pillow and libjpeg report that memory is exhausted."""
_ENUM_MEMBER = r"<([A-Z]\w*)\.(\w+): -?\d+>"
"""The repr of an enum member, which messages of tifffile contain."""
_ABOUT_CODE = re.compile(
    r"""\bb['"]|with base 10|NoneType|<class |' object|values to unpack|string to float"""
    "|^buffer is smaller|cannot reshape|could not be broadcast"
)
"""Text that shows that a message is about code, not about the file."""


class SlideError(Exception):
    """Base class of all errors of dask_slides."""

    def __str__(self) -> str:
        """Return the message as one line, with control characters of paths and files escaped."""
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class SlideNotFoundError(SlideError, FileNotFoundError):
    """There is no file or store at the path."""


class SlideFormatError(SlideError, ValueError):
    """The file or store is not an image that can be read, or its metadata contradict each other."""


class SlideTruncatedError(SlideFormatError, EOFError):
    """The file ends before the image that it declares."""


class SlideLimitError(SlideError, OverflowError):
    """The file declares a size above the `limits` it was opened with."""


class SlideUnsupportedError(SlideError, NotImplementedError):
    """The image is valid, but its codec, colour space or axes are not supported."""


class SlideArgumentError(SlideError, ValueError):
    """An argument is not valid, or two arguments exclude each other."""


class SlideMppError(SlideArgumentError):
    """An argument needs the micrometres per pixel, but neither the file nor you give them."""


class SlideChangedError(SlideError, OSError):
    """The file was modified after it was opened, or does not match the checksum you gave."""


class RemoteError(SlideError, ConnectionError):
    """The server of a remote slide or store failed to give a valid answer after all retries."""


class RemoteAccessError(SlideError, PermissionError):
    """The server of a remote slide or store denied access."""


class TileDecodeError(SlideError, OSError):
    """A tile of the slide could not be read or decoded. The attributes say which one, if known."""

    def __init__(
        self,
        message: str,
        level: int | None = None,
        y: int | None = None,
        x: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.level = level
        """Level of the slide."""
        self.y = y
        """First row of the tile, in pixels of the level."""
        self.x = x
        """First column of the tile, in pixels of the level."""
        self.offset = offset
        """Offset of its bytes in the file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.level, self.y, self.x, self.offset)


class OutputExistsError(SlideError, FileExistsError):
    """The output path exists already, and `overwrite` is not set."""


class SlideMemoryError(SlideError, RuntimeError):
    """A task or array needs more memory than is available.

    Not a MemoryError: CPython reuses those from a free list, which is not safe for a class with
    a second base.
    """


class OutputBusyError(SlideError, BlockingIOError):
    """Another process is writing to the output path."""


class OutputFullError(SlideError, OSError):
    """The output does not fit: the disk is full, or a quota or the largest file size is reached."""


class OutputDeniedError(SlideError, PermissionError):
    """The output path cannot be written: no permission, or a read-only file system."""


class WorkerKilledError(SlideError, RuntimeError):
    """Some tasks killed every worker that ran them. All other tasks are done."""

    blocks: tuple[tuple[int, ...], ...] = ()
    """Block numbers of these tasks, of a write along x and y; empty if unknown."""


class ClusterLostError(SlideError, ConnectionError):
    """The connection to the cluster is lost, or the cluster cancelled the work."""


class ResumeError(SlideError, ValueError):
    """The unfinished output at the path was started with other parameters or another slide."""


class StoreDamagedError(SlideError, OSError):
    """A file of the store is missing, was added, or has changed since it was written."""


class BlankSlideError(SlideError, ValueError):
    """Every tile of the slide is blank: there is nothing to write."""


class OutputRoomWarning(UserWarning):
    """The output may not fit: uncompressed, it is larger than the free space of the disk."""


class ReaderWarning(RuntimeWarning):
    """A reader of another package is left out, because it cannot be imported."""


class SkippedGeometryWarning(UserWarning):
    """Some geometries of a GeoJSON file are not read, because they have no area."""


class BlankSlideWarning(UserWarning):
    """Every tile of the slide is blank: the result has no pixels, tiles or crops."""


class LittleTissueWarning(UserWarning):
    """Too few places of the slide have as much tissue as random crops should have."""


def reason_of(error: Exception) -> str:
    """Explain in one line, in words about the file, why it could not be read."""
    text = " ".join(str(error).split())
    text = re.sub(_ENUM_MEMBER, lambda found: f"{found[1].lower()} {found[2]}", text)
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if not isinstance(error, SlideError) and (
        isinstance(error, _UNINTENDED) or _ABOUT_CODE.search(text)
    ):
        return "its metadata or data contradict each other"
    return text or type(error).__name__


def known_reason(error: Exception) -> str:
    """Return, in brackets, what the system or JSON says about a store; "" for other errors."""
    if isinstance(error, OSError) and error.strerror:
        return f" ({error.strerror})"
    return " (its metadata are not JSON)" if isinstance(error, json.JSONDecodeError) else ""


def is_memory_error(error: BaseException) -> bool:
    """Return whether `error` means that memory is exhausted, by its type or its text."""
    return isinstance(error, MemoryError) or bool(re.search(_NO_MEMORY, str(error)))


def memory_error(what: str, reason: str) -> SlideMemoryError:
    """Return the error for `what`, which cannot be read because no memory is left."""
    return SlideMemoryError(
        f"{what}: no memory is left to read it ({reason}); give the process more memory or fewer "
        "threads"
    )
