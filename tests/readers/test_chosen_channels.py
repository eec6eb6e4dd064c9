"""`open_slide(channels=)` returns the chosen channels of every format, and reads no others."""

import pickle

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from rw_fixtures import bytes_read, noise, one_line, segments

import dask_slides as ds
from dask_slides.core.channels import Channel, channel_numbers
from dask_slides.readers.tiff import file as tiff_file
from dask_slides.readers.tile_cache import TILE_CACHE

NAMES = ["DAPI", "CD3", "CD8", "PanCK"]
STACK = noise(4, 300, 200, dtype="uint16", seed=1)
TILES = {"tile": (64, 64), "compression": "zlib"}
COLOUR = noise(300, 200, 3, seed=2)
ALPHA = np.concatenate([COLOUR, np.full((300, 200, 1), 255, np.uint8)], axis=-1)


def pages(path, stack=STACK, **options):
    metadata = {"axes": "CYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(path, stack, ome=True, metadata=metadata, **TILES | options)


def pyramid(path):
    metadata = {"axes": "CYX", "Channel": {"Name": NAMES}}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(STACK, metadata=metadata, subifds=1, **TILES)
        tiff.write(STACK[:, ::2, ::2], subfiletype=1, **TILES)


def planes_along_z(path):
    metadata = {"axes": "ZCYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(path, np.stack([STACK, STACK[::-1]]), ome=True, metadata=metadata, **TILES)


def imagej(path):
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "CYX", "Labels": NAMES})


def planar(path, **options):
    options = {"photometric": "minisblack", "planarconfig": "separate", "metadata": None} | options
    tifffile.imwrite(path, STACK, **options)


def interleaved(path, **options):
    options = {"planarconfig": "contig", "photometric": "minisblack", "metadata": None} | options
    tifffile.imwrite(path, STACK.transpose(1, 2, 0), **options)


def turned(path):
    interleaved(path, extratags=[(274, 3, 1, 6, True)], **TILES)


def jpeg(path):
    tifffile.imwrite(path, COLOUR, tile=(64, 64), compression="jpeg", photometric="rgb")


def palette(path):
    table = noise(3, 256, dtype="uint16")
    tifffile.imwrite(path, COLOUR[..., 0], photometric="palette", colormap=table, **TILES)


def transparent(path):
    tifffile.imwrite(path, ALPHA, photometric="rgb", extrasamples=["unassalpha"], **TILES)


def png(path):
    Image.fromarray(ALPHA).save(path, "PNG")


def store(path, chunk=1):
    group = zarr.create_group(path)
    group.create_array("0", data=STACK, chunks=(chunk, 64, 64))
    axes = [{"name": "c", "type": "channel"}, {"name": "y"}, {"name": "x"}]
    scales = [{"axes": axes, "datasets": [{"path": "0"}], "version": "0.5"}]
    shown = {"channels": [{"label": name, "color": "00FF00"} for name in NAMES]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": scales, "omero": shown}


WRITERS = {
    "pages": pages,
    "strips": lambda path: pages(path, tile=None, rowsperstrip=16),
    "pyramid": pyramid,
    "z": planes_along_z,
    "imagej": imagej,
    "planar": planar,
    "planar tiles": lambda path: planar(path, **TILES),
    "mapped": interleaved,
    "interleaved": lambda path: interleaved(path, **TILES),
    "turned": turned,
    "jpeg": jpeg,
    "palette": palette,
    "transparent": transparent,
    "png": png,
    "zarr": store,
    "zarr of two": lambda path: store(path, chunk=2),
}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path):
    found = tmp_path / "image"
    WRITERS[request.param](found)
    return found


@pytest.mark.parametrize("numbers", [(2, 0), (1,), (2, 1, 0)])
def test_the_pixels_are_those_of_the_channels(path, numbers):
    whole = ds.open_slide(path)
    chosen = pickle.loads(pickle.dumps(ds.open_slide(path, channels=numbers)))
    expected = np.asarray(whole)[..., list(numbers)]
    assert chosen.shape == expected.shape and chosen.dtype == whole.dtype
    assert chosen.channels == tuple(whole.channels[number] for number in numbers)
    assert chosen.source.fill == whole.source.fill
    np.testing.assert_array_equal(np.asarray(chosen), expected)
    np.testing.assert_array_equal(chosen.read(31, 40, 70, 90), expected[31:101, 40:130])
    assert [level.shape for level in chosen.levels] == [level.shape for level in whole.levels]
    for level in range(len(whole.levels)):
        np.testing.assert_array_equal(
            chosen.to_dask(level), whole.to_dask(level)[..., list(numbers)]
        )
    small = ds.resize(whole, downsample=4)
    np.testing.assert_allclose(
        np.asarray(ds.resize(chosen, downsample=4)), np.asarray(small)[..., list(numbers)], atol=1
    )


