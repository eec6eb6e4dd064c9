"""Runs with exports, images in files, and functions of a user."""

import csv
import json
import os
import threading
from pathlib import Path

import cohort_work as work
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from scheduler_processes import local_client

import dask_slides as ds
from dask_slides.cohort.job import RUN
from dask_slides.errors import OutputExistsError
from dask_slides.writers.exports import registry
from dask_slides.writers.exports.output import new_file

GLASS = ds.Contrast(0.2)
PACK = {"tile_size": 64, "detector": GLASS}
CSV = {"of": "pack", "to": "csv"}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return work.slide_files(tmp_path_factory.mktemp("slides") / "s", 2)


def export_project(pack, path, *, overwrite=False, name=None, prefix=""):
    """Write coordinates into a folder for all slides, as TRIDENT has one."""
    os.makedirs(f"{path}/patches", exist_ok=True)
    with new_file(f"{path}/patches/{prefix}{name}.json", overwrite) as partial:
        Path(partial).write_text(json.dumps([pack.y.tolist(), pack.x.tolist()]))
    return path


def export_folder(pack, path, *, overwrite=False):
    """Write one file per tile into a folder, which must be new."""
    os.mkdir(path)
    for y, x in pairs(pack):
        Path(path, f"{y}_{x}").touch()
    return path


@pytest.fixture
def formats(monkeypatch):
    """Add formats of a folder per slide, and of one folder for all slides."""
    project = registry.Exporter("project", ("TilePack",), export_project, "")
    folder = registry.Exporter("folder", ("TilePack",), export_folder, "")
    monkeypatch.setattr(registry, "EXPORTS", (*registry.EXPORTS, project, folder))
    registry.exporters.cache_clear()
    yield
    registry.exporters.cache_clear()


def coordinates(path):
    with open(path, newline="") as stream:
        return [(int(row["y"]), int(row["x"])) for row in csv.DictReader(stream)]


def run(slides, job, steps, **options):
    return ds.run_cohort(slides, job=job, steps=steps, **options)


def pairs(pack):
    return list(zip(pack.y.tolist(), pack.x.tolist(), strict=True))


def test_crops_are_a_step(slides, tmp_path, sync):
    crops = {"n": 7, "size": 48, "seed": 3, "detector": GLASS}
    assert run(slides, tmp_path / "job", {"crops": crops}).done == 2
    for path in sorted(slides.iterdir()):
        made = tmp_path / "job" / path.stem / path.stem
        stored, expected = ds.open_pack(f"{made}.crops.zarr"), ds.random_crops(path, **crops)
        assert pairs(stored) == pairs(expected) and len(stored) == 7
        assert np.array_equal(stored.tiles.compute(), expected.tiles.compute())
        assert Path(f"{made}.crops.png").exists()
        assert work.table(tmp_path / "job")[path.stem]["crops_tiles"] == "7"
    assert run(slides, tmp_path / "job", {"crops": crops}).worked_on == 0


def test_an_export_without_its_store_has_the_tiles_of_the_pack(slides, tmp_path, sync, reads):
    job, alone = tmp_path / "job", {"of": {"pack": PACK}, "to": "csv"}
    assert run(slides, job, {"export": alone}).done == 2
    for path in sorted(slides.iterdir()):
        pack = ds.pack_tiles(path, **PACK)
        assert coordinates(job / "exports" / "pack_csv" / f"{path.stem}.csv") == pairs(pack)
        assert work.table(job)[path.stem]["pack_csv_tiles"] == str(len(pack)) != "0"
    assert not list(job.rglob("*.zarr"))
    reads.clear()
    assert run(slides, job, {"export": alone}).worked_on == 0 and not reads


def test_the_tissue_is_found_once_for_a_pack_and_its_exports(slides, tmp_path, sync, reads):
    def pixels(steps, job):
        reads.clear()
        assert run(slides / "s0000.tif", tmp_path / job, steps).done == 1
        return sum(region.area for region in reads)

    assert pixels({"pack": PACK, "export": CSV}, "b") == pixels({"pack": PACK}, "a") > 0


