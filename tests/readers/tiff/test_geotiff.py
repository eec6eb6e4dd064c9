"""GeoTIFFs keep pixel size, origin and CRS, which rasterio writes and reads."""

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from rw_fixtures import noise

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.core.geometry import Placement
from dask_slides.core.georeference import reference_of

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

STACK = noise(4, 300, 200, dtype="uint16", top=900)
UTM = "EPSG:32633"
KILOMETRES = (
    'PROJCS["mine",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",15],'
    'PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500],'
    'PARAMETER["false_northing",0],UNIT["kilometre",1000]]'
)
COS, SIN = 3 * np.cos(np.pi / 6), 3 * np.sin(np.pi / 6)
ROTATED = rasterio.Affine(COS, SIN, 5e5, SIN, -COS, 5.3e6)
"""Pixels of 3 m, turned by 30 degrees."""


def scene(path, crs=UTM, transform=None, bands=("B2", "B3", "B4", "B8"), point=False, **options):
    """Write STACK as GeoTIFF; return its transform as rasterio reads it."""
    if transform is None:
        transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_300_000)
    profile = {
        "driver": "GTiff", "height": 300, "width": 200, "count": 4, "dtype": "uint16",
        "crs": crs, "transform": transform, "tiled": True, "blockxsize": 64, "blockysize": 64,
        "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile | options) as file:
        file.write(STACK)
        if bands:
            file.descriptions = bands
        if point:
            file.update_tags(AREA_OR_POINT="Point")
    with rasterio.open(path) as file:
        return file.transform


def numbers(text):
    return [float(number) for number in text.split(",")]


@pytest.mark.parametrize(
    ("options", "crs", "unit", "mpp"),
    [
        ({}, (UTM, "WGS 84 / UTM zone 33N"), "metre", 1e7),
        ({"point": True}, (UTM, "WGS 84 / UTM zone 33N"), "metre", 1e7),
        ({"transform": ROTATED},
         (UTM, "WGS 84 / UTM zone 33N"), "metre", 3e6),
        ({"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, 10.25, 0, -1e-4, 50.1)},
         ("EPSG:4326", "WGS 84"), "degree", None),
        ({"crs": "EPSG:2263", "transform": rasterio.Affine(2, 0, 9e5, 0, -2, 2e5)},
         ("EPSG:2263", "NAD83 / New York Long Island (ftUS)"), "US survey foot", 2e6 * 1200 / 3937),
        ({"crs": KILOMETRES, "transform": rasterio.Affine(0.02, 0, 500, 0, -0.02, 5300)},
         ("mine", "mine"), "kilometre", 2e7),
    ],
)  # fmt: skip
def test_pixel_size_origin_and_crs_are_those_of_rasterio(tmp_path, options, crs, unit, mpp):
    transform = scene(tmp_path / "a.tif", **options)
    slide = ds.open_slide(tmp_path / "a.tif")
    found = slide.properties
    assert (found["geotiff.crs"], found["geotiff.crs_name"]) == crs
    assert found["geotiff.unit"] == unit
    assert numbers(found["geotiff.transform"]) == pytest.approx(list(transform)[:6], rel=1e-12)
    assert numbers(found["geotiff.origin"]) == pytest.approx([transform.c, transform.f], rel=1e-12)
    size = [np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e)]
    assert numbers(found["geotiff.pixel_size"]) == pytest.approx(size)
    assert slide.mpp == (mpp if mpp is None else pytest.approx(mpp))


def test_pixels_that_are_not_square(tmp_path):
    scene(tmp_path / "a.tif", transform=rasterio.Affine(10, 0, 5e5, 0, -20, 5.3e6))
    slide = ds.open_slide(tmp_path / "a.tif")
    assert slide.mpp_yx == (2e7, 1e7) and slide.properties["geotiff.pixel_size"] == "10, 20"
    assert ds.open_slide(tmp_path / "a.tif", mpp=3).mpp == 3


def test_control_points_give_the_crs_only(tmp_path):
    from rasterio.control import GroundControlPoint

    points = [GroundControlPoint(0, 0, 10, 50), GroundControlPoint(0, 9, 10.1, 50),
              GroundControlPoint(9, 0, 10, 49.9)]  # fmt: skip
    options = {"height": 9, "width": 9, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **options) as file:
        file.gcps = (points, "EPSG:4326")
        file.write(np.zeros((1, 9, 9), np.uint8))
    found = ds.open_slide(tmp_path / "a.tif").properties
    assert found["geotiff.crs"] == "EPSG:4326" and "geotiff.transform" not in found


def test_damaged_keys_are_ignored(tmp_path):
    keys = [(34735, 3, 8, (1, 1, 0, 1, 1024, 34737, 9999, 60_000), True)]
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], extratags=keys)
    slide = ds.open_slide(tmp_path / "a.tif")
    assert slide.mpp is None
    np.testing.assert_array_equal(np.asarray(slide)[..., 0], STACK[0])


