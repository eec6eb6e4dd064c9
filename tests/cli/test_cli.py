"""The command line, run as a user runs it: exit codes, output, one line for an error."""

import json
import logging
import os
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image
from tiff_bytes import tags_of, tiff

import dask_slides as ds
from dask_slides.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a slide: noise on white in the middle rows, glass around it."""
    folder = tmp_path_factory.mktemp("cli")
    pixels = np.full((600, 800, 3), 240, np.uint8)
    rng = np.random.default_rng(0)
    pixels[200:400, 200:600] = rng.integers(0, 255, (200, 400, 3), dtype=np.uint8)
    tifffile.imwrite(
        folder / "slide.tif", pixels, tile=(64, 64), compression="zlib", photometric="rgb"
    )
    tifffile.imwrite(folder / "glass.tif", pixels[:160, :160], tile=(64, 64), photometric="rgb")
    return folder


def run(folder, *words):
    """Run a command in `folder`."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(main, [str(word) for word in words])
    finally:
        os.chdir(before)


def test_info_tells_shape_levels_and_that_mpp_is_not_known(folder):
    result = run(folder, "info", "slide.tif", "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0
    assert facts["shape"] == [600, 800, 3]
    assert facts["mpp"] is None
    assert facts["levels"][0]["tile"] == [64, 64]
    assert "600 x 800 x 3 uint8" in run(folder, "info", "slide.tif").stdout
    assert "0.5" in run(folder, "info", "slide.tif", "--slide-mpp", 0.5).stdout


def test_resize_writes_what_the_function_gives(folder):
    result = run(folder, "resize", "slide.tif", "r.ome.zarr", "--downsample", 4, "--gap", "none")
    assert result.exit_code == 0, result.stderr
    with tifffile.TiffFile(folder / "slide.tif") as tiff:
        whole = Image.fromarray(tiff.asarray())
    expected = np.asarray(whole.resize((200, 150), Image.Resampling.LANCZOS))
    stored = da.from_zarr(str(folder / "r.ome.zarr"), component="0").compute()
    np.testing.assert_array_equal(stored.transpose(1, 2, 0), expected)


def test_mask_counts_the_blank_tiles(folder):
    result = run(folder, "mask", "slide.tif", "m.ome.zarr", "--tile-size", 100, "--json")
    facts = json.loads(result.stdout)
    assert (facts["tiles"], facts["blank"]) == ([6, 8], 48 - 2 * 4)


def test_cutoff_keeps_the_rows_with_tissue(folder):
    words = ["cutoff", "slide.tif", "c.ome.zarr", "--tile-size", 100, "--downsample", 2, "--json"]
    facts = json.loads(run(folder, *words).stdout)
    assert facts["shape"] == [100, 200, 3]
    assert facts["gain"] == pytest.approx(2)


def test_pack_and_crops_write_packs(folder):
    words = ["pack", "slide.tif", "p.tiles.zarr", "--tile-size", 100, "--top-k", 3]
    assert run(folder, *words).exit_code == 0
    assert ds.open_pack(folder / "p.tiles.zarr").tiles.shape == (3, 100, 100, 3)
    words = ["crops", "slide.tif", "k.tiles.zarr", "-n", 5, "--size", 64, "--seed", 2]
    assert run(folder, *words).exit_code == 0
    stored = ds.open_pack(folder / "k.tiles.zarr")
    again = ds.random_crops(folder / "slide.tif", n=5, size=64, seed=2)
    np.testing.assert_array_equal(stored.tiles.compute(), again.tiles.compute())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["resize", "none.tif", "o.ome.zarr"], 1, "none.tif"),
        (["resize", "slide.tif", "o.ome.zarr", "--mpp", "1"], 2, "--slide-mpp"),
        (["resize", "slide.tif", "o.ome.zarr", "--downsample", "0"], 2, "downsample"),
        (["resize", "slide.tif", "o.ome.zarr", "--downsample", "2", "--mpp", "1"], 2, "exclude"),
        (["resize", "slide.tif", "o.ome.zarr", "--kernel", "magic"], 2, "lanczos"),
        (["resize", "slide.tif", "o.ome.zarr", "--gap", "wide"], 2, "gap"),
        (["resize", "slide.tif", "o.ome.zarr", "--ome-zarr", "9"], 2, "0.5"),
        (["resize", "slide.tif", "no/o.ome.zarr"], 1, "no folder"),
        (["resize", "slide.tif", "slide.tif"], 1, "is there already"),
        (["resize", "slide.tif", "slide.tif", "--overwrite"], 1, "not written by dask_slides"),
        (["resize", "slide.tif", "o.ome.zarr", "--scheduler", "moon"], 2, "tcp://"),
        (["resize", "slide.tif", "o.ome.zarr", "--scheduler", "none.json"], 2, "no such file"),
        (["mask", "slide.tif", "o.ome.zarr", "--tile-size", "0"], 2, "tile_size"),
        (["mask", "slide.tif", "o.ome.zarr", "--detector", "nose"], 2, "otsu"),
        (["mask", "slide.tif", "o.ome.zarr", "--ratio", "-1"], 2, "ratio"),
        (["cutoff", "glass.tif", "o.ome.zarr"], 1, "blank"),
        (["pack", "slide.tif", "o.tiles.zarr", "--edge", "fall"], 2, "drop"),
        (["pack", "slide.tif", "o.tiles.zarr", "--top-k", "0"], 2, "top_k"),
        (["crops", "slide.tif", "o.tiles.zarr", "-n", "0", "--size", "64"], 2, "n=0"),
        (["crops", "slide.tif", "o.tiles.zarr", "-n", "3", "--size", "900"], 2, "does not fit"),
        (["sample", "no/s.tif"], 1, "no"),
        (["sample", "s.tif", "--tile-size", "17"], 2, "16"),
        (["resize", "slide.tif"], 2, "OUT"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(folder, words, code, said):
    before = sorted(os.listdir(folder))
    result = run(folder, *words)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    if "Usage" not in result.stderr:
        told = [line for line in result.stderr.splitlines() if line.startswith("dask-slides: ")]
        assert told, result.stderr
        assert "Traceback" not in result.stderr
    assert sorted(os.listdir(folder)) == before


def test_an_empty_pack_is_a_result_and_says_why(folder):
    result = run(folder, "pack", "glass.tif", "empty.tiles.zarr", "--tile-size", 64)
    assert result.exit_code == 0
    assert "note: glass.tif: every tile is blank" in result.stderr
    assert len(ds.open_pack(folder / "empty.tiles.zarr")) == 0


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["resize", "slide.tif", "d.ome.zarr", "--downsample", "2"], [300, 400, 3]),
        (["mask", "slide.tif", "d.ome.zarr", "--tile-size", "100"], [6, 8]),
        (["cutoff", "slide.tif", "d.ome.zarr", "--downsample", "2"], [300, 400, 3]),
        (["pack", "slide.tif", "d.tiles.zarr", "--tile-size", "100"], [48, 100, 100, 3]),
        (["crops", "slide.tif", "d.tiles.zarr", "-n", "9", "--size", "64"], [9, 64, 64, 3]),
    ],
)
def test_dry_run_tells_the_plan_and_writes_nothing(folder, words, output):
    before = sorted(os.listdir(folder))
    facts = json.loads(run(folder, *words, "--dry-run", "--json", "--workers", 3).stdout)
    assert facts["source_shape"] == [600, 800, 3]
    assert facts["output_shape"] == output
    assert facts["tasks"] >= 1
    assert facts["bytes_to_write"] >= np.prod(output)
    assert facts["worker_bytes"] == 3 * facts["task_bytes"]
    assert "memory" in run(folder, *words, "--dry-run").stdout
    assert sorted(os.listdir(folder)) == before


