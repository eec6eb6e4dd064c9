"""Write tile packs: one tile per chunk, one shard per task; the same tiles are read back."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import tifffile
import zarr
from rw_fixtures import noise, tissue

import dask_slides as ds
from dask_slides.ops.annotations import label_mask
from dask_slides.writers import packs

pytestmark = pytest.mark.usefixtures("sync")

IMAGE = tissue(700, 530)
DENSE = ds.Contrast(0.35)


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
def test_tiles_and_attributes_are_read_back(tmp_path, slide, source):
    corners, pixels = dense(64)
    assert 20 < len(corners) < 80
    taken = slide if source == "file" else ds.from_dask(IMAGE, mpp=0.25)
    pack = ds.pack_tiles(taken, tile_size=64, mpp=0.25, detector=DENSE)
    path = ds.write(pack, tmp_path / "a.tiles.zarr")
    assert path == str(tmp_path / "a.tiles.zarr")
    found = ds.open_pack(path)
    assert list(zip(found.y.tolist(), found.x.tolist(), strict=True)) == corners
    np.testing.assert_array_equal(found.tiles.compute(), pixels)
    assert (found.y.dtype, found.x.dtype, found.score.dtype) == (np.int64, np.int64, np.float64)
    np.testing.assert_allclose(found.score, [tile.std() for tile in pixels])
    assert found.mpp == 0.25
    assert dict(found.attributes) == json.loads(json.dumps(dict(pack.attributes)))


def test_the_store_is_as_documented(tmp_path, slide):
    path = tmp_path / "a.tiles.zarr"
    ds.write(ds.pack_tiles(slide, tile_size=(64, 50), mpp=0.25, detector=DENSE), path)
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    assert sorted(group.array_keys()) == ["score", "tiles", "tissue_fraction", "x", "y"]
    tiles = group["tiles"]
    assert tiles.chunks == (1, 64, 50, 3)
    assert tiles.metadata.dimension_names == ("tile", "py", "px", "channel")
    assert group["tissue_fraction"].metadata.dimension_names == ("tile",)
    np.testing.assert_array_equal(tiles[...], ds.open_pack(path)[:])  # Zarr reads it too
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    assert {"source", "source_shape", "mpp", "downsample", "tile_size", "stride", "detector",
            "version"} <= set(attributes)  # fmt: skip
    assert attributes["dask_slides"]["kind"] == "pack"


@pytest.mark.parametrize("source", ["file", "dask array", "store"])
def test_a_pack_is_a_map_style_dataset(tmp_path, slide, source):
    """What torch.utils.data.DataLoader needs: a length, and items by number."""
    _, pixels = dense(64)
    taken = ds.from_dask(IMAGE) if source == "dask array" else slide
    pack = ds.pack_tiles(taken, tile_size=64, downsample=1, detector=DENSE)
    if source == "store":
        pack = ds.open_pack(ds.write(pack, tmp_path / "a.tiles.zarr"))
    for i in (0, 7, np.int64(len(pixels) - 1), -1):
        tile = pack[i]
        np.testing.assert_array_equal(tile, pixels[i])
        assert tile.flags.writeable  # a tensor may be made of it without a copy
    for i in (len(pixels), -len(pixels) - 1):
        with pytest.raises(IndexError, match=f"in a pack of {len(pixels)}"):
            pack[i]
    with pytest.raises(TypeError):
        pack["0"]
    for chosen in (slice(2, 9), slice(None), slice(None, None, -3), slice(3, 3), [], [5, 1, 5, 2],
                   np.array([-1, 0]), np.arange(len(pixels)) % 3 == 0):  # fmt: skip
        tiles = pack[chosen]
        np.testing.assert_array_equal(tiles, pixels[chosen])
        assert tiles.flags.writeable
    for wrong in ([0, len(pixels)], (0, 1), [0.5]):
        with pytest.raises(IndexError):
            pack[wrong]
    if source == "store":  # it can be iterated too
        np.testing.assert_array_equal(np.stack(list(pack)), pixels)


@pytest.mark.parametrize("source", ["file", "dask array"])
def test_a_task_writes_one_shard(tmp_path, slide, source, monkeypatch):
    monkeypatch.setattr(packs, "TASK_BYTES", 7 * 64 * 64 * 3)
    corners, pixels = dense(64)
    taken = slide if source == "file" else ds.from_dask(IMAGE)
    done = []
    path = ds.write(
        ds.pack_tiles(taken, tile_size=64, downsample=1, detector=DENSE),
        tmp_path / "a.zarr",
        progress=lambda *at: done.append(at),
    )
    assert zarr.open_array(path + "/tiles", mode="r").shards == (7, 64, 64, 3)
    shards = -(-len(corners) // 7)
    files = [one for one in (tmp_path / "a.zarr" / "tiles" / "c").rglob("*") if one.is_file()]
    assert len(files) == shards
    assert (done[0], done[-1]) == ((0, shards), (shards, shards))
    assert [at for at, _ in done] == sorted(at for at, _ in done)
    found = ds.open_pack(path)
    assert found.tiles.chunks[0] == (7,) * (shards - 1) + (len(corners) - 7 * (shards - 1),)
    np.testing.assert_array_equal(found.tiles.compute(scheduler="threads"), pixels)


@pytest.mark.parametrize(
    ("count", "nbytes", "expected"),
    [(0, 100, 1), (5, 100, 5), (40_000, 512 * 512 * 3, 85), (10**6, 512 * 512 * 3, 1000),
     (10, 2**30, 1)],
)  # fmt: skip
def test_tiles_per_shard(count, nbytes, expected):
    assert packs.tiles_per_shard(count, nbytes) == expected


def test_an_empty_pack_is_read_back_and_written_again(tmp_path):
    glass = ds.from_dask(np.full((300, 300, 3), 240, np.uint8))
    with pytest.warns(ds.errors.BlankSlideWarning):
        pack = ds.pack_tiles(glass, tile_size=64)
    first = ds.open_pack(ds.write(pack, tmp_path / "a.zarr"))
    for found in (first, ds.open_pack(ds.write(first, tmp_path / "b.zarr"))):
        assert len(found) == 0
        assert found.tiles.shape == found.tiles.compute().shape == (0, 64, 64, 3)
        assert (found.y.shape, found.y.dtype, found.score.shape) == ((0,), np.int64, (0,))


def test_a_stored_pack_is_written_again(tmp_path, slide):
    first = ds.write(ds.pack_tiles(slide, tile_size=64, detector=DENSE), tmp_path / "a.zarr")
    second = ds.write(ds.open_pack(first), tmp_path / "b.zarr")
    one, two = ds.open_pack(first), ds.open_pack(second)
    np.testing.assert_array_equal(one.tiles.compute(), two.tiles.compute())
    assert one.attributes == two.attributes


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float32"])
def test_packs_of_other_dtypes(tmp_path, dtype):
    image = noise(300, 300, 2, dtype=dtype)
    pack = ds.pack_tiles(ds.from_dask(image), tile_size=100, detector=ds.Contrast(0))
    found = ds.open_pack(ds.write(pack, tmp_path / "a.zarr"))
    assert found.tiles.dtype == dtype
    assert len(found) == 9
    for y, x, tile in zip(found.y, found.x, found.tiles.compute(), strict=True):
        np.testing.assert_array_equal(tile, image[y : y + 100, x : x + 100])


def test_crops_are_read_back(tmp_path, slide):
    crops = ds.random_crops(slide, n=9, size=40, seed=3, downsample=1, detector=DENSE)
    found = ds.open_pack(ds.write(crops, tmp_path / "a.zarr"))
    assert len(found) == 9
    for y, x, tile in zip(found.y, found.x, found.tiles.compute(), strict=True):
        np.testing.assert_array_equal(tile, IMAGE[y : y + 40, x : x + 40])
    assert found.attributes["seed"] == 3


CLASSES = {2: "tumour", 5: "naïve fat", 7: "nowhere"}


def annotated(classes=CLASSES):
    """Return the labels of an image of 10 x 10 px per value, and each tile's share of each."""
    values = np.zeros((70, 53), np.uint8)
    values[:30], values[30:50, :20] = 2, 5
    whole = values.repeat(10, axis=0).repeat(10, axis=1)
    labels = label_mask(values, IMAGE.shape, classes)

    def share(y, x):
        return [(whole[y : y + 50, x : x + 50] == value).mean() for value in classes]

    return labels, share


