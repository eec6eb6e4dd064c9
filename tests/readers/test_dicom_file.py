"""Whole-slide DICOM, which pydicom writes and wsidicom reads."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rw_fixtures import noise, one_line, smooth

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.testing.reader_contract import check_reader

pytest.importorskip("pydicom")
pytest.importorskip("wsidicom")
from dicom_files import encoded, frames_of, write_dicom, write_frame
from pydicom._uid_dict import UID_dictionary

SIDE = 64


def planes(*shape, **options):
    """Return random samples (path, plane, y, x, samples)."""
    return noise(*shape, **options)


RGB = planes(1, 1, 150, 200, 3)


@pytest.mark.parametrize("codec", [None, "jpeg2000"])
def test_levels_of_a_series_are_read_from_one_file_or_the_folder(tmp_path, codec):
    files = write_dicom(tmp_path / "a", [RGB, RGB[:, :, ::2, ::2]], codec=codec, mpp=0.5)
    for path in (tmp_path / "a", files[0], files[1]):
        slide = ds.open_slide(path)
        assert slide.mpp == 0.5 and slide.images == ()
        assert [level.shape for level in slide.levels] == [(150, 200), (75, 100)]
        assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
        assert dict(slide.properties) == {"format": "DICOM", "reader": "wsidicom"}
        np.testing.assert_array_equal(slide.data.compute(), RGB[0, 0])
        np.testing.assert_array_equal(slide.to_dask(1).compute(), RGB[0, 0, ::2, ::2])
    check_reader(slide, RGB[0, 0])


def test_jpeg_tiles_are_those_that_pillow_decodes(tmp_path):
    pixels = smooth(150, 200)[None, None]
    write_dicom(tmp_path / "a", [pixels], codec="jpeg")
    expected = np.empty_like(pixels[0, 0])
    for row, column, *_, tile in frames_of(pixels, SIDE):
        part = expected[row * SIDE :, column * SIDE :][:SIDE, :SIDE]
        decoded = np.asarray(Image.open(io.BytesIO(encoded(tile, "jpeg"))))
        part[...] = decoded[: part.shape[0], : part.shape[1]]
    found = ds.open_slide(tmp_path / "a").data.compute()
    assert np.abs(found.astype(int) - expected).max() <= 1
    openslide = pytest.importorskip("openslide")
    assert openslide.OpenSlide(tmp_path / "a" / "0.dcm").dimensions == (200, 150)
    other = ds.open_slide(tmp_path / "a" / "0.dcm", reader="openslide").data.compute()
    assert np.abs(found.astype(int) - other).max() <= 1


def real_frames():
    """Yield the frames of the package wsidicom-data, which other programs encoded."""
    try:
        import wsidicom_data
    except ImportError:
        return
    folder = Path(wsidicom_data.__file__).parent / "data"
    for path in sorted((folder / "encoded").iterdir()):
        if path.suffix != ".raw":
            yield pytest.param(folder, path, id=path.stem)


@pytest.mark.parametrize(("folder", "path"), [*real_frames()])
def test_frames_of_other_encoders(tmp_path, folder, path):
    name, kind, bits = path.stem.rsplit("-", 2)
    syntax = next(
        uid for uid, (text, *_) in UID_dictionary.items() if text == name.replace("_", " ")
    )
    image = Image.open(folder / "test_tile.png")
    expected = np.asarray(image if kind != "GRAYSCALE" else image.convert("L")).astype(int)
    expected = expected.reshape(*expected.shape[:2], -1) << (int(bits) - 8)
    lossless = "Lossless" in name and "Near" not in name
    ybr = "YBR_FULL" if "2000" not in name else "YBR_RCT" if lossless else "YBR_ICT"
    photometric = {"GRAYSCALE": "MONOCHROME2", "RGB": "RGB", "YBR": ybr}[kind]
    write_frame(
        tmp_path / "a.dcm", expected.shape, int(bits), path.read_bytes(), syntax, photometric
    )
    if name == "RLE_Lossless" and bits == "16":
        with pytest.raises(ds.errors.SlideFormatError, match="a transfer syntax that"):
            ds.open_slide(tmp_path / "a.dcm")
        return
    found = ds.open_slide(tmp_path / "a.dcm").data.compute(scheduler="sync").astype(int)
    if lossless and ybr != "YBR_FULL":
        np.testing.assert_array_equal(found, expected)
    assert np.abs(found - expected).mean() <= 4 << (int(bits) - 8)


def test_optical_paths_are_channels_with_names(tmp_path):
    pixels = planes(3, 1, 100, 90, 1, dtype="uint16")
    write_dicom(tmp_path / "a", [pixels], paths=("DAPI", "FITC", "Cy5"))
    slide = ds.open_slide(tmp_path / "a")
    assert slide.dtype == np.uint16 and slide.source.fill == 0
    assert [channel.name for channel in slide.channels] == ["DAPI", "FITC", "Cy5"]
    expected = pixels[:, 0, :, :, 0].transpose(1, 2, 0)
    check_reader(slide, expected)
    two = ds.open_slide(tmp_path / "a", channels=["Cy5", "DAPI"])
    assert two.source.paths == ("2", "0")  # the third is not decoded
    np.testing.assert_array_equal(two.data.compute(), expected[..., [2, 0]])


def test_a_focal_plane_is_chosen(tmp_path):
    pixels = planes(1, 3, 100, 90, 1)
    write_dicom(tmp_path / "a", [pixels], planes=3)
    for z in range(3):
        slide = ds.open_slide(tmp_path / "a", z=z)
        assert slide.properties["z"] == f"3 planes, {z} is read"
        np.testing.assert_array_equal(slide.data.compute(), pixels[0, z])
    with pytest.raises(ds.errors.SlideArgumentError, match="z=3: it has 3 planes along z"):
        ds.open_slide(tmp_path / "a", z=3)


def test_tiles_that_are_not_stored_are_absent(tmp_path):
    missing = {(0, 0, 1), (0, 2, 3)}
    write_dicom(tmp_path / "a", [RGB], missing=missing)
    slide = ds.open_slide(tmp_path / "a")
    assert [(tile.y, tile.x, tile.status) for tile in slide.bad_tiles()] == [
        (0, 64, "absent"), (128, 192, "absent"),
    ]  # fmt: skip
    expected = RGB[0, 0].copy()
    expected[:64, 64:128] = expected[128:, 192:] = 255
    check_reader(slide, expected)
    pack = ds.pack_tiles(slide, tile_size=50, downsample=1, detector=ds.Contrast(0), min_tissue=1)
    assert len(pack) == 7  # of 12; the first absent tile touches four, the second one
    assert slide.source.lacks(0, Region(0, 64, 64, 64))


def damaged(tmp_path, codec, change):
    """Write a slide whose tile in row 1, column 2 of 3 x 4 is damaged."""
    (path,) = write_dicom(tmp_path / "a", [RGB], codec=codec)
    frame = encoded([one for one in frames_of(RGB, SIDE)][6][-1], codec)
    data = path.read_bytes()
    assert data.count(frame) == 1
    path.write_bytes(data.replace(frame, change(frame)))
    return path


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000"])
@pytest.mark.parametrize(
    "change", [lambda frame: frame[:-99] + bytes(99), lambda frame: bytes(len(frame))]
)
def test_damaged_tiles_are_named_or_masked(tmp_path, codec, change):
    path = damaged(tmp_path, codec, change)
    with pytest.raises(ds.errors.TileDecodeError) as raised:
        ds.open_slide(path).data.compute()
    assert (raised.value.level, raised.value.y, raised.value.x) == (0, 64, 128)
    assert one_line(raised)
    masked = ds.open_slide(path, on_bad_tile="mask")
    (bad,) = masked.bad_tiles()
    assert (bad.y, bad.x, bad.status) == (64, 128, "corrupt")
    assert (masked.read(64, 128, 64, 64) == 255).all()
    check_reader(masked, new_process=False)


def test_the_largest_series_of_a_folder_is_opened_or_the_one_that_is_named(tmp_path):
    small = planes(1, 1, 40, 50, 3)
    write_dicom(tmp_path / "a", [small], series="1.2.3")
    write_dicom(tmp_path / "a", [RGB], series="1.2.4")
    slide = ds.open_slide(tmp_path / "a")
    assert slide.images == ("1.2.3", "1.2.4") and slide.properties["image"] == "1.2.4"
    np.testing.assert_array_equal(slide.data.compute(), RGB[0, 0])
    for image in (0, "1.2.3"):
        other = ds.open_slide(tmp_path / "a", image=image)
        np.testing.assert_array_equal(other.data.compute(), small[0, 0])
    assert ds.open_slide(tmp_path / "a" / "0.dcm").shape == (40, 50, 3)


def test_a_changed_file_of_a_level_is_noticed(tmp_path):
    files = write_dicom(tmp_path / "a", [RGB, RGB[:, :, ::2, ::2]])
    slide = ds.open_slide(files[0])
    os.utime(files[1], ns=(0, 0))
    with pytest.raises(ds.errors.SlideChangedError):
        slide.read(0, 0, 10, 10)


def test_other_dicom_and_damaged_files_are_refused(tmp_path):
    (path,) = write_dicom(tmp_path / "c", [RGB])
    path.write_bytes(path.read_bytes().replace(b"VOLUME", b"LABEL "))
    path.rename(tmp_path / "a.dcm")
    with pytest.raises(
        ds.errors.SlideUnsupportedError, match="no level of a whole-slide image"
    ) as raised:
        ds.open_slide(tmp_path / "a.dcm")
    assert one_line(raised)
    (path,) = write_dicom(tmp_path / "b", [RGB])
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ds.errors.SlideError) as raised:
        ds.open_slide(path).data.compute()
    assert one_line(raised)


@pytest.mark.parametrize("cut", [200, 700, 1500])
def test_a_level_with_a_damaged_header_is_named_and_not_left_out(tmp_path, cut):
    files = write_dicom(tmp_path / "a", [RGB, RGB[:, :, ::2, ::2]])
    files[0].write_bytes(files[0].read_bytes()[:cut])
    for path in (tmp_path / "a", files[1]):
        with pytest.raises(ds.errors.SlideFormatError, match=r"0\.dcm: is damaged") as raised:
            ds.open_slide(path)
        assert one_line(raised)


def test_damaged_files_are_read_or_raise_an_error_of_dask_slides(tmp_path):
    files = write_dicom(tmp_path / "a", [RGB, RGB[:, :, ::2, ::2]], codec="jpeg2000")
    whole = [file.read_bytes() for file in files]
    random = np.random.default_rng(3)
    for _ in range(25):
        for file, data in zip(files, whole, strict=True):
            changed = bytearray(data)
            for at in random.integers(0, 3000, 2):
                changed[at] = random.integers(256)
            file.write_bytes(changed)
        try:
            ds.open_slide(tmp_path / "a").data.compute(scheduler="sync")
        except ds.SlideError as error:
            assert one_line(error)


def test_sizes_beyond_the_limits_are_refused(tmp_path):
    write_dicom(tmp_path / "a", [RGB])
    with pytest.raises(ds.errors.SlideLimitError, match="150 x 200"):
        ds.open_slide(tmp_path / "a", limits=ds.Limits(pixels=150 * 200 - 1))
    with pytest.raises(ds.errors.SlideLimitError, match="64 x 64"):
        ds.open_slide(tmp_path / "a", limits=ds.Limits(tile_bytes=64 * 64 * 3 - 1))
