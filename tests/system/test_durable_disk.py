"""Disks that are full, too small or read-only; real disks are mounted for the tests."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import durable_work as work
import pytest
from durable_work import KINDS, contents
from rw_fixtures import one_line

import dask_slides as ds

NOBODY = 65534

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the mount commands are those of Linux"
)


def mounted(*words):
    return subprocess.run(["mount", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def disk():
    """Return a function that mounts a disk with options such as ``size=100k``.

    It is not below the folders of pytest, which other users cannot enter.
    """
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    folder.chmod(0o755)
    made = []

    def mount(options):
        result = mounted("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
        if result.returncode:
            pytest.skip(f"no disk can be mounted here: {result.stderr.strip()}")
        made.append(folder)
        return folder

    yield mount
    for one in made:
        subprocess.run(["umount", str(one)], check=True)
    folder.rmdir()


def remount(folder, options):
    result = mounted("-o", f"remount,{options}", str(folder))
    assert result.returncode == 0, result.stderr


def write_on(folder, kind, source, **options):
    """Write without the warning that the disk may be too small."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ds.errors.OutputRoomWarning)
        return work.write(kind, source, folder / "a.zarr", **options)


@pytest.mark.parametrize("twentieth", [0, 1, 4, 8, 12, 16, 17, 18, 19])
def test_a_disk_that_is_too_small(disk, source, expected, twentieth):
    """The store can be resumed after space is freed."""
    kind = KINDS[twentieth % len(KINDS)]
    whole = sum(map(len, expected[kind].values()))
    folder = disk(f"size={max(8192, whole * twentieth // 20)}")
    with pytest.raises(
        ds.errors.OutputFullError, match=r"the disk is full.*are free.*make room"
    ) as error:
        write_on(folder, kind, source, resume=True)
    assert isinstance(error.value, OSError)
    assert str(folder / "a.zarr") in one_line(error)
    assert not (folder / "a.zarr").exists()
    begun = [name for name in os.listdir(folder) if name.endswith(".partial")]
    assert len(begun) <= 1
    remount(folder, f"size={4 * whole}")
    write_on(folder, kind, source, resume=True)
    assert os.listdir(folder) == ["a.zarr"]
    assert contents(folder / "a.zarr") == expected[kind]
    ds.verify(folder / "a.zarr")


def test_an_old_store_remains_if_the_disk_is_full(disk, source, expected):
    whole = sum(map(len, expected["image"].values()))
    folder = disk(f"size={4 * whole}")
    write_on(folder, "pack", source)
    old = contents(folder / "a.zarr")
    remount(folder, f"size={sum(map(len, old.values())) * 5 // 4 + whole // 2}")
    with pytest.raises(ds.errors.OutputFullError):
        write_on(folder, "image", source, overwrite=True)
    assert contents(folder / "a.zarr") == old
    assert os.listdir(folder) == ["a.zarr"]


def test_a_disk_without_free_inodes(disk, source, expected):
    folder = disk("size=64m,nr_inodes=40")
    with pytest.raises(ds.errors.OutputFullError, match="0 more files"):
        write_on(folder, "image", source, resume=True)
    assert not (folder / "a.zarr").exists()
    remount(folder, "nr_inodes=1000")
    write_on(folder, "image", source, resume=True)
    assert contents(folder / "a.zarr") == expected["image"]


def test_too_little_space_is_a_warning(disk, source):
    folder = disk("size=300k")
    with (
        pytest.warns(ds.errors.OutputRoomWarning, match=r"up to .* before compression.* are free"),
        pytest.raises(ds.errors.OutputFullError),
    ):
        work.write("image", source, folder / "a.zarr")


def test_a_disk_that_becomes_read_only(disk, source, expected):
    whole = sum(map(len, expected["image"].values()))
    folder = disk(f"size={whole // 2}")
    with pytest.raises(ds.errors.OutputFullError):
        write_on(folder, "image", source, resume=True)
    remount(folder, f"size={4 * whole},ro")
    before = sorted(map(str, folder.rglob("*")))
    with pytest.raises(ds.errors.OutputDeniedError, match="read-only") as error:
        write_on(folder, "image", source, resume=True)
    assert isinstance(error.value, PermissionError)
    one_line(error)
    assert sorted(map(str, folder.rglob("*"))) == before
    remount(folder, "rw")
    write_on(folder, "image", source, resume=True)
    assert contents(folder / "a.zarr") == expected["image"]


@pytest.fixture
def as_child(processes):
    """Return a function that runs another one in a separate process."""

    def run(target, *args):
        results = processes.Queue()
        process = processes.Process(target=target, args=(*args, results))
        process.start()
        found = results.get(timeout=60)
        process.join()
        return found

    return run


