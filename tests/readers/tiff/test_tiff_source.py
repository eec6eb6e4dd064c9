"""TIFFs of every layout and codec have the pixels that were written, or those of tifffile."""

import pickle
import warnings
from contextlib import suppress

import distributed  # noqa: F401 - it makes errors pickle with their causes
import numpy as np
import pytest
import tifffile
from odd_files import ODD_FILES
from rw_fixtures import (
    bytes_read,
    change_file,
    data_folder,
    noise,
    one_line,
    patch_tag,
    real,
    segments,
    smooth,
    sparse_tiff,
)

import dask_slides as ds

SIZES = [(61, 47), (64, 96), (1, 50), (50, 1)]


def pixels_of(path, **options):
    """Return all pixels, and check that a region has the same pixels if it is read alone."""
    slide = ds.open_slide(path, **options)
    whole = slide.data.compute(scheduler="sync")
    assert whole.shape == slide.shape
    assert whole.dtype == slide.dtype
    height, width = whole.shape[:2]
    y, x = height // 3, width // 4
    part = slide.read(y, x, height - y, max(1, width // 2))
    np.testing.assert_array_equal(part, whole[y:, x : x + max(1, width // 2)])
    chunked = slide.to_dask(chunks=(max(1, height // 2), 33)).compute(scheduler="threads")
    np.testing.assert_array_equal(chunked, whole)
    return whole


def composited(stored, fill, premultiplied=False):
    """Return the colour composited over `fill`, in floating point."""
    top = float(np.iinfo(stored.dtype).max) if stored.dtype.kind == "u" else 1.0
    colour, alpha = stored[..., :-1].astype(np.float64), stored[..., -1:] / top
    mixed = (colour if premultiplied else colour * alpha) + (1 - alpha) * fill
    if stored.dtype.kind == "u":
        return np.minimum(np.rint(mixed), top).astype(stored.dtype)
    return mixed.astype(stored.dtype)


# ---------------------------------------------------------------- layouts

LAYOUTS = {
    "tiles": {"tile": (16, 16)},
    "oblong tiles": {"tile": (32, 48)},
    "one tile larger than the image": {"tile": (256, 256)},
    "odd strips": {"rowsperstrip": 7, "compression": "zlib"},
    "one compressed strip": {"rowsperstrip": 1000, "compression": "zlib"},
    "mapped strip": {"rowsperstrip": 1000},
    "mapped strips": {"rowsperstrip": 7},
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bigtiff", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("order", "<>")
def test_layouts(tmp_path, size, layout, bigtiff, order):
    path = tmp_path / "a.tif"
    stored = noise(*size, 3, dtype="uint16")
    options = {"photometric": "rgb", "bigtiff": bigtiff, "byteorder": order, **LAYOUTS[layout]}
    tifffile.imwrite(path, stored, **options)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff == bigtiff
        assert tiff.byteorder == order
        assert tiff.pages[0].is_memmappable == layout.startswith("mapped")
    np.testing.assert_array_equal(pixels_of(path), stored)


@pytest.mark.parametrize(("tile", "expected"), [((16, 16), (16, 16)), (None, (7, 47))])
def test_the_tile_of_a_level(tmp_path, tile, expected):
    path = tmp_path / "a.tif"
    options = {"tile": tile} if tile else {"rowsperstrip": 7}
    tifffile.imwrite(path, noise(61, 47, 3), photometric="rgb", compression="zlib", **options)
    (level,) = ds.open_slide(path).levels
    assert (level.shape, level.downsample, level.tile) == ((61, 47), (1.0, 1.0), expected)


def test_a_mapped_file_is_read_row_by_row(tmp_path):
    path = tmp_path / "a.tif"
    stored = noise(2000, 1500, 3)
    tifffile.imwrite(path, stored, photometric="rgb")  # one strip of 9 MB
    slide = ds.open_slide(path)
    assert slide.levels[0].tile[0] <= 64
    slide.read(0, 0, 1, 1)
    before = bytes_read()
    np.testing.assert_array_equal(slide.read(1999, 1490, 1, 10), stored[1999:, 1490:])
    assert bytes_read() - before < 100_000


CODECS = {
    "none": {},
    "lzw": {"compression": "lzw"},
    "lzw predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "deflate"},
    "zlib predictor": {"compression": "zlib", "predictor": True},
    "zstd": {"compression": "zstd"},
    "zstd predictor": {"compression": "zstd", "predictor": True},
    "packbits": {"compression": "packbits"},
    "lzma": {"compression": "lzma"},
    "webp": {"compression": "webp", "compressionargs": {"lossless": True}},
    "jpeg2000": {"compression": "jpeg2000", "compressionargs": {"reversible": True}},
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
def test_lossless_codecs(tmp_path, codec, tiled):
    path = tmp_path / "a.tif"
    stored = noise(61, 47, 3)
    layout = {"tile": (32, 32)} if tiled else {"rowsperstrip": 9}
    tifffile.imwrite(path, stored, photometric="rgb", **layout, **CODECS[codec])
    np.testing.assert_array_equal(pixels_of(path), stored)


JPEG = {
    "4:4:4": {"photometric": "rgb", "subsampling": (1, 1)},  # tifffile turns it into YCbCr
    "4:2:2": {"photometric": "rgb", "subsampling": (2, 1)},
    "4:2:0": {"photometric": "rgb", "subsampling": (2, 2)},
    "rgb": {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}},
    "lossy webp": {"photometric": "rgb", "compression": "webp"},
    "lossy jpeg2000": {
        "photometric": "rgb",
        "compression": "jpeg2000",
        "compressionargs": {"level": 45},
    },
}


@pytest.mark.parametrize("kind", JPEG)
@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
def test_lossy_codecs_read_as_tifffile_reads_them(tmp_path, kind, tiled):
    path = tmp_path / "a.tif"
    stored = smooth(130, 97)
    layout = {"tile": (64, 64)} if tiled else {"rowsperstrip": 32}
    tifffile.imwrite(path, stored, **({"compression": "jpeg"} | layout | JPEG[kind]))
    found = pixels_of(path)
    np.testing.assert_array_equal(found, tifffile.imread(path))
    assert np.abs(found.astype(int) - stored).mean() < 4  # the image has the right colours


@pytest.mark.parametrize("writer", ["Aperio Image Library v12", "Bio-Formats"])
def test_aperio_ycbcr_jpeg2000(tmp_path, writer):
    """Aperio's scanners store YCbCr as 33003 with the tag of RGB; other writers store RGB."""
    path = tmp_path / "a.tif"
    ycc = np.stack([noise(61, 47, seed=k) for k in range(3)], axis=-1)
    args = {"reversible": True, "mct": False}
    tifffile.imwrite(
        path, ycc, photometric="rgb", tile=(32, 32), compression="jpeg2000", compressionargs=args,
        description=writer, metadata=None,
    )  # fmt: skip
    np.testing.assert_array_equal(tifffile.imread(path), ycc)
    patch_tag(path, 259, 33003)
    if not writer.startswith("Aperio"):
        np.testing.assert_array_equal(pixels_of(path), ycc)
        return
    luma, blue, red = (ycc[..., k].astype(np.float64) for k in range(3))
    matrix = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
    expected = np.stack([luma, blue - 128, red - 128], axis=-1) @ matrix.T
    found = pixels_of(path)
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.51


# ---------------------------------------------------------------- kinds of samples


@pytest.mark.parametrize("layout", [{}, {"tile": (32, 32)}, {"rowsperstrip": 7}], ids=str)
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_dtypes(tmp_path, layout, dtype, channels):
    path = tmp_path / "a.tif"
    stored = noise(61, 47, channels, dtype=dtype)
    photometric = "rgb" if channels == 3 else "minisblack"
    data = stored if channels == 3 else stored[..., 0]
    tifffile.imwrite(path, data, photometric=photometric, byteorder=">", **layout)
    found = pixels_of(path)
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("colours", [3, 1])
@pytest.mark.parametrize("fill", [None, 0, 200])
def test_alpha_is_composited(tmp_path, dtype, kind, colours, fill):
    path = tmp_path / "a.tif"
    stored = noise(61, 47, colours + 1, dtype=dtype)
    stored[:20, :, -1] = 0  # hidden colour
    if kind == "assocalpha":
        top = 1 if dtype == "float32" else np.iinfo(dtype).max
        wide = stored[..., :-1].astype(np.float64) * stored[..., -1:] / top
        stored[..., :-1] = wide if dtype == "float32" else np.rint(wide)
    tifffile.imwrite(
        path,
        stored,
        photometric="rgb" if colours == 3 else "minisblack",
        planarconfig="contig",
        extrasamples=[kind],
        tile=(32, 32),
        compression="zlib",
    )
    found = pixels_of(path) if fill is None else pixels_of(path, fill=fill)
    if fill is None:  # white for colours, 0 for grey
        fill = 0 if colours == 1 else 1.0 if dtype == "float32" else np.iinfo(dtype).max
    expected = composited(stored, fill, kind == "assocalpha")
    assert found.shape == (61, 47, colours)
    if dtype == "float32":
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", [4, 5])
def test_unspecified_samples_are_channels(tmp_path, count):
    path = tmp_path / "a.tif"
    stored = noise(61, 47, count)
    extra = ["unspecified"] * (count - 3)
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=extra)
    np.testing.assert_array_equal(pixels_of(path), stored)


@pytest.mark.parametrize(
    "layout", ["planar rgb", "planar", "pages", "mapped", "imagej", "truncated"]
)
def test_channels_first(tmp_path, layout):
    path = tmp_path / "a.tif"
    stored = noise(3, 61, 47, dtype="uint16")
    axes = {"metadata": {"axes": "CYX"}, "photometric": "minisblack"}
    options = {
        "planar rgb": {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 32)},
        "planar": {
            "photometric": "minisblack",
            "planarconfig": "separate",
            "extrasamples": ["unspecified"] * 2,
            "compression": "lzw",
            "rowsperstrip": 7,
        },
        "pages": {**axes, "compression": "zlib", "tile": (32, 32)},
        "mapped": axes,
        "imagej": {"imagej": True, "metadata": {"axes": "CYX"}},
        "truncated": {**axes, "truncate": True},
    }[layout]
    tifffile.imwrite(path, stored, **options)
    np.testing.assert_array_equal(pixels_of(path), stored.transpose(1, 2, 0))


@pytest.mark.parametrize("layout", [{}, {"compression": "packbits"}, {"tile": (16, 32)}], ids=str)
@pytest.mark.parametrize("white", [False, True], ids=["black is 0", "white is 0"])
def test_one_bit(tmp_path, layout, white):
    path = tmp_path / "a.tif"
    stored = noise(61, 47) > 99
    tifffile.imwrite(path, stored, photometric="miniswhite" if white else "minisblack", **layout)
    expected = np.where(stored ^ white, 255, 0)
    np.testing.assert_array_equal(pixels_of(path)[..., 0], expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("layout", [{}, {"tile": (32, 32), "compression": "zlib"}], ids=str)
def test_inverted_grey(tmp_path, dtype, layout):
    path = tmp_path / "a.tif"
    stored = noise(61, 47, dtype=dtype)
    tifffile.imwrite(path, stored, photometric="miniswhite", **layout)
    expected = int(np.iinfo(dtype).max) - stored.astype(int)
    np.testing.assert_array_equal(pixels_of(path)[..., 0], expected)


# ---------------------------------------------------------------- levels, scale


def write_pyramid(path, layout, sizes=((200, 301), (100, 150), (50, 75))):
    levels = [smooth(*size, seed=k) for k, size in enumerate(sizes)]
    options = {"photometric": "rgb", "tile": (32, 32), "compression": "zlib"}
    sub = layout != "pages"
    with tifffile.TiffWriter(path, bigtiff=True, ome=layout == "ome") as writer:
        first = {"subifds": len(levels) - 1} if sub else {}
        if layout == "ome":
            first["metadata"] = {
                "axes": "YXS",
                "PhysicalSizeX": 0.5,
                "PhysicalSizeY": 0.25,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeYUnit": "µm",
            }
        else:
            first["metadata"] = None
        writer.write(levels[0], **options, **first)
        for level in levels[1:]:
            writer.write(level, **options, subfiletype=1, metadata=None)
    return levels


@pytest.mark.parametrize("layout", ["subifds", "pages", "ome"])
def test_pyramids(tmp_path, layout):
    path = tmp_path / ("a.ome.tif" if layout == "ome" else "a.tif")
    written = write_pyramid(path, layout)
    slide = ds.open_slide(path)
    assert [level.shape for level in slide.levels] == [(200, 301), (100, 150), (50, 75)]
    assert [level.downsample for level in slide.levels] == [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]
    for number, pixels in enumerate(written):
        found = slide.to_dask(level=number).compute(scheduler="sync")
        np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(slide.read(40, 80, 10, 12, level=1), written[1][20:30, 40:52])
    assert slide.mpp_yx == ((0.25, 0.5) if layout == "ome" else None)


@pytest.mark.parametrize(("unit", "factor"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3)])
@pytest.mark.parametrize("axes", ["CYX", "YXS", "YX", "TCYX"])
def test_ome_tiff(tmp_path, unit, factor, axes):
    path = tmp_path / "a.ome.tif"
    stored = noise(61, 47, 3)
    data = {
        "CYX": stored.transpose(2, 0, 1),
        "TCYX": stored.transpose(2, 0, 1)[None],
        "YXS": stored,
        "YX": stored[..., 0],
    }[axes]
    sizes = {"PhysicalSizeY": 0.5 / factor, "PhysicalSizeX": 0.25 / factor}
    units = {"PhysicalSizeYUnit": unit, "PhysicalSizeXUnit": unit}
    tifffile.imwrite(
        path,
        data,
        photometric="rgb" if axes == "YXS" else "minisblack",
        metadata={"axes": axes} | sizes | units,
        compression="zlib",
        tile=(32, 32),
    )
    found = pixels_of(path)
    np.testing.assert_array_equal(found, stored if axes != "YX" else stored[..., :1])
    assert ds.open_slide(path).mpp_yx == pytest.approx((0.5, 0.25))


def test_the_largest_series_is_the_slide(tmp_path):
    path = tmp_path / "a.tif"
    stored = noise(80, 90, 3)
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(30, 20, 3), photometric="rgb", metadata=None)
        writer.write(stored, photometric="rgb", metadata=None)
    np.testing.assert_array_equal(pixels_of(path), stored)


# ---------------------------------------------------------------- nothing is read on opening


def test_opening_and_planning_read_no_pixel(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(1500, 1500, 3), photometric="rgb", tile=(256, 256))
    with suppress(ds.SlideError):
        ds.open_slide(path)  # imports
    with open(path, "r+b") as file:
        for offset, count in segments(path):
            file.seek(offset)
            file.write(b"\xff" * count)
    before = bytes_read()
    slide = ds.open_slide(path)
    graph = ds.resize(slide, downsample=3).data
    assert bytes_read() - before < 100_000 < path.stat().st_size // 50
    assert graph.shape == (500, 500, 3)
    assert slide.shape == (1500, 1500, 3)


@pytest.mark.parametrize("codec", ["zlib", "lzw", "jpeg2000", "webp", "zstd", "lzma"])
def test_damaged_tiles_raise(tmp_path, codec):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64, 3), photometric="rgb", compression=codec, tile=(64, 64))
    ((offset, count),) = segments(path)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\x01" * count)
    with pytest.raises(ds.errors.TileDecodeError, match="rows 0 to 64") as error:
        ds.open_slide(path).data.compute(scheduler="sync")
    assert isinstance(error.value, OSError)
    message = one_line(error)
    copy = pickle.loads(pickle.dumps(error.value))
    assert (type(copy), str(copy)) == (ds.errors.TileDecodeError, message)


def test_a_huge_sparse_slide_opens_and_reads_the_fill(tmp_path):
    path = sparse_tiff(tmp_path / "a.tif")
    assert path.stat().st_size < 1_000_000
    slide = ds.open_slide(path)
    assert slide.shape == (102_400, 102_400, 3)
    assert (slide.read(51_000, 51_000, 600, 700) == 255).all()
    assert (ds.open_slide(path, fill=7).read(0, 102_000, 600, 400) == 7).all()


ABSENT = {
    "rgb": {"photometric": "rgb"},
    "straight alpha": {"photometric": "rgb", "channels": 4, "extrasamples": ["unassalpha"]},
    "premultiplied": {"photometric": "rgb", "channels": 4, "extrasamples": ["assocalpha"]},
    "white is 0": {"photometric": "miniswhite", "channels": 0},
    "palette": {
        "photometric": "palette",
        "channels": 0,
        "colormap": noise(3, 256, dtype="uint16", seed=3),
    },
    "uint16": {"photometric": "rgb", "dtype": "uint16"},
    "float": {"photometric": "rgb", "dtype": "float32"},
    "one bit": {"photometric": "minisblack", "channels": 0, "dtype": "bool"},
}


@pytest.mark.parametrize("kind", ABSENT)
@pytest.mark.parametrize("fill", [255, 100, 0])
def test_absent_tiles_show_the_fill(tmp_path, kind, fill):
    path = sparse_tiff(tmp_path / "a.tif", (70, 80), 32, compression="zlib", **ABSENT[kind].copy())
    assert np.unique(ds.open_slide(path, fill=fill).read(3, 5, 60, 70)).tolist() == [fill]


def test_absent_tiles_among_others(tmp_path):
    path = tmp_path / "a.tif"
    ycc = noise(64, 96, 3)
    tifffile.imwrite(
        path,
        ycc,
        photometric="rgb",
        tile=(32, 32),
        compression="jpeg2000",
        compressionargs={"reversible": True, "mct": False},
    )
    patch_tag(path, 259, 33003)
    whole = pixels_of(path)
    counts = [count for _, count in segments(path)]
    patch_tag(path, 325, [0 if k == 4 else count for k, count in enumerate(counts)])
    expected = whole.copy()
    expected[32:64, 32:64] = 255
    np.testing.assert_array_equal(pixels_of(path), expected)


@pytest.mark.parametrize("code", [273, 279], ids=["offset 0", "byte count 0"])
def test_an_absent_uncompressed_strip_shows_the_fill(tmp_path, code):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(61, 47, 3), photometric="rgb")
    patch_tag(path, code, 0)
    assert (ds.open_slide(path, fill=77).read(0, 0, 61, 47) == 77).all()


# ---------------------------------------------------------------- errors


def refused(path, kind, builtin, **options):
    with pytest.raises(kind) as error:
        ds.open_slide(path, **options).data.compute(scheduler="sync")
    assert isinstance(error.value, builtin)
    assert isinstance(error.value, ds.SlideError)
    message = one_line(error)
    assert str(path) in message
    copy = pickle.loads(pickle.dumps(error.value))
    assert (type(copy), str(copy)) == (type(error.value), message)
    return message


def test_a_path_that_does_not_exist(tmp_path):
    message = refused(tmp_path / "absent.svs", ds.errors.SlideNotFoundError, FileNotFoundError)
    assert "No such file" in message
    refused(tmp_path / "no folder" / "a.tif", ds.errors.SlideNotFoundError, FileNotFoundError)


def test_a_folder_without_a_store(tmp_path):
    refused(tmp_path, ds.errors.SlideFormatError, ValueError)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"II*\0",
        b"MM\0*\0\0",
        b"II+\0\x08\0",
        b"II*\0\xff\xff\xff\x7f",
        b"\xff\xd8",
    ],
    ids=repr,
)
def test_files_without_an_image(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    refused(path, ds.errors.SlideFormatError, ValueError)


@pytest.mark.parametrize(
    ("case", "word"),
    [("complex", "samples"), ("colour pages", "channels")],
)
def test_kinds_that_are_refused(tmp_path, case, word):
    path = tmp_path / ("a.ome.tif" if case == "colour pages" else "a.tif")
    data, options = {
        "complex": (noise(32, 32, dtype="float32") * 1j, {}),
        "colour pages": (
            noise(2, 32, 32, 3),
            {"metadata": {"axes": "CYXS"}, "photometric": "rgb"},
        ),
    }[case]
    tifffile.imwrite(path, data, **options)
    assert word in refused(path, ds.errors.SlideUnsupportedError, NotImplementedError)


@pytest.mark.parametrize("change", ["time", "size", "gone"])
@pytest.mark.parametrize("before", [True, False], ids=["read before", "not read before"])
def test_a_file_that_changed(tmp_path, change, before):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64))
    slide = ds.open_slide(path)
    if before:
        slide.read(0, 0, 1, 1)  # the process keeps the file open
    change_file(path, change)
    kind = ds.errors.SlideNotFoundError if change == "gone" else ds.errors.SlideChangedError
    with pytest.raises(kind) as error:
        slide.data.compute(scheduler="sync")
    assert isinstance(error.value, OSError)
    assert str(path) in one_line(error)


