"""Images, cut-offs and blank maps as OME-Zarr, read back with Zarr, dask and other packages."""

import json
import os
import warnings

import dask.array as da
import durable_work as work
import numpy as np
import pytest
import zarr
from rw_fixtures import noise, patch_tag, segments, tissue

import dask_slides as ds
from dask_slides.writers import image_plan
from dask_slides.writers.image_plan import plan_image

pytestmark = pytest.mark.usefixtures("sync")


def area_mean(image, halvings):
    """Return the exact mean over blocks of 2**halvings, partial ones at the edges; float64."""
    step = 2**halvings
    rows, columns = (np.arange(0, n, step) for n in image.shape[:2])
    sums = np.add.reduceat(image.astype(np.float64), rows, axis=0)
    sums = np.add.reduceat(sums, columns, axis=1)
    ones = np.ones(image.shape[:2])
    count = np.add.reduceat(np.add.reduceat(ones, rows, axis=0), columns, axis=1)
    return sums / count[..., None]


ROUNDING = 0.5
"""Largest difference of a level from the exact mean of level 0, whichever stage wrote it."""


def levels_of(path):
    group = zarr.open_group(path, mode="r")
    attributes = group.attrs.asdict()
    multiscale = attributes.get("ome", attributes)["multiscales"][0]
    return [np.asarray(group[one["path"]][...]) for one in multiscale["datasets"]]


