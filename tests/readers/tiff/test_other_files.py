"""Other files that a TIFF names are not opened, and images that need them are refused."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from ome_files import SHAPE, image_of, planes_of, uuid_of, xml_of
from rw_fixtures import noise, one_line

import dask_slides as ds

WATCHED = """
import os, sys
found = []
sys.addaudithook(lambda event, args: found.append(args[0]) if event == "open" else None)
import dask_slides as ds
try:
    slide = ds.open_slide(sys.argv[1])
    slide.read(0, 0, *slide.shape[:2])
except ds.SlideError:
    pass
for one in found:
    if isinstance(one, (str, bytes)):
        print(os.path.realpath(os.fsdecode(one)))
"""


def opened_files(path):
    """Return every file that a subprocess opens to read the slide."""
    command = [sys.executable, "-c", WATCHED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def write(path, xml, count=1):
    with tifffile.TiffWriter(path) as tiff:
        for number, plane in enumerate(planes_of(count)):
            description = None if number else xml
            tiff.write(plane, description=description, photometric="minisblack", metadata=None)
    return path


def refused(path):
    with pytest.raises(ds.errors.SlideUnsupportedError, match="bioformats2raw") as error:
        ds.open_slide(path)
    message = one_line(error)
    assert "from_dask" in message
    return message


@pytest.mark.parametrize("name", ["../secret.tif", "{folder}/secret.tif", "link.tif", "A.OME.TIF"])
@pytest.mark.parametrize("own", [uuid_of(0), None], ids=["own UUID", "no UUID"])
def test_no_other_file_is_opened(tmp_path, name, own):
    secret = tmp_path / "secret.tif"
    tifffile.imwrite(secret, noise(*SHAPE))
    folder = tmp_path / "slides"
    folder.mkdir()
    os.symlink(secret, folder / "link.tif")
    os.symlink(secret, folder / "A.OME.TIF")
    name = name.format(folder=tmp_path)
    planes = [(0, "a.ome.tif", uuid_of(0)), (0, name, uuid_of(1))]
    path = write(folder / "a.ome.tif", xml_of(image_of(planes), own=own))
    assert repr(name) in refused(path)
    files = opened_files(path)
    assert str(path) in files
    assert str(secret) not in files


def test_metadata_in_another_file_are_refused(tmp_path):
    xml = '<OME><BinaryOnly MetadataFile="a.ome.tif" UUID="urn:uuid:0"/></OME>'
    refused(write(tmp_path / "b.ome.tif", xml))


def test_an_image_beside_one_of_other_files_is_refused(tmp_path):
    label = image_of([(0, "a.ome.tif", uuid_of(0))])
    split = image_of([(1, "a.ome.tif", uuid_of(0)), (0, "b.ome.tif", uuid_of(1))])
    refused(write(tmp_path / "a.ome.tif", xml_of(label, split, own=uuid_of(0)), 2))


@pytest.mark.parametrize("name", ["a.ome.tif", "renamed.ome.tif"])
@pytest.mark.parametrize("own", [uuid_of(0), None], ids=["own UUID", "no UUID"])
def test_planes_that_are_all_in_the_file_are_read(tmp_path, name, own):
    planes = [(ifd, "a.ome.tif", uuid_of(0)) for ifd in range(3)]
    path = write(tmp_path / name, xml_of(image_of(planes), own=own), 3)
    slide = ds.open_slide(path, axes=None if own or name == "a.ome.tif" else "CYX")
    np.testing.assert_array_equal(slide.data.compute(), planes_of().transpose(1, 2, 0))
    assert slide.mpp == 0.5


def test_a_plane_whose_page_is_missing_is_refused(tmp_path):
    path = write(tmp_path / "a.ome.tif", xml_of(image_of([(0, "", ""), (1, "", "")])))
    with pytest.raises(ds.errors.SlideFormatError, match="lacks a page") as error:
        ds.open_slide(path)
    one_line(error)


def test_images_in_other_files_are_ignored(tmp_path):
    wells = [image_of([(0, f"{n}.ome.tif", uuid_of(n))]) for n in range(3)]
    slide = ds.open_slide(write(tmp_path / "1.ome.tif", xml_of(*wells, own=uuid_of(1))))
    np.testing.assert_array_equal(slide.data.compute(), planes_of(1).transpose(1, 2, 0))
    assert slide.mpp == 0.5


def ndtiff(path, plane):
    """Write a TIFF whose tags refer to an index of planes in its folder."""
    summary = b"{}"
    head = struct.pack("<IIII", 483729, 2, 2355492, len(summary)) + summary
    first = 8 + len(head)
    text = b"{}".ljust(16)
    height, width = plane.shape
    data = first + 2 + 11 * 12 + 4
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 8), (259, 3, 1, 1),
               (262, 3, 1, 1), (273, 4, 1, data), (277, 3, 1, 1), (278, 3, 1, height),
               (279, 4, 1, plane.nbytes), (339, 3, 1, 1),
               (51123, 2, len(text), data + plane.nbytes)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *entry) for entry in entries
    )
    header = struct.pack("<2sHI", b"II", 42, first)
    path.write_bytes(header + head + directory + bytes(4) + plane.tobytes() + text)


def test_the_index_of_an_ndtiff_is_not_followed(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    plane = noise(32, 48)
    path = folder / "a.tif"
    ndtiff(path, plane)
    tifffile.imwrite(tmp_path / "secret.tif", noise(32, 48, seed=1), photometric="minisblack")
    axes, name = json.dumps({"channel": 0}).encode(), b"../secret.tif"
    (folder / "NDTiff.index").write_bytes(
        struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name
        + struct.pack("<IiiiiIii", 8, 48, 32, 0, 0, 0, 0, 0)
    )  # fmt: skip
    with tifffile.TiffFile(path, _multifile=False) as tiff:  # tifffile does follow it
        assert tiff.is_ndtiff
        assert tiff.series[0].keyframe.parent.filename == "secret.tif"
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(), plane[..., None])
    files = opened_files(path)
    assert str(path) in files
    assert not [one for one in files if one.endswith(("secret.tif", "NDTiff.index"))]
