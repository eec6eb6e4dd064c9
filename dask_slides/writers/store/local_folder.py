"""A store in a folder: written under a hidden name beside it, then renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dask_slides.errors import OutputBusyError, OutputExistsError
from dask_slides.runtime import fork_safety
from dask_slides.runtime.write_permission import check_parent, check_writable
from dask_slides.writers.store.checksum import ALGORITHM, checksum_of_file
from dask_slides.writers.store.disk_space import disk_errors
from dask_slides.writers.store.location import JOURNAL, KEY, LOCK, Content, Data, Location, parts_of

_WRITE_BYTES = 2**20
"""Bytes per call of the system to write a file."""
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that cannot flush a file, such as some of FUSE."""
_NO_FOLDER_FLUSH = (*_NO_FLUSH, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""Errors of file systems that cannot flush a folder: SMB, shared folders of virtual machines, and
Windows, which does not open folders."""


@dataclass(frozen=True)
class LocalFolder(Location):
    """A folder of a disk."""

    path: str

    def _path_of(self, file: str) -> str:
        return os.path.join(self.path, file)

    def read(self, file: str) -> bytes:
        """Return the bytes of `file`; FileNotFoundError if there is none."""
        with open(self._path_of(file), "rb") as stream:
            return stream.read()

    def write(self, file: str, data: Content, flush: bool = True) -> None:
        """Write `file` under another name, then rename it."""
        path = self._path_of(file)
        if os.path.isdir(self.path):  # a task that ends late must not create the store again
            os.makedirs(os.path.dirname(path), exist_ok=True)
        write_whole(path, data, flush)

    def flush(self, files: Iterable[str]) -> None:
        """Wait until `files` are on the disk."""
        for file in files:
            flush_file(self._path_of(file))

    def measure(self, file: str, algorithm: str = ALGORITHM) -> tuple[int, str]:
        """Return the size and the checksum of `file`."""
        with open(self._path_of(file), "rb") as stream:
            checksum = checksum_of_file(stream, algorithm)
            return stream.tell(), checksum

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every file."""
        for folder, _, names in os.walk(self.path):
            inside = os.path.relpath(folder, self.path).replace(os.sep, "/")
            for name in names:
                with suppress(FileNotFoundError):  # a temporary file that was just renamed
                    size = os.path.getsize(os.path.join(folder, name))
                    yield name if inside == "." else f"{inside}/{name}", size

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in `folder`; none if there is no such folder."""
        try:
            return [f"{folder}/{name}" for name in os.listdir(self._path_of(folder))]
        except FileNotFoundError:
            return []

    def remove(self, files: Iterable[str]) -> None:
        """Delete `files`; missing ones are ignored."""
        for file in files:
            with suppress(FileNotFoundError):
                os.unlink(self._path_of(file))

    def remove_folder(self, folder: str) -> None:
        """Delete all files of `folder`, if there is one."""
        shutil.rmtree(self._path_of(folder), ignore_errors=True)

    def clear(self) -> None:
        """Delete everything except `KEY` and `LOCK`, first the records of finished tasks."""
        self.remove_folder(JOURNAL)
        for entry in os.scandir(self.path):
            if entry.name in (KEY, LOCK):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def delete(self) -> None:
        """Delete the folder of an unfinished store."""
        shutil.rmtree(self.path, ignore_errors=True)

    def check_parent(self) -> None:
        """Raise unless the folder around this one is there and can be written to."""
        check_parent(self.path)
        check_writable(self.path)

    def is_occupied(self) -> bool:
        """Return whether anything has this name; unfinished stores have other names."""
        return os.path.lexists(self.path)

    def write_errors(self, nbytes: int) -> AbstractContextManager[None]:
        """Translate errors about disk space and permissions."""
        return disk_errors(self.path, nbytes)

    def staging(self, key: Mapping[str, Any], overwrite: bool) -> LocalFolder:
        """Return a hidden folder beside this one.

        Each key has its own folder. A cluster may still run tasks of a failed call; they cannot
        write into the store of another key.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        parent, name = os.path.split(self.path)
        return LocalFolder(os.path.join(parent, f".{name}.{digest}.partial"))

    def unfinished(self) -> Sequence[LocalFolder]:
        """Return the hidden folders of all keys."""
        parent, name = map(glob.escape, os.path.split(self.path))
        found = glob.glob(os.path.join(parent, f".{name}.*.partial"))
        return [LocalFolder(path) for path in sorted(found)]

    @contextmanager
    def claim(self, staging: LocalFolder, resume: bool) -> Iterator[Callable[[], bool]]:
        """Lock the hidden folder; no other process can take over this lock."""
        with locked(staging.path, self.path):
            yield lambda: True

    def discard(self, other: LocalFolder) -> None:
        """Delete the hidden folder `other` unless another process writes to it."""
        with suppress(OutputBusyError), locked(other.path, self.path):
            other.delete()

    def recover(self, staging: LocalFolder) -> None:
        """Rename the old store back, or delete it if the new one has its name already."""
        old = _old_path(staging)
        if os.path.lexists(old):
            if os.path.lexists(self.path):
                shutil.rmtree(old)
            else:
                os.rename(old, self.path)

    def publish(
        self, staging: LocalFolder, root: Mapping[str, Data], check: Callable[[], None]
    ) -> None:
        """Rename the hidden folder; folders are flushed to the disk before and after.

        The lock moves with it: another process that locks the hidden name creates a new folder.
        """
        for file, data in root.items():
            staging.write(file, data)
        for folder, _, _ in os.walk(staging.path):
            flush_folder(folder)
        check()
        self._rename(staging)
        flush_folder(os.path.dirname(self.path))
        for name in (KEY, LOCK):
            with suppress(FileNotFoundError):
                os.unlink(self._path_of(name))
        self.remove_folder(JOURNAL)
        old = _old_path(staging)
        if os.path.lexists(old):
            shutil.rmtree(old)

    def _rename(self, staging: LocalFolder) -> None:
        old = _old_path(staging)
        if os.path.lexists(self.path):
            os.rename(self.path, old)
        try:
            os.rename(staging.path, self.path)
        except OSError as error:
            if os.path.lexists(old):
                os.rename(old, self.path)
                raise
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise OutputExistsError(f"{self.path}: already exists; choose another name") from error


def _old_path(staging: LocalFolder) -> str:
    """Return the name of the old store while it is replaced."""
    return f"{staging.path}.old"


@contextmanager
def locked(folder: str, path: str) -> Iterator[None]:
    """Hold the lock of `folder`, where `path` is written.

    Raises OutputBusyError if another process holds it. The system releases it when this process
    ends, even if forked processes still run.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two writers at a time are not detected
        os.makedirs(folder, exist_ok=True)
        yield
        return
    while True:
        try:
            os.makedirs(folder, exist_ok=True)
            file = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
            handle = fork_safety.closed_after_fork(file)
        except FileNotFoundError:  # the folder was renamed or deleted at this moment
            continue
        except OSError:
            with suppress(OSError):  # fails unless the folder is empty
                os.rmdir(folder)
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fork_safety.close(handle)
            raise OutputBusyError(
                f"{path}: another process is writing it; wait for that process, or stop it"
            ) from None
        except OSError:  # a file system without locks
            pass
        if _is_same_file(handle, os.path.join(folder, LOCK)):
            break
        fork_safety.close(handle)
    try:
        yield
    finally:
        fork_safety.close(handle)


def _is_same_file(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def write_whole(path: str, data: Content, flush: bool = True) -> None:
    """Write a file that appears under its name only when it is complete; flush it if `flush`."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with open(partial, "wb", buffering=_WRITE_BYTES) as stream:
            stream.writelines(parts_of(data))
            stream.flush()
            if flush:
                _flush(stream.fileno())
            elif hasattr(os, "posix_fadvise"):
                # starts to write to the disk, so that a later flush is short
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


def flush_file(path: str) -> None:
    """Flush a file to the disk, where the file system can."""
    # Windows flushes only files that are open for writing
    with open(path, "r+b") as stream:
        _flush(stream.fileno())


def _flush(handle: int) -> None:
    """Flush a file to the disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


def flush_folder(path: str) -> None:
    """Flush the names in a folder to the disk, where the file system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
