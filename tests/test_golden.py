"""Compare checksums of pixels, masks and stores with golden.json, to detect unintended changes.

After an intended change, which CHANGELOG must name, ``python tests/test_golden.py`` updates them.
A change of the detector `Tissue` changes the part "tissue" only.
"""

import functools
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import dask
import numpy as np
import pytest
import tifffile
import zarr

import dask_slides as ds
from dask_slides.graph.overview import overview_blocks, overview_source

GOLDEN = Path(__file__).with_name("golden.json")
REAL = (
    "CMU-1-Small-Region.jpeg.tiff",
    "CMU-1-Small-Region.svs",
    "TCGA-CR-7395.svs",
    "kidney-48-5.tif",
    "small_vectra.qptiff",
)
OMITTED = ("version", "source", "dask_slides")
"""Attributes of stores that contain the version or the source of the store."""


def digest(*values):
    """Return the checksum of arrays, with their shapes and dtypes, and of plain values."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            found.update(f"{value.shape}{value.dtype}".encode())
            found.update(np.ascontiguousarray(value).tobytes())
        else:
            found.update(json.dumps(value, sort_keys=True).encode())
    return found.hexdigest()[:16]


def comparable(value):
    """Return attributes of a store without those that depend on the version and the folder."""
    if isinstance(value, dict):
        return {key: comparable(one) for key, one in value.items() if key not in OMITTED}
    return [comparable(one) for one in value] if isinstance(value, list) else value


def store(obj, folder, name, **options):
    """Write `obj`; return the checksum of arrays, chunks and attributes that zarr-python reads."""
    group = zarr.open_group(ds.write(obj, folder / name, **options), mode="r")
    parts = [comparable(dict(group.attrs))]
    for key, array in sorted(group.members(max_depth=None)):
        parts.append([key, comparable(dict(array.attrs))])
        if isinstance(array, zarr.Array):
            parts += [list(array.chunks), list(array.shards or ()), np.asarray(array[...])]
    return digest(*parts)


def results(slide, folder):
    """Return the checksums of all operations on `slide` that no detector of masks decides."""
    found = {"read": digest(slide.data.compute())}
    side = min(slide.shape[:2])
    cell = max(16, side // 12)
    scales = ({"downsample": 2.0}, {"downsample": 3.7}, {"max_size": side // 5}, {"downsample": 9})
    for scale in scales:
        for kernel in ("lanczos", "area"):
            image = ds.resize(slide, **scale, kernel=kernel)
            name = "-".join(f"{key}{value}" for key, value in scale.items())
            found[f"resize-{name}-{kernel}"] = digest(image.data.compute())
    found["thumbnail"] = digest(slide.thumbnail(max_size=200))
    for detector in (ds.Contrast(0.05), ds.Contrast(0.35), ds.Otsu(), ds.Saturation(0.1)):
        try:
            blank = ds.blank_map(slide, tile_size=cell, detector=detector)
            found[f"blank-{detector!r}"] = digest(blank.blank.compute(), blank.unknown.compute())
        except ds.SlideError as error:  # Saturation needs three channels
            found[f"blank-{detector!r}"] = type(error).__name__
    contrast = ds.Contrast(0.05)
    blank = ds.blank_map(slide, tile_size=cell, detector=contrast)
    found["statistics"] = digest(blank.statistics.compute().view(np.uint8))
    image = ds.resize(slide, downsample=4)
    cut = ds.cutoff_resize(slide, downsample=4, tile_size=cell, detector=contrast)
    dense = ds.Contrast(0.1)
    pack = ds.pack_tiles(slide, tile_size=cell, downsample=2, detector=dense)
    full = {"downsample": 1, "detector": dense}
    best = ds.pack_tiles(slide, tile_size=48, stride=96, top_k=20, **full)
    crops = ds.random_crops(slide, n=12, size=40, seed=3, **full)
    found["cutoff"] = digest(cut.image.data.compute())
    for name, one in (("pack", pack), ("top", best), ("crops", crops)):
        found[name] = digest(np.asarray(one.tiles), one.y, one.x, one.score)
    found["store-resize"] = store(image, folder, "image.ome.zarr")
    found["store-resize-0.4"] = store(image, folder, "old.ome.zarr", ome_zarr="0.4")
    found["store-label"] = store(slide, folder, "label.ome.zarr", blank_map=blank)
    found["store-cutoff"] = store(cut, folder, "cut.ome.zarr")
    found["store-map"] = store(blank.compute(), folder, "map.ome.zarr")
    found["store-pack"] = store(pack, folder, "pack.tiles.zarr")
    small = overview_source(slide.source, slide.mpp_yx, 8.0)
    found["overview"] = digest(np.moveaxis(overview_blocks(small).compute(), 0, 2))
    given = ds.blank_map(slide).with_blank(texture(37, 41, 1)[..., 0] < 150)
    found |= of_map(slide, given, "given-")
    found["given-store-map"] = store(given, folder, "given.ome.zarr")
    return found


def of_map(slide, blank_map, prefix=""):
    """Return the checksums of a computed blank map, and of what follows from it by default."""
    side = min(64, *slide.shape[:2])
    pack = ds.pack_tiles(slide, tile_size=side, min_tissue=0.3, blank_map=blank_map)
    crops = ds.random_crops(slide, n=12, size=side // 2, seed=3, blank_map=blank_map)
    cut = ds.cutoff_resize(slide, downsample=4, blank_map=blank_map)
    found = {"map": digest(blank_map.areas, blank_map.blank, blank_map.unknown)}
    for name, one in (("pack", pack), ("crops", crops)):
        arrays = (np.asarray(one.tiles), one.y, one.x, one.score, one.tissue_fraction)
        found[name] = digest(*arrays)
    found["cutoff"] = digest(cut.image.data.compute())
    return {f"{prefix}{name}": value for name, value in found.items()}


def results_of_tissue(slide):
    """Return the checksums of the default detector, and of what it decides.

    A change of the detector changes all of them, and no others.
    """
    found = ds.blank_map(slide).compute()
    return {"mask": digest(found.mask.kinds, found.mask.grey)} | of_map(slide, found)


def texture(height, width, channels=3, top=200, seed=0):
    """Return pixels (y, x, c), computed with integers: two rectangles of noise on flat ground."""
    y, x = np.mgrid[:height, :width]
    ground = np.full((height, width), top, np.int64)
    state = (y * 7919 + x * 104729 + seed * 1299709) % 65537
    noise = (state * state % 65537) * top // 65537
    for rows, columns in ((slice(40, 190), slice(30, 200)), (slice(230, 370), slice(150, 460))):
        ground[rows, columns] = noise[rows, columns]
    return np.stack([ground * (10 - c) // 10 for c in range(channels)], axis=-1)


def made(folder):
    """Write images that do not depend on codec versions; yield names and paths."""
    rgb = texture(400, 500).astype(np.uint8)
    options = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(folder / "rgb.tif", rgb, resolution=(20000, 20000, 3), **options)
    with tifffile.TiffWriter(folder / "pyramid.tif") as tiff:
        tiff.write(rgb, subifds=2, **options)
        for step in (2, 4):
            mean = rgb.reshape(400 // step, step, 500 // step, step, 3).mean(axis=(1, 3))
            tiff.write(mean.astype(np.uint8), subfiletype=1, **options)
    alpha = np.dstack([rgb, np.where(texture(400, 500, 1, seed=2) < 100, 0, 255)]).astype(np.uint8)
    tifffile.imwrite(folder / "rgba.tif", alpha, extrasamples=["unassalpha"], **options)
    deep = texture(400, 500, 1, top=60000)[..., 0].astype(np.uint16)
    tifffile.imwrite(folder / "uint16.tif", deep, tile=(128, 64), compression="zlib")
    nodata = deep.astype(np.float32)
    nodata[100:130] = -9999
    extra = [(42113, "s", 0, "-9999", True)]
    tifffile.imwrite(folder / "nodata.tif", nodata, rowsperstrip=16, extratags=extra)
    for name in ("rgb", "pyramid", "rgba", "uint16", "nodata"):
        yield name, folder / f"{name}.tif"


@functools.cache
def golden():
    return json.loads(GOLDEN.read_text())


def stained_and_dark():
    """Return slides with tissue: a stained section on glass, and fluorescence on dark ground."""
    depth = 200 - texture(400, 500)[..., :1]
    stained = 240 - depth * np.array([2, 5, 3]) // 5
    y, x = np.mgrid[:400, :500]
    light = 400 + (200 - texture(400, 500, 2)) * 100 + (7 * y + 13 * x)[..., None] % 89
    pairs = (("stained", stained.astype(np.uint8)), ("dark", light.astype(np.uint16)))
    return {name: ds.from_dask(image, mpp=4.0) for name, image in pairs}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return dict(made(tmp_path_factory.mktemp("golden")))


def check_golden(slide, name, folder):
    with dask.config.set(scheduler="sync"):
        assert results(slide, folder) == golden()[name]


@pytest.mark.parametrize("name", ["rgb", "pyramid", "rgba", "uint16", "nodata"])
def test_results_of_generated_images_have_not_changed(files, name, tmp_path):
    check_golden(ds.open_slide(files[name]), name, tmp_path)


def test_results_of_a_dask_array_have_not_changed(files, tmp_path):
    slide = ds.open_slide(files["rgb"])
    array = ds.from_dask(slide.to_dask(chunks=(96, 130)), mpp=slide.mpp)
    with dask.config.set(scheduler="sync"):
        found, expected = results(array, tmp_path), golden()["rgb"]
    # files are resized from means of tiles, which arrays do not have, and stores record the source
    for name in ("read", "statistics", "top", "crops"):
        assert found[name] == expected[name]
    assert found == golden()["array"]


REAL_NAMES = [pytest.param(n, marks=pytest.mark.slow) if "TCGA" in n else n for n in REAL]


@pytest.mark.parametrize("name", REAL_NAMES)
def test_results_of_real_slides_have_not_changed(test_data, name, tmp_path):
    check_golden(ds.open_slide(test_data / "slides" / name), name, tmp_path)


@pytest.mark.parametrize("name", ["stained", "dark"])
def test_tissue_of_generated_images_has_not_changed(name, sync):
    slide = stained_and_dark()[name]
    assert 0.2 < ds.blank_map(slide).tissue_share < 0.6  # the two rectangles are 0.34 of the area
    assert results_of_tissue(slide) == golden()["tissue"][name]


@pytest.mark.parametrize("name", REAL_NAMES)
def test_tissue_of_real_slides_has_not_changed(test_data, name, sync):
    slide = ds.open_slide(test_data / "slides" / name)
    assert results_of_tissue(slide) == golden()["tissue"][name]


def compute_all():
    found = {}
    with tempfile.TemporaryDirectory() as top, dask.config.set(scheduler="sync"):
        pairs = dict(made(Path(top)))
        pairs |= {name: Path(os.environ["DASK_SLIDES_TEST_DATA"], "slides", name) for name in REAL}
        slides = {name: ds.open_slide(path) for name, path in pairs.items()}
        slides["array"] = ds.from_dask(
            slides["rgb"].to_dask(chunks=(96, 130)), mpp=slides["rgb"].mpp
        )
        for name, slide in slides.items():
            folder = Path(top, f"of-{name}")
            folder.mkdir()
            found[name] = results(slide, folder)
        with_tissue = stained_and_dark() | {name: slides[name] for name in REAL}
        tissue = {name: results_of_tissue(slide) for name, slide in with_tissue.items()}
    return found | {"tissue": tissue}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(compute_all(), indent=1) + "\n")
    sys.exit()