# ---------------------------------------------------------------- bands


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_are_channels(tmp_path, interleave):
    scene(tmp_path / "a.tif", interleave=interleave)
    slide = ds.open_slide(tmp_path / "a.tif", channels=["B8", "B3"])
    np.testing.assert_array_equal(np.asarray(slide), STACK[[3, 1]].transpose(1, 2, 0))
    assert [one.name for one in slide.channels] == ["B8", "B3"]


def test_bands_without_a_description(tmp_path):
    scene(tmp_path / "a.tif", bands=(None, "NIR", None, None))
    names = [one.name for one in ds.open_slide(tmp_path / "a.tif").channels]
    assert names == ["0", "NIR", "2", "3"]
    scene(tmp_path / "b.tif", bands=None)
    names = [one.name for one in ds.open_slide(tmp_path / "b.tif").channels]
    assert names == list("0123")


def test_a_doctype_in_the_metadata_is_refused(tmp_path):
    text = '<!DOCTYPE a [<!ENTITY b "c">]><GDALMetadata/>'
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], extratags=[(42112, 2, None, text, True)])
    with pytest.raises(ds.errors.SlideFormatError, match="DOCTYPE"):
        ds.open_slide(tmp_path / "a.tif")


# ---------------------------------------------------------------- operations and stores


def at(transform, y, x):
    """Return the coordinates of the upper left corner of a pixel of the file."""
    return (
        transform.a * x + transform.b * y + transform.c,
        transform.d * x + transform.e * y + transform.f,
    )


def corner(properties, y, x):
    """Return the coordinates of the upper left corner of a pixel."""
    a, b, c, d, e, f = numbers(properties["geotiff.transform"])
    return a * x + b * y + c, d * x + e * y + f


@pytest.mark.parametrize("options", [{}, {"transform": ROTATED}])
def test_a_resized_store_lies_where_its_source_does(tmp_path, options):
    transform = scene(tmp_path / "a.tif", **options)
    slide = ds.open_slide(tmp_path / "a.tif")
    small = ds.resize(slide, shape=(75, 100))
    again = ds.open_slide(ds.write(small, tmp_path / "a.ome.zarr"))
    assert again.mpp_yx == pytest.approx((slide.mpp * 4, slide.mpp * 2))
    found = again.properties
    assert found["geotiff.crs"] == UTM and found["geotiff.unit"] == "metre"
    size = numbers(slide.properties["geotiff.pixel_size"])
    assert numbers(found["geotiff.pixel_size"]) == pytest.approx([size[0] * 2, size[1] * 4])
    for y, x in ((0, 0), (75, 100), (10, 3)):
        assert corner(found, y, x) == pytest.approx(at(transform, 4 * y, 2 * x), rel=1e-12)
    # a second time, from the store
    smaller = ds.open_slide(ds.write(ds.resize(again, downsample=5), tmp_path / "b.ome.zarr"))
    assert corner(smaller.properties, 15, 20) == pytest.approx(at(transform, 300, 200), rel=1e-12)
    own = zarr.open_group(tmp_path / "b.ome.zarr", mode="r").attrs["dask_slides"]["geotiff"]
    assert own["crs"] == UTM and len(own["transform"]) == 6


