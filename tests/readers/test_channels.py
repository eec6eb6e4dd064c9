"""Names, colours and windows of channels are read from each format, and written."""

import json
import logging

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from rw_fixtures import noise

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.core.channels import Channel

STACK = noise(3, 256, 256, dtype="uint16")
RGB = [Channel("red", "FF0000"), Channel("green", "00FF00"), Channel("blue", "0000FF")]


def channels_of(path, **options):
    return list(ds.open_slide(path, **options).channels)


def omero_of(path):
    return zarr.open_group(path, mode="r").attrs["ome"]["omero"]


# ---------------------------------------------------------------- OME-TIFF


def signed(rgb, alpha=255):
    value = int(f"{rgb}{alpha:02X}", 16)
    return value - 2**32 if value >= 2**31 else value


def ome(path, names, colors):
    """Write STACK as OME-TIFF; None leaves an attribute out."""
    channels = "".join(
        f'<Channel ID="Channel:0:{n}" SamplesPerPixel="1"'
        + (f' Name="{name}"' if name is not None else "")
        + (f' Color="{color}"' if color is not None else "")
        + "/>"
        for n, (name, color) in enumerate(zip(names, colors, strict=True))
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="256" SizeY="256" '
        f'SizeC="3" SizeZ="1" SizeT="1">{channels}<TiffData IFD="0" PlaneCount="3"/></Pixels>'
        "</Image></OME>"
    )
    with tifffile.TiffWriter(path) as tiff:
        for number, plane in enumerate(STACK):
            description = text.encode() if number == 0 else None
            tiff.write(plane, description=description, metadata=None, tile=(64, 64))
    return path


def test_names_and_colours_of_ome_tiff(tmp_path):
    colors = [signed("0000FF"), signed("FF8000"), signed("12AB00", alpha=0)]
    path = ome(tmp_path / "a.ome.tif", ["DAPI", " CD8 &amp; CD4 ", "PD-L1"], colors)
    expected = [Channel("DAPI", "0000FF"), Channel("CD8 & CD4", "FF8000"),
                Channel("PD-L1", "12AB00")]  # fmt: skip
    assert channels_of(path) == expected


def test_channels_without_a_name_are_numbered(tmp_path):
    path = ome(tmp_path / "a.ome.tif", [None, "", "c"], [None, "blue", 2**32 - 1])
    assert channels_of(path) == [Channel("0"), Channel("1"), Channel("c", "FFFFFF")]


def test_channels_written_by_tifffile(tmp_path):
    path = tmp_path / "a.ome.tif"
    metadata = {"Name": ["a", "b", "c"], "Color": [signed("FF0000"), signed("00FF00"), 255]}
    stack = np.stack([STACK, STACK])  # of each channel two planes
    tifffile.imwrite(path, stack, metadata={"axes": "ZCYX", "Channel": metadata}, ome=True)
    expected = [Channel("a", "FF0000"), Channel("b", "00FF00"), Channel("c", "000000")]
    assert channels_of(path, z=1) == expected


