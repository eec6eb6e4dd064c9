"""Stores of the slide's own compressed tiles: equal pixels, equal bytes, and nothing decoded."""

import zlib

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
import zarr
from encoded_tiffs import KINDS, SCAN, TILE, cut, written
from tiff_bytes import tiff

import dask_slides as ds
from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.geometry import Region
from dask_slides.core.source import Level
from dask_slides.errors import SlideArgumentError, SlideUnsupportedError, TileDecodeError
from dask_slides.readers.codecs.zarr_codecs import register
from dask_slides.writers import labels
from dask_slides.writers.source_plan import CopiedLevel, plan_source


@pytest.fixture(autouse=True)
def _sync(sync):
    register()  # as `pip install` does by entry points, and imagecodecs.zarr.register_codecs()


@pytest.fixture(scope="module")
def image(stained):
    """Return 200 x 250 px: edge tiles reach beyond it."""
    return np.ascontiguousarray(stained[100:300, 100:350])


@pytest.mark.parametrize("kind", [*KINDS, "shared tables, RGB", "shared tables, YCbCr 4:2:2"])
def test_stock_zarr_and_our_reader_return_the_pixels_of_the_slide(tmp_path, image, kind):
    path = written(kind, image, tmp_path / "a.tif")
    store = ds.write(path_slide(path), tmp_path / "a.ome.zarr", codec="source")
    expected = tifffile.imread(path)
    expected = expected.reshape(*expected.shape[:2], -1)
    array = zarr.open_group(store, mode="r")["0"]
    assert array.chunks[1:] == (TILE, TILE)
    np.testing.assert_array_equal(array[...].transpose(1, 2, 0), expected)
    copy = ds.open_slide(store)
    np.testing.assert_array_equal(copy.read(0, 0, *copy.shape[:2]), expected)
    np.testing.assert_array_equal(copy.read(50, 60, 99, 101), expected[50:149, 60:161])
    ds.verify(store)


def path_slide(path):
    return ds.open_slide(path)