def test_an_export_is_made_again_if_it_is_gone_or_other(slides, tmp_path, sync):
    job = tmp_path / "job"
    steps = {"export": {"of": {"pack": PACK}, "to": "csv"}}
    run(slides, job, steps)
    first, second = (job / "exports" / "pack_csv" / f"s000{n}.csv" for n in range(2))
    before = second.stat().st_mtime_ns
    first.unlink()
    assert run(slides, job, steps).worked_on == 1
    assert first.exists() and second.stat().st_mtime_ns == before
    other = {"export": {"of": {"pack": PACK | {"top_k": 3}}, "to": "csv"}}
    with pytest.raises(ds.errors.ResumeError, match=r"pack_csv\.of\.top_k was None, is 3"):
        run(slides, job, other)
    assert run(slides, job, other, overwrite=True).done == 2
    assert len(coordinates(first)) == len(coordinates(second)) == 3


def test_a_file_that_no_run_began_is_never_replaced(slides, tmp_path, sync, formats):
    job, steps = tmp_path / "job", {"export": [CSV, {"of": "pack", "to": "project"}], "pack": PACK}
    run(slides / "s0000.tif", job, "mask")
    mine = job / "exports" / "pack_csv" / "s0000.csv"
    also = job / "exports" / "project" / "patches" / "s0000.json"
    for file in (mine, also):
        file.parent.mkdir(parents=True)
        file.write_text("mine")
    for overwrite in (False, True):
        assert run(slides / "s0000.tif", job, steps, overwrite=overwrite).failed == 1
        assert work.table(job)["s0000"]["error"] == OutputExistsError.__name__
    mine.unlink()
    for overwrite in (False, True):
        assert run(slides / "s0000.tif", job, steps, overwrite=overwrite).failed == 1
        assert also.read_text() == "mine" and coordinates(mine)


@pytest.mark.parametrize("when", ["export", "record"])
def test_an_export_that_was_interrupted_is_made_again(slides, tmp_path, sync, when):
    job, steps = tmp_path / "job", {"export": {"of": {"pack": PACK}, "to": "csv"}}
    target = {
        "export": "dask_slides.cohort.file_steps.export",
        "record": "dask_slides.cohort.results.Record.finish",
    }[when]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, lambda *_, **__: 1 / 0)
        assert run(slides, job, steps).failed == 2
    file = job / "exports" / "pack_csv" / "s0000.csv"
    assert file.exists() == (when == "record")
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / f".{'0' * 32}.partial.s0000.csv").touch()  # what a killed process leaves
    assert run(slides, job, steps).done == 2
    assert sorted(os.listdir(file.parent)) == ["s0000.csv", "s0001.csv"]


def test_a_format_of_one_folder_for_all_slides_gets_their_names(slides, tmp_path, sync, formats):
    export = {"of": {"pack": PACK}, "to": "project", "prefix": "of_"}
    assert run(slides, tmp_path / "job", {"export": export}).done == 2
    for path in sorted(slides.iterdir()):
        made = tmp_path / "job" / "exports" / "project" / "patches" / f"of_{path.stem}.json"
        pack = ds.pack_tiles(path, **PACK)
        assert json.loads(made.read_text()) == [pack.y.tolist(), pack.x.tolist()]
    with pytest.raises(ds.errors.SlideArgumentError, match="project names its files"):
        run(slides, tmp_path / "job", {"export": export | {"file": "{name}"}})


def test_a_job_of_trident_has_the_coordinates_and_outlines_of_all_slides(slides, tmp_path, sync):
    job, mask = tmp_path / "job", {"mask": {"tile_size": 64, "detector": GLASS}}
    exports = [{"of": {"pack": PACK}, "to": "trident"}, {"of": mask, "to": "trident"}]
    table = pd.DataFrame({"path": [str(path) for path in sorted(slides.iterdir())], "mpp": 0.5})
    table["name"] = ["first", "second"]
    for worked_on in (2, 0):
        result = run(table, job, {"export": exports})
        assert (result.done, result.worked_on) == (2, worked_on)
    contours = job / "exports" / "trident" / "contours_geojson"
    (contours / "first.geojson").unlink()  # one of the files of a slide in a folder of all
    assert run(table, job, {"export": exports}).worked_on == 1
    for path, name in zip(table.path, table.name, strict=True):
        trident = job / "exports" / "trident"
        with h5py.File(trident / "20x_64px_0px_overlap" / "patches" / f"{name}_patches.h5") as file:
            assert [(y, x) for x, y in file["coords"]] == pairs(ds.pack_tiles(path, **PACK))
        assert json.loads((trident / "contours_geojson" / f"{name}.geojson").read_text())