def limited(size, source, out, results):
    """Write with a limit for the file size, as set by `ulimit -f`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    results.put(ended(source, out))


def as_nobody(source, out, results):
    """Write as a user who is not root.

    First write another slide, because modules are imported at their first use and the other user
    may not have access to the environment.
    """
    with tempfile.TemporaryDirectory() as folder:
        slide = work.slide_file(Path(folder) / "t.tif")
        work.write("image", slide, Path(folder) / "t.zarr", resume=True)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    results.put(ended(source, out))


def ended(source, out):
    try:
        work.write("image", source, out, resume=True)
    except ds.SlideError as error:
        return type(error).__name__, str(error)
    return "written", ""


@pytest.mark.parametrize("size", [200, 20_000])
def test_a_limit_of_the_file_size(tmp_path, source, expected, as_child, size):
    out = tmp_path / "a.zarr"
    kind, text = as_child(limited, size, source, out)
    assert kind == "OutputFullError"
    assert "a file would be larger" in text
    assert not out.exists()
    work.write("image", source, out, resume=True)
    assert contents(out) == expected["image"]
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_a_folder_of_another_user(disk, source, as_child):
    if os.geteuid():
        pytest.skip("only root can change the user")
    folder = disk("size=64m,mode=0755")
    slide = folder / "s.tif"
    slide.write_bytes(source.read_bytes())
    theirs = folder / "theirs"
    theirs.mkdir()
    kind, text = as_child(as_nobody, slide, theirs / "a.zarr")
    assert kind == "OutputDeniedError"
    assert "no permission to write" in text
    assert os.listdir(theirs) == []
    ours = folder / "ours"
    ours.mkdir()
    os.chown(ours, NOBODY, NOBODY)
    assert as_child(as_nobody, slide, ours / "a.zarr") == ("written", "")


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.EDQUOT, ds.errors.OutputFullError, "quota"),
        (errno.ENOSPC, ds.errors.OutputFullError, "full"),
        (errno.EROFS, ds.errors.OutputDeniedError, "read-only"),
    ],
)
@pytest.mark.parametrize("call", [1, 9])
def test_the_disk_may_be_full_at_any_flush(
    tmp_path, source, expected, monkeypatch, number, kind, word, call
):
    """Raise the error of an exceeded quota at any flush, as tests cannot set a quota."""
    flush, count = os.fsync, 0

    def failing(handle):
        nonlocal count
        count += 1
        if count >= call:
            raise OSError(number, os.strerror(number))
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(kind, match=word):
            work.write("image", source, tmp_path / "a.zarr", resume=True)
    assert not (tmp_path / "a.zarr").exists()
    work.write("image", source, tmp_path / "a.zarr", resume=True)
    assert contents(tmp_path / "a.zarr") == expected["image"]


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_files_are_flushed_first(tmp_path, source, monkeypatch, kind):
    flush, rename, flushed, checked = os.fsync, os.replace, set(), set()

    def watched(handle):
        flush(handle)
        flushed.add(os.readlink(f"/proc/self/fd/{handle}"))

    def renamed(old, new):
        """Check that all files that a record or a manifest names were flushed."""
        if str(new).endswith(".json"):
            record = json.loads(Path(old).read_text())
            folder = "".join(str(new).partition(".partial/")[:2])
            for one in record.get("files", ()):
                checked.add(one["file"])
                assert folder + one["file"] in flushed, one["file"]
        rename(old, new)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "replace", renamed)
    work.write(kind, source, tmp_path / "a.zarr")
    monkeypatch.undo()
    shards = {name.removeprefix("a.zarr/") for name in contents(tmp_path / "a.zarr")}
    assert shards and {name for name in checked if "/c/" in name} >= {
        name for name in shards if "/c/" in name
    }


def refusing(monkeypatch, number, *, folders):
    """Let every flush of a folder or of a file fail."""
    flush, refused = os.fsync, []

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode) == folders:
            refused.append(handle)
            raise OSError(number, os.strerror(number))
        return flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return refused


FOLDERS = ["EINVAL", "EBADF", "EACCES"]


@pytest.mark.parametrize(
    ("name", "folders"),
    [*((name, True) for name in FOLDERS), *((name, False) for name in ("EINVAL", "ENOSYS"))],
)
def test_a_file_system_that_cannot_flush(tmp_path, source, expected, monkeypatch, name, folders):
    refused = refusing(monkeypatch, getattr(errno, name), folders=folders)
    work.write("image", source, tmp_path / "a.zarr")
    assert refused
    assert contents(tmp_path / "a.zarr") == expected["image"]
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("folders", [False, True])
def test_a_disk_that_fails_is_an_error(tmp_path, source, monkeypatch, folders):
    refusing(monkeypatch, errno.EIO, folders=folders)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as error:
        work.write("image", source, tmp_path / "a.zarr")
    assert not isinstance(error.value, ds.SlideError)
    assert os.listdir(tmp_path) == []