def test_tiles_and_crops_have_the_channels(path):
    whole, chosen = ds.open_slide(path), ds.open_slide(path, channels=[2, 0])
    found = ds.blank_map(whole, tile_size=64).with_blank(np.zeros((1, 1), bool))
    for make in (
        lambda slide: ds.pack_tiles(slide, tile_size=50, stride=30, blank_map=found),
        lambda slide: ds.random_crops(slide, n=5, size=60, blank_map=found),
    ):
        expected = make(whole)
        pack = make(chosen)
        np.testing.assert_array_equal(pack.y, expected.y)
        np.testing.assert_array_equal(pack[:], expected[:][..., [2, 0]])


def test_statistics_are_those_of_the_channels(path):
    chosen = ds.open_slide(path, channels=[1])
    pixels = np.asarray(ds.open_slide(path))[..., 1].astype(float)
    stats = ds.blank_map(chosen, tile_size=1000, detector=ds.Contrast(0.1)).stats
    assert stats.count.item() == pixels.size
    np.testing.assert_allclose(stats.mean.item(), pixels.mean(), rtol=1e-9)
    np.testing.assert_allclose(stats.std.item(), pixels.std(), rtol=1e-6)


# ---------------------------------------------------------------- names


def test_names_numbers_and_case(tmp_path):
    path = tmp_path / "a.ome.tif"
    pages(path)
    for wanted in (["CD8", "DAPI"], [2, 0], ["cd8", "0"], ("2", np.int64(0))):
        slide = ds.open_slide(path, channels=wanted)
        assert [one.name for one in slide.channels] == ["CD8", "DAPI"]
        assert slide.properties["channels"] == "4 channels, CD8, DAPI are read"
    assert "DAPI" in repr(ds.open_slide(path).channels)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (["Ki67"], "'Ki67' does not exist"),
        ([4], "4 does not exist"),
        ([-1], "-1 does not exist"),
        ([True], "True does not exist"),
        (["4"], "'4' does not exist"),
        (["cd"], "'cd' does not exist"),
        (["DAPI", 0], "'DAPI' is given twice"),
        ("DAPI", "give a list"),
        ([], "give a list"),
        (3, "give a list"),
    ],
)
def test_other_channels_are_refused(tmp_path, wanted, problem):
    path = tmp_path / "a.ome.tif"
    pages(path)
    with pytest.raises(ds.SlideError, match=problem) as error:
        ds.open_slide(path, channels=wanted)
    text = one_line(error)
    assert str(path) in text
    if "not exist" in problem:
        assert "0 'DAPI', 1 'CD3', 2 'CD8', 3 'PanCK'" in text


def test_a_name_of_several_channels_needs_a_number():
    channels = [Channel("AF"), Channel("af"), Channel("x"), Channel("x")]
    assert channel_numbers("a", channels, ["af", "AF"]) == (1, 0)
    for wanted in ("x", "aF"):
        with pytest.raises(ds.SlideError, match="the name of several; give a number: 0 'AF'"):
            channel_numbers("a", channels, [wanted])


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    "write",
    [pages, WRITERS["strips"], WRITERS["planar tiles"], store],
    ids=["pages", "strips", "planar", "zarr"],
)
@pytest.mark.parametrize("numbers", [[1], [3, 1]])
def test_only_the_bytes_of_the_channels_are_read(tmp_path, write, numbers):
    path = tmp_path / "a"
    write(path)

    def measure(**options):
        slide = ds.open_slide(path, **options)
        slide.read(0, 0, 1, 1)  # opens the file
        TILE_CACHE.clear()
        tiff_file.opened.cache_clear()
        slide.read(0, 0, 1, 1)
        before = bytes_read()
        slide.read(0, 0, *slide.shape[:2])
        return bytes_read() - before

    share = measure(channels=numbers) / measure()
    assert share == pytest.approx(len(numbers) / 4, abs=0.05)


