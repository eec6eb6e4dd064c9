"""Zarr arrays without OME metadata and .npy files as slides; their axes are known or asked for."""

import os
import pickle

import dask
import numpy as np
import pytest
import zarr
from rw_fixtures import bytes_read, change_file, noise, one_line

import dask_slides as ds

PIXELS = noise(161, 147, 3, dtype="uint16")


def save_npy(path, array, names=None):
    np.save(path, array)
    return path


def save_fortran(path, array, names=None):
    np.save(path, np.asfortranarray(array))
    return path


def save_zarr(zarr_format, **options):
    def save(path, array, names=None):
        chunks = tuple(min(32, n) for n in array.shape)
        if zarr_format == 3:
            options["dimension_names"] = names
        made = zarr.create_array(
            path, data=array, chunks=chunks, zarr_format=zarr_format, **options
        )
        if zarr_format == 2 and names is not None:  # as xarray writes it
            made.attrs["_ARRAY_DIMENSIONS"] = list(names)
        return path

    return save


KINDS = {
    "a.npy": save_npy,
    "fortran.npy": save_fortran,
    "v2.zarr": save_zarr(2),
    "v3.zarr": save_zarr(3),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("axes", [None, "YXC", "CYX", "yxs", "TCYX", "ZYX"])
def test_axes_that_are_given_or_safe(tmp_path, name, axes):
    stored, options, expected = PIXELS, {"axes": axes}, PIXELS
    if axes == "CYX":
        stored = PIXELS.transpose(2, 0, 1)
    elif axes == "TCYX":
        stored = np.stack([PIXELS.transpose(2, 0, 1)[:, ::-1], PIXELS.transpose(2, 0, 1)])
        options["t"] = 1
    elif axes == "ZYX":
        stored, options["z"], expected = PIXELS.transpose(2, 0, 1), 2, PIXELS[..., 2:]
    slide = ds.open_slide(KINDS[name](tmp_path / name, stored), mpp=0.5, **options)
    assert (slide.shape, slide.dtype, slide.mpp) == (expected.shape, np.uint16, 0.5)
    np.testing.assert_array_equal(slide.data.compute(), expected)
    np.testing.assert_array_equal(slide.read(11, 9, 30, 20), expected[11:41, 9:29])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(slide)).read(5, 6, 7, 8),
                                  expected[5:12, 6:14])  # fmt: skip
    small = ds.resize(slide, downsample=7, kernel="area").data.compute(scheduler="threads")
    assert small.shape == (23, 21, expected.shape[2])


@pytest.mark.parametrize("name", ["v2.zarr", "v3.zarr"])
@pytest.mark.parametrize(
    ("names", "order"),
    [(("c", "y", "x"), (2, 0, 1)), (("band", "Y", "X"), (2, 0, 1)), (("x", "c", "y"), (1, 2, 0))],
)
def test_names_of_axes_that_are_stored(tmp_path, name, names, order):
    path = KINDS[name](tmp_path / name, PIXELS.transpose(order), names)
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(), PIXELS)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32", "int16"])
def test_dtypes_and_grey_images(tmp_path, name, dtype):
    grey = noise(70, 90, dtype=np.dtype(dtype).newbyteorder("=").name).astype(dtype)
    slide = ds.open_slide(KINDS[name](tmp_path / name, grey))
    found = slide.data.compute()
    assert found.dtype.isnative
    assert found.dtype == slide.dtype
    np.testing.assert_array_equal(found[..., 0], grey)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("shape", "names"),
    [((3, 40, 50), None), ((40, 50, 7), None), ((3, 3, 3), None), ((9, 20, 30, 3), None),
     ((40, 50, 3, 2), ("tile", "py", "px", "channel")), ((20,), None)],
)  # fmt: skip
def test_unknown_axes_are_asked_for(tmp_path, name, shape, names):
    path = KINDS[name](tmp_path / name, np.zeros(shape, np.uint8), names)
    with pytest.raises(ds.errors.SlideArgumentError, match="axes") as error:
        ds.open_slide(path)
    message = one_line(error)
    assert str(path) in message
    assert " x ".join(map(str, shape)) in message
    if len(shape) == 3:
        assert "'CYX'" in message
        assert ds.open_slide(path, axes="CYX").shape == (*shape[1:], shape[0])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("axes", ["YX", "YYX", "CZY", "QYX", "YXCS", ""])
def test_axes_that_do_not_fit_are_refused(tmp_path, name, axes):
    path = KINDS[name](tmp_path / name, PIXELS)
    with pytest.raises(ds.errors.SlideArgumentError, match="axes=") as error:
        ds.open_slide(path, axes=axes)
    assert "161 x 147 x 3" in one_line(error)