def test_a_cut_off_has_the_transform_of_one_piece_only(tmp_path):
    transform = scene(tmp_path / "a.tif")
    slide = ds.open_slide(tmp_path / "a.tif")
    blank = np.ones((30, 20), bool)
    blank[5:20, 4:10] = False
    for pieces in (1, 2):
        found = ds.blank_map(slide, tile_size=10).with_blank(blank)
        cut = ds.cutoff_resize(slide, downsample=2, blank_map=found)
        path = ds.write(cut, tmp_path / f"{pieces}.ome.zarr")
        properties = ds.open_slide(path).properties
        assert properties["geotiff.crs"] == UTM
        assert properties["geotiff.pixel_size"] == "20, 20"
        if pieces == 1:
            assert corner(properties, 0, 0) == at(transform, 50, 40)
            assert corner(properties, 7, 9) == at(transform, 50 + 14, 40 + 18)
        else:
            assert "geotiff.transform" not in properties and "geotiff.origin" not in properties
        blank[10:12] = True


@pytest.mark.parametrize("downsample", [1, 2])
def test_tiles_of_a_pack_lie_where_their_pixels_do(tmp_path, downsample):
    transform = scene(tmp_path / "a.tif")
    slide = ds.resize(ds.open_slide(tmp_path / "a.tif"), downsample=2)
    found = ds.blank_map(slide).with_blank(np.zeros((1, 1), bool))
    pack = ds.pack_tiles(slide, tile_size=20, downsample=downsample, blank_map=found)
    again = ds.open_pack(ds.write(pack, tmp_path / "a.tiles.zarr"))
    own = again.attributes["geotiff"]
    assert own["crs"] == UTM and own["pixel_size"] == [20, 20]
    place = rasterio.Affine(*own["transform"])
    assert len(again) > 4
    for y, x in zip(again.y, again.x, strict=True):
        assert at(place, y, x) == pytest.approx(at(transform, 2 * y, 2 * x))
    assert (
        "geotiff"
        not in ds.pack_tiles(
            ds.from_dask(slide.to_dask()), tile_size=20, blank_map=found
        ).attributes
    )


def test_defaults_treat_it_as_a_slide_of_unknown_pixel_size(tmp_path):
    scene(tmp_path / "a.tif")
    slide = ds.open_slide(tmp_path / "a.tif")
    plain = ds.from_dask(slide.to_dask())
    found, expected = (ds.blank_map(one).compute() for one in (slide, plain))
    assert found.grid == expected.grid
    np.testing.assert_array_equal(found.blank, expected.blank)
    assert ds.resize(slide, mpp=20e6).shape == (150, 100, 4)


def test_other_properties_are_no_reference():
    assert reference_of({"format": "TIFF"}) is None
    found = reference_of({"geotiff.transform": "1, 0, 5, 0, -1, 9", "geotiff.crs": "EPSG:1"})
    moved = found.placed(Placement((2, 3), (10, 20)))
    assert moved.transform == (3, 0, 25, 0, -2, -1) and moved.origin == (25, -1)
    assert reference_of(moved.to_properties()) == moved


def test_info_shows_no_magnification_of_a_satellite(tmp_path):
    scene(tmp_path / "a.tif")
    printed = CliRunner().invoke(main, ["info", str(tmp_path / "a.tif")]).stdout
    assert "geotiff.crs_name: WGS 84 / UTM zone 33N" in printed and "channels B2, B3" in printed
    assert "mpp      1e+07 µm\n" in printed
