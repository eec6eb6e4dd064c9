import dataclasses
import pickle

import dask.array as da
import numpy as np
import oracle
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import chunkings, images, pixels

import dask_slides as ds
from dask_slides.slide import as_slide


@given(images(), st.data())
def test_to_dask_gives_the_image_for_any_chunks(image, data):
    array = da.from_array(image, chunks=(*data.draw(chunkings(image.shape)), image.shape[2]))
    chunks = data.draw(chunkings(image.shape))
    found = ds.from_dask(array).to_dask(chunks=chunks)
    assert found.chunks == (*chunks, (image.shape[2],)) and found.dtype == np.uint8
    assert np.array_equal(found.compute(scheduler="sync"), image)


@given(images(), st.data())
def test_read_gives_a_slice_of_the_image(image, data):
    height, width = image.shape[:2]
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    assert np.array_equal(ds.from_dask(image).read(y, x, h, w), image[y : y + h, x : x + w])


def test_open_slide_gives_shape_levels_and_pixels_of_a_file(pyramid, stained):
    slide = ds.open_slide(pyramid)
    assert slide.shape == (768, 1024, 3) and slide.dtype == np.uint8
    assert slide.path == str(pyramid) and slide.name == "pyramid.tif"
    assert [level.shape for level in slide.levels] == [
        (768, 1024),
        (384, 512),
        (192, 256),
        (96, 128),
    ]
    assert [level.downsample for level in slide.levels] == [(f, f) for f in (1, 2, 4, 8)]
    assert np.array_equal(slide.data.compute(), stained)
    small = oracle.area_pyramid(stained, 3)
    for number in (1, 2, 3):
        found = slide.to_dask(number, chunks=(100, 50)).compute()
        assert np.array_equal(found, small[number - 1])


def test_read_takes_level_0_coordinates_and_the_size_in_pixels_of_the_level(pyramid, stained):
    slide = ds.open_slide(pyramid)
    small = oracle.area_pyramid(stained, 2)[1]
    assert np.array_equal(slide.read(80, 160, 30, 20, level=2), small[20:50, 40:60])
    assert np.array_equal(slide.read(764, 1020, 1, 1, level=2), small[191:, 255:])
    assert slide.read(np.int64(0), 0, 5, 5).shape == (5, 5, 3)


@pytest.mark.parametrize(
    "region",
    [(-1, 0, 5, 5), (0, -1, 5, 5), (764, 0, 5, 5), (0, 1020, 5, 5), (0, 0, 0, 5), (0, 0, 5, -5)],
)
def test_a_region_outside_the_level_is_refused(pyramid, region):
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"not lie in level 0 of 768 x 1024; move or"
    ):
        ds.open_slide(pyramid).read(*region)


@pytest.mark.parametrize("level", [-1, 4])
def test_a_missing_level_is_refused(pyramid, level):
    slide = ds.open_slide(pyramid)
    for call in (slide.to_dask, lambda number: slide.read(0, 0, 1, 1, level=number)):
        with pytest.raises(ds.errors.SlideArgumentError, match=r"no level -?\d; give 0 to 3"):
            call(level)


@pytest.mark.parametrize("chunks", [-5, 0, ((5, 5), (5, 5)), "huge", (1,)])
def test_chunks_that_do_not_fit_are_refused(chunks):
    slide = ds.from_dask(da.zeros((30, 40), dtype="uint8"))
    with pytest.raises(
        ds.errors.SlideArgumentError, match="do not fit an image of 30 x 40 px; give one"
    ):
        slide.to_dask(chunks=chunks)


def test_mpp_comes_from_the_file_or_the_caller(tmp_path):
    path = tmp_path / "half.tif"
    image = pixels(0, (40, 50, 3), "uint8")
    tifffile.imwrite(path, image, resolution=(20_000, 40_000), resolutionunit="CENTIMETER")
    assert ds.open_slide(path).mpp_yx == (0.25, 0.5) and ds.open_slide(path).mpp == 0.375
    assert ds.open_slide(path, mpp=2).mpp_yx == (2.0, 2.0)
    assert ds.open_slide(path, mpp=(1, 3)).mpp == 2.0
    assert ds.from_dask(image).mpp is None
    assert ds.from_dask(image, mpp=[0.5, 0.25]).mpp_yx == (0.5, 0.25)


