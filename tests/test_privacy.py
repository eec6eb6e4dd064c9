"""Outputs contain no labels, macros, names or other files, and text of files is escaped."""

import json
import pickle

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

import dask_slides as ds
from dask_slides.cli import main

LABEL, MACRO = (250, 3, 111), (5, 247, 99)
"""Colours that do not occur in tissue."""
NAME = "Doe^Jane^1949-03-01"
BARCODE = "AC-4711-XYZ"
APERIO = "Aperio Image Library v11.2.1\n"


@pytest.fixture
def slide(tmp_path):
    """Write an SVS with label and macro, and a patient's name in its description."""
    path = tmp_path / "in" / "a.svs"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    tissue = rng.integers(90, 200, (300, 400, 3), dtype=np.uint8)
    text = f"{APERIO}400x300 |AppMag = 20|MPP = 0.5|User = {NAME}|Barcode = {BARCODE}"
    options = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(tissue, tile=(64, 64), description=text, compression="zlib", **options)
        small = tissue[::4, ::4].copy()
        writer.write(small, description=f"{APERIO}400x300 -> 100x75", **options)
        for name, colour, kind in (("label", LABEL, 1), ("macro", MACRO, 9)):
            other = np.full((120, 100, 3), colour, np.uint8)
            text = f"{APERIO}{name} 100x120"
            writer.write(other, description=text, subfiletype=kind, **options)
    return path


def colours(array):
    return set(map(tuple, np.unique(np.asarray(array).reshape(-1, 3), axis=0).tolist()))


def test_no_output_holds_label_macro_or_names(tmp_path, slide, sync):
    with tifffile.TiffFile(slide) as tiff:
        assert {series.name for series in tiff.series} >= {"Baseline", "Label", "Macro"}
    opened = ds.open_slide(slide)
    assert opened.shape == (300, 400, 3)
    out, any_tile = tmp_path / "out", ds.Contrast(0)
    out.mkdir()
    blank = ds.blank_map(opened, tile_size=50, detector=any_tile)
    cut = ds.cutoff_resize(opened, max_size=99, blank_map=blank)
    ds.write(blank, out / "map.ome.zarr")
    images = [
        ds.write(ds.resize(opened, downsample=2), out / "a.ome.zarr"),
        ds.write(cut, out / "c.ome.zarr"),
        ds.export(cut, out / "c.ome.tif"),
        ds.export(opened, out / "p.ome.tif", codec="zstd", pyramid="pages"),
    ]
    packs = [
        ds.write(ds.pack_tiles(opened, tile_size=50, detector=any_tile), out / "a.tiles.zarr"),
        ds.write(ds.random_crops(opened, n=5, size=32, detector=any_tile), out / "b.tiles.zarr"),
    ]
    every = {step: {"detector": any_tile} for step in ("mask", "cutoff", "pack")}
    every["pack"]["tile_size"] = 50
    ds.run_cohort(slide, job=out / "job", steps=every)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 20
    for file in files:
        for secret in (NAME, BARCODE, "label 100x120", "macro 100x120"):
            assert secret.encode() not in file.read_bytes(), (file, secret)
    for path in images:
        assert not colours(ds.open_slide(path).data.compute()) & {LABEL, MACRO}
    pictures = list((out / "job").rglob("*.png"))
    assert len(pictures) == 3
    for path in pictures:
        with Image.open(path) as picture:
            assert not colours(picture.convert("RGB")) & {LABEL, MACRO}
    for path in packs:
        assert not colours(ds.open_pack(path).tiles.compute()) & {LABEL, MACRO}


def test_a_store_holds_no_path(tmp_path, slide, sync):
    tiles = {"tile_size": 50, "detector": ds.Contrast(0)}
    ds.run_cohort(slide, job=tmp_path / "job", steps={"mask": {}, "pack": tiles})
    for file in (tmp_path / "job" / "a").rglob("*"):
        assert not file.is_file() or str(slide.parent).encode() not in file.read_bytes(), file


