"""The command line as a user runs it: results, exit codes and error messages."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import click
import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from PIL import Image
from tiff_bytes import tags_of, tiff

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.cli.group import COMMANDS
from dask_slides.writers import packs

TISSUE, TUMOUR = (200, 200, 200, 400), (200, 200, 200, 150)
"""Rectangles y, x, height, width of the annotations."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a slide of noise in the middle of white glass, and annotations."""
    folder = tmp_path_factory.mktemp("cli")
    pixels = np.full((600, 800, 3), 240, np.uint8)
    rng = np.random.default_rng(0)
    pixels[200:400, 200:600] = rng.integers(0, 255, (200, 400, 3), dtype=np.uint8)
    tifffile.imwrite(
        folder / "slide.tif", pixels, tile=(64, 64), compression="zlib", photometric="rgb"
    )
    tifffile.imwrite(folder / "glass.tif", pixels[:160, :160], tile=(64, 64), photometric="rgb")
    for name, (y, x, height, width) in {"tissue": TISSUE, "tumour": TUMOUR}.items():
        ring = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
        polygon = {"type": "Polygon", "coordinates": [ring]}
        properties = {"objectType": "annotation", "classification": {"name": name}}
        feature = {"type": "Feature", "geometry": polygon, "properties": properties}
        (folder / f"{name}.geojson").write_text(json.dumps([feature]))
    (folder / "stored" / "empty").mkdir(parents=True)
    pack = ds.pack_tiles(folder / "slide.tif", tile_size=100, detector=ds.Contrast())
    ds.write(pack, folder / "stored" / "p.tiles.zarr")
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """Return a function that runs a command in `folder`."""
    monkeypatch.chdir(folder)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def test_info_prints_shape_levels_and_mpp(run):
    result = run("info", "slide.tif", "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0
    assert facts["shape"] == [600, 800, 3]
    assert facts["mpp"] is None
    assert facts["levels"][0]["tile"] == [64, 64]
    assert "600 x 800 x 3 uint8" in run("info", "slide.tif").stdout
    assert facts["magnification"] is None
    assert "mpp      0.5 µm, as at 20x\n" in run("info", "slide.tif", "--slide-mpp", 0.5).stdout


@pytest.mark.parametrize("detector", ["tissue", "contrast"])
def test_info_describes_a_blank_map(run, folder, detector):
    out = f"info-{detector}.ome.zarr"
    words = ["slide.tif", out, "--detector", detector, "--tile-size", 64, "--slide-mpp", 0.5]
    made = json.loads(run("mask", *words, "--json").stdout)
    facts = json.loads(run("info", out, "--json").stdout)
    assert (facts["kind"], facts["slide"], facts["slide_shape"]) == (
        "blank map", "slide.tif", [600, 800],
    )  # fmt: skip
    assert (facts["mpp"], facts["tile_size"], facts["tiles"]) == (0.5, [64, 64], [10, 13])
    assert (facts["blank"], facts["unknown"]) == (made["blank"], made["unknown"])
    assert (facts["min_tissue"] is None) == (detector == "contrast")
    lines = run("info", out).stdout.splitlines()
    assert lines[:3] == [
        "store    blank map", "slide    slide.tif: 600 x 800", "mpp      0.5 µm"
    ]  # fmt: skip
    assert lines[3] == f"tiles    10 x 13 of 64 x 64: {made['blank']} blank"
    # the rectangle of noise is 1/6 of the slide; it touches 4 x 7 tiles
    share = {"tissue": 1 / 6, "contrast": 4 * 7 * 64**2 / (600 * 800)}[detector]
    assert facts["tissue_share"] == pytest.approx(share, rel=0.25 if detector == "tissue" else 1e-9)
    assert lines[4] == f"tissue   {facts['tissue_share']:.1%} of the area"


def test_resize_writes_the_result_of_the_function(run, folder):
    result = run("resize", "slide.tif", "r.ome.zarr", "--downsample", 4, "--gap", "none")
    assert result.exit_code == 0, result.stderr
    expected = ds.resize(folder / "slide.tif", downsample=4, gap=None).data.compute()
    np.testing.assert_array_equal(ds.open_slide(folder / "r.ome.zarr").data.compute(), expected)


def test_mask_counts_the_blank_tiles(run):
    result = run("mask", "slide.tif", "m.ome.zarr", "--tile-size", 100, "--json")
    facts = json.loads(result.stdout)
    assert (facts["tiles"], facts["blank"]) == ([6, 8], 48 - 2 * 4)


def test_cutoff_keeps_the_rows_with_tissue(run):
    words = ["cutoff", "slide.tif", "c.ome.zarr", "--tile-size", 100, "--downsample", 2, "--json"]
    facts = json.loads(run(*words).stdout)
    assert facts["shape"] == [100, 200, 3]
    assert facts["gain"] == pytest.approx(2)
    line = run(*words[:-1], "--overwrite").stdout
    assert "2.00 times the resolution of the whole slide at the same longest side" in line


def test_cutoff_places_islands(run, folder):
    words = ["cutoff", "slide.tif", "islands.ome.zarr", "--tile-size", 100, "--downsample", 2]
    assert run(*words, "--layout", "islands").exit_code == 0
    cut = ds.cutoff_resize(folder / "slide.tif", tile_size=100, downsample=2, layout="islands")
    written = ds.open_slide(folder / "islands.ome.zarr").data.compute()
    np.testing.assert_array_equal(written, cut.image.data.compute())
    assert run(*words, "--layout", "rows").exit_code == 2


def test_pack_and_crops_write_packs(run, folder):
    words = ["pack", "slide.tif", "p.tiles.zarr", "--tile-size", 100, "--top-k", 3]
    words += ["--detector", "contrast", "--ratio", 0.35]
    assert run(*words).exit_code == 0
    assert ds.open_pack(folder / "p.tiles.zarr").tiles.shape == (3, 100, 100, 3)
    words = ["crops", "slide.tif", "k.tiles.zarr", "-n", 5, "--size", 64, "--seed", 2]
    assert run(*words).exit_code == 0
    stored = ds.open_pack(folder / "k.tiles.zarr")
    again = ds.random_crops(folder / "slide.tif", n=5, size=64, seed=2)
    np.testing.assert_array_equal(stored.tiles.compute(), again.tiles.compute())


MAP = ["--blank-map", "tissue.geojson"]
FINE = ["resize", "slide.tif", "o.ome.zarr", "--slide-mpp", "0.5"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["resize", "none.tif", "o.ome.zarr"], 1, "none.tif"),
        (["resize", "slide.tif", "o.ome.zarr", "--mpp", "1"], 2, "--slide-mpp"),
        (["resize", "slide.tif", "o.ome.zarr", "--downsample", "0"], 2, "downsample"),
        (["resize", "slide.tif", "o.ome.zarr", "--kernel", "magic"], 2, "'lanczos'"),
        (["resize", "slide.tif", "o.ome.zarr", "--gap", "wide"], 2, "none"),
        (["resize", "slide.tif", "o.ome.zarr", "--ome-zarr", "9"], 2, "'0.5'"),
        (["resize", "slide.tif", "no/o.ome.zarr"], 1, "is not a directory"),
        (["resize", "slide.tif", "slide.tif", "--overwrite"], 2, "use 'slide.ome.zarr'"),
        (["pack", "slide.tif", "out/p.zip"], 2, "use 'out/p.tiles.zarr'"),
        (["sample", "s.ome.zarr"], 2, "use 's.tif'"),
        (["resize", "slide.tif", "o.ome.zarr", "--scheduler", "moon"], 2, "tcp://"),
        (["resize", "slide.tif", "o.ome.zarr", "--scheduler", "none.json"], 2, "no such file"),
        (["mask", "slide.tif", "o.ome.zarr", "--detector", "nose"], 2, "'otsu'"),
        (["cutoff", "glass.tif", "o.ome.zarr"], 1, "blank"),
        (["pack", "slide.tif", "o.tiles.zarr", "--edge", "fall"], 2, "'drop'"),
        (["crops", "slide.tif", "o.tiles.zarr", "-n", "3", "--size", "900"], 2, "does not fit"),
        (["sample", "no/s.tif"], 1, "no"),
        (["sample", "slide.tif"], 1, "already exists; overwrite it, or choose another name"),
        (["pack", "slide.tif", "o.csv", "--tile-size", "900"], 2, "or choose pad for the edge"),
        (["pack", "slide.tif", "o.csv", "--blank-map", "stored"], 1, "is a folder, not a file"),
        (["pack", "slide.tif", "o.csv", "--blank-map", "slide.tif"], 1, "file: it is not text"),
        (
            ["pack", "slide.tif", "o.csv", "--blank-map", "stored/p.tiles.zarr"],
            1,
            "is a store of kind 'pack', not a blank map; give a store",
        ),
        (["mask", "stored/p.tiles.zarr", "o.geojson"], 1, "is a tile pack; give its slide"),
        (["info", "stored/empty"], 1, "not an OME-Zarr image; give the folder"),
        (["verify", "stored"], 1, "use check_slide or dask-slides info --check"),
        (["mask", "slide.tif", "o.json"], 2, "use 'o.ome.zarr', or the ending .geojson"),
        (["mask", "slide.tif", "o.tiles.zarr"], 2, "not the name of an image; use 'o.ome.zarr'"),
        (["resize", "slide.tif", "o.tiles.zarr/"], 2, "use 'o.ome.zarr'"),
        (["pack", "slide.tif", "o.ome.zarr"], 2, "of an image, not of tiles; use 'o.tiles.zarr'"),
        (["crops", "slide.tif", "o.ome.zarr", "-n", "3", "--size", "9"], 2, "use 'o.tiles.zarr'"),
        (["mask", "slide.tif", "no/o.geojson"], 1, "is not a directory"),
        (["mask", "slide.tif", "tissue.geojson"], 1, "already exists"),
        (["mask", "slide.tif", "o.ome.zarr", "--ratio", "0.1"], 2, "tissue has no ratio"),
        (["pack", "slide.tif", "o.tiles.zarr", "--detector", "otsu", *MAP], 2, "exclude"),
        (["cutoff", "slide.tif", "o.ome.zarr", "--detector", "otsu", *MAP], 2, "exclude"),
        (["pack", "slide.tif", "o.tiles.zarr", "--labels", "no.geojson"], 1, "no.geojson"),
        (["pack", "glass.tif", "o.tiles.zarr", "--tile-size", "64", *MAP], 2, "outside"),
        (["resize", "slide.tif", "o.ome.zarr", "--magnification", "20"], 2, "--slide-mpp"),
        ([*FINE, "--magnification", "20", "--mpp", "1"], 2, "magnification and mpp exclude"),
        ([*FINE, "--downsample", "2", "--mpp", "1"], 2, "exclude"),
        (["sample", "s.tif", "--compression", "zip"], 2, "'deflate'"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_files(run, folder, words, code, message):
    before = sorted(os.listdir(folder))
    result = run(*words)
    assert result.exit_code == code, result.stderr
    *_, last = result.stderr.splitlines()
    assert message in last
    assert last.startswith(("dask-slides: ", "Error: "))
    assert "Traceback" not in result.stderr
    assert sorted(os.listdir(folder)) == before


@contextmanager
def forbidden(folder):
    """Let this process create nothing in `folder` inside the block."""
    user = os.geteuid()
    os.chmod(folder, 0o555)
    if user == 0:  # root may write everywhere
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        os.chmod(folder, 0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX are needed")
@pytest.mark.parametrize(
    "words",
    ["sample a.tif --shape 99 99", "mask slide.tif a.geojson", "run slide.tif -o a",
     "pack slide.tif a.csv", "pack slide.tif a --to clam", "demo a --side 1024"],
)  # fmt: skip
def test_a_folder_without_permission_is_named(folder, tmp_path, monkeypatch, words):
    (name,) = (word for word in words.split() if word.startswith("a"))
    shutil.copy(folder / "slide.tif", tmp_path)
    monkeypatch.chdir(tmp_path)
    # modules are imported at their first use, and the other user may not be able to read them
    assert CliRunner().invoke(main, words.split()).exit_code == 0
    with tempfile.TemporaryDirectory() as path:  # other users cannot enter `tmp_path`
        shutil.copy(folder / "slide.tif", path)
        monkeypatch.chdir(path)
        with forbidden(path):
            result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"dask-slides: {path}/{name}: no permission to write ({path}); change that, or choose "
        "another folder"
    )


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.command.name)
def test_every_default_is_in_the_help(module):
    command = module.command
    context = click.Context(command, parent=click.Context(main, **main.context_settings))
    shown = "".join(CliRunner().invoke(main, [command.name, "--help"]).stdout.split())
    for one in command.params:
        if one.param_type_name == "option":
            text = one.get_help_record(context)[1]
            assert "".join(text.split()) in shown
            assert one.is_flag or one.required or one.multiple or "[default: " in text, one.opts


def test_an_empty_pack_is_written_with_a_note(run, folder):
    result = run("pack", "glass.tif", "empty.tiles.zarr", "--tile-size", 64)
    assert result.exit_code == 0
    assert "note: glass.tif: every tile is blank" in result.stderr
    assert len(ds.open_pack(folder / "empty.tiles.zarr")) == 0


POINT = {"type": "Point", "coordinates": [300, 300]}


@pytest.mark.parametrize(
    ("shapes", "option", "message"),
    [
        ([POINT], "--labels", "geometries without an area are skipped: 1 Point"),
        ([POINT], "--blank-map", "geometries without an area are skipped: 1 Point"),
        ([], "--labels", "has no polygons, so no classes"),
    ],
)
def test_geometries_that_are_not_read_are_noted(run, tmp_path, shapes, option, message):
    file = tmp_path / "file.geojson"
    features = [{"type": "Feature", "geometry": one, "properties": {}} for one in shapes]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    result = run("pack", "slide.tif", tmp_path / "a.tiles.zarr", option, file)
    assert result.exit_code == 0
    assert f"dask-slides: note: {file}: {message}\n" in result.stderr


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
def test_a_dry_run_prints_the_plan_and_writes_nothing(run, folder, words, output):
    before = sorted(os.listdir(folder))
    facts = json.loads(run(*words, "--dry-run", "--json", "--workers", 3).stdout)
    assert facts["source_shape"] == [600, 800, 3]
    assert facts["output_shape"] == output
    assert facts["tasks"] >= 1
    assert facts["bytes_to_write"] >= np.prod(output)
    assert facts["worker_bytes"] == 3 * facts["task_bytes"]
    assert "memory" in run(*words, "--dry-run").stdout
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        (["pack", "--tile-size", 100], {"read_from": "level 0", "mpp": 0.5, "min_tissue": 0.5}),
        (["pack", "--tile-size", 100, "--magnification", 10, "--min-tissue", 0.2],
         {"read_from": "resized by 2 with lanczos from level 0", "mpp": 1.0, "min_tissue": 0.2}),
        (["crops", "-n", 3, "--size", 64, "--detector", "otsu"],
         {"read_from": "level 0", "mpp": 0.5, "detector": repr(ds.Otsu())}),
        (["crops", "-n", 3, "--size", 64, "--blank-map", "tissue.geojson"],
         {"detector": "tissue.geojson", "min_tissue": 0.5}),
        (["mask"], {"mpp": 64.0, "detector": "Tissue()", "min_tissue": 0.05}),
        (["mask", "--detector", "contrast", "--tile-size", 100],
         {"read_from": "level 0", "mpp": 50.0, "detector": repr(ds.Contrast(0.05))}),
        (["cutoff", "--magnification", 5, "--min-tissue", 0.1],
         {"read_from": "resized by 4 with lanczos from level 0", "mpp": 2.0, "min_tissue": 0.1}),
        (["resize", "--magnification", 5],
         {"read_from": "resized by 4 with lanczos from level 0", "mpp": 2.0}),
    ],
)  # fmt: skip
def test_a_dry_run_says_what_is_read_and_what_decides(run, words, plan):
    name, *options = words
    out = "d.tiles.zarr" if name in ("pack", "crops") else "d.ome.zarr"
    words = [name, "slide.tif", out, *options, "--slide-mpp", 0.5, "--dry-run"]
    facts = json.loads(run(*words, "--json").stdout)
    assert plan.items() <= facts.items()
    assert ("min_tissue" in facts) == ("min_tissue" in plan)
    text = run(*words).stdout
    assert f"read     {facts['read_from']}\n" in text
    assert f"mpp      {facts['mpp']:g} µm\n" in text
    assert ("tissue   " in text) == ("detector" in facts)


