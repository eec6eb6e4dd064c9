"""What must not get out: label and macro, what the scanner knows of people, other files."""

import base64
import json
import os
import pickle

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import dask_slides as ds
from dask_slides.cli.main import main

LABEL, MACRO = (250, 3, 111), (5, 247, 99)
"""Colours that no tissue has."""
NAME = "Doe^Jane^1949-03-01"
BARCODE = "AC-4711-XYZ"


@pytest.fixture
def slide(tmp_path):
    """An SVS with label and macro, and a patient's name in its description."""
    path = tmp_path / "in" / "a.svs"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    tissue = rng.integers(90, 200, (300, 400, 3), dtype=np.uint8)
    header = "Aperio Image Library v11.2.1\n"
    text = header + f"400x300 |AppMag = 20|MPP = 0.5|User = {NAME}|Barcode = {BARCODE}"
    options = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(tissue, tile=(64, 64), description=text, compression="zlib", **options)
        small = tissue[::4, ::4].copy()
        writer.write(small, description=f"{header}400x300 -> 100x75", **options)
        for name, colour, kind in (("label", LABEL, 1), ("macro", MACRO, 9)):
            other = np.full((120, 100, 3), colour, np.uint8)
            text = f"{header}{name} 100x120"
            writer.write(other, description=text, subfiletype=kind, **options)
    return path


def bytes_below(folder):
    """Yield every file below `folder`."""
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as stream:
                yield os.path.join(place, name), stream.read()


def colours(array):
    return set(map(tuple, np.unique(np.asarray(array).reshape(-1, 3), axis=0).tolist()))


def test_no_output_holds_label_macro_or_names(tmp_path, slide, sync):
    with tifffile.TiffFile(slide) as tiff:
        assert {series.name for series in tiff.series} >= {"Baseline", "Label", "Macro"}
    opened = ds.open_slide(slide)
    assert opened.shape == (300, 400, 3)
    out = tmp_path / "out"
    out.mkdir()
    blank = ds.blank_map(opened, tile_size=50)
    written = {
        "image": ds.write(ds.resize(opened, downsample=2), out / "a.ome.zarr"),
        "map": ds.write(blank, out / "map.ome.zarr"),
        "cut": ds.write(ds.cutoff_resize(opened, max_size=99, blank_map=blank), out / "c.ome.zarr"),
        "pack": ds.write(ds.pack_tiles(opened, tile_size=50, detector=ds.Contrast(0)),
                         out / "a.tiles.zarr"),
        "crops": ds.write(ds.random_crops(opened, n=5, size=32, detector=ds.Contrast(0)),
                          out / "b.tiles.zarr"),
    }  # fmt: skip
    found = list(bytes_below(out))
    assert len(found) > 20
    for file, data in found:
        for secret in (NAME, BARCODE, "label 100x120", "macro 100x120"):
            assert secret.encode() not in data, (file, secret)
    for name in ("image", "cut"):
        pixels = ds.open_slide(written[name]).read(0, 0, *ds.open_slide(written[name]).shape[:2])
        assert not colours(pixels) & {LABEL, MACRO}
    for name in ("pack", "crops"):
        assert not colours(ds.open_pack(written[name]).tiles.compute()) & {LABEL, MACRO}


def test_the_largest_image_is_not_the_label_even_if_it_is(tmp_path):
    path = tmp_path / "a.svs"
    header = "Aperio Image Library v11.2.1\n"
    options = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        tissue = np.full((64, 64, 3), 150, np.uint8)
        text = header + "64x64 |AppMag = 20"
        writer.write(tissue, tile=(32, 32), description=text, **options)
        label = np.full((200, 200, 3), LABEL, np.uint8)
        writer.write(label, description=f"{header}label 200x200", subfiletype=1, **options)
    assert ds.open_slide(path).shape == (64, 64, 3)


HOSTILE = "<img src=x onerror=alert(1)>&\"'"


def test_html_is_escaped(tmp_path, slide, sync):
    path = tmp_path / f"{HOSTILE.replace('/', '')}.svs"
    path.write_bytes(slide.read_bytes().replace(NAME.encode(), b"<script>" + b"x" * 11))
    opened = ds.open_slide(path)
    for thing in (opened, ds.blank_map(opened, tile_size=50).compute(),
                  ds.pack_tiles(opened, tile_size=50, detector=ds.Contrast(0)),
                  ds.cutoff_resize(opened, max_size=100, detector=ds.Contrast(0))):  # fmt: skip
        html = thing._repr_html_() if hasattr(thing, "_repr_html_") else ""
        assert "<img src=x" not in html and "<script>" not in html
    assert "&lt;script&gt;" in opened._repr_html_()
    assert "&lt;img src=x onerror=alert(1)&gt;" in opened._repr_html_()


