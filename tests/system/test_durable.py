"""Killed, raced and damaged: a store is old, new or absent, and resuming redoes little."""

import itertools
import json
import os
import random
import signal
from pathlib import Path

import dask
import durable_work as work
import numpy as np
import pytest
from durable_work import KINDS, contents, finished

import dask_slides as ds
from dask_slides.readers.tiff.source import TiffSource


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return work.slide_file(tmp_path_factory.mktemp("durable") / "s.tif")


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """Of each kind, the files of a store that nothing happened to."""
    return work.undisturbed(source, tmp_path_factory.mktemp("expected"))


def killed_at(processes, step, kind, source, out, expected, **options):
    """Kill a write before its `step`th touch of the disk; return False if it has fewer.

    Then the target is what it was, or the new store, whole; and resuming gives the new one.
    """
    before = contents(out) if out.exists() else None
    code = finished(processes, work.write_until, step, kind, source, out, options)
    assert code in (0, -signal.SIGKILL)
    after = contents(out) if out.exists() else None
    assert after in (before, expected)
    if after != expected:
        work.write(kind, source, out, resume=True, overwrite=before is not None)
        assert contents(out) == expected
    ds.verify(out)
    return code != 0


@pytest.mark.parametrize("kind", ["image", "pack", pytest.param("cutoff", marks=pytest.mark.slow)])
def test_killed_at_steps_of_writing_and_publishing(processes, tmp_path, source, expected, kind):
    steps = 0
    for step in itertools.count(1 + KINDS.index(kind), 11):
        out = tmp_path / str(step) / "a.zarr"
        out.parent.mkdir()
        if not killed_at(processes, step, kind, source, out, expected[kind], resume=True):
            break
        assert os.listdir(out.parent) == ["a.zarr"]
        steps += 1
    assert steps >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_every_step(processes, tmp_path, source, expected, kind):
    for step in itertools.count(1):
        out = tmp_path / str(step) / "a.zarr"
        out.parent.mkdir()
        if not killed_at(processes, step, kind, source, out, expected[kind]):
            break
    assert step > 30


def test_killed_over_an_old_store(processes, tmp_path, source, expected):
    """Between two renames there is a moment without either; then resuming gives the new one."""
    for step in itertools.count(2, 13):
        out = tmp_path / str(step) / "a.zarr"
        out.parent.mkdir()
        ds.write(ds.from_dask(np.full((300, 300, 3), 9, np.uint8)), out)
        old = contents(out)
        options = {"overwrite": True, "resume": True}
        code = finished(
            processes, work.write_until, step, "image", source, out, options
        )  # fmt: skip
        if out.exists():
            assert contents(out) in (old, expected["image"])
        work.write("image", source, out, overwrite=True, resume=True)
        assert contents(out) == expected["image"]
        assert os.listdir(out.parent) == ["a.zarr"]
        if code == 0:
            break
    assert step > 20


class _Failing:
    """Lets a slide be read a few times, then fails."""

    def __init__(self, monkeypatch, times):
        self.reads = 0
        read = TiffSource.read

        def counted(this, level, region):
            self.reads += 1
            if self.reads > times:
                raise ds.errors.TileDecodeError("s.tif: the disk is gone; plug it in")
            return read(this, level, region)

        monkeypatch.setattr(TiffSource, "read", counted)


def test_resuming_does_only_what_is_missing(tmp_path, source, expected, monkeypatch):
    with monkeypatch.context() as patch:
        whole = _Failing(patch, 10**6)
        work.write("image", source, tmp_path / "b.zarr")
    with monkeypatch.context() as patch:
        failing = _Failing(patch, 3)
        with pytest.raises(ds.errors.TileDecodeError):
            work.write("image", source, tmp_path / "a.zarr", resume=True)
    assert failing.reads == 4
    assert not (tmp_path / "a.zarr").exists()
    with monkeypatch.context() as patch:
        rest = _Failing(patch, 10**6)
        work.write("image", source, tmp_path / "a.zarr", resume=True)
    assert rest.reads == whole.reads - 3
    assert contents(tmp_path / "a.zarr") == expected["image"]


