"""Runs over many slides: results, resumed runs, and failures of single slides."""

import logging
import os
import shutil
from pathlib import Path

import cohort_work as work
import dask
import numpy as np
import pytest
import tifffile
from PIL import Image
from scheduler_processes import local_client

import dask_slides as ds
from dask_slides.cohort.job import RUN, SlideJob
from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.workers import Pool
from dask_slides.readers.remote.identity import identify
from dask_slides.writers.store.local_folder import locked

SUFFIXES = {"mask": "mask.ome.zarr", "resize": "resize.ome.zarr", "cutoff": "cutoff.ome.zarr",
            "pack": "tiles.zarr"}  # fmt: skip


@pytest.fixture
def threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return work.slide_files(tmp_path_factory.mktemp("slides") / "s", 3)


@pytest.fixture(scope="module")
def done(slides, tmp_path_factory):
    """Return a finished job that ran in one thread."""
    job = tmp_path_factory.mktemp("done") / "job"
    with dask.config.set(scheduler="sync"):
        result = ds.run_cohort(slides, job=job, steps=work.STEPS)
    assert (result.slides, result.done, result.failed, result.todo) == (3, 3, 0, 0)
    return job


def test_stores_equal_the_results_of_the_functions(slides, done, sync):
    for path in sorted(slides.iterdir()):
        name, row = path.stem, work.table(done)[path.stem]
        made = {step: done / name / f"{name}.{SUFFIXES[step]}" for step in SUFFIXES}
        for store in made.values():
            ds.verify(store)
        cells = ds.blank_map(path, **work.STEPS["mask"]).compute()
        pixels = ds.open_slide(made["mask"]).data.compute()
        assert np.array_equal(pixels[..., 0] == 0, cells.blank)
        assert (row["mask_tiles"], row["mask_blank"]) == ("25", str(cells.blank.sum()))
        small = ds.resize(path, **work.STEPS["resize"]).data.compute()
        assert np.array_equal(ds.open_slide(made["resize"]).data.compute(), small)
        cut = ds.cutoff_resize(path, **work.STEPS["cutoff"])
        assert np.array_equal(
            ds.open_slide(made["cutoff"]).data.compute(), cut.image.data.compute()
        )
        assert float(row["cutoff_gain"]) == pytest.approx(cut.gain, abs=1e-4)
        pack, stored = ds.pack_tiles(path, **work.STEPS["pack"]), ds.open_pack(made["pack"])
        assert 0 < len(stored) < 25
        assert np.array_equal(stored.tiles.compute(), pack.tiles.compute())
        assert np.array_equal(stored.y, pack.y) and np.array_equal(stored.score, pack.score)
        assert row["pack_tiles"] == str(len(pack))


BLUE = (0, 114, 178)
"""Colour of outlines on bright slides."""


def drawn(path, colour):
    """Return the rows and columns from the first to the last pixel of a colour in a picture."""
    with Image.open(path) as picture:
        found = (np.asarray(picture.convert("RGB")) == colour).all(axis=2)
    return tuple((int(at.min()), int(at.max())) for at in np.nonzero(found))


def test_pictures_show_the_tissue_and_the_tiles(slides, done):
    for path in sorted(slides.iterdir()):
        made = done / path.stem / path.stem
        pixels = ds.open_slide(path).data.compute()
        rows, columns = np.nonzero(pixels.std(axis=2) > 10)
        pack = ds.open_pack(f"{made}.tiles.zarr")
        for name in ("mask", "cutoff"):
            found = drawn(f"{made}.{name}.png", BLUE)
            for (first, last), tissue in zip(found, (rows, columns), strict=True):
                # the picture has the pixels of the slide, which is small
                assert abs(first - tissue.min()) <= 8 and abs(last - tissue.max()) <= 8
        found = drawn(f"{made}.tiles.png", (0, 0, 0))
        for (first, last), start in zip(found, (pack.y, pack.x), strict=True):
            assert abs(first - start.min()) <= 1 and abs(last - start.max() - 64) <= 1
        assert not list(made.parent.glob("*resize*.png"))


