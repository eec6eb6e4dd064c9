"""Objects of another machine: s3:// and http(s):// addresses, asked for by byte ranges.

obstore does the requests, and lets go of a server that says nothing. Here is which store an
address means, how often a request is made again, and what each way of failing is called. Every one
that is made is one that may be made twice. Credentials come from the environment of the
process that asks, never from an address, so nothing that is pickled, printed or written holds any.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

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

SCHEMES = ("s3", "http", "https")
RETRIES = 6
"""Times that a request is repeated at the most."""
WAITS = (0.1, 5.0)
"""Seconds before the first and the last of them; each wait is twice the one before."""
TIMEOUT = 30.0
"""Seconds that one request may take; the largest are of 4 MB when reading, a shard when writing."""
_NO_HEAD = re.compile(r"status code: (400|403|405|501)|Content-Length Header missing")
"""Answers to HEAD of servers that do not know of it, or allow GET alone."""
_REFUSED = re.compile(r"the server answers 4(?!08|29)")
"""Answers that do not change when the same is asked again."""


def is_remote(path: str) -> bool:
    """Return whether `path` is an address and not a path of this machine."""
    return "://" in path


def checked_address(url: str, schemes: tuple[str, ...] = SCHEMES) -> str:
    """Return `url` without a slash at its end, or raise: what is not read, what holds secrets."""
    parts = urlsplit(url)
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise SlideUnsupportedError(f"{bare}: addresses of this kind are not taken; use {known}")
    # of s3 a key may hold "?"; of http what follows it may be a signature, which is a secret
    if "@" in parts.netloc or (parts.scheme != "s3" and parts.query):
        raise SlideArgumentError(
            f"{bare}: an address with a password or a query would be written into records; "
            "give credentials by the environment"
        )
    if not parts.netloc:
        raise SlideArgumentError(f"{url}: the address names no bucket or host; give one")
    return url.rstrip("/")


def locate(url: str) -> tuple[Any, str]:
    """Return the store of obstore that holds `url`, and its key there."""
    scheme, _, rest = url.partition("://")
    root, _, key = rest.partition("/")
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if _cut_off:
        raise SlideUnsupportedError(
            f"{url}: this process was made by fork from one that had read from a server, and gets "
            'no answers; make it by "spawn", or open what is remote only in the child'
        )
    store = _store(scheme, root, tuple(sorted(environment.items())))
    return store, key if scheme == "s3" else unquote(key)


@lru_cache(maxsize=16)
def _store(scheme: str, root: str, environment: tuple[tuple[str, str], ...]) -> Any:
    try:
        from obstore.store import HTTPStore, S3Store
    except ImportError:
        raise SlideUnsupportedError(
            f"{scheme}://{root}: remote slides need obstore; pip install 'dask-slides[cloud]'"
        ) from None
    options: dict[str, Any] = {
        "client_options": {"timeout": timedelta(seconds=TIMEOUT), "allow_http": scheme == "http"},
        "retry_config": {"max_retries": 0},  # it does not repeat all that fails
    }
    if scheme != "s3":
        return HTTPStore(f"{scheme}://{root}", **options)
    given = dict(environment)
    endpoint = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL")
    if endpoint:
        options["endpoint"] = endpoint
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    return S3Store(root, **options)


_cut_off = False
"""Whether the threads that would answer a request of this process were left behind by a fork."""


def _left_behind() -> None:
    global _cut_off
    _cut_off = _cut_off or _store.cache_info().currsize > 0


after_fork_in_child(_left_behind)


def call_store(url: str, request: Callable[[Any, str], Answer]) -> Answer:
    """Return what `request` of store and key gives, or raise an error of ours.

    It is made again as long as it fails for a reason that may pass.
    """
    store, key = locate(url)
    from obstore.exceptions import BaseError

    for done in itertools.count():
        try:
            return request(store, key)
        except (BaseError, FileNotFoundError) as error:
            failure = as_remote_error(url, error)
        # out of the block: the message of obstore's error may quote what the server was sent
        time.sleep(pause(failure, done))
    raise AssertionError("unreachable")


def pause(failure: Exception, done: int) -> float:
    """Return how long to wait before a request is made again, or raise why it is not.

    `done` says how often it was made again already.
    """
    refused = _REFUSED.search(str(failure))
    if done >= RETRIES or refused is not None or not isinstance(failure, RemoteError):
        raise failure
    longest: float = min(WAITS[1], WAITS[0] * 2**done)
    return longest * random.uniform(0.5, 1)


def as_remote_error(url: str, error: Exception) -> Exception:
    """Return the error of ours that says what went wrong with `url`."""
    from obstore import exceptions as kinds

    if isinstance(error, FileNotFoundError):
        return SlideNotFoundError(f"{url}: the server has no such object; check the address")
    if isinstance(error, kinds.PreconditionError):
        return SlideChangedError(f"{url}: the object changed since it was opened; open it again")
    if isinstance(error, kinds.NotSupportedError):
        return SlideUnsupportedError(
            f"{url}: the server sends no parts of a file; fetch the file first"
        )
    if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError):
        return RemoteAccessError(
            f"{url}: the server does not allow it; give credentials that do by the environment"
        )
    reason = _reason(str(error))
    if _REFUSED.search(reason):
        return RemoteError(f"{url}: {reason}; check the address and the credentials")
    return RemoteError(
        f"{url}: {reason}, however often it was asked; "
        "try again later, or see to the server and the network"
    )


def _reason(text: str) -> str:
    """Return why a request failed, in words of ours: a server's may hold anything."""
    status = re.search(r"status code: (\d{3})", text)
    if status is not None:
        return f"the server answers {status.group(1)}"
    if "kind: Timeout" in text:
        return f"the server says nothing for {TIMEOUT:g} seconds"
    return "no connection to the server" if "kind: Connect" in text else "the answer breaks off"


