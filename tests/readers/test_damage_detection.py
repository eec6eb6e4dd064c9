"""Damaged files: headers of streams are checked against the tags of their page and the limits."""

import json
import struct

import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rw_fixtures import noise, one_line, patch_tag, segments, smooth, sparse_tiff

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.readers.codecs import headers
from dask_slides.readers.codecs.strict import strict_decode

SIDES = st.integers(1, 300)

ENCODED = {
    "jpeg": (lambda a: imagecodecs.jpeg_encode(a), headers.jpeg_frame),
    "jpeg grey": (lambda a: imagecodecs.jpeg_encode(a[..., 0].copy()), headers.jpeg_frame),
    "jpeg 2000": (
        lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k"),
        headers.jpeg2000_frame,
    ),
    "jpeg 2000 in boxes": (lambda a: imagecodecs.jpeg2k_encode(a), headers.jpeg2000_frame),
    "webp": (lambda a: imagecodecs.webp_encode(a, lossless=False), headers.webp_frame),
    "webp lossless": (lambda a: imagecodecs.webp_encode(a, lossless=True), headers.webp_frame),
    "png": (imagecodecs.png_encode, headers.png_frame),
    "jpeg xl": (imagecodecs.jpegxl_encode, headers.jpegxl_frame),
    "lerc": (lambda a: imagecodecs.lerc_encode(a), headers.lerc_frame),
}


@pytest.mark.parametrize("name", ENCODED)
@given(height=SIDES, width=SIDES)
def test_a_header_says_what_was_encoded(name, height, width):
    encode, read = ENCODED[name]
    pixels = np.full((height, width, 3), 77, np.uint8)
    pixels[height // 2 :, width // 3 :] = 200
    frame = read(encode(np.ascontiguousarray(pixels)))
    assert (frame.height, frame.width) == (height, width)
    if frame.samples is not None:
        assert frame.samples == (1 if "grey" in name else 3)
        assert frame.bits == 8


@pytest.mark.parametrize("name", ENCODED)
@given(data=st.binary(max_size=200), cut=st.integers(0, 60))
def test_a_damaged_header_is_a_value_error(name, data, cut):
    encode, read = ENCODED[name]
    whole = bytes(encode(noise(16, 16, 3)))
    for stream in (data, whole[:cut] + data, b""):
        try:
            read(stream)
        except ValueError as error:
            one_line(error)


def test_a_progressive_jpeg_of_very_many_scans_is_refused():
    head = b"\xff\xd8" + b"\xff\xc2\x00\x11\x08\x00\x20\x00\x20\x03" + bytes(9)
    assert headers.jpeg_frame(head + b"\xff\xda" * 64).height == 32
    with pytest.raises(ValueError, match="64 scans"):
        headers.jpeg_frame(head + b"\xff\xda" * 65)


def limited(path, **limits):
    with pytest.raises(ds.errors.SlideLimitError) as error:
        ds.open_slide(path, limits=ds.Limits(**limits))
    message = one_line(error)
    assert str(path) in message and "Limits(" in message


def test_a_slide_exactly_at_its_limits_opens(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(3):
            writer.write(noise(60, 40, 3), photometric="rgb", tile=(32, 16), description="x" * 500)
    exact = {"pixels": 60 * 40, "tile_bytes": 32 * 16 * 3, "channels": 3, "pages": 3,
             "description_bytes": 501}  # fmt: skip
    assert ds.open_slide(path, limits=ds.Limits(**exact)).shape == (60, 40, 3)
    for name, value in exact.items():
        limited(path, **(exact | {name: value - 1}))


def test_limits_of_a_command(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 48, 3), photometric="rgb", tile=(32, 16))
    words = ["info", str(path), "--json", "--limits"]
    result = CliRunner().invoke(main, [*words, "pixels=4kB", "--limits", "tile_bytes=1535"])
    assert result.exit_code == 1
    assert "Limits(tile_bytes=...)" in result.stderr
    result = CliRunner().invoke(main, [*words, "pixels=3072", "--limits", "tile_bytes=1.536 kB"])
    assert result.exit_code == 0, result.stderr
    for wrong in ("pixels", "pixels=", "pixels=0", "pixels=-1", "pixels=many", "rows=5", "=5", ""):
        result = CliRunner().invoke(main, [*words, wrong])
        assert result.exit_code == 2
        assert f"{wrong!r}: give one of channels, " in result.stderr


def test_limits_of_a_store(tmp_path):
    path = tmp_path / "a.ome.zarr"
    ds.write(ds.from_dask(noise(64, 64, 3)), path)
    assert ds.open_slide(path, limits=ds.Limits(pixels=4096)).shape == (64, 64, 3)
    limited(path, pixels=4095)
    limited(path, tile_bytes=1000)


def test_a_memory_mapped_image_has_no_tile_limit(tmp_path):
    path = tmp_path / "a.tif"
    stored = noise(300, 300, 3)
    tifffile.imwrite(path, stored, photometric="rgb")
    slide = ds.open_slide(path, limits=ds.Limits(tile_bytes=1000))
    np.testing.assert_array_equal(slide.read(0, 0, 300, 300), stored)


def test_tiles_may_share_their_bytes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(64, 96), photometric="rgb", tile=(32, 32), compression="zlib")
    whole = tifffile.imread(path)
    offset, count = segments(path)[2]
    patch_tag(path, 324, [offset] * 6)
    patch_tag(path, 325, [count] * 6)
    expected = np.tile(whole[:32, 64:], (2, 3, 1))
    np.testing.assert_array_equal(ds.open_slide(path).read(0, 0, 64, 96), expected)


