"""Stores of SpatialData: their layout, and how spatialdata reads them."""

import json
from dataclasses import replace

import dask
import numpy as np
import pytest
import tifffile

import dask_slides as ds
from dask_slides.errors import OutputExistsError, SlideArgumentError
from dask_slides.writers.exports import spatialdata

pq = pytest.importorskip("pyarrow.parquet")
shapely = pytest.importorskip("shapely")


@pytest.fixture(scope="module")
def slide(tissue, tmp_path_factory):
    """Return a slide of 600 x 840 px with two levels in its store, and 0.5 µm per pixel."""
    path = tmp_path_factory.mktemp("spatial") / "tissue.tif"
    image = np.kron(tissue, np.ones((2, 2, 1), np.uint8))
    tifffile.imwrite(path, image, tile=(128, 128), compression="zlib", photometric="rgb")
    return ds.open_slide(path, mpp=0.5)


@pytest.fixture(scope="module")
def found(slide):
    """Return a blank map in memory."""
    with dask.config.set(scheduler="sync"):
        return ds.blank_map(slide, tile_size=40, detector=ds.Contrast(0.05)).compute()


def metadata(store, group="."):
    return json.loads((store / group / "zarr.json").read_text())


def spatial_of(store):
    return pytest.importorskip("spatialdata").read_zarr(store)


def extent_of(element, system):
    """Return the extent in a coordinate system, (top, bottom, left, right)."""
    from spatialdata import get_extent

    extent = get_extent(element, coordinate_system=system)
    return [round(float(n), 6) for axis in "yx" for n in extent[axis]]


def test_the_layout_is_that_of_spatialdata(slide, found, tmp_path):
    store = tmp_path / "x.spatialdata.zarr"
    pack = ds.pack_tiles(slide, tile_size=64, downsample=1, blank_map=found)
    assert ds.export(slide, store, blank_map=found, pack=pack) == str(store)
    assert [one.name for one in tmp_path.iterdir()] == [store.name]
    arrays = {f"{kind}/{n}" for kind in ("images/image", "labels/tissue") for n in "01"}
    groups = {"images", "images/image", "labels", "labels/tissue", "shapes"}
    groups |= {"shapes/outlines", "shapes/tiles"}
    folders = {str(one.parent.relative_to(store)) for one in store.rglob("zarr.json")}
    assert folders == arrays | groups | {"."}
    files = {str(one.relative_to(store)) for one in store.rglob("*") if one.is_file()}
    other = {one for one in files if "/c/" not in one and not one.endswith("zarr.json")}
    assert other == {f"shapes/{name}/shapes.parquet" for name in ("outlines", "tiles")}
    root = metadata(store)
    assert root["attributes"]["spatialdata_attrs"]["version"] == "0.2"
    assert set(root["consolidated_metadata"]["metadata"]) == arrays | groups
    for group, axes in (("images/image", "cyx"), ("labels/tissue", "yx")):
        attributes = metadata(store, group)["attributes"]
        assert attributes["spatialdata_attrs"] == {"version": "0.3"}
        assert attributes["ome"]["version"] == "0.5-dev-spatialdata"
        (multiscale,) = attributes["ome"]["multiscales"]
        pixels, microns = multiscale["coordinateTransformations"]
        for one, name, scale in ((pixels, "global", 1.0), (microns, "microns", 0.5)):
            assert one["type"] == "scale" and one["scale"][-2:] == [scale, scale]
            assert (one["input"]["name"], one["output"]["name"]) == (axes, name)
    shapes = metadata(store, "shapes/tiles")["attributes"]
    assert shapes["encoding-type"] == "ngff:shapes" and shapes["axes"] == ["x", "y"]
    assert ds.open_slide(store / "images" / "image").shape == slide.shape


def test_outlines_are_those_of_the_map_and_tiles_those_of_the_pack(slide, found, tmp_path):
    store = tmp_path / "x.spatialdata.zarr"
    pack = ds.pack_tiles(slide, tile_size=64, downsample=2, blank_map=found)
    ds.export(slide, store, blank_map=found, pack=pack)
    table = pq.read_table(store / "shapes/outlines/shapes.parquet")
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    outlines = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapely.is_valid(outlines).all()
    expected = shapely.union_all(
        [
            shapely.box(col * 40, row * 40, min(840, col * 40 + 40), min(600, row * 40 + 40))
            for row, col in np.argwhere(found.tissue)
        ]
    )
    assert shapely.union_all(outlines).symmetric_difference(expected).area == 0
    tiles = pq.read_table(store / "shapes/tiles/shapes.parquet")
    boxes = shapely.bounds(shapely.from_wkb(tiles["geometry"].to_pylist()))
    assert np.array_equal(boxes[:, :2], np.stack((pack.x, pack.y), axis=1))
    assert np.array_equal(boxes[:, 2:] - boxes[:, :2], np.full((len(pack), 2), 128))


