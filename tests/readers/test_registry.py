"""The reader of a file: chosen, forced, missing, or of another package."""

import json
import os
import sys

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image
from rw_fixtures import noise, one_line

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.errors import ReaderWarning
from dask_slides.readers import registry
from dask_slides.testing.reader_contract import check_reader

PIXELS = noise(64, 48, 3)


def tiff(pixels=PIXELS, **options):
    return lambda path: tifffile.imwrite(path, pixels, photometric="rgb", **options)


KINDS = {
    "tiles.tif": (tiff(tile=(16, 16), compression="zlib"), "direct"),
    "strips.tif": (tiff(rowsperstrip=16, compression="zlib"), "direct"),
    "planes.tif": (
        tiff(PIXELS.transpose(2, 0, 1), planarconfig="separate", compression="zlib"),
        "tifffile Zarr store",
    ),
    "raw.tif": (tiff(), "memory map"),
    "a.ome.zarr": (lambda path: ds.write(ds.from_dask(PIXELS), path), "Zarr"),
    "a.bmp": (lambda path: Image.fromarray(PIXELS).save(path), "Pillow"),
    "a.jp2": (lambda path: Image.fromarray(PIXELS).save(path), "imagecodecs"),
}


@pytest.mark.parametrize("name", KINDS)
def test_properties_name_the_reader(tmp_path, name):
    write, reader = KINDS[name]
    write(tmp_path / name)
    slide = ds.open_slide(tmp_path / name)
    assert slide.properties["reader"] == reader
    np.testing.assert_array_equal(slide.read(0, 0, 64, 48), PIXELS)


def test_a_reader_can_be_forced(tmp_path):
    tiff()(tmp_path / "a.vsi")  # which is otherwise taken for the previews of a slide
    slide = ds.open_slide(tmp_path / "a.vsi", reader="tiff")
    np.testing.assert_array_equal(slide.read(0, 0, 64, 48), PIXELS)
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"ome-zarr, npy, tiff,.* image"
    ) as raised:
        ds.open_slide(tmp_path / "a.vsi", reader="vips")
    assert "'vips' is not known" in one_line(raised)


def test_a_reader_of_files_reads_no_folder(tmp_path):
    for name in ("tiff", "image", "openslide", "czi"):
        with pytest.raises(ds.errors.SlideUnsupportedError, match="is a folder") as raised:
            ds.open_slide(tmp_path, reader=name)
        assert one_line(raised)


def test_readers_of_local_files_refuse_addresses(monkeypatch):
    monkeypatch.setattr(registry, "_first_bytes_remote", lambda url: b"\xff\xd8\xff")
    for options in ({}, {"reader": "openslide"}):
        with pytest.raises(ds.errors.SlideUnsupportedError, match="download it first") as raised:
            ds.open_slide("https://example.org/a.mrxs", **options)
        assert one_line(raised)


def test_the_command_line_forces_a_reader(tmp_path):
    tiff()(tmp_path / "a.vsi")
    command = ["info", str(tmp_path / "a.vsi"), "--json"]
    assert "_a_ next to it" in CliRunner().invoke(main, command).output
    done = CliRunner().invoke(main, [*command, "--reader", "tiff"])
    assert done.exit_code == 0 and json.loads(done.output)["properties"]["reader"] == "memory map"


def test_missing_packages_are_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for name, first, cure in MISSING:
        path = tmp_path / name
        path.write_bytes(first)
        with pytest.raises(ds.errors.SlideUnsupportedError) as raised:
            ds.open_slide(path)
        assert cure in one_line(raised) and str(path) in one_line(raised)
    folder = tmp_path / "slide"
    folder.mkdir()
    (folder / "1").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ds.errors.SlideUnsupportedError, match=r"is DICOM; pip .*\[dicom\]"):
        ds.open_slide(folder)
    with pytest.raises(ImportError, match=r"needs openslide; pip install 'dask-slides\[openslide"):
        ds.open_slide(path, reader="openslide")


MISSING = [
    ("a.mrxs", b"\xff\xd8\xff", "pip install 'dask-slides[openslide]'"),
    ("a.vms", b"[Virtual Microscope Specimen]", "pip install 'dask-slides[openslide]'"),
    ("a.svslide", b"SQLite", "pip install 'dask-slides[openslide]'"),
    ("a.dcm", bytes(128) + b"DICM", "pip install 'dask-slides[dicom]', or pip install"),
    ("b", bytes(128) + b"DICM", "pip install 'dask-slides[dicom]'"),
    ("a.czi", b"ZISRAWFILE", "pip install 'dask-slides[czi]', or pip install"),
    ("c", b"ZISRAWFILE", "pip install 'dask-slides[czi]'"),
]

MODULE = """
import numpy as np
from dask_slides.core.source import Level, Opened, Source
from dask_slides.readers.registry import Reader
from dataclasses import dataclass

@dataclass(frozen=True)
class Rows(Source):
    path: str
    levels: tuple = (Level((40, 30), (1.0, 1.0), (8, 30)),)
    channels: int = 1
    dtype: np.dtype = np.dtype("uint8")
    name = "rows"

    def read(self, level, region):
        return np.repeat(np.arange(region.y, region.stop_y, dtype="uint8")[:, None, None],
                         region.width, axis=1)

def open_rows(path, fill, limits, choice):
    return Opened(Rows(path), (2.0, 2.0), {"reader": "rows"})

rows = Reader("rows", open_rows, "rows", (".rows", ".lif", ".svs"))
"""


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """Put a package with the entry point `rows` on the path of this test."""

    def install(module=MODULE):
        folder = tmp_path / "packages"
        info = folder / "slide_rows-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "slide_rows.py").write_text(module)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slide-rows\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[dask_slides.readers]\nrows = slide_rows:rows\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        registry.of_other_packages.cache_clear()

    yield install
    registry.of_other_packages.cache_clear()
    sys.modules.pop("slide_rows", None)


def test_a_package_adds_a_reader(tmp_path, other_package):
    other_package()
    expected = np.repeat(np.arange(40, dtype="uint8")[:, None, None], 30, axis=1)
    for name in ("a.rows", "a.lif"):  # the second is otherwise refused
        (tmp_path / name).write_bytes(b"?")
        slide = ds.open_slide(tmp_path / name)
        assert slide.mpp == 2 and slide.properties["reader"] == "rows"
        check_reader(slide, expected)
    tiff()(tmp_path / "a.svs")  # the formats of dask_slides stay with it
    assert ds.open_slide(tmp_path / "a.svs").properties["reader"] == "memory map"
    assert ds.open_slide(tmp_path / "a.svs", reader="rows").properties["reader"] == "rows"


def test_a_broken_package_is_left_out(tmp_path, other_package):
    other_package("raise RuntimeError('no licence')")
    (tmp_path / "a.lif").write_bytes(b"?")
    with (
        pytest.warns(ReaderWarning, match=r"rows of slide_rows:rows is left out \(no licence\)"),
        pytest.raises(ds.errors.SlideUnsupportedError, match="bioformats2raw"),
    ):
        ds.open_slide(tmp_path / "a.lif")
