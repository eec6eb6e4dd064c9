"""Files with several images, and images with several planes."""

import itertools
import json
import pickle

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from rw_fixtures import noise, one_line, patch_tag

import dask_slides as ds
from dask_slides.cli import main

COLOUR = {"photometric": "rgb"}
T, Z, C = 2, 4, 3
STACK = noise(T, Z, C, 70, 90, dtype="uint16")


def named(path, names, sizes):
    """Write images of these names and sizes; return their pixels."""
    images = [noise(*size, 3, seed=n) for n, size in enumerate(sizes)]
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, image in zip(names, images, strict=True):
            tiff.write(image, metadata={"axes": "YXS", "Name": name}, **COLOUR)
    return images


def info(path, *words):
    return CliRunner().invoke(main, ["info", str(path), *map(str, words)])


# ---------------------------------------------------------------- several images


def test_images_are_listed_and_chosen_by_name_or_number(tmp_path):
    path = tmp_path / "a.ome.tif"
    images = named(path, ["left", "right", "Macro"], [(60, 70), (60, 80), (200, 90)])
    slide = ds.open_slide(path)
    assert slide.images == ("left", "right", "Macro")
    assert slide.shape == (60, 80, 3)  # the largest image that is not a label
    assert slide.properties["image"] == "right"
    for number, (name, image) in enumerate(zip(slide.images, images, strict=True)):
        for choice in (name, number, str(number), np.int64(number)):
            one = pickle.loads(pickle.dumps(ds.open_slide(path, image=choice)))
            np.testing.assert_array_equal(one.data.compute(), image)
            assert one.properties["image"] == name
    assert ds.resize(slide, downsample=2).images == slide.images


@pytest.mark.parametrize("name", ["Overview", "Map", "label", "MACRO", "Thumbnail"])
def test_a_lone_image_is_the_slide_whatever_it_is_called(tmp_path, name):
    path = tmp_path / "a.ome.tif"
    (image,) = named(path, [name], [(60, 70)])
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.data.compute(), image)
    assert slide.images == ()
    assert "image" not in slide.properties


def test_a_choice_is_needed_if_all_images_are_labels(tmp_path):
    path = tmp_path / "a.ome.tif"
    images = named(path, ["Label", "Overview"], [(60, 70), (60, 80)])
    with pytest.raises(ds.errors.SlideArgumentError, match="image=") as error:
        ds.open_slide(path)
    assert "Label" in one_line(error)
    np.testing.assert_array_equal(ds.open_slide(path, image="Overview").data.compute(), images[1])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["", "", ""], ("0", "1", "2")),
        (["a", "a", "a"], ("a", "a (1)", "a (2)")),
        (["a (1)", "a", "a"], ("a (1)", "a", "a (2)")),
        (["a (2)", "a", "a"], ("a (2)", "a", "a (2)'")),
        ([" a\n b ", "", "1"], ("a b", "1", "1 (2)")),
    ],
)
def test_names_of_images_are_unique(tmp_path, names, expected):
    path = tmp_path / "a.ome.tif"
    images = named(path, names, [(60, 70), (60, 80), (60, 90)])
    found = ds.open_slide(path).images
    assert found == expected
    for name, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(ds.open_slide(path, image=name).data.compute(), image)


def test_pages_of_one_size_that_are_stored_differently_are_images(tmp_path):
    path = tmp_path / "a.tif"
    pages = [noise(60, 70, seed=n) for n in range(2)]
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pages[0], metadata=None)
        tiff.write(pages[1], metadata=None, compression="zlib")
    assert ds.open_slide(path).images == ("0", "1")
    for number, page in enumerate(pages):
        found = ds.open_slide(path, image=number).data.compute()
        np.testing.assert_array_equal(found[..., 0], page)