def test_an_export_gets_the_blank_map_and_the_pack_of_other_steps(slides, tmp_path, sync):
    pq = pytest.importorskip("pyarrow.parquet")
    slide, mask = slides / "s0000.tif", {"tile_size": 64, "detector": GLASS}
    export = {"of": "resize", "to": "spatialdata", "blank_map": "mask", "pack": {"pack": PACK}}
    steps = {"resize": {"downsample": 2}, "mask": mask, "export": export}
    for worked_on in (1, 0):
        result = run(slide, tmp_path / "job", steps)
        assert (result.done, result.worked_on) == (1, worked_on)
    store = tmp_path / "job" / "exports" / "resize_spatialdata" / "s0000.spatialdata.zarr"
    tiles = pq.read_table(store / "shapes" / "tiles" / "shapes.parquet")
    assert tiles.num_rows == len(ds.pack_tiles(slide, **PACK))
    found = zarr.open_array(store / "labels" / "tissue" / "0", mode="r")[:] == 1
    expected = np.asarray(ds.blank_map(slide, **mask).compute().tissue)
    side = 32  # of a tile of the map in the image, which is half as large
    assert np.array_equal(found, expected.repeat(side, 0).repeat(side, 1)[: len(found)])
    with pytest.raises(ds.errors.SlideArgumentError, match="blank_map='pack' makes a TilePack"):
        run(slide, tmp_path / "job", {"export": export | {"blank_map": "pack"}})


def test_a_folder_of_an_export_is_replaced_only_if_a_run_began_it(slides, tmp_path, sync, formats):
    job, steps = tmp_path / "job", {"export": {"of": {"pack": PACK}, "to": "folder"}}
    slide, made = slides / "s0000.tif", job / "exports" / "pack_folder" / "s0000"
    run(slide, job, "mask")
    made.mkdir(parents=True)
    assert run(slide, job, steps, overwrite=True).failed == 1
    made.rmdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dask_slides.cohort.results.Record.finish", lambda *_, **__: 1 / 0)
        assert run(slide, job, steps).failed == 1
    left = job / "exports" / "project" / "patches"
    (left / ".0.partial").mkdir(parents=True)  # what a killed run leaves
    (left / ".1.partial.s0000.json").touch()
    (job / RUN).touch()
    assert run(slide, job, steps).done == 1
    tiles = {f"{y}_{x}" for y, x in pairs(ds.pack_tiles(slide, **PACK))}
    assert set(os.listdir(made)) == tiles and not os.listdir(left)
    best = {"export": {"of": {"pack": PACK | {"top_k": 1}}, "to": "folder"}}
    assert run(slide, job, best, overwrite=True).done == 1
    assert len(os.listdir(made)) == 1


