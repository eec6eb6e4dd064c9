"""A Zarr store of remote objects that raises the errors of dask_slides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zarr.storage import ObjectStore, WrapperStore

from dask_slides.readers.remote.object_store import remote_errors


class RemoteStore(WrapperStore):  # type: ignore[misc]
    """Read objects, and translate errors of obstore."""

    def __init__(self, store: Any, url: str) -> None:
        super().__init__(ObjectStore(store, read_only=True))
        self._url = url

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the bytes of an object, or a range of them; None if there is none."""
        with remote_errors(self._url):
            return await self._store.get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]
    ) -> Any:
        """Return several byte ranges of objects."""
        with remote_errors(self._url):
            return await self._store.get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        """Return whether the object exists."""
        with remote_errors(self._url):
            return bool(await self._store.exists(key))
