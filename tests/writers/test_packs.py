"""Tile packs: what is written is what is read, one tile a chunk, a shard a task."""

import json
import pickle
import shutil

import distributed  # noqa: F401 - it makes errors pickle with their causes
import numpy as np
import pytest
import tifffile
import zarr
from rw_fixtures import bytes_read, noise, one_line, tissue

import dask_slides as ds
from dask_slides.writers import packs as writer

pytestmark = pytest.mark.usefixtures("sync")

IMAGE = tissue(700, 530)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "a.tif"
    tifffile.imwrite(
        path, IMAGE, photometric="rgb", tile=(64, 64), compression="zlib",
        resolution=(40_000, 40_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return ds.open_slide(path)


def dense(tile):
    """Return the corners of the tiles of the grid that hold noise, and their pixels."""
    corners = [
        (y, x)
        for y in range(0, 700 - tile + 1, tile)
        for x in range(0, 530 - tile + 1, tile)
        if IMAGE[y : y + tile, x : x + tile].std() > 0.35 * IMAGE[y : y + tile, x : x + tile].mean()
    ]
    return corners, np.stack([IMAGE[y : y + tile, x : x + tile] for y, x in corners])


@pytest.mark.parametrize("source", ["file", "dask array"])
def test_a_pack_comes_back(tmp_path, slide, source):
    corners, pixels = dense(64)
    assert 20 < len(corners) < 80
    taken = slide if source == "file" else ds.from_dask(IMAGE, mpp=0.25)
    pack = ds.pack_tiles(taken, tile_size=64)
    path = ds.write(pack, tmp_path / "a.tiles.zarr")
    assert path == str(tmp_path / "a.tiles.zarr")
    found = ds.open_pack(path)
    assert list(zip(found.y.tolist(), found.x.tolist(), strict=True)) == corners
    np.testing.assert_array_equal(found.tiles.compute(), pixels)
    assert (found.y.dtype, found.x.dtype, found.score.dtype) == (np.int64, np.int64, np.float64)
    np.testing.assert_allclose(found.score, [tile.std() for tile in pixels])
    np.testing.assert_array_equal(found.tiles[7].compute(), pixels[7])
    np.testing.assert_array_equal(found.reader(3, 5), pixels[3:5])
    assert found.mpp == 0.25
    assert dict(found.attributes) == json.loads(json.dumps(dict(pack.attributes)))
    assert found.attributes["source_shape"] == [700, 530, 3]
    assert found.attributes["tile_size"] == [64, 64]
    assert len(found) == len(corners)


def test_the_store(tmp_path, slide):
    path = tmp_path / "a.tiles.zarr"
    pack = ds.pack_tiles(slide, tile_size=(64, 50))
    ds.write(pack, path)
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    assert sorted(group.array_keys()) == ["score", "tiles", "x", "y"]
    tiles = group["tiles"]
    assert tiles.chunks == (1, 64, 50, 3)
    assert tiles.metadata.dimension_names == ("tile", "py", "px", "channel")
    assert tiles.dtype == np.uint8
    assert (group["y"].dtype, group["x"].dtype) == (np.int64, np.int64)
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    assert {"source", "source_shape", "mpp", "downsample", "tile_size", "stride", "detector",
            "version"} <= set(attributes)  # fmt: skip
    assert attributes["dask_slides"]["kind"] == "pack"
    assert "Contrast" in attributes["detector"]


@pytest.mark.parametrize("source", ["file", "dask array", "store"])
def test_a_pack_is_a_map_style_dataset(tmp_path, slide, source):
    """What torch.utils.data.DataLoader asks for: a length, and items by number."""
    _, pixels = dense(64)
    pack = ds.pack_tiles(ds.from_dask(IMAGE) if source == "dask array" else slide, tile_size=64)
    if source == "store":
        pack = ds.open_pack(ds.write(pack, tmp_path / "a.tiles.zarr"))
    for i in (0, 7, np.int64(len(pixels) - 1), -1):
        tile = pack[i]
        np.testing.assert_array_equal(tile, pixels[i])
        assert tile.flags.writeable  # a tensor may be made of it without a copy
    for i in (len(pixels), -len(pixels) - 1):
        with pytest.raises(IndexError, match=f"of a pack of {len(pixels)}"):
            pack[i]
    with pytest.raises(TypeError):
        pack["0"]
    for chosen in (slice(2, 9), slice(None), slice(None, None, -3), slice(3, 3), [], [5, 1, 5, 2],
                   np.array([-1, 0]), np.arange(len(pixels)) % 3 == 0):  # fmt: skip
        tiles = pack[chosen]
        np.testing.assert_array_equal(tiles, pixels[chosen])
        assert tiles.flags.writeable
    with pytest.raises(IndexError):
        pack[[0, len(pixels)]]
    for wrong in ((0, 1), [0.5]):
        with pytest.raises(IndexError):
            pack[wrong]
    if source == "store":  # what has a length and items is iterated too
        np.testing.assert_array_equal(np.stack(list(pack)), pixels)


def test_one_tile_of_a_stored_pack_is_one_chunk_of_its_shard(tmp_path, slide):
    pack = ds.open_pack(ds.write(ds.pack_tiles(slide, tile_size=64), tmp_path / "a.tiles.zarr"))
    assert pack.tiles.npartitions == 1
    pack[0]  # opens the array
    before = bytes_read()
    pack[3]
    assert bytes_read() - before < 3 * pack[3].nbytes < pack.tiles.nbytes / 5


@pytest.mark.parametrize("source", ["file", "dask array"])
def test_more_tiles_than_a_shard_holds(tmp_path, slide, source, monkeypatch):
    monkeypatch.setattr(writer, "TASK_BYTES", 7 * 64 * 64 * 3)
    corners, pixels = dense(64)
    taken = slide if source == "file" else ds.from_dask(IMAGE)
    done = []
    path = ds.write(
        ds.pack_tiles(taken, tile_size=64),
        tmp_path / "a.zarr",
        progress=lambda *at: done.append(at),
    )
    tiles = zarr.open_array(path + "/tiles", mode="r")
    assert tiles.shards == (7, 64, 64, 3)
    shards = -(-len(corners) // 7)
    files = [one for one in (tmp_path / "a.zarr" / "tiles" / "c").rglob("*") if one.is_file()]
    assert len(files) == shards
    assert done[0] == (0, shards)
    assert done[-1] == (shards, shards)
    assert [at for at, _ in done] == sorted(at for at, _ in done)
    found = ds.open_pack(path)
    assert found.tiles.chunks[0] == (7,) * (shards - 1) + (len(corners) - 7 * (shards - 1),)
    np.testing.assert_array_equal(found.tiles.compute(scheduler="threads"), pixels)


def test_shards_of_black_tiles_are_written_too(tmp_path):
    image = np.zeros((256, 256, 3), np.uint8)
    pack = ds.pack_tiles(
        ds.from_dask(image), tile_size=64, detector=ds.Contrast(0.0) & ds.Brightness()
    )
    if not len(pack):
        pytest.skip("black is blank under this detector")
    path = ds.write(pack, tmp_path / "a.zarr")
    assert [one for one in (tmp_path / "a.zarr" / "tiles" / "c").rglob("*") if one.is_file()]
    assert not ds.open_pack(path).tiles.compute().any()


@pytest.mark.parametrize(
    ("count", "nbytes", "expected"),
    [(0, 100, 1), (5, 100, 5), (40_000, 512 * 512 * 3, 85), (10**6, 512 * 512 * 3, 1000),
     (10, 2**30, 1)],
)  # fmt: skip
def test_tiles_a_shard(count, nbytes, expected):
    assert writer.tiles_a_shard(count, nbytes) == expected


def test_an_empty_pack(tmp_path):
    blank = ds.from_dask(np.full((300, 300, 3), 240, np.uint8))
    with pytest.warns(ds.errors.BlankSlideWarning):
        pack = ds.pack_tiles(blank, tile_size=64)
    path = ds.write(pack, tmp_path / "a.zarr")
    found = ds.open_pack(path)
    assert len(found) == 0
    assert found.tiles.shape == (0, 64, 64, 3)
    assert found.tiles.compute().shape == (0, 64, 64, 3)
    assert (found.y.shape, found.y.dtype, found.score.shape) == ((0,), np.int64, (0,))
    assert zarr.open_array(path + "/tiles", mode="r").chunks == (1, 64, 64, 3)
    again = ds.write(found, tmp_path / "b.zarr")
    assert len(ds.open_pack(again)) == 0


def test_a_pack_that_was_read_is_written_again(tmp_path, slide):
    first = ds.write(ds.pack_tiles(slide, tile_size=64), tmp_path / "a.zarr")
    second = ds.write(ds.open_pack(first), tmp_path / "b.zarr")
    one, two = ds.open_pack(first), ds.open_pack(second)
    np.testing.assert_array_equal(one.tiles.compute(), two.tiles.compute())
    assert one.attributes == two.attributes


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_dtypes(tmp_path, dtype):
    image = noise(300, 300, 2, dtype=dtype)
    path = ds.write(ds.pack_tiles(ds.from_dask(image), tile_size=100), tmp_path / "a.zarr")
    found = ds.open_pack(path)
    assert found.tiles.dtype == dtype
    assert len(found) == 9
    for y, x, tile in zip(found.y, found.x, found.tiles.compute(), strict=True):
        np.testing.assert_array_equal(tile, image[y : y + 100, x : x + 100])


def test_crops_come_back(tmp_path, slide):
    crops = ds.random_crops(slide, n=9, size=40, seed=3)
    found = ds.open_pack(ds.write(crops, tmp_path / "a.zarr"))
    assert len(found) == 9
    for y, x, tile in zip(found.y, found.x, found.tiles.compute(), strict=True):
        np.testing.assert_array_equal(tile, IMAGE[y : y + 40, x : x + 40])
    assert found.attributes["seed"] == 3


def test_a_pack_is_small_to_send(tmp_path, slide):
    pack = ds.open_pack(ds.write(ds.pack_tiles(slide, tile_size=64), tmp_path / "a.zarr"))
    assert len(pickle.dumps(pack)) < 20_000
    copy = pickle.loads(pickle.dumps(pack))
    np.testing.assert_array_equal(copy.tiles[0].compute(), pack.tiles[0].compute())


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_flipped_bit_is_noticed(tmp_path, slide, share):
    path = ds.write(ds.pack_tiles(slide, tile_size=64), tmp_path / "a.zarr")
    files = [one for one in (tmp_path / "a.zarr" / "tiles" / "c").rglob("*") if one.is_file()]
    data = bytearray(files[0].read_bytes())
    data[int(len(data) * share)] ^= 1
    files[0].write_bytes(bytes(data))
    pack = ds.open_pack(path)
    with pytest.raises(Exception, match=r"(?i)checksum|crc|mismatch"):
        pack.tiles.compute()


def test_a_pack_rewritten_since_it_was_opened(tmp_path, slide):
    path = ds.write(ds.pack_tiles(slide, tile_size=64), tmp_path / "a.zarr")
    pack = ds.open_pack(path)
    ds.write(ds.pack_tiles(slide, tile_size=50), path, overwrite=True)
    with pytest.raises(ds.errors.SlideChangedError) as error:
        pack.tiles.compute()
    one_line(error)
    assert ds.open_pack(path).tiles.shape[1:] == (50, 50, 3)


def test_what_is_no_pack(tmp_path):
    with pytest.raises(ds.errors.SlideNotFoundError) as error:
        ds.open_pack(tmp_path / "absent")
    one_line(error)
    image = ds.write(ds.from_dask(noise(64, 64)), tmp_path / "image.zarr")
    zarr.create_group(tmp_path / "foreign")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("hello")
    for path in (image, tmp_path / "foreign", tmp_path / "folder", tmp_path / "file"):
        with pytest.raises(ds.errors.SlideFormatError) as error:
            ds.open_pack(path)
        assert str(path) in one_line(error)
        assert isinstance(error.value, ValueError)


def test_a_pack_that_declares_enormous_tiles(tmp_path, slide):
    path = ds.write(ds.pack_tiles(slide, tile_size=64), tmp_path / "a.zarr")
    array = tmp_path / "a.zarr" / "tiles" / "zarr.json"
    document = json.loads(array.read_text())
    document["shape"][1:3] = [2**40, 2**40]
    array.write_text(json.dumps(document))
    with pytest.raises(ds.errors.SlideLimitError, match="declares tiles of") as error:
        ds.open_pack(path)
    one_line(error)


def test_a_pack_that_lacks_a_part(tmp_path, slide):
    path = ds.write(ds.pack_tiles(slide, tile_size=64), tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr" / "score")
    with pytest.raises(ds.errors.SlideFormatError):
        ds.open_pack(path)