def test_a_resumed_run_draws_nothing_again(slides, tmp_path, sync, monkeypatch):
    job = tmp_path / "job"
    ds.run_cohort(slides, job=job, steps=["mask"])
    pictures = list(job.rglob("*.png"))
    before = {path: path.stat().st_mtime_ns for path in pictures}
    assert len(pictures) == 3
    with monkeypatch.context() as patch:
        patch.setattr("dask_slides.cohort.steps.picture_on_slide", lambda *_, **__: 1 / 0)
        assert ds.run_cohort(slides, job=job, steps=["mask"]).done == 3
        failed = ds.run_cohort(slides, job=job, steps=["mask", "cutoff"])
        assert (failed.failed, work.table(job)["s0000"]["error"]) == (3, "ZeroDivisionError")
    assert {path: path.stat().st_mtime_ns for path in job.rglob("*.png")} == before
    assert ds.run_cohort(slides, job=job, steps=["mask", "cutoff"]).done == 3
    assert {path: path.stat().st_mtime_ns for path in pictures} == before
    assert len(list(job.rglob("*.png"))) == 6 and not list(job.rglob("*.partial"))


def test_a_multichannel_slide_has_a_picture_in_the_colours_of_its_channels(tmp_path, sync):
    pixels = np.zeros((3, 300, 400), np.uint16)
    rng = np.random.default_rng(0)
    for number, left in enumerate((40, 160, 280)):
        pixels[number, 100:200, left : left + 80] = rng.integers(20_000, 50_000, (100, 80))
    names = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}
    tifffile.imwrite(tmp_path / "c.ome.tif", pixels, metadata=names, photometric="minisblack")
    job = tmp_path / "job"
    steps = {"mask": {}, "cutoff": {}, "pack": {"tile_size": 32}}
    assert ds.run_cohort(tmp_path / "c.ome.tif", job=job, steps=steps, mpp=2.0).done == 1
    with Image.open(job / "c" / "c.mask.png") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    means = [shown[110:190, left : left + 60].mean(axis=(0, 1)) for left in (50, 170, 290)]
    hues = {tuple(np.round(mean / mean.max(), 1)) for mean in means}
    assert len(hues) == 3 and all(mean.max() - mean.min() > 50 for mean in means)


@pytest.mark.parametrize(
    "steps",
    [{"resize": {"magnification": 40}}, {"cutoff": {"mpp": 0.2}}, {"pack": {"downsample": 0.5}}],
)
def test_a_slide_that_must_not_be_enlarged_fails(slides, tmp_path, sync, steps):
    options = {"job": tmp_path / "job", "steps": steps, "mpp": 0.5}
    result = ds.run_cohort(slides / "s0000.tif", enlarge=False, **options)
    row = work.table(tmp_path / "job")["s0000"]
    assert (result.failed, row["error"]) == (1, "SlideArgumentError")
    assert "enlarges the slide" in row["message"]
    if "resize" in steps:
        assert ds.run_cohort(slides / "s0000.tif", **options).done == 1
        made = ds.open_slide(tmp_path / "job/s0000/s0000.resize.ome.zarr")
        assert (made.shape, made.mpp) == ((640, 640, 3), 0.25)


@pytest.mark.parametrize("whole_below", [250, 0.01], ids=["whole", "by region"])
def test_threads_give_the_same_stores(slides, done, tmp_path, threads, whole_below):
    ds.run_cohort(slides, job=tmp_path / "job", steps=work.STEPS, whole_below=whole_below)
    check_equal(tmp_path / "job", done)


@pytest.mark.parametrize("whole_below", [250, 0.01], ids=["whole", "by region"])
def test_a_cluster_gives_the_same_stores(slides, done, tmp_path, client, whole_below):
    ds.run_cohort(slides, job=tmp_path / "job", steps=work.STEPS, whole_below=whole_below)
    check_equal(tmp_path / "job", done)
    assert not client.futures