def test_each_image_has_its_own_channels(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name in "ab":
            metadata = {"Name": [f"{name}{n}" for n in range(3)]}
            tiff.write(STACK, metadata={"axes": "CYX", "Name": name, "Channel": metadata})
    for number, name in enumerate("ab"):
        found = [one.name for one in channels_of(path, image=number)]
        assert found == [f"{name}{n}" for n in range(3)]


# ---------------------------------------------------------------- QPTIFF, ImageJ


def qpi(path, pages, bright=False):
    """Write a QPTIFF; `pages` hold the XML of each channel."""
    head = "<PerkinElmer-QPI-ImageDescription><ImageType>FullResolution</ImageType>{}"
    texts = [f"{head.format(page)}</PerkinElmer-QPI-ImageDescription>" for page in pages]
    options = {"metadata": None, "tile": (64, 64), "software": "PerkinElmer-QPI"}
    with tifffile.TiffWriter(path) as tiff:
        if bright:
            image = noise(256, 256, 3)
            tiff.write(image, description=texts[0], photometric="rgb", **options)
        else:
            for plane, text in zip(STACK, texts, strict=True):
                xml = f'<?xml version="1.0" encoding="utf-16"?>{text}'
                tiff.write(plane, description=xml, **options)
        tiff.write(noise(50, 50, 3), photometric="rgb", metadata=None, description="thumbnail")
    return path


def test_names_and_colours_of_qptiff(tmp_path):
    pages = [
        "<Name>DAPI</Name><Biomarker>nuclei</Biomarker><Color>0,0,255</Color>",
        "<Biomarker>CD8</Biomarker><Color> 255, 128 ,1 </Color>",
        "<Color>300,0,0</Color><Name></Name>",
    ]
    path = qpi(tmp_path / "a.qptiff", pages)
    assert "qpi" in ds.open_slide(path).properties["format"]
    expected = [Channel("DAPI", "0000FF"), Channel("CD8", "FF8001"), Channel("2")]
    assert channels_of(path) == expected
    assert channels_of(path, image="Thumbnail") == RGB


def test_qptiff_in_colour_and_qptiff_of_broken_xml(tmp_path):
    path = qpi(tmp_path / "a.qptiff", ["<Name>bright</Name>"], bright=True)
    assert channels_of(path) == RGB
    path = qpi(tmp_path / "b.qptiff", ["<Name>a</Name>", "<Name>b", "<Name>c</Name>"])
    assert [one.name for one in channels_of(path)] == ["a", "1", "c"]


def test_colours_and_windows_of_imagej(tmp_path):
    path = tmp_path / "a.tif"
    ramp = np.arange(256, dtype=np.uint8)
    none = np.zeros(256, np.uint8)
    tables = [np.stack(one) for one in ([none, none, ramp], [ramp, ramp // 2, none], [none] * 3)]
    metadata = {"axes": "CYX", "mode": "composite", "LUTs": tables, "Labels": ["x", "y", "z"],
            "Ranges": (10.0, 500.0, 0.0, 900.0, 7.0, 7.0)}  # fmt: skip
    tifffile.imwrite(path, STACK, imagej=True, metadata=metadata)
    expected = [Channel("x", "0000FF", (10.0, 500.0)), Channel("y", "FF7F00", (0.0, 900.0)),
                Channel("z")]  # fmt: skip
    assert channels_of(path) == expected
    tifffile.imwrite(path, STACK[0], imagej=True, metadata={"min": 20.0, "max": 4000.0})
    assert channels_of(path) == [Channel("0", None, (20.0, 4000.0))]
    metadata = {"min": "low", "LUTs": 3, "Ranges": 5, "Labels": 7}
    text = "ImageJ=1.53t\n" + "".join(f"{key}={value}\n" for key, value in metadata.items())
    tifffile.imwrite(path, STACK[0], description=text, metadata=None)
    assert channels_of(path) == [Channel("0")]


def test_one_window_of_imagej_is_that_of_all_channels(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "CYX", "min": 5, "max": 900})
    assert [one.window for one in channels_of(path)] == [(5.0, 900.0)] * 3


def test_labels_of_imagej_planes_name_channels_if_all_planes_agree(tmp_path):
    path = tmp_path / "a.tif"
    stack = np.stack([STACK, STACK])
    for labels, expected in (
        (["DAPI", "CD3", "CD8"] * 2, ["DAPI", "CD3", "CD8"]),
        (["DAPI", "a", "b", "DAPI", "c", "d"], ["DAPI", "1", "2"]),
        (["DAPI", "CD3"], ["DAPI", "CD3", "2"]),
    ):
        tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZCYX", "Labels": labels})
        assert [one.name for one in channels_of(path)] == expected
        chosen = ds.open_slide(path, z=1, channels=[expected[2], "DAPI"])
        np.testing.assert_array_equal(np.asarray(chosen), STACK[[2, 0]].transpose(1, 2, 0))


def test_stains_of_8_bits_are_no_colour_image(tmp_path):
    metadata = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}
    stack = noise(3, 256, 256)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, metadata=metadata)
    slide = ds.open_slide(tmp_path / "a.ome.tif")
    again = ds.open_slide(ds.write(slide, tmp_path / "a.ome.zarr"))
    assert slide.source.fill == again.source.fill == 0
    colour = ds.write(ds.from_dask(stack.transpose(1, 2, 0)), tmp_path / "b.ome.zarr")
    assert ds.open_slide(colour).source.fill == 255


def test_default_channels(tmp_path):
    assert list(ds.from_dask(noise(30, 30, 3)).channels) == RGB
    assert list(ds.from_dask(noise(30, 30)).channels) == [Channel("0")]
    assert [one.name for one in ds.from_dask(noise(30, 30, 5)).channels] == list("01234")
    path = tmp_path / "a.tif"
    for pixels, options in [
        (noise(30, 30, 3), {"photometric": "rgb"}),
        (noise(30, 30, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (noise(30, 30), {"photometric": "palette", "colormap": noise(3, 256, dtype="uint16")}),
    ]:
        tifffile.imwrite(path, pixels, **options)
        assert channels_of(path) == RGB
    tifffile.imwrite(path, noise(3, 30, 30), photometric="minisblack")
    assert channels_of(path, axes="CYX") == [Channel(str(n)) for n in range(3)]


# ---------------------------------------------------------------- writing


def test_channels_are_written_and_read_again(tmp_path):
    pixels, glass = np.array(STACK), 60_000
    pixels[:, :64] = glass
    path = tmp_path / "a.tif"
    ranges = (0.0, 500.0, 100.0, 70_000.0, 5.0, 9.0)
    metadata = {"axes": "CYX", "mode": "composite", "Ranges": ranges, "Labels": ["x", "y", "z"]}
    tifffile.imwrite(path, pixels, imagej=True, metadata=metadata)
    slide = ds.open_slide(path)
    expected = [Channel("x", None, (0.0, 500.0)), Channel("y", None, (100.0, 70_000.0)),
                Channel("z", None, (5.0, 9.0))]  # fmt: skip
    cut = ds.cutoff_resize(slide, downsample=2, tile_size=64, detector=ds.Contrast(0.05))
    assert cut.image.shape == (96, 128, 3)
    for image, cutoff in ((ds.resize(slide, downsample=2), None), (cut.image, cut)):
        assert list(image.channels) == expected
        out = ds.write(cutoff or image, tmp_path / "a.ome.zarr", overwrite=True)
        shown = omero_of(out)["channels"]
        assert [one["label"] for one in shown] == ["x", "y", "z"]
        assert [(one["window"]["start"], one["window"]["end"]) for one in shown] == [
            (0.0, 500.0), (100.0, 70_000.0), (5.0, 9.0)
        ]  # fmt: skip
        assert [one["window"]["max"] for one in shown] == [65535.0, 70_000.0, 65535.0]
        again = ds.open_slide(out).channels
        assert [(one.name, one.window) for one in again] == [
            (one.name, one.window) for one in expected
        ]
        assert [one.color for one in again] == [one["color"] for one in shown]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "int16"])
def test_a_channel_without_a_window_is_written_with_that_of_its_pixels(tmp_path, dtype, version):
    rng = np.random.default_rng(0)
    pixels = rng.gamma(2, [50, 900], (1300, 1100, 2)).astype(dtype)
    path = ds.write(ds.from_dask(pixels), tmp_path / "a.ome.zarr", ome_zarr=version)
    group = zarr.open_group(path, mode="r")
    small = group["2"][...].reshape(2, -1)
    attributes = dict(group.attrs)
    shown = attributes.get("ome", attributes)["omero"]["channels"]
    windows = [(one["window"]["start"], one["window"]["end"]) for one in shown]
    atol = 0.1 if dtype == "float32" else 1
    for values, window in zip(small, windows, strict=True):
        assert np.allclose(window, np.percentile(values, (1, 99.8)), atol=atol)
    assert [one.window for one in channels_of(path)] == windows


def test_eight_bits_and_colours_are_written_with_all_values(tmp_path):
    for pixels, top in ((noise(300, 300, 2), 255.0), (noise(300, 300, 3, dtype="uint16"), 65535.0)):
        shown = omero_of(ds.write(ds.from_dask(pixels), tmp_path / "a.ome.zarr", overwrite=True))
        for one in shown["channels"]:
            assert (one["window"]["start"], one["window"]["end"]) == (0.0, top)


def test_a_colour_of_one_channel_is_written(tmp_path):
    path = tmp_path / "a.ome.tif"
    metadata = {"Name": ["DAPI"], "Color": [signed("0000FF")]}
    tifffile.imwrite(path, STACK[0], metadata={"axes": "YX", "Channel": metadata})
    omero = omero_of(ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr"))
    assert (omero["channels"][0]["label"], omero["channels"][0]["color"]) == ("DAPI", "0000FF")
    assert omero["rdefs"]["model"] == "color"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_omero_of_a_store(tmp_path, version):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=STACK)
    described = [
        {"label": "DAPI", "color": "0000ff", "window": {"start": 1, "end": 9, "min": 0, "max": 9}},
        {"label": 5, "color": "blue", "window": {"start": 9, "end": 1}},
        None,
    ]
    axes = [{"name": "c", "type": "channel"}, {"name": "y"}, {"name": "x"}]
    parts = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}], "version": version}],
             "omero": {"channels": described}}  # fmt: skip
    group.attrs.update(parts if version == "0.4" else {"ome": {"version": version, **parts}})
    path = tmp_path / "a.zarr"
    assert channels_of(path) == [Channel("DAPI", "0000FF", (1.0, 9.0)), Channel("1"), Channel("2")]
    for odd in ("none", {"channels": described[:2]}, {"channels": 3}, None):
        parts["omero"] = odd
        group.attrs.update(parts if version == "0.4" else {"ome": {"version": version, **parts}})
        assert channels_of(path) == RGB


