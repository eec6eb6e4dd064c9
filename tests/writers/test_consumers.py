"""What other packages read from our stores; docs/howto/zarr-consumers.md has a line for each."""

import dask.array as da
import numpy as np
import pytest
import zarr
from rw_fixtures import tissue

import dask_slides as ds

IMAGE = tissue(1500, 1100)
DENSE = ds.Contrast(0.35)
KINDS = {
    "0.5": {},
    "0.5 without shards": {"shards": False},
    "0.4": {"ome_zarr": "0.4"},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return the paths of an image, with a tissue label, in each format."""
    folder = tmp_path_factory.mktemp("consumers")
    slide = ds.from_dask(IMAGE, mpp=(0.5, 0.25))
    found = ds.blank_map(slide, tile_size=100, detector=DENSE)
    return {
        kind: ds.write(slide, folder / f"{kind}.ome.zarr", blank_map=found, **options)
        for kind, options in KINDS.items()
    }


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """Return a pack and the paths of its stores, with and without shards."""
    folder = tmp_path_factory.mktemp("packs")
    pack = ds.pack_tiles(ds.from_dask(IMAGE, mpp=0.5), tile_size=64, mpp=0.5, detector=DENSE)
    return pack, [
        ds.write(pack, folder / f"{shards}.tiles.zarr", shards=shards) for shards in (True, False)
    ]


def tiles_of(pack):
    return np.stack([IMAGE[y : y + 64, x : x + 64] for y, x in zip(pack.y, pack.x, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_zarr_and_dask(stores, kind):
    pixels = IMAGE.transpose(2, 0, 1)
    np.testing.assert_array_equal(zarr.open_group(stores[kind], mode="r")["0"][...], pixels)
    np.testing.assert_array_equal(da.from_zarr(stores[kind], component="0").compute(), pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_tensorstore(stores, kind):
    tensorstore = pytest.importorskip("tensorstore")
    driver = "zarr" if kind == "0.4" else "zarr3"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{stores[kind]}/0"}}
    found = tensorstore.open(spec, read=True, open=True).result().read().result()
    np.testing.assert_array_equal(found, IMAGE.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_ome_zarr_py(stores, kind):
    io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
    nodes = list(reader.Reader(io.parse_url(stores[kind]))())
    np.testing.assert_array_equal(nodes[0].data[0].compute(), IMAGE.transpose(2, 0, 1))
    assert len(nodes[0].data) == 3
    assert [axis["name"] for axis in nodes[0].metadata["axes"]] == list("cyx")


def test_fastslide(stores):
    """Without shards only; 0.8 refuses the codecs of the others."""
    fastslide = pytest.importorskip("fastslide")
    slide = fastslide.FastSlide.from_file_path(stores["0.5 without shards"])
    assert slide.mpp == (0.25, 0.5)  # x before y
    for level, size in enumerate(slide.level_dimensions):
        found = slide.read_region((0, 0), level, size).numpy()  # (c, y, x)
        expected = ds.open_slide(stores["0.5"]).to_dask(level=level).compute()
        np.testing.assert_array_equal(found.transpose(1, 2, 0), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_yaozarrs_validates_them(stores, kind):
    pytest.importorskip("yaozarrs").validate_zarr_store(stores[kind])


@pytest.mark.parametrize("kind", ["0.5", "0.5 without shards"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_levels_in_xarray(stores, kind, level):
    """OME-Zarr names the axes of all levels alike, so a Dataset can hold one level only."""
    xarray = pytest.importorskip("xarray")
    others = [str(number) for number in range(3) if number != level]
    found = xarray.open_zarr(stores[kind], consolidated=False, drop_variables=others)
    image = found[str(level)]
    assert image.dims == ("c", "y", "x")
    expected = ds.open_slide(stores[kind]).to_dask(level=level).compute()
    np.testing.assert_array_equal(image.transpose("y", "x", "c"), expected)
    with pytest.raises(ValueError, match="conflicting sizes"):
        xarray.open_zarr(stores[kind], consolidated=False)
    with pytest.raises(KeyError, match="_ARRAY_DIMENSIONS"):
        xarray.open_zarr(stores["0.4"], consolidated=False, drop_variables=others)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("opened", ["open_zarr", "open_dataset"])
def test_packs_in_xarray(packs, number, opened):
    """Without a warning, which would be an error."""
    xarray = pytest.importorskip("xarray")
    pack, paths = packs
    options = {"engine": "zarr"} if opened == "open_dataset" else {}
    with getattr(xarray, opened)(paths[number], **options) as found:
        assert dict(found.sizes) == {"tile": len(pack), "py": 64, "px": 64, "channel": 3}
        assert found["tiles"].dims == ("tile", "py", "px", "channel")
        np.testing.assert_array_equal(found["tiles"], tiles_of(pack))
        for name in ("y", "x", "score", "tissue_fraction"):
            assert found[name].dims == ("tile",)
            np.testing.assert_array_equal(found[name], getattr(pack, name))
        best = found.isel(tile=int(np.argmax(found["score"].values)))
        at = int(best["y"]), int(best["x"])
        np.testing.assert_array_equal(best["tiles"], IMAGE[at[0] :, at[1] :][:64, :64])


@pytest.mark.parametrize("number", [0, 1])
def test_packs_in_zarr_dask_and_tensorstore(packs, number):
    tensorstore = pytest.importorskip("tensorstore")
    pack, path = packs[0], packs[1][number]
    expected = tiles_of(pack)
    group = zarr.open_group(path, mode="r")
    assert group.metadata.consolidated_metadata is not None
    np.testing.assert_array_equal(group["tiles"][...], expected)
    np.testing.assert_array_equal(da.from_zarr(path, component="tiles").compute(), expected)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/tiles"}}
    found = tensorstore.open(spec, read=True, open=True).result()
    np.testing.assert_array_equal(found[3].read().result(), expected[3])


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Return the pixels of a JPEG slide, a pack of it, and their stores of its own tiles."""
    folder = tmp_path_factory.mktemp("copies")
    slide = ds.open_slide(ds.sample_slide(folder / "a.tif", shape=(1024, 768), tile=64))
    pack = ds.pack_tiles(slide, tile_size=64, downsample=1, align="source", detector=DENSE)
    image = ds.write(slide, folder / "a.ome.zarr", codec="source", level_step=None)
    return slide, pack, image, ds.write(pack, folder / "a.tiles.zarr", codec="source")


def test_copies_in_zarr_dask_and_xarray(copies):
    xarray = pytest.importorskip("xarray")
    slide, pack, image, path = copies
    pixels, tiles = slide.data.compute().transpose(2, 0, 1), pack.tiles.compute()
    np.testing.assert_array_equal(zarr.open_group(image, mode="r")["0"][...], pixels)
    np.testing.assert_array_equal(da.from_zarr(image, component="0").compute(), pixels)
    np.testing.assert_array_equal(xarray.open_zarr(image, consolidated=False)["0"], pixels)
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["tiles"][...], tiles)
    np.testing.assert_array_equal(da.from_zarr(path, component="tiles").compute(), tiles)
    np.testing.assert_array_equal(xarray.open_zarr(path)["tiles"], tiles)


def test_tensorstore_refuses_copies(copies):
    """If it opens them one day, the table of programs has to say so."""
    tensorstore = pytest.importorskip("tensorstore")
    for path in (f"{copies[2]}/0", f"{copies[3]}/tiles"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
        with pytest.raises(ValueError, match="imagecodecs_jpeg"):
            tensorstore.open(spec, read=True, open=True).result()
