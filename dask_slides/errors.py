"""What can go wrong, each kind also a builtin, each message one line: slide, cause, cure."""

from __future__ import annotations


class SlideError(Exception):
    """Base of every error that dask_slides raises on purpose."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The path holds nothing."""


class SlideFormatError(SlideError, ValueError):
    """The file or store is not an image that can be read, or contradicts itself."""


class SlideUnsupportedError(SlideError, NotImplementedError):
    """The image is legal, but of a kind that is not read (codec, colour space, axes)."""


class SlideArgumentError(SlideError, ValueError):
    """An argument is wrong, or two of them exclude each other."""


class SlideMppError(SlideArgumentError):
    """Micrometres per pixel are asked for, and neither file nor caller gives them."""


class SlideChangedError(SlideError, OSError):
    """The file is not the one that was opened: its size or time of change differs."""


class RemoteError(SlideError, ConnectionError):
    """The server of a remote slide or store does not answer right, however often it is asked."""


class RemoteAccessError(SlideError, PermissionError):
    """The server of a remote slide or store does not allow what is asked."""


class TileDecodeError(SlideError, OSError):
    """Pixels of the slide could not be read or decoded."""


class OutputExistsError(SlideError, FileExistsError):
    """The output path is taken."""


class SlideMemoryError(SlideError, RuntimeError):
    """A task would need more memory than a thread of a worker has.

    Not a MemoryError: Python keeps those in a store of its own and makes no subclass of two
    kinds safely.
    """


class OutputBusyError(SlideError, BlockingIOError):
    """Another process is writing to the output path."""


class ResumeError(SlideError, ValueError):
    """What was begun at the output path is not what is asked for now."""


class StoreDamagedError(SlideError, OSError):
    """A store is not as it was written: a file is missing, was added, or has changed."""


class BlankSlideError(SlideError, ValueError):
    """Every cell of the slide is blank, so there is nothing to write."""


class BlankSlideWarning(UserWarning):
    """Every cell of the slide is blank: the result holds no pixel, tile or crop."""