def damage(path, channel):
    """Overwrite the first tile of a channel with bytes that are not zlib or zstd."""
    if path.is_dir():
        (path / "0" / "c" / str(channel) / "0" / "0").write_bytes(b"\1" * 50)
        return
    with tifffile.TiffFile(path) as tiff:
        is_planar = len(tiff.pages) == 1
    tiles = segments(path, 0 if is_planar else channel)
    with open(path, "r+b") as file:
        file.seek(tiles[channel * len(tiles) // 4 if is_planar else 0][0])
        file.write(b"\1" * 50)


@pytest.mark.parametrize("write", [pages, WRITERS["planar tiles"], store])
def test_a_corrupt_tile_belongs_to_its_channel(tmp_path, write):
    path = tmp_path / "a"
    write(path)
    damage(path, 1)
    good = STACK[[3, 0]].transpose(1, 2, 0)
    slide = ds.open_slide(path, channels=[3, 0])
    np.testing.assert_array_equal(np.asarray(slide), good)
    masked = ds.open_slide(path, channels=[3, 0], on_bad_tile="mask")
    assert masked.bad_tiles() == ()
    np.testing.assert_array_equal(np.asarray(masked), good)
    for numbers in ([1], [0, 1]):
        with pytest.raises(ds.errors.TileDecodeError):
            ds.open_slide(path, channels=numbers).read(0, 0, 9, 9)
        masked = ds.open_slide(path, channels=numbers, on_bad_tile="mask")
        (bad,) = masked.bad_tiles()
        assert (bad.y, bad.x, bad.height, bad.width) == (0, 0, 64, 64)
        expected = STACK[numbers].transpose(1, 2, 0).copy()
        expected[:64, :64] = 0
        np.testing.assert_array_equal(np.asarray(masked), expected)


@pytest.mark.parametrize("write", [pages, WRITERS["planar tiles"]], ids=["pages", "planar"])
def test_an_absent_tile_belongs_to_its_channel(tmp_path, write):
    path = tmp_path / "a"
    write(path)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        planar = len(tiff.pages) == 1
        counts = tiff.pages[0 if planar else 1].tags["TileByteCounts"]
        value = list(counts.value)
        value[len(value) // 4 if planar else 0] = 0
        counts.overwrite(value)
    assert ds.open_slide(path, channels=[0, 2]).bad_tiles() == ()
    for options in ({}, {"channels": [1]}, {"channels": [2, 1]}):
        slide = ds.open_slide(path, **options)
        (bad,) = slide.bad_tiles()
        assert (bad.y, bad.x, bad.status) == (0, 0, "absent")
        assert not slide.read(0, 0, 64, 64)[..., int(slide.shape[2] > 1)].any()


@pytest.mark.parametrize("write", [planar, interleaved], ids=["planar", "interleaved"])
def test_nodata_is_that_of_the_chosen_channels(tmp_path, write):
    path = tmp_path / "a.tif"
    stack = STACK.copy()
    stack[0, :50], stack[1, :20], stack[2:, :10] = 7, 7, 7
    options = {"extratags": [(42113, "s", 0, "7", True)], **TILES, "photometric": "minisblack"}
    pixels = stack if write is planar else stack.transpose(1, 2, 0)
    config = "separate" if write is planar else "contig"
    tifffile.imwrite(path, pixels, planarconfig=config, metadata=None, **options)
    for numbers, rows in (([0], 50), ([1, 0], 20), ([0, 1, 2], 10)):
        slide = ds.open_slide(path, channels=numbers)
        stats = ds.blank_map(slide, tile_size=1000, detector=ds.Contrast(0.1)).stats
        values = stack[numbers]
        assert stats.count.item() == (values != 7).any(axis=0).sum() * len(numbers)
        assert (values[:, :rows] == 7).all()
        again = ds.open_slide(ds.write(slide, tmp_path / "a.ome.zarr", overwrite=True))
        stats = ds.blank_map(again, tile_size=1000, detector=ds.Contrast(0.1)).stats
        assert stats.count.item() == (values != 7).any(axis=0).sum() * len(numbers)
