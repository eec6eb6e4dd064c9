"""OME-Zarr stores with every order of axes, units and levels, and stores that are refused."""

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import distributed  # noqa: F401 - it makes errors pickle with their causes
import numpy as np
import pytest
import zarr
from rw_fixtures import bytes_read, noise, one_line
from zarr.abc.codec import CodecPipeline
from zarr.core.codec_pipeline import BatchedCodecPipeline

import dask_slides as ds

VERSIONS = ["0.4", "0.5"]
AXES = ["yx", "cyx", "yxc", "tczyx", "zyx", "tcyx"]
PIXELS = noise(61, 47, 3, dtype="uint16")
KINDS = {"t": "time", "c": "channel"}


def stored(pixels, axes):
    """Return (y, x, c) pixels in the order of `axes`, other axes of length 1."""
    if "c" not in axes:
        pixels = pixels[..., :1]
    order = {"y": 0, "x": 1, "c": 2}
    out = pixels.transpose([order[axis] for axis in axes if axis in order] + (
        [2] if "c" not in axes else []
    ))  # fmt: skip
    if "c" not in axes:
        out = out[..., 0]
    return out[tuple(slice(None) if axis in order else None for axis in axes)]


def attributes(version, axes, levels, unit=None, scale=(0.5, 0.25), extra=()):
    size = dict(zip("yx", scale, strict=True))
    described = [
        {"name": axis, "type": KINDS.get(axis, "space")}
        | ({"unit": unit} if unit and axis in "zyx" else {})
        for axis in axes
    ]
    datasets = [
        {
            "path": f"level{k}",
            "coordinateTransformations": [
                {"type": "scale", "scale": [size.get(axis, 1.0) * 2**k for axis in axes]}
            ],
        }
        for k in range(levels)
    ]
    multiscale = {"axes": described, "datasets": datasets, "name": "a", **dict(extra)}
    if version == "0.4":
        return {"multiscales": [multiscale | {"version": "0.4"}]}
    return {"ome": {"version": "0.5", "multiscales": [multiscale]}}


def write_store(path, version, axes, images=(PIXELS,), **options):
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    for number, image in enumerate(images):
        data = stored(image, axes)
        chunks = tuple(min(16, n) for n in data.shape)
        group.create_array(f"level{number}", data=data, chunks=chunks)
    group.attrs.update(attributes(version, axes, len(images), **options))
    return path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("axes", AXES)
def test_axes(tmp_path, version, axes):
    slide = ds.open_slide(write_store(tmp_path / "a.ome.zarr", version, axes))
    expected = PIXELS if "c" in axes else PIXELS[..., :1]
    assert slide.shape == expected.shape
    assert slide.dtype == np.uint16
    np.testing.assert_array_equal(slide.data.compute(scheduler="sync"), expected)
    np.testing.assert_array_equal(slide.to_dask(chunks=13).compute(), expected)
    np.testing.assert_array_equal(slide.read(11, 9, 30, 20), expected[11:41, 9:29])
    assert slide.levels[0].tile == (16, 16)
    assert version in slide.properties["format"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micrometer", 1), ("nanometer", 1e-3), ("millimeter", 1e3), (None, None), ("pixel", None)],
)
def test_units(tmp_path, version, unit, factor):
    slide = ds.open_slide(write_store(tmp_path / "a.zarr", version, "cyx", unit=unit))
    if factor is None:
        assert slide.mpp_yx is None
        with pytest.raises(ds.errors.SlideMppError):
            ds.resize(slide, mpp=1)
    else:
        assert slide.mpp_yx == pytest.approx((0.5 * factor, 0.25 * factor))
    assert ds.open_slide(tmp_path / "a.zarr", mpp=2).mpp == 2


def test_scales_of_the_whole_image_multiply(tmp_path):
    whole = {"coordinateTransformations": [{"type": "scale", "scale": [1.0, 2.0, 4.0]}]}
    path = write_store(tmp_path / "a.zarr", "0.5", "cyx", unit="micrometer", extra=whole.items())
    assert ds.open_slide(path).mpp_yx == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("version", VERSIONS)