def head(url: str) -> tuple[int, int, str]:
    """Return bytes, time of change in nanoseconds, and version of the object at `url`."""

    def request(store: Any, key: str) -> Any:
        import obstore
        from obstore.exceptions import BaseError

        try:
            return obstore.head(store, key)
        except (BaseError, FileNotFoundError) as error:  # obstore calls 405 "not found"
            if url.startswith("s3:") or not _NO_HEAD.search(str(error)):
                raise
        return obstore.get(store, key, options={"range": (0, 1)}).meta

    return _facts(call_store(url, request))


def _facts(meta: Mapping[str, Any]) -> tuple[int, int, str]:
    changed = int(meta["last_modified"].timestamp() * 1000) * 10**6
    return meta["size"], changed, meta["e_tag"] or ""


def exists(url: str) -> bool:
    """Return whether there is an object at `url`."""
    try:
        head(url)
    except SlideNotFoundError:
        return False
    return True


def fetch(url: str, start: int, stop: int, facts: tuple[int, int, str]) -> memoryview:
    """Return bytes [start, stop) of the object at `url`, as far as there are.

    Raises SlideChangedError unless it is the one that `facts` tell of.
    """
    options: GetOptions = {"range": (start, stop)}
    if facts[2] and not facts[2].startswith("W/"):  # a weak one never matches
        options["if_match"] = facts[2]

    def request(store: Any, key: str) -> tuple[tuple[int, int, str], memoryview]:
        import obstore

        result = obstore.get(store, key, options=options)
        return _facts(result.meta), memoryview(result.bytes())

    found, data = call_store(url, request)
    # not every server knows of conditions, or tells as much of HEAD as of GET
    if found[0] != facts[0] or any(a != b for a, b in zip(found, facts, strict=True) if a and b):
        raise SlideChangedError(f"{url}: the object changed since it was opened; open it again")
    return data


def fetch_whole(url: str) -> bytes:
    """Return all bytes of the object at `url`."""

    def request(store: Any, key: str) -> bytes:
        import obstore

        return bytes(obstore.get(store, key).bytes())

    return call_store(url, request)


def list_objects(url: str) -> Iterator[tuple[str, int]]:
    """Yield name below `url`, and bytes, of every object there."""

    def request(store: Any, key: str) -> Any:
        import obstore

        return obstore.list(store, key).collect()

    _, prefix = locate(url)
    found = call_store(url, request)
    yield from ((one["path"][len(prefix) + 1 :], one["size"]) for one in found)


def zarr_store(path: str) -> Any:
    """Return what Zarr opens to read the store at `path`, a folder or an address."""
    if not is_remote(path):
        return path
    import zarr  # whole, before a part of it: another thread may be importing it

    from dask_slides.readers.remote.zarr_store import AskedStore

    store, key = locate(path)
    return zarr.storage.StorePath(AskedStore(store, path), key)


def open_group(path: str) -> Any:
    """Open the Zarr group at `path`, a folder or an address, to read it."""
    import zarr

    return zarr.open_group(zarr_store(path), mode="r")