def test_a_sparse_slide_of_40_000_tiles_opens(tmp_path):
    slide = ds.open_slide(sparse_tiff(tmp_path / "a.tif"))
    assert slide.shape == (102_400, 102_400, 3)


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "webp", "png", "jpegxl", "lzw", "lzma"])
@pytest.mark.parametrize("planar", [False, True], ids=["contiguous", "planar"])
def test_strict_decoding_equals_tifffile(tmp_path, codec, planar):
    if planar and codec in ("webp", "jpegxl"):
        pytest.skip("not written in planes")
    path = tmp_path / "a.tif"
    data = smooth(61, 47).transpose(2, 0, 1) if planar else smooth(61, 47)
    tags = {"planarconfig": "separate"} if planar else {}
    if planar and codec == "jpeg":
        tags |= {"photometric": "minisblack", "extrasamples": [0, 0]}
    tifffile.imwrite(path, np.ascontiguousarray(data), **({"photometric": "rgb"} | tags),
                     tile=(32, 32), compression=codec)  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        strict = strict_decode(page)
        for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts,
                                                     strict=True)):  # fmt: skip
            tiff.filehandle.seek(offset)
            stored = tiff.filehandle.read(count)
            options = {"jpegtables": page.jpegtables, "_fullsize": True}
            expected = page.decode(stored, number, **options)
            found = strict(stored, number, **options)
            np.testing.assert_array_equal(found[0], expected[0])
            assert found[1:] == expected[1:]


STRIPS = {"strips": {"rowsperstrip": 16}, "odd tiles": {"tile": (48, 48)}}