def test_reduced_reads_are_those_of_the_slide(tmp_path, stained):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stained, photometric="rgb", tile=(256, 256), compression="jpeg")
    slide = ds.open_slide(path)
    copy = ds.open_slide(ds.write(slide, tmp_path / "a.ome.zarr", codec="source"))
    assert copy.source.reductions(0) == slide.source.reductions(0) == (2, 4, 8)
    for factor in (2, 4, 8):
        region = Region(3, 5, 600 // factor, 700 // factor)
        np.testing.assert_array_equal(
            copy.source.read_reduced(0, factor, region),
            slide.source.read_reduced(0, factor, region),
        )


def chunks_of(store, name="0"):
    """Return the chunks of a store of one shard as Zarr's specification of shards lays them out."""
    (file,) = (store / name / "c" / "0").glob("*/*")
    data, shape = file.read_bytes(), zarr.open_group(str(store), mode="r")[name]
    counts = [a // b for a, b in zip(shape.shards, shape.chunks, strict=True)]
    index = np.frombuffer(data[-4 - 16 * np.prod(counts) : -4], "<u8").reshape(*counts, 2)
    return {
        place[1:]: data[index[place][0] : index[place].sum() - 4]  # without the checksum
        for place in np.ndindex(*counts)
        if index[place][0] != 2**64 - 1
    }


@pytest.mark.parametrize("kind", ["jpeg", "zstd", "jpeg 2000", "shared tables, RGB"])
def test_the_compressed_bytes_are_those_of_the_file(tmp_path, image, kind):
    path = written(kind, image, tmp_path / "a.tif")
    ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr", codec="source")
    chunks, data = chunks_of(tmp_path / "a.ome.zarr"), path.read_bytes()
    with tifffile.TiffFile(path) as opened:
        page = opened.pages[0]
        across = -(-page.imagewidth // TILE)
        tiles = [
            data[start : start + length]
            for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    assert {row * across + column for row, column in chunks} == set(range(len(tiles)))
    for (row, column), chunk in chunks.items():
        tile = tiles[row * across + column]
        if kind == "shared tables, RGB":  # the header has grown, the scan has not
            assert chunk.split(SCAN, 1)[1] == tile.split(SCAN, 1)[1]
        else:
            assert chunk == tile


def test_copied_levels_are_not_decoded(tmp_path, stained, monkeypatch):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for level in range(3):
            side = 2**level
            pixels = stained[::side, ::side]
            writer.write(pixels, photometric="rgb", tile=(64, 64), compression="jpeg",
                         subfiletype=int(level > 0), subifds=None if level else 2)  # fmt: skip
    slide = ds.open_slide(path)

    def decode(*args, **kwargs):
        raise AssertionError("a tile was decoded")

    for module, name in ((imagecodecs, "jpeg8_decode"), (simplejpeg, "decode_jpeg")):
        monkeypatch.setattr(module, name, decode)
    store = ds.write(slide, tmp_path / "a.ome.zarr", codec="source")
    copied = zarr.open_group(store, mode="r").attrs["dask_slides"]["copied"]
    assert {name: one["level"] for name, one in copied.items()} == {"0": 0, "1": 1, "2": 2}


def test_missing_levels_are_made_and_encoded_with_the_quality(tmp_path, stained):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for level, side in enumerate((1, 4)):
            height, width = (n // side for n in stained.shape[:2])
            pixels = stained.reshape(height, side, width, side, 3).mean(axis=(1, 3))
            writer.write(pixels.round().astype(np.uint8), photometric="rgb", tile=(64, 64),
                         compression="jpeg", compressionargs={"level": 95},
                         subfiletype=int(level > 0), subifds=None if level else 1)  # fmt: skip
    slide = ds.open_slide(path)
    store = ds.write(slide, tmp_path / "a.ome.zarr", codec="source", quality=95, level_step=2)
    group = zarr.open_group(store, mode="r")
    assert group.attrs["dask_slides"]["made"] == {"1": {"codec": "JPEG", "quality": 95}}
    height, width = stained.shape[0] // 2, stained.shape[1] // 2
    expected = stained.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    made = group["1"][...].transpose(1, 2, 0)
    assert made.shape == expected.shape
    assert abs(made - expected).mean() < 4  # two generations of JPEG
    scales = [
        one["coordinateTransformations"][0]["scale"]
        for one in group.attrs["ome"]["multiscales"][0]["datasets"]
    ]
    assert scales == [[1, 1, 1], [1, 2, 2], [1, 4, 4]]


@pytest.mark.parametrize(
    ("stored", "side", "step", "expected"),
    [
        ([1, 4, 16, 64], 102_400, 4, "1 4 16 64 256*"),
        ([1, 4, 16, 64], 102_400, 2, "1 2* 4 8* 16 32* 64 128* 256*"),
        ([1, 4, 16, 64], 102_400, None, "1 4 16 64"),
        ([1], 102_400, 4, "1 4* 16* 64* 256*"),
        ([1], 102_400, 8, "1 8* 64*"),
        ([1, 16], 40_000, 4, "1 4* 16 64*"),
        ([1, 2, 4, 8], 4_000, 4, "1 2 4 8"),
        ([1, 32], 40_000, 4, "1 4* 16* 32 128*"),
        ([1], 1_000, 4, "1"),
        ([1], 1_024, 4, "1 4*"),
        ([1, 3], 42_000, 4, "1 3 12* 48*"),
        ([1, 3], 42_000, 2, "1 2* 3 8* 16* 32* 64* 128*"),
    ],
)
def test_levels_are_made_where_steps_would_be_larger(stored, side, step, expected):
    class Stored:
        name = "a.tif"
        levels = tuple(
            Level((-(-side // factor),) * 2, (float(factor),) * 2, (512, 512)) for factor in stored
        )

        def encoding(self, level):
            return TileEncoding("JPEG", (512, 512), {"name": "imagecodecs_jpeg"})

    plan = plan_source(Stored(), step)
    found = [
        f"{one.downsample[0]:g}" + "*" * (not isinstance(one, CopiedLevel)) for one in plan.levels
    ]
    assert " ".join(found) == expected
    sides = {one.shape[0] for one in plan.levels if not isinstance(one, CopiedLevel)}
    assert sides == {-(-side // int(one[:-1])) for one in found if one.endswith("*")}


@pytest.mark.parametrize("compression", ["jpeg", "zstd"])
def test_a_flat_slide_gets_a_level_of_a_quarter(tmp_path, compression):
    path = ds.sample_slide(tmp_path / "a.tif", shape=(1100, 1300), tile=64, compression=compression)
    store = ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr", codec="source")
    group = zarr.open_group(store, mode="r")
    assert sorted(name for name in group.array_keys()) == ["0", "1"]
    pixels = tifffile.imread(path)
    expected = pixels.reshape(275, 4, 325, 4, 3).mean(axis=(1, 3))
    made = group["1"][...].transpose(1, 2, 0)
    assert abs(made - expected).mean() < (3 if compression == "jpeg" else 0.6)
    with pytest.raises(SlideArgumentError, match="level_step=3; give 2, 4, 8 or None"):
        ds.write(ds.open_slide(path), tmp_path / "b.ome.zarr", codec="source", level_step=3)


def damaged(path, number, stream):
    """Overwrite the start of a tile of a TIFF, or remove it if `stream` is None."""
    with tifffile.TiffFile(path, mode="r+b") as opened:
        page = opened.pages[0]
        if stream is None:
            counts = list(page.databytecounts)
            counts[number] = 0
            page.tags[325].overwrite(counts)
        else:
            opened.filehandle.seek(page.dataoffsets[number])
            opened.filehandle.write(stream)
    return path


def test_an_absent_tile_is_an_absent_chunk_and_listed(tmp_path, image):
    path = damaged(written("jpeg", image, tmp_path / "a.tif"), 5, None)
    store = ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr", codec="source")
    assert (1, 1) not in chunks_of(tmp_path / "a.ome.zarr")
    copy = ds.open_slide(store)
    assert (copy.read(64, 64, 64, 64) == 255).all()
    (hole,) = copy.source.holes(0, Region(0, 0, 200, 250))
    assert hole.region == Region(64, 64, 64, 64) and hole.tile.status == "absent"


@pytest.mark.parametrize(
    ("dtype", "fill", "shown"), [("uint16", None, 65_535), ("uint8", 0, 0), ("uint8", 7, 7)]
)
def test_what_is_left_out_shows_the_fill_value_of_the_array(tmp_path, image, dtype, fill, shown):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image.astype(dtype), photometric="rgb", tile=(64, 64),
                     compression="zstd")  # fmt: skip
    slide = ds.open_slide(damaged(path, 5, None), fill=fill)
    blank = np.zeros((4, 4), bool)
    blank[2, 2] = True
    blanks = ds.blank_map(slide, tile_size=64).compute().with_blank(blank)
    store = ds.write(
        slide, tmp_path / "a.ome.zarr", codec="source", drop_blank=True, blank_map=blanks
    )
    expected = zarr.open_group(store, mode="r")["0"][...].transpose(1, 2, 0)
    assert (expected[64:128, 64:128] == shown).all() and (expected[128:192, 128:192] == shown).all()
    for options in ({}, {"on_bad_tile": "mask"}, {"fill": 9}, {"fill": 9, "on_bad_tile": "mask"}):
        copy = ds.open_slide(store, **options)
        np.testing.assert_array_equal(copy.read(0, 0, 200, 250), expected)
        regions = [Region(60, 70, 9, 80), Region(130, 130, 64, 60)]
        for index, part, pixels in copy.source.gather(0, regions):
            assert part == part.intersect(regions[index])
            np.testing.assert_array_equal(pixels, expected[part.slices()])
    # what was left out as blank is blank, and what the slide lacks is unknown
    for on_bad_tile in ("raise", "mask"):
        copy = ds.open_slide(store, on_bad_tile=on_bad_tile)
        found = ds.blank_map(copy, tile_size=64, detector=ds.Contrast(0.0)).compute()
        assert np.argwhere(found.blank).tolist() == [[2, 2]]
        assert np.argwhere(found.unknown).tolist() == [[1, 1]]
        assert found.stats.total[2, 2] == shown * 64 * 64 * 3
    pack = ds.pack_tiles(store, tile_size=64, downsample=1, detector=ds.Contrast(0.0), edge="pad")
    for tile, y, x in zip(pack[:], pack.y, pack.x, strict=True):
        part = expected[y : y + 64, x : x + 64]
        np.testing.assert_array_equal(tile[: part.shape[0], : part.shape[1]], part)


def test_the_fill_given_for_a_copy_is_that_of_corrupt_tiles(tmp_path, image):
    slide = ds.open_slide(written("zstd", image, tmp_path / "a.tif"))
    ds.write(slide, tmp_path / "a.ome.zarr", codec="source")
    (file,) = (tmp_path / "a.ome.zarr" / "0" / "c" / "0").glob("*/*")
    data = bytearray(file.read_bytes())
    data[data.index(chunks_of(tmp_path / "a.ome.zarr")[1, 2]) + 900] ^= 1
    file.write_bytes(data)
    copy = ds.open_slide(tmp_path / "a.ome.zarr", on_bad_tile="mask", fill=9)
    assert (copy.read(64, 128, 64, 64) == 9).all()


def test_a_corrupt_tile_is_named_or_left_out(tmp_path, image):
    path = damaged(written("jpeg", image, tmp_path / "a.tif"), 5, bytes(40))
    with pytest.raises(TileDecodeError, match="rows 64 to 128, columns 64 to 128"):
        ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr", codec="source")
    assert not (tmp_path / "a.ome.zarr").exists()
    slide = ds.open_slide(path, on_bad_tile="mask")
    store = ds.write(slide, tmp_path / "a.ome.zarr", codec="source")
    assert (1, 1) not in chunks_of(tmp_path / "a.ome.zarr")
    own = zarr.open_group(store, mode="r").attrs["dask_slides"]
    assert own["holes"] == [[64, 64, 64, 64, "corrupt"]]
    assert [(tile["y"], tile["x"], tile["status"]) for tile in own["bad_tiles"]] == [
        (64, 64, "corrupt")
    ]


def damaged_inside(path, image):
    """Write `image` in deflate tiles of 256 px; damage one within, so that its header is good."""
    tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), compression="deflate")
    with tifffile.TiffFile(path) as opened:
        start = opened.pages[0].dataoffsets[6]
    data = bytearray(path.read_bytes())
    data[start + 3000] ^= 255
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("found", ["read", "verify_pixels"])
def test_a_tile_that_is_known_to_be_corrupt_is_left_out(tmp_path, stained, found):
    slide = ds.open_slide(damaged_inside(tmp_path / "a.tif", stained), on_bad_tile="mask")
    if found == "read":
        slide.read(256, 512, 256, 256)
    share = 1 if found == "verify_pixels" else 0
    store = ds.write(slide, tmp_path / "a.ome.zarr", codec="source", verify_pixels=share)
    assert set(np.ndindex(3, 4)) - set(chunks_of(tmp_path / "a.ome.zarr")) == {(1, 2)}
    own = zarr.open_group(store, mode="r").attrs["dask_slides"]
    assert own["holes"] == [[256, 512, 256, 256, "corrupt"]] and len(own["bad_tiles"]) == 1
    copy = ds.open_slide(store, on_bad_tile="mask")
    (tile,) = copy.bad_tiles()
    assert tile.region == Region(256, 512, 256, 256)
    pixels = zarr.open_group(store, mode="r")["0"][...].transpose(1, 2, 0)
    stained = stained.copy()
    stained[256:512, 512:768] = 255
    np.testing.assert_array_equal(pixels, stained)
    np.testing.assert_array_equal(copy.read(0, 0, 768, 1024), stained)


def test_nan_is_no_difference_of_verified_pixels(tmp_path):
    pixels = np.arange(128 * 128, dtype=np.float32).reshape(128, 128)
    pixels[5:20, 60:70] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), compression="zstd")
    slide = ds.open_slide(tmp_path / "a.tif")
    store = ds.write(slide, tmp_path / "a.ome.zarr", codec="source", verify_pixels=1)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["0"][0], pixels)


def test_damage_that_only_decoding_shows_is_listed(tmp_path, stained):
    """A tile with a good header and end, of which the level of 1/2 is made."""
    slide = ds.open_slide(damaged_inside(tmp_path / "a.tif", stained), on_bad_tile="mask")
    store = ds.write(slide, tmp_path / "a.ome.zarr", codec="source")
    own = zarr.open_group(store, mode="r").attrs["dask_slides"]
    assert [(tile["y"], tile["x"], tile["status"]) for tile in own["bad_tiles"]] == [
        (256, 512, "corrupt")
    ]
    with pytest.raises(TileDecodeError, match="rows 256 to 512, columns 512 to 768"):
        ds.open_slide(store).read(0, 0, 768, 1024)


def test_blank_tiles_are_left_out_as_the_map_says(tmp_path, image):
    slide = ds.open_slide(written("jpeg", image, tmp_path / "a.tif"))
    blank = np.zeros((7, 8), bool)
    blank[:3, :4] = True  # cells of 32 px: row 2 is half of the second row of tiles
    blanks = ds.blank_map(slide, tile_size=32).compute().with_blank(blank)
    store = ds.write(
        slide, tmp_path / "a.ome.zarr", codec="source", drop_blank=True, blank_map=blanks
    )
    assert set(np.ndindex(4, 4)) - set(chunks_of(tmp_path / "a.ome.zarr")) == {(0, 0), (0, 1)}
    copy = ds.open_slide(store)
    assert (copy.read(0, 0, 64, 128) == 255).all()
    assert not copy.source.holes(0, Region(0, 0, 200, 250))
    np.testing.assert_array_equal(copy.read(64, 0, 136, 250), slide.read(64, 0, 136, 250))


@pytest.mark.parametrize(("longest", "factors"), [(4096, [1]), (100, [4])])
def test_the_tissue_is_a_small_label(tmp_path, image, monkeypatch, longest, factors):
    monkeypatch.setattr(labels, "LONGEST_LABEL", longest)
    slide = ds.open_slide(written("jpeg", image, tmp_path / "a.tif"))
    blank = np.zeros((7, 8), bool)
    blank[:3, 2:5] = True  # cells of 32 px
    blanks = ds.blank_map(slide, tile_size=32).compute().with_blank(blank)
    store = ds.write(slide, tmp_path / "a.ome.zarr", codec="source", blank_map=blanks)
    group = zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(group["blank_map/blank"][...], blank)
    tissue = group["labels/tissue"]
    whole = np.repeat(np.repeat(~blank, 32, axis=0), 32, axis=1)[:200, :250]
    datasets = tissue.attrs["ome"]["multiscales"][0]["datasets"]
    assert [one["path"] for one in datasets] == sorted(tissue.array_keys())
    for one, factor in zip(datasets, factors, strict=True):
        found = tissue[one["path"]][...]
        rows, columns = (
            np.minimum(np.arange(n) * factor + factor // 2, side - 1)
            for n, side in zip(found.shape, (200, 250), strict=True)
        )
        np.testing.assert_array_equal(found, whole[np.ix_(rows, columns)])
        scale, shift = one["coordinateTransformations"]
        assert scale["scale"] == [factor, factor]
        assert shift["translation"] == [(factor - 1) / 2] * 2
    ds.verify(store)


def test_damage_of_a_copy_is_found(tmp_path, image):
    ds.write(
        ds.open_slide(written("jpeg", image, tmp_path / "a.tif")),
        tmp_path / "a.ome.zarr",
        codec="source",
    )
    (file,) = (tmp_path / "a.ome.zarr" / "0" / "c" / "0").glob("*/*")
    data = bytearray(file.read_bytes())
    at = data.index(chunks_of(tmp_path / "a.ome.zarr")[1, 2]) + 900
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(TileDecodeError, match=r"rows 64 to 128, columns 128 to 192.*checksum"):
        ds.open_slide(tmp_path / "a.ome.zarr").read(0, 0, 200, 250)
    masked = ds.open_slide(tmp_path / "a.ome.zarr", on_bad_tile="mask")
    assert (masked.read(64, 128, 64, 64) == 255).all()
    (hole,) = masked.source.holes(0, Region(0, 0, 200, 250))
    assert hole.region == Region(64, 128, 64, 64)


def test_pixels_are_verified_on_request(tmp_path, image):
    """Flip a byte of a scan, which no header shows: reading the slide itself finds the damage."""
    path = written("deflate", image, tmp_path / "a.tif")
    with tifffile.TiffFile(path) as opened:
        start = opened.pages[0].dataoffsets[6]
    data = bytearray(path.read_bytes())
    data[start + 1000] ^= 255
    path.write_bytes(data)
    slide = ds.open_slide(path)
    ds.write(slide, tmp_path / "a.ome.zarr", codec="source")
    with pytest.raises(TileDecodeError, match="rows 64 to 128, columns 128 to 192"):
        ds.write(slide, tmp_path / "b.ome.zarr", codec="source", verify_pixels=1)


def test_tiles_that_decode_to_another_size_are_found(tmp_path, image):
    """A deflate tile may hold more bytes than its page says: readers of TIFF ignore them."""
    tiles = [zlib.compress(tile.tobytes() + bytes(7)) for tile in cut(image)]
    tags = {
        256: (4, [250]), 257: (4, [200]), 258: (3, [8] * 3), 259: (3, [8]), 262: (3, [2]),
        277: (3, [3]), 322: (3, [TILE]), 323: (3, [TILE]),
    }  # fmt: skip
    (tmp_path / "a.tif").write_bytes(tiff(tags, tiles))
    slide = ds.open_slide(tmp_path / "a.tif")
    np.testing.assert_array_equal(slide.read(0, 0, 200, 250), image)
    with pytest.raises(TileDecodeError, match=r"rows 0 to 64, columns 0 to 64.*the copy cannot"):
        ds.write(slide, tmp_path / "b.ome.zarr", codec="source", verify_pixels=1)


@pytest.mark.parametrize("kind", [*KINDS, "shared tables, RGB"])
def test_verified_pixels_of_every_kind_are_equal(tmp_path, image, kind):
    slide = ds.open_slide(written(kind, image, tmp_path / "a.tif"))
    ds.write(slide, tmp_path / "a.ome.zarr", codec="source", verify_pixels=1)


@pytest.mark.parametrize("mode", ["raise", "mask"])
def test_good_tiles_of_another_size_are_refused_and_not_called_corrupt(tmp_path, image, mode):
    """Some writers store tiles at the edge without their padding."""
    streams = [imagecodecs.jpeg8_encode(tile, level=85) for tile in cut(image)]
    streams[3] = imagecodecs.jpeg8_encode(np.ascontiguousarray(image[:64, 192:]), level=85)
    tags = {
        256: (4, [250]), 257: (4, [200]), 258: (3, [8] * 3), 259: (3, [7]), 262: (3, [6]),
        277: (3, [3]), 322: (3, [TILE]), 323: (3, [TILE]),
    }  # fmt: skip
    (tmp_path / "a.tif").write_bytes(tiff(tags, streams))
    slide = ds.open_slide(tmp_path / "a.tif", on_bad_tile=mode)
    with pytest.raises(SlideUnsupportedError, match="tile 3 is 64 x 58 px") as error:
        ds.write(slide, tmp_path / "a.ome.zarr", codec="source")
    assert "a.tif" in str(error.value)


def test_a_copy_in_a_bucket_reads_alike(bucket, tmp_path, image):
    slide = ds.open_slide(written("jpeg", image, tmp_path / "a.tif"))
    url = ds.write(slide, "s3://slides/copies/a.ome.zarr", codec="source")
    np.testing.assert_array_equal(
        ds.open_slide(url).read(0, 0, 200, 250), slide.read(0, 0, 200, 250)
    )


@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_a_copy_of_any_number_of_channels_is_copied_again(tmp_path, image, samples, compression):
    pixels = np.dstack([image, image.astype(np.uint16) * 99])[..., :samples]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig",
                     tile=(64, 64), compression=compression)  # fmt: skip
    first = ds.write(ds.open_slide(tmp_path / "a.tif"), tmp_path / "a.ome.zarr", codec="source")
    copy = ds.open_slide(first)
    np.testing.assert_array_equal(copy.read(0, 0, 200, 250), pixels)
    second = ds.write(copy, tmp_path / "b.ome.zarr", codec="source", verify_pixels=1)
    assert chunks_of(tmp_path / "b.ome.zarr") == chunks_of(tmp_path / "a.ome.zarr")
    found = zarr.open_group(second, mode="r")["0"][...].transpose(1, 2, 0)
    np.testing.assert_array_equal(found, pixels)


def old_lzw(data):
    """Return literals of `data` as LZW of old writers: codes of 9 bits from the low bit on."""
    codes = []
    for start in range(0, len(data), 200):  # before codes need 10 bits
        codes += [256, *data[start : start + 200]]
    bits = sum(code << 9 * n for n, code in enumerate([*codes, 257]))
    return bits.to_bytes(-(-9 * (len(codes) + 1) // 8), "little")


def test_lzw_of_old_writers_is_copied(tmp_path, image):
    tags = {
        256: (4, [250]), 257: (4, [200]), 258: (3, [8] * 3), 259: (3, [5]), 262: (3, [2]),
        277: (3, [3]), 322: (3, [TILE]), 323: (3, [TILE]),
    }  # fmt: skip
    (tmp_path / "a.tif").write_bytes(tiff(tags, [old_lzw(tile.tobytes()) for tile in cut(image)]))
    slide = ds.open_slide(tmp_path / "a.tif")
    store = ds.write(slide, tmp_path / "a.ome.zarr", codec="source", verify_pixels=1)
    found = zarr.open_group(store, mode="r")["0"][...].transpose(1, 2, 0)
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(ds.open_slide(store).read(0, 0, 200, 250), image)


def test_a_copy_is_copied_again(tmp_path, image):
    slide = ds.open_slide(written("shared tables, RGB", image, tmp_path / "a.tif"))
    first = ds.write(slide, tmp_path / "a.ome.zarr", codec="source")
    ds.write(ds.open_slide(first), tmp_path / "b.ome.zarr", codec="source")
    assert chunks_of(tmp_path / "b.ome.zarr") == chunks_of(tmp_path / "a.ome.zarr")


def test_what_cannot_be_copied_is_refused(tmp_path, image):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), compression="lzw",
                     predictor=True)  # fmt: skip
    out = tmp_path / "a.ome.zarr"
    with pytest.raises(SlideUnsupportedError, match=r"copied; .* LZW without a predictor"):
        ds.write(ds.open_slide(path), out, codec="source")
    with pytest.raises(SlideUnsupportedError, match=r"copied; .* LZW without a predictor"):
        ds.write(ds.resize(path, downsample=2), out, codec="source")
    slide = ds.open_slide(written("jpeg", image, tmp_path / "b.tif"))
    with pytest.raises(SlideUnsupportedError, match=r"resized by 2 .* leave out the scale"):
        ds.write(ds.resize(slide, downsample=2), out, codec="source")
    for options in ({"codec": "zip"}, {"drop_blank": True}, {"codec": "source", "quality": 0},
                    {"codec": "source", "shards": False}):  # fmt: skip
        with pytest.raises(SlideArgumentError):
            ds.write(slide, out, **options)


def test_a_real_slide_with_rgb_components(tmp_path, real_slide):
    store = ds.write(ds.open_slide(real_slide), tmp_path / "a.ome.zarr", codec="source")
    expected = tifffile.imread(real_slide, level=0)
    array = zarr.open_group(store, mode="r")["0"]
    np.testing.assert_array_equal(array[...].transpose(1, 2, 0), expected)
