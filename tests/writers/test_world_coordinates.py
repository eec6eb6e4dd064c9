"""Stores made of one slide coincide in world coordinates."""

import numpy as np
import pytest
import tifffile
import zarr

import dask_slides as ds

SQUARE = (128, 192), (256, 384)
"""Rows and columns of a dark square in the slide."""


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
    """Yield the extent of the square along y and x in world coordinates, for each level."""
    (multiscale,) = attributes["multiscales"]
    axes = [axis["name"] for axis in multiscale["axes"]]
    for dataset in multiscale["datasets"]:
        pixels = group[dataset["path"]][...]
        steps = {step["type"]: step[step["type"]] for step in dataset["coordinateTransformations"]}
        label = "c" not in axes or len(pixels) == 1
        square = pixels > 0 if label else (pixels < 150).all(axis=0)
        square = square.reshape(square.shape[-2:])
        found = []
        for name, other in (("y", 1), ("x", 0)):
            at = np.flatnonzero(square.any(axis=other))
            scale, shift = (steps[kind][axes.index(name)] for kind in ("scale", "translation"))
            found.append((shift + scale * (at[0] - 0.5), shift + scale * (at[-1] + 0.5)))
        yield tuple(found)


def mask_of(slide):
    bright = (slide.data.compute() > 150).all(axis=2)
    return ds.blank_map(slide, tile_size=16).with_blank(bright[::16, ::16])


def result(slide, name, folder, version):
    """Return the result of an operation on `slide`, or on a store in `folder` made from it."""

    def stored(name):
        made = result(slide, name, folder, version)
        return ds.open_slide(ds.write(made, folder / "stored.ome.zarr", ome_zarr=version))

    glass = ds.Contrast(0.05)
    tissue = ds.blank_map(slide, tile_size=64, detector=glass)
    return {
        "slide": lambda: slide,
        "resized": lambda: ds.resize(slide, downsample=4, kernel="area"),
        "resized twice": lambda: ds.resize(ds.resize(slide, downsample=2), downsample=4),
        "mask": lambda: tissue,
        "mask of a resized slide": lambda: ds.blank_map(
            ds.resize(slide, downsample=4), tile_size=16, detector=glass
        ),
        "cut": lambda: ds.cutoff_resize(slide, downsample=1, tile_size=64, detector=glass),
        "cut and resized": lambda: ds.cutoff_resize(
            slide, downsample=4, kernel="area", blank_map=tissue
        ),
        "mask of a stored cut": lambda: mask_of(stored("cut and resized")),
        "stored resize of a resize": lambda: ds.resize(
            stored("resized"), downsample=2, kernel="area"
        ),
    }[name]()


NAMES = ("slide", "resized", "resized twice", "mask", "mask of a resized slide", "cut",
         "cut and resized", "mask of a stored cut", "stored resize of a resize")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mpp", "version"),
    [(name, (0.25, 0.5), "0.5") for name in NAMES]
    + [(name, None, "0.5") for name in NAMES]
    + [(name, (0.25, 0.5), "0.4") for name in NAMES[-3:]],
)
def test_the_square_has_the_same_coordinates_in_all_stores(path, tmp_path, mpp, version, name):
    slide = ds.open_slide(path, mpp=mpp)
    made = result(slide, name, tmp_path, version)
    out = ds.write(made, tmp_path / "x.ome.zarr", ome_zarr=version)
    pixel = mpp or (1.0, 1.0)
    # the centre of the first pixel is 0, so its edge is half a pixel before
    expected = [
        tuple((edge - 0.5) * size for edge in edges)
        for edges, size in zip(SQUARE, pixel, strict=True)
    ]
    group = zarr.open_group(out, mode="r")
    for image in [group] + ([group["labels/tissue"]] if "labels" in group else []):
        attributes = image.attrs.asdict()
        attributes = attributes.get("ome", attributes)
        units = {axis.get("unit") for axis in attributes["multiscales"][0]["axes"]} - {None}
        assert units == ({"micrometer"} if mpp else set())
        blurred = name == "resized twice"
        for found in list(extents(image, attributes))[: 1 if blurred else 4]:
            tolerance = 2 * max(pixel) if blurred else 1e-9
            np.testing.assert_allclose(found, expected, atol=tolerance)