@pytest.mark.filterwarnings("ignore")  # of the packages that spatialdata imports
@pytest.mark.parametrize("downsample", [1, 3])
def test_spatialdata_overlays_all_elements(slide, found, tmp_path, downsample):
    store = tmp_path / "x.spatialdata.zarr"
    image = slide if downsample == 1 else ds.resize(slide, downsample=downsample)
    pack = ds.pack_tiles(slide, tile_size=64, downsample=1, blank_map=found)
    ds.export(image, store, blank_map=found, pack=pack)
    read = spatial_of(store)
    assert {*read.images, *read.labels, *read.shapes} == {"image", "tissue", "outlines", "tiles"}
    assert set(read.coordinate_systems) == {"global", "microns"}
    for name in ("image", "tissue"):
        assert extent_of(read[name], "global") == [0, 600, 0, 840]
        assert extent_of(read[name], "microns") == [0, 300, 0, 420]
    rows, columns = np.nonzero(found.tissue)
    box = [rows.min() * 40, rows.max() * 40 + 40, columns.min() * 40, columns.max() * 40 + 40]
    assert extent_of(read["outlines"], "global") == box
    assert extent_of(read["tiles"], "microns") == [
        pack.y.min() / 2, (pack.y.max() + 64) / 2, pack.x.min() / 2, (pack.x.max() + 64) / 2,
    ]  # fmt: skip
    assert np.array_equal(read["tiles"]["score"], pack.score)
    level = read["image"] if downsample > 1 else read["image"]["scale0"]["image"]
    label = read["tissue"] if downsample > 1 else read["tissue"]["scale0"]["image"]
    assert np.array_equal(level.data.compute().transpose(1, 2, 0), np.asarray(image))
    assert list(level.coords["c"].values) == ["red", "green", "blue"]
    tissue = np.kron(found.tissue, np.ones((40, 40), bool))
    if downsample == 1:
        assert np.array_equal(label.data.compute() == 1, tissue)


@pytest.mark.filterwarnings("ignore")
def test_an_image_alone_without_mpp(tmp_path):
    slide = ds.from_dask(np.arange(50 * 40, dtype=np.uint16).reshape(50, 40))
    ds.export(slide, tmp_path / "x.spatialdata.zarr")
    read = spatial_of(tmp_path / "x.spatialdata.zarr")
    assert set(read.coordinate_systems) == {"global"} and list(read.images) == ["image"]
    assert not read.labels and not read.shapes


def test_a_blank_slide_has_no_shapes(slide, found, tmp_path):
    blank = found.with_blank(np.ones(found.shape, bool))
    ds.export(slide, tmp_path / "x.spatialdata.zarr", blank_map=blank)
    assert [one.name for one in (tmp_path / "x.spatialdata.zarr/shapes").iterdir()] == ["zarr.json"]


def test_a_pack_needs_no_pixels(slide, found, tmp_path):
    def fail(block):
        raise AssertionError("read")

    pack = ds.pack_tiles(slide, tile_size=64, downsample=1, blank_map=found)
    pack = replace(pack, tiles=pack.tiles.map_blocks(fail, dtype="uint8"), reader=None)
    ds.export(slide, tmp_path / "x.spatialdata.zarr", pack=pack)
    table = pq.read_table(tmp_path / "x.spatialdata.zarr/shapes/tiles/shapes.parquet")
    assert table["y"].to_pylist() == pack.y.tolist()


def test_an_opened_pack_lies_on_its_slide(slide, found, tmp_path):
    small = ds.resize(slide, downsample=2)
    for name, of, image in (("a", slide, small), ("b", small, small)):
        pack = ds.pack_tiles(of, tile_size=32, downsample=1, detector=ds.Contrast(0.05))
        opened = ds.open_pack(ds.write(pack, tmp_path / f"{name}.tiles.zarr"))
        store = tmp_path / f"{name}.spatialdata.zarr"
        ds.export(image, store, pack=opened)
        shapes = metadata(store, "shapes/tiles")["attributes"]
        scale = shapes["coordinateTransformations"][0]["scale"]
        assert scale == ([1.0, 1.0] if of is slide else [2.0, 2.0])


def test_stores_of_a_map_and_a_pack_are_opened(slide, found, tmp_path):
    pack = ds.pack_tiles(slide, tile_size=64, downsample=1, blank_map=found)
    ds.export(slide, tmp_path / "a.spatialdata.zarr", blank_map=found, pack=pack)
    stored = {
        "blank_map": ds.write(found, tmp_path / "map.ome.zarr"),
        "pack": ds.write(pack, tmp_path / "p.tiles.zarr"),
    }
    ds.export(slide, tmp_path / "b.spatialdata.zarr", **stored)
    for name in ("outlines", "tiles"):
        a, b = (tmp_path / f"{x}.spatialdata.zarr/shapes/{name}/shapes.parquet" for x in "ab")
        assert pq.read_table(a).equals(pq.read_table(b))


def test_what_does_not_belong_together_is_refused(slide, found, tmp_path):
    other = ds.from_dask(np.zeros((99, 50, 3), np.uint8))
    with pytest.raises(SlideArgumentError, match="of 600 x 840 px is not the slide of 99 x 50"):
        ds.export(other, tmp_path / "x.spatialdata.zarr", blank_map=found)
    pack = ds.pack_tiles(slide, tile_size=64, downsample=1, blank_map=found)
    opened = ds.open_pack(ds.write(pack, tmp_path / "p.tiles.zarr"))
    with pytest.raises(SlideArgumentError, match="of 600 x 840 px is not the slide of 99 x 50"):
        ds.export(other, tmp_path / "x.spatialdata.zarr", pack=opened)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(OutputExistsError, match="is not empty"):
        ds.export(slide, tmp_path / "full", to="spatialdata", overwrite=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["full", "p.tiles.zarr"]


def test_a_failed_export_leaves_nothing(slide, found, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("no")

    monkeypatch.setattr(spatialdata, "_write_outlines", fail)
    with pytest.raises(OSError, match="no"):
        ds.export(slide, tmp_path / "x.spatialdata.zarr", blank_map=found)
    assert list(tmp_path.iterdir()) == []
