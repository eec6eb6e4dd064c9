"""Zarr's way to the objects of another machine, with requests that are made again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from zarr.storage import ObjectStore, WrapperStore

from dask_slides.readers.remote.object_store import as_remote_error, pause

Answer = TypeVar("Answer")


class AskedStore(WrapperStore):  # type: ignore[misc]
    """Reads what lies at an address; an error is one of ours."""

    def __init__(self, store: Any, url: str) -> None:
        super().__init__(ObjectStore(store, read_only=True))
        self._url = url

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the bytes of an object, or a range of them; None without it."""
        return await self._asked(lambda: self._store.get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]
    ) -> Any:
        """Return many ranges."""
        wanted = list(key_ranges)
        return await self._asked(lambda: self._store.get_partial_values(prototype, wanted))

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return bool(await self._asked(lambda: self._store.exists(key)))

    async def _asked(self, request: Callable[[], Awaitable[Answer]]) -> Answer:
        from obstore.exceptions import BaseError

        for done in itertools.count():
            try:
                return await request()
            except BaseError as error:
                failure = as_remote_error(self._url, error)
            await asyncio.sleep(pause(failure, done))
        raise AssertionError("unreachable")