@pytest.mark.parametrize("name", ["a.npy", "v3.zarr"])
def test_other_dtypes_images_and_planes_are_refused(tmp_path, name):
    path = KINDS[name](tmp_path / name, np.zeros((20, 30), np.complex64))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="complex64"):
        ds.open_slide(path)
    path = KINDS[name](tmp_path / f"2{name}", PIXELS)
    for options in ({"image": 1}, {"z": 1}, {"t": 2}):
        with pytest.raises(ds.errors.SlideArgumentError):
            ds.open_slide(path, **options)
    with pytest.raises(ds.errors.SlideLimitError):
        ds.open_slide(path, limits=ds.Limits(pixels=1000))


@pytest.mark.parametrize("name", KINDS)
def test_channels_are_chosen(tmp_path, name):
    path = KINDS[name](tmp_path / name, PIXELS.transpose(2, 0, 1))
    slide = ds.open_slide(path, axes="CYX", channels=[2, 0])
    np.testing.assert_array_equal(slide.data.compute(), PIXELS[..., [2, 0]])


def test_arrays_of_python_objects_are_never_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    np.save(tmp_path / "a.npy", np.array([[Harm()]], dtype=object), allow_pickle=True)
    with pytest.raises(ds.errors.SlideFormatError) as error:
        ds.open_slide(tmp_path / "a.npy")
    assert "a.npy" in one_line(error)
    assert not (tmp_path / "harm").exists()


def test_a_truncated_file_is_refused(tmp_path):
    path = save_npy(tmp_path / "a.npy", PIXELS)
    whole = path.read_bytes()
    for length in (10, 60, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ds.errors.SlideFormatError, match="damaged"):
            ds.open_slide(path)


@pytest.mark.parametrize("how", ["time", "size", "gone"])
def test_a_file_that_changes_is_detected(tmp_path, how):
    path = save_npy(tmp_path / "a.npy", PIXELS)
    slide = ds.open_slide(path)
    slide.read(0, 0, 5, 5)
    change_file(path, how)
    with pytest.raises((ds.errors.SlideChangedError, ds.errors.SlideNotFoundError)):
        slide.read(0, 0, 5, 5)


def test_a_large_file_is_not_loaded(tmp_path):
    path = tmp_path / "a.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (40_000, 40_000, 3))
    array[20_000, 30_000] = 1, 2, 3
    del array
    ds.open_slide(path)
    before = bytes_read()
    slide = ds.open_slide(path)
    assert slide.read(20_000, 30_000, 1, 1)[0, 0].tolist() == [1, 2, 3]
    assert bytes_read() - before < 100_000


def test_processes_map_the_file_themselves(tmp_path):
    slide = ds.open_slide(save_npy(tmp_path / "a.npy", PIXELS), on_bad_tile="mask")
    with dask.config.set(scheduler="processes", num_workers=1):
        np.testing.assert_array_equal(slide.to_dask(chunks=100).compute(), PIXELS)


def test_a_group_without_ome_metadata_names_its_arrays(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("image", data=PIXELS)
    with pytest.raises(ds.errors.SlideFormatError, match=r"a\.zarr/image") as error:
        ds.open_slide(tmp_path / "a.zarr")
    one_line(error)
    np.testing.assert_array_equal(ds.open_slide(tmp_path / "a.zarr/image").data.compute(), PIXELS)


def test_an_array_in_a_bucket(bucket, tmp_path):
    for name in ("v2.zarr", "v3.zarr"):
        url = bucket.put(KINDS[name](tmp_path / name, PIXELS), name)
        np.testing.assert_array_equal(ds.open_slide(url).data.compute(), PIXELS)


def test_a_remote_npy_file_has_to_be_downloaded(bucket, tmp_path):
    url = bucket.put(save_npy(tmp_path / "a.npy", PIXELS), "a.npy")
    with pytest.raises(ds.errors.SlideUnsupportedError, match="download it first"):
        ds.open_slide(url)


def test_levels_of_our_own_images(tmp_path):
    """Their axes have names, so they need no argument."""
    path = ds.write(ds.from_dask(PIXELS), tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(ds.open_slide(f"{path}/0").data.compute(), PIXELS)
    pack = ds.pack_tiles(ds.from_dask(PIXELS), tile_size=32, detector=ds.Contrast(0.05))
    with pytest.raises(ds.errors.SlideFormatError, match="open_pack"):
        ds.open_slide(ds.write(pack, tmp_path / "a.tiles.zarr"))