@pytest.mark.parametrize("mpp", [0, -1, float("nan"), float("inf"), (1, 2, 3), "a", (1,), (0, 1)])
def test_an_invalid_mpp_is_refused(mpp, tissue_tiff):
    for make in (
        lambda: ds.from_dask(np.zeros((3, 3)), mpp=mpp),
        lambda: ds.open_slide(tissue_tiff, mpp=mpp),
    ):
        with pytest.raises(
            ds.errors.SlideArgumentError, match="is not a pixel size; give micrometres"
        ):
            make()


@pytest.mark.parametrize("fill", [-1, 256, 0.5, float("nan"), float("inf"), "white"])
def test_an_invalid_fill_is_refused(fill, tissue_tiff):
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"is not a (pixel value|value of uint8); give"
    ):
        ds.open_slide(tissue_tiff, fill=fill)


def test_an_unknown_on_bad_tile_is_refused(tissue_tiff):
    with pytest.raises(ds.errors.SlideArgumentError, match="is not known; use 'raise'"):
        ds.open_slide(tissue_tiff, on_bad_tile="black")


def test_a_missing_path_is_reported(tmp_path):
    with pytest.raises(ds.errors.SlideNotFoundError, match="check the path") as error:
        ds.open_slide(tmp_path / "none.tif")
    assert isinstance(error.value, FileNotFoundError) and isinstance(error.value, ds.SlideError)


@given(images(dtype="uint8"), st.integers(1, 100))
def test_a_thumbnail_equals_the_resized_image(image, longest):
    found = ds.from_dask(image).thumbnail(longest)
    ratio = max(1.0, max(image.shape[:2]) / longest)
    shape = tuple(max(1, int(side / ratio + 0.5)) for side in image.shape[:2])
    assert np.array_equal(found, oracle.pillow_resize(image, shape, "lanczos"))


def test_a_thumbnail_has_at_least_one_pixel(tissue_tiff):
    assert ds.open_slide(tissue_tiff).thumbnail(1).shape == (1, 1, 3)
    with pytest.raises(ds.errors.SlideArgumentError, match="is not a whole number from 1"):
        ds.open_slide(tissue_tiff).thumbnail(0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[1, 2]], "list is not an image; give a path"),
        (None, "NoneType is not an image; give a path"),
        (da.zeros((2, 3, 4, 5)), r"give \(y, x\) or \(y, x, c\)"),
        (da.zeros(5), r"give \(y, x\) or \(y, x, c\)"),
        (da.zeros((0, 3)), r"give \(y, x\) or \(y, x, c\)"),
        (da.zeros((4, 3, 0)), r"give \(y, x\) or \(y, x, c\)"),
        (da.zeros((4, 3), dtype=complex), "use an integer or float dtype"),
        (da.zeros((4, 3), dtype="U3"), "use an integer or float dtype"),
    ],
    ids=str,
)
def test_an_array_that_is_not_an_image_is_refused(array, message):
    with pytest.raises(ds.errors.SlideArgumentError, match=message):
        ds.from_dask(array)


def test_chunks_of_unknown_size_are_refused():
    array = da.ones((6, 5), chunks=3)
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"call compute_chunk_sizes\(\) on it first"
    ):
        ds.from_dask(array[array[:, 0] > 0])


def test_grey_and_bool_arrays_have_one_channel():
    image = pixels(1, (20, 30), "uint16")
    assert ds.from_dask(image).shape == (20, 30, 1)
    assert np.array_equal(ds.from_dask(image).data.compute()[..., 0], image)
    mask = da.from_array(image > 5)
    found = ds.from_dask(mask)
    assert found.dtype == np.uint8
    assert np.array_equal(found.data.compute()[..., 0], np.where(image > 5, 255, 0))