def check_equal(job, expected):
    assert work.contents(job) == work.contents(expected) != {}
    for name, row in work.table(job).items():
        assert row | {"seconds": ""} == work.table(expected)[name] | {"seconds": ""}


def test_a_second_run_does_nothing(slides, done, sync):
    before = work.stores(done)
    result = ds.run_cohort(slides, job=done, steps=work.STEPS)
    assert (result.worked_on, result.done) == (0, 3)
    assert work.stores(done) == before
    assert set(work.statuses(done).values()) == {"done"}


def test_other_arguments_are_refused(slides, done, tmp_path, sync):
    job = shutil.copytree(done, tmp_path / "job")
    before = work.stores(job)
    other = work.STEPS | {"resize": {"downsample": 4}}
    with pytest.raises(ds.errors.ResumeError, match=r"resize\.downsample was 2, is 4"):
        ds.run_cohort(slides, job=job, steps=other)
    assert work.stores(job) == before
    result = ds.run_cohort(slides, job=job, steps=other, overwrite=True)
    assert (result.done, result.worked_on) == (3, 3)
    changed = {path for path, state in work.stores(job).items() if before[path] != state}
    assert changed == {f"s000{n}/s000{n}.resize.ome.zarr" for n in range(3)}
    assert ds.open_slide(job / "s0000" / "s0000.resize.ome.zarr").shape == (80, 80, 3)


def test_another_version_is_refused(slides, done, sync, monkeypatch):
    monkeypatch.setattr("dask_slides.cohort.results.__version__", "0.0.0")
    with pytest.raises(ds.errors.ResumeError, match="version"):
        ds.run_cohort(slides, job=done, steps=work.STEPS)


def test_a_slide_that_changed_fails_until_it_is_overwritten(tmp_path, sync):
    slides, job = work.slide_files(tmp_path / "s", 2), tmp_path / "job"
    steps = {"resize": {"downsample": 2}}
    ds.run_cohort(slides, job=job, steps=steps)
    work.slide_file(slides / "s0001.tif", seed=9)
    result = ds.run_cohort(slides, job=job, steps=steps)
    row = work.table(job)["s0001"]
    assert (result.done, result.failed) == (1, 1)
    assert (row["error"], "time of change" in row["message"]) == ("ResumeError", True)
    assert ds.run_cohort(slides, job=job, steps=steps, overwrite=True).done == 2
    small = ds.resize(slides / "s0001.tif", downsample=2).data.compute()
    stored = ds.open_slide(job / "s0001" / "s0001.resize.ome.zarr").data.compute()
    assert np.array_equal(stored, small)


def test_an_old_store_that_is_being_replaced_is_not_done(tmp_path, sync):
    slides, job = work.slide_files(tmp_path / "s", 1), tmp_path / "job"
    ds.run_cohort(slides, job=job, steps={"resize": {"downsample": 2}})
    other = {"resize": {"downsample": 4}}
    run_that_fails_to_publish(slides, job, other, overwrite=True)
    store = job / "s0000" / "s0000.resize.ome.zarr"
    assert ds.open_slide(store).shape == (160, 160, 3)
    assert ds.run_cohort(slides, job=job, steps=other, overwrite=True).done == 1
    assert ds.open_slide(store).shape == (80, 80, 3)


@pytest.mark.parametrize(("before", "after", "side"), [(2, 4, 80), (2.0, 2, 160)])
def test_an_unfinished_store_is_resumed_or_discarded(tmp_path, sync, before, after, side):
    slides, job = work.slide_files(tmp_path / "s", 1), tmp_path / "job"
    run_that_fails_to_publish(slides, job, {"resize": {"downsample": before}})
    assert len(list(job.rglob("*.partial"))) == 1
    assert ds.run_cohort(slides, job=job, steps={"resize": {"downsample": after}}).done == 1
    assert ds.open_slide(job / "s0000" / "s0000.resize.ome.zarr").shape == (side, side, 3)
    assert not list(job.rglob("*.partial"))


