"""`verify` finds all damage, and reports nothing else as damage."""

import hashlib
import itertools
import json
import random

import durable_work as work
import numpy as np
import pytest
import zarr

import dask_slides as ds
from dask_slides.writers.store.checksum import checksum_of
from dask_slides.writers.store.location import location_of
from dask_slides.writers.store.manifest import write_file

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return work.slide_file(tmp_path_factory.mktemp("verify") / "s.tif")


def test_files_and_shards_are_counted(tmp_path):
    image = np.full((600, 2100, 3), 240, np.uint8)
    image[:, :100] = np.random.default_rng(0).integers(0, 255, (600, 100, 3))
    found = ds.verify(ds.write(ds.from_dask(image), tmp_path / "a.zarr"))
    files = work.contents(tmp_path / "a.zarr")
    manifest = json.loads(files["0/manifest.json"])["files"]
    assert {one["file"] for one in manifest} == set(files) - {"0/manifest.json", "zarr.json"}
    assert found.files == len(manifest)
    assert found.nbytes == sum(len(files[one["file"]]) for one in manifest)
    assert sum(found.statuses.values()) == sum("/c/" in name for name in files)
    assert found.statuses["blank"] >= 1
    assert found.statuses["ok"] >= 1


def test_all_damage_is_found(target, source):
    """Any file that was changed, truncated, deleted or added."""
    work.write("pack", source, target.path)
    files = target.contents()
    kinds = itertools.cycle(("changed", "truncated", "deleted"))
    for name in sorted(set(files) - {"zarr.json"}):
        good, kind = files[name], next(kinds)
        changed = bytearray(good)
        changed[random.Random(name).randrange(len(good))] ^= 4
        target.put(name, {"changed": bytes(changed), "truncated": good[:-1], "deleted": None}[kind])
        with pytest.raises(ds.errors.StoreDamagedError, match=name) as error:
            ds.verify(target.path)
        assert isinstance(error.value, OSError)
        target.put(name, good)
    root = json.loads(files["zarr.json"])
    root["attributes"]["tile_size"] = [1, 1]
    target.put("zarr.json", json.dumps(root).encode())
    with pytest.raises(ds.errors.StoreDamagedError, match="attributes of the root have changed"):
        ds.verify(target.path)
    root = json.loads(files["zarr.json"])
    root["consolidated_metadata"]["metadata"]["y"]["shape"] = [1]
    target.put("zarr.json", json.dumps(root).encode())
    with pytest.raises(ds.errors.StoreDamagedError, match="root differ from those of the arrays"):
        ds.verify(target.path)
    target.put("zarr.json", files["zarr.json"])
    target.put("tiles/more", b"x")
    with pytest.raises(ds.errors.StoreDamagedError, match="tiles/more was added"):
        ds.verify(target.path)


def test_other_paths_are_refused(tmp_path, source):
    with pytest.raises(ds.errors.SlideNotFoundError):
        ds.verify(tmp_path / "nothing")
    zarr.create_group(tmp_path / "theirs")
    for path in (tmp_path / "theirs", source):
        with pytest.raises(ds.errors.SlideFormatError, match=r"no store of dask_.*--check"):
            ds.verify(path)


def test_a_failing_server_is_not_reported_as_damage(bucket, source):
    path = work.write("pack", source, "s3://slides/server.zarr")
    bucket.faults.start(1.0, ("503",))
    for read in (ds.verify, ds.open_pack):
        with pytest.raises(ds.errors.RemoteError):
            read(path)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [  # the published vector of no bytes, and what b3sum prints for "abc"
        ([], "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        ([b"abc"], "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
        (
            [b"a", memoryview(b"bc")],
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
        ),
    ],
)
def test_checksums_are_blake3(tmp_path, parts, expected):
    assert checksum_of(parts) == f"blake3:{expected}"
    record = write_file(str(tmp_path), "a", parts)
    assert (record.size, record.checksum) == (len(b"".join(parts)), f"blake3:{expected}")
    assert location_of(str(tmp_path)).measure("a") == (record.size, record.checksum)


def test_stores_of_version_0_1_have_sha256(target, source):
    """Their checksums are those of hashlib; what has changed is found in them, too."""
    work.write("pack", source, target.path)
    files = target.contents()
    root = json.loads(files["zarr.json"])
    own = root["attributes"]["dask_slides"]["manifest"]
    path = own["path"]
    manifest = json.loads(files[path])
    for one in manifest["files"]:
        del one["checksum"]
        one["sha256"] = hashlib.sha256(files[one["file"]]).hexdigest()
    old = json.dumps(manifest).encode()
    target.put(path, old)
    del own["checksum"], own["root"]
    own["sha256"] = hashlib.sha256(old).hexdigest()
    text = json.dumps(root["attributes"], sort_keys=True).encode()
    own["root"] = hashlib.sha256(text).hexdigest()
    target.put("zarr.json", json.dumps(root).encode())
    assert ds.verify(target.path).files == len(manifest["files"])
    shard = next(name for name in files if "tiles/c/" in name)
    target.put(shard, files[shard][:-1] + bytes([files[shard][-1] ^ 1]))
    with pytest.raises(ds.errors.StoreDamagedError, match=f"{shard} has changed"):
        ds.verify(target.path)
    target.put(shard, files[shard])
    target.put(path, old + b" ")
    with pytest.raises(ds.errors.StoreDamagedError, match="json has changed"):
        ds.verify(target.path)


def test_a_checksum_of_an_unknown_kind_is_damage(tmp_path):
    """And no KeyError of a dictionary."""
    path = ds.write(ds.from_dask(np.zeros((64, 64, 3), np.uint8)), tmp_path / "a.zarr")
    root = json.loads((tmp_path / "a.zarr/zarr.json").read_text())
    root["attributes"]["dask_slides"]["manifest"]["checksum"] = "md5:00"
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(root))
    with pytest.raises(ds.errors.StoreDamagedError, match="'md5:00' is of an unknown kind"):
        ds.verify(path)
