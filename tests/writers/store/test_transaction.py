"""A store appears whole or not at all, on a disk and in a bucket; other data is never touched."""

import itertools
import json
import os
from contextlib import contextmanager

import dask
import durable_work as work
import pytest
import servers
import zarr
from click.testing import CliRunner
from durable_work import contents
from remote_fixtures import BucketTarget, FolderTarget
from rw_fixtures import noise, one_line
from scheduler_processes import local_client

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.readers.tiff.source import TiffSource

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

KINDS = ("image", "image 0.4", "pack", "cutoff", "blank map", "image without shards",
         "pack without shards")  # fmt: skip
QUICK = ("pack",)
"""Kinds that are written to buckets in quick tests too; a bucket is slow."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return work.slide_file(tmp_path_factory.mktemp("transaction") / "s.tif")


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """For each kind, the files of a store that was written to a disk without faults."""
    return work.undisturbed(source, tmp_path_factory.mktemp("expected"), KINDS)


def small():
    return ds.from_dask(noise(600, 600, 3))


@contextmanager
def reads_counted(limit=float("inf"), error=ConnectionAbortedError):
    """Yield a list of the reads of slides inside the block; those after `limit` fail."""
    found, read = [], TiffSource.read_valid

    def counted(self, level, region):
        found.append(region)
        if len(found) > limit:
            raise error("the disk is gone")
        return read(self, level, region)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TiffSource, "read_valid", counted)
        yield found


# ---------------------------------------------------------------- existing data


@pytest.mark.parametrize("kind", KINDS)
def test_an_existing_store_is_refused_or_replaced(tmp_path, source, expected, kind):
    check_refused_or_replaced(FolderTarget(tmp_path / "target"), source, expected, kind)


@pytest.mark.parametrize(
    "kind", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in KINDS]
)
def test_an_existing_store_in_a_bucket_is_refused_or_replaced(bucket, source, expected, kind):
    check_refused_or_replaced(BucketTarget(bucket, f"{kind}.zarr"), source, expected, kind)


def check_refused_or_replaced(target, source, expected, kind):
    """Write a store; its bytes are those of one on a disk, new or in place of an old store."""
    for old, options in ((None, {}), ("pack", {"overwrite": True})):
        if old:
            work.write(old if kind != old else "image", source, target.path, **options)
        assert work.write(kind, source, target.path, **options) == target.path
        assert target.contents() == expected[kind]
        assert target.hidden() == []
    with pytest.raises(ds.errors.OutputExistsError, match="already exists") as error:
        work.write(kind, source, target.path)
    assert isinstance(error.value, FileExistsError)
    assert target.path in one_line(error)
    assert target.contents() == expected[kind]
    roots = {".zgroup", ".zattrs", "zarr.json"} & set(expected[kind])
    assert ds.verify(target.path).files == len(expected[kind]) - len(roots) - 1  # the manifest
    if kind.startswith("pack"):
        assert len(ds.open_pack(target.path)) > 0
    else:
        ds.open_slide(target.path).thumbnail(64)


@pytest.mark.parametrize("file", ["zarr.json", "data/part.bin"])
def test_other_data_is_never_overwritten(target, source, file):
    files = {}
    zarr.create_group(zarr.storage.MemoryStore(files))
    target.put(file, files["zarr.json"].to_bytes())
    before = target.contents()
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ds.errors.OutputExistsError) as error:
            work.write("image", source, target.path, **options)
        assert target.path in one_line(error)
    assert target.contents() == before
    assert target.hidden() == []


@pytest.mark.parametrize("other", ["file", "empty folder", "link", "dead link"])
def test_other_entries_of_a_folder_are_never_overwritten(tmp_path, other):
    path = tmp_path / "a.zarr"
    if other == "file":
        path.write_text("hello")
    elif other == "empty folder":
        path.mkdir()
    else:
        if other == "link":
            ds.write(small(), tmp_path / "b.zarr")
        path.symlink_to(tmp_path / "b.zarr")
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ds.errors.OutputExistsError):
            ds.write(small(), path, overwrite=overwrite)
    assert contents(tmp_path) == before
    assert path.is_symlink() == ("link" in other)
    assert path.is_dir() == (other in ("empty folder", "link"))


def test_data_that_another_process_writes_meanwhile_is_not_overwritten(target):
    def meanwhile(done, total):
        if done == total:
            target.put("zarr.json", b"theirs")

    with pytest.raises(ds.errors.OutputExistsError):
        ds.write(small(), target.path, overwrite=True, progress=meanwhile)
    assert target.contents()["zarr.json"] == b"theirs"


def test_paths_that_cannot_be_written_to(tmp_path):
    with pytest.raises(ds.errors.SlideNotFoundError, match="create it first") as error:
        ds.write(small(), tmp_path / "no" / "such" / "a.zarr")
    assert isinstance(error.value, FileNotFoundError)
    one_line(error)
    for path in (None, 3, object()):
        with pytest.raises(ds.errors.SlideArgumentError, match="is not a path"):
            ds.write(small(), path)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- unfinished stores, errors


def test_an_unfinished_store_does_not_open(target, source):
    seen = []

    def look(done, total):
        for read in (ds.open_slide, ds.verify):
            with pytest.raises((ds.errors.SlideNotFoundError, ds.errors.SlideFormatError)):
                read(target.path)
        seen.append(done)

    with dask.config.set(scheduler="sync"):
        ds.write(ds.open_slide(source), target.path, progress=look)
    assert len(seen) > 3
    ds.verify(target.path)


@pytest.mark.parametrize("kind", [ds.errors.TileDecodeError, KeyboardInterrupt])
def test_an_error_leaves_no_files(target, source, kind):
    for old in (False, True):
        if old:
            work.write("pack", source, target.path)
        before = target.contents()
        with reads_counted(2, kind) as reads, pytest.raises(kind):
            work.write("image", source, target.path, overwrite=old)
        assert len(reads) == 3  # after shards were written
        assert target.contents() == before
        assert target.hidden() == []


# ---------------------------------------------------------------- resuming


def begin(source, target, limit=3):
    """Let a write fail after `limit` of its reads; finished tasks stay."""
    with reads_counted(limit), pytest.raises(ConnectionAbortedError):
        work.write("image", source, target.path, resume=True)


def test_resuming_runs_only_unfinished_tasks(new_target, source, expected):
    first, second = new_target(), new_target()
    with reads_counted() as whole:
        work.write("image", source, first.path)
    begin(source, second)
    assert second.recorded() == 3
    with reads_counted() as rest:
        work.write("image", source, second.path, resume=True)
    assert len(rest) == len(whole) - 3
    assert second.contents() == expected["image"]
    assert second.hidden() == []


def test_a_different_store_is_not_resumed(target, source, expected):
    begin(source, target)
    before = target.hidden()
    with pytest.raises(ds.errors.ResumeError, match=r"differs in .*kind") as error:
        work.write("cutoff", source, target.path, resume=True)
    assert isinstance(error.value, ValueError)
    one_line(error)
    assert target.hidden() == before
    work.write("cutoff", source, target.path)  # without resuming, the unfinished store is deleted
    assert target.contents() == expected["cutoff"]
    assert target.hidden() == []


def test_a_slide_that_changed_is_not_resumed(target, source, tmp_path):
    copy = tmp_path / "copy.tif"
    copy.write_bytes(source.read_bytes())
    begin(copy, target)
    os.utime(copy, ns=(1, 1))
    with pytest.raises(ds.errors.ResumeError, match=r"source\.identity\.mtime_ns"):
        work.write("image", copy, target.path, resume=True)


def test_an_unfinished_store_without_a_finished_task_is_deleted(target, source):
    begin(source, target, limit=0)
    assert target.contents() == {}
    assert target.hidden() == []


# ---------------------------------------------------------------- two writers


def test_a_second_writer_is_refused(target, source, expected):
    errors = []

    def meanwhile(done, total):
        if done == 1:
            with pytest.raises(ds.errors.OutputBusyError) as error:
                work.write("image", source, target.path)
            errors.append(error.value)

    with dask.config.set(scheduler="sync"):
        ds.write(ds.open_slide(source), target.path, progress=meanwhile)
    assert isinstance(errors[0], BlockingIOError)
    assert target.path in str(errors[0])
    assert target.contents() == expected["image"]


def test_a_writer_stops_if_another_process_resumes_its_store(bucket, source, expected):
    """Resuming takes over the lock, as the process that holds it may be dead."""
    target = BucketTarget(bucket, "taken.zarr")

    def meanwhile(done, total):
        if done == 1:
            work.write("image", source, target.path, resume=True)

    with (
        dask.config.set(scheduler="sync"),
        pytest.raises(ds.errors.OutputBusyError, match="taken over"),
    ):
        ds.write(ds.open_slide(source), target.path, progress=meanwhile)
    assert target.contents() == expected["image"]
    ds.verify(target.path)


def test_a_lock_is_recognised_if_the_answer_of_the_server_was_lost(bucket):
    from dask_slides.writers.store.bucket import Bucket

    location = Bucket(f"s3://{servers.BUCKET}/lock.zarr")
    for fault in ("reset after", "stall"):
        bucket.traffic.injected.clear()
        bucket.faults.start(1.0, (fault,), limit=1)
        assert location.create_lock(b"mine")
        assert not location.create_lock(b"another's")
        assert location.read_lock()[0] == b"mine"
        location.remove([".lock"])
    assert location.create_lock(b"mine")
    version = location.read_lock()[1]
    assert location.create_lock(b"another's", instead_of=version)
    assert not location.create_lock(b"a third's", instead_of=version)


# ---------------------------------------------------------------- servers


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_faults_of_a_server_do_not_change_the_store(bucket, source, expected, count):
    """Write and verify until `count` faults were injected."""
    bucket.traffic.injected.clear()
    kinds = servers.FAULTS[:-1] * 5 + servers.FAULTS[-1:]  # the last one takes a second
    for seed in itertools.count():
        if bucket.traffic.injected.total() >= count:
            break
        target = BucketTarget(bucket, f"faults{count}-{seed}.zarr")
        bucket.faults.start(0.2, kinds, seed=seed)
        ds.write(work.made("image", source), target.path)
        ds.verify(target.path)
        bucket.faults.stop()
        assert target.contents() == expected["image"]
        assert target.hidden() == []
    assert set(bucket.traffic.injected) == set(servers.FAULTS) or count < 200


def test_the_command_line_writes_to_buckets(bucket, source, tmp_path):
    slide, out = bucket.put(source, "cli.tif"), f"s3://{servers.BUCKET}/cli.zarr"
    command = ["resize", slide, out, "--downsample", "2", "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["path"] == out
    assert CliRunner().invoke(main, ["verify", out]).exit_code == 0
    assert CliRunner().invoke(main, ["info", out]).exit_code == 0
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "already exists" in again.stderr


@pytest.mark.slow
def test_a_cluster_reads_and_writes_buckets(bucket, source, expected):
    """The workers inherit the credentials of this process."""
    slide = ds.open_slide(bucket.put(source, "cluster.tif"))
    with local_client(2):
        path = ds.write(slide, f"s3://{servers.BUCKET}/cluster.zarr")
    ds.verify(path)
    found = bucket.contents("cluster.zarr")
    shards = [name for name in expected["image"] if "/c/" in name]
    assert all(found[name] == expected["image"][name] for name in shards)