@pytest.mark.parametrize(
    "options",
    [{"mpp": 0}, {"mpp": -1}, {"mpp": float("nan")}, {"mpp": "big"}, {"mpp": (1, 2, 3)},
     {"fill": -1}, {"fill": "white"}, {"fill": float("inf")}, {"on_bad_tile": "black"}],
    ids=str,
)  # fmt: skip
def test_wrong_arguments(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(16, 16))
    with pytest.raises(ds.errors.SlideArgumentError) as error:
        ds.open_slide(path, **options)
    assert isinstance(error.value, ValueError)
    one_line(error)


def test_regions_outside(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 48))
    slide = ds.open_slide(path)
    for region in [(0, 0, 65, 1), (0, 48, 1, 1), (-1, 0, 2, 2), (0, 0, 0, 5), (63, 47, 2, 1)]:
        with pytest.raises(ds.errors.SlideArgumentError) as error:
            slide.read(*region)
        assert "a.tif" in one_line(error)
    with pytest.raises(ds.errors.SlideArgumentError, match="no level 1"):
        slide.read(0, 0, 1, 1, level=1)


def test_every_error_is_a_builtin_error_and_pickles():
    pairs = {
        "SlideNotFoundError": FileNotFoundError,
        "SlideFormatError": ValueError,
        "SlideTruncatedError": EOFError,
        "SlideLimitError": OverflowError,
        "SlideUnsupportedError": NotImplementedError,
        "SlideArgumentError": ValueError,
        "SlideMppError": ValueError,
        "SlideChangedError": OSError,
        "TileDecodeError": OSError,
        "OutputExistsError": FileExistsError,
        "OutputBusyError": BlockingIOError,
        "OutputFullError": OSError,
        "OutputDeniedError": PermissionError,
        "WorkerKilledError": RuntimeError,
        "ClusterLostError": ConnectionError,
        "RemoteError": ConnectionError,
        "RemoteAccessError": PermissionError,
        "ResumeError": ValueError,
        "SlideMemoryError": RuntimeError,
        "StoreDamagedError": OSError,
        "BlankSlideError": ValueError,
    }
    from dask_slides import errors

    kinds = {n for n, v in vars(errors).items() if isinstance(v, type) and n.endswith("Error")}
    assert kinds == set(pairs) | {"SlideError"}
    for name, builtin in pairs.items():
        error = getattr(errors, name)("a.svs: what; cure")
        assert isinstance(error, builtin)
        assert isinstance(error, ds.SlideError)
        assert str(pickle.loads(pickle.dumps(error))) == "a.svs: what; cure"