FINER = [
    ["--mpp", 0.4], ["--downsample", 0.9], ["--magnification", 40],
]  # fmt: skip


@pytest.mark.parametrize("scale", FINER, ids=lambda words: words[0])
@pytest.mark.parametrize(
    "words",
    [["resize"], ["cutoff"], ["pack", "--tile-size", 64], ["crops", "-n", 2, "--size", 64]],
    ids=lambda words: words[0],
)
def test_a_finer_scale_needs_enlarge(run, folder, words, scale):
    name, *options = words
    out = f"finer.{'ome' if name in ('resize', 'cutoff') else 'tiles'}.zarr"
    words = [name, "slide.tif", out, *options, *scale, "--slide-mpp", 0.5]
    for more in ([], ["--dry-run"]):
        refused = run(*words, *more)
        assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
        assert "enlarges the slide" in refused.stderr and "--enlarge" in refused.stderr
    assert not (folder / out).exists()
    assert run(*words, "--enlarge", "--dry-run").exit_code == 0


@pytest.mark.parametrize(
    ("own", "scale", "accepted"),
    [
        (0.27, ["--magnification", 40], True),  # scanners differ from the 0.25 of their name
        (0.27, ["--magnification", 60], False),
        (0.499, ["--mpp", 0.5], True),
        (0.52, ["--mpp", 0.5], True),
        (0.53, ["--mpp", 0.5], False),
        (None, ["--downsample", 1], True),
    ],
)
def test_pixel_sizes_near_that_of_the_slide_are_accepted(run, own, scale, accepted):
    words = ["resize", "slide.tif", "near.ome.zarr", *scale, "--dry-run"]
    result = run(*words, *([] if own is None else ["--slide-mpp", own]))
    assert result.exit_code == (0 if accepted else 2), result.stderr