def test_a_label_that_is_the_largest_image_is_not_opened(tmp_path):
    path = tmp_path / "a.svs"
    options = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        tissue = np.full((64, 64, 3), 150, np.uint8)
        text = f"{APERIO}64x64 |AppMag = 20"
        writer.write(tissue, tile=(32, 32), description=text, **options)
        label = np.full((200, 200, 3), LABEL, np.uint8)
        writer.write(label, description=f"{APERIO}label 200x200", subfiletype=1, **options)
    assert ds.open_slide(path).shape == (64, 64, 3)


HOSTILE = "<img src=x onerror=alert(1)>&\"'"


def test_html_is_escaped(tmp_path, slide, sync):
    path = tmp_path / f"{HOSTILE.replace('/', '')}.svs"
    path.write_bytes(slide.read_bytes().replace(NAME.encode(), b"<script>" + b"x" * 11))
    opened = ds.open_slide(path)
    for obj in (opened, ds.blank_map(opened, tile_size=50).compute(),
                 ds.pack_tiles(opened, tile_size=50, detector=ds.Contrast(0)),
                 ds.cutoff_resize(opened, max_size=100, detector=ds.Contrast(0))):  # fmt: skip
        html = obj._repr_html_() if hasattr(obj, "_repr_html_") else ""
        assert "<img src=x" not in html and "<script>" not in html
    assert "&lt;script&gt;" in opened._repr_html_()
    assert "&lt;img src=x onerror=alert(1)&gt;" in opened._repr_html_()


def altered_store(tmp_path, change):
    """Write an image, change its attribute `dask_slides`, and return its path."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="rgb")
    path = ds.write(ds.open_slide(tmp_path / "b.tif"), tmp_path / "b.ome.zarr")
    root = tmp_path / "b.ome.zarr" / "zarr.json"
    document = json.loads(root.read_text())
    change(document["attributes"]["dask_slides"])
    root.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    "manifest", ["../secret.json", "/etc/passwd", "0/../../secret.json", "..", ""]
)
def test_a_store_cannot_name_files_outside(tmp_path, manifest, monkeypatch):
    (tmp_path / "secret.json").write_text('{"files": []}')
    path = altered_store(tmp_path, lambda attribute: attribute["manifest"].update(path=manifest))
    result = CliRunner().invoke(main, ["info", str(path)])
    assert result.exit_code == 1
    assert "manifest" in result.stderr
    opened = []
    real = open

    def watched(name, *args, **options):
        opened.append(str(name))
        return real(name, *args, **options)

    monkeypatch.setattr("builtins.open", watched)
    with pytest.raises(ds.errors.StoreDamagedError):
        ds.verify(path)
    assert not [name for name in opened if "secret" in name or "passwd" in name]


COMMAND = "\x1b[2J\x07\u202e\nimage"
"""Characters that clear a terminal, ring its bell, reverse text and end a line."""


def test_info_prints_no_control_characters_of_a_store(tmp_path):
    bad = {"level": 0, "y": 0, "x": 0, "height": 8, "width": 8, "status": "corrupt"}
    path = altered_store(
        tmp_path, lambda attribute: attribute.update(
            kind=COMMAND, bad_tiles=[bad | {"reason": COMMAND}]
        )
    )  # fmt: skip
    shown = CliRunner().invoke(main, ["info", str(path)]).stdout
    assert "image, shards: " in shown and "corrupt (" in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_errors_show_no_control_characters_of_a_path(tmp_path):
    path = tmp_path / f"{COMMAND}.tif"
    with pytest.raises(ds.errors.SlideNotFoundError):
        ds.open_slide(path)
    path.write_bytes(b"II*\0nothing")
    with pytest.raises(ds.errors.SlideFormatError) as raised:
        ds.open_slide(path)
    assert str(raised.value).isprintable()
    assert r"\x1b[2J\x07\u202e\nimage.tif" in str(raised.value)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.args) == (str(raised.value), raised.value.args)
