"""GeoJSON of tiles and outlines, as QuPath reads it; shapely is the oracle."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from export_packs import all_tiles, labelled_tiles, without_pixels

import dask_slides as ds
from dask_slides.errors import OutputExistsError, SlideArgumentError


def content_of(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_tiles_are_objects_with_measurements_and_a_class(tmp_path):
    shapely = pytest.importorskip("shapely")
    pack = without_pixels(labelled_tiles())
    path = ds.export(pack, tmp_path / "tiles.geojson")
    content = content_of(path)
    assert content["type"] == "FeatureCollection" and len(content["features"]) == 24
    classes, colours = set(), set()
    for i, feature in enumerate(content["features"]):
        polygon = shapely.geometry.shape(feature["geometry"])
        y, x = 100 * (i // 6), 100 * (i % 6)
        assert polygon.equals(shapely.box(x, y, x + 100, y + 100)) and polygon.exterior.is_ccw
        properties = feature["properties"]
        assert properties["objectType"] == "tile"
        measured = {"score": pytest.approx(pack.score[i], rel=1e-5), "tissue fraction": 1}
        measured["50% tumour coverage"] = {200: 1, 300: 1, 400: 0.5}.get(x, 0)
        measured['the "rest" coverage'] = float((y, x) == (300, 0))
        assert properties["measurements"] == measured
        found = properties.get("classification")
        assert (found and found["name"]) == (pack.labels[i] or None)
        if found:
            classes.add(found["name"])
            colours.add(tuple(found["color"]))
    assert classes == {"50% tumour", 'the "rest"'} and len(colours) == 2
    assert all(type(value) is int and 0 <= value <= 255 for one in colours for value in one)


def test_many_tiles_are_written_in_batches(pyramid, monkeypatch, tmp_path):
    from dask_slides.writers.exports import geojson

    pack = all_tiles(pyramid, 32)
    whole = content_of(ds.export(pack, tmp_path / "a.geojson"))
    monkeypatch.setattr(geojson, "BATCH", 7)
    packed = ds.export(pack, tmp_path / "b.geojson.gz")
    again = ds.export(pack, tmp_path / "c.geojson.gz")
    assert Path(packed).read_bytes() == Path(again).read_bytes()
    with gzip.open(packed, "rt") as file:
        assert json.load(file) == whole
    assert len(whole["features"]) == len(pack) == 12 * 16


def test_the_outlines_of_a_blank_map(tissue_tiff, tmp_path):
    found = ds.blank_map(tissue_tiff, tile_size=30, detector=ds.Contrast(0.05))
    path = tmp_path / "outlines.geojson"
    assert ds.export(found, path) == str(path)
    shapely = pytest.importorskip("shapely")
    shapes = [shapely.geometry.shape(one["geometry"]) for one in content_of(path)["features"]]
    assert shapes
    mask = found.mask
    areas = np.outer(np.diff(mask.y_edges), np.diff(mask.x_edges))
    assert sum(one.area for one in shapes) == areas[mask.tissue].sum() > 0
    with pytest.raises(OutputExistsError, match="overwrite it"):
        ds.export(found, path)
    ds.export(found, path, overwrite=True)
    with pytest.raises(SlideArgumentError, match="no option 'style'; its options are: none"):
        ds.export(found, path, style="trident", overwrite=True)


@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
def test_an_empty_pack_is_an_empty_collection(tmp_path):
    pack = ds.pack_tiles(np.full((256, 256, 3), 240, "uint8"), tile_size=64)
    content = content_of(ds.export(pack, tmp_path / "a.geojson"))
    assert content == {"type": "FeatureCollection", "features": []}