def test_levels(tmp_path, version):
    images = [noise(101, 67, 3), noise(51, 34, 3, seed=1), noise(25, 16, 3, seed=2)]
    path = write_store(tmp_path / "a.zarr", version, "cyx", images)
    slide = ds.open_slide(path)
    assert [level.shape for level in slide.levels] == [(101, 67), (51, 34), (25, 16)]
    # 101 / 51 and 67 / 16 are not integers, but factors of 2 and 4 explain the sizes
    assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2), (4, 4)]
    for number, image in enumerate(images):
        np.testing.assert_array_equal(slide.to_dask(level=number).compute(), image)


@pytest.mark.parametrize("shift", [["a", "b", "c"], [0.0, float("inf"), 0.0], [0, 3, 4]])
def test_translations_do_not_change_the_pixel_size(tmp_path, shift):
    whole = {"coordinateTransformations": [{"type": "translation", "translation": shift}]}
    path = write_store(tmp_path / "a.zarr", "0.5", "cyx", unit="micrometer", extra=whole.items())
    slide = ds.open_slide(path)
    assert slide.mpp_yx == pytest.approx((0.5, 0.25))
    again = ds.open_slide(ds.write(slide, tmp_path / "b.zarr"))
    offset = (6, 16) if shift == [0, 3, 4] else (0, 0)  # in pixels
    assert again.source.placement.offset == pytest.approx(offset)


def test_axes_as_plain_names(tmp_path):
    path = write_store(tmp_path / "a.zarr", "0.4", "cyx")
    group = zarr.open_group(path)
    scales = group.attrs["multiscales"]
    scales[0]["axes"] = ["c", "y", "x"]
    group.attrs["multiscales"] = scales
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(), PIXELS)


def test_big_endian_arrays_come_native(tmp_path):
    images = [PIXELS.astype(">u2")]
    slide = ds.open_slide(write_store(tmp_path / "a.zarr", "0.4", "cyx", images))
    found = slide.data.compute(scheduler="sync")
    assert found.dtype.isnative
    assert slide.dtype == found.dtype == np.uint16
    np.testing.assert_array_equal(found, PIXELS)


def test_opening_reads_no_chunk(tmp_path):
    path = write_store(tmp_path / "a.zarr", "0.5", "cyx", [noise(400, 400, 3)])
    for folder, _, files in os.walk(path):
        for name in files:
            if name != "zarr.json":
                Path(folder, name).write_bytes(b"\xff" * 1000)
    ds.open_slide(path)
    before = bytes_read()
    slide = ds.open_slide(path)
    graph = ds.resize(slide, downsample=4).data
    assert bytes_read() - before < 50_000
    assert graph.shape == (100, 100, 3)
    with pytest.raises(ds.errors.TileDecodeError, match="level 0, rows 3 to 8") as error:
        slide.read(3, 0, 5, 5)
    assert str(path) in one_line(error)
    assert type(pickle.loads(pickle.dumps(error.value))) is ds.errors.TileDecodeError


def edit(path, change):
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    change(metadata["attributes"])
    file.write_text(json.dumps(metadata))


