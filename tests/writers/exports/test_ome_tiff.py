"""OME-TIFF, read by tifffile, OpenSlide, ome-types and dask_slides itself."""

import json
import os
from dataclasses import replace
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import openslide
import pytest
import tifffile
import zarr
from bad_tiles import mask_of, picture, spoil, written
from click.testing import CliRunner
from oracle import area_pyramid
from rw_fixtures import noise, real, smooth

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.core.channels import Channel
from dask_slides.core.geometry import Region
from dask_slides.errors import (
    BlankSlideError,
    OutputExistsError,
    SlideArgumentError,
    SlideNotFoundError,
    TileDecodeError,
)
from dask_slides.writers.exports import ome_tiff
from dask_slides.writers.image_plan import plan_image
from dask_slides.writers.mapping_reader import open_mapping

pytestmark = pytest.mark.usefixtures("sync")

GLASS = ds.Contrast(0.05)
IMAGES = {
    "rgb": noise(700, 530, 3),
    "grey": noise(513, 300, 1, seed=1),
    "five channels": noise(1100, 260, 5, dtype="uint16", seed=2),
    "int16": noise(600, 300, 2, dtype="int16", seed=5),
    "float32": noise(600, 512, 4, dtype="float32", seed=4),
    "one row": noise(1, 3000, 3, seed=7),
    "several stages": noise(4300, 41, 3, seed=8),
}
assert len(plan_image((4300, 41)).stages) > 1


def levels_in_tifffile(path):
    """Return the levels (y, x, c) of a TIFF as tifffile sees them."""
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        levels = [level.asarray() for level in series.levels]
        moves = {"YX": lambda a: a[..., None], "CYX": lambda a: a.transpose(1, 2, 0)}
        return [moves.get(series.axes, lambda a: a)(level) for level in levels]


def levels_in_zarr(path):
    group = zarr.open_group(path, mode="r")
    names = [one["path"] for one in group.attrs["ome"]["multiscales"][0]["datasets"]]
    return [np.asarray(group[name][...]).transpose(1, 2, 0) for name in names]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("codec", ["zstd", "deflate"])
def test_all_levels_equal_those_of_the_zarr_store(tmp_path, name, codec):
    slide = ds.from_dask(IMAGES[name], mpp=(0.5, 0.25))
    path = ds.export(slide, tmp_path / "a.ome.tif", codec=codec)
    expected = levels_in_zarr(ds.write(slide, tmp_path / "a.ome.zarr"))
    found = levels_in_tifffile(path)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found[0], IMAGES[name])
    opened = ds.open_slide(path)
    assert opened.dtype == slide.dtype and opened.mpp_yx == (0.5, 0.25)
    assert [one.name for one in opened.channels] == [one.name for one in slide.channels]
    for number, level in enumerate(expected):
        np.testing.assert_array_equal(np.asarray(opened.to_dask(number)), level)
    assert sorted(os.listdir(tmp_path)) == ["a.ome.tif", "a.ome.zarr"]


@pytest.mark.parametrize("tile", [128, 512, 1024])
@pytest.mark.parametrize("shape", [(1030, 777), (90, 4500)])
def test_levels_are_the_means_of_the_image(tmp_path, shape, tile):
    image = noise(*shape, 3)
    path = ds.export(ds.from_dask(image), tmp_path / "a.ome.tif", codec="zstd", tile=tile)
    found = levels_in_tifffile(path)
    assert min(max(level.shape) for level in found) >= 256 > max(shape) / 2 ** len(found)
    for one, level in zip(found, [image, *area_pyramid(image, len(found) - 1)], strict=True):
        np.testing.assert_array_equal(one, level)
    with tifffile.TiffFile(path) as tiff:
        assert {level.keyframe.tile for level in tiff.series[0].levels} == {(tile, tile)}


