"""GeoJSON in the conventions of QuPath and TRIDENT, read by shapely, and files of others."""

import gzip
import json
import uuid

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_slides.core.polygons import Outline
from dask_slides.errors import (
    OutputExistsError,
    SkippedGeometryWarning,
    SlideArgumentError,
    SlideFormatError,
    SlideNotFoundError,
)
from dask_slides.numerics.outlines import mask_outlines, outlines_mask
from dask_slides.ops.geojson import read_geojson, write_geojson

SQUARE = [[0, 0], [10, 0], [10, 8], [0, 8], [0, 0]]
HOLE = [[2, 2], [2, 4], [4, 4], [4, 2], [2, 2]]
OUTLINE = Outline(
    np.array([[0, 0], [0, 100], [80, 100], [80, 0]]),
    (np.array([[10, 20], [10, 40], [30, 40], [30, 20]]),),
)


def polygon(*rings, **more):
    return {"type": "Polygon", "coordinates": list(rings), **more}


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def collection(*features, **more):
    return {"type": "FeatureCollection", "features": list(features), **more}


@pytest.fixture
def saved(tmp_path):
    """Return a function that writes a file and returns its path."""

    def save(content, name="some.geojson"):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return save


def test_qupath(tmp_path):
    path = tmp_path / "a.geojson"
    outlines = [OUTLINE, Outline(OUTLINE.exterior + 200)]
    assert write_geojson(outlines, path, classification="Tumor", colour=(200, 0, 9)) == str(path)
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    for found, outline in zip(content["features"], outlines, strict=True):
        assert found["properties"] == {
            "objectType": "annotation",
            "classification": {"name": "Tumor", "color": [200, 0, 9]},
        }
        shape = shapely.geometry.shape(found["geometry"])
        assert shape.area == outline.area and shape.is_valid
        assert shape.exterior.is_ccw and not any(hole.is_ccw for hole in shape.interiors)
        assert shape.bounds[2:] == tuple(outline.exterior.max(axis=0)[::-1])
        rings = found["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] for ring in rings)
        assert all(type(value) is int for ring in rings for point in ring for value in point)
    ids = {found["id"] for found in content["features"]}
    assert len(ids) == 2 == len({uuid.UUID(one) for one in ids})
    write_geojson(outlines[:1], path, classification="Tumor", overwrite=True)
    assert json.loads(path.read_text())["features"][0]["id"] in ids
    assert [one.name for one in tmp_path.iterdir()] == ["a.geojson"]


def test_trident(tmp_path):
    """As geopandas writes the contours: numbers, a coordinate system that is not of degrees."""
    path = tmp_path / "slide.1.geojson"
    write_geojson([OUTLINE, OUTLINE], path, style="trident")
    content = json.loads(path.read_text())
    assert content["name"] == "slide.1"
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::3857"
    assert [one["properties"] for one in content["features"]] == [
        {"tissue_id": 0},
        {"tissue_id": 1},
    ]
    assert read_geojson(path, slide_shape=(300, 300, 3)).classes == ("Tissue",)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))), st.booleans())
def test_round_trip_of_masks(tmp_path, mask, compressed):
    edges = tuple(np.arange(size + 1) * 7 for size in mask.shape)
    outlines = mask_outlines(mask, *edges)
    path = tmp_path / ("a.geojson" + ".gz" * compressed)
    write_geojson(outlines, path, overwrite=True)
    read = read_geojson(path, slide_shape=tuple(int(one[-1]) for one in edges))
    assert sorted(one.area for one in read.polygons) == sorted(one.area for one in outlines)
    np.testing.assert_array_equal(outlines_mask(read.polygons, *edges), mask)
    assert read.classes == ("Tissue",) * bool(len(outlines))


def test_kinds_of_files(saved):
    geometry = polygon(SQUARE, HOLE)
    for content in (
        collection(feature(geometry)),
        [feature(geometry)],  # an older export of QuPath
        feature(geometry),
        geometry,
        {"type": "GeometryCollection", "geometries": [geometry]},
        feature({"type": "GeometryCollection", "geometries": [geometry]}),
        {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE]]},
        polygon([[*point, 5.0] for point in SQUARE], HOLE),  # with a height
        polygon(SQUARE[:-1], HOLE[:-1]),  # not closed
    ):
        read = read_geojson(saved(content))
        assert [one.area for one in read.polygons] == [80 - 4]
        assert read.classes == ("unclassified",)
        assert read.polygons.bounds.tolist() == [[0, 0, 8, 10]]  # y before x
    zipped = saved(collection(), "none.json.gz")
    assert len(read_geojson(zipped, slide_shape=(9, 9))) == 0
    assert repr(read_geojson(zipped)) == "Annotations<none.json.gz>"


