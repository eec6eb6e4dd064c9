"""``dask-slides run`` as a user runs it: options, exit codes, output."""

import json
import os
import shutil

import cohort_work as work
import pytest
from click.testing import CliRunner

import dask_slides as ds
from dask_slides.cli import main


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return work.slide_files(tmp_path_factory.mktemp("cli") / "s", 2)


def run(*words):
    words = ["run", *(str(word) for word in words)]
    if "--scheduler" not in words:
        words += ["--workers", "1"]
    return CliRunner().invoke(main, words)


def test_options_are_passed_to_their_steps(slides, tmp_path, sync):
    job = tmp_path / "job"
    result = run(
        slides / "*.tif", "-o", job, "--downsample", 2, "--mask-tile-size", 64,
        "--mask-detector", "contrast", "--mask-ratio", 0.04, "--pack-tile-size", 80,
        "--pack-downsample", 2, "--pack-detector", "contrast", "--pack-ratio", 0.2,
        "--pack-top-k", 3, "--ome-zarr", "0.4",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{job}: 2 done, 0 failed, 0 left\nreport: {job}/report.html\n"
    assert "s0000: done" in result.stderr
    made = job / "s0000" / "s0000"
    assert (job / "s0000" / "s0000.mask.ome.zarr" / ".zattrs").exists()
    assert ds.open_slide(f"{made}.mask.ome.zarr").shape == (5, 5, 1)
    assert ds.open_slide(f"{made}.resize.ome.zarr").shape == (160, 160, 3)
    path, glass = slides / "s0000.tif", ds.Contrast(0.04)
    cut = ds.cutoff_resize(path, downsample=2, tile_size=64, detector=glass)
    assert ds.open_slide(f"{made}.cutoff.ome.zarr").shape == cut.image.shape
    pack = ds.pack_tiles(path, tile_size=80, downsample=2, detector=ds.Contrast(0.2), top_k=3)
    stored = ds.open_pack(f"{made}.tiles.zarr")
    assert stored.attributes == pack.attributes
    assert 0 < len(stored) == len(pack) <= 3


def test_one_slide_is_not_several(slides, tmp_path):
    result = run(slides / "s0000.tif", "-o", tmp_path / "job", "--steps", "mask")
    assert result.stderr.splitlines()[0].endswith("1 slide, 0 already done")


def test_limits_and_on_bad_tile_apply_to_every_slide(slides, tmp_path, sync):
    job = tmp_path / "job"
    words = (slides, "-o", job, "--steps", "mask")
    assert run(*words, "--limits", "pixels=5000").exit_code == 3
    assert "SlideLimitError" in (job / "process_list.csv").read_text()
    assert run(*words, "--limits", "pixels=5000", "--dry-run").stdout.count("2 cannot be read") == 1
    assert run(*words, "--on-bad-tile", "mask").exit_code == 0  # limits do not change results
    estimate = run(*words, "--on-bad-tile", "mask", "--dry-run").stdout
    assert estimate.startswith("slides   2: 2 done, 0 cannot be read\n")


def test_the_exit_code_is_3_if_a_slide_fails(slides, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0")
    job = tmp_path / "job"
    result = run(slides, bad, "-o", job, "--steps", "mask", "--json")
    assert result.exit_code == 3
    facts = json.loads(result.stdout)
    assert (facts["slides"], facts["done"], facts["failed"], facts["todo"]) == (3, 2, 1, 0)
    assert (
        result.stderr == f"dask-slides: 1 of 3 slides failed; see why in {job}/process_list.csv\n"
    )
    assert run(slides, "-o", job, "--steps", "mask").exit_code == 0


def test_the_exit_code_is_3_if_tiles_are_filled(tmp_path):
    slides = work.slide_files(tmp_path / "s", 2)
    data = bytearray((slides / "s0001.tif").read_bytes())
    data[2000:30000] = bytes(28000)  # tiles, not tags
    (slides / "s0001.tif").write_bytes(data)
    job = tmp_path / "job"
    words = (slides, "-o", job, "--steps", "mask", "-q", "--on-bad-tile", "mask")
    for _ in range(2):
        result = run(*words)
        assert result.exit_code == 3
        message = f"corrupt tiles of 1 of 2 slides were filled; see how many in {job}/process_list"
        assert result.stderr == f"dask-slides: {message}.csv\n"
        assert work.table(job)["s0001"]["status"] == "done"


def test_a_dry_run_prints_the_work_that_is_left(slides, tmp_path):
    words = [slides, "-o", tmp_path / "job", "--steps", "resize", "--downsample", 2]
    result = run(*words, "--dry-run", "--json")
    facts = json.loads(result.stdout)
    assert (facts["slides"], facts["done"], facts["tasks"]) == (2, 0, 2)
    assert facts["bytes_to_write"] == 2 * 160 * 160 * 3
    assert facts["megapixels"] == pytest.approx(2 * 0.32**2)
    assert facts["threads"] == 1
    assert not (tmp_path / "job").exists()
    assert run(*words, "--limit", 1).exit_code == 0
    before = work.stores(tmp_path / "job")
    facts = json.loads(run(*words, "--dry-run", "--json").stdout)
    assert (facts["done"], facts["tasks"]) == (1, 1)
    assert work.stores(tmp_path / "job") == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none/*.svs"], 1, "no slide matches"),
        (["SLIDES", "--steps", "mask,polish"], 2, "'polish' is not known"),
        (["SLIDES", "--steps", ","], 2, "no step"),
        (["SLIDES", "--downsample", "2", "--mpp", "1"], 2, "exclude"),
        (["SLIDES", "--mask-detector", "nose"], 2, "otsu"),
        (["SLIDES", "--mask-ratio", "0.1"], 2, "tissue has no ratio"),
        (["SLIDES", "--layout", "rows"], 2, "'islands'"),
        (["SLIDES", "--export", "csv"], 2, "give a step and a format, such as pack:csv"),
        (["SLIDES", "--export", "pack:xls"], 2, "'xls' is not known"),
        (["SLIDES", "--export", "pack:jpeg,quality"], 2, "give a name, = and a value"),
        (["SLIDES", "--export", "pack:jpeg,size=9"], 2, "jpeg has no option 'size'"),
        (["SLIDES", "--steps", "crops"], 2, "crops need --crops-n and --crops-size"),
        (["SLIDES", "--export", "crops:csv", "--crops-n", "3"], 2, "need --crops-n and --crops-s"),
        (["SLIDES", "--magnification", "-1"], 2, "magnification"),
        ([], 2, "SLIDES"),
    ],
)
def test_wrong_use_leaves_no_files(slides, tmp_path, words, code, message):
    words = [slides if word == "SLIDES" else word for word in words]
    for extra in ([], ["--dry-run"]):
        result = run(*words, "-o", tmp_path / "job", *extra)
        assert result.exit_code == code, result.stderr
        assert message in result.stderr
        assert not os.listdir(tmp_path)


def test_slides_that_would_be_enlarged_fail(slides, tmp_path):
    words = [slides, "-o", tmp_path / "job", "--steps", "resize", "--slide-mpp", 0.5, "--mpp", 0.3]
    planned = run(*words, "--dry-run")
    assert planned.exit_code == 2 and planned.stderr.count("\n") == 1
    assert "s0000.tif: mpp 0.3 enlarges the slide" in planned.stderr
    assert run(*words, "--enlarge", "--dry-run").exit_code == 0
    assert run(*words, "-q").exit_code == 3
    assert all("--enlarge" in row["message"] for row in work.table(tmp_path / "job").values())
    assert run(*words, "-q", "--enlarge").exit_code == 0
    assert ds.open_slide(tmp_path / "job/s0000/s0000.resize.ome.zarr").shape == (533, 533, 3)


def test_steps_take_a_magnification_a_layout_and_a_share_of_tissue(slides, tmp_path):
    words = ["--slide-mpp", 0.25, "--magnification", 20, "--layout", "islands"]
    words += ["--mask-detector", "contrast", "--mask-tile-size", 64, "--mask-min-tissue", 0.3]
    result = run(slides, "-o", tmp_path / "job", "--steps", "resize,cutoff", *words)
    assert result.exit_code == 0, result.stderr
    made = tmp_path / "job" / "s0000" / "s0000"
    assert ds.open_slide(f"{made}.resize.ome.zarr").shape == (160, 160, 3)
    cut = ds.cutoff_resize(
        ds.open_slide(slides / "s0000.tif", mpp=0.25), mpp=0.5, tile_size=64,
        detector=ds.Contrast(0.05), layout="islands",
    )  # fmt: skip
    assert ds.open_slide(f"{made}.cutoff.ome.zarr").shape == cut.image.shape


def test_a_table_exports_and_crops(slides, tmp_path, sync):
    job = tmp_path / "job"
    (tmp_path / "list.csv").write_text(f"path,label\n{slides}/s0000.tif,a\n{slides}/s0001.tif,b\n")
    words = ["--pack-tile-size", 80, "--pack-detector", "contrast", "--pack-ratio", 0.2]
    words += ["--crops-n", 5, "--crops-size", 40, "--crops-seed", 2, "--crops-detector", "contrast"]
    words += ["--steps", "crops", "--export", "pack:csv", "--export", "crops:csv"]
    words += ["--export", "crops:jpeg,quality=50"]
    result = run(tmp_path / "list.csv", "-o", job, *words)
    assert result.exit_code == 0, result.stderr
    path = slides / "s0001.tif"
    crops = ds.random_crops(path, n=5, size=40, seed=2, detector=ds.Contrast())
    pack = ds.pack_tiles(path, tile_size=80, detector=ds.Contrast(0.2))
    row = work.table(job)["s0001"]
    assert (row["label"], row["crops_tiles"], row["pack_csv_tiles"]) == ("b", "5", str(len(pack)))
    assert ds.open_pack(job / "s0001" / "s0001.crops.zarr").y.tolist() == crops.y.tolist()
    lines = (job / "exports" / "crops_csv" / "s0001.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["y", *map(str, crops.y.tolist())]
    assert not list(job.glob("*/*.tiles.zarr"))
    assert len(list((job / "exports" / "crops_jpeg" / "s0001").glob("*.jpg"))) == 5


def test_what_is_left_out_is_in_the_last_lines(slides, tmp_path):
    folder = shutil.copytree(slides, tmp_path / "mixed")
    (folder / "a.lif").touch()
    (folder / "s0001.tif").write_bytes(b"II*\0")
    words = (folder, "-o", tmp_path / "job", "--steps", "mask")
    for extra in (["--dry-run"], []):
        result = run(*words, *extra)
        lines = [line for line in result.stderr.splitlines() if line.startswith("dask-slides: ")]
        assert lines[0].startswith(
            f"dask-slides: left out: {folder}/a.lif: is a Leica LIF; convert"
        )
        assert lines[1].startswith(f"dask-slides: left out: {folder}/s0001.tif: ")
        facts = json.loads(run(*words, *extra, "--json").stdout)
        assert [f"dask-slides: left out: {line}" for line in facts["left_out"]] == lines[:2]
    for number in range(30):
        (folder / f"{number}.czi").touch()
    assert "dask-slides: 12 more were left out; see all in cohort.log" in run(*words).stderr
