"""The location of a store: a folder of a disk, or a prefix of a bucket."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from dask_slides.core.arguments import is_remote
from dask_slides.writers.store.attributes import read_own_attributes
from dask_slides.writers.store.checksum import ALGORITHM

Data = bytes | memoryview
Content = Data | Sequence[Data]
"""The bytes of a file, or parts of them that follow one another."""

JOURNAL = ".journal"
"""Folder of the records of finished tasks, in an unfinished store."""
LOCK = ".lock"
"""Lock of the process that writes a store."""
KEY = ".key.json"
"""File that describes an unfinished store, to compare it when it is resumed."""
ROOT = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
"""Metadata files of the root group. Zarr opens no group without the first (v3) or second (v2)."""


def parts_of(data: Content) -> Sequence[Data]:
    """Return the parts of the bytes of a file."""
    return [data] if isinstance(data, Data) else data


class Location(ABC):
    """The files of one store, and how a writer claims and publishes it.

    Names of files are relative to the store, with slashes.
    """

    path: str
    """The absolute path or the address."""

    @abstractmethod
    def read(self, file: str) -> bytes:
        """Return the bytes of `file`; FileNotFoundError if there is none."""

    @abstractmethod
    def write(self, file: str, data: Content, flush: bool = True) -> None:
        """Write `file` whole or not at all; without `flush` it may not be on the disk yet."""

    @abstractmethod
    def flush(self, files: Iterable[str]) -> None:
        """Wait until `files` are on the disk."""

    @abstractmethod
    def measure(self, file: str, algorithm: str = ALGORITHM) -> tuple[int, str]:
        """Return the size and the checksum of `file`."""

    @abstractmethod
    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every file."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names of the files in `folder`; none if there is no such folder."""

    @abstractmethod
    def remove(self, files: Iterable[str]) -> None:
        """Delete `files`; missing ones are ignored."""

    @abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Delete all files of `folder`, if there is one."""

    @abstractmethod
    def clear(self) -> None:
        """Delete everything except `KEY` and `LOCK`, first the records of finished tasks."""

    @abstractmethod
    def delete(self) -> None:
        """Delete an unfinished store."""

    def check_parent(self) -> None:  # noqa: B027
        """Raise unless a store can be created here."""

    @abstractmethod
    def is_occupied(self) -> bool:
        """Return whether anything but an unfinished store of dask_slides is here."""

    def is_own(self) -> bool:
        """Return whether what is here may be overwritten: a store that dask_slides wrote."""
        return not os.path.islink(self.path) and read_own_attributes(self.path) is not None

    def write_errors(self, nbytes: int) -> AbstractContextManager[None]:
        """Translate errors of writing `nbytes` before compression."""
        return nullcontext()

    @abstractmethod
    def staging(self, key: Mapping[str, Any], overwrite: bool) -> Self:
        """Return the location where the store of `key` is written until it is published here."""

    @abstractmethod
    def unfinished(self) -> Sequence[Self]:
        """Return the locations of unfinished stores that may have been begun for this one."""

    @abstractmethod
    def claim(self, staging: Self, resume: bool) -> AbstractContextManager[Callable[[], bool]]:
        """Exclude other writers; yield a function that returns whether they are still excluded.

        Raises OutputBusyError if another process writes the store.
        """

    def discard(self, other: Self) -> None:
        """Delete the unfinished store `other` unless another process writes to it."""
        other.delete()

    def recover(self, staging: Self) -> None:  # noqa: B027
        """Finish or undo a publication that was killed."""

    @abstractmethod
    def publish(self, staging: Self, root: Mapping[str, Data], check: Callable[[], None]) -> None:
        """Make the store at `staging` appear here, in place of an old one.

        `root` are the metadata files of the root group in the order to write them; `check` raises
        if another process has written here meanwhile.
        """

    def must_keep(self, staging: Self) -> bool:
        """Return whether deleting `staging` would delete more than an unfinished store."""
        return False


def location_of(path: str) -> Location:
    """Return the location of the store at a path or an address."""
    if is_remote(path):
        from dask_slides.writers.store.bucket import Bucket

        return Bucket(path)
    from dask_slides.writers.store.local_folder import LocalFolder

    return LocalFolder(path)