# ---------------------------------------------------------------- real slides

REAL = {
    "CMU-1-Small-Region.svs": ((2967, 2220, 3), 1, 0.499),
    "TCGA-CR-7395.svs": ((3567, 4443, 3), 2, None),
    "CMU-1-Small-Region.jpeg.tiff": ((2967, 2220, 3), 1, None),
    "small_vectra.qptiff": ((1440, 1920, 3), 1, 0.4965),
    "kidney-48-5.tif": ((901, 1493, 3), 1, None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_slides(name):
    path = real(name)
    shape, levels, mpp = REAL[name]
    slide = ds.open_slide(path)
    assert slide.shape == shape
    assert len(slide.levels) == levels
    if mpp is not None:
        assert slide.mpp == pytest.approx(mpp, abs=1e-4)
    with tifffile.TiffFile(path) as tiff:
        for number, level in enumerate(tiff.series[0].levels):
            expected = level.asarray()
            if level.axes == "CYX":
                expected = expected.transpose(1, 2, 0)
            found = slide.to_dask(level=number).compute(scheduler="threads")
            np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------- odd files

ODD = sorted(data_folder("odd-tiffs").iterdir()) if data_folder("odd-tiffs") else []


def frames_of_pillow(path):
    from PIL import Image, ImageOps

    with suppress(Exception), Image.open(path) as file:
        for number in range(getattr(file, "n_frames", 1)):
            file.seek(number)
            image = ImageOps.exif_transpose(file)
            if image.mode == "1":
                yield np.asarray(image).astype(np.uint8) * 255
            elif image.mode == "RGBA":
                yield composited(np.asarray(image), 255)
            elif image.mode in ("P", "RGBX", "YCbCr", "CMYK"):
                yield np.asarray(image.convert("RGB"))
            elif image.mode not in ("LAB", "PA"):
                yield np.asarray(image)


def frames_of_tifffile(path):
    """Yield the tiles as tifffile decodes them, converted to grey or RGB."""
    with suppress(Exception), tifffile.TiffFile(path, _multifile=False) as tiff:
        for page in tiff.pages:
            stored = page.asarray()
            for data, (plane, _, y, x, _), size in page.segments():
                if data is None and stored.ndim == 3:  # absent: the fill, not black
                    stored[plane, y : y + size[1], x : x + size[2]] = 0
            if int(page.planarconfig) == 2 and stored.ndim == 3:
                stored = stored.transpose(1, 2, 0)
            if stored.dtype == bool:
                stored = stored.astype(np.uint8) * 255
            if int(page.photometric) == 0:
                stored = 255 - stored
            if int(page.photometric) == 5:
                light = 1 - stored / np.iinfo(stored.dtype).max
                rgb = light[..., :3] * light[..., 3:] * np.iinfo(stored.dtype).max
                stored = np.rint(rgb).astype(stored.dtype)
            kind = int(page.extrasamples[-1]) if page.extrasamples else 0
            if kind in (1, 2) and stored.ndim == 3:
                white = 1.0 if stored.dtype.kind == "f" else np.iinfo(stored.dtype).max
                stored = composited(stored, white, premultiplied=kind == 1)
            yield stored


def matches(found, frame):
    frame = frame[..., None] if frame.ndim == 2 else frame
    return frame.shape == found.shape and bool(
        (np.abs(frame.astype(np.float64) - found.astype(np.float64)) <= 1).all()
        if frame.dtype == found.dtype == np.uint8
        else np.array_equal(frame, found)
    )


@pytest.mark.parametrize("path", ODD, ids=lambda path: path.name)
def test_odd_files_read_right_or_are_refused(path, capfd):
    outcome = ODD_FILES[path.name]
    if outcome.endswith("Error"):
        with pytest.raises(ds.SlideError) as error:
            ds.open_slide(path).data.compute(scheduler="sync")
        assert type(error.value).__name__ == outcome
        assert str(path) in one_line(error)
        return
    found = ds.open_slide(path).data.compute(scheduler="sync")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of the file
        frames = list({"pillow": frames_of_pillow, "tifffile": frames_of_tifffile}[outcome](path))
    assert any(matches(found, frame) for frame in frames)
    if any(frame.any() for frame in frames):
        assert found.any()
