"""Zeiss CZI files, which pylibCZIrw writes and reads."""

import os

import numpy as np
import pytest
from rw_fixtures import noise, one_line

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.testing.reader_contract import check_reader

pytest.importorskip("pylibCZIrw")
from czi_files import czi, write_czi

RGB, GREY = noise(300, 400, 3), noise(300, 400, 2, dtype="uint16")


def tiles_of(pixels, side, y=0, x=0, plane=None, scene=0, factor=1):
    """Cut `pixels` into tiles at (y, x) of level 0."""
    for top in range(0, pixels.shape[0], side):
        for left in range(0, pixels.shape[1], side):
            part = pixels[top : top + side, left : left + side]
            yield part, y + top * factor, x + left * factor, factor, plane or {}, scene


def test_colour_with_a_pyramid(tmp_path):
    half, quarter = noise(150, 200, 3, seed=1), noise(75, 100, 3, seed=2)
    tiles = [
        *tiles_of(RGB, 128, 20, 11),
        *tiles_of(half, 64, 20, 11, factor=2),
        *tiles_of(quarter, 200, 20, 11, factor=4),
    ]
    slide = ds.open_slide(write_czi(tmp_path / "a.czi", tiles, mpp=0.25))
    assert slide.mpp == 0.25 and slide.source.fill == 255 and slide.images == ()
    assert dict(slide.properties) == {"format": "CZI", "reader": "libCZI"}
    assert [level.shape for level in slide.levels] == [(300, 400), (150, 200), (75, 100)]
    assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2), (4, 4)]
    for level, pixels in enumerate((RGB, half, quarter)):
        np.testing.assert_array_equal(slide.to_dask(level, chunks=70).compute(), pixels)
    check_reader(slide, RGB)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_channels_have_names_colours_and_windows(tmp_path, dtype):
    pixels = noise(90, 80, 2, dtype=dtype)
    tiles = [one for c in range(2) for one in tiles_of(pixels[..., c : c + 1], 50, plane={"C": c})]
    blue = czi.ChannelDisplaySettingsDataClass(
        True, czi.TintingMode.Color, czi.Rgb8Color(0, 16, 255), 0.25, 0.5
    )
    path = write_czi(tmp_path / "a.czi", tiles, names={0: "DAPI", 1: "FITC"}, settings={0: blue})
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.data.compute(), pixels)
    assert slide.dtype == dtype and slide.source.fill == 0
    first, second = slide.channels
    assert (first.name, first.color, second.name) == ("DAPI", "0010FF", "FITC")
    top = {"uint8": 255, "uint16": 65535}.get(dtype)
    assert first.window == (None if top is None else (0.25 * top, 0.5 * top))


def test_chosen_channels_are_read_without_the_others(tmp_path):
    tiles = [one for c in range(2) for one in tiles_of(GREY[..., c : c + 1], 100, plane={"C": c})]
    tiles = [one for one in tiles if (one[1:3], one[4]) != ((0, 0), {"C": 0})]
    path = write_czi(tmp_path / "a.czi", tiles, names={0: "DAPI", 1: "FITC"})
    slide = ds.open_slide(path, channels=["FITC"])  # the other one has an empty place
    assert [channel.name for channel in slide.channels] == ["FITC"]
    assert slide.source.read_valid(0, Region(0, 0, 300, 400))[1] is None
    check_reader(slide, GREY[..., 1:], new_process=False)
    swapped = ds.open_slide(path, channels=[1, 0]).read(100, 100, 50, 60)
    np.testing.assert_array_equal(swapped, GREY[100:150, 100:160, ::-1])


def test_a_scene_is_chosen_and_the_largest_is_the_default(tmp_path):
    small = noise(100, 120, 3, seed=1)
    tiles = [*tiles_of(small, 70, 0, 0, scene=0), *tiles_of(RGB, 150, 50, 1000, scene=1)]
    path = write_czi(tmp_path / "a.czi", tiles)
    slide = ds.open_slide(path)
    assert slide.images == ("0", "1") and slide.properties["image"] == "1"
    np.testing.assert_array_equal(slide.data.compute(), RGB)
    np.testing.assert_array_equal(ds.open_slide(path, image=0).data.compute(), small)
    with pytest.raises(ds.errors.SlideArgumentError, match="image=2 does not exist"):
        ds.open_slide(path, image=2)


def test_planes_are_chosen(tmp_path):
    planes = {(z, t): noise(60, 70, 1, seed=9 * z + t) for z in range(3) for t in range(2)}
    tiles = [
        one
        for (z, t), pixels in planes.items()
        for one in tiles_of(pixels, 50, plane={"Z": z, "T": t})
    ]
    path = write_czi(tmp_path / "a.czi", tiles)
    for (z, t), pixels in planes.items():
        slide = ds.open_slide(path, z=z, t=t)
        assert slide.properties["z"] == f"3 planes, {z} is read"
        np.testing.assert_array_equal(slide.data.compute(), pixels)
    with pytest.raises(ds.errors.SlideArgumentError, match="z=3: it has 3 planes"):
        ds.open_slide(path, z=3)


