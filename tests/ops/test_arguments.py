"""Plausible mistakes in arguments are refused in one line, and every kind of number is taken."""

import json

import dask.array as da
import numpy as np
import pytest
from rw_fixtures import one_line

import dask_slides as ds
from dask_slides.errors import SlideArgumentError, SlideFormatError

IMAGE = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype="u1")
SLIDE = ds.from_dask(IMAGE, mpp=0.5)
LABELS = np.ones((30, 40), "u1")
RAGGED = [[1, 2], [3]]
BAD_MPP = (0, -1, np.nan, np.inf, "a", "12", (1,), (1, 2, 3), (1, -1), True, np.ones((2, 2)))


def blank_map():
    return ds.BlankMap.from_labels(LABELS, SLIDE)


def cut():
    return ds.cutoff_resize(SLIDE, blank_map=blank_map(), downsample=2)


def islands():
    return ds.cutoff_resize(SLIDE, blank_map=blank_map(), layout="islands", downsample=2)


def pack():
    return ds.pack_tiles(SLIDE, tile_size=50, blank_map=blank_map())


def refused(call):
    with pytest.raises(SlideArgumentError) as error:
        call()
    return one_line(error)


@pytest.mark.parametrize("mpp", BAD_MPP, ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda mpp: ds.blank_map(SLIDE, tile_size=64, mpp=mpp),
        lambda mpp: ds.blank_map(SLIDE, mpp=mpp),
        lambda mpp: ds.pack_tiles(SLIDE, tile_size=64, mpp=mpp),
        lambda mpp: ds.random_crops(SLIDE, n=1, size=64, mpp=mpp),
        lambda mpp: ds.resize(SLIDE, mpp=mpp),
        lambda mpp: ds.from_dask(IMAGE, mpp=mpp),
    ],
    ids=["blank_map", "blank_map by default", "pack", "crops", "resize", "from_dask"],
)
def test_pixel_sizes(call, mpp):
    assert "mpp=" in refused(lambda: call(mpp))


SIZES = (0, -1, 2.5, "a", None)


@pytest.mark.parametrize("size", SIZES, ids=repr)
def test_sizes_of_pictures(size):
    refused(lambda: cut().kept_mask(size))
    refused(lambda: SLIDE.thumbnail(size))
    for given in ((size,), (5, size), (5, 5, size)):
        refused(lambda given=given: pack().contact_sheet(*given))
    if size is not None:
        refused(lambda: islands().island_mask(size))
        refused(lambda: ds.resize(SLIDE, max_size=size))


def test_an_image_that_is_too_large_to_number_its_pixels():
    assert "enlarge less" in refused(lambda: ds.resize(SLIDE, shape=(10**10, 10**10)))


MISTAKES = {
    "slide as shape": (lambda: ds.label_mask(LABELS, SLIDE), "slide_shape="),
    "shape of nothing": (lambda: ds.label_mask(LABELS, (0, 0)), "slide_shape="),
    "names in a list": (lambda: ds.label_mask(LABELS, (300, 400), ["tumour"]), "mapping"),
    "names of text": (lambda: ds.label_mask(LABELS, (300, 400), {"1": "tumour"}), "integers"),
    "no name": (lambda: ds.label_mask(LABELS, (300, 400), {1: None}), "integers"),
    "ragged labels": (lambda: ds.label_mask(RAGGED, (300, 400)), "label image"),
    "ragged mask": (lambda: blank_map().with_blank([[True], [False, True]]), "mask"),
    "ragged points": (lambda: cut().to_source(RAGGED), "points"),
    "text as points": (lambda: cut().from_source("a"), "points"),
    "ragged weights": (
        lambda: ds.random_crops(SLIDE, n=1, size=9, blank_map=blank_map(), weights=RAGGED),
        "weights of type list",
    ),
    "text as weights": (
        lambda: ds.random_crops(SLIDE, n=1, size=9, blank_map=blank_map(), weights="x"),
        "weights of type str",
    ),
    "slide opened twice": (lambda: ds.open_slide(SLIDE), "Slide is not a path"),
    "no path": (lambda: ds.open_slide(None), "NoneType is not a path"),
    "null in a path": (lambda: ds.open_slide("a\0b"), "null character"),
    "no path of GeoJSON": (lambda: ds.read_geojson(None), "NoneType is not a path"),
    "no limits": (lambda: ds.open_slide("no.tif", limits=None), "limits=None"),
    "checksum as a number": (lambda: ds.open_slide("no.tif", sha256=5), "sha256=5"),
    "checksum too short": (lambda: ds.open_slide("no.tif", sha256="x"), "sha256='x'"),
    "mask or statistics": (lambda: ds.Tissue() | ds.Contrast(0.1), "union"),
    "mask and statistics": (lambda: ds.Tissue() & ds.Contrast(0.1), "union"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained(name):
    call, words = MISTAKES[name]
    assert words in refused(call)


@pytest.mark.parametrize("shape", [SLIDE, 5, "ab", (0, 5), (5,)], ids=repr)
def test_shapes_of_slides_for_polygons(tmp_path, shape):
    path = tmp_path / "a.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    assert "slide_shape=" in refused(lambda: ds.read_geojson(path, slide_shape=shape))
    assert len(ds.read_geojson(path, slide_shape=SLIDE.shape)) == 0


@pytest.mark.parametrize("kind", ["Polygon", "MultiPolygon"])
@pytest.mark.parametrize("coordinates", [{"a": 1}, "abc", [{"a": 1}], ["abc"]], ids=repr)
def test_coordinates_that_are_no_lists(tmp_path, kind, coordinates):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": kind, "coordinates": coordinates}))
    with pytest.raises(SlideFormatError, match="not valid GeoJSON") as error:
        ds.read_geojson(path)
    one_line(error)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, np.float64, np.longdouble])