def test_labels_are_read_back(tmp_path):
    labels, share = annotated()
    tile = {"tile_size": 50, "detector": ds.Contrast(0)}
    pack = ds.pack_tiles(ds.from_dask(IMAGE), **tile, labels=labels)
    path = ds.write(pack, tmp_path / "a.tiles.zarr")
    ds.verify(path)
    shares = np.array([share(y, x) for y, x in zip(pack.y, pack.x, strict=True)])
    names = np.array(list(CLASSES.values()))[shares.argmax(axis=1)]
    names[shares.max(axis=1) < 0.5] = ""
    assert set(names) == {"", "tumour", "naïve fat"}
    again = ds.write(ds.open_pack(path), tmp_path / "b.tiles.zarr")
    for found in (ds.open_pack(path), ds.open_pack(again)):
        np.testing.assert_allclose(found.coverage, shares, atol=1e-12)
        assert found.labels.tolist() == names.tolist()
        assert found.attributes == pack.attributes
        assert found.to_frame()["label"].tolist() == names.tolist()
    # what zarr alone reads; warnings are errors in these tests
    group = zarr.open_group(path, mode="r")
    assert group.attrs["classes"] == list(CLASSES.values())
    numbers = group["label"][...]
    assert numbers.dtype == np.int32
    stored = [group.attrs["classes"][n] if n >= 0 else "" for n in numbers]
    assert stored == names.tolist()
    assert group["coverage"].metadata.dimension_names == ("tile", "class")
    np.testing.assert_array_equal(group["coverage"][...], pack.coverage)