def test_html_loads_nothing_and_runs_nothing(slide, sync):
    html = ds.open_slide(slide)._repr_html_()
    assert "http" not in html and "<script" not in html
    for source in html.split("src='")[1:]:
        assert source.startswith("data:image/png;base64,")
        assert base64.b64decode(source.split(",")[1].split("'")[0])[:4] == b"\x89PNG"


def test_info_prints_no_control_characters(tmp_path, slide):
    data = slide.read_bytes().replace(NAME.encode(), b"\x1b]0;owned\x07\x1b[31m" + b"xxxx")
    path = tmp_path / "a.svs"
    path.write_bytes(data)
    result = CliRunner().invoke(main, ["info", str(path)])
    assert result.exit_code == 0, result.output
    assert "owned" in result.output
    assert "\x1b" not in result.output and "\x07" not in result.output


@pytest.mark.parametrize("where", ["/etc/hostname", "../in/secret.txt", "..", ""])
def test_a_store_cannot_have_other_files_read(tmp_path, slide, where, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "in" / "secret.txt").write_text("secret")
    path = ds.write(ds.resize(slide, downsample=4), out / "a.ome.zarr")
    root = os.path.join(path, "zarr.json")
    with open(root, encoding="utf-8") as stream:
        text = stream.read()
    with open(root, "w", encoding="utf-8") as stream:
        stream.write(text.replace("0/manifest.json", where))
    opened = []
    real = open

    def watched(name, *args, **options):
        opened.append(name)
        return real(name, *args, **options)

    monkeypatch.setattr("builtins.open", watched)
    with pytest.raises(ds.errors.StoreDamagedError):
        ds.verify(path)
    assert not [name for name in opened if "secret" in str(name) or "hostname" in str(name)]


def store_that_says(tmp_path, change):
    """Write an image, change its mark, and return it."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="rgb")
    path = ds.write(ds.open_slide(tmp_path / "b.tif"), tmp_path / "b.ome.zarr")
    root = tmp_path / "b.ome.zarr" / "zarr.json"
    document = json.loads(root.read_text())
    change(document["attributes"]["dask_slides"])
    root.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("place", ["../secret.json", "/etc/passwd", "0/../../secret.json"])
def test_a_store_does_not_name_files_elsewhere(tmp_path, place):
    (tmp_path / "secret.json").write_text('{"files": []}')
    path = store_that_says(tmp_path, lambda mark: mark["manifest"].update(path=place))
    result = CliRunner().invoke(main, ["info", str(path)])
    assert result.exit_code == 1
    assert "has no manifest that can be read" in result.stderr
    with pytest.raises(ds.errors.StoreDamagedError):
        ds.verify(path)


COMMAND = "\x1b[2J\x07\u202e\nimage"
"""Characters that clear a terminal, ring, turn what follows around, and end a line."""


def test_nothing_that_a_store_says_commands_a_terminal(tmp_path):
    bad = {"level": 0, "y": 0, "x": 0, "height": 8, "width": 8, "status": "corrupt"}
    path = store_that_says(
        tmp_path, lambda mark: mark.update(kind=COMMAND, bad_tiles=[bad | {"reason": COMMAND}])
    )  # fmt: skip
    told = CliRunner().invoke(main, ["info", str(path)]).stdout
    assert "image, shards: " in told and "corrupt (" in told
    assert all(line.isprintable() for line in told.split("\n"))


def test_no_path_commands_a_terminal_by_an_error(tmp_path):
    for error in (
        pytest.raises(ds.errors.SlideNotFoundError, match="No such file"),
        pytest.raises(ds.errors.SlideFormatError),
    ):
        with error as raised:
            ds.open_slide(tmp_path / f"{COMMAND}.tif")
        assert str(raised.value).isprintable()
        assert r"\x1b[2J\x07\u202e\nimage.tif" in str(raised.value)
        (tmp_path / f"{COMMAND}.tif").write_bytes(b"II*\0nothing")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.args) == (str(raised.value), raised.value.args)
