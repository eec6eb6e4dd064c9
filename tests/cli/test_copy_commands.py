"""Commands that copy the compressed tiles of a slide: --codec, --align, --level-step, info."""

import json

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.readers.codecs.zarr_codecs import register

SIDE, TILE = 2048, 128


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    register()
    folder = tmp_path_factory.mktemp("copy")
    return ds.sample_slide(folder / "a.tif", shape=(SIDE, SIDE), tile=TILE, pyramid=True)


def run(*words):
    words = [str(word) for word in (*words, "--json")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def stored(slide, level):
    """Return the bytes of the compressed tiles of a level."""
    with tifffile.TiffFile(slide) as opened:
        return sum(opened.series[0].levels[level].pages[0].databytecounts)


def test_a_pack_is_aligned_copied_and_described(tmp_path, slide):
    out = tmp_path / "a.tiles.zarr"
    words = ("pack", slide, out, "--downsample", 1, "--tile-size", 256, "--stride", 200,
             "--align", "source", "--codec", "source")  # fmt: skip
    plan = run(*words, "--dry-run")
    assert plan["copies"] and plan["bytes_to_write"] == stored(slide, 0)
    assert not out.exists()
    count = run(*words)["shape"][0]
    pixels, pack = tifffile.imread(slide, level=0), ds.open_pack(out)
    assert len(pack) == count > 0
    for tile, y, x in zip(pack[:], pack.y, pack.x, strict=True):
        assert y % TILE == x % TILE == 0
        np.testing.assert_array_equal(tile, pixels[y : y + 256, x : x + 256])
    facts = run("info", out)
    assert facts["encoding"] == {"codec": "JPEG", "copied_from_level": 0}
    assert (facts["shape"], facts["stride"]) == ([count, 256, 256, 3], [256, 256])
    text = CliRunner().invoke(main, ["info", str(out)]).stdout
    assert "copied   tiles: JPEG tiles of level 0 as they are" in text


@pytest.mark.parametrize(
    ("words", "encoding", "line"),
    [
        ((), {"codec": "zstd"}, "encoded  tiles: zstd"),
        (
            ("--codec", "jpegxl", "--quality", 70),
            {"codec": "JPEG XL", "quality": 70},
            "encoded  tiles: JPEG XL of quality 70",
        ),
    ],
)
def test_info_tells_how_other_packs_are_encoded(tmp_path, slide, words, encoding, line):
    out = tmp_path / "a.tiles.zarr"
    run("pack", slide, out, "--top-k", 3, *words)
    assert run("info", out)["encoding"] == encoding
    assert line in CliRunner().invoke(main, ["info", str(out)]).stdout


@pytest.mark.parametrize(("step", "made"), [("4", ()), ("2", ("1", "3")), ("none", ())])
def test_a_dry_run_of_a_copy_knows_its_bytes(tmp_path, slide, step, made):
    out = tmp_path / "a.ome.zarr"
    words = ("resize", slide, out, "--downsample", 1, "--codec", "source", "--level-step", step)
    plan = run(*words, "--dry-run")
    copied = stored(slide, 0) + stored(slide, 1)
    run(*words)
    shapes = [array.shape[1:] for _, array in sorted(zarr.open_group(out, mode="r").arrays())]
    assert len(shapes) == 2 + len(made)
    pixels = sum(np.prod(shapes[int(name)]) for name in made)
    assert plan["bytes_to_write"] == round(copied + stored(slide, 0) / SIDE**2 * pixels)
    written = sum(file.stat().st_size for file in out.glob("[0-9]/c/**/*") if file.is_file())
    assert copied <= written < 2 * plan["bytes_to_write"]
    shards = [file for file in out.glob("[0-9]/c/**/*") if file.is_file()]
    assert plan["tasks"] <= len(shards)
    facts = run("info", out)
    assert set(facts.get("made", {})) == set(made)


def test_a_run_copies_packs(tmp_path, slide):
    words = ["run", slide, "-o", tmp_path / "job", "--steps", "pack", "--pack-downsample", 1]
    words += ["--pack-tile-size", 256, "--pack-align", "source", "--pack-codec", "source"]
    assert run(*words, "--dry-run")["bytes_to_write"] == stored(slide, 0)
    assert run(*words)["done"] == 1
    pack = ds.open_pack(tmp_path / "job" / "a" / "a.tiles.zarr")
    assert pack.attributes["encoding"] == {"codec": "JPEG", "copied_from_level": 0}
    assert run(*words)["done"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--codec", "zip"), "'zip'"),
        (("--codec", "source", "--no-shards"), "shards"),
        (("--align", "source", "--edge", "pad"), "edge='drop'"),
        (("--align", "grid"), "'grid'"),
    ],
)
def test_wrong_use_says_what_to_do(tmp_path, slide, words, message):
    words = ["pack", str(slide), str(tmp_path / "a.tiles.zarr"), "--downsample", "1", *words]
    result = CliRunner().invoke(main, words)
    assert result.exit_code in (1, 2) and message in result.output


def test_a_dry_run_refuses_resampled_tiles(tmp_path, slide):
    words = ["pack", str(slide), str(tmp_path / "a.tiles.zarr"), "--codec", "source", "--dry-run"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "its tiles cannot be copied" in result.stderr
    assert not (tmp_path / "a.tiles.zarr").exists()
