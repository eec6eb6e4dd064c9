"""A Zarr store of remote objects that raises the errors of dask_slides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from zarr.storage import ObjectStore, WrapperStore

from dask_slides.errors import RemoteError
from dask_slides.readers.remote.object_store import ATTEMPTS, can_succeed_later, remote_errors

Answer = TypeVar("Answer")


class RemoteStore(WrapperStore):  # type: ignore[misc]
    """Read objects, repeat requests whose answer breaks off, and translate errors of obstore."""

    def __init__(self, store: Any, url: str) -> None:
        super().__init__(ObjectStore(store, read_only=True))
        self._url = url

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the bytes of an object, or a range of them; None if there is none."""
        return await self._repeat(lambda: self._store.get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]
    ) -> Any:
        """Return several byte ranges of objects."""
        ranges = list(key_ranges)
        return await self._repeat(lambda: self._store.get_partial_values(prototype, ranges))

    async def exists(self, key: str) -> bool:
        """Return whether the object exists."""
        return bool(await self._repeat(lambda: self._store.exists(key)))

    async def _repeat(self, request: Callable[[], Awaitable[Answer]]) -> Answer:
        for left in reversed(range(ATTEMPTS)):
            try:
                with remote_errors(self._url):
                    return await request()
            except RemoteError as error:
                if not left or not can_succeed_later(error):
                    raise
        raise AssertionError("unreachable")
