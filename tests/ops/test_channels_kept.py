"""Every operation, picture and store keeps the names, colours and windows of the channels."""

import numpy as np
import pytest
import tifffile
from rw_fixtures import noise

import dask_slides as ds
from dask_slides.core.channels import Channel
from dask_slides.ops.overlays import picture_on_slide

CHANNELS = (
    Channel("DAPI", "0000FF", (0.0, 1000.0)),
    Channel("CD3", "00FF00", (0.0, 2000.0)),
    Channel("CD8", "FF0000", (0.0, 4000.0)),
    Channel("AF", "FFFF00", (0.0, 9000.0)),
)
TOPS = [int(one.window[1]) for one in CHANNELS]
SIDE = 512
SQUARES = {0: (128, 128), 1: (128, 320), 2: (320, 128)}
"""Corner of the square of 64 px in which a channel, and no other, has the top of its window."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return the path of an ImageJ composite with a pyramid of no levels."""
    stack = noise(4, SIDE, SIDE, dtype="uint16", top=9)
    for number, (y, x) in SQUARES.items():
        stack[number, y : y + 64, x : x + 64] = TOPS[number]
    ramp, none = np.arange(256, dtype=np.uint8), np.zeros(256, np.uint8)
    tables = [
        np.stack([ramp if int(one.color[at : at + 2], 16) else none for at in (0, 2, 4)])
        for one in CHANNELS
    ]
    metadata = {
        "axes": "CYX", "mode": "composite", "LUTs": tables,
        "Labels": [one.name for one in CHANNELS],
        "Ranges": tuple(value for one in CHANNELS for value in one.window),
    }  # fmt: skip
    found = tmp_path_factory.mktemp("channels") / "a.tif"
    tifffile.imwrite(found, stack, imagej=True, metadata=metadata)
    return found


def squares(slide):
    """Return the blank map in which the squares are tissue."""
    blank = np.ones((SIDE // 64, SIDE // 64), bool)
    for y, x in SQUARES.values():
        blank[y // 64, x // 64] = False
    return ds.blank_map(slide, tile_size=64).with_blank(blank)


def cut(slide, layout="grid"):
    return ds.cutoff_resize(slide, downsample=2, blank_map=squares(slide), layout=layout)


def pack(slide):
    return ds.pack_tiles(slide, tile_size=64, blank_map=squares(slide))


def crops(slide):
    return ds.random_crops(slide, n=3, size=32, blank_map=squares(slide))


def stored(obj, folder):
    return ds.open_slide(ds.write(obj, folder / "a.ome.zarr"))


OPERATIONS = {
    "open": lambda slide, folder: slide,
    "resize": lambda slide, folder: ds.resize(slide, downsample=3),
    "resize twice": lambda slide, folder: ds.resize(ds.resize(slide, downsample=3), max_size=50),
    "grid": lambda slide, folder: cut(slide).image,
    "islands": lambda slide, folder: cut(slide, "islands").image,
    "blank map": lambda slide, folder: squares(slide).slide,
    "pack": lambda slide, folder: pack(slide),
    "resized pack": lambda slide, folder: ds.pack_tiles(
        slide, tile_size=32, downsample=2, blank_map=squares(slide)
    ),
    "pack of a cut-off": lambda slide, folder: ds.pack_tiles(cut(slide).image, tile_size=32),
    "crops": lambda slide, folder: crops(slide),
    "stored": stored,
    "stored 0.4": lambda slide, folder: ds.open_slide(
        ds.write(slide, folder / "a.ome.zarr", ome_zarr="0.4")
    ),
    "stored resize": lambda slide, folder: stored(ds.resize(slide, downsample=3), folder),
    "stored grid": lambda slide, folder: stored(cut(slide), folder),
    "stored islands": lambda slide, folder: stored(cut(slide, "islands"), folder),
    "stored pack": lambda slide, folder: ds.open_pack(
        ds.write(pack(slide), folder / "a.tiles.zarr")
    ),
    "stored crops": lambda slide, folder: ds.open_pack(
        ds.write(crops(slide), folder / "a.tiles.zarr")
    ),
    "pack of a store": lambda slide, folder: pack(stored(slide, folder)),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("numbers", [None, [2, 0]], ids=["all", "two"])
@pytest.mark.filterwarnings("ignore:.*every tile is blank")
def test_the_channels_are_kept(path, tmp_path, operation, numbers):
    slide = ds.open_slide(path, channels=numbers)
    expected = CHANNELS if numbers is None else tuple(CHANNELS[number] for number in numbers)
    assert operation(slide, tmp_path).channels == expected


# ---------------------------------------------------------------- pictures


def of_plot(axes):
    return axes.images[0].get_array()


PLOTS = {
    "slide": lambda slide: of_plot(slide.plot(max_size=SIDE)),
    "blank map": lambda slide: of_plot(squares(slide).plot(max_size=SIDE)),
    "cut-off": lambda slide: of_plot(cut(slide).plot(max_size=SIDE)),
    "islands": lambda slide: of_plot(cut(slide, "islands").plot(max_size=SIDE)),
    "pack": lambda slide: of_plot(pack(slide).plot(max_size=SIDE)),
    "overlay": lambda slide: picture_on_slide(slide, max_size=SIDE),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (2, 0), (1,)], ids=str)
def test_pictures_have_the_colours_and_windows(path, plot, numbers):
    pytest.importorskip("matplotlib").use("agg")
    picture = plot(ds.open_slide(path, channels=numbers))
    assert picture.shape[:2] == (SIDE, SIDE)
    for number in set(SQUARES) & set(numbers):
        y, x = (n + 32 for n in SQUARES[number])
        expected = list(bytes.fromhex(CHANNELS[number].color))
        assert np.abs(picture[y, x, :3].astype(int) - expected).max() <= 4, number


@pytest.mark.parametrize("opened", [False, True])
def test_contact_sheets_have_the_colours_and_windows(path, tmp_path, opened):
    found = pack(ds.open_slide(path))
    if opened:
        found = ds.open_pack(ds.write(found, tmp_path / "a.tiles.zarr"))
    sheet = found.contact_sheet(3, 3, 64)
    for at, number in enumerate((0, 1, 2)):  # in the order of their position
        expected = list(bytes.fromhex(CHANNELS[number].color))
        assert np.abs(sheet[36, 68 * at + 36].astype(int) - expected).max() <= 4


def test_thumbnails_have_all_channels(path):
    slide = ds.open_slide(path, channels=["CD8", "DAPI"])
    thumbnail = slide.thumbnail(128)
    assert thumbnail.shape == (128, 128, 2)
    y, x = (n // 4 + 8 for n in SQUARES[2])
    assert thumbnail[y, x].tolist() == pytest.approx([4000, 4.5], abs=9)


def test_stains_in_red_green_and_blue_are_no_colour_image(tmp_path):
    ramp, none = np.arange(256, dtype=np.uint8), np.zeros(256, np.uint8)
    tables = [np.stack([ramp if at == number else none for at in range(3)]) for number in range(3)]
    stack = np.zeros((3, 64, 64), "uint16")
    for number, top in enumerate((100, 2000, 50_000)):
        stack[number, 20 * number : 20 * number + 20] = top
    metadata = {"axes": "CYX", "LUTs": tables, "Ranges": (0.0, 100.0, 0.0, 2000.0, 0.0, 50_000.0)}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata=metadata)
    slide = ds.open_slide(tmp_path / "a.tif")
    for one in (slide, stored(slide, tmp_path)):
        picture = picture_on_slide(one)
        assert [picture[20 * n + 9, 9, n] for n in range(3)] == [255] * 3
        assert one.source.fill == 0
