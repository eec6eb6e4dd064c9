"""All stores of one slide have the same world coordinates, so that viewers overlay them."""

import numpy as np
import pytest
import tifffile
import zarr

import dask_slides as ds

SQUARE = (128, 192), (256, 384)
"""Rows and columns of the slide that are dark."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pixels = np.full((512, 640, 3), 240, np.uint8)
    rows, columns = SQUARE
    pixels[slice(*rows), slice(*columns)] = 10
    pixels[rows[0] : rows[1] : 2, slice(*columns)] = 60
    path = tmp_path_factory.mktemp("overlay") / "square.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="zlib")
    return path


def extents(group, attributes):
    """Yield where each level of an image has its dark, or marked, square: (y0, y1), (x0, x1)."""
    (multiscale,) = attributes["multiscales"]
    axes = [axis["name"] for axis in multiscale["axes"]]
    for dataset in multiscale["datasets"]:
        pixels = group[dataset["path"]][...]
        steps = {step["type"]: step[step["type"]] for step in dataset["coordinateTransformations"]}
        marks = pixels > 0 if "c" not in axes or len(pixels) == 1 else (pixels < 150).all(axis=0)
        marks = marks.reshape(marks.shape[-2:])
        found = []
        for name, other in (("y", 1), ("x", 0)):
            at = np.flatnonzero(marks.any(axis=other))
            scale, shift = (steps[kind][axes.index(name)] for kind in ("scale", "translation"))
            found.append((shift + scale * (at[0] - 0.5), shift + scale * (at[-1] + 0.5)))
        yield tuple(found)


def made(path, mpp, name):
    slide = ds.open_slide(path, mpp=mpp)
    tissue = ds.blank_map(slide, tile_size=64)
    return {
        "slide": lambda: slide,
        "resized": lambda: ds.resize(slide, downsample=4, kernel="area"),
        "resized twice": lambda: ds.resize(ds.resize(slide, downsample=2), downsample=4),
        "mask": lambda: tissue,
        "mask of a resized slide": lambda: ds.blank_map(
            ds.resize(slide, downsample=4), tile_size=16
        ),
        "cut": lambda: ds.cutoff_resize(slide, downsample=1, tile_size=64),
        "cut and resized": lambda: ds.cutoff_resize(
            slide, downsample=4, kernel="area", blank_map=tissue
        ),
    }[name]()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("mpp", [None, (0.25, 0.5)])
@pytest.mark.parametrize(
    "name",
    ["slide", "resized", "resized twice", "mask", "mask of a resized slide", "cut",
     "cut and resized"],
)  # fmt: skip
def test_the_square_has_the_same_coordinates_in_all_stores(path, tmp_path, mpp, version, name):
    out = ds.write(made(path, mpp, name), tmp_path / "x.ome.zarr", ome_zarr=version)
    pixel = mpp or (1.0, 1.0)
    # centres of pixels are whole, so edges lie half a pixel before
    expected = [
        tuple((edge - 0.5) * size for edge in edges)
        for edges, size in zip(SQUARE, pixel, strict=True)
    ]
    group = zarr.open_group(out, mode="r")
    images = {"": group} | ({"label": group["labels/tissue"]} if "labels" in group else {})
    for image in images.values():
        attributes = image.attrs.asdict()
        attributes = attributes.get("ome", attributes)
        units = {axis.get("unit") for axis in attributes["multiscales"][0]["axes"]} - {None}
        assert units == ({"micrometer"} if mpp else set())
        levels = list(extents(image, attributes))
        for found in levels[: 1 if name == "resized twice" else 4]:
            scale = 2 * max(pixel) if name == "resized twice" else 1e-9
            np.testing.assert_allclose(found, expected, atol=scale)