def test_a_failure_without_resume_keeps_nothing(tmp_path, source, monkeypatch):
    _Failing(monkeypatch, 3)
    with pytest.raises(ds.errors.TileDecodeError):
        work.write("image", source, tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == []


def begun(tmp_path, source):
    """Leave a partial store, as a killed process does."""
    with pytest.MonkeyPatch.context() as patch:
        _Failing(patch, 3)
        with pytest.raises(ds.errors.TileDecodeError):
            work.write("image", source, tmp_path / "a.zarr", resume=True)
    (left,) = tmp_path.iterdir()
    return left


def test_what_was_begun_otherwise_is_not_gone_on_with(tmp_path, source):
    left = begun(tmp_path, source)
    before = contents(left)
    slide = ds.resize(source, downsample=1.5)
    with pytest.raises(ds.errors.ResumeError, match=r"source.*was.*is") as error:
        ds.write(slide, tmp_path / "a.zarr", resume=True)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)
    assert contents(left) == before
    assert list(tmp_path.iterdir()) == [left]
    ds.write(slide, tmp_path / "a.zarr")  # without resuming it is given up
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_a_slide_that_changed_is_not_gone_on_with(tmp_path, source):
    copy = tmp_path / "in" / "s.tif"
    copy.parent.mkdir()
    copy.write_bytes(source.read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    begun(out, copy)
    os.utime(copy, ns=(1, 1))
    with pytest.raises(ds.errors.ResumeError, match=r"source\.identity\.mtime_ns"):
        work.write("image", copy, out / "a.zarr", resume=True)


def test_a_busy_path(tmp_path, source, monkeypatch):
    """While one writes, another one that would write the same is told so; the first goes on."""
    out = tmp_path / "a.zarr"
    met = []

    def meanwhile(done, total):
        if done == 1 and not met:
            with pytest.raises(ds.errors.OutputBusyError) as error:
                work.write("image", source, out)
            met.append(error.value)

    with dask.config.set(scheduler="sync"):
        ds.write(ds.open_slide(source), out, progress=meanwhile)
    assert isinstance(met[0], BlockingIOError)
    assert str(out) in str(met[0])
    ds.verify(out)


@pytest.mark.parametrize("rounds", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_two_writers_have_one_winner(processes, tmp_path, source, expected, rounds):
    for round_ in range(rounds):
        out = tmp_path / f"{round_}.zarr"
        barrier, results = processes.Barrier(2), processes.Queue()
        pair = [
            processes.Process(target=work.race, args=(barrier, "pack", source, out, results))
            for _ in range(2)
        ]
        for one in pair:
            one.start()
        ends = sorted(results.get(timeout=60) for _ in pair)
        for one in pair:
            one.join()
        assert ends[1] == "written"
        assert ends[0] in ("OutputBusyError", "OutputExistsError")
        assert contents(out) == expected["pack"]
        assert sorted(os.listdir(tmp_path)) == sorted(f"{n}.zarr" for n in range(round_ + 1))


@pytest.fixture
def store(tmp_path, source):
    return Path(work.write("cutoff", source, tmp_path / "a.zarr"))


def test_verify_counts_what_there_is(store):
    found = ds.verify(store)
    files = contents(store)
    manifest = json.loads(files["0/manifest.json"])["files"]
    assert {one["file"] for one in manifest} == set(files) - {"0/manifest.json", "zarr.json"}
    assert found.files == len(manifest)
    assert found.nbytes == sum(len(files[one["file"]]) for one in manifest)
    shards = [name for name in files if "/c/" in name and not name.startswith("blank_map")]
    assert sum(found.statuses.values()) == len(shards)
    assert found.statuses["ok"] >= 1


def test_a_blank_shard_is_called_blank(tmp_path):
    image = np.full((600, 2100, 3), 240, np.uint8)
    image[:, :100] = np.random.default_rng(0).integers(0, 255, (600, 100, 3))
    out = ds.write(ds.from_dask(image), tmp_path / "a.zarr")
    statuses = ds.verify(out).statuses
    assert statuses["blank"] >= 1
    assert statuses["ok"] >= 1


def test_every_damage_is_found(store):
    """Any file changed, cut short, gone or added, whatever its role."""
    for name in contents(store):
        path = store / name
        good = path.read_bytes()
        changed = bytearray(good)
        changed[random.Random(name).randrange(len(good))] ^= 4
        for bad in (bytes(changed), good[:-1], None):
            if bad is None:
                path.unlink()
            else:
                path.write_bytes(bad)
            # of the root what Zarr cannot read any more is no store, and else it has a checksum
            kinds = (ds.errors.StoreDamagedError, ds.errors.SlideFormatError)
            with pytest.raises(
                kinds if name == "zarr.json" else ds.errors.StoreDamagedError
            ) as error:
                ds.verify(store)
            if name != "zarr.json":
                assert name in str(error.value)
                assert isinstance(error.value, OSError)
            path.write_bytes(good)
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"]["dask_slides"]["factors"][0] *= 1.01
    (store / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(ds.errors.StoreDamagedError, match="attributes of the root have changed"):
        ds.verify(store)
    root["attributes"]["dask_slides"]["factors"][0] /= 1.01
    (store / "0" / "c" / "more").write_text("x")
    with pytest.raises(ds.errors.StoreDamagedError, match="0/c/more was added"):
        ds.verify(store)


def test_what_cannot_be_verified(tmp_path, source):
    with pytest.raises(ds.errors.SlideNotFoundError):
        ds.verify(tmp_path / "nothing")
    import zarr

    zarr.create_group(tmp_path / "theirs")
    with pytest.raises(ds.errors.SlideFormatError, match="not a finished store"):
        ds.verify(tmp_path / "theirs")
    with pytest.raises(ds.errors.SlideFormatError, match="not a finished store"):
        ds.verify(source)


def test_a_partial_store_is_no_image(tmp_path, source):
    left = begun(tmp_path, source)
    with pytest.raises(ds.errors.SlideFormatError):
        ds.open_slide(left)
    with pytest.raises(ds.errors.SlideFormatError):
        ds.verify(left)