IMAGES = {
    "rgb": noise(700, 530, 3),
    "grey": noise(513, 300, 1, seed=1),
    "five channels": noise(520, 260, 5, seed=2),
    "uint16": noise(600, 512, 3, dtype="uint16", seed=3),
    "float32": noise(600, 512, 3, dtype="float32", seed=4),
    "int16": noise(600, 300, 2, dtype="int16", seed=5),
    "one pixel": noise(1, 1, 3, seed=6),
    "one row": noise(1, 3000, 3, seed=7),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_written_images_are_read_back(tmp_path, name, version):
    image = IMAGES[name]
    path = ds.write(ds.from_dask(image, mpp=0.5), tmp_path / "a.ome.zarr", ome_zarr=version)
    assert path == str(tmp_path / "a.ome.zarr")
    slide = ds.open_slide(path)
    assert (slide.shape, slide.dtype, slide.mpp) == (image.shape, image.dtype, 0.5)
    np.testing.assert_array_equal(slide.data.compute(), image)
    for number, level in enumerate(slide.levels):
        found = slide.to_dask(level=number).compute()
        exact = area_mean(image, number)
        assert level.downsample == (2**number,) * 2 or 1 in image.shape[:2]
        assert found.shape == exact.shape
        if image.dtype.kind == "f":
            np.testing.assert_allclose(found, exact, rtol=1e-6)
        else:
            assert np.abs(found - exact).max() <= ROUNDING


@pytest.mark.parametrize(
    ("dtype", "version"),
    [(dtype, "0.5") for dtype in ("int64", "uint64", "float64", "float16", "bool", "int32")]
    + [("uint8", "0.4")],
)
def test_pyramids_in_several_stages(tmp_path, dtype, version):
    """Each level has the exact means of level 0, rounded once."""
    shape = (4300, 41)
    assert len(plan_image(shape).stages) > 1
    rng = np.random.default_rng(7)
    if dtype == "bool":
        image = rng.random(shape) < 0.5
    elif dtype[0] == "f":
        image = rng.normal(0, 100, shape).astype(dtype)
        image[:600] = np.finfo(dtype).min
    else:
        info = np.iinfo(dtype)
        image = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        image[:600] = info.max
    path = ds.write(ds.from_dask(image), tmp_path / "a.ome.zarr", ome_zarr=version)
    assert ".sums" not in os.listdir(path)
    if dtype == "bool":
        image = image * np.uint8(255)
    for number, level in enumerate(levels_of(path)):
        assert level.dtype == image.dtype
        starts = [np.arange(0, size, 2**number) for size in shape]
        counts = np.add.reduceat(np.ones(shape, int), starts[0], axis=0)
        counts = np.add.reduceat(counts, starts[1], axis=1)
        if dtype[0] == "f":
            exact = np.add.reduceat(image.astype(np.longdouble), starts[0], axis=0)
            exact = np.add.reduceat(exact, starts[1], axis=1) / counts
            eps = float(np.finfo(dtype).eps)
            assert np.allclose(level[0].astype(np.longdouble), exact, rtol=eps, atol=400 * eps)
        else:  # Python's own integers do not overflow
            sums = np.add.reduceat(image.astype(object), starts[0], axis=0)
            sums = np.add.reduceat(sums, starts[1], axis=1)
            assert (level[0].astype(object) == (2 * sums + counts) // (2 * counts)).all()


def test_arrays_and_metadata_of_version_5(tmp_path):
    """test_overlays.py checks the coordinates."""
    path = ds.write(ds.from_dask(noise(1100, 700, 3), mpp=(0.5, 0.25)), tmp_path / "a.ome.zarr")
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    assert [axis["type"] for axis in multiscale["axes"]] == ["channel", "space", "space"]
    assert [one["path"] for one in multiscale["datasets"]] == ["0", "1", "2"]
    for one in multiscale["datasets"]:
        array = group[one["path"]]
        assert array.metadata.dimension_names == ("c", "y", "x")
        assert array.chunks == (3, 256, 256)
    colors = [channel["color"] for channel in ome["omero"]["channels"]]
    assert colors == ["FF0000", "00FF00", "0000FF"]
    assert ome["omero"]["rdefs"] == {"model": "color"}
    assert group.attrs["dask_slides"]["kind"] == "image"


def test_arrays_and_metadata_of_version_4(tmp_path):
    image = noise(700, 530, 1)
    path = ds.write(ds.from_dask(image, mpp=0.5), tmp_path / "a.ome.zarr", ome_zarr="0.4")
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 2
    attributes = json.loads((tmp_path / "a.ome.zarr" / ".zattrs").read_text())
    assert attributes["multiscales"][0]["version"] == "0.4"
    assert "ome" not in attributes
    assert (attributes["omero"]["rdefs"]["model"], len(attributes["omero"]["channels"])) == (
        "greyscale", 1
    )  # fmt: skip
    assert (tmp_path / "a.ome.zarr" / "0" / "0" / "2" / "1").is_file()  # nested chunk keys
    np.testing.assert_array_equal(da.from_zarr(path, component="0").compute()[0], image[..., 0])


@pytest.mark.parametrize(("dtype", "top"), [("uint16", 65535.0), ("float32", 1.0)])
def test_windows_of_other_dtypes(tmp_path, dtype, top):
    path = ds.write(ds.from_dask(noise(30, 30, 2, dtype=dtype)), tmp_path / "a.zarr")
    channels = zarr.open_group(path, mode="r").attrs["ome"]["omero"]["channels"]
    assert [(one["window"]["min"], one["window"]["max"]) for one in channels] == [(0.0, top)] * 2
    assert len({one["color"] for one in channels}) == 2


# other implementations


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.filterwarnings("ignore")
def test_ome_zarr_reads_it(tmp_path, version):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("ome_zarr")
        from ome_zarr.io import parse_url
        from ome_zarr.reader import Label, Multiscales, Reader

    image = tissue(1100, 700)
    slide = ds.from_dask(image, mpp=0.5)
    path = ds.write(
        slide,
        tmp_path / "a.ome.zarr",
        ome_zarr=version,
        blank_map=ds.blank_map(slide, tile_size=64),
    )
    nodes = list(Reader(parse_url(path))())
    (node,) = [
        one for one in nodes if one.load(Multiscales) is not None and one.load(Label) is None
    ]
    assert [level.shape[1:] for level in node.data] == [(1100, 700), (550, 350), (275, 175)]
    for number, level in enumerate(node.data):
        found = np.asarray(level.compute()).transpose(1, 2, 0)
        assert np.abs(found - area_mean(image, number)).max() <= ROUNDING
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]
    (label,) = [one for one in nodes if one.load(Label) is not None]
    assert [level.shape for level in label.data] == [(1100, 700), (550, 350), (275, 175)]


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("kind", ["image", "cutoff", "blank map"])
@pytest.mark.filterwarnings("ignore")
def test_ome_zarr_models_accepts_it(tmp_path, version, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = pytest.importorskip(f"ome_zarr_models.v0{version[-1]}")
    slide = ds.from_dask(tissue(1100, 700), mpp=0.5)
    found = ds.blank_map(slide, tile_size=64, detector=ds.Contrast(0.05))
    made = {
        "image": lambda: slide,
        "cutoff": lambda: ds.cutoff_resize(slide, blank_map=found),
        "blank map": lambda: found,
    }[kind]()
    extra = {"blank_map": found} if kind == "image" else {}
    path = ds.write(made, tmp_path / "a.ome.zarr", ome_zarr=version, **extra)
    group = zarr.open_group(path, mode="r")
    assert models.Image.from_zarr(group) is not None
    assert models.ImageLabel.from_zarr(group["labels/tissue"]) is not None


# labels, masks, cut-offs


def expected_label(blank, tile, rows, columns, factors, shape, level):
    """Return the label by the cell of each pixel's centre; `rows`, `columns` are source pixels."""
    out = np.zeros(shape, np.uint8)
    for i in range(shape[0]):
        y = rows[min(int((i + 0.5) * 2**level * factors[0]), len(rows) - 1)]
        for j in range(shape[1]):
            x = columns[min(int((j + 0.5) * 2**level * factors[1]), len(columns) - 1)]
            out[i, j] = not blank[y // tile, x // tile]
    return out


@pytest.mark.parametrize("kind", ["identity", "resized", "cutoff", "cutoff resized"])
@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_labels(tmp_path, kind, version):
    tile = 52
    image = np.full((600, 520, 3), 240, np.uint8)
    image[60:200, 104:300] = noise(140, 196, 3)
    image[400:480, 300:400] = noise(80, 100, 3)
    slide = ds.from_dask(image, mpp=0.5)
    found = ds.blank_map(slide, tile_size=tile, detector=ds.Contrast(0.05)).compute()
    starts = [range(0, n, tile) for n in (600, 520)]
    blank = np.array(
        [[image[y : y + tile, x : x + tile].std() == 0 for x in starts[1]] for y in starts[0]]
    )
    np.testing.assert_array_equal(found.blank, blank)
    rows, columns = np.arange(600), np.arange(520)
    path = tmp_path / "a.ome.zarr"
    if kind.startswith("cutoff"):
        rows = rows[~blank.all(axis=1)[rows // tile]]
        columns = columns[~blank.all(axis=0)[columns // tile]]
        downsample = 1.7 if kind.endswith("resized") else 1
        cut = ds.cutoff_resize(slide, downsample=downsample, blank_map=found)
        written = cut.image
        ds.write(cut, path, ome_zarr=version)
    else:
        written = slide if kind == "identity" else ds.resize(slide, downsample=1.7)
        ds.write(written, path, blank_map=found, ome_zarr=version)
    height, width = written.shape[:2]
    assert len(rows) > height or kind in ("identity", "cutoff")
    factors = (len(rows) / height, len(columns) / width)
    group = zarr.open_group(path, mode="r")
    attributes = group["labels/tissue"].attrs.asdict()
    attributes = attributes.get("ome", attributes)
    labels = [group["labels/tissue"][one["path"]] for one in
              attributes["multiscales"][0]["datasets"]]  # fmt: skip
    images = levels_of(path)
    assert len(labels) == len(images)
    for number, (label, level) in enumerate(zip(labels, images, strict=True)):
        assert label.dtype == np.uint8
        assert label.shape == level.shape[1:]
        want = expected_label(blank, tile, rows, columns, factors, label.shape, number)
        np.testing.assert_array_equal(label[...], want)
    names = group["labels"].attrs.asdict()
    assert names.get("ome", names)["labels"] == ["tissue"]
    assert {one["label-value"] for one in attributes["image-label"]["colors"]} == {0, 1}
    grid = group["blank_map"]
    np.testing.assert_array_equal(grid["blank"][...], blank)
    assert grid.attrs["tile_size"] == [tile, tile]
    assert grid.attrs["source_shape"] == [600, 520]
    sums = grid["statistics"][..., 1]
    assert sums[2, 3] == image[2 * tile : 3 * tile, 3 * tile : 4 * tile].sum(dtype=np.int64)
    assert sums.sum() == image.sum(dtype=np.int64)


def test_the_label_of_a_slide_of_several_stages(tmp_path):
    image = np.full((9001, 120, 3), 240, np.uint8)
    image[1000:4500] = noise(3500, 120, 3)
    slide = ds.from_dask(image)
    found = ds.blank_map(slide, tile_size=100, detector=ds.Contrast(0.05))
    path = ds.write(slide, tmp_path / "a.zarr", blank_map=found)
    group = zarr.open_group(path, mode="r")
    every = np.arange(9001)
    blank = np.ones((91, 2), bool)
    blank[10:45] = False
    for number, level in enumerate(levels_of(path)):
        found = group[f"labels/tissue/{number}"][...]
        shape = level.shape[1:]
        want = expected_label(blank, 100, every, every[:120], (1, 1), (shape[0], 1), number)
        np.testing.assert_array_equal(found, np.broadcast_to(want, shape))


def test_attributes_of_a_cutoff_convert_points_to_the_source(tmp_path):
    image = np.full((600, 520, 3), 240, np.uint8)
    image[100:200, 100:300] = noise(100, 200, 3)
    image[400:500, 300:400] = noise(100, 100, 3)
    cut = ds.cutoff_resize(
        ds.from_dask(image), downsample=2, tile_size=100, detector=ds.Contrast(0.05)
    )
    path = ds.write(cut, tmp_path / "a.ome.zarr")
    own = zarr.open_group(path, mode="r").attrs["dask_slides"]
    assert own["kind"] == "cutoff"
    assert own["source_shape"] == [600, 520]
    assert own["rows"] == [[100, 200], [400, 500]]
    assert own["columns"] == [[100, 400]]
    assert own["factors"] == [2.0, 2.0]
    # convert points with the attributes alone
    rows = np.concatenate([np.arange(*run) for run in own["rows"]])
    columns = np.concatenate([np.arange(*run) for run in own["columns"]])
    for point in [(0, 0), (50, 0), (99, 149), (20, 100)]:
        y, x = (int(at * factor) for at, factor in zip(point, own["factors"], strict=True))
        assert cut.to_source(point).tolist() == [rows[y], columns[x]]
    written = ds.open_slide(path).data.compute()
    np.testing.assert_array_equal(written, cut.image.data.compute())


def test_a_blank_cutoff_is_refused(tmp_path):
    with pytest.warns(ds.errors.BlankSlideWarning):
        cut = ds.cutoff_resize(da.full((300, 300, 3), 240, dtype="uint8"))
    with pytest.raises(ds.errors.BlankSlideError, match="blank"):
        ds.write(cut, tmp_path / "a.ome.zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_blank_maps(tmp_path, version):
    image = tissue(700, 530)
    slide = ds.from_dask(image, mpp=0.5)
    found = ds.blank_map(slide, tile_size=(64, 50), detector=ds.Contrast(0.05))
    path = ds.write(found, tmp_path / "a.ome.zarr", ome_zarr=version)
    blank = np.array(
        [[image[y : y + 64, x : x + 50].std() <= 0.05 * image[y : y + 64, x : x + 50].mean()
          for x in range(0, 530, 50)] for y in range(0, 700, 64)]
    )  # fmt: skip
    assert blank.any() and not blank.all()
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["0"][0], np.where(blank, 0, 255))
    np.testing.assert_array_equal(group["labels/tissue/0"][...], ~blank)
    np.testing.assert_array_equal(group["blank_map/blank"][...], blank)
    slide = ds.open_slide(path)
    assert slide.mpp_yx == (32.0, 25.0)
    assert slide.shape == (*blank.shape, 1)
    assert "Contrast" in group["blank_map"].attrs["detector"]


# whole stores


def test_shards_of_zeros_are_written(tmp_path):
    path = ds.write(ds.from_dask(np.zeros((1000, 900, 3), np.uint8)), tmp_path / "a.zarr")
    group = zarr.open_group(path, mode="r")
    for number in ("0", "1"):
        array = group[number]
        shard = array.shards or array.chunks
        count = np.prod([-(-n // s) for n, s in zip(array.shape, shard, strict=True)])
        files = [one for one in (tmp_path / "a.zarr" / number / "c").rglob("*") if one.is_file()]
        assert len(files) == count


def test_a_flipped_bit_is_detected(tmp_path):
    path = ds.write(ds.from_dask(noise(900, 900, 3)), tmp_path / "a.zarr")
    file = next(one for one in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if one.is_file())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ds.errors.TileDecodeError) as error:
        ds.open_slide(path).data.compute()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("made", ["slide", "cutoff"])
def test_the_number_of_shards_per_task_does_not_change_the_store(tmp_path, monkeypatch, sync, made):
    path = work.slide_file(tmp_path / "s.tif", side=2100)
    segment = segments(path)[40]  # a tile inside
    absent = [(0, 0) if one == segment else one for one in segments(path)]
    patch_tag(path, 324, [offset for offset, _ in absent])
    patch_tag(path, 325, [count for _, count in absent])

    def write(name):
        slide, tasks = ds.open_slide(path), []
        cut = {"downsample": 1, "tile_size": 100, "detector": ds.Contrast(0.05)}
        obj = slide if made == "slide" else ds.cutoff_resize(slide, **cut)
        out = tmp_path / name
        ds.write(obj, out, progress=lambda *at: tasks.append(at), overwrite=True)
        ds.verify(out)
        return tasks[-1][1], work.contents(out)

    monkeypatch.setattr(image_plan, "TASK_SIDE", 512)
    alone, expected = write("a.zarr")
    monkeypatch.setattr(image_plan, "FEW_TASKS", 1)
    few, found = write("a.zarr")
    assert few < alone
    assert found == expected
    assert ds.open_slide(tmp_path / "a.zarr").bad_tiles()
