"""The reader of a file, and the property that names it."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from rw_fixtures import noise

import dask_slides as ds

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
