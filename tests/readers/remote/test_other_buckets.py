"""gs:// and az:// addresses: how the stores are built, and emulators of the servers if there are.

The emulators are programs that pip does not install for us: ``azurite-blob`` of npm, and
``fake-gcs-server``, which does not know the requests that write. They are looked for on the PATH.
"""

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import tifffile
from rw_fixtures import one_line, tissue

import dask_slides as ds
from dask_slides.readers.remote.object_store import locate
from dask_slides.writers.store.bucket import Bucket

pytest.importorskip("obstore")

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account and key that the documentation of Azurite publishes."""
IMAGE = tissue(900, 700)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)


def test_stores_of_google(monkeypatch):
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    store, key = locate("gs://slides/a b/c%20d?.tif")
    assert (type(store).__name__, key) == ("GCSStore", "a b/c%20d?.tif")
    assert store.config["bucket"] == "slides"
    assert store.client_options["allow_http"] == "false"
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:1")
    other, _ = locate("gs://slides/a.tif")
    assert other is not store
    assert other.client_options["allow_http"] == "true"


def test_stores_of_azure(monkeypatch):
    with pytest.raises(ds.errors.RemoteAccessError, match="AZURE_") as error:
        ds.open_slide("az://slides/a.tif")
    assert "az://slides" in one_line(error)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    store, key = locate("az://slides/a/b.tif")
    assert (type(store).__name__, key) == ("AzureStore", "a/b.tif")
    assert store.config["container_name"] == "slides"
    assert store == locate("az://slides/c.tif")[0]
    assert ACCOUNT in repr(store)
    assert store.client_options["allow_http"] == "false"
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:1/{ACCOUNT}")
    assert locate("az://slides/a.tif")[0].client_options["allow_http"] == "true"


def test_a_secret_of_azure_is_not_shown(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "not base64, hidden-word")
    with pytest.raises(ds.errors.RemoteAccessError) as error:
        ds.open_slide("az://slides/a.tif")
    assert "hidden-word" not in one_line(error)


# ---------------------------------------------------------------- emulators


@contextmanager
def emulator(program, *arguments):
    """Start a server on a free port, which {port} stands for; yield the address."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program} on the PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [found, *(one.format(port=port) for one in arguments)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **silent) as process:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the emulator does not answer")


@pytest.fixture
def azure(monkeypatch):
    arguments = ("--silent", "--inMemoryPersistence", "--skipApiVersionCheck",
                 "--blobPort", "{port}")  # fmt: skip
    with emulator("azurite-blob", *arguments) as address:
        _create_container(f"{address}/{ACCOUNT}/slides?restype=container")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{address}/{ACCOUNT}")
        yield "az://slides"


def _create_container(url):
    """Send a request that is signed with the key of the account."""
    headers = {
        "x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "x-ms-version": "2021-08-06",
    }
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    signed = f"PUT{chr(10) * 12}{lines}/{ACCOUNT}/{ACCOUNT}/slides\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    headers["Content-Length"] = "0"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()


def test_stores_on_azure(azure):
    """Written, read, verified, replaced and locked; Azurite is the server."""
    pixels = ds.from_dask(IMAGE)
    for name, options in (("a", {}), ("b", {"ome_zarr": "0.4"}), ("c", {"shards": False})):
        path = ds.write(pixels, f"{azure}/{name}.ome.zarr", **options)
        np.testing.assert_array_equal(ds.open_slide(path).data.compute(), IMAGE)
        ds.verify(path)
    with pytest.raises(ds.errors.OutputExistsError):
        ds.write(pixels, path)
    ds.write(ds.from_dask(IMAGE[:300]), path, overwrite=True)
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(), IMAGE[:300])
    ds.verify(path)
    pack = ds.pack_tiles(pixels, tile_size=64, detector=ds.Contrast(0.35))
    found = ds.open_pack(ds.write(pack, f"{azure}/p.tiles.zarr"))
    np.testing.assert_array_equal(found.tiles.compute(), pack.tiles.compute())
    bucket = Bucket(f"{azure}/lock.zarr")
    assert bucket.create_lock(b"one")
    assert not bucket.create_lock(b"two")
    content, version = bucket.read_lock()
    assert content == b"one"
    assert bucket.create_lock(b"three", instead_of=version)
    assert not bucket.create_lock(b"four", instead_of=version)


def test_a_slide_and_stores_on_google(monkeypatch, tmp_path):
    """Read only."""
    tifffile.imwrite(tmp_path / "s.tif", IMAGE, tile=(64, 64), photometric="rgb")
    ds.write(ds.from_dask(IMAGE), tmp_path / "a.ome.zarr")
    arguments = ("-scheme", "http", "-host", "127.0.0.1", "-port", "{port}", "-backend", "memory",
                 "-public-host", "127.0.0.1:{port}")  # fmt: skip
    with emulator("fake-gcs-server", *arguments) as address:
        post(f"{address}/storage/v1/b?project=p", b'{"name":"slides"}', "application/json")
        for file in filter(Path.is_file, tmp_path.rglob("*")):
            name = quote(str(file.relative_to(tmp_path)), safe="")
            where = f"{address}/upload/storage/v1/b/slides/o?uploadType=media&name={name}"
            post(where, file.read_bytes(), "application/octet-stream")
        monkeypatch.setenv("GOOGLE_BASE_URL", address)
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        for name in ("s.tif", "a.ome.zarr"):
            slide = ds.open_slide(f"gs://slides/{name}")
            np.testing.assert_array_equal(slide.data.compute(), IMAGE)
        assert ds.verify("gs://slides/a.ome.zarr").files > 3
        with pytest.raises(ds.errors.SlideNotFoundError):
            ds.open_slide("gs://slides/nothing.tif")


def post(url, data, kind):
    request = urllib.request.Request(url, data=data, method="POST", headers={"Content-Type": kind})
    urllib.request.urlopen(request).close()