def test_mask_writes_outlines(run, folder):
    words = ["mask", "slide.tif", "out.geojson", "--detector", "contrast", "--tile-size", 100]
    facts = json.loads(run(*words, "--json").stdout)
    assert facts["outlines"] == 1
    assert facts["tissue_share"] == pytest.approx(200 * 400 / (600 * 800))
    (feature,) = json.loads((folder / "out.geojson").read_text())["features"]
    points = np.array(feature["geometry"]["coordinates"][0])
    assert points.min(axis=0).tolist() == [200, 200] and points.max(axis=0).tolist() == [600, 400]
    again = run(*words)
    assert again.exit_code == 1 and "already exists" in again.stderr
    assert run(*words, "--overwrite").stdout.startswith("out.geojson: 1 outline, 16.7% of the area")


def test_polygons_are_obeyed_as_a_blank_map(run, folder):
    words = ["--blank-map", "tumour.geojson"]
    assert run("pack", "slide.tif", "m.tiles.zarr", "--tile-size", 50, *words).exit_code == 0
    pack = ds.open_pack(folder / "m.tiles.zarr")
    y, x, height, width = TUMOUR
    inside = [(i, j) for i in range(y, y + height, 50) for j in range(x, x + width, 50)]
    assert list(zip(pack.y.tolist(), pack.x.tolist(), strict=True)) == inside
    words += ["--min-tissue", 1]
    assert run("crops", "slide.tif", "m2.tiles.zarr", "-n", 9, "--size", 40, *words).exit_code == 0
    crops = ds.open_pack(folder / "m2.tiles.zarr")
    assert len(crops) == 9
    assert ((crops.y >= y) & (crops.y + 40 <= y + height)).all()
    assert ((crops.x >= x) & (crops.x + 40 <= x + width)).all()
    words = ["cutoff", "slide.tif", "obeyed.ome.zarr", "--tile-size", 50, *words[:2]]
    assert run(*words, "--downsample", 1).exit_code == 0
    assert ds.open_slide(folder / "obeyed.ome.zarr").shape == (height, width, 3)


