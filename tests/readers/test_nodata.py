"""Pixels without a value: the nodata number of a file, and its mask page."""

import tracemalloc

import numpy as np
import oracle
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.graph.chunks import default_chunks, task_bytes

LAYOUTS = {"tiles": {"tile": (32, 48)}, "strips": {"rowsperstrip": 7}, "one strip": {}}
GDAL_NODATA = 42113
SUPPORT = {"area": 0.5, "linear": 1, "cubic": 2, "lanczos": 3}


def with_nodata(path, image, text, **layout):
    tifffile.imwrite(
        path, image, metadata=None, extratags=[(GDAL_NODATA, "s", 0, text, True)], **layout
    )
    return path


def with_mask(path, levels, masks, **options):
    """Write `levels`, each followed by its mask, like the internal masks and overviews of GDAL."""
    with tifffile.TiffWriter(path) as tiff:
        for number, (image, mask) in enumerate(zip(levels, masks, strict=True)):
            first = int(number > 0)
            tiff.write(
                image, photometric="rgb", tile=(64, 64), subfiletype=first, metadata=None, **options
            )
            tiff.write(
                mask, photometric=4, tile=(64, 64), subfiletype=4 | first, metadata=None,
                compression="zlib",
            )  # fmt: skip
    return path


def band(shape, thickness=20):
    """Return a mask of a slanted band of pixels and a single pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = abs(y - x - 11) < thickness
    mask[-3, 4] = True
    return mask


def _within(n_in, n_out, support):
    """Return which inputs (n_out, n_in) lie within the support of each output, or one beyond."""
    ratio = n_in / n_out
    centre = (np.arange(n_out) + 0.5) * ratio
    distance = abs(np.arange(n_in) + 0.5 - centre[:, None])
    return (distance <= support * max(ratio, 1) + 1).astype(int)


def elevation(shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return (500 + 100 * rng.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        ("float32", "-9999", -9999),
        ("float32", "-3.40282346638528859e+38", np.finfo("f4").min),
        ("float64", "nan", np.nan),
        ("int16", "-32768", -32768),
        ("int32", "-9999.0", -9999),
        ("uint8", "0", 0),
        ("uint16", "65535 ", 65535),
        ("uint64", "18446744073709551615", 2**64 - 1),
    ],
)
@pytest.mark.parametrize("fill", [None, 7])
def test_nodata_shows_the_fill_and_is_not_in_statistics(
    tmp_path, layout, compression, dtype, text, value, fill
):
    image = np.clip(elevation((100, 130)), 1, 250).astype(dtype)
    gaps = band(image.shape)
    image[gaps] = value
    path = with_nodata(tmp_path / "a.tif", image, text, compression=compression, **LAYOUTS[layout])
    slide = ds.open_slide(path, fill=fill)
    assert np.array_equal(float(slide.properties["nodata"]), float(value), equal_nan=True)
    shown = np.where(gaps, np.asarray(value if fill is None else fill, dtype), image)
    np.testing.assert_array_equal(slide.data.compute()[..., 0], shown)
    stats = ds.blank_map(slide, tile_size=30, detector=ds.Contrast(0.05)).compute().stats
    for row, col, cell in oracle.cells(image.astype(np.float64), (30, 30)):
        valid = cell[~gaps[row * 30 : row * 30 + 30, col * 30 : col * 30 + 30]]
        assert stats.count[row, col] == valid.size
        assert stats.missing[row, col] == stats.nodata[row, col] == cell.size - valid.size
        assert stats.total[row, col] == pytest.approx(valid.sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "text"), [("uint8", "-9999"), ("uint8", "256"), ("int16", "0.5"), ("uint8", "none"),
                        ("uint16", "nan"), ("float32", "")]
)  # fmt: skip
def test_nodata_that_is_not_a_value_of_the_dtype_is_ignored(tmp_path, dtype, text):
    image = elevation((40, 40)).astype(dtype)
    slide = ds.open_slide(with_nodata(tmp_path / "a.tif", image, text))
    assert "nodata" not in slide.properties
    np.testing.assert_array_equal(slide.data.compute()[..., 0], image)


def test_a_pixel_is_nodata_if_all_its_samples_are(tmp_path):
    image = np.random.default_rng(0).integers(0, 2, (60, 50, 3), dtype=np.uint8)
    path = with_nodata(tmp_path / "a.tif", image, "0", photometric="rgb", tile=(16, 16))
    gaps = (image == 0).all(axis=-1)
    assert gaps.any() and (image == 0).any(axis=-1).sum() > gaps.sum()
    assert (
        ds.blank_map(path, tile_size=64, detector=ds.Contrast(0.05)).compute().stats.nodata[0, 0]
        == gaps.sum()
    )
    shown = ds.open_slide(path, fill=9).data.compute()
    np.testing.assert_array_equal(shown, np.where(gaps[..., None], 9, image))


@settings(max_examples=30)
@given(
    st.tuples(st.integers(5, 60), st.integers(5, 60)),
    st.sampled_from(["area", "linear", "cubic", "lanczos", "nearest"]),
    st.sampled_from(["float32", "int16", "uint8"]),
    st.sampled_from([None, 2.0]),
    st.integers(0, 99),
)
def test_a_resized_pixel_that_needs_nodata_is_the_fill(
    tmp_path_factory, shape, kernel, dtype, gap, seed
):
    image = np.clip(elevation((90, 70), seed=seed), 1, 250).astype(dtype)
    gaps = np.zeros(image.shape, bool)
    gaps.flat[np.random.default_rng(seed).integers(0, gaps.size, 3)] = True
    image[gaps] = 0
    path = with_nodata(tmp_path_factory.mktemp("a") / "a.tif", image, "0", tile=(32, 32))
    found = ds.resize(path, shape=shape, kernel=kernel, gap=gap).data.compute()[..., 0]
    if kernel == "nearest":
        marks = oracle.pillow_resize(gaps[..., None].astype(np.uint8), shape, kernel)[..., 0]
        np.testing.assert_array_equal(found == 0, marks == 1)
        return
    marked = np.where(gaps, np.nan, image.astype(np.float64))[..., None]
    needs = np.isnan(oracle.dense_resize(marked, shape, kernel)[..., 0])
    assert (found[needs] == 0).all()
    # the weight may be 0 at the edge of the kernel, or where the kernel crosses 0
    rows, columns = (_within(gaps.shape[i], shape[i], SUPPORT[kernel]) for i in (0, 1))
    near = rows @ gaps.astype(int) @ columns.T > 0
    plain = oracle.dense_resize(image[..., None], shape, kernel)[..., 0]
    np.testing.assert_allclose(found[~near].astype(float), plain[~near], rtol=1e-4, atol=1)


def test_a_mean_of_huge_nodata_does_not_overflow(tmp_path):
    image = elevation((900, 1000), "float64")
    image[:100] = -np.finfo("f8").max
    path = with_nodata(tmp_path / "a.tif", image, "-1.7976931348623157e+308", tile=(64, 64))
    store = ds.write(ds.resize(path, downsample=1.5), tmp_path / "a.ome.zarr")
    group = zarr.open_group(store, mode="r")
    for number in range(2):
        pixels = group[str(number)][0]
        valid = pixels[pixels != -np.finfo("f8").max]
        assert 0 < valid.size < pixels.size and 0 < valid.min() < valid.max() < 1000


@pytest.mark.parametrize("size", [(300, 420), (1500, 1100)])  # one stage and two
def test_levels_of_a_store_hold_no_mean_of_nodata(tmp_path, size):
    image = elevation(size, "int16")
    gaps = band(size, 40)
    image[gaps] = -9999
    path = with_nodata(tmp_path / "a.tif", image, "-9999", tile=(64, 64), compression="zlib")
    group = zarr.open_group(ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr"), mode="r")
    np.testing.assert_array_equal(group["0"][0], image)
    expected = oracle.area_pyramid(
        np.where(gaps, 0, image)[..., None], len(list(group.array_keys()))
    )
    for number in range(1, len(list(group.array_keys()))):
        touched = oracle.per_cell(gaps, (2**number, 2**number), np.any)
        level = expected[number - 1][..., 0]
        np.testing.assert_array_equal(group[str(number)][0], np.where(touched, -9999, level))


def test_cells_of_nodata_are_blank_and_not_packed(tmp_path):
    image = elevation((512, 512))
    gaps = np.ones(image.shape, bool)
    gaps[128:384, 100:384] = False
    image[gaps] = -9999
    path = with_nodata(tmp_path / "a.tif", image, "-9999", tile=(64, 64))
    found = ds.blank_map(path, tile_size=64, detector=ds.Contrast(0.05)).compute()
    empty = oracle.per_cell(gaps, (64, 64), np.all)
    np.testing.assert_array_equal(found.blank, empty)
    assert not found.unknown.any() and found.bad_tiles == ()
    assert found.tissue_share == (~empty).mean()
    lazy = ds.blank_map(path, tile_size=64, detector=ds.Contrast(0.05))
    np.testing.assert_array_equal(lazy.blank.compute(), empty)
    pack = ds.pack_tiles(path, tile_size=64, detector=ds.Contrast(0.05))
    whole = ~oracle.per_cell(gaps, (64, 64), np.any)
    np.testing.assert_array_equal(np.argwhere(whole) * 64, np.stack((pack.y, pack.x), axis=1))
    crops = ds.random_crops(path, n=40, size=64, seed=3, detector=ds.Contrast(0.05))
    assert all(
        not gaps[y : y + 64, x : x + 64].any() for y, x in zip(crops.y, crops.x, strict=True)
    )


def test_the_frame_of_nodata_is_cut_off(tmp_path):
    image = elevation((512, 512))
    gaps = np.ones(image.shape, bool)
    gaps[128:384, 64:384] = False
    gaps[200:210, 100:110] = True
    image[gaps] = -9999
    path = with_nodata(tmp_path / "a.tif", image, "-9999", tile=(64, 64))
    cut = ds.cutoff_resize(path, downsample=1, tile_size=64, detector=ds.Contrast(0.05))
    np.testing.assert_array_equal(cut.image.data.compute()[..., 0], image[128:384, 64:384])
    small = ds.cutoff_resize(
        path, downsample=4, tile_size=64, kernel="area", detector=ds.Contrast(0.05)
    ).image
    found = small.data.compute()[..., 0]
    touched = oracle.per_cell(gaps[128:384, 64:384], (4, 4), np.any)
    np.testing.assert_array_equal(found == -9999, touched)
    crops = ds.random_crops(small, n=10, size=8, seed=0, detector=ds.Contrast(0.01))
    assert (crops.tiles.compute() != -9999).all()


@pytest.mark.parametrize("compression", ["jpeg", "zlib", None])
@pytest.mark.parametrize("fill", [None, 100])
def test_a_mask_page_says_which_pixels_have_a_value(tmp_path, compression, fill):
    levels = [np.random.default_rng(n).integers(60, 90, (300 >> n, 400 >> n, 3), dtype=np.uint8)
              for n in range(2)]  # fmt: skip
    masks = [~band(level.shape[:2], 60 >> n) for n, level in enumerate(levels)]
    path = with_mask(tmp_path / "a.tif", levels, masks, compression=compression)
    slide = ds.open_slide(path, fill=fill)
    assert slide.properties["mask"] and len(slide.levels) == 2
    for number, mask in enumerate(masks):
        with tifffile.TiffFile(path) as tiff:
            stored = tiff.pages[2 * number].asarray()
        shown = np.where(mask[..., None], stored, 255 if fill is None else fill)
        np.testing.assert_array_equal(slide.to_dask(level=number).compute(), shown)
    stats = ds.blank_map(slide, tile_size=50, detector=ds.Contrast(0.05)).compute().stats
    np.testing.assert_array_equal(stats.nodata, oracle.per_cell(~masks[0], (50, 50), np.sum))
    small = ds.resize(slide, downsample=4, kernel="area").data.compute()  # of the second level
    touched = oracle.per_cell(~masks[1], (2, 2), np.any)
    assert (small[touched] == (255 if fill is None else fill)).all()
    assert abs(small[~touched].astype(int) - 75).max() <= 15 + 5 * (compression == "jpeg")


def test_a_level_without_a_mask_of_its_own_is_not_read(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    mask = ~band(image.shape[:2])
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, photometric="rgb", tile=(64, 64), metadata=None)
        tiff.write(mask, photometric=4, subfiletype=4, tile=(64, 64), metadata=None)
        tiff.write(image[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=1, metadata=None)
    slide = ds.open_slide(path)
    assert [level.shape for level in slide.levels] == [(300, 400)]
    np.testing.assert_array_equal(
        slide.data.compute(), np.where(mask[..., None], image, np.uint8(255))
    )


def test_a_corrupt_tile_beside_nodata_is_reported(tmp_path):
    image = elevation((128, 128), "int16")
    image[:, :64] = -9999
    path = with_nodata(tmp_path / "a.tif", image, "-9999", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[3]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(40))
    with pytest.raises(ds.errors.TileDecodeError):
        ds.blank_map(path, tile_size=64, detector=ds.Contrast(0.05)).compute()
    found = ds.blank_map(
        ds.open_slide(path, on_bad_tile="mask"), tile_size=64, detector=ds.Contrast(0.05)
    ).compute()
    np.testing.assert_array_equal(found.blank, [[True, False], [True, False]])
    np.testing.assert_array_equal(found.unknown, [[False, False], [False, True]])
    np.testing.assert_array_equal(found.stats.known, [[True, True], [True, False]])
    assert [(tile.y, tile.x, tile.status) for tile in found.bad_tiles] == [(64, 64, "corrupt")]


@pytest.mark.parametrize(
    ("shape", "dtype", "fill"),
    [
        ((8, 8, 3), "uint8", 255),
        ((8, 8, 3), "uint16", 65535),
        ((8, 8, 3), "float32", 1.0),
        ((8, 8), "uint8", 0),
        ((8, 8), "int8", 0),
    ],
)
def test_the_default_fill_is_white_for_colours_and_0_for_others(tmp_path, shape, dtype, fill):
    image = np.random.default_rng(0).integers(1, 100, shape).astype(dtype)
    colour = image.ndim == 3
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="rgb" if colour else "minisblack", tile=(16, 16)
    )
    slide = ds.open_slide(tmp_path / "a.tif")
    assert slide.source.fill == fill and slide.source.fill.dtype == slide.dtype
    pack = ds.pack_tiles(slide, tile_size=6, edge="pad", detector=ds.Contrast(0))
    assert (pack[1][:, 2:] == fill).all() and (pack[1][:, :2] != fill).any()


@pytest.mark.parametrize(
    ("dtype", "value"), [("int16", -9999), ("float32", np.nan), ("uint64", 2**64 - 1)]
)
def test_a_store_keeps_its_nodata_value(tmp_path, dtype, value):
    image = elevation((300, 420)).astype(dtype)
    gaps = band(image.shape)
    image[gaps] = value
    path = with_nodata(tmp_path / "a.tif", image, str(value), tile=(64, 64))
    again = ds.open_slide(ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr"))
    assert again.properties["nodata"] == ds.open_slide(path).properties["nodata"]
    np.testing.assert_array_equal(again.data.compute()[..., 0], image)
    for name in ("count", "total", "missing", "nodata"):
        found, expected = (
            getattr(
                ds.blank_map(one, tile_size=50, detector=ds.Contrast(0.05)).compute().stats, name
            )
            for one in (again, path)
        )
        np.testing.assert_array_equal(found, expected)
    shown = ds.open_slide(again.path, fill=3).data.compute()[..., 0]
    np.testing.assert_array_equal(shown, np.where(gaps, np.asarray(3, dtype), image))
    small = ds.write(ds.resize(path, downsample=3), tmp_path / "b.ome.zarr")
    resized = ds.resize(path, downsample=3).data.compute()
    assert ds.blank_map(
        small, tile_size=200, detector=ds.Contrast(0.05)
    ).compute().stats.nodata.sum() == (
        np.isnan(resized).sum() if value != value else (resized == resized[0, 0]).sum()
    )


def test_nodata_of_a_palette_is_an_index_and_of_inverted_grey_the_stored_number(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4, (40, 50), dtype=np.uint8)
    table = np.random.default_rng(1).integers(1, 255, (3, 256), dtype=np.uint16) * 256
    path = with_nodata(tmp_path / "p.tif", stored, "2", photometric="palette", colormap=table)
    gaps = (stored == 2)[..., None]
    expected = np.where(gaps, 255, (table // 256).T[stored])
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(), expected)
    path = with_nodata(tmp_path / "i.tif", stored, "2", photometric="miniswhite")
    expected = np.where(gaps, 0, 255 - stored[..., None])
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(), expected)
    assert (
        ds.blank_map(path, tile_size=64, detector=ds.Contrast(0.05)).compute().stats.nodata[0, 0]
        == gaps.sum()
    )


MADE = {
    "plain": lambda slide: slide,
    "resized": lambda slide: ds.resize(slide, downsample=3.3),
    "barely resized": lambda slide: ds.resize(slide, downsample=1.2, gap=None),
    "cut": lambda slide: (
        ds.cutoff_resize(slide, downsample=1, tile_size=128, detector=ds.Contrast(0.05)).image
    ),
    "resized twice": lambda slide: ds.resize(ds.resize(slide, downsample=2.5), downsample=1.7),
}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("kind", MADE)
def test_a_task_takes_no_more_memory_than_planned(tmp_path, dtype, kind):
    image = np.clip(elevation((1400, 1600)) / 4, 1, 250).astype(dtype)
    image[:, 300:400] = 0
    image[400:500] = 0
    path = with_nodata(tmp_path / "a.tif", image, "0", tile=(256, 256), compression="zstd")
    made = MADE[kind](ds.open_slide(path))
    sides = (min(n, s) for n, s in zip(made.shape, default_chunks(made.source, 0), strict=False))
    region = Region(0, 0, *sides)
    made.read(0, 0, 16, 16)  # opens the file, imports the codec
    tracemalloc.start()
    try:
        made.source.read(0, region)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= task_bytes(made.source, 0, region) + 200_000  # of Python