@pytest.mark.parametrize("empty", ["classes", "tiles"])
def test_a_pack_without_classes_or_tiles_has_labels(tmp_path, empty):
    labels, _ = annotated({} if empty == "classes" else CLASSES)
    image = IMAGE if empty == "classes" else np.full_like(IMAGE, 240)
    warned = pytest.warns(ds.errors.BlankSlideWarning) if empty == "tiles" else nullcontext()
    with warned:
        pack = ds.pack_tiles(
            ds.from_dask(image), tile_size=50, detector=ds.Contrast(0), labels=labels
        )
    found = ds.open_pack(ds.write(pack, tmp_path / "a.tiles.zarr"))
    assert found.coverage.shape == (len(pack), len(labels.classes)) and 0 in found.coverage.shape
    assert found.labels.tolist() == [""] * len(pack)


@pytest.mark.parametrize("damage", ["number", "classes", "shape"])
def test_labels_that_do_not_fit_are_refused(tmp_path, damage):
    labels, _ = annotated()
    pack = ds.pack_tiles(ds.from_dask(IMAGE), tile_size=50, detector=ds.Contrast(0), labels=labels)
    path = ds.write(pack, tmp_path / "a.tiles.zarr")
    group = zarr.open_group(path, mode="r+")
    if damage == "number":
        group["label"][0] = 3
    elif damage == "classes":
        group.attrs["classes"] = ["tumour"]
    else:
        group.create_array("label", data=np.zeros(3, np.int32), overwrite=True)
    with pytest.raises(ds.errors.SlideFormatError, match="not a tile pack"):
        ds.open_pack(path)


def test_other_labels_are_not_resumed(tmp_path, monkeypatch):
    def write(labels, **options):
        pack = ds.pack_tiles(
            ds.from_dask(IMAGE), tile_size=50, detector=ds.Contrast(0), labels=labels
        )
        return ds.write(pack, tmp_path / "a.tiles.zarr", resume=True, **options)

    first, _ = annotated()
    other = label_mask(np.flipud(first.values), IMAGE.shape, CLASSES)
    with monkeypatch.context() as patch:
        name = "dask_slides.writers.store.local_folder.LocalFolder.publish"
        patch.setattr(name, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(first)
    with pytest.raises(ds.errors.ResumeError, match="coverage"):
        write(other)
    assert len(ds.open_pack(write(first))) > 0