def run_that_fails_to_publish(slides, job, steps, **options):
    with pytest.MonkeyPatch.context() as patch:
        name = "dask_slides.writers.store.local_folder.LocalFolder.publish"
        patch.setattr(name, lambda *_: 1 / 0)
        assert ds.run_cohort(slides, job=job, steps=steps, **options).failed == 1


def test_a_store_that_no_run_wrote_is_not_done(tmp_path, sync):
    slides, job = work.slide_files(tmp_path / "s", 1), tmp_path / "job"
    ds.run_cohort(slides, job=job, steps=["mask"])
    ds.write(ds.resize(slides / "s0000.tif", downsample=2), job / "s0000" / "s0000.resize.ome.zarr")
    assert ds.run_cohort(slides, job=job, steps={"resize": {"downsample": 2}}).failed == 1
    assert work.table(job)["s0000"]["error"] == "OutputExistsError"


def test_the_process_list_keeps_the_slides_of_earlier_runs(slides, tmp_path, sync):
    job = tmp_path / "job"
    ds.run_cohort(slides / "s0000.tif", job=job, steps=["mask"])
    row = work.table(job)["s0000"]
    ds.run_cohort(slides / "s0001.tif", job=job, steps=["mask"])
    assert work.table(job)["s0000"] == row
    assert work.statuses(job) == {"s0000": "done", "s0001": "done"}
    assert ds.run_cohort(slides / "s0000.tif", job=job, steps=["mask"]).worked_on == 0
    assert work.table(job)["s0000"] == row


def test_corrupt_tiles_are_filled_on_request(mixed, tmp_path, threads):
    job = tmp_path / "job"
    assert ds.run_cohort(mixed, job=job, steps=work.STEPS).failed == 2
    before = work.stores(job)
    result = ds.run_cohort(mixed, job=job, steps=work.STEPS, on_bad_tile="mask")
    assert (result.done, result.failed, result.filled, result.worked_on) == (5, 1, 1, 2)
    assert work.stores(job).items() >= before.items()
    rows = work.table(job)
    slide = ds.open_slide(mixed / "s0003.tif", on_bad_tile="mask")
    checked = ds.check_slide(mixed / "s0003.tif").bad_tiles
    corrupt = sum(tile.status == "corrupt" for tile in checked)
    found = {int(rows["s0003"][f"{step}_corrupt"]) for step in ("mask", "resize", "cutoff")}
    assert found == {corrupt} and corrupt
    assert rows["s0000"]["mask_corrupt"] == "0"
    store = job / "s0003" / "s0003.resize.ome.zarr"
    expected = ds.resize(slide, **work.STEPS["resize"]).data.compute()
    np.testing.assert_array_equal(ds.open_slide(store).data.compute(), expected)
    ds.verify(store)
    again = ds.run_cohort(mixed, job=job, steps=work.STEPS)
    assert (again.done, again.filled) == (4, 0)
    assert work.table(job)["s0003"]["error"] == "ResumeError"
    assert "on_bad_tile" in work.table(job)["s0003"]["message"]
    last = ds.run_cohort(mixed, job=job, steps=work.STEPS, on_bad_tile="mask")
    assert (last.done, last.worked_on) == (5, 1)


@pytest.fixture
def mixed(tmp_path):
    """Write six slides, of which the second and the fourth are damaged."""
    folder = work.slide_files(tmp_path / "mixed", 6)
    (folder / "s0001.tif").write_bytes(b"II*\0 and no more")
    data = bytearray((folder / "s0003.tif").read_bytes())
    data[2000:30000] = bytes(28000)  # tiles, not tags
    (folder / "s0003.tif").write_bytes(data)
    return folder