def block_means(image, side):
    height, width, channels = image.shape
    assert height % side == width % side == 0
    blocks = image.reshape(height // side, side, width // side, side, channels)
    return blocks.mean(axis=(1, 3))


def test_images_are_files_of_another_format_on_request(slides, tmp_path, sync):
    job, image = tmp_path / "job", {"format": "ome.tif", "tile_size": 64, "detector": GLASS}
    scaled = {"downsample": 2, "format": "ome.tif"}
    steps = {"mask": image, "resize": scaled, "cutoff": image | scaled}
    assert run(slides, job, steps).done == 2
    made, path = job / "s0000" / "s0000", slides / "s0000.tif"
    cut = ds.cutoff_resize(path, downsample=2, tile_size=64, detector=GLASS)
    blank = ds.blank_map(path, tile_size=64, detector=GLASS).compute().blank
    small = ds.resize(path, downsample=2).data.compute()
    tissue, cutoff = np.where(blank, 0, 255), cut.image.data.compute()
    for step, pixels in (("mask", tissue), ("resize", small), ("cutoff", cutoff)):
        found = tifffile.imread(f"{made}.{step}.ome.tif")
        assert found.shape == pixels.shape, step
        if step == "mask":
            assert np.array_equal(found, pixels)
        else:  # JPEG changes the pixels of noise a lot, and the mean of a block hardly
            found, pixels = (block_means(image, 16) for image in (found, pixels))
            assert np.abs(found - pixels).max() < 4, step
        assert Path(f"{made}.{step}.png").exists() == (step != "resize")
    assert not list(job.rglob("*.zarr"))
    assert run(slides, job, steps).worked_on == 0
    names = {f"s0000{end}" for end in (".mask.ome.tif", ".resize.ome.tif", ".cutoff.ome.tif",
                                       ".mask.png", ".cutoff.png")}  # fmt: skip
    hidden = {".mask.json", ".resize.json", ".cutoff.json", ".slide-card.json"}
    assert set(os.listdir(job / "s0000")) == names | hidden


def test_corrupt_tiles_in_files_are_counted(tmp_path, sync):
    folder, job = work.slide_files(tmp_path / "s", 2), tmp_path / "job"
    data = bytearray((folder / "s0001.tif").read_bytes())
    data[2000:30000] = bytes(28000)  # tiles, not tags
    (folder / "s0001.tif").write_bytes(data)
    corrupt = ds.check_slide(folder / "s0001.tif").statuses["corrupt"]
    steps = {"resize": {"format": "ome.tif", "downsample": 2}, "size": lambda slide: {"a": 1}}
    assert run(folder, job, steps).failed == 1
    result = run(folder, job, steps, on_bad_tile="mask")
    assert (result.done, result.filled, result.worked_on) == (2, 1, 1)
    assert work.table(job)["s0001"]["resize_corrupt"] == str(corrupt) != "0"
    assert run(folder, job, steps).failed == 1  # a strict run does not accept filled pixels


def sizes(slide, folder):
    """Describe a slide, and the pack that a step made of it."""
    name = os.path.basename(folder)
    pack = ds.open_pack(os.path.join(folder, f"{name}.tiles.zarr"))
    total = slide.data.sum(dtype=np.int64).compute()
    return {"tiles": len(pack), "sum": total, "share": np.float32(0.5), "name": slide.name}


def check_sizes(slides, job):
    for path in sorted(slides.iterdir()):
        row = work.table(job)[path.stem]
        assert row["sizes_tiles"] == row["pack_tiles"] != "0"
        assert int(row["sizes_sum"]) == ds.open_slide(path).data.compute().sum(dtype=np.int64)
        assert (row["sizes_share"], row["sizes_name"]) == ("0.5", path.name)


def test_a_function_is_a_step_with_columns_of_its_own(slides, tmp_path, sync):
    job = tmp_path / "job"
    assert run(slides, job, [{"pack": PACK}, sizes]).done == 2
    check_sizes(slides, job)
    calls = []
    again = {"pack": PACK, "sizes": calls.append}
    assert run(slides, job, again).worked_on == 0 and not calls
    check_sizes(slides, job)  # from the records
    work.slide_file(slides / "s0002.tif", 2)
    try:
        assert run(slides, job, [{"pack": PACK}, sizes]).worked_on == 1
        check_sizes(slides, job)
    finally:
        (slides / "s0002.tif").unlink()


def test_a_function_that_fails_fails_its_slide_only(slides, tmp_path, sync):
    job = tmp_path / "job"

    def picky(slide):
        if slide.name == "s0000.tif":
            raise ValueError("no such luck")
        return None

    result = run(slides, job, [picky])
    row = work.table(job)["s0000"]
    assert (result.done, result.failed) == (1, 1)
    assert (row["error"], row["message"]) == ("ValueError", "no such luck")
    assert "in picky" in (job / "cohort.log").read_text()
    calls = []
    assert run(slides, job, {"picky": lambda slide: calls.append(slide.name)}).done == 2
    assert calls == ["s0000.tif"]


def test_a_function_may_return_the_path_of_what_it_wrote(slides, tmp_path, sync):
    job = tmp_path / "job"

    def thumbnail(slide, folder):
        path = Path(folder, "small.npy")
        np.save(path, slide.thumbnail(64))
        return path

    assert run(slides, job, [thumbnail]).done == 2
    assert work.table(job)["s0000"]["thumbnail_output"] == os.path.join("s0000", "small.npy")
    (job / "s0000" / "small.npy").unlink()
    assert run(slides, job, [thumbnail]).worked_on == 1
    assert np.load(job / "s0000" / "small.npy").shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1], "returned list; return a dict of numbers and text"),
        ({"a": [1]}, "a dict with a value of type list"),
        ({"corrupt": 1}, "'corrupt'"),
        ("gone.npy", "gone.npy, which does not exist"),
    ],
)
def test_other_results_of_a_function_fail_the_slide(slides, tmp_path, sync, result, message):
    job = tmp_path / "job"
    assert run(slides / "s0000.tif", job, {"odd": lambda slide: result}).failed == 1
    assert message in work.table(job)["s0000"]["message"]


