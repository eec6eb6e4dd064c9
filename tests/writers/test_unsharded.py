"""Stores without shards hold the same pixels in plain chunks; each file is written once."""

import os

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from rw_fixtures import noise, tissue

import dask_slides as ds
from dask_slides.cli import main

pytestmark = pytest.mark.usefixtures("sync")

DENSE = ds.Contrast(0.35)


def codecs(path):
    """Return the names of the codecs of all arrays of a store."""
    group = zarr.open_group(path, mode="r")
    members = dict(group.members(max_depth=None)).values()
    arrays = [one.metadata.to_dict() for one in members if isinstance(one, zarr.Array)]
    return {codec["name"] for array in arrays for codec in array["codecs"]}


def chunk_files(path):
    return [name for folder, _, names in os.walk(path) if "/c" in folder for name in names]


@pytest.mark.parametrize("shape", [(4300, 41, 3), (1500, 1100, 2)])
def test_images_have_equal_pixels_in_all_levels(tmp_path, shape):
    slide = ds.from_dask(noise(*shape))
    found = ds.blank_map(slide, tile_size=100, detector=DENSE)
    paths = [
        ds.write(slide, tmp_path / f"{shards}.ome.zarr", shards=shards, blank_map=found)
        for shards in (True, False)
    ]
    assert "sharding_indexed" in codecs(paths[0])
    assert codecs(paths[1]) == {"bytes", "zstd"}
    sharded, plain = (zarr.open_group(path, mode="r") for path in paths)
    names = [*plain.array_keys(), *(f"labels/tissue/{name}" for name in plain.array_keys())]
    assert len(names) > 4
    for name in names:
        assert plain[name].shards is None
        np.testing.assert_array_equal(plain[name][...], sharded[name][...])
    assert ds.open_slide(paths[1]).shape == shape
    ds.verify(paths[1])


def test_cut_offs_and_command(tmp_path):
    image = tissue(900, 700)
    path = ds.write(ds.from_dask(image), tmp_path / "a.ome.zarr")
    out = tmp_path / "b.ome.zarr"
    arguments = ["cutoff", path, str(out), "--detector", "contrast", "--tile-size", "64",
                 "--downsample", "1", "--no-shards", "--scheduler", "threads"]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    cut = ds.cutoff_resize(path, downsample=1, tile_size=64, detector=ds.Contrast())
    np.testing.assert_array_equal(ds.open_slide(out).data.compute(), cut.image.data.compute())
    assert codecs(out) == {"bytes", "zstd"}


@pytest.mark.parametrize("command", [["pack"], ["crops", "-n", "9", "--size", "64"]])
def test_packs_and_crops_of_the_command_line(tmp_path, command):
    path = ds.write(ds.from_dask(tissue(300, 260)), tmp_path / "a.ome.zarr")
    more = ["--detector", "contrast", "--downsample", "1", "--no-shards"]
    more += ["--tile-size", "64"] if command == ["pack"] else []
    name, *options = command
    for out, code in (("a.tiles.zarr", 0), ("a.csv", 2)):
        result = CliRunner().invoke(main, [name, path, str(tmp_path / out), *options, *more])
        assert result.exit_code == code, result.output
    assert "--no-shards is for Zarr stores" in result.output
    assert codecs(tmp_path / "a.tiles.zarr") == {"bytes", "zstd"}


def test_packs_have_a_file_per_tile_and_few_tasks(tmp_path):
    image = tissue(1900, 1900)
    pack = ds.pack_tiles(ds.from_dask(image), tile_size=64, detector=DENSE)
    path = ds.write(pack, tmp_path / "a.tiles.zarr", shards=False)
    assert codecs(path) == {"bytes", "zstd"}
    tiles = zarr.open_group(path, mode="r")["tiles"]
    expected = np.stack(
        [image[y : y + 64, x : x + 64] for y, x in zip(pack.y, pack.x, strict=True)]
    )
    np.testing.assert_array_equal(tiles[...], expected)
    assert len(chunk_files(f"{path}/tiles")) == len(pack)
    found = ds.open_pack(path)
    assert found.tiles.npartitions == 1
    np.testing.assert_array_equal(found.tiles.compute(), expected)
    np.testing.assert_array_equal(found.tiles[5].compute(), expected[5])
    ds.verify(path)


@pytest.mark.parametrize("kind", ["image", "pack"])
def test_every_flipped_bit_of_a_chunk_is_detected(tmp_path, kind):
    """Also without the manifest, by zarr-python and by our own readers."""
    slide = ds.from_dask(tissue(300, 260))
    made = slide if kind == "image" else ds.pack_tiles(slide, tile_size=64, detector=DENSE)
    path = ds.write(made, tmp_path / "a.zarr", shards=False)
    name, chunk = ("0", "c/0/0/0") if kind == "image" else ("tiles", "c/0/0/0/0")
    file = tmp_path / "a.zarr" / name / chunk
    data = file.read_bytes()
    array = zarr.open_group(path, mode="r")[name]
    for at in range(8, len(data), 997):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(RuntimeError):
            array[...]
        with pytest.raises(ds.errors.TileDecodeError):
            (ds.open_slide(path).data if kind == "image" else ds.open_pack(path).tiles).compute()