def test_pages_that_were_written_one_by_one_are_images_or_a_stack(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for page in PAGES:
            tiff.write(page, compression="zlib")
    assert ds.open_slide(path).images == tuple("01234")  # tifffile reads them as separate images
    for number, page in enumerate(PAGES):
        for choice in ({"image": number}, {"axes": "ZYX", "z": number}):
            slide = pickle.loads(pickle.dumps(ds.open_slide(path, **choice)))
            np.testing.assert_array_equal(slide.data.compute()[..., 0], page)
    slide = ds.open_slide(path, axes="CYX")
    np.testing.assert_array_equal(slide.data.compute(), PAGES.transpose(1, 2, 0))
    assert slide.images == ()


@pytest.mark.parametrize("stacked", [True, False])
def test_pages_beside_a_larger_image(tmp_path, stacked):
    path, large = tmp_path / "a.tif", noise(100, 90, 3)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(large, metadata=None, **COLOUR)
        pages = PAGES[:3] if stacked else PAGES[0]
        tiff.write(pages, metadata=None, photometric="minisblack")
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.data.compute(), large)
    assert slide.images == (tuple("0123") if stacked else tuple("01"))
    for number in range(1, len(slide.images)):
        found = ds.open_slide(path, image=number).data.compute()
        np.testing.assert_array_equal(found[..., 0], PAGES[number - 1])


@pytest.mark.parametrize("image", [2, -1, "third", "2", True, 1.0])
def test_an_image_that_the_file_lacks_is_refused(tmp_path, image):
    path = tmp_path / "a.ome.tif"
    named(path, ["left", "right"], [(60, 70), (60, 80)])
    with pytest.raises(ds.errors.SlideArgumentError, match="image=") as error:
        ds.open_slide(path, image=image)
    one_line(error)


def test_the_command_line_lists_images_and_chooses(tmp_path):
    path = tmp_path / "a.ome.tif"
    named(path, ["left", "right\u202e"], [(60, 70), (60, 80)])
    output = info(path).stdout
    assert "image 0  left" in output
    assert "image 1  right" in output
    assert "\u202e" not in output  # printed as a space, as it reverses text in a terminal
    assert json.loads(info(path, "--json").stdout)["images"][0] == "left"
    for choice in ("left", 0):
        assert json.loads(info(path, "--image", choice, "--json").stdout)["shape"] == [60, 70, 3]
    result = info(path, "--image", "middle")
    assert result.exit_code == 2
    assert "image='middle'" in result.stderr


# ---------------------------------------------------------------- planes of TIFF


def fiji(path, order="<"):
    """Write the stack like Fiji: one directory, followed by the planes."""
    text = f"ImageJ=1.53t\nimages={T * Z * C}\nchannels={C}\nslices={Z}\nframes={T}\n"
    tifffile.imwrite(
        path, STACK[0, 0, 0], byteorder=order, metadata=None,
        description=f"{text}hyperstack=true\nunit=\\u00B5m\n", resolution=(4, 2), resolutionunit=1,
    )  # fmt: skip
    with open(path, "ab") as file:
        file.write(STACK.reshape(T * Z * C, -1)[1:].astype(f"{order}u2").tobytes())