def test_several_polygons_and_classes(saved):
    moved = [[x + 100, y] for x, y in SQUARE]
    read = read_geojson(
        saved(
            collection(
                feature(polygon(SQUARE), classification={"name": "Tumor", "color": [1, 2, 3]}),
                feature(
                    {"type": "MultiPolygon", "coordinates": [[moved], [SQUARE, HOLE]]},
                    classification={"names": ["Tumor", "Positive"]},
                    name="its own name",
                ),
                feature(polygon(moved), label=3),
                feature(polygon(SQUARE), **{"class": "Tumor"}),
                feature(polygon(SQUARE), name="Fat", classification=None),
                {**feature(polygon(SQUARE)), "properties": None},
            )
        )
    )
    assert read.classes == ("Tumor", "Tumor: Positive", "3", "Fat", "unclassified")
    assert read.labels.tolist() == [0, 1, 1, 2, 0, 3, 4]
    assert [one.area for one in read.polygons] == [80, 80, 76, 80, 80, 80, 80]
    assert repr(read) == (
        "Annotations<some.geojson, Tumor: 2, Tumor: Positive: 2, 3: 1, Fat: 1, unclassified: 1>"
    )


def test_what_has_no_area_is_skipped(saved):
    path = saved(
        collection(
            feature({"type": "Point", "coordinates": [1, 2]}),
            feature({"type": "LineString", "coordinates": SQUARE}),
            feature({"type": "Point", "coordinates": [3, 2]}),
            feature(None),
            feature(polygon(SQUARE[:2])),
            feature(polygon(SQUARE, HOLE[:2])),
        )
    )
    with pytest.warns(SkippedGeometryWarning, match="1 LineString, 2 Point, 1 Polygon, 1 empty"):
        read = read_geojson(path)
    assert [one.area for one in read.polygons] == [80]


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG", b"", b"[" * 100_000, 3, {}, {"type": "Topology"}, [[]], [3],
        {"type": "FeatureCollection"}, {"type": "Feature"}, {"type": "Polygon"},
        collection(3), feature(3), feature({}), feature(polygon(3)), polygon([1, 2, 3]),
        polygon([[1], [2], [3]]), polygon([["a", "b"], *SQUARE]), polygon([[1, None], *SQUARE]),
        polygon([[1, float("nan")], [1, 2], [2, 2]]), polygon([[1, [2]], *SQUARE]),
    ],
)  # fmt: skip
def test_other_files_are_refused(saved, content):
    with pytest.raises(SlideFormatError, match=r"not valid GeoJSON|not a JSON file") as error:
        read_geojson(saved(content))
    assert "some.geojson" in str(error.value) and "\n" not in str(error.value)


def test_missing_and_compressed_files(saved, tmp_path):
    with pytest.raises(SlideNotFoundError, match="no file"):
        read_geojson(tmp_path / "none.geojson")
    with pytest.raises(SlideFormatError, match="is a folder, not a file of GeoJSON"):
        read_geojson(tmp_path)
    path = saved(collection(), "cut.geojson.gz")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SlideFormatError, match="not a JSON file"):
        read_geojson(path)


def test_files_that_do_not_fit_the_slide_are_refused(saved):
    shape = (1000, 2000, 3)
    far = feature(polygon([[x + 2000, y] for x, y in SQUARE]))
    with pytest.raises(SlideArgumentError, match=r"x 2000 to 2010\) lie outside the slide of 1000"):
        read_geojson(saved(collection(far)), slide_shape=shape)
    assert len(read_geojson(saved(collection(far, feature(polygon(SQUARE)))), slide_shape=shape))
    degrees = polygon([[8.51, 47.1], [8.52, 47.1], [8.52, 47.3]])
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    for content in (degrees, collection(feature(polygon(SQUARE)), crs=crs)):
        with pytest.raises(SlideArgumentError, match="longitudes"):
            read_geojson(saved(content), slide_shape=shape)
    assert len(read_geojson(saved(degrees))) == 1


def test_outputs_are_protected(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="overwrite it"):
        write_geojson([OUTLINE], path)
    assert path.read_text() == "mine"
    with pytest.raises(SlideNotFoundError, match="create it first"):
        write_geojson([OUTLINE], tmp_path / "no" / "a.geojson")
    for wrong in ({"style": "svg"}, {"colour": (1, 2)}, {"colour": (1, 2, 256)}):
        with pytest.raises(SlideArgumentError):
            write_geojson([OUTLINE], tmp_path / "b.geojson", **wrong)
    assert [one.name for one in tmp_path.iterdir()] == ["a.geojson"]