@pytest.mark.parametrize("whole_below", [250, 0.01], ids=["whole", "by region"])
def test_exports_and_functions_on_a_cluster(slides, tmp_path, whole_below):
    this = os.getpid()

    def where(slide):  # a local function: it is sent by value
        return {"elsewhere": os.getpid() != this, "main": threading.current_thread().name}

    steps = [{"pack": PACK}, {"export": CSV}, sizes, where]
    with local_client(1):
        assert run(slides, tmp_path / "job", steps, whole_below=whole_below).done == 2
    check_sizes(slides, tmp_path / "job")
    for path in sorted(slides.iterdir()):
        file = tmp_path / "job" / "exports" / "pack_csv" / f"{path.stem}.csv"
        assert coordinates(file) == pairs(ds.pack_tiles(path, **PACK))
        assert work.table(tmp_path / "job")[path.stem]["where_elsewhere"] == str(whole_below == 250)


def labelled(slides, **columns):
    return pd.DataFrame({"path": [str(slides / f"s000{n}.tif") for n in range(2)], **columns})


def test_columns_of_the_table_are_in_the_process_list_and_in_packs(slides, tmp_path, sync):
    job, steps = tmp_path / "job", {"pack": PACK, "mask": {"tile_size": 64}}
    table = labelled(slides, label=["a", "b"], fold=[0, 1], mpp=[0.5, None])
    assert run(table, job, steps).done == 2
    header = (job / "process_list.csv").read_text().splitlines()[0]
    assert header.startswith("name,path,mpp,label,fold,status,mask_tiles,")
    row = work.table(job)["s0001"]
    assert (row["label"], row["fold"], row["mpp"]) == ("b", "1", "")
    pack = ds.open_pack(job / "s0001" / "s0001.tiles.zarr")
    assert pack.attributes["metadata"] == {"label": "b", "fold": 1}
    assert run(job / "process_list.csv", job, steps).worked_on == 0  # it is such a table
    assert work.table(job)["s0000"]["mpp"] == "0.5"
    run(slides, tmp_path / "other", steps)
    pack = ds.open_pack(tmp_path / "other" / "s0001" / "s0001.tiles.zarr")
    assert "metadata" not in pack.attributes


def test_columns_may_change_without_writing_pixels_again(slides, tmp_path, sync, reads):
    job, steps = tmp_path / "job", {"pack": PACK, "export": CSV}
    run(labelled(slides, label=["a", "b"]), job, steps)
    store = job / "s0001" / "s0001.tiles.zarr"
    chunks = work.contents(job)
    reads.clear()
    assert run(labelled(slides, label=["a", "c"], age=[3, 4]), job, {"pack": PACK}).worked_on == 0
    assert not reads and work.contents(job) == chunks
    assert ds.open_pack(store).attributes["metadata"] == {"label": "c", "age": 4}
    ds.verify(store)
    assert run(slides, job, {"pack": PACK}).worked_on == 0  # without a table they stay
    assert ds.open_pack(store).attributes["metadata"] == {"label": "c", "age": 4}
    assert (work.table(job)["s0001"]["label"], work.table(job)["s0001"]["age"]) == ("c", "4")
    # formats may contain the columns, so exports are made again
    assert run(labelled(slides, label=["a", "c"], age=[3, 4]), job, steps).worked_on == 2


def test_a_column_with_the_name_of_a_count_is_refused(slides, tmp_path, sync):
    for column, steps in (("mask_tiles", "mask"), ("sizes_a", sizes)):
        table = labelled(slides, **{column: [1, 2]})
        with pytest.raises(ds.errors.SlideArgumentError, match=f"'{column}' of the table"):
            run(table, tmp_path / "job", steps)
        assert not (tmp_path / "job").exists()