@pytest.mark.parametrize("codec", ["zstd", "deflate", "jpeg"])
@pytest.mark.parametrize("image", [smooth(1500, 1100), smooth(600, 530)[..., :1]])
def test_openslide_sees_all_levels_of_pages(tmp_path, codec, image):
    source = ds.from_dask(image, mpp=(0.5, 0.25))
    path = ds.export(source, tmp_path / "a.ome.tif", codec=codec, pyramid="pages")
    expected = levels_in_tifffile(path)
    if codec != "jpeg":
        count = len(expected) - 1
        for one, other in zip(expected, [image, *area_pyramid(image, count)], strict=True):
            np.testing.assert_array_equal(one, other)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == tuple(one.shape[1::-1] for one in expected)
        for number, level in enumerate(expected):
            found = np.asarray(slide.read_region((0, 0), number, level.shape[1::-1]))
            assert (found[..., 3] == 255).all()
            np.testing.assert_array_equal(
                found[..., :3], np.broadcast_to(level, found[..., :3].shape)
            )
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
    opened = ds.open_slide(path)
    assert opened.mpp_yx == pytest.approx((0.5, 0.25), rel=1e-4)
    assert [level.shape for level in opened.levels] == [one.shape[:2] for one in expected]


def test_jpeg_is_close_to_the_image(tmp_path):
    image = smooth(900, 700)
    sizes = {}
    for name, options in {
        "best": {"quality": 98}, "usual": {}, "full": {"subsampling": "4:4:4", "pyramid": "pages"},
    }.items():  # fmt: skip
        path = ds.export(ds.from_dask(image), tmp_path / f"{name}.ome.tif", **options)
        sizes[name] = os.path.getsize(path)
        for found, level in zip(
            levels_in_tifffile(path), [image, *area_pyramid(image, 1)], strict=True
        ):
            assert np.abs(found.astype(int) - level).mean() < 2
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            assert page.compression.name == "JPEG" and page.photometric.name == "YCBCR"
            assert page.tags[530].value == ((1, 1) if name == "full" else (2, 2))
    assert sizes["best"] > sizes["full"] > sizes["usual"]


NAMED = (
    Channel("DAPI", "0000FF"), Channel("naïve <CD8> & \x01\u3042", "FF8000"), Channel("blue", None),
)  # fmt: skip


