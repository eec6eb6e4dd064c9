"""``pack`` and ``export`` for other tools, as a user runs them."""

import csv
import json
import os
import sys

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import dask_slides as ds
from dask_slides.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory, stained):
    """Return a folder with a slide of glass with real tissue, and its pack."""
    folder = tmp_path_factory.mktemp("export")
    pixels = np.full((1024, 1536, 3), 242, np.uint8)
    pixels[128:896, 256:1280] = stained
    path = folder / "slide.ome.tif"
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="zlib", photometric="rgb")
    ds.write(ds.pack_tiles(ds.open_slide(path, mpp=0.5), tile_size=128), folder / "p.tiles.zarr")
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """Return a function that runs a command in `folder`."""
    monkeypatch.chdir(folder)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def positions(path):
    with open(path, newline="") as file:
        return [(int(row["y"]), int(row["x"])) for row in csv.DictReader(file)]


def test_pack_writes_coordinates_without_a_store(run, folder, reads):
    stored = ds.open_pack(folder / "p.tiles.zarr")
    result = run("pack", "slide.ome.tif", "t.csv", "--tile-size", 128, "--slide-mpp", 0.5)
    assert result.exit_code == 0, result.stderr
    assert positions(folder / "t.csv") == list(zip(stored.y, stored.x, strict=True))
    assert len(stored) > 20 and result.stdout == f"t.csv: {len(stored)} tiles as a CSV table\n"
    assert run("pack", "slide.ome.tif", "t.csv").exit_code == 1
    reads.clear()  # a blank map decides, so no pixel is needed
    ring = [(300, 200), (700, 200), (700, 600), (300, 600), (300, 200)]
    tissue = {"type": "Polygon", "coordinates": [ring]}
    (folder / "tissue.geojson").write_text(json.dumps(tissue))
    words = ["--tile-size", 64, "--slide-mpp", 0.5, "--blank-map", "tissue.geojson", "--json"]
    facts = json.loads(run("pack", "slide.ome.tif", "u.geojson", *words).stdout)
    assert facts["to"] == "geojson" and facts["tiles"] > 20 and reads == []


def test_crops_are_coordinates_too(run, folder):
    words = ["crops", "slide.ome.tif", "crops.csv", "-n", 9, "--size", 64]
    assert run(*words, "--dry-run").stdout.endswith("output   at most 9 tiles as a CSV table\n")
    assert run(*words).exit_code == 0
    again = ds.random_crops(folder / "slide.ome.tif", n=9, size=64)
    assert positions(folder / "crops.csv") == list(zip(again.y, again.x, strict=True))


def test_a_folder_of_trident_gets_coordinates_and_contours(run, folder):
    h5py = pytest.importorskip("h5py")
    words = ["pack", "slide.ome.tif", "job", "--to", "trident", "--slide-mpp", 0.5]
    assert run(*words, "--tile-size", 128).exit_code == 0
    assert run(*words, "--tile-size", 64).exit_code == 0  # shares the contours
    found = ds.blank_map(ds.open_slide(folder / "slide.ome.tif", mpp=0.5)).compute()
    content = json.loads((folder / "job/contours_geojson/slide.geojson").read_text())
    assert len(content["features"]) == len(found.polygons()) > 0
    stored = ds.open_pack(folder / "p.tiles.zarr")
    with h5py.File(folder / "job/20x_128px_0px_overlap/patches/slide_patches.h5") as file:
        assert (file["coords"][:] == np.stack((stored.x, stored.y), axis=1)).all()
    words += ["--detector", "contrast", "--overwrite"]  # makes no map of the slide
    assert run(*words, "--tile-size", 64).exit_code == 0


def test_a_stored_pack_is_exported(run, folder):
    h5py = pytest.importorskip("h5py")
    stored = ds.open_pack(folder / "p.tiles.zarr")
    assert run("export", "p.tiles.zarr", "again.csv").exit_code == 0
    assert positions(folder / "again.csv") == list(zip(stored.y, stored.x, strict=True))
    words = ["export", "p.tiles.zarr", "clam", "--to", "clam", "-o", "pixels=true"]
    assert run(*words, "-o", "name=a").stdout.startswith("clam: ")
    with h5py.File(folder / "clam" / "patches" / "a.h5") as file:
        assert (file["imgs"][:] == stored[:]).all()