def test_info_prints_names_in_the_file(tmp_path):
    path = ome(tmp_path / "a.ome.tif", ["DAPI", "CD8", "PD-L1"], [None] * 3)
    result = CliRunner().invoke(main, ["info", str(path)])
    assert "channels DAPI, CD8, PD-L1" in result.stdout
    result = CliRunner().invoke(main, ["info", str(path), "--json"])
    assert [one["name"] for one in json.loads(result.stdout)["channels"]] == [
        "DAPI",
        "CD8",
        "PD-L1",
    ]
    result = CliRunner().invoke(main, ["info", str(path), "--json", "--channels", "PD-L1, 0"])
    assert [one["name"] for one in json.loads(result.stdout)["channels"]] == ["PD-L1", "DAPI"]
    result = CliRunner().invoke(main, ["info", str(path), "--channels", "CD9"])
    assert result.exit_code == 2 and "0 'DAPI', 1 'CD8', 2 'PD-L1'" in result.stderr
    tifffile.imwrite(path, noise(30, 30, 3), photometric="rgb", ome=True)
    assert "channels" not in CliRunner().invoke(main, ["info", str(path)]).stdout


@pytest.fixture(autouse=True)
def quiet():
    """Silence the warnings of tifffile about unknown vendor tags."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tifffile").setLevel(logging.NOTSET)
