"""TIFFs that are stored mirrored or rotated are read upright, and so are their bad tiles."""

import pickle

import numpy as np
import pytest
import tifffile
from raw_tiff import write_tiff
from rw_fixtures import noise, one_line, segments, smooth

import dask_slides as ds

STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""The stored pixels of an upright image, by orientation."""
LAYOUTS = {
    "mapped": {},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "tiles": {"tile": (16, 32), "compression": "lzw"},
    "planes": {"planarconfig": "separate", "tile": (32, 16), "compression": "zlib"},
}


def tagged(orientation):
    return {"extratags": [(274, 3, 1, orientation, True)], "metadata": None}


def write(path, upright, orientation, **options):
    stored = np.ascontiguousarray(STORED[orientation](upright))
    if options.get("planarconfig") == "separate":
        stored = np.ascontiguousarray(stored.transpose(2, 0, 1))
    tifffile.imwrite(path, stored, photometric="rgb", **tagged(orientation), **options)
    return path


@pytest.mark.parametrize("orientation", STORED)
def test_the_first_row_and_column_are_on_the_right_side(tmp_path, orientation):
    # TIFF 6.0, page 36: 0th row, 0th column
    rows, columns = [
        ("top", "left"), ("top", "right"), ("bottom", "right"), ("bottom", "left"),
        ("left", "top"), ("right", "top"), ("right", "bottom"), ("left", "bottom"),
    ][orientation - 1]  # fmt: skip
    stored = np.zeros((5, 8), np.uint8)
    stored[0] += 100
    stored[:, 0] += 50
    path = write_tiff(tmp_path / "a.tif", (5, 8), [stored.tobytes()], {274: (3, [orientation])})
    slide = ds.open_slide(path)
    found = slide.read(0, 0, *slide.shape[:2])[..., 0]
    sides = {"top": found[0], "bottom": found[-1], "left": found[:, 0], "right": found[:, -1]}
    assert (sides[rows] >= 100).all()
    assert (sides[columns] % 100 == 50).all()
    assert (found >= 100).sum() == 8


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_orientation_and_layout(tmp_path, orientation, layout):
    upright = noise(61, 45, 3)
    path = write(tmp_path / "a.tif", upright, orientation, **LAYOUTS[layout])
    slide = pickle.loads(pickle.dumps(ds.open_slide(path)))
    assert slide.shape == upright.shape
    np.testing.assert_array_equal(slide.data.compute(), upright)
    np.testing.assert_array_equal(
        slide.to_dask(chunks=(17, 13)).compute(scheduler="threads"), upright
    )
    np.testing.assert_array_equal(slide.read(9, 31, 40, 11), upright[9:49, 31:42])
    np.testing.assert_array_equal(slide.read(60, 44, 1, 1), upright[60:, 44:])


@pytest.mark.parametrize("orientation", STORED)
def test_operations_do_not_depend_on_the_orientation(tmp_path, orientation):
    upright = smooth(512, 320)
    upright[:200] = 255
    options = {"tile": (64, 32), "compression": "zlib"}
    turned = ds.open_slide(write(tmp_path / "a.tif", upright, orientation, **options))
    plain = ds.open_slide(write(tmp_path / "b.tif", upright, 1, tile=(64, 64)))
    for operation in (
        lambda slide: ds.resize(slide, downsample=3).data.compute(),
        lambda slide: ds.blank_map(slide, tile_size=64, detector=ds.Contrast(0.05)).compute().blank,
        lambda slide: ds.pack_tiles(
            slide, tile_size=64, detector=ds.Contrast(0.05)
        ).tiles.compute(),
        lambda slide: ds.cutoff_resize(
            slide, downsample=2, detector=ds.Contrast(0.05)
        ).image.data.compute(),
        lambda slide: slide.thumbnail(100),
    ):
        np.testing.assert_array_equal(np.asarray(operation(turned)), np.asarray(operation(plain)))


@pytest.mark.parametrize("orientation", STORED)
def test_levels_and_micrometres_per_pixel(tmp_path, orientation):
    path = tmp_path / "a.tif"
    sizes = [(200, 304), (100, 152), (50, 76)]
    levels = [noise(*size, 3, seed=size[0]) for size in sizes]
    with tifffile.TiffWriter(path) as tiff:
        for number, upright in enumerate(levels):
            tiff.write(
                np.ascontiguousarray(STORED[orientation](upright)),
                photometric="rgb",
                tile=(32, 16),
                subfiletype=int(number > 0),
                subifds=2 if number == 0 else 0,
                resolution=(20_000, 40_000),  # along the columns and rows that are stored
                resolutionunit="CENTIMETER",
                **tagged(orientation),
            )
    slide = ds.open_slide(path)
    assert slide.mpp_yx == ((0.25, 0.5) if orientation < 5 else (0.5, 0.25))
    tile = (32, 16) if orientation < 5 else (16, 32)
    assert [(level.shape, level.tile) for level in slide.levels] == [(s, tile) for s in sizes]
    for number, upright in enumerate(levels):
        np.testing.assert_array_equal(slide.to_dask(number).compute(), upright)


def test_levels_of_different_orientations_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "rgb", "tile": (32, 32), "metadata": None}
        tiff.write(noise(200, 200, 3), subifds=1, **options, extratags=[(274, 3, 1, 6, True)])
        tiff.write(noise(100, 100, 3), subfiletype=1, **options)
    with pytest.raises(
        ds.errors.SlideUnsupportedError, match="level 1 has another orientation"
    ) as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)


def test_levels_of_different_colours_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "palette", "tile": (32, 32), "metadata": None}
        for number, size in enumerate((200, 100)):
            table = noise(3, 256, seed=number).astype(np.uint16) * 257
            tiff.write(
                noise(size, size), colormap=table, subifds=1 - number, subfiletype=number, **options
            )
    with pytest.raises(ds.errors.SlideUnsupportedError, match=r"level 1 .* palette"):
        ds.open_slide(path)


def holed(path, orientation):
    """Write 3 x 2 tiles as they are stored; (0, 1) is absent and (2, 0) is damaged."""
    stored = noise(48, 32)
    tifffile.imwrite(path, stored, tile=(16, 16), compression="zlib", **tagged(orientation))
    spans = segments(path)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        counts[1] = 0
        tiff.pages[0].tags[325].overwrite(counts)
    with open(path, "r+b") as file:
        file.seek(spans[4][0] + 20)
        file.write(b"\xff" * 40)
    return stored


@pytest.mark.parametrize("orientation", STORED)
def test_bad_tiles_have_upright_positions(tmp_path, orientation):
    path = tmp_path / "a.tif"
    stored = holed(path, orientation)
    marks = np.zeros((48, 32), np.uint8)
    marks[:16, 16:], marks[32:, :16] = 1, 2
    turned = {1: lambda a: a, 6: lambda a: np.rot90(a, -1), 8: np.rot90}.get(
        orientation, STORED[orientation]
    )
    upright, marks = turned(stored), turned(marks)
    slide = ds.open_slide(path, on_bad_tile="mask", fill=77)
    found = slide.data.compute()[..., 0]
    np.testing.assert_array_equal(found, np.where(marks > 0, 77, upright))
    bad = {tile.status: tile for tile in slide.bad_tiles()}
    for status, mark in (("absent", 1), ("corrupt", 2)):
        ys, xs = np.nonzero(marks == mark)
        tile = bad[status]
        assert (tile.y, tile.x) == (ys.min(), xs.min())
        assert (tile.height, tile.width) == (16, 16)
    assert bad["corrupt"].offset == segments(path)[4][0]
    with pytest.raises(ds.errors.TileDecodeError) as error:
        ds.open_slide(path).read(0, 0, *upright.shape)
    assert (error.value.y, error.value.x) == (bad["corrupt"].y, bad["corrupt"].x)
    assert error.value.offset == bad["corrupt"].offset
    check = ds.check_slide(path)
    assert {(tile.y, tile.x) for tile in check.bad_tiles} == {(t.y, t.x) for t in bad.values()}


def test_an_orientation_of_0_means_upright(tmp_path):
    values = noise(5, 8)
    path = write_tiff(tmp_path / "a.tif", (5, 8), [values.tobytes()], {274: (3, [0])})
    np.testing.assert_array_equal(ds.open_slide(path).read(0, 0, 5, 8)[..., 0], values)