def test_progress_is_plain_lines_without_a_terminal_and_silent_if_quiet(folder):
    words = ["mask", "slide.tif", "progress.ome.zarr", "--tile-size", 100, "--overwrite"]
    lines = run(folder, *words).stderr.splitlines()
    assert lines[-1].startswith("blank map: ")
    assert "megapixels/s" in lines[-1]
    assert lines[-1].split()[2].split("/")[0] == lines[-1].split()[2].split("/")[1]
    assert run(folder, *words, "-q").stderr == ""


def test_scheduler_processes_and_an_address_give_the_bytes_of_threads(folder, cluster_address):
    stored = []
    for number, where in enumerate(["threads", "processes", cluster_address]):
        out = f"s{number}.ome.zarr"
        words = ["resize", "slide.tif", out, "--downsample", 3, "--scheduler", where]
        result = run(folder, *words, "--workers", 2)
        assert result.exit_code == 0, result.stderr
        stored.append(da.from_zarr(str(folder / out), component="0").compute())
    np.testing.assert_array_equal(stored[0], stored[1])
    np.testing.assert_array_equal(stored[0], stored[2])


@pytest.fixture(scope="module")
def cluster_address():
    """The address of a real cluster of processes."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        yield cluster.scheduler_address


def test_doctor_finds_this_environment_well():
    result = CliRunner().invoke(main, ["doctor", "--json"])
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert result.exit_code == 0, result.stdout
    assert findings["zarr"]["good"]
    assert findings["codec jpeg2k"]["found"] == "works"
    assert "ok" in CliRunner().invoke(main, ["doctor"]).stdout


def test_doctor_names_a_scheduler_that_does_not_answer_and_one_that_does(cluster_address):
    result = CliRunner().invoke(main, ["doctor", "--scheduler", "tcp://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "MISSING scheduler tcp://127.0.0.1:1" in result.stdout
    result = CliRunner().invoke(main, ["doctor", "--scheduler", cluster_address])
    assert "2 workers, 2 threads" in result.stdout
    assert result.exit_code == 0


def test_doctor_says_what_to_install(monkeypatch):
    from importlib import metadata

    from dask_slides.cli import doctor

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "pip install zarr" in result.stdout
    assert "pip install 'dask-slides[distributed]'" in result.stdout


def test_demo_leaves_pictures_and_stores_that_open(tmp_path):
    folder = tmp_path / "demo"
    result = CliRunner().invoke(main, ["demo", str(folder), "--side", "1536", "--json"])
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    for name in ("thumbnail", "blank-map", "resized", "cutoff", "pack", "crops", "overview"):
        with Image.open(folder / f"{name}.png") as picture:
            assert len(picture.convert("RGB").getcolors(2**24)) > 100  # something is drawn
    assert ds.open_slide(folder / "cutoff.ome.zarr").shape == tuple(facts["cutoff"])
    assert len(ds.open_pack(folder / "dense.tiles.zarr")) == facts["dense_tiles"] > 0
    assert facts["gain"] > 1
    again = CliRunner().invoke(main, ["demo", str(folder), "--side", "1536"])
    assert again.exit_code == 1
    assert "not empty" in again.stderr


def test_the_module_runs_and_verbose_shows_the_traceback(folder):
    command = [sys.executable, "-m", "dask_slides.cli.main", "resize", "none.tif", "o.ome.zarr"]
    short = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert short.returncode == 1
    assert len(short.stderr.splitlines()) == 1
    long = subprocess.run([*command, "-v"], capture_output=True, text=True, cwd=folder, check=False)
    assert "Traceback" in long.stderr
    assert "SlideNotFoundError" in long.stderr


def test_an_interrupt_leaves_nothing_and_says_so(folder, monkeypatch):
    from dask_slides.readers.tiff.source import TiffSource

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TiffSource, "read_valid", interrupted)
    before = sorted(os.listdir(folder))
    result = run(folder, "resize", "slide.tif", "i.ome.zarr", "--downsample", 2)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert sorted(os.listdir(folder)) == before


def test_verify_says_what_is_there_and_finds_damage(folder):
    assert run(folder, "cutoff", "slide.tif", "v.ome.zarr", "--downsample", 2).exit_code == 0
    good = run(folder, "verify", "v.ome.zarr")
    assert good.exit_code == 0
    assert "all as written" in good.stdout
    facts = json.loads(run(folder, "verify", "v.ome.zarr", "--json").stdout)
    assert facts["files"] > 5
    shard = next((folder / "v.ome.zarr" / "0" / "c").rglob("0"))
    while shard.is_dir():
        shard = next(shard.iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    bad = run(folder, "verify", "v.ome.zarr")
    assert bad.exit_code == 1
    assert len(bad.stderr.splitlines()) == 1
    assert "has changed" in bad.stderr
    assert run(folder, "verify", "slide.tif").exit_code == 1
    assert run(folder, "verify", "nothing.zarr").exit_code == 1


def test_resume_goes_on_with_what_was_interrupted(folder, monkeypatch):
    from dask_slides.readers.tiff.source import TiffSource

    def interrupted(*_):
        raise KeyboardInterrupt

    words = (
        "pack",
        "slide.tif",
        "resumed.tiles.zarr",
        "--tile-size",
        64,
        "--ratio",
        0.05,
        "--resume",
    )
    with monkeypatch.context() as patch:
        patch.setattr(TiffSource, "gather", interrupted)
        patch.setattr(TiffSource, "read", interrupted)
        result = run(folder, *words)
    assert result.exit_code == 130
    assert "kept for --resume" in result.stderr
    assert not (folder / "resumed.tiles.zarr").exists()
    other = run(folder, *words[:4], 32, *words[5:])
    assert other.exit_code == 1
    assert "differs in" in other.stderr
    assert run(folder, *words).exit_code == 0
    assert run(folder, "verify", "resumed.tiles.zarr").exit_code == 0
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.mark.parametrize(
    "where", ["tcp://192.0.2.7:8786", "tcp://example.com:8786", "tcp://[2001:db8::1]:8786"]
)
def test_a_scheduler_of_another_machine_without_tls_is_not_called(folder, where):
    words = ("resize", "slide.tif", "x.ome.zarr", "--downsample", 2, "--scheduler")
    file = folder / "scheduler.json"
    file.write_text(json.dumps({"address": where}))
    for scheduler in (where, file):
        result = run(folder, *words, scheduler)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert "tls://" in result.stderr
        assert "--insecure" in result.stderr
    assert not (folder / "x.ome.zarr").exists()


def test_a_scheduler_file_that_is_none(folder):
    (folder / "no.json").write_text("[1]")
    result = run(
        folder, "resize", "slide.tif", "x.ome.zarr", "--downsample", 2, "--scheduler", "no.json"
    )
    assert result.exit_code == 2
    assert "is not a scheduler file" in result.stderr


@pytest.mark.parametrize("options", [(), ("--insecure",)])
def test_a_scheduler_of_this_machine_is_called_all_the_same(folder, cluster_address, options):
    out = f"local{len(options)}.ome.zarr"
    words = ("resize", "slide.tif", out, "--downsample", 2, "--scheduler", cluster_address)
    assert run(folder, *words, *options).exit_code == 0
    assert run(folder, "verify", out).exit_code == 0


def odd_strips(path, tables):
    """Write a file of two strips with tables of other sizes, of which tifffile logs an error."""
    strips = [np.full((16, 48, 3), value, np.uint8) for value in (10, 20, 30)][:tables]
    path.write_bytes(tiff(tags_of((32, 48, 3), 1, 16), [part.tobytes() for part in strips]))


@pytest.mark.parametrize("words", [["info"], ["info", "--check"]])
@pytest.mark.parametrize("tables, told", [(3, []), (1, ["dask-slides: "])])
def test_the_words_of_libraries_are_not_printed(tmp_path, words, tables, told):
    odd_strips(tmp_path / "a.tif", tables)
    done = subprocess.run(
        [sys.executable, "-m", "dask_slides.cli.main", *words, "a.tif"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert [line[:13] for line in done.stderr.splitlines()] == told
    assert done.returncode == len(told)


def test_workers_print_no_words_of_libraries_either(tmp_path):
    odd_strips(tmp_path / "a.tif", 3)
    words = ["resize", "a.tif", "r.ome.zarr", "--downsample", "2", "--scheduler", "processes",
             "--workers", "1", "-q"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dask_slides.cli.main", *words],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_ccitt_is_heard_in_the_command_line(tmp_path):
    pixels = np.zeros((40, 48), bool)
    pixels[10:20, 5:30] = True
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="group4")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    assert run(tmp_path, "info", "a.tif", "--check").exit_code == 0
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff_:
        start, count = tiff_.pages[0].dataoffsets[0], tiff_.pages[0].databytecounts[0]
    data[start + 2 : start + count] = bytes(count - 2)
    (tmp_path / "a.tif").write_bytes(data)
    result = run(tmp_path, "info", "a.tif", "--check")
    assert result.exit_code == 3
    assert "CCITT" in result.stderr and result.stderr.count("\n") == 1


def test_loggers_are_as_they_were_after_a_command(folder):
    loggers = [logging.getLogger(name) for name in ("tifffile", "imagecodecs")]
    before = [(logger.propagate, list(logger.handlers), logger.level) for logger in loggers]
    assert run(folder, "info", "slide.tif").exit_code == 0
    assert run(folder, "info", "none.tif").exit_code == 1
    assert [(one.propagate, list(one.handlers), one.level) for one in loggers] == before