TILES = {"tile": (32, 32), "compression": "zlib"}
STACKS = {
    "ome": lambda path: tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "TZCYX"}),
    "ome tiles": lambda path: tifffile.imwrite(
        path, STACK, ome=True, metadata={"axes": "TZCYX"}, **TILES
    ),
    "imagej": lambda path: tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"}),
    "fiji": fiji,
    "fiji, big-endian": lambda path: fiji(path, ">"),
    "shaped": lambda path: tifffile.imwrite(
        path, STACK, photometric="minisblack", metadata={"axes": "TZCYX"}
    ),
    "shaped strips": lambda path: tifffile.imwrite(
        path, STACK, photometric="minisblack", metadata={"axes": "TZCYX"}, compression="zlib",
        rowsperstrip=16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", STACKS)
def test_planes_of_a_stack(tmp_path, layout):
    path = tmp_path / ("a.ome.tif" if layout.startswith("ome") else "a.tif")
    STACKS[layout](path)
    for t, z in itertools.product(range(T), range(Z)):
        slide = pickle.loads(pickle.dumps(ds.open_slide(path, z=z, t=t)))
        expected = STACK[t, z].transpose(1, 2, 0)
        np.testing.assert_array_equal(slide.data.compute(), expected)
        np.testing.assert_array_equal(slide.read(11, 7, 30, 33), expected[11:41, 7:40])
        assert slide.properties["z"] == f"{Z} planes, {z} is read"
        assert slide.properties["t"] == f"{T} planes, {t} is read"
    first = ds.open_slide(path).data.compute()
    np.testing.assert_array_equal(first, STACK[0, 0].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z": 4}, "z=4.*4 planes along z.*z=0 to 3"),
        ({"t": 2}, "t=2.*2 planes along t.*t=0 to 1"),
        ({"z": -1}, "z=-1"),
        ({"t": 1.5}, "t=1.5"),
        ({"z": True}, "z=True"),
        ({"axes": "ZYX"}, "axes='ZYX'.*TZCYX"),
        ({"axes": "TZCXY"}, "axes='TZCXY'"),
        ({"axes": "TTCYX"}, "axes='TTCYX'"),
        ({"axes": "TZQYX"}, "axes='TZQYX'"),
        ({"axes": "TZSYX"}, "axes='TZSYX'"),
        ({"axes": 5}, "axes=5"),
    ],
)
def test_planes_and_axes_that_the_file_lacks_are_refused(tmp_path, options, message):
    path = tmp_path / "a.ome.tif"
    STACKS["ome"](path)
    with pytest.raises(ds.errors.SlideArgumentError, match=message) as error:
        ds.open_slide(path, **options)
    one_line(error)


PAGES = noise(5, 60, 70)


@pytest.mark.parametrize(
    "options",
    [{}, {"metadata": None}, TILES, TILES | {"metadata": None}, {"bigtiff": True}],
    ids=str,
)
def test_axes_say_what_pages_are(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PAGES, photometric="minisblack", **options)
    with pytest.raises(
        ds.errors.SlideUnsupportedError, match=r"5 pages.*image=0 to 4.*'CYX'"
    ) as error:
        ds.open_slide(path)
    one_line(error)
    for number, page in enumerate(PAGES):
        alone = ds.open_slide(path, image=number)
        np.testing.assert_array_equal(alone.data.compute()[..., 0], page)
        assert alone.images == tuple("01234")
        assert alone.properties["image"] == str(number)
    channels = ds.open_slide(path, axes="CYX")
    np.testing.assert_array_equal(channels.data.compute(), PAGES.transpose(1, 2, 0))
    assert [channel.name for channel in channels.channels] == list("01234")
    for number, page in enumerate(PAGES):
        for given in ({"axes": "ZYX", "z": number}, {"axes": "tyx", "t": number}):
            slide = ds.open_slide(path, **given)
            np.testing.assert_array_equal(slide.data.compute()[..., 0], page)


def test_axes_override_those_of_the_file(tmp_path):
    colour, path = noise(4, 60, 70, 3), tmp_path / "a.tif"
    tifffile.imwrite(path, colour, **COLOUR)
    for z in range(4):
        found = ds.open_slide(path, axes="ZYXS", z=z).data.compute()
        np.testing.assert_array_equal(found, colour[z])
    with pytest.raises(ds.errors.SlideArgumentError, match="axes='ZYX'"):
        ds.open_slide(path, axes="ZYX")
    tifffile.imwrite(path, PAGES, imagej=True, metadata={"axes": "ZYX"})
    found = ds.open_slide(path, axes="CYX").data.compute()  # channels, saved as slices
    np.testing.assert_array_equal(found, PAGES.transpose(1, 2, 0))


def test_a_plane_has_its_own_pyramid_and_reads_like_a_file_of_its_own(tmp_path):
    path = tmp_path / "a.ome.tif"
    colour = noise(3, 128, 96, 3)
    options = {"tile": (32, 32), "compression": "zlib"} | COLOUR
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(colour, metadata={"axes": "ZYXS"}, subifds=1, **options)
        tiff.write(colour[:, ::2, ::2], subfiletype=1, metadata=None, **options)
    for z in range(3):
        slide = ds.open_slide(path, z=z)
        np.testing.assert_array_equal(slide.data.compute(), colour[z])
        np.testing.assert_array_equal(slide.to_dask(1).compute(), colour[z, ::2, ::2])
        assert slide.source.reductions(0) == (2, 4, 8)  # a plain tiled page


