"""Fixtures: a bucket behind a proxy, and targets of writes in folders and buckets."""

import itertools
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import durable_work
import pytest
import servers

from dask_slides.readers.remote import object_store


@dataclass
class Bucket:
    """A bucket behind a proxy, which counts requests and injects faults."""

    address: str
    client: Any
    traffic: servers.Traffic
    faults: servers.Faults

    @property
    def environment(self):
        return servers.environment(self.address)

    def put(self, path, key):
        """Put a file, or the files of a folder, into the bucket; return its address."""
        path = Path(path)
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                name = key if file == path else f"{key}/{file.relative_to(path)}"
                self.client.put_object(Bucket=servers.BUCKET, Key=name, Body=file.read_bytes())
        return f"s3://{servers.BUCKET}/{key}"

    def contents(self, prefix):
        """Return names and bytes of all objects below `prefix`, including hidden ones."""
        found = {}
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=servers.BUCKET, Prefix=f"{prefix}/"):
            for one in page.get("Contents", []):
                body = self.client.get_object(Bucket=servers.BUCKET, Key=one["Key"])["Body"]
                with body:
                    found[one["Key"][len(prefix) + 1 :]] = body.read()
        return found


@pytest.fixture(scope="session")
def served_bucket():
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    with ExitStack() as stack:
        address, client = stack.enter_context(servers.bucket_server())
        through, traffic, faults = stack.enter_context(servers.proxy(address))
        yield Bucket(through, client, traffic, faults)


@pytest.fixture
def bucket(served_bucket, monkeypatch):
    """Return the bucket without counts and faults, and with short waits before retries."""
    for name, value in served_bucket.environment.items():
        monkeypatch.setenv(name, value)
    quick(monkeypatch)
    served_bucket.traffic.requests.clear()
    served_bucket.traffic.injected.clear()
    served_bucket.faults.stop()
    yield served_bucket
    served_bucket.faults.stop()


@pytest.fixture
def quick_retries(monkeypatch):
    quick(monkeypatch)


def quick(monkeypatch):
    monkeypatch.setattr(object_store, "WAITS", (0.01, 0.05))
    monkeypatch.setattr(object_store, "TIMEOUT", 2.0)
    object_store._store.cache_clear()


class FolderTarget:
    """A path to write stores to, in a folder of its own."""

    environment: ClassVar = {}

    def __init__(self, folder):
        folder.mkdir()
        self.path = str(folder / "a.zarr")

    def contents(self):
        """Return the files of the store by name."""
        return durable_work.contents(self.path)

    def hidden(self):
        """Return the names of temporary files that a write has left."""
        left = [one.name for one in Path(self.path).parent.iterdir() if one.name != "a.zarr"]
        own = (one.name for one in Path(self.path).glob(".*"))
        return left + [name for name in own if durable_work.is_hidden(name)]

    def recorded(self):
        """Return how many tasks are recorded as done."""
        return len(list(Path(self.path).parent.glob(".*.partial/.journal/*.json")))

    def put(self, file, data):
        """Write a file of the store, or delete it."""
        path = Path(self.path, file)
        if data is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


class BucketTarget:
    """An address to write stores to."""

    def __init__(self, bucket, name):
        self.bucket, self.name = bucket, name
        self.path = f"s3://{servers.BUCKET}/{name}"
        self.environment = bucket.environment

    def contents(self):
        """Return the objects of the store by name."""
        found = self.bucket.contents(self.name)
        return {name: found[name] for name in found if not durable_work.is_hidden(name)}

    def hidden(self):
        """Return the names of temporary files that a write has left."""
        own = filter(durable_work.is_hidden, self.bucket.contents(self.name))
        return [*self.bucket.contents(f".{self.name}.partial"), *own]

    def recorded(self):
        """Return how many tasks are recorded as done."""
        return len([name for name in self.hidden() if name.startswith(".journal/")])

    def put(self, file, data):
        """Write an object of the store, or delete it."""
        key = {"Bucket": servers.BUCKET, "Key": f"{self.name}/{file}"}
        if data is None:
            self.bucket.client.delete_object(**key)
        else:
            self.bucket.client.put_object(**key, Body=data)


_numbers = itertools.count()


@pytest.fixture(params=["folder", "bucket"])
def new_target(request, tmp_path):
    """Return a function that returns a free path or a free address in a bucket."""
    if request.param == "folder":
        return lambda: FolderTarget(tmp_path / f"target{next(_numbers)}")
    bucket = request.getfixturevalue("bucket")
    return lambda: BucketTarget(bucket, f"target{next(_numbers)}.zarr")


@pytest.fixture
def target(new_target):
    """Return a free path or a free address in a bucket."""
    return new_target()
