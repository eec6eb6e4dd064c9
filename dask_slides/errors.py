"""What can go wrong, each kind also a builtin, each message one line: slide, cause, cure."""

from __future__ import annotations

import re
import struct
from typing import Any

_UNSPEAKING = (
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    struct.error,
)
"""Errors of Python by which a library trips over what a file says: their words are about code."""
_NO_MEMORY = r"^out of memory error|^Insufficient memory"
"""What Pillow and libjpeg say of a machine; others of damaged streams that ask for too much."""
_ENUM = r"<([A-Z]\w*)\.(\w+): -?\d+>"
"""How Python shows a named number, of which tifffile's reasons are full."""
_CODE = re.compile(
    r"""\bb['"]|with base 10|NoneType|<class |' object|values to unpack|string to float"""
    "|^buffer is smaller|cannot reshape|could not be broadcast"
)
"""What else tells that the words of an error are about code."""


class SlideError(Exception):
    """Base of every error that dask_slides raises on purpose."""

    def __str__(self) -> str:
        """Return the message as one line, whatever characters a path or a file brings into it."""
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The path holds nothing."""


class SlideFormatError(SlideError, ValueError):
    """The file or store is not an image that can be read, or contradicts itself."""


class SlideTruncatedError(SlideFormatError, EOFError):
    """Parts of the image lie beyond the end of the file."""


class SlideLimitError(SlideError, OverflowError):
    """The file declares more than the limits it was opened with."""


class SlideUnsupportedError(SlideError, NotImplementedError):
    """The image is legal, but of a kind that is not read (codec, colour space, axes)."""


class SlideArgumentError(SlideError, ValueError):
    """An argument is wrong, or two of them exclude each other."""


class SlideMppError(SlideArgumentError):
    """Micrometres per pixel are asked for, and neither file nor caller gives them."""


class SlideChangedError(SlideError, OSError):
    """The file is not the one that was opened: its size or time of change differs."""


class RemoteError(SlideError, ConnectionError):
    """The server of a remote slide or store fails, also after retries."""


class RemoteAccessError(SlideError, PermissionError):
    """The server of a remote slide or store does not allow what is asked."""


class TileDecodeError(SlideError, OSError):
    """Pixels of the slide could not be read or decoded: which, as far as it is known."""

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
        """Of the slide."""
        self.y = y
        """First row, in pixels of the level."""
        self.x = x
        """First column, in pixels of the level."""
        self.offset = offset
        """Of the bytes in the file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.level, self.y, self.x, self.offset)


class OutputExistsError(SlideError, FileExistsError):
    """The output path is taken."""


class SlideMemoryError(SlideError, RuntimeError):
    """A task would need more memory than a thread of a worker has, or there was no more.

    Not a MemoryError: Python keeps those in a store of its own and makes no subclass of two
    kinds safely.
    """


class OutputBusyError(SlideError, BlockingIOError):
    """Another process is writing to the output path."""


class OutputFullError(SlideError, OSError):
    """There is no room for the output: the disk, a quota or the size of a file is exhausted."""


class OutputDeniedError(SlideError, PermissionError):
    """The output path may not be written to: no permission, or a read-only file system."""


class WorkerKilledError(SlideError, RuntimeError):
    """Tasks ended every worker that they were given to; all others are done."""

    blocks: tuple[tuple[int, ...], ...] = ()
    """Numbers of the blocks that these tasks were to make, of a write along x and y; empty if
    nobody knows."""


class ClusterLostError(SlideError, ConnectionError):
    """The scheduler of the cluster cannot be reached any more, or gave the work up."""


class ResumeError(SlideError, ValueError):
    """What was begun at the output path is not what is asked for now."""


class StoreDamagedError(SlideError, OSError):
    """A store is not as it was written: a file is missing, was added, or has changed."""


class BlankSlideError(SlideError, ValueError):
    """Every cell of the slide is blank, so there is nothing to write."""


class OutputRoomWarning(UserWarning):
    """The output may not fit: it has more bytes before compression than the disk has free."""


class BlankSlideWarning(UserWarning):
    """Every cell of the slide is blank: the result holds no pixel, tile or crop."""


def reason_of(error: Exception) -> str:
    """Return in one line why something could not be read, in words about the file."""
    said = re.sub(
        _ENUM, lambda found: f"{found[1].lower()} {found[2]}", " ".join(str(error).split())
    )
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if not isinstance(error, SlideError) and (isinstance(error, _UNSPEAKING) or _CODE.search(said)):
        return "what it says of itself does not fit together"
    return said or type(error).__name__


def is_memory_error(error: BaseException) -> bool:
    """Return whether `error` says that there is no more memory; some libraries do so in words."""
    return isinstance(error, MemoryError) or bool(re.search(_NO_MEMORY, str(error)))


def memory_error(what: str, reason: str) -> SlideMemoryError:
    """Return the error that tells that `what` cannot be read for want of memory."""
    return SlideMemoryError(
        f"{what}: no memory is left to read it ({reason}); give the process more memory or fewer "
        "threads"
    )