def test_a_stored_blank_map_is_obeyed(run, folder):
    words = ["--tile-size", 50, "--detector", "contrast", "--ratio", 0.3]
    assert run("mask", "slide.tif", "stored.ome.zarr", *words).exit_code == 0
    blank = zarr.open_group(folder / "stored.ome.zarr", mode="r")["blank_map/blank"][:]
    assert 0 < blank.sum() < blank.size
    words = ["--tile-size", 50, "--blank-map", "stored.ome.zarr"]
    assert run("pack", "slide.tif", "stored.tiles.zarr", *words).exit_code == 0
    pack = ds.open_pack(folder / "stored.tiles.zarr")
    assert np.array_equal(np.stack([pack.y, pack.x], axis=1), 50 * np.argwhere(~blank))


def test_annotations_label_the_tiles(run, folder):
    words = ["--tile-size", 50, "--blank-map", "tissue.geojson", "--labels", "tumour.geojson"]
    assert run("pack", "slide.tif", "l.tiles.zarr", *words).exit_code == 0
    pack = ds.open_pack(folder / "l.tiles.zarr")
    assert len(pack) == 4 * 8
    y, x, height, width = TUMOUR
    inside = (pack.x >= x) & (pack.x < x + width) & (pack.y >= y) & (pack.y < y + height)
    assert (pack.labels == np.where(inside, "tumour", "")).all() and inside.sum() == 4 * 3
    np.testing.assert_allclose(pack.coverage[:, 0], inside)


