"""Slides that OpenSlide reads: MIRAX made by the tests, and TIFFs, which other readers read too."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from mrxs_files import write_mrxs
from PIL import Image
from rw_fixtures import noise, one_line, real, smooth

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.testing.reader_contract import check_reader

openslide = pytest.importorskip("openslide")

PIXELS = noise(384, 512, 3)
LEVELS = [PIXELS, noise(192, 256, 3, seed=1), noise(96, 128, 3, seed=2)]


@pytest.fixture
def mrxs(tmp_path):
    return write_mrxs(tmp_path / "a.mrxs", LEVELS)


def damage(path, at):
    """Overwrite the compressed pixels of the PNG number `at` in the data file of `path`."""
    file = path.with_suffix("") / "Data0000.dat"
    data = bytearray(file.read_bytes())
    start = -1
    for _ in range(at + 1):
        start = data.index(b"IDAT", start + 1)
    data[start + 100 : start + 400] = bytes(300)
    file.write_bytes(data)


def test_mirax_is_opened_by_itself_with_levels_and_pixel_size(mrxs):
    slide = ds.open_slide(mrxs)
    assert slide.mpp == 0.25 and slide.magnification == 40
    assert [level.shape for level in slide.levels] == [(384, 512), (192, 256), (96, 128)]
    assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2), (4, 4)]
    assert slide.properties["format"] == "mirax" and slide.properties["reader"] == "OpenSlide"
    for number, pixels in enumerate(LEVELS):
        np.testing.assert_array_equal(slide.to_dask(number, chunks=100).compute(), pixels)
    check_reader(slide, PIXELS)


def test_hamamatsu_vms_is_opened_by_itself(tmp_path):
    image = Image.fromarray(smooth(256, 512))
    options = {"quality": 95, "restart_marker_blocks": 4, "subsampling": 0}
    image.save(tmp_path / "a.jpg", **options)
    for name in ("map.jpg", "macro.jpg"):
        image.reduce(4).save(tmp_path / name, **options)
    (tmp_path / "a.opt").write_bytes(b"")
    (tmp_path / "a.vms").write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\n"
        "ImageFile=a.jpg\nMapFile=map.jpg\nMacroImage=macro.jpg\nOptimisationFile=a.opt\n"
        "PhysicalWidth=128000\nPhysicalHeight=64000\nSourceLens=20\n"
    )
    slide = ds.open_slide(tmp_path / "a.vms")
    assert slide.mpp == 0.25 and slide.properties["format"] == "hamamatsu"
    assert [level.downsample for level in slide.levels[:3]] == [(1, 1), (2, 2), (4, 4)]
    assert slide.levels[0].tile == (256, 256)  # of 8 x 32, which would make tiny tasks
    np.testing.assert_array_equal(slide.data.compute(), np.asarray(Image.open(tmp_path / "a.jpg")))
    os.utime(tmp_path / "a.jpg", ns=(0, 0))
    with pytest.raises(ds.errors.SlideChangedError):
        slide.read(0, 0, 10, 10)


@pytest.mark.parametrize(("fill", "shown"), [(None, 255), (7, 7)])
def test_areas_that_were_not_scanned_have_no_value(tmp_path, fill, shown):
    path = write_mrxs(tmp_path / "a.mrxs", LEVELS[:2], missing={(0, 1, 2), (1, 2, 3)})
    slide = ds.open_slide(path, fill=fill)
    scanned = np.ones((384, 512), bool)
    scanned[64:128, 128:192] = False
    pixels, valid = slide.source.read_valid(0, Region(0, 0, 384, 512))
    np.testing.assert_array_equal(valid, scanned)
    np.testing.assert_array_equal(pixels, np.where(scanned[..., None], PIXELS, shown))
    inside = slide.source.read_valid(0, Region(0, 0, 64, 512))
    assert inside[1] is None
    pack = ds.pack_tiles(slide, tile_size=64, downsample=1, detector=ds.Contrast(0), min_tissue=1)
    assert len(pack) == 47 and (64, 128) not in zip(pack.y, pack.x, strict=True)
    if fill is not None:
        check_reader(slide)


def test_a_dark_background_of_the_slide_is_the_fill(tmp_path):
    path = write_mrxs(tmp_path / "a.mrxs", LEVELS[:1], missing={(0, 0, 0)}, background=0x0A0A0A)
    assert (ds.open_slide(path).read(0, 0, 64, 64) == 10).all()


def test_a_damaged_tile_is_named_and_the_others_are_read(mrxs):
    damage(mrxs, 9)  # row 1, column 1 of 8
    slide = ds.open_slide(mrxs)
    with pytest.raises(ds.errors.TileDecodeError) as raised:
        slide.read(0, 0, 200, 200)
    assert (raised.value.level, raised.value.y, raised.value.x) == (0, 0, 0)  # of 256 px
    assert one_line(raised)
    np.testing.assert_array_equal(slide.read(0, 0, 64, 512), PIXELS[:64])


def test_damaged_tiles_are_masked(mrxs):
    damage(mrxs, 9)
    slide = ds.open_slide(mrxs, on_bad_tile="mask")
    (bad,) = slide.bad_tiles()
    assert (bad.y, bad.x, bad.height, bad.width, bad.status) == (0, 0, 256, 256, "corrupt")
    pixels = slide.data.compute(scheduler="threads")
    np.testing.assert_array_equal(pixels[256:], PIXELS[256:])
    assert (pixels[:256, :256] == 255).all()


def test_an_error_in_one_thread_is_not_one_of_another(mrxs):
    damage(mrxs, 9)
    slide = ds.open_slide(mrxs)

    def read(number):
        if number % 2:
            with pytest.raises(ds.errors.TileDecodeError):
                slide.read(64, 64, 64, 64)
            return True
        return np.array_equal(slide.read(256, 0, 128, 512), PIXELS[256:])

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(40)))


def test_a_changed_data_file_is_noticed(mrxs):
    slide = ds.open_slide(mrxs)
    file = mrxs.with_suffix("") / "Data0000.dat"
    os.utime(file, ns=(0, 0))
    with pytest.raises(ds.errors.SlideChangedError):
        slide.read(0, 0, 10, 10)


def test_levels_at_fractions_do_not_depend_on_the_region(tmp_path):
    """OpenSlide itself returns other pixels where a region begins elsewhere."""
    path = tmp_path / "a.tif"
    full, small = noise(1503, 2005, 3), noise(375, 501, 3, seed=1)
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate((full, small)):
            tiff.write(pixels, tile=(64, 64), photometric="rgb", subfiletype=min(number, 1))
    slide = ds.open_slide(path, reader="openslide")
    assert openslide.OpenSlide(path).level_downsamples[1] % 1
    check_reader(slide)
    np.testing.assert_array_equal(slide.to_dask(0).compute(), full)
    whole = slide.to_dask(1).compute()
    np.testing.assert_array_equal(slide.to_dask(1, chunks=99).compute(), whole)
    assert np.abs(whole.astype(int) - small).mean() < 8


def test_openslide_reads_a_tiff_as_tifffile_does(pyramid):
    tiff, other = ds.open_slide(pyramid), ds.open_slide(pyramid, reader="openslide")
    assert tiff.properties["reader"] == "direct" and other.properties["reader"] == "OpenSlide"
    np.testing.assert_array_equal(other.data.compute(), tiff.data.compute())


def test_photos_that_overlap_do_not_depend_on_the_region(tmp_path):
    """Their places are fractions of pixels at the smaller levels."""
    levels = [noise(512 >> n, 768 >> n, 3, seed=n) for n in range(4)]
    slide = ds.open_slide(write_mrxs(tmp_path / "a.mrxs", levels, overlap=5))
    assert slide.shape == (477, 713, 3)
    check_reader(slide, new_process=False)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395.svs"])
def test_real_slides_are_read_as_tifffile_does(name):
    tiff, other = ds.open_slide(real(name)), ds.open_slide(real(name), reader="openslide")
    assert [level.shape for level in other.levels] == [level.shape for level in tiff.levels]
    assert other.mpp == tiff.mpp
    y, x = (n // 3 for n in tiff.shape[:2])
    np.testing.assert_array_equal(other.read(y, x, 700, 900), tiff.read(y, x, 700, 900))
    # the second has a level at 1/2.0005, which OpenSlide interpolates by up to 1/4 pixel
    level = len(tiff.levels) - 1
    differences = other.to_dask(level) - tiff.to_dask(level).astype(int)
    assert abs(differences).mean().compute(scheduler="threads") < 3


def test_what_openslide_cannot_open_is_refused(tmp_path, mrxs):
    (mrxs.with_suffix("") / "Index.dat").write_bytes(b"01.02")
    with pytest.raises(ds.errors.SlideFormatError, match="OpenSlide cannot open it") as raised:
        ds.open_slide(mrxs)
    assert one_line(raised)
    mrxs.with_suffix("").rename(tmp_path / "elsewhere")
    with pytest.raises(ds.errors.SlideFormatError, match="folder a next to it, copy it there"):
        ds.open_slide(mrxs)
    (tmp_path / "b.svslide").write_bytes(b"nothing")
    with pytest.raises(ds.errors.SlideFormatError, match="Unsupported or missing"):
        ds.open_slide(tmp_path / "b.svslide")


def test_damaged_files_are_read_or_raise_an_error_of_dask_slides(mrxs):
    files = sorted(mrxs.with_suffix("").iterdir())
    whole = {file: file.read_bytes() for file in files}
    random = np.random.default_rng(3)
    for number in range(45):
        file = files[number % 3]
        data = bytearray(whole[file])
        for at in random.integers(0, min(len(data), 2000), 3):
            data[at] = random.integers(256)
        file.write_bytes(data)
        try:
            ds.open_slide(mrxs).data.compute(scheduler="sync")
        except ds.SlideError as error:
            assert one_line(error)
        file.write_bytes(whole[file])


def test_tiles_beyond_the_limit_are_refused_before_they_are_read(mrxs):
    with pytest.raises(ds.errors.SlideLimitError, match="64 x 64"):
        ds.open_slide(mrxs, limits=ds.Limits(tile_bytes=64 * 64 * 4 - 1))
    with pytest.raises(ds.errors.SlideLimitError, match="384 x 512"):
        ds.open_slide(mrxs, limits=ds.Limits(pixels=384 * 512 - 1))


def test_one_plane_is_all_there_is(mrxs):
    with pytest.raises(ds.errors.SlideArgumentError, match="z=1"):
        ds.open_slide(mrxs, z=1)