@pytest.mark.parametrize("layout", STRIPS)
@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb"},
        {"photometric": "rgb", "subsampling": (2, 2)},
        {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}},
        {"photometric": "minisblack"},
    ],
    ids=["ycbcr", "subsampled", "rgb", "grey"],
)
def test_jpeg_is_decoded_by_simplejpeg_once_it_matches_imagecodecs(
    tmp_path, layout, options, monkeypatch
):
    data = smooth(160, 120)
    data[:32] = data[:32, :, :1]  # grey tiles do not show the colour space
    if options["photometric"] == "minisblack":
        data = np.ascontiguousarray(data[..., 0])
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, compression="jpeg", **STRIPS[layout], **options)
    np.testing.assert_array_equal(
        ds.open_slide(path).read(0, 0, *data.shape[:2]).squeeze(), tifffile.imread(path)
    )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        decode, strict, decoded, number = page.decode, strict_decode(page), [], 0
        real = imagecodecs.jpeg8_decode
        monkeypatch.setattr(
            imagecodecs, "jpeg8_decode", lambda *a, **k: decoded.append(number) or real(*a, **k)
        )
        for number, (offset, count) in enumerate(segments(path)):
            tiff.filehandle.seek(offset)
            stored = tiff.filehandle.read(count)
            found = strict(stored, number)[0]
            with monkeypatch.context() as patch:
                patch.setattr(imagecodecs, "jpeg8_decode", real)
                np.testing.assert_array_equal(found, decode(stored, number)[0])
    assert decoded == ([0, 1, 2] if layout == "strips" and data.ndim == 3 else [0])
    stored = bytearray(path.read_bytes())
    stored[offset + count // 2 : offset + count - 2] = bytes(count - 2 - count // 2)
    path.write_bytes(stored)
    with pytest.raises(ds.errors.TileDecodeError):
        ds.open_slide(path).read(0, 0, *data.shape[:2])


LAYOUTS = {"tiles": {"tile": (64, 64)}, "strips": {"rowsperstrip": 32}}
OPERATIONS = {
    "read": lambda slide: slide.read(10, 20, 240, 290),
    "resize": lambda slide: ds.resize(slide, downsample=8).data.compute(),
    "blank map": lambda slide: ds.blank_map(
        slide, tile_size=100, detector=ds.Contrast(0.05)
    ).compute(),
    "crops": lambda slide: ds.pack_tiles(
        slide, tile_size=50, detector=ds.Contrast(0)
    ).tiles.compute(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("codec", ["jpeg", "zlib"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_error_names_the_tile_and_its_position(tmp_path, layout, codec, operation):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(256, 320), photometric="rgb", compression=codec,
                     **LAYOUTS[layout])  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        number = 7 if layout == "tiles" else 4
        offset, count = page.dataoffsets[number], page.databytecounts[number]
    region = (64, 128, 64, 64) if layout == "tiles" else (128, 0, 32, 320)
    stored = bytearray(path.read_bytes())
    stored[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path.write_bytes(stored)
    with pytest.raises(ds.errors.TileDecodeError) as error:
        OPERATIONS[operation](ds.open_slide(path))
    y, x, height, width = region
    assert (error.value.level, error.value.y, error.value.x) == (0, y, x)
    assert error.value.offset == offset
    position = f"rows {y} to {y + height}, columns {x} to {x + width}, at byte {offset},"
    assert position in str(error.value)
    one_line(error)


def test_codecs_without_a_size_in_their_header_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(32, 32, 3), photometric="rgb", tile=(32, 32), compression="jpegxr")
    with pytest.raises(ds.errors.SlideUnsupportedError, match="JPEGXR") as error:
        ds.open_slide(path)
    one_line(error)


CHUNKED = {
    "zstd": (3, zarr.codecs.ZstdCodec()),
    "gzip": (3, zarr.codecs.GzipCodec()),
    "blosc": (3, zarr.codecs.BloscCodec()),
    "zstd, 0.4": (2, numcodecs.Zstd()),
    "zlib, 0.4": (2, numcodecs.Zlib()),
    "lz4, 0.4": (2, numcodecs.LZ4()),
    "blosc, 0.4": (2, numcodecs.Blosc()),
}


def ome_zarr(path, pixels, codec, zarr_format, **options):
    """Write an image (y, x) of one level."""
    group = zarr.create_group(path, zarr_format=zarr_format)
    group.create_array("0", data=pixels, chunks=(64, 64), compressors=codec, **options)
    scale = {"type": "scale", "scale": [1.0, 1.0]}
    multiscales = [{
        "axes": [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}],
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
    }]  # fmt: skip
    if zarr_format == 2:
        group.attrs["multiscales"] = [{**multiscales[0], "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}


@pytest.mark.parametrize("kind", CHUNKED)
def test_a_chunk_of_another_size_is_named(tmp_path, kind):
    """Write a chunk that decodes to 1 MB in an array of chunks of 4 kB."""
    zarr_format, codec = CHUNKED[kind]
    path = tmp_path / "a.zarr"
    pixels = noise(128, 128)
    ome_zarr(path, pixels, codec, zarr_format)
    np.testing.assert_array_equal(ds.open_slide(path).read(0, 0, 128, 128)[..., 0], pixels)
    larger = tmp_path / "larger.zarr"
    options = {"shape": (1024, 1024), "chunks": (1024, 1024), "dtype": "uint8"}
    made = zarr.create_array(larger, compressors=codec, zarr_format=zarr_format, **options)
    made[...] = np.uint8(7)
    chunk = "1.1" if zarr_format == 2 else "c/1/1"
    (path / "0" / chunk).write_bytes((larger / chunk.replace("1", "0")).read_bytes())
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.read(0, 0, 64, 128)[..., 0], pixels[:64])
    with pytest.raises(ds.errors.TileDecodeError, match=r"rows 64 to 74, columns 64 to 74"):
        slide.read(64, 64, 10, 10)


def declare(path, change):
    """Change the metadata of the array at `path`."""
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


def large_chunks(metadata):
    metadata["shape"] = [2**20, 2**20]
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [2**20, 2**20]


def long_chunks(metadata):
    """The tile is small, but its chunk is long along an axis of one plane."""
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [2**30, 64, 64]


def many_chunks_per_shard(metadata):
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [2**20, 2**20]
    metadata["codecs"][0]["configuration"]["chunk_shape"] = [1, 1]


@pytest.mark.parametrize("change", [large_chunks, long_chunks, many_chunks_per_shard])
def test_a_store_that_declares_huge_chunks_is_refused(tmp_path, change):
    path = tmp_path / "a.zarr"
    ome_zarr(path, noise(64, 64), zarr.codecs.ZstdCodec(), 3, shards=(64, 64))
    if change is long_chunks:
        zarr.create_array(path / "0", data=noise(1, 64, 64), chunks=(1, 64, 64), overwrite=True)
        group = zarr.open_group(path)
        ome = group.attrs["ome"]
        ome["multiscales"][0]["axes"].insert(0, {"name": "z", "type": "space"})
        ome["multiscales"][0]["datasets"][0]["coordinateTransformations"] = []
        group.attrs["ome"] = ome
    ds.open_slide(path)
    declare(path / "0", change)
    with pytest.raises(ds.errors.SlideLimitError, match="declares") as error:
        ds.open_slide(path)
    one_line(error)


@pytest.mark.parametrize("name", ["tiles", "y", "score"])
def test_a_pack_that_declares_huge_chunks_is_refused(tmp_path, name):
    path = tmp_path / "a.tiles.zarr"
    ds.write(
        ds.pack_tiles(ds.from_dask(noise(128, 128, 3)), tile_size=64, detector=ds.Contrast(0.35)),
        path,
    )

    def change(metadata):
        grid = metadata["chunk_grid"]["configuration"]
        grid["chunk_shape"] = [2**40, *grid["chunk_shape"][1:]]

    declare(path / name, change)
    with pytest.raises(ds.errors.SlideLimitError, match="declares") as error:
        ds.open_pack(path)
    one_line(error)


def test_a_checksum_of_the_file(tmp_path):
    import hashlib

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(32, 32))
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    for given_ in (right, right.upper(), f" {right}\n"):
        assert ds.open_slide(path, sha256=given_).shape == (32, 32, 1)
    with pytest.raises(ds.errors.SlideChangedError, match=right) as error:
        ds.open_slide(path, sha256="0" * 64)
    one_line(error)
    with pytest.raises(ds.errors.SlideNotFoundError):
        ds.open_slide(tmp_path, sha256=right)


def test_sub_images_may_be_listed_and_chained(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(64, 64, 3), photometric="rgb", subifds=2)
        for side in (32, 16):
            writer.write(noise(side, side, 3), photometric="rgb", subfiletype=1)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        first, second = tiff.pages[0].subifds
        count = struct.unpack_from("<H", data, first)[0]
        struct.pack_into("<I", data, first + 2 + 12 * count, second)
    path.write_bytes(data)
    assert len(ds.open_slide(path).levels) == 3


@pytest.mark.parametrize("kind", ["minisblack", "rgb", "palette", "miniswhite", "bits"])
@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1), (5, 7)], ids=str)
@pytest.mark.parametrize(
    "layout", [{"tile": (64, 48)}, {"rowsperstrip": 3}, {"rowsperstrip": 3, "compression": "lzw"}],
    ids=["tile beyond the image", "odd strips", "odd strips of lzw"],
)  # fmt: skip
def test_small_images_of_every_meaning(tmp_path, kind, size, layout):
    path = tmp_path / "a.tif"
    stored = noise(*size, 3) if kind == "rgb" else noise(*size)
    options = {"photometric": "minisblack" if kind == "bits" else kind}
    expected = stored if kind == "rgb" else stored[..., None]
    if kind == "palette":
        colours = noise(3, 256, seed=1)
        options["colormap"] = colours.astype(np.uint16) * 257
        expected = colours.T[stored]
    elif kind == "miniswhite":
        expected = 255 - expected
    elif kind == "bits":
        stored = stored > 99
        expected = stored[..., None] * np.uint8(255)
    tifffile.imwrite(path, stored, **options, **layout)
    np.testing.assert_array_equal(ds.open_slide(path).read(0, 0, *size), expected)