def test_a_missing_extra_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    words = ["--tile-size", 50, "--blank-map", "tissue.geojson", "--labels", "tumour.geojson"]
    result = run("pack", "slide.tif", "x.tiles.zarr", *words, "-q")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "dask-slides[annotations]" in result.stderr


def test_without_a_terminal_progress_is_plain_lines(run):
    words = ["mask", "slide.tif", "progress.ome.zarr", "--tile-size", 100, "--overwrite"]
    last = run(*words).stderr.splitlines()[-1]
    assert last.startswith("blank map: ") and "megapixels/s" in last
    done, total = last.split()[2].rstrip(",").split("/")
    assert done == total
    assert run(*words, "-q").stderr == ""


def test_all_schedulers_write_the_same(run, folder, cluster):
    stored = []
    for number, where in enumerate(["threads", "processes", cluster.scheduler_address]):
        words = ["resize", "slide.tif", f"s{number}.ome.zarr", "--downsample", 3]
        result = run(*words, "--scheduler", where, "--workers", 2)
        assert result.exit_code == 0, result.stderr
        stored.append(da.from_zarr(str(folder / f"s{number}.ome.zarr"), component="0").compute())
    np.testing.assert_array_equal(stored[0], stored[1])
    np.testing.assert_array_equal(stored[0], stored[2])