def test_a_bad_slide_does_not_stop_the_others(mixed, tmp_path, threads, caplog):
    job = tmp_path / "job"
    with caplog.at_level(logging.INFO, "dask_slides.cohort"):
        result = ds.run_cohort(mixed, job=job, steps=work.STEPS)
    assert (result.done, result.failed, result.todo) == (4, 2, 0)
    rows = work.table(job)
    assert rows["s0001"]["error"] == "SlideTruncatedError"
    assert rows["s0003"]["error"] == "TileDecodeError"
    assert "s0003.tif" in rows["s0003"]["message"]
    assert "s0003: failed, TileDecodeError" in (job / "cohort.log").read_text()
    assert "Traceback" not in caplog.text
    before = work.stores(job)
    work.slide_file(mixed / "s0001.tif", 1)
    result = ds.run_cohort(mixed, job=job, steps=work.STEPS)
    assert (result.done, result.failed, result.worked_on) == (5, 1, 2)
    assert before.items() <= work.stores(job).items()


def test_a_run_names_what_it_leaves_out(slides, tmp_path, sync, caplog):
    folder, job = shutil.copytree(slides, tmp_path / "mixed"), tmp_path / "job"
    (folder / "notes.txt").touch()
    (folder / "s0001.tif").write_bytes(b"II*\0 and no more")
    table = f"path,label\n{folder}/s0002.tif,a\n{folder}/gone.tif,b\n,c\n"
    (tmp_path / "list.csv").write_text(table)
    with caplog.at_level(logging.INFO, "dask_slides.cohort"):
        result = ds.run_cohort([tmp_path / "list.csv", folder / "s0000.tif"], job=job, steps="mask")
    assert (result.done, result.failed) == (2, 1)
    row, gone = result.left_out
    assert row == f"{tmp_path}/list.csv, line 4: has no path; give one or remove it"
    assert gone.startswith(f"{folder}/gone.tif: No such file")
    assert work.table(job)["gone"]["label"] == "b"
    result = ds.run_cohort(folder, job=tmp_path / "other", steps="mask")
    assert [line.split(": ")[0] for line in result.left_out] == [
        f"{folder}/notes.txt", f"{folder}/s0001.tif"
    ]  # fmt: skip
    for text in (caplog.text, (job / "cohort.log").read_text()):
        assert f"left out: {row}" in text and "gone.tif: No such file" in text


def test_an_unexpected_error_is_in_the_log(slides, tmp_path, sync, monkeypatch):
    monkeypatch.setattr("dask_slides.cohort.steps.pack_tiles", lambda *_, **__: 1 / 0)
    ds.run_cohort(slides, job=tmp_path / "job", steps=["mask", "pack"])
    row = work.table(tmp_path / "job")["s0000"]
    assert (row["error"], row["mask_tiles"]) == ("ZeroDivisionError", "4")
    assert "Traceback" in (tmp_path / "job" / "cohort.log").read_text()


def test_without_keep_going_the_first_failure_ends_the_run(mixed, tmp_path, sync):
    result = ds.run_cohort(mixed, job=tmp_path / "job", steps=["mask"], keep_going=False)
    assert result.failed == 1 and result.todo >= 2
    assert list(work.statuses(tmp_path / "job").values())[:2] == ["done", "failed"]


def test_a_limit_counts_only_processed_slides(slides, tmp_path, sync):
    for expected in (2, 3, 3):
        result = ds.run_cohort(slides, job=tmp_path / "job", steps=["mask"], limit=2)
        assert result.done == expected
        assert result.todo == 3 - expected


def test_a_slide_that_kills_its_workers_is_named(slides, tmp_path):
    (tmp_path / RUN).write_text("1")
    killer = shutil.copy(slides / "s0000.tif", tmp_path / "killer.tif")
    paths = [slides / "s0000.tif", slides / "s0001.tif", killer, slides / "s0002.tif"]
    jobs = [
        SlideJob(str(tmp_path), SlideEntry(path, name=Path(path).stem), ds.open_slide(path),
                 identify(path), (work.Killing(),), "1")
        for path in map(str, paths)
    ]  # fmt: skip
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), local_client(2):
        pool = Pool()
        found = {outcome.name: outcome for outcome in pool.outcomes(jobs)}
        pool.close()
    assert {name for name, one in found.items() if one.status == "done"} == {
        "s0000", "s0001", "s0002"
    }  # fmt: skip
    assert found["killer"].error == "WorkerKilledError"
    assert os.getpid() not in {one.counts.get("killing_pid") for one in found.values()}