def test_the_ome_xml_is_valid_and_describes_the_image(tmp_path):
    ome_types = pytest.importorskip("ome_types")
    slide = ds.from_dask(noise(300, 600, 3, dtype="uint16"), mpp=(0.5, 0.25))
    slide = replace(slide, described=NAMED, name='<a>&"\x02".svs')
    path = ds.export(slide, tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome and tiff.series[0].axes == "CYX" and len(tiff.series[0].levels) == 2
        assert len(tiff.pages) == 3 and all(len(page.aspage().pages) == 1 for page in tiff.pages)
        text = tiff.ome_metadata
    ome_types.validate_xml(text)
    (image,) = ome_types.from_xml(text).images
    pixels = image.pixels
    assert image.name == '<a>&" ".svs'
    assert (pixels.size_x, pixels.size_y, pixels.size_c) == (600, 300, 3)
    assert (pixels.physical_size_x, pixels.physical_size_y) == (0.25, 0.5)
    assert pixels.physical_size_x_unit.value == "µm" and pixels.type.value == "uint16"
    assert [one.name for one in pixels.channels] == ["DAPI", "naïve <CD8> &  \u3042", "blue"]
    colors = [one.color.as_rgb_tuple() for one in pixels.channels]
    assert colors == [(0, 0, 255), (255, 128, 0), (255, 60, 200)]
    assert ds.open_slide(path).channels[0] == NAMED[0]


def test_the_ome_xml_of_rgb_has_one_channel(tmp_path):
    ome_types = pytest.importorskip("ome_types")
    path = ds.export(ds.from_dask(noise(30, 60, 3)), tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
        assert tiff.series[0].axes == "YXS" and len(tiff.pages) == 1
    ome_types.validate_xml(text)
    (channel,) = ome_types.from_xml(text).images[0].pixels.channels
    assert channel.samples_per_pixel == 3
    assert ds.open_slide(path).mpp is None


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (noise(9, 9, 3, dtype="uint16"), {"codec": "jpeg"}, "3 channels of uint16.*'zstd'"),
        (noise(9, 9, 4), {"codec": "jpeg"}, "4 channels of uint8.*'zstd'"),
        (noise(9, 9, 4), {"pyramid": "pages"}, "4 channels.*pyramid='subifds'"),
        (noise(9, 9, 1, dtype="float32"), {"pyramid": "pages"}, "float32.*pyramid='subifds'"),
        (noise(9, 9, 1, dtype="int64"), {}, "OME-TIFF has no such type"),
        (noise(9, 9, 3), {"codec": "lzw"}, "codec='lzw'.*jpeg, zstd, deflate"),
        (noise(9, 9, 3), {"pyramid": "none"}, "pyramid='none'"),
        (noise(9, 9, 3), {"subsampling": "4:1:1"}, "subsampling='4:1:1'"),
        (noise(9, 9, 3), {"subsampling": "4:4:4"}, "wrong colours.*pyramid='pages'"),
        (noise(9, 9, 3), {"tile": 100}, "tile=100"),
        (noise(9, 9, 3), {"quality": 0}, "quality=0"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, image, options, message):
    with pytest.raises(SlideArgumentError, match=f"^{tmp_path}/a.ome.tif: .*{message}"):
        ds.export(ds.from_dask(image), tmp_path / "a.ome.tif", **options)
    assert os.listdir(tmp_path) == []


def test_where_a_file_cannot_be_written(tmp_path):
    slide = ds.from_dask(noise(9, 9, 3))
    path = tmp_path / "a.ome.tif"
    with pytest.raises(SlideArgumentError, match="written to a disk"):
        ds.export(slide, "s3://bucket/a.ome.tif")
    with pytest.raises(SlideNotFoundError, match="create it first"):
        ds.export(slide, tmp_path / "none" / "a.ome.tif")
    path.write_text("old")
    with pytest.raises(OutputExistsError):
        ds.export(slide, path)
    assert path.read_text() == "old"
    ds.export(slide, path, overwrite=True, codec="zstd")
    np.testing.assert_array_equal(ds.open_slide(path).data, slide.data)
    (tmp_path / "b.ome.tif").mkdir()
    with pytest.raises(OutputExistsError):
        ds.export(slide, tmp_path / "b.ome.tif", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["a.ome.tif", "b.ome.tif"]


def interrupted(*_arguments, **_options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["tasks", "assembly"])
def test_an_interrupted_export_leaves_nothing_or_is_resumed(tmp_path, monkeypatch, where):
    blocks = []

    def block(block_info=None):
        blocks.append(block_info[None]["chunk-location"])
        if len(blocks) == failing:
            raise KeyboardInterrupt
        return np.full((512, 512, 3), len(blocks), np.uint8)

    failing = 5 if where == "tasks" else 0
    pixels = da.map_blocks(
        block, chunks=((512,) * 4, (512,) * 4, (3,)), dtype=np.uint8, name="same"
    )
    path = tmp_path / "a.ome.tif"
    if where == "assembly":
        monkeypatch.setattr(ome_tiff, "ome_xml", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ds.export(ds.from_dask(pixels), path)
    assert os.listdir(tmp_path) == []
    blocks.clear()
    with pytest.raises(KeyboardInterrupt):
        ds.export(ds.from_dask(pixels), path, resume=True)
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".a.ome.tif.")
    monkeypatch.undo()
    done, failing = len(blocks) - bool(failing), 0
    ds.export(ds.from_dask(pixels), path, resume=True)
    assert os.listdir(tmp_path) == ["a.ome.tif"] and ds.open_slide(path).shape == (2048, 2048, 3)
    assert done > 1 and len(blocks) < 16 + done + 2


def test_a_large_file_is_a_bigtiff(tmp_path, monkeypatch):
    image = noise(600, 300, 3)
    path = ds.export(ds.from_dask(image), tmp_path / "a.ome.tif", codec="zstd")
    with tifffile.TiffFile(path) as tiff:
        assert not tiff.is_bigtiff
    monkeypatch.setattr(ome_tiff, "_CLASSIC_BYTES", os.path.getsize(path) // 2)
    path = ds.export(ds.from_dask(image), tmp_path / "b.ome.tif", codec="zstd")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
    np.testing.assert_array_equal(levels_in_tifffile(path)[0], image)


def test_the_file_does_not_depend_on_the_scheduler(tmp_path, tissue_tiff, client):
    slide = ds.resize(tissue_tiff, downsample=1.5)
    clustered = ds.export(slide, tmp_path / "b.ome.tif")
    for number, scheduler in enumerate(("threads", "sync")):
        with dask.config.set(scheduler=scheduler):
            path = tmp_path / f"{number}.ome.tif"
            ds.export(slide, path)
        assert path.read_bytes() == Path(clustered).read_bytes()


def test_cutoffs_and_blank_maps(tmp_path, tissue, tissue_tiff):
    slide = ds.open_slide(tissue_tiff, mpp=0.5)
    blank = ds.blank_map(slide, tile_size=20, detector=GLASS)
    cut = ds.cutoff_resize(slide, downsample=1, blank_map=blank)
    path = ds.export(cut, tmp_path / "c.ome.tif", codec="zstd")
    found = levels_in_tifffile(path)[0]
    np.testing.assert_array_equal(found, np.asarray(cut.image.data))
    assert found.shape[0] < tissue.shape[0]
    assert open_mapping(path) == cut.mapping
    path = ds.export(blank, tmp_path / "m.ome.tif")
    cells = np.asarray(blank.compute().blank)
    assert not cells.all() and cells.any()
    np.testing.assert_array_equal(levels_in_tifffile(path)[0][..., 0], np.where(cells, 0, 255))
    assert ds.open_slide(path).mpp == 10
    empty = ds.from_dask(np.full((400, 400, 3), 255, np.uint8))
    with pytest.warns(ds.errors.BlankSlideWarning):
        cut = ds.cutoff_resize(empty, downsample=1)
    with pytest.raises(BlankSlideError):
        ds.export(cut, tmp_path / "e.ome.tif")


def test_nodata_is_kept_without_loss(tmp_path):
    image = noise(600, 300, 3, top=200)
    image[100:301, 50:90] = 255
    tags = [(42113, "s", 0, "255", True)]
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb", extratags=tags)
    slide = ds.open_slide(tmp_path / "a.tif")
    path = ds.export(slide, tmp_path / "a.ome.tif")
    for number, level in enumerate(levels_in_zarr(ds.write(slide, tmp_path / "a.ome.zarr"))):
        opened = ds.open_slide(path).source
        pixels, valid = opened.read_valid(number, Region(0, 0, *level.shape[:2]))
        np.testing.assert_array_equal(pixels, level)
        np.testing.assert_array_equal(valid, (level != 255).any(axis=-1))
    lossy = ds.open_slide(ds.export(slide, tmp_path / "b.ome.tif", codec="jpeg"))
    assert not lossy.source.masked


@pytest.fixture
def damaged(tmp_path):
    """Return a folder with a slide that has an absent and a corrupt tile, and its pixels."""
    folder = tmp_path / "slides"
    folder.mkdir()
    image = written(folder / "d.tif", "jpeg", picture("jpeg", (300, 420)))
    spoil(folder / "d.tif", {3}, {8})
    return folder, image


def test_bad_tiles_raise_or_show_the_fill_and_are_listed(damaged, tmp_path):
    folder, image = damaged
    path = tmp_path / "a.ome.tif"
    with pytest.raises(TileDecodeError, match="rows 64 to 128, columns 64 to 128"):
        ds.export(ds.open_slide(folder / "d.tif"), path)
    assert os.listdir(tmp_path) == ["slides"]
    for pyramid in ("subifds", "pages"):
        slide = ds.open_slide(folder / "d.tif", on_bad_tile="mask")
        ds.export(slide, path, codec="zstd", pyramid=pyramid, overwrite=True)
        bad = mask_of("jpeg", (300, 420), [3, 8])
        expected = np.where(bad[..., None], np.uint8(255), image)
        np.testing.assert_array_equal(levels_in_tifffile(path)[0], expected)
        listed = ome_tiff.bad_tiles_in_tiff(str(path))
        assert [(one.status, one.y, one.x) for one in listed] == [
            ("absent", 0, 192), ("corrupt", 64, 64),
        ]  # fmt: skip
        # they are known when the file is opened again, on every level
        again = ds.open_slide(path).source
        found = np.zeros((300, 420), bool)
        for hole in again.holes(0, Region(0, 0, 300, 420)):
            found[hole.region.slices()] = True
        np.testing.assert_array_equal(found, bad)
        both = (ds.open_slide(path), slide)
        one, two = (ds.blank_map(x, tile_size=50, detector=GLASS).compute() for x in both)
        np.testing.assert_array_equal(one.statistics, two.statistics)
        one, two = (ds.pack_tiles(x, tile_size=30, detector=GLASS, downsample=1) for x in both)
        np.testing.assert_array_equal((one.y, one.x), (two.y, two.x))
        assert one.attributes["skipped"] == two.attributes["skipped"] > 0


@pytest.mark.parametrize("command", ["resize", "cutoff", "mask", "export"])
def test_the_commands_write_a_tiff_and_name_corrupt_tiles(damaged, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    words = [command, "slides/d.tif", "o.ome.tif", "--json"]
    words += {"mask": ["--tile-size", "50"], "export": []}.get(command, ["--downsample", "1"])
    failed = CliRunner().invoke(main, words)
    assert failed.exit_code == 1 and os.listdir() == ["slides"]
    pages = ["-o", "pyramid=pages"] if command == "export" else ["--pyramid", "pages"]
    result = CliRunner().invoke(main, [*words, "--on-bad-tile", "mask", *pages])
    assert result.exit_code == 3, result.stderr
    assert "level 0, y 64, x 64, 64 x 64 px" in result.stderr
    facts = json.loads(result.stdout)
    assert [tile["status"] for tile in facts["bad_tiles"]] == ["absent", "corrupt"]
    with openslide.OpenSlide(facts["path"]) as slide:
        assert slide.level_dimensions[0] == ds.open_slide(facts["path"]).shape[1::-1]
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 1 and "already exists" in again.stderr


def test_options_of_the_other_format_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["a.ome.zarr", "--codec", "jpeg"], "--codec jpeg is for an OME-TIFF"),
        (["a.ome.tif", "--ome-zarr", "0.4"], "--ome-zarr is for a Zarr store"),
        (["a.ome.tif", "--codec", "source"], "--codec source is for a Zarr store"),
        (["a.ome.tif", "--drop-blank"], "--drop-blank is for a Zarr store"),
        (["a.ome.zarr", "--drop-blank"], "--drop-blank needs --codec source"),
        (["a.ome.zarr", "--verify-pixels", "0.5"], "--verify-pixels needs --codec source"),
        (["a.ome.zarr", "--level-step", "none"], "--level-step needs --codec source"),
        (["a.ome.zarr", "--codec", "source", "--pyramid", "pages"], "--pyramid is for an OME-TIFF"),
        (["a.tif"], "use 'a.ome.zarr', or the ending .ome.tif"),
    ):
        result = CliRunner().invoke(main, ["resize", "slide.svs", *words])
        assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_mask_offers_no_options_of_copies():
    for command, offered in (("mask", False), ("resize", True)):
        shown = CliRunner().invoke(main, [command, "--help"]).stdout
        for text in ("--drop-blank", "--verify-pixels", "--level-step", "source copies"):
            assert (text in " ".join(shown.split())) is offered


def test_a_real_slide_is_the_same_in_openslide(tmp_path):
    svs = real("CMU-1-Small-Region.svs")
    path = ds.export(ds.open_slide(svs), tmp_path / "a.ome.tif", codec="zstd", pyramid="pages")
    with openslide.OpenSlide(svs) as source, openslide.OpenSlide(path) as slide:
        assert slide.dimensions == source.dimensions and slide.level_count > 2
        for name in ("openslide.mpp-x", "openslide.mpp-y"):
            expected = float(source.properties[name])
            assert float(slide.properties[name]) == pytest.approx(expected, rel=1e-5)
        found, expected = (
            np.asarray(one.read_region((0, 0), 0, one.dimensions)) for one in (source, slide)
        )
        np.testing.assert_array_equal(found, expected)


REAL = {"kidney-48-5.tif": "YXS", "small_vectra.qptiff": "CYX"}


@pytest.mark.parametrize("name", REAL)
def test_real_channels_keep_names_and_pixels(tmp_path, name):
    slide = ds.open_slide(real(name))
    opened = ds.open_slide(ds.export(slide, tmp_path / "a.ome.tif", codec="deflate"))
    assert opened.mpp_yx == slide.mpp_yx
    assert [(one.name, one.color) for one in opened.channels] == [
        (one.name, one.color or found.color)
        for one, found in zip(slide.channels, opened.channels, strict=True)
    ]
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert tiff.series[0].axes == REAL[name]
    np.testing.assert_array_equal(levels_in_tifffile(tmp_path / "a.ome.tif")[0], slide.data)