def in_new_process(words, folder, **variables):
    command = [sys.executable, "-m", "dask_slides", *words]
    env = os.environ | variables
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_configuration_of_dask_may_require_encryption(folder, cluster):
    # in processes of their own, as a client that failed to connect stays in this one
    words = ["resize", "slide.tif", "e.ome.zarr", "--scheduler", cluster.scheduler_address]
    result = in_new_process(words, folder, DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION="True")
    assert result.returncode == 2
    assert "encryption required" in result.stderr and result.stderr.count("\n") == 1
    result = in_new_process(["doctor", "--scheduler", "tls://127.0.0.1:1"], folder)
    assert "MISSING scheduler tls://127.0.0.1:1" in result.stdout  # there are no certificates
    assert result.returncode == 1
    assert not (folder / "e.ome.zarr").exists()


@pytest.mark.parametrize("text", ["[1]", "{}", "no json"])
def test_a_wrong_scheduler_file_is_refused(run, folder, text):
    (folder / "no.json").write_text(text)
    result = run("resize", "slide.tif", "x.ome.zarr", "--scheduler", "no.json")
    assert result.exit_code == 2
    assert result.stderr == "dask-slides: --scheduler no.json: is not a scheduler file\n"


def test_doctor_tests_codecs():
    result = CliRunner().invoke(main, ["doctor", "--json"])
    findings = {one["what"]: one for one in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert findings["codec jpeg2k"]["found"] == "works"
    assert findings["numba kernels"]["found"].startswith("loaded in ")
    assert "ok" in CliRunner().invoke(main, ["doctor"]).stdout


def test_doctor_connects_to_a_scheduler(cluster):
    result = CliRunner().invoke(main, ["doctor", "--scheduler", "tcp://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "MISSING scheduler tcp://127.0.0.1:1" in result.stdout
    assert dask.config.get("scheduler", None) != "dask.distributed"
    result = CliRunner().invoke(main, ["doctor", "--scheduler", cluster.scheduler_address])
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
    assert "pip install 'dask-slides[cloud]'" in result.stdout
    assert "pip install 'dask-slides[onnx]'" in result.stdout


def test_demo_leaves_a_report_and_stores_that_open(tmp_path):
    folder = tmp_path / "demo"
    result = CliRunner().invoke(main, ["demo", str(folder), "--side", "1024", "--json"])
    assert (result.exit_code, result.stderr) == (0, "")
    facts = json.loads(result.stdout)
    assert facts["report"] == str(folder / "job" / "report.html")
    page = (folder / "job" / "report.html").read_text("utf-8")
    for text in ("focus is low: ", "corrupt tile", "SlideFormatError: no-slide.tif: "):
        assert text in page
    made = folder / "job" / "sample" / "sample"
    assert ds.open_slide(f"{made}.cutoff.ome.zarr").shape[:2] == tuple(facts["cutoff"])
    assert len(ds.open_pack(f"{made}.tiles.zarr")) == facts["dense_tiles"] > 0
    assert facts["gain"] >= 1.3 and facts["failed"] == 1
    again = CliRunner().invoke(main, ["demo", str(folder), "--side", "1024"])
    assert again.exit_code == 1
    assert "not empty" in again.stderr


def test_verbose_shows_the_traceback(folder):
    command = [sys.executable, "-m", "dask_slides", "resize", "none.tif", "o.ome.zarr"]
    short = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert short.returncode == 1
    assert len(short.stderr.splitlines()) == 1
    long = subprocess.run([*command, "-v"], capture_output=True, text=True, cwd=folder, check=False)
    assert "Traceback" in long.stderr
    assert "SlideNotFoundError" in long.stderr


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_an_interrupt_leaves_no_files(run, folder, monkeypatch):
    monkeypatch.setattr("dask_slides.readers.tiff.source.TiffSource.read_valid", interrupt)
    before = sorted(os.listdir(folder))
    result = run("resize", "slide.tif", "i.ome.zarr", "--downsample", 2)
    assert result.exit_code == 130
    assert "interrupted; no partial output is left" in result.stderr
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (["run", "slide.tif", "-o", "job"], "; finished work is kept; run the same command again"),
        (["demo", "shown"], "; shown is not complete; give --overwrite to start again"),
        (["sample", "s.tif"], "\n"),
    ],
)
def test_an_interrupt_says_what_is_left(run, tmp_path, monkeypatch, words, state):
    for name in ("cli.run.run_cohort", "cli.demo._make_slides", "cli.sample.sample_slide"):
        monkeypatch.setattr(f"dask_slides.{name}", interrupt)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 130
    assert result.stderr.startswith(f"dask-slides: interrupted{state}")


def test_resume_continues_an_interrupted_command(run, folder, monkeypatch):
    words = ["pack", "slide.tif", "resumed.tiles.zarr", "--resume"]
    words += ["--detector", "contrast", "--ratio", 0.05]
    record_task = packs.record_task

    def record_and_interrupt(*args):
        record_task(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packs, "record_task", record_and_interrupt)
        result = run(*words, "--tile-size", 64)
    assert result.exit_code == 130
    assert "kept for --resume" in result.stderr
    assert not (folder / "resumed.tiles.zarr").exists()
    other = run(*words, "--tile-size", 32)
    assert other.exit_code == 1
    assert "differs in" in other.stderr
    assert run(*words, "--tile-size", 64).exit_code == 0
    assert run("verify", "resumed.tiles.zarr").exit_code == 0
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_verify_finds_damage(run, folder):
    assert run("cutoff", "slide.tif", "v.ome.zarr", "--downsample", 2).exit_code == 0
    good = run("verify", "v.ome.zarr")
    assert good.exit_code == 0
    assert "all as written" in good.stdout
    assert json.loads(run("verify", "v.ome.zarr", "--json").stdout)["files"] > 5
    shard = next(path for path in (folder / "v.ome.zarr/0/c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    bad = run("verify", "v.ome.zarr")
    assert bad.exit_code == 1
    assert "has changed" in bad.stderr and bad.stderr.count("\n") == 1
    assert "info --check" in run("verify", "slide.tif").stderr
    assert run("verify", "nothing.zarr").exit_code == 1


def odd_strips(path, tables):
    """Write an image of two strips with tables of `tables` strips, which tifffile logs."""
    strips = [np.full((16, 48, 3), value, np.uint8) for value in (10, 20, 30)][:tables]
    path.write_bytes(tiff(tags_of((32, 48, 3), 1, 16), [part.tobytes() for part in strips]))


@pytest.mark.parametrize(("tables", "printed"), [(3, []), (1, ["dask-slides: "])])
def test_logs_of_libraries_are_not_printed(tmp_path, tables, printed):
    odd_strips(tmp_path / "a.tif", tables)
    done = subprocess.run(
        [sys.executable, "-m", "dask_slides", "info", "a.tif"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert [line[:13] for line in done.stderr.splitlines()] == printed
    assert done.returncode == len(printed)


def test_workers_do_not_print_logs_of_libraries(tmp_path):
    odd_strips(tmp_path / "a.tif", 3)
    words = ["resize", "a.tif", "r.ome.zarr", "--downsample", "2", "--scheduler", "processes",
             "--workers", "1", "-q"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dask_slides", *words],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_of_the_ccitt_decoder_are_found(tmp_path):
    pixels = np.zeros((40, 48), bool)
    pixels[10:20, 5:30] = True
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path, compression="group4")
    data = bytearray(path.read_bytes())
    assert CliRunner().invoke(main, ["info", str(path), "--check"]).exit_code == 0
    with tifffile.TiffFile(path) as opened:
        start, count = opened.pages[0].dataoffsets[0], opened.pages[0].databytecounts[0]
    data[start + 2 : start + count] = bytes(count - 2)
    path.write_bytes(data)
    result = CliRunner().invoke(main, ["info", str(path), "--check"])
    assert result.exit_code == 3
    assert "CCITT" in result.stderr and result.stderr.count("\n") == 1


def test_a_command_restores_the_loggers(run):
    loggers = [logging.getLogger(name) for name in ("tifffile", "imagecodecs")]
    before = [(logger.disabled, list(logger.handlers), logger.level) for logger in loggers]
    assert run("info", "slide.tif").exit_code == 0
    assert run("info", "none.tif").exit_code == 1
    assert [(one.disabled, list(one.handlers), one.level) for one in loggers] == before
