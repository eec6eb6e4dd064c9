"""Bad tiles on the command line: corrupt ones are printed, and the exit code is 3."""

import json
import os
from pathlib import Path

import pytest
from bad_tiles import picture, spoil, written
from click.testing import CliRunner

import dask_slides as ds
from dask_slides.cli import main

STATISTICS = ["--detector", "contrast", "--ratio", "0.05"]
COMMANDS = {
    "resize": ["resize", "SLIDE", "r.ome.zarr", "--downsample", "1.5"],
    "mask": ["mask", "SLIDE", "m.ome.zarr", "--tile-size", "50"],
    "cutoff": ["cutoff", "SLIDE", "c.ome.zarr", "--tile-size", "50"],
    "pack": ["pack", "SLIDE", "p.tiles.zarr", "--tile-size", "40", *STATISTICS],
    "crops": ["crops", "SLIDE", "k.tiles.zarr", "-n", "4", "--size", "40", *STATISTICS],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("cli")
    for name, absent, corrupt in (
        ("whole", (), ()), ("sparse", {3}, ()), ("damaged", {3}, {8, 17})
    ):  # fmt: skip
        written(made / f"{name}.tif", "jpeg", picture("jpeg", (300, 420)))
        spoil(made / f"{name}.tif", absent, corrupt)
    return made


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(words, slide, *more):
        words = [str(folder / f"{slide}.tif") if word == "SLIDE" else word for word in words]
        return CliRunner().invoke(main, [*words, *more])

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_corrupt_tiles_are_named_and_exit_with_3(run, command):
    words = COMMANDS[command]
    failed = run(words, "damaged")
    assert failed.exit_code == 1 and "cannot be decoded" in failed.stderr
    assert os.listdir() == []
    result = run(words, "damaged", "--on-bad-tile", "mask", "--json")
    assert result.exit_code == 3, result.stderr
    lines = [line for line in result.stderr.splitlines() if "corrupt" in line]
    assert len(lines) == 2
    assert "level 0, y 64, x 64, 64 x 64 px, offset" in lines[0]
    assert "level 0, y 128, x 192, 64 x 64 px, offset" in lines[1]
    facts = json.loads(result.stdout)
    assert [tile["status"] for tile in facts["bad_tiles"]] == ["absent", "corrupt", "corrupt"]
    assert os.path.isdir(facts["path"]) and ds.verify(facts["path"]).files
    shown = CliRunner().invoke(main, ["info", facts["path"]])
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.count(": corrupt (") == 2 and shown.stdout.count(": absent (") == 1
    stored = json.loads(CliRunner().invoke(main, ["info", facts["path"], "--json"]).stdout)
    assert stored["bad_tiles_of_source"] == facts["bad_tiles"]
    assert stored["shards"] == ds.verify(facts["path"]).statuses


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("slide", ["whole", "sparse"])
def test_absent_tiles_are_valid(run, command, slide):
    result = run(COMMANDS[command], slide, "--json")
    assert result.exit_code == 0, result.stderr
    assert ("bad_tiles" in json.loads(result.stdout)) == (slide == "sparse")


def test_outlines_of_a_damaged_slide_exit_with_3(run):
    words = ["mask", "SLIDE", "m.geojson", *STATISTICS, "--tile-size", "50"]
    assert run(words, "damaged").exit_code == 1 and os.listdir() == []
    result = run(words, "damaged", "--on-bad-tile", "mask")
    assert result.exit_code == 3 and result.stderr.count("corrupt (") == 2
    (line,) = result.stdout.splitlines()
    assert line.startswith("m.geojson: ")
    assert json.loads(Path("m.geojson").read_text())["features"]


def test_unknown_and_skipped_tiles_are_counted(run):
    mask = run(COMMANDS["mask"], "damaged", "--on-bad-tile", "mask")
    assert "unknown: absent or corrupt in the file" in mask.stdout
    pack = run(COMMANDS["pack"], "damaged", "--on-bad-tile", "mask")
    assert "skipped, because they need tiles that are absent or corrupt" in pack.stdout


@pytest.mark.parametrize(("slide", "code"), [("whole", 0), ("sparse", 0), ("damaged", 3)])
def test_info_checks_a_whole_slide(run, folder, slide, code):
    words = ["info", "SLIDE", "--check"]
    result = run(words, slide)
    assert result.exit_code == code, result.stderr
    tiles = {"whole": "35 ok", "sparse": "1 absent, 34 ok", "damaged": "1 absent, 2 corrupt, 32 ok"}
    assert f"tiles    {tiles[slide]}\n" in result.stdout
    facts = json.loads(run(words, slide, "--json").stdout)
    expected = ds.check_slide(folder / f"{slide}.tif")
    assert facts["tiles"] == expected.statuses
    assert [(t["y"], t["x"], t["offset"]) for t in facts["bad_tiles"]] == [
        (t.y, t.x, t.offset) for t in expected.bad_tiles
    ]
    assert run(["info", "SLIDE"], slide).exit_code == 0
