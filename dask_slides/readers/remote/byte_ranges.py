"""Read local and remote files by ranges of bytes."""

from __future__ import annotations

import hashlib
import io
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol

from dask_slides.core.arguments import is_remote
from dask_slides.errors import SlideChangedError, SlideNotFoundError
from dask_slides.readers.remote.identity import Identity, identify
from dask_slides.readers.remote.object_store import fetch
from dask_slides.runtime.fork_safety import cleared_after_fork

Data = bytes | memoryview
Range = tuple[int, int]

_AHEAD = 4
"""Ranges of one call that are fetched at the same time."""
_REQUESTS = 32
"""Ranges that a process fetches at the same time, over all calls."""
_BLOCK = 2**18
"""Fewest bytes that a stream fetches at once: the tables of a TIFF lie close to each other."""
_BLOCKS = 64
"""Blocks that a stream caches."""


class ByteFile(Protocol):
    """A file that is read by ranges of bytes. Threads can share it."""

    def ranges(self, wanted: list[Range]) -> Iterator[Data]:
        """Yield the bytes of each (start, stop), fewer at the end of the file."""
        ...


def byte_file(path: str, identity: Identity) -> ByteFile:
    """Open the file at `path`."""
    return RemoteFile(path, identity) if is_remote(path) else LocalFile(path)


class LocalFile:
    """A file on this machine."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._file)

    def ranges(self, wanted: list[Range]) -> Iterator[Data]:
        """Yield the bytes of each range, which is read when the caller asks for it."""
        for start, stop in wanted:
            yield os.pread(self._file, stop - start, start)


class RemoteFile:
    """An object on a server; if it changed, reading raises SlideChangedError."""

    def __init__(self, url: str, identity: Identity) -> None:
        self._url = url
        self._facts = (identity.size, identity.mtime_ns, identity.version)

    def ranges(self, wanted: list[Range]) -> Iterator[Data]:
        """Yield the bytes of each range while the next ones are fetched."""
        waiting = iter(wanted)
        if len(wanted) == 1:  # no thread needed
            yield self.range(*next(waiting))
            return
        fetched: list[Future[memoryview]] = [
            _pool().submit(self.range, *one) for one in islice(waiting, _AHEAD)
        ]
        try:
            while fetched:
                data = fetched.pop(0).result()
                fetched += [_pool().submit(self.range, *one) for one in islice(waiting, 1)]
                yield data
        finally:
            for future in fetched:
                future.cancel()

    def range(self, start: int, stop: int) -> memoryview:
        """Return bytes [start, stop)."""
        return fetch(self._url, start, stop, self._facts)


@cleared_after_fork
@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_REQUESTS, "dask-slides-ranges")


class RangeStream(io.RawIOBase):
    """A remote object as a seekable file for one thread."""

    def __init__(self, url: str) -> None:
        identity = identify(url)
        self._file = RemoteFile(url, identity)
        self._size = identity.size
        self._position = 0
        self._blocks: OrderedDict[int, memoryview] = OrderedDict()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset` from the start, the current position or the end."""
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        )
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or less of it at the end of the file."""
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self._size)
        if stop <= start:
            return 0
        numbers = range(start // _BLOCK, -(-stop // _BLOCK))
        self._load(numbers)
        for number in numbers:
            block = self._blocks[number]
            first = number * _BLOCK
            low, high = max(start, first), min(stop, first + len(block))
            view[low - start : high - start] = block[low - first : high - first]
        while len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)
        self._position = stop
        return stop - start

    def _load(self, numbers: range) -> None:
        """Fetch the blocks that are missing, adjacent ones in one request."""
        runs: list[list[int]] = []
        for number in numbers:
            if number in self._blocks:
                self._blocks.move_to_end(number)
            elif runs and runs[-1][-1] == number - 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        ranges = [(run[0] * _BLOCK, min((run[-1] + 1) * _BLOCK, self._size)) for run in runs]
        for run, data in zip(runs, self._file.ranges(ranges), strict=True):
            for position, number in enumerate(run):
                start = position * _BLOCK
                self._blocks[number] = memoryview(data)[start : start + _BLOCK]


def stream(path: str) -> Any:
    """Open the file at `path` for reading at any position."""
    return io.BufferedReader(RangeStream(path)) if is_remote(path) else open(path, "rb")


def check_digest(path: str, sha256: str) -> Identity:
    """Read the whole file at `path`; return its identity if it has this checksum."""
    identity = identify(path)
    try:
        with stream(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SlideNotFoundError(f"{path}: {reason}; check the path") from error
    if found != sha256.strip().lower():
        raise SlideChangedError(
            f"{path}: its SHA-256 is {found} and not {sha256}; download the file again"
        )
    return identity