def test_numbers_of_numpy(kind):
    number = kind(1)
    whole = int(number) if isinstance(number, np.integer) else 1.0
    for made, expected in (
        (ds.Contrast(number), ds.Contrast(whole)),
        (ds.Brightness(number, number), ds.Brightness(whole, whole)),
        (ds.Otsu(number), ds.Otsu(whole)),
        (ds.Saturation(number, number), ds.Saturation(whole, whole)),
        (
            ds.Tissue(min_area=number, max_hole=number, mpp=number),
            ds.Tissue(min_area=whole, max_hole=whole, mpp=whole),
        ),
    ):
        assert made == expected
        assert repr(made) == repr(expected)  # outputs hold it
    found = blank_map()
    assert found.remove_small(number) == found.remove_small(1)
    assert found.fill_holes(number) == found.fill_holes(1)
    kept = found.with_min_tissue(number).min_tissue
    assert (type(kept), kept) == (float, 1.0)
    assert ds.resize(SLIDE, downsample=2, gap=number).shape == (150, 200, 3)
    assert ds.cutoff_resize(SLIDE, blank_map=found, compact=number).image.shape == IMAGE.shape
    for ten in (kind(10), 10):
        tiles = ds.pack_tiles(SLIDE, tile_size=50, blank_map=found, magnification=ten)
        assert tiles.mpp == pytest.approx(1.0)


def test_pairs_of_numpy():
    pair = np.array([50, 100])
    tiles = ds.pack_tiles(SLIDE, tile_size=pair, stride=pair, blank_map=blank_map())
    assert tiles.tiles.shape[1:3] == (50, 100)
    assert ds.blank_map(SLIDE, tile_size=pair).grid.tile == (50, 100)
    assert ds.resize(SLIDE, mpp=np.array([1.0, 2.0])).shape == (150, 100, 3)
    assert ds.from_dask(IMAGE, mpp=np.array([1.0, 2.0])).mpp_yx == (1.0, 2.0)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64, int])
def test_regions_in_integers_of_numpy(tissue_tiff, kind):
    expected = IMAGE[10:110, 200:250]
    np.testing.assert_array_equal(SLIDE.read(*map(kind, (10, 200, 100, 50))), expected)
    slide = ds.open_slide(tissue_tiff)
    whole = np.asarray(slide)
    height, width = (side // 2 for side in slide.shape[:2])
    height, width = min(height, 250), min(width, 250)
    found = slide.read(*map(kind, (height, width, height, width)), level=kind(0))
    np.testing.assert_array_equal(found, whole[height : 2 * height, width : 2 * width])


@pytest.mark.parametrize("value", [5.0, "a", None, np.float64(5)], ids=repr)
@pytest.mark.parametrize("name", ["y", "x", "height", "width", "level"])
def test_regions_that_are_no_integers(name, value):
    region = {"y": 0, "x": 0, "height": 5, "width": 5} | {name: value}
    assert SLIDE.name in refused(lambda: SLIDE.read(**region))


@pytest.mark.parametrize("lazy", [False, True])
def test_masked_arrays_and_arrays_of_objects(lazy):
    masked = np.ma.masked_less(IMAGE, 100)
    given = da.from_array(masked, chunks=100) if lazy else masked
    assert "ma.filled" in refused(lambda: ds.from_dask(given))
    assert "ma.filled" in refused(lambda: ds.resize(given, downsample=2))
    filled = da.ma.filled(given, 255) if lazy else np.ma.filled(given, 255)
    np.testing.assert_array_equal(ds.from_dask(filled), np.where(IMAGE < 100, 255, IMAGE))
    for dtype in (object, "U1", "c8", "M8[s]"):
        array = np.zeros((5, 5), dtype)
        given = da.from_array(array, chunks=5) if lazy else array
        assert "dtype" in refused(lambda given=given: ds.from_dask(given))