def test_work_stops_after_its_run_has_ended(slides, tmp_path):
    job = SlideJob(str(tmp_path), SlideEntry("x", name="x"), ds.open_slide(slides / "s0000.tif"),
                   identify(str(slides / "s0000.tif")), (work.Killing(),), "1")  # fmt: skip
    with dask.config.set(scheduler="threads", num_workers=1):
        for text in (None, "2"):
            if text:
                (tmp_path / RUN).write_text(text)
            pool = Pool()
            assert [(one.name, one.status) for one in pool.outcomes([job])] == [("x", "todo")]
            pool.close()
    assert not (tmp_path / "x").exists()


def test_a_second_run_at_the_same_time_is_refused(slides, done, sync):
    with locked(str(done), str(done)), pytest.raises(ds.errors.OutputBusyError):
        ds.run_cohort(slides, job=done, steps=work.STEPS)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "no step"),
        (["mask", "polish"], "'polish' is not known"),
        ({"mask": {"kernel": "area"}}, "mask has no argument 'kernel'"),
        ({"mask": {"ome_zarr": "9"}}, "0.5"),
        ({"mask": {"shards": False, "format": "ome.tif"}}, "shards=False is for Zarr stores"),
        ({"resize": {"downsample": 0}}, "downsample"),
        ({"cutoff": {"tile_size": 0}}, "tile_size"),
        ({"pack": {"top_k": 0}}, "top_k"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(slides, tmp_path, steps, message):
    with pytest.raises(ds.errors.SlideArgumentError, match=message):
        ds.run_cohort(slides, job=tmp_path / "job", steps=steps)
    assert not (tmp_path / "job").exists()


def test_stores_of_a_run_can_have_no_shards(slides, tmp_path, sync):
    plain = {"shards": False}
    tiles = plain | {"detector": ds.Contrast(0.05)}
    steps = {"mask": plain, "resize": plain | {"downsample": 2},
             "pack": tiles | {"tile_size": 64}, "crops": tiles | {"n": 2, "size": 64}}  # fmt: skip
    ds.run_cohort(slides, job=tmp_path / "job", steps=steps)
    stores = [*(tmp_path / "job").glob("s0000/*.zarr")]
    assert len(stores) == 4
    for store in stores:
        for metadata in store.glob("**/zarr.json"):
            assert "sharding_indexed" not in metadata.read_text()


def test_wrong_jobs_and_limits_are_refused(slides, tmp_path):
    (tmp_path / "process_list.csv").write_text("mine")
    for job, options, error, message in (
        ("s3://bucket/job", {}, ds.errors.SlideArgumentError, "written to a disk"),
        (tmp_path / "job", {"limit": 0}, ds.errors.SlideArgumentError, "limit=0"),
        (tmp_path, {}, ds.errors.OutputExistsError, "not a job folder"),
    ):
        with pytest.raises(error, match=message):
            ds.run_cohort(slides, job=job, steps=["mask"], **options)
    with (
        dask.config.set(scheduler="processes"),
        pytest.raises(ds.errors.SlideArgumentError, match="cannot use scheduler='processes'"),
    ):
        ds.run_cohort(slides, job=tmp_path / "job", steps=["mask"])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["job", "process_list.csv"]


def test_a_slide_without_memory_for_a_task_fails(slides, tmp_path, sync, monkeypatch):
    monkeypatch.setattr("dask_slides.runtime.scheduler.memory_per_thread", lambda _: 1000)
    result = ds.run_cohort(slides, job=tmp_path / "job", steps=["mask"])
    assert result.failed == 3
    assert work.table(tmp_path / "job")["s0000"]["error"] == "SlideMemoryError"


def test_a_table_gives_names_and_mpp(slides, tmp_path, sync):
    text = f"path,mpp,name\n{slides}/s0000.tif,0.5,first\n{slides}/s0001.tif,,\n"
    (tmp_path / "list.csv").write_text(text)
    result = ds.run_cohort(
        tmp_path / "list.csv", job=tmp_path / "job", steps={"resize": {"mpp": 2.0}}
    )
    assert (result.done, result.failed) == (1, 1)
    (line,) = result.left_out
    assert line.startswith("s0001.tif: a target mpp needs the micrometres per pixel")
    assert ds.open_slide(tmp_path / "job/first/first.resize.ome.zarr").shape == (80, 80, 3)
    assert work.table(tmp_path / "job")["s0001"]["error"] == "SlideMppError"


def test_a_name_of_another_slide_of_the_job_is_refused(slides, tmp_path, sync):
    ds.run_cohort(slides / "s0000.tif", job=tmp_path / "job", steps=["mask"])
    (tmp_path / "list.csv").write_text(f"path,name\n{slides}/s0001.tif,S0000\n")
    with pytest.raises(ds.errors.SlideArgumentError, match="'S0000' is the name of another slide"):
        ds.run_cohort(tmp_path / "list.csv", job=tmp_path / "job", steps=["mask"])


def test_slides_with_the_same_file_name_keep_their_folders(slides, tmp_path, sync):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(slides / "s0000.tif", tmp_path / folder / "x.tif")
    job = tmp_path / "job"
    ds.run_cohort(tmp_path / "b", job=job, steps=["mask"])
    before = work.stores(job)
    result = ds.run_cohort([tmp_path / "a", tmp_path / "b"], job=job, steps=["mask"])
    assert (result.done, result.worked_on) == (2, 1)
    assert before.items() <= work.stores(job).items()
    assert work.table(job)["x"]["path"] == str(tmp_path / "b" / "x.tif")


def pixels_read(reads, slide, job, steps, **options):
    """Return how many pixels the steps of a run read; a report reads some tiles more."""
    options = {"report": False} | options
    reads.clear()
    assert ds.run_cohort(slide, job=job / "-".join(steps), steps=steps, **options).done == 1
    return sum(region.area for region in reads)


def test_statistics_of_mask_and_cutoff_and_the_picture_are_read_once(slides, tmp_path, sync, reads):
    options = {"tile_size": 64, "detector": ds.Contrast(0.2)}
    scaled = options | {"shape": (64, 64)}

    def pixels(steps):
        return pixels_read(reads, slides / "s0000.tif", tmp_path, steps)

    alone = pixels({"mask": options})
    assert alone == 2 * 320 * 320  # the statistics, and the picture
    assert pixels({"resize": {"shape": (64, 64)}}) == 320 * 320
    image = pixels({"cutoff": scaled}) - alone
    assert 0 < image < 320 * 320
    assert pixels({"mask": options, "cutoff": scaled}) == alone + image


def test_the_mask_of_mask_cutoff_and_pack_is_found_once(tmp_path, sync, reads):
    image = np.full((320, 320, 3), 238, np.uint8)
    rng = np.random.default_rng(0)
    image[40:220, 40:220] = np.array((170, 90, 160)) + rng.integers(-30, 30, (180, 180, 1))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), compression="zlib")

    def pixels(steps):
        return pixels_read(reads, path, tmp_path, steps, mpp=2.0)

    options, tiles = {"tile_size": 32}, {"tile_size": 64}
    scaled = options | {"shape": (64, 64)}
    alone = pixels({"mask": options})
    assert alone == 2 * 320 * 320  # the overview, and the picture
    cutoff, pack = pixels({"cutoff": scaled}), pixels({"pack": tiles})
    assert alone < cutoff and alone < pack
    every = pixels({"mask": options, "cutoff": scaled, "pack": tiles})
    assert every == cutoff + pack - alone
