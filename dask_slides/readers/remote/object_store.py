"""Read objects at s3://, gs://, az:// and http(s):// addresses by byte ranges.

obstore makes requests, repeats failed ones and gives up on servers that do not answer. This
module finds the store of an address and translates errors. Credentials come from the environment
of the process that makes a request, never from an address, so nothing that is pickled, printed or
written holds any.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from dask_slides.core.arguments import is_remote
from dask_slides.errors import (
    RemoteAccessError,
    RemoteError,
    SlideArgumentError,
    SlideChangedError,
    SlideNotFoundError,
    SlideUnsupportedError,
)
from dask_slides.runtime.fork_safety import after_fork_in_child

if TYPE_CHECKING:
    from obstore import GetOptions

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Provider:
    """A kind of bucket: obstore's class, and the environment variables that it reads."""

    store: str
    variables: str
    """First letters of the variables."""
    endpoints: tuple[str, ...]
    """Variables with the address of another server, which may be an http:// address."""


BUCKETS = {
    "s3": Provider("S3Store", "AWS_", ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")),
    "gs": Provider("GCSStore", "GOOGLE_", ("GOOGLE_BASE_URL",)),
    "az": Provider("AzureStore", "AZURE_", ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")),
}
"""Schemes of addresses that are read and written: SCHEME://BUCKET/KEY."""
SCHEMES = (*BUCKETS, "http", "https")
RETRIES = 6
"""Times that obstore repeats a request."""
WAITS = (0.1, 5.0)
"""Seconds before the first repetition, and at most. Each wait is twice as long as the last."""
TIMEOUT = 30.0
"""Seconds for one request, which transfers up to 4 MB when reading and a shard when writing."""
ATTEMPTS = 5
"""Attempts at a request that obstore does not always repeat if its answer breaks off: requests of
Zarr stores, lists, and the content of an object without an ETag."""
_REFUSED = re.compile(r"the server answers 4(?!08|29)")
"""Answers that do not change when a request is repeated."""


def checked_address(url: str, schemes: tuple[str, ...] = SCHEMES) -> str:
    """Return `url` without a slash at its end; raise if it is not supported or holds secrets."""
    parts = urlsplit(url)
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise SlideUnsupportedError(f"{bare}: this kind of address is not supported; use {known}")
    # a key of a bucket may contain "?"; in http a secret signature may follow it
    if "@" in parts.netloc or (parts.scheme not in BUCKETS and parts.query):
        raise SlideArgumentError(
            f"{bare}: an address with a password or a query would be stored in outputs; "
            "give credentials in environment variables"
        )
    if not parts.netloc:
        raise SlideArgumentError(f"{url}: the address has no bucket or host; add it")
    return url.rstrip("/")


def locate(url: str) -> tuple[Any, str]:
    """Return obstore's store for `url`, and the key of the object in it."""
    scheme, _, rest = url.partition("://")
    root, _, key = rest.partition("/")
    prefix = BUCKETS[scheme].variables if scheme in BUCKETS else "="  # which no name contains
    environment = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    if _forked:
        raise SlideUnsupportedError(
            f"{url}: this process was forked from one that had read from a server, and cannot read "
            'from servers itself; start it by "spawn", or open remote files only in the child'
        )
    store = _store(scheme, root, tuple(sorted(environment.items())))
    return store, key if scheme in BUCKETS else unquote(key)


@lru_cache(maxsize=16)
def _store(scheme: str, root: str, environment: tuple[tuple[str, str], ...]) -> Any:
    try:
        from obstore import exceptions
        from obstore import store as stores
    except ImportError:
        raise SlideUnsupportedError(
            f"{scheme}://{root}: remote slides need obstore; pip install 'dask-slides[cloud]'"
        ) from None
    options: dict[str, Any] = {
        "client_options": {"timeout": timedelta(seconds=TIMEOUT), "allow_http": scheme == "http"},
        "retry_config": {
            "max_retries": RETRIES,
            "backoff": {
                "init_backoff": timedelta(seconds=WAITS[0]),
                "max_backoff": timedelta(seconds=WAITS[1]),
            },
        },
    }
    if scheme not in BUCKETS:
        return stores.HTTPStore(f"{scheme}://{root}", **options)
    provider, given = BUCKETS[scheme], dict(environment)
    endpoint = next((given[name] for name in provider.endpoints if given.get(name)), None)
    if endpoint:
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
        if scheme == "s3":  # obstore reads the variables of the others itself
            options["endpoint"] = endpoint
    if scheme == "az" and (account := given.get("AZURE_STORAGE_ACCOUNT_NAME")):
        options["account_name"] = account  # obstore 0.12 needs it here to compare two stores
    try:
        return getattr(stores, provider.store)(root, **options)
    except exceptions.BaseError:  # its message may quote a variable
        pass
    raise RemoteAccessError(
        f"{scheme}://{root}: the credentials are incomplete; give the account and a key in "
        f"environment variables {provider.variables}*"
    )


_forked = False
"""Whether this process was forked after requests, whose threads a fork does not copy."""


def _record_fork() -> None:
    global _forked
    _forked = _forked or _store.cache_info().currsize > 0


after_fork_in_child(_record_fork)


def call_store(url: str, request: Callable[[Any, str], Answer], attempts: int = 1) -> Answer:
    """Return the result of `request`, which is called with the store and the key of `url`.

    Give `attempts` for requests that obstore does not repeat itself; see `ATTEMPTS`.
    """
    store, key = locate(url)
    for left in reversed(range(attempts)):
        try:
            with remote_errors(url):
                return request(store, key)
        except RemoteError as error:
            if not left or not can_succeed_later(error):
                raise
    raise AssertionError("unreachable")


def can_succeed_later(error: RemoteError) -> bool:
    """Return whether a request that failed with `error` is worth repeating."""
    return not _REFUSED.search(str(error))


@contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Translate errors of obstore about the object at `url`."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        # the message of obstore's error may quote the request, which may hold credentials
        raise as_remote_error(url, error) from None


def as_remote_error(url: str, error: Exception) -> Exception:
    """Return the error of dask_slides for an error of obstore about `url`."""
    from obstore import exceptions as kinds

    if isinstance(error, FileNotFoundError):
        return not_found(url)
    if isinstance(error, kinds.PreconditionError):
        return SlideChangedError(f"{url}: the object changed since it was opened; open it again")
    if isinstance(error, kinds.NotSupportedError):
        return SlideUnsupportedError(
            f"{url}: the server does not send parts of a file; download the file first"
        )
    if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError):
        return RemoteAccessError(
            f"{url}: the server denies access; give credentials in environment variables"
        )
    reason = _reason(str(error))
    if _REFUSED.search(reason):
        return RemoteError(f"{url}: {reason}; check the address and the credentials")
    return RemoteError(
        f"{url}: {reason}, also after retries; try again later, or check the server and the network"
    )


def not_found(url: str) -> SlideNotFoundError:
    """Return the error for an address without an object."""
    return SlideNotFoundError(f"{url}: the server has no such object; check the address")


def _reason(text: str) -> str:
    """Return the reason of a failed request, without the text of the server."""
    status = re.search(r"status code: (\d{3})", text)
    if status is not None:
        return f"the server answers {status.group(1)}"
    if "kind: Timeout" in text:
        return f"the server does not answer within {TIMEOUT:g} seconds"
    return "no connection to the server" if "kind: Connect" in text else "the answer breaks off"


def head(url: str) -> tuple[int, int, str]:
    """Return size, time of change in nanoseconds, and version of the object at `url`."""

    def request(store: Any, key: str) -> Any:
        import obstore

        if url.partition(":")[0] in BUCKETS:
            return obstore.head(store, key)
        # many web servers do not support HEAD, or send fewer headers with it
        return obstore.get(store, key, options={"range": (0, 1)}).meta

    return _facts(call_store(url, request))


def _facts(meta: Mapping[str, Any]) -> tuple[int, int, str]:
    changed = int(meta["last_modified"].timestamp() * 1000) * 10**6
    return meta["size"], changed, meta["e_tag"] or ""


def exists(url: str) -> bool:
    """Return whether an object exists at `url`."""
    try:
        head(url)
    except SlideNotFoundError:
        return False
    return True


def fetch(url: str, start: int, stop: int, facts: tuple[int, int, str]) -> memoryview:
    """Return bytes [start, stop) of the object at `url`, fewer at its end.

    Raises SlideChangedError unless size, time and version of the object are `facts`.
    """
    options: GetOptions = {"range": (start, stop)}
    has_tag = bool(facts[2]) and not facts[2].startswith("W/")  # a weak ETag never matches
    if has_tag:
        options["if_match"] = facts[2]

    def request(store: Any, key: str) -> tuple[tuple[int, int, str], memoryview]:
        import obstore

        result = obstore.get(store, key, options=options)
        return _facts(result.meta), memoryview(result.bytes())

    found, data = call_store(url, request, 1 if has_tag else ATTEMPTS)
    # some servers ignore conditions
    if found[0] != facts[0] or any(a != b for a, b in zip(found, facts, strict=True) if a and b):
        raise SlideChangedError(f"{url}: the object changed since it was opened; open it again")
    return data


def fetch_whole(url: str) -> bytes:
    """Return all bytes of the object at `url`."""

    def request(store: Any, key: str) -> bytes:
        import obstore

        return bytes(obstore.get(store, key).bytes())

    return call_store(url, request, ATTEMPTS)


def read_whole(path: str) -> bytes:
    """Return all bytes of a file, which may be an object at an address."""
    if is_remote(path):
        return fetch_whole(checked_address(path))
    with open(path, "rb") as stream:
        return stream.read()


def list_objects(url: str) -> Iterator[tuple[str, int]]:
    """Yield the name, relative to `url`, and the size of every object below it."""

    def request(store: Any, key: str) -> Any:
        import obstore

        return obstore.list(store, key).collect()

    _, prefix = locate(url)
    found = call_store(url, request, ATTEMPTS)
    yield from ((one["path"][len(prefix) + 1 :], one["size"]) for one in found)


def list_folder(url: str) -> tuple[list[str], list[str]]:
    """Return the names of the objects directly below `url`, and of the folders, both sorted."""

    def request(store: Any, key: str) -> Any:
        import obstore

        return obstore.list_with_delimiter(store, f"{key}/" if key else None)

    found = call_store(url, request, ATTEMPTS)
    files = [one["path"] for one in found["objects"] if one["size"]]  # an empty one marks a folder
    names = ([one.rstrip("/").rpartition("/")[2] for one in listed] for listed in
             (files, found["common_prefixes"]))  # fmt: skip
    files, folders = map(sorted, names)
    return files, folders


def zarr_store(path: str) -> Any:
    """Return a read-only store for `zarr.open` at `path`, a folder or an address."""
    if not is_remote(path):
        return path
    import zarr  # before a submodule of it, as another thread may be importing zarr

    from dask_slides.readers.remote.zarr_store import RemoteStore

    store, key = locate(path)
    return zarr.storage.StorePath(RemoteStore(store, path), key)


def open_array(path: str) -> Any:
    """Open the Zarr array at `path`, a folder or an address, for reading."""
    import zarr

    from dask_slides.readers.codecs.zarr_codecs import register

    register()  # the codecs of copied tiles
    return zarr.open_array(zarr_store(path), mode="r")


def open_group(path: str, consolidated: bool | None = None) -> Any:
    """Open the Zarr group at `path`, a folder or an address, for reading.

    Copies of the metadata of arrays in the root are used if there are any, unless `consolidated`
    is False.
    """
    import zarr

    from dask_slides.readers.codecs.zarr_codecs import register

    register()  # the codecs of copied tiles
    return zarr.open_group(zarr_store(path), mode="r", use_consolidated=consolidated)