def test_a_stored_blank_map_is_exported_as_the_outlines_of_its_tissue(run, folder):
    shapely = pytest.importorskip("shapely")
    words = ["mask", "slide.ome.tif", "m.ome.zarr", "--tile-size", 100]
    facts = json.loads(run(*words, "--json").stdout)
    found = ds.blank_map(folder / "slide.ome.tif", tile_size=100).compute()
    for out, *options in (["m.geojson"], ["job2", "--to", "trident"]):
        assert run("export", "m.ome.zarr", out, *options).exit_code == 0
    for path in ("m.geojson", "job2/contours_geojson/slide.geojson"):
        features = json.loads((folder / path).read_text())["features"]
        union = shapely.union_all([shapely.geometry.shape(one["geometry"]) for one in features])
        rows, columns = np.nonzero(~found.blank)
        assert 0 < len(rows) == facts["tiles"][0] * facts["tiles"][1] - facts["blank"]
        for row, column in zip(rows, columns, strict=True):
            y, x = 100 * row, 100 * column
            cell = shapely.box(x, y, min(x + 100, 1536), min(y + 100, 1024))
            assert union.intersection(cell).area == found.areas[row, column, 0]
        assert union.area == found.areas[..., 0].sum()
    result = run("export", "m.ome.zarr", "m.csv")
    assert result.exit_code == 2 and "for a TilePack, not for a BlankMap" in result.stderr


@pytest.mark.parametrize("damage", ["shape", "kind"])
def test_a_damaged_blank_map_is_one_line(run, folder, damage):
    import zarr

    path = ds.write(ds.blank_map(folder / "slide.ome.tif"), folder / "bad.ome.zarr", overwrite=True)
    group = zarr.open_group(path)
    if damage == "shape":
        group["blank_map"].attrs["source_shape"] = [10, 10]
    else:
        del group["blank_map"]
    result = run("export", "bad.ome.zarr", "bad.geojson")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "not a blank map of dask_slides" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "slide.ome.tif", "a.csv"], "make one with pack_tiles (dask-slides pack)"),
        (
            ["export", "p.tiles.zarr", "a.xyz"],
            "names no format; choose one of these with to or --to: clam, csv",
        ),
        (["export", "p.tiles.zarr", "a.csv", "--resume"], "--resume is not for csv"),
        (["export", "p.tiles.zarr", "a.csv", "-o", "pixels"], "as in pixels=true"),
        (["export", "p.tiles.zarr", "a.csv", "-o", "speed=3"], "csv has no option 'speed'"),
        (["pack", "slide.ome.tif", "a.xyz"], "(.csv, .parquet"),
        (["pack", "slide.ome.tif", "a.zarr", "-o", "pixels=true"], "leave it out for Zarr"),
        (["pack", "slide.ome.tif", "a", "--to", "trident"], "--slide-mpp"),
        (["pack", "slide.ome.tif", "a", "--to", "word"], "'word' is not known"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_no_files(run, folder, words, message):
    before = sorted(os.listdir(folder))
    result = run(*words)
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("out", "options", "content"),
    [
        ("s.spatialdata.zarr", [], "image of 1,024 x 1,536 px as a store"),
        ("t.spatialdata.zarr", ["-o", "pack=p.tiles.zarr"], "px and tiles as a store"),
        ("s.ome.tif", [], "image of 1,024 x 1,536 px as TIFF"),
    ],
)
def test_the_result_is_what_was_written(run, out, options, content):
    words = ["export", "slide.ome.tif", out, *options]
    planned = run(*words, "--dry-run")
    assert planned.stdout.startswith("would write image of ") and content in planned.stdout
    assert content in run(*words).stdout


@pytest.mark.parametrize(
    ("package", "out"),
    [("h5py", "a --to trident"), ("h5py", "a --to clam"), ("pyarrow", "a.parquet")],
)
def test_a_missing_extra_is_one_line(run, folder, monkeypatch, package, out):
    before = sorted(os.listdir(folder))
    monkeypatch.setitem(sys.modules, package, None)
    result = run("export", "p.tiles.zarr", *out.split(), "-q")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "pip install 'dask-slides[export]'" in result.stderr
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    "words", [["pack", "slide.ome.tif", "dry.csv"], ["export", "p.tiles.zarr", "dry.csv"]]
)
def test_a_dry_run_writes_nothing(run, folder, words):
    before = sorted(os.listdir(folder))
    facts = json.loads(run(*words, "--dry-run", "--json").stdout)
    assert facts["dry_run"] and facts["to"] == "csv"
    assert "tiles as a CSV table" in run(*words, "--dry-run").stdout
    assert sorted(os.listdir(folder)) == before
