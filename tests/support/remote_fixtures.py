"""A bucket with a proxy in front of it, for one module of tests."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import servers

from dask_slides.readers.remote import object_store


@dataclass
class Bucket:
    """A bucket whose every request passes a proxy."""

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
        """Return name and bytes of every object below `prefix`, the hidden ones too."""
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
    """The bucket, nothing counted and nothing wrong yet; retries without long waits."""
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