def test_each_plane_has_its_own_absent_tiles(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PAGES, photometric="minisblack", metadata={"axes": "ZYX"}, **TILES)
    with tifffile.TiffFile(path) as tiff:
        counts = list(tiff.pages[3].databytecounts)
    patch_tag(path, 325, [0, *counts[1:]], page=3)
    assert ds.open_slide(path, z=2).bad_tiles() == ()
    slide = ds.open_slide(path, z=3)
    (tile,) = slide.bad_tiles()
    assert (tile.y, tile.x) == (0, 0)
    assert (slide.data.compute()[:32, :32] == 0).all()
    np.testing.assert_array_equal(slide.data.compute()[32:, :, 0], PAGES[3, 32:])


def test_pages_of_several_planes_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(16, 64, 64), volumetric=True, tile=(16, 32, 32))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="ImageDepth") as error:
        ds.open_slide(path)
    one_line(error)


def test_the_command_line_chooses_planes_and_axes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PAGES, photometric="minisblack")
    assert info(path).exit_code == 1
    result = info(path, "--axes", "ZYX", "--z", 2)
    assert result.exit_code == 0
    assert "z: 5 planes, 2 is read" in result.stdout
    assert json.loads(info(path, "--axes", "CYX", "--json").stdout)["shape"] == [60, 70, 5]
    words = ["resize", str(path), str(tmp_path / "r.ome.zarr"), "--axes", "TYX", "--t", "3"]
    assert CliRunner().invoke(main, [*words, "--downsample", "1"]).exit_code == 0
    found = ds.open_slide(tmp_path / "r.ome.zarr").data.compute()
    np.testing.assert_array_equal(found[..., 0], PAGES[3])
    failed = info(path, "--axes", "ZYX", "--z", 5)
    assert failed.exit_code == 2
    assert "z=0 to 4" in failed.stderr