BROKEN = {
    "no attributes": lambda a: a.clear(),
    "no multiscales": lambda a: a["ome"].pop("multiscales"),
    "no images": lambda a: a["ome"].update(multiscales=[]),
    "no datasets": lambda a: a["ome"]["multiscales"][0].update(datasets=[]),
    "a level that does not exist": lambda a: a["ome"]["multiscales"][0]["datasets"][0].update(
        path="9"
    ),
    "too few axes": lambda a: a["ome"]["multiscales"][0]["axes"].pop(),
    "no y": lambda a: a["ome"]["multiscales"][0]["axes"][1].update(name="q"),
    "multiscales of another kind": lambda a: a["ome"].update(multiscales="none"),
    "ome of another kind": lambda a: a.update(ome=[]),
    "a scale too short": lambda a: a["ome"]["multiscales"][0]["datasets"][0][
        "coordinateTransformations"
    ][0].update(scale=[1.0]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_metadata(tmp_path, case):
    path = write_store(tmp_path / "a.zarr", "0.5", "cyx", unit="micrometer")
    edit(path, BROKEN[case])
    with pytest.raises(ds.errors.SlideFormatError) as error:
        ds.open_slide(path)
    assert isinstance(error.value, ValueError)
    assert str(path) in one_line(error)
    assert type(pickle.loads(pickle.dumps(error.value))) is ds.errors.SlideFormatError


@pytest.mark.parametrize("content", ["", "{", "[]", '{"zarr_format": 3}'])
def test_metadata_that_is_no_json(tmp_path, content):
    path = write_store(tmp_path / "a.zarr", "0.5", "cyx")
    (path / "zarr.json").write_text(content)
    with pytest.raises(ds.errors.SlideFormatError) as error:
        ds.open_slide(path)
    one_line(error)


@pytest.mark.parametrize("dtype", ["complex64", "bool"])
def test_dtypes_that_are_refused(tmp_path, dtype):
    path = tmp_path / "a.zarr"
    group = zarr.create_group(path)
    group.create_array("level0", data=np.zeros((16, 16), dtype))
    group.attrs.update(attributes("0.5", "yx", 1))
    with pytest.raises(ds.errors.SlideUnsupportedError, match=dtype) as error:
        ds.open_slide(path)
    one_line(error)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("before", [True, False], ids=["read before", "not read before"])
def test_a_store_that_was_rewritten(tmp_path, version, before):
    path = write_store(tmp_path / "a.zarr", version, "cyx")
    slide = ds.open_slide(path)
    if before:
        slide.read(0, 0, 5, 5)
    os.utime(path / ("zarr.json" if version == "0.5" else ".zattrs"), ns=(5, 5))
    with pytest.raises(ds.errors.SlideChangedError) as error:
        slide.read(0, 0, 5, 5)
    assert str(path) in one_line(error)


@dataclass(frozen=True)
class OtherPipeline(CodecPipeline):
    """A codec pipeline with only the methods that Zarr requires."""

    inner: BatchedCodecPipeline

    @classmethod
    def from_codecs(cls, codecs, **more):
        return cls(BatchedCodecPipeline.from_codecs(codecs, **more))

    def evolve_from_array_spec(self, array_spec):
        return OtherPipeline(self.inner.evolve_from_array_spec(array_spec))

    def validate(self, **more):
        return self.inner.validate(**more)

    def compute_encoded_size(self, byte_length, array_spec):
        return self.inner.compute_encoded_size(byte_length, array_spec)

    @property
    def supports_partial_decode(self):
        return self.inner.supports_partial_decode

    @property
    def supports_partial_encode(self):
        return self.inner.supports_partial_encode

    async def decode(self, chunks):
        return await self.inner.decode(chunks)

    async def encode(self, chunks):
        return await self.inner.encode(chunks)

    async def read(self, batch, out, drop_axes=()):
        return await self.inner.read(batch, out, drop_axes)

    async def write(self, batch, value, drop_axes=()):
        return await self.inner.write(batch, value, drop_axes)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_another_codec_pipeline_of_zarr_is_used(tmp_path, tissue, version):
    zarr.registry.register_pipeline(OtherPipeline)
    name = f"{OtherPipeline.__module__}.{OtherPipeline.__qualname__}"
    with zarr.config.set({"codec_pipeline.path": name}):
        image = ds.write(ds.from_dask(tissue), tmp_path / "a.ome.zarr", ome_zarr=version)
        pack = ds.write(
            ds.pack_tiles(ds.from_dask(tissue), tile_size=64, detector=ds.Contrast(0.35)),
            tmp_path / "a.tiles.zarr",
        )
        array = zarr.open_array(f"{pack}/tiles", mode="r")
        assert isinstance(array.async_array.codec_pipeline, OtherPipeline)
        np.testing.assert_array_equal(ds.open_slide(image).data.compute(), tissue)
        opened = ds.open_pack(pack)
        y, x = int(opened.y[0]), int(opened.x[0])
        np.testing.assert_array_equal(opened[0], tissue[y : y + 64, x : x + 64])
        assert ds.verify(image).files


# ---------------------------------------------------------------- version 0.6


def version_6(names="cyx", steps=None, systems=(), whole=()):
    """Return attributes as the specification of 0.6 describes them; `names` are of the axes."""
    types = {"t": "time", "c": "channel", "λ": "channel"}
    axes = [
        {"name": name, "type": types.get(name, "space")}
        | ({} if name in types else {"unit": "micrometer"})
        for name in names
    ]
    scale = [1.0 if name in types else 0.5 * (1 + (n == len(names) - 1)) for n, name in
             enumerate(names)]  # fmt: skip
    datasets = []
    for number in range(2):
        size = [a if names[n] in types else a * 2**number for n, a in enumerate(scale)]
        step = {"type": "scale", "scale": size}
        if steps == "sequence":
            shift = {"type": "translation", "translation": [0.25] * len(names)}
            step = {"type": "sequence", "transformations": [step, shift]}
        ends = {"input": {"path": f"level{number}"}, "output": {"name": "intrinsic"}}
        datasets.append({"path": f"level{number}", "coordinateTransformations": [step | ends]})
    multiscale = {
        "name": "a",
        "coordinateSystems": [*systems, {"name": "intrinsic", "axes": axes}],
        "datasets": datasets,
    }
    if whole:
        multiscale["coordinateTransformations"] = list(whole)
    return {"ome": {"version": "0.6", "multiscales": [multiscale]}}


OTHER = {"name": "stage", "axes": [{"name": n, "type": "space", "unit": "meter"} for n in "abd"]}
TO_STAGE = {"type": "scale", "scale": [9.0, 9.0, 9.0], "input": {"name": "intrinsic"},
            "output": {"name": "stage"}}  # fmt: skip


@pytest.mark.parametrize(
    "described",
    [
        version_6(),
        version_6(steps="sequence"),
        version_6(systems=[OTHER], whole=[TO_STAGE]),
        version_6(names=["λ", "row", "col"]),
    ],
    ids=["scale", "sequence", "other systems", "other names"],
)
def test_version_6(tmp_path, described):
    small = PIXELS[::2, ::2]
    path = write_store(tmp_path / "a.zarr", "0.5", "cyx", [PIXELS, small])
    zarr.open_group(path).attrs.put(described)
    slide = ds.open_slide(path)
    assert slide.properties["format"] == "OME-Zarr 0.6"
    assert slide.mpp_yx == (0.5, 1.0)
    assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
    np.testing.assert_array_equal(slide.data.compute(), PIXELS)
    np.testing.assert_array_equal(slide.to_dask(level=1).compute(), small)


def test_version_6_with_planes(tmp_path):
    path = tmp_path / "a.zarr"
    stack = noise(2, 3, 61, 47)
    group = zarr.create_group(path)
    for number in range(2):
        group.create_array(f"level{number}", data=stack[..., :: number + 1, :: number + 1])
    group.attrs.put(version_6(names=["t", "depth", "row", "col"]))
    slide = ds.open_slide(path, t=1, z=2)
    np.testing.assert_array_equal(slide.data.compute()[..., 0], stack[1, 2])


@pytest.mark.parametrize("broken", ["no such system", "no output", "no systems"])
def test_version_6_that_contradicts_itself_is_refused(tmp_path, broken):
    described = version_6()
    multiscale = described["ome"]["multiscales"][0]
    if broken == "no such system":
        multiscale["coordinateSystems"][0]["name"] = "other"
    elif broken == "no output":
        del multiscale["datasets"][0]["coordinateTransformations"][0]["output"]
    else:
        multiscale["coordinateSystems"] = []
    path = write_store(tmp_path / "a.zarr", "0.5", "cyx", [PIXELS, PIXELS[::2, ::2]])
    zarr.open_group(path).attrs.put(described)
    with pytest.raises(ds.errors.SlideFormatError, match="multiscales metadata") as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)
