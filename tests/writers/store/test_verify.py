"""`verify` finds all damage, and reports nothing else as damage."""

import itertools
import json
import random

import durable_work as work
import numpy as np
import pytest
import zarr

import dask_slides as ds

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
        with pytest.raises(ds.errors.SlideFormatError, match="not a finished store"):
            ds.verify(path)


def test_a_failing_server_is_not_reported_as_damage(bucket, source):
    path = work.write("pack", source, "s3://slides/server.zarr")
    bucket.faults.start(1.0, ("503",))
    for read in (ds.verify, ds.open_pack):
        with pytest.raises(ds.errors.RemoteError):
            read(path)