def test_a_file_of_one_plane_refuses_other_choices(tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(noise(30, 40)).save(path)
    assert ds.open_slide(path, image=0, z=0).shape == (30, 40, 1)
    for name, value in {"image": 1, "axes": "CYX", "z": 1, "t": 2}.items():
        with pytest.raises(ds.errors.SlideArgumentError, match=f"{name}=") as error:
            ds.open_slide(path, **{name: value})
        one_line(error)


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
def test_images_and_planes_of_a_remote_file(bucket, tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(PAGES, metadata={"axes": "ZYX", "Name": "stack"}, **TILES)
        tiff.write(noise(60, 80, 3), metadata={"axes": "YXS", "Name": "colour"}, **COLOUR)
    address = bucket.put(path, "images/a.ome.tif")
    assert ds.open_slide(address).images == ("stack", "colour")
    slide = ds.open_slide(address, image="stack", z=3)
    np.testing.assert_array_equal(slide.data.compute()[..., 0], PAGES[3])
    fiji(tmp_path / "b.tif")
    slide = ds.open_slide(bucket.put(tmp_path / "b.tif", "images/b.tif"), z=3, t=1)
    np.testing.assert_array_equal(slide.data.compute(), STACK[1, 3].transpose(1, 2, 0))
    collection = zarr.create_group(tmp_path / "c.zarr")
    collection.attrs.update({"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    for number in range(2):
        zarr_image(tmp_path / "c.zarr" / str(number), [PAGES[number:]], "zyx")
    slide = ds.open_slide(bucket.put(tmp_path / "c.zarr", "images/c.zarr"), image=1, z=2)
    np.testing.assert_array_equal(slide.data.compute()[..., 0], PAGES[3])


# ---------------------------------------------------------------- OME-Zarr


def zarr_image(path, stored, axes, name=None, **more):
    """Write levels of an image; `axes` are names, or the metadata of axes."""
    group = zarr.create_group(path)
    for number, one in enumerate(stored):
        group.create_array(str(number), data=one, chunks=tuple(min(n, 32) for n in one.shape))
    described = [{"name": axis} if isinstance(axis, str) else axis for axis in axes]
    datasets = [{"path": str(number)} for number in range(len(stored))]
    image = {"axes": described, "datasets": datasets} | ({} if name is None else {"name": name})
    group.attrs.update({"ome": {"version": "0.5", "multiscales": [image], **more}})
    return path


def test_planes_of_a_store(tmp_path):
    path = zarr_image(tmp_path / "a.zarr", [STACK, STACK[..., ::2, ::2]], "tzcyx")
    for t, z in itertools.product(range(T), range(Z)):
        slide = pickle.loads(pickle.dumps(ds.open_slide(path, z=z, t=t)))
        np.testing.assert_array_equal(slide.data.compute(), STACK[t, z].transpose(1, 2, 0))
        small = STACK[t, z, :, ::2, ::2].transpose(1, 2, 0)
        np.testing.assert_array_equal(slide.to_dask(1).compute(), small)
        assert slide.properties["z"] == f"{Z} planes, {z} is read"
    for name, count in {"z": Z, "t": T}.items():
        with pytest.raises(ds.errors.SlideArgumentError, match=f"{name}=0 to {count - 1}") as error:
            ds.open_slide(path, **{name: count})
        one_line(error)


def test_a_level_of_fewer_planes_is_left_out(tmp_path):
    path = zarr_image(tmp_path / "a.zarr", [STACK[0, :, 0], STACK[0, ::2, 0, ::2, ::2]], "zyx")
    slide = ds.open_slide(path, z=3)
    assert [level.shape for level in slide.levels] == [(70, 90)]
    np.testing.assert_array_equal(slide.data.compute()[..., 0], STACK[0, 3, 0])


def test_axes_of_a_store_with_unknown_names(tmp_path):
    path = zarr_image(tmp_path / "a.zarr", [PAGES], ["angle", "y", "x"])
    with pytest.raises(ds.errors.SlideUnsupportedError, match="axes='CYX'"):
        ds.open_slide(path)
    found = ds.open_slide(path, axes="CYX").data.compute()
    np.testing.assert_array_equal(found, PAGES.transpose(1, 2, 0))


@pytest.mark.parametrize("listed", [True, False])
def test_images_of_a_collection(tmp_path, listed):
    path = tmp_path / "a.zarr"
    collection = zarr.create_group(path)
    collection.attrs.update({"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    names = ["first", "second"] if listed else ["0", "1"]
    if listed:
        group = collection.create_group("OME")
        group.attrs.update({"ome": {"version": "0.5", "series": [*names, "../outside"]}})
    images = [noise(60, 70 + n, seed=n) for n in range(2)]
    for name, image, title in zip(names, images, ["scan", None], strict=True):
        zarr_image(path / name, [image], "yx", title)
    slide = ds.open_slide(path)
    assert slide.images == ("scan", "1")
    np.testing.assert_array_equal(slide.data.compute()[..., 0], images[0])
    for choice in ("1", 1):
        found = ds.open_slide(path, image=choice).data.compute()
        np.testing.assert_array_equal(found[..., 0], images[1])
    with pytest.raises(ds.errors.SlideArgumentError, match="0 'scan', 1 '1'") as error:
        ds.open_slide(path, image=2)
    one_line(error)


def test_several_images_of_one_group(tmp_path):
    path = zarr_image(tmp_path / "a.zarr", [PAGES[0], PAGES[1]], "yx")
    group = zarr.open_group(path)
    images = [
        {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": str(n)}], "name": f"m{n}"}
        for n in range(2)
    ]
    group.attrs.update({"ome": {"version": "0.5", "multiscales": images}})
    assert ds.open_slide(path).images == ("m0", "m1")
    found = ds.open_slide(path, image="m1").data.compute()
    np.testing.assert_array_equal(found[..., 0], PAGES[1])