def test_channels_in_chunks_are_read_together():
    image = pixels(2, (20, 30, 5), "uint8")
    slide = ds.from_dask(da.from_array(image, chunks=(7, 9, 2)))
    assert np.array_equal(slide.data.compute(), image)


def test_every_operation_takes_a_path_an_array_and_a_slide(tissue_tiff, tissue):
    slide = ds.open_slide(tissue_tiff)
    assert as_slide(slide) is slide
    for same in (str(tissue_tiff), tissue_tiff, da.from_array(tissue), tissue):
        assert np.array_equal(as_slide(same).data.compute(), tissue)


def test_a_slide_is_frozen_and_pickles_small(tissue_tiff, tissue):
    slide = ds.resize(ds.open_slide(tissue_tiff), downsample=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        slide.name = "other"
    again = pickle.loads(pickle.dumps(slide))
    assert again == slide and len(pickle.dumps(slide)) < 4000
    assert np.array_equal(again.data.compute(), slide.data.compute())


def test_a_large_slide_has_few_tasks_and_a_small_graph(tissue_tiff):
    slide = ds.open_slide(tissue_tiff)
    level = dataclasses.replace(slide.levels[0], shape=(100_000, 100_000))
    source = dataclasses.replace(slide.source, levels=(level,))
    large = dataclasses.replace(slide, source=source)
    for image in (large, ds.resize(large), ds.resize(large, downsample=3.3)):
        assert image.data.npartitions <= 1000
        graph = pickle.dumps(image.data.dask)
        assert len(graph) < 20_000
    for detector in (ds.Tissue(), ds.Contrast(0.05)):
        blank = ds.blank_map(large, tile_size=256, detector=detector).blank
        assert blank.npartitions <= 1000 and len(pickle.dumps(blank.dask)) < 20_000


@pytest.mark.parametrize("kind", ["file", "array", "resized"])
def test_asarray_gives_the_pixels_of_level_0(tissue, tissue_tiff, kind):
    slide = ds.from_dask(tissue) if kind == "array" else ds.open_slide(tissue_tiff)
    if kind == "resized":
        slide = ds.resize(slide, downsample=3)
    expected = slide.data.compute()
    found = np.asarray(slide)
    assert found.dtype == np.uint8 and np.array_equal(found, expected)
    assert np.asarray(slide, "float32").dtype == np.float32
    copy = np.array(slide)
    copy[:] = 0
    assert np.array_equal(np.asarray(slide), expected)
    with pytest.raises(ValueError, match="not in memory"):
        np.asarray(slide, copy=False)


def test_asarray_of_a_large_slide_is_refused():
    slide = ds.from_dask(da.zeros((102_400, 102_400, 3), dtype="uint8", chunks=10_240))
    with pytest.raises(
        ds.errors.SlideMemoryError,
        match=r"102,400 x 102,400 x 3 takes 31.5 GB, and the limit is 4.29 GB; read a part with "
        r"slide.read, work with slide.to_dask\(\), or make it smaller with dask_slides.resize",
    ):
        np.asarray(slide)
    small = ds.from_dask(da.zeros((30_000, 30_000), dtype="uint8", chunks=10_000))
    with pytest.raises(ds.errors.SlideMemoryError, match=r"takes 7\.2 GB"):
        np.asarray(small, float)


def test_the_repr_of_a_slide(pyramid):
    slide = ds.open_slide(pyramid, mpp=(0.25, 0.5))
    assert repr(slide) == (
        "Slide<pyramid.tif, shape=(768, 1024, 3), dtype=uint8, mpp=(0.25, 0.5), "
        "chunksize=(768, 1024, 3), levels=4>"
    )
    twice = ds.resize(ds.resize(slide, downsample=2), shape=(100, 200), kernel="area")
    assert repr(twice).startswith(
        "Slide<resized by 2 with lanczos and resized to 100 x 200 px with area from pyramid.tif, "
    )
    array = ds.from_dask(da.zeros((90, 80), chunks=(30, 40)))
    assert repr(array).endswith("dtype=float64, mpp=None, chunksize=(30, 40, 1)>")


def test_slides_compare_without_an_error(tissue, tissue_tiff):
    array = da.from_array(tissue)
    slides = [ds.open_slide(tissue_tiff), ds.from_dask(array), ds.from_dask(array + 1)]
    for number, one in enumerate(slides):
        resized = ds.resize(one, downsample=2)
        for other, two in enumerate(slides):
            assert (one == two) is (number == other)
            assert (resized == ds.resize(two, downsample=2)) is (number == other)
        for other in (tissue, array, None, "slide"):
            assert (one == other) is False and (other == one) is False
    assert hash(slides[0]) == hash(ds.open_slide(tissue_tiff))


def test_html_is_escaped(tissue_tiff):
    slide = ds.open_slide(tissue_tiff, mpp=0.25)
    hostile = dataclasses.replace(
        slide, name="<img src=x onerror='1'>", details=(("<k>", "<script>alert(1)</script>"),)
    )
    html = hostile._repr_html_()
    assert "<script" not in html and "<k>" not in html and "<img src=x" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "&lt;k&gt;" in html
    assert "onerror='1'" not in html
    assert "300 x 420 px, 3 channels, uint8" in html and "0.25 µm" in html
    assert "data:image/png;base64," in html


def test_html_of_a_large_slide_has_no_picture():
    def read(block_info):
        raise AssertionError("the slide was read")

    meta = np.empty((0, 0), np.uint8)
    array = da.map_blocks(read, chunks=((9000,), (9000,)), dtype="uint8", meta=meta)
    html = ds.from_dask(array)._repr_html_()
    assert "9,000 x 9,000 px" in html and "png" not in html and "not known" in html


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_html_shows_other_dtypes(dtype):
    for channels in (1, 2, 5):
        html = ds.from_dask(pixels(0, (40, 50, channels), dtype))._repr_html_()
        assert f"{channels} channels, {dtype}" in html and "data:image/png" in html


def test_a_plot_shows_the_slide_in_pixels_of_level_0(tissue_tiff, tissue, axes):
    slide = ds.open_slide(tissue_tiff)
    assert slide.plot(axes, max_size=420) is axes
    shown = axes.images[0]
    assert np.array_equal(shown.get_array(), tissue)
    assert shown.get_extent() == [0, 420, 300, 0]
    assert axes.get_title() == "tissue.tif"
    slide.plot(axes, max_size=42)
    small = oracle.pillow_resize(tissue, (30, 42), "lanczos")
    assert np.array_equal(axes.images[1].get_array(), small)


def test_a_plot_creates_axes_if_none_are_given(tissue_tiff, axes):
    import matplotlib.pyplot as plt

    made = ds.open_slide(tissue_tiff).plot()
    assert made is not axes and made.images
    plt.close(made.figure)


def test_a_png_is_opened_as_a_slide(tmp_path, tissue):
    Image.fromarray(tissue).save(tmp_path / "a.png")
    slide = ds.open_slide(tmp_path / "a.png")
    assert np.array_equal(slide.to_dask(chunks=100).compute(), tissue)
    small = ds.resize(slide, downsample=3)
    assert np.array_equal(small.data.compute(), oracle.pillow_resize(tissue, (100, 140)))


@pytest.mark.parametrize(
    ("mpp", "expected"),
    [
        (0.1, 80), (0.1599, 80), (0.16, 60), (0.2, 40), (0.2527, 40), (0.2999, 40), (0.3, 20),
        (0.499, 20), (0.6, 10), (1.0, 10), (1.2, 5), (2.39, 5), (2.4, 10 / 2.4), (8.0, 1.25),
        (None, None), ((0.24, 0.26), 40),
    ],
)  # fmt: skip
def test_the_magnification_follows_from_the_pixel_size(mpp, expected):
    slide = ds.from_dask(np.zeros((8, 8), np.uint8), mpp=mpp)
    assert slide.magnification == (None if expected is None else pytest.approx(expected))