@pytest.mark.parametrize(("fill", "shown"), [(None, 255), (3, 3)])
def test_places_of_a_mosaic_without_a_tile_have_no_value(tmp_path, fill, shown):
    half = RGB[::2, ::2]
    tiles = [
        one
        for one in [*tiles_of(RGB, 100, 7, 5), *tiles_of(half, 50, 7, 5, factor=2)]
        if one[1:3] != (107, 205)
    ]
    slide = ds.open_slide(write_czi(tmp_path / "a.czi", tiles), fill=fill)
    there = np.ones((300, 400), bool)
    there[100:200, 200:300] = False
    for level, (pixels, has_tile) in enumerate(((RGB, there), (half, there[::2, ::2]))):
        found, valid = slide.source.read_valid(level, Region(0, 0, *has_tile.shape))
        np.testing.assert_array_equal(valid, has_tile)
        np.testing.assert_array_equal(found, np.where(has_tile[..., None], pixels, shown))
    assert slide.source.read_valid(0, Region(0, 0, 100, 400))[1] is None
    pack = ds.pack_tiles(slide, tile_size=100, downsample=1, detector=ds.Contrast(0), min_tissue=1)
    assert len(pack) == 11
    check_reader(slide, new_process=False)


def test_a_channel_without_a_tile_makes_its_place_empty(tmp_path):
    tiles = [one for c in range(2) for one in tiles_of(GREY[..., c : c + 1], 100, plane={"C": c})]
    tiles = [one for one in tiles if (one[1:3], one[4]) != ((0, 100), {"C": 1})]
    slide = ds.open_slide(write_czi(tmp_path / "a.czi", tiles))
    pixels, valid = slide.source.read_valid(0, Region(0, 0, 300, 400))
    assert not valid[:100, 100:200].any() and valid.sum() == 300 * 400 - 100 * 100
    assert (pixels[:100, 100:200] == 0).all()


def test_a_pyramid_that_covers_a_part_is_no_level(tmp_path):
    tiles = [*tiles_of(RGB, 100), *tiles_of(RGB[:100:2, ::2], 50, factor=2)]
    slide = ds.open_slide(write_czi(tmp_path / "a.czi", tiles))
    assert len(slide.levels) == 1
    np.testing.assert_array_equal(slide.data.compute(), RGB)


@pytest.mark.parametrize("factor", [2, 3])
def test_levels_of_sizes_that_are_no_multiples(tmp_path, factor):
    full = noise(301, 403, 3)
    small = np.ascontiguousarray(full[::factor, ::factor])
    tiles = [*tiles_of(full, 77, 3, 1), *tiles_of(small, 64, 3, 1, factor=factor)]
    slide = ds.open_slide(write_czi(tmp_path / "a.czi", tiles))
    np.testing.assert_array_equal(slide.to_dask(1, chunks=50).compute(), small)
    check_reader(slide, full, new_process=False)


def test_a_damaged_tile_is_named_or_masked(tmp_path):
    tiles = list(tiles_of(RGB, 100))
    path = write_czi(tmp_path / "a.czi", tiles, compression="zstd0:ExplicitLevel=2")
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data.startswith(b"\x28\xb5\x2f\xfd", at)]
    assert len(starts) == 12
    data[starts[6] : starts[6] + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(ds.errors.TileDecodeError) as raised:
        ds.open_slide(path).data.compute()
    assert (raised.value.level, raised.value.y, raised.value.x) == (0, 100, 200)
    assert one_line(raised)
    masked = ds.open_slide(path, on_bad_tile="mask")
    (bad,) = masked.bad_tiles()
    assert (bad.y, bad.x, bad.height, bad.width, bad.status) == (100, 200, 100, 100, "corrupt")
    expected = RGB.copy()
    expected[100:200, 200:300] = 255
    check_reader(masked, expected, new_process=False)


def test_changed_and_other_files_are_refused(tmp_path):
    path = write_czi(tmp_path / "a.czi", tiles_of(RGB, 200))
    slide = ds.open_slide(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(ds.errors.SlideChangedError):
        slide.read(0, 0, 10, 10)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ds.errors.SlideFormatError, match="libCZI cannot open it") as raised:
        ds.open_slide(path)
    assert one_line(raised)


@pytest.mark.parametrize(("at", "value"), [(44, 19), (79, 176), (32, 255)])
def test_impossible_headers_of_tiles_are_refused(tmp_path, at, value):
    """With the first two, libCZI ends the process: the size of a tile, and its dimensions."""
    path = write_czi(tmp_path / "a.czi", tiles_of(RGB, 100))
    data = bytearray(path.read_bytes())
    start = data.index(b"ZISRAWSUBBLOCK", 2000)
    data[start + at + (3 if at == 32 else 0)] = value
    path.write_bytes(data)
    with pytest.raises(ds.errors.SlideFormatError, match=f"tile at byte {start} is damaged"):
        ds.open_slide(path)


def test_what_the_reader_does_not_read_is_refused(tmp_path):
    mixed = [*tiles_of(RGB, 200), *tiles_of(GREY[..., :1], 200, plane={"C": 1})]
    with pytest.raises(ds.errors.SlideUnsupportedError, match="Bgr24, Gray16") as raised:
        ds.open_slide(write_czi(tmp_path / "a.czi", mixed))
    assert one_line(raised)
    path = write_czi(tmp_path / "b.czi", tiles_of(RGB, 200))
    with pytest.raises(ds.errors.SlideArgumentError, match="CZI names its axes"):
        ds.open_slide(path, axes="YX")
    for limits, text in (({"pixels": 300 * 400 - 1}, "300 x 400"), ({"channels": 2}, "3 channels"),
                         ({"tile_bytes": 200 * 200 * 3 - 1}, "200 x 200")):  # fmt: skip
        with pytest.raises(ds.errors.SlideLimitError, match=text):
            ds.open_slide(path, limits=ds.Limits(**limits))


def test_a_pixel_size_in_micrometres_is_ignored(tmp_path):
    """The file is to give metres; a value of 0.5 is no pixel size of a microscope."""
    path = write_czi(tmp_path / "a.czi", tiles_of(RGB, 200), mpp=0.5e6)
    assert ds.open_slide(path).mpp is None
