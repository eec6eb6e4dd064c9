"""Absent and corrupt tiles are filled and reported, and never counted as background or tissue."""

import errno
import os
import pickle
from collections import Counter

import dask
import numpy as np
import oracle
import pytest
import tifffile
import zarr
from bad_tiles import KINDS, TILE, mask_of, picture, places, spoil, written
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rw_fixtures import one_line, sparse_tiff
from strategies import chunkings

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.core.grid import TileGrid
from dask_slides.readers import tile_status
from dask_slides.readers.codecs.byte_codecs import ByteDecoder
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tiff.source import TiffSource
from dask_slides.readers.tile_cache import TILE_CACHE

SHAPE = (300, 420)
COLOUR = ("deflate", "jpeg", "strips", "planar", "palette")


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="sync"):
        yield


def tile_count(kind):
    return len(places(kind, SHAPE))


@st.composite
def damage(draw, kinds=tuple(KINDS)):
    """Return a kind of slide, and the numbers of its absent and corrupt tiles."""
    kind = draw(st.sampled_from(kinds))
    numbers = st.integers(0, tile_count(kind) - 1)
    absent = draw(st.sets(numbers, max_size=4))
    return kind, absent, draw(st.sets(numbers, max_size=4)) - absent


def damaged_slide(folder, kind, absent, corrupt, shape=SHAPE, **options):
    """Return the path of a damaged slide, its undamaged pixels and the mask of lost pixels."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}-{len(os.listdir(folder))}.tif"
    pixels = written(path, kind, picture(kind, shape), **options)
    spoil(path, absent, corrupt)
    return path, pixels, mask_of(kind, shape, (*absent, *corrupt))


def filled(pixels, mask, fill=255):
    return np.where(mask[..., None], np.asarray(fill, pixels.dtype), pixels)


@settings(max_examples=15)
@given(damage(), st.sampled_from([255, 7]), st.data())
def test_bad_tiles_read_as_the_fill_and_all_others_as_they_are(tmp_path, case, fill, data):
    path, pixels, mask = damaged_slide(tmp_path / "a", *case)
    slide = ds.open_slide(path, fill=fill, on_bad_tile="mask")
    expected = filled(pixels, mask, fill)
    chunks = data.draw(chunkings(SHAPE))
    np.testing.assert_array_equal(slide.to_dask(chunks=chunks).compute(), expected)
    y, x = data.draw(st.integers(0, 299)), data.draw(st.integers(0, 419))
    height, width = data.draw(st.integers(1, 300 - y)), data.draw(st.integers(1, 420 - x))
    part = slide.read(y, x, height, width)
    np.testing.assert_array_equal(part, expected[y : y + height, x : x + width])


@settings(max_examples=12)
@given(damage())
def test_bad_tiles_are_listed_with_position_and_status(tmp_path, case):
    kind, absent, corrupt = case
    path, *_ = damaged_slide(tmp_path / "a", kind, absent, ())
    offsets = spoil(path, corrupt=corrupt)
    where = places(kind, SHAPE)
    # absent neighbours may be listed as one tile: compare the pixels that they cover, each once
    expected = {(*where[n], "corrupt", offsets[n]) for n in corrupt}, Counter()
    for y, x, height, width in (where[n] for n in absent):
        expected[1].update((i, j) for i in range(y, y + height) for j in range(x, x + width))

    def listed(tiles):
        assert list(tiles) == sorted(tiles, key=lambda t: (t.level, t.y, t.x))
        assert all(tile.level == 0 and tile.reason for tile in tiles)
        covered, named = Counter(), set()
        for t in tiles:
            if t.status == "absent":
                assert t.offset is None
                rows, columns = range(t.y, t.y + t.height), range(t.x, t.x + t.width)
                covered.update((i, j) for i in rows for j in columns)
            else:
                named.add((t.y, t.x, t.height, t.width, t.status, t.offset))
        return named, covered

    slide = ds.open_slide(path, on_bad_tile="mask")
    assert listed(pickle.loads(pickle.dumps(slide)).bad_tiles()) == expected
    found = ds.check_slide(path)
    assert listed(found.bad_tiles) == expected
    assert found.tiles == len(where)
    good = len(where) - len(absent) - len(corrupt)
    assert found.statuses == {"ok": good, "absent": len(absent), "corrupt": len(corrupt)}
    assert found.good == (not corrupt)
    assert ds.check_slide(ds.resize(slide, downsample=3)) == found


@pytest.mark.parametrize("kind", KINDS)
def test_by_default_a_corrupt_tile_raises_and_an_absent_one_does_not(tmp_path, kind):
    path, _pixels, _mask = damaged_slide(tmp_path / "a", kind, {1}, {tile_count(kind) - 1})
    slide = ds.open_slide(path)
    y, x, height, width = places(kind, SHAPE)[1]
    fill = 255 if slide.shape[2] == 3 else 0
    assert (slide.read(y, x, height, width) == np.asarray(fill, slide.dtype)).all()
    assert [tile.status for tile in slide.bad_tiles()] == ["absent"]
    for work in (
        slide.data,
        ds.resize(slide, downsample=2).data,
        ds.blank_map(slide, tile_size=50, detector=ds.Contrast(0.05)).blank,
    ):
        with pytest.raises(ds.errors.TileDecodeError):
            work.compute()


def test_a_truncated_tile_is_corrupt(tmp_path):
    path, pixels, _ = damaged_slide(tmp_path / "a", "jpeg", (), ())
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[8], tiff.pages[0].databytecounts[8]
    with open(path, "r+b") as file:
        file.seek(offset + count // 2)
        file.write(bytes(count - count // 2))
    slide = ds.open_slide(path, on_bad_tile="mask")
    mask = mask_of("jpeg", SHAPE, [8])
    np.testing.assert_array_equal(slide.read(0, 0, *SHAPE), filled(pixels, mask))
    (tile,) = slide.bad_tiles()
    assert "no end" in tile.reason and "no end" in str(tile) and f"offset {offset}" in str(tile)


def test_a_system_error_is_not_damage(tmp_path, monkeypatch):
    path, *_ = damaged_slide(tmp_path / "a", "deflate", (), ())
    slide = ds.open_slide(path, on_bad_tile="mask")

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing)
        with pytest.raises(ds.errors.TileDecodeError, match="Input/output error") as error:
            slide.read(0, 0, 10, 10)
        assert str(path) in one_line(error)
    assert slide.bad_tiles() == ()


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("out of memory error when reading image file")]
)
def test_exhausted_memory_is_not_damage(tmp_path, monkeypatch, error):
    path, pixels, _ = damaged_slide(tmp_path / "a", "deflate", (), ())
    slide = ds.open_slide(path, on_bad_tile="mask")

    def decode(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ByteDecoder, "unpacked", decode)
        with pytest.raises(ds.errors.SlideMemoryError, match="no memory is left") as failed:
            slide.data.compute()
        assert str(path) in one_line(failed)
    # the tile is not remembered as corrupt
    np.testing.assert_array_equal(slide.read(0, 0, 20, 20), pixels[:20, :20])


def test_a_truncated_raster_file_is_all_fill(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture("deflate", (90, 80))).save(path)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    slide = ds.open_slide(path, on_bad_tile="mask", fill=9)
    assert (slide.read(3, 4, 50, 60) == 9).all()
    (tile,) = slide.bad_tiles()
    assert (tile.height, tile.width, tile.status) == (90, 80, "corrupt")
    assert ds.blank_map(slide, tile_size=40, detector=ds.Contrast(0.05)).unknown.compute().all()


def test_a_corrupt_chunk_of_a_store_is_masked_and_a_missing_one_is_legal(tmp_path):
    image = picture("deflate", (512, 512))
    path = tmp_path / "a.ome.zarr"
    ds.write(ds.from_dask(image), path, ome_zarr="0.4")
    (path / "0/0/0/0").write_bytes(b"\x01" * 99)
    (path / "0/0/1/1").unlink()
    slide = ds.open_slide(path, on_bad_tile="mask")
    expected = image.copy()
    expected[:256, :256] = 255
    expected[256:, 256:] = 0
    np.testing.assert_array_equal(slide.read(0, 0, 512, 512), expected)
    assert [(t.y, t.x, t.height, t.status) for t in slide.bad_tiles()] == [(0, 0, 256, "corrupt")]
    assert ds.check_slide(path).statuses["corrupt"] == 1
    with pytest.raises(ds.errors.TileDecodeError):
        ds.open_slide(path).read(0, 0, 10, 10)


def test_a_dask_array_has_no_tiles_to_check():
    with pytest.raises(ds.errors.SlideArgumentError, match="no tiles to check"):
        ds.check_slide(np.zeros((9, 9), np.uint8))
    assert ds.from_dask(np.zeros((9, 9), np.uint8)).bad_tiles() == ()


def test_every_level_is_checked(tmp_path, write_pyramid):
    path = write_pyramid(picture("deflate", (600, 700)))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0].levels[2].keyframe
        offset, count = page.dataoffsets[1], page.databytecounts[1]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\x01" * count)
    found = ds.check_slide(path)
    assert [(t.level, t.y, t.x, t.offset) for t in found.bad_tiles] == [(2, 0, 64, offset)]
    assert found.tiles == 10 * 11 + 5 * 6 + 3 * 3 + 2 * 2
    assert ds.open_slide(path, on_bad_tile="mask").bad_tiles(0) == ()


def cells_of(array, tile):
    return {(row, col): part for row, col, part in oracle.cells(array, tile)}


@settings(max_examples=12)
@given(damage(), st.tuples(st.integers(20, 150), st.integers(20, 150)), st.data())
def test_statistics_count_only_pixels_of_good_tiles(tmp_path, case, tile, data):
    path, pixels, mask = damaged_slide(tmp_path / "a", *case)
    slide = ds.open_slide(path, on_bad_tile="mask")
    detector = ds.Contrast(0.2) if data.draw(st.booleans()) else ds.Saturation() | ds.Contrast(0.2)
    lazy = ds.blank_map(slide, tile_size=tile, detector=detector)
    found = lazy.compute()
    seen = cells_of(~mask, tile)
    for (row, col), part in cells_of(pixels, tile).items():
        valid = part[seen[row, col]].astype(np.float64)
        stats = found.stats
        assert stats.count[row, col] == valid.size
        assert stats.missing[row, col] == (~seen[row, col]).sum()
        assert stats.total[row, col] == pytest.approx(valid.sum(), rel=1e-12)
        assert stats.squares[row, col] == pytest.approx((valid**2).sum(), rel=1e-12)
        if stats.histogram is not None:
            assert stats.histogram[row, col].sum() == seen[row, col].sum()
        if detector == ds.Contrast(0.2):
            glass = not valid.size or bool(valid.std() <= 0.2 * valid.mean())
            whole = bool(seen[row, col].all())
            assert found.blank[row, col] == (glass and whole)
            assert found.unknown[row, col] == (glass and not whole)
    np.testing.assert_array_equal(lazy.blank.compute(), found.blank)
    np.testing.assert_array_equal(lazy.unknown.compute(), found.unknown)
    glass = found.blank | found.unknown  # the share is one of areas: tiles at the edges are smaller
    outside = sum(part.shape[0] * part.shape[1] for cell, part in cells_of(mask, tile).items()
                  if glass[cell])  # fmt: skip
    assert found.tissue_share == pytest.approx(1 - outside / mask.size)
    np.testing.assert_array_equal(found.with_detector(ds.Contrast(9)).blank, found.stats.whole)
    assert {(t.y, t.x) for t in found.bad_tiles} == {(t.y, t.x) for t in slide.bad_tiles()}


def test_a_pooled_threshold_comes_from_good_tiles_only(tmp_path):
    # one half is absent: the threshold is that of the other half
    path, pixels, mask = damaged_slide(
        tmp_path / "a", "deflate", range(14, 35), (), shape=(320, 448)
    )
    assert not mask[:128].any() and mask[128:].all()
    found = ds.blank_map(path, tile_size=32, detector=ds.Otsu()).compute()
    alone = ds.blank_map(
        np.ascontiguousarray(pixels[:128]), tile_size=32, detector=ds.Otsu()
    ).compute()
    np.testing.assert_array_equal(found.blank[:4], alone.blank)
    assert found.unknown[4:].all() and not found.blank[4:].any()


@pytest.mark.parametrize("detector", [ds.Contrast(0.35), ds.Tissue()], ids=repr)
def test_absent_tiles_are_unknown_and_not_blank_by_default(tmp_path, detector):
    path = sparse_tiff(tmp_path / "a.tif", (300, 400), 64)
    found = ds.blank_map(path, tile_size=50, detector=detector).compute()
    assert found.unknown.all() and not found.blank.any() and found.tissue_share == 0
    assert "unknown" in found._repr_html_()
    cut = ds.cutoff_resize(path, downsample=1, tile_size=50, detector=detector)
    assert cut.image.shape == (300, 400, 3)
    with pytest.warns(ds.errors.BlankSlideWarning, match="or touches absent or corrupt tiles"):
        pack = ds.pack_tiles(path, tile_size=50, detector=detector)
    assert len(pack) == 0 and pack.attributes["skipped"] == 6 * 8
    with pytest.warns(ds.errors.BlankSlideWarning):
        assert len(ds.random_crops(path, n=3, size=50, detector=detector)) == 0


def touched(mask, shape, kernel):
    """Return which pixels of a resized image depend on a pixel of `mask`."""
    rows, columns = (
        np.abs(oracle.weight_matrix(n, m, kernel)) > 1e-9
        for n, m in zip(mask.shape, shape, strict=True)
    )
    return rows.astype(int) @ mask.astype(int) @ columns.T.astype(int) > 0


def footprint(slide, shape):
    """Return which pixels show the fill, according to the slide."""
    mask = np.zeros(shape, bool)
    for hole in slide.source.holes(0, Region(0, 0, *shape)):
        mask[hole.region.slices()] = True
    return mask


@settings(max_examples=12)
@given(
    damage(("deflate", "jpeg", "strips", "uint16", "float")),
    st.sampled_from([1.3, 2, 3.7, 0.8]),
    st.sampled_from(["lanczos", "area", "linear", "nearest"]),
    st.data(),
)
def test_a_resized_pixel_is_that_of_the_undamaged_slide_or_the_fill(
    tmp_path, case, downsample, kernel, data
):
    kind, *numbers = case
    path, pixels, mask = damaged_slide(tmp_path / "a", kind, *numbers)
    slide = ds.open_slide(path, on_bad_tile="mask", fill=3)
    small = ds.resize(slide, downsample=downsample, kernel=kernel)
    shape = small.shape[:2]
    found = small.to_dask(chunks=data.draw(chunkings(shape))).compute()
    good = ds.resize(np.ascontiguousarray(pixels), shape=shape, kernel=kernel, gap=None)
    lost = footprint(small, shape)
    np.testing.assert_array_equal(found, filled(good.data.compute(), lost, 3))
    if kernel != "nearest":
        needed = touched(mask, shape, kernel)
        assert not (needed & ~lost).any()
        # only pixels of weight 0 may count in addition
        grown = np.pad(needed, 2)
        near = np.lib.stride_tricks.sliding_window_view(grown, (5, 5)).any(axis=(2, 3))
        assert not (lost & ~near).any()


@pytest.mark.parametrize(("kind", "factor"), [("deflate", 2), ("jpeg", 4), ("jpeg", 8)])
def test_a_reduced_decode_fills_the_same_tiles(tmp_path, kind, factor):
    shape = (1300, 1200)
    path, *_ = damaged_slide(tmp_path / "a", kind, {5}, {23, 24, 60}, shape=shape)
    whole = tmp_path / "whole.tif"
    written(whole, kind, picture(kind, shape))
    small = ds.resize(ds.open_slide(path, on_bad_tile="mask"), downsample=2.6 * factor)
    good = ds.resize(whole, downsample=2.6 * factor)
    assert small.source.factor == good.source.factor == factor
    lost = footprint(small, small.shape[:2])
    assert 0 < lost.mean() < 0.5
    expected = filled(good.data.compute(), lost)
    np.testing.assert_array_equal(small.data.compute(), expected)
    np.testing.assert_array_equal(small.to_dask(chunks=17).compute(), expected)
    assert [t.status for t in small.bad_tiles()] == ["absent", *["corrupt"] * 3]


@settings(max_examples=15)
@given(damage(COLOUR), st.integers(30, 90))
def test_a_cut_does_not_drop_bad_tiles(tmp_path, case, side):
    path, pixels, mask = damaged_slide(tmp_path / "a", *case)
    slide = ds.open_slide(path, on_bad_tile="mask")
    cut = ds.cutoff_resize(slide, downsample=1, tile_size=side, detector=ds.Contrast(0.05))
    glass = oracle.contrast_blank(filled(pixels, mask), (side, side), 0.05)
    blank = glass & ~oracle.per_cell(mask, (side, side), np.any)
    if blank.all():
        return
    expected = oracle.cut(filled(pixels, mask), blank, (side, side))
    lost = oracle.cut(mask[..., None], blank, (side, side))[..., 0]
    assert lost.sum() == mask.sum()
    np.testing.assert_array_equal(cut.image.data.compute(), expected)
    np.testing.assert_array_equal(footprint(cut.image, lost.shape), lost)


@settings(max_examples=10)
@given(damage(COLOUR), st.integers(30, 80), st.sampled_from(["drop", "pad", "shift"]))
@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
def test_packs_leave_out_tiles_that_touch_bad_ones(tmp_path, case, size, edge):
    path, pixels, mask = damaged_slide(tmp_path / "a", *case)
    slide = ds.open_slide(path, on_bad_tile="mask")
    pack = ds.pack_tiles(slide, tile_size=size, detector=ds.Contrast(0.05), edge=edge)
    good = ds.pack_tiles(
        np.ascontiguousarray(pixels), tile_size=size, detector=ds.Contrast(0.05), edge=edge
    )
    touches = np.array(
        [mask[y : y + size, x : x + size].any() for y, x in zip(good.y, good.x, strict=True)], bool
    )
    np.testing.assert_array_equal(pack.y, good.y[~touches])
    np.testing.assert_array_equal(pack.x, good.x[~touches])
    np.testing.assert_allclose(pack.score, good.score[~touches])
    if len(pack):
        np.testing.assert_array_equal(pack.tiles.compute(), good.tiles.compute()[~touches])
    starts = TileGrid(SHAPE, (size, size), (size, size), edge)
    skipped = sum(
        mask[y : y + size, x : x + size].any() for y in starts.starts(0) for x in starts.starts(1)
    )
    assert pack.attributes.get("skipped", 0) == skipped
    assert ("bad_tiles" in pack.attributes) == bool(skipped)


@settings(max_examples=10)
@given(damage(("deflate", "jpeg", "palette")), st.integers(0, 9))
@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
def test_no_crop_touches_a_bad_tile(tmp_path, case, seed):
    path, pixels, mask = damaged_slide(tmp_path / "a", *case)
    slide = ds.open_slide(path, on_bad_tile="mask")
    crops = ds.random_crops(slide, n=12, size=40, seed=seed, detector=ds.Contrast(0.05))
    tiles = crops.tiles.compute()
    for y, x, tile in zip(crops.y, crops.x, tiles, strict=True):
        assert not mask[y : y + 40, x : x + 40].any()
        np.testing.assert_array_equal(tile, pixels[y : y + 40, x : x + 40])


def test_a_tile_at_a_scale_that_needs_a_bad_tile_is_not_packed(tmp_path):
    path, _pixels, _mask = damaged_slide(tmp_path / "a", "deflate", {9}, {17})
    slide = ds.open_slide(path, on_bad_tile="mask")
    pack = ds.pack_tiles(slide, tile_size=20, downsample=2, detector=ds.Contrast(0))
    shape = (150, 210)
    lost = footprint(ds.resize(slide, downsample=2), shape)
    expected = [
        (2 * y, 2 * x) for y in range(0, 140, 20) for x in range(0, 200, 20)
        if not lost[y : y + 20, x : x + 20].any()
    ]  # fmt: skip
    assert set(zip(pack.y.tolist(), pack.x.tolist(), strict=True)) <= set(expected)
    assert pack.attributes["skipped"] == 7 * 10 - len(expected)


def test_listing_bad_tiles_decodes_no_tile_again(tmp_path, monkeypatch):
    path, *_ = damaged_slide(tmp_path / "a", "deflate", {3}, {10})
    slide = ds.open_slide(path, on_bad_tile="mask")
    decoded, once = [], TileDecoder.__call__

    def counted(self, number, data, factor, into=None):
        decoded.append(number)
        return once(self, number, data, factor, into)

    monkeypatch.setattr(TileDecoder, "__call__", counted)
    TILE_CACHE.clear()
    found = ds.blank_map(slide, tile_size=TILE, detector=ds.Contrast(0.05)).compute()
    assert [tile.status for tile in found.bad_tiles] == ["absent", "corrupt"]
    assert sorted(decoded) == [n for n in range(tile_count("deflate")) if n != 3]
    decoded.clear()
    assert len(slide.bad_tiles()) == 2
    assert decoded == []
    ds.check_slide(path)
    assert sorted(decoded) == [n for n in range(tile_count("deflate")) if n != 3]


def everything(path):
    slide = ds.open_slide(path, on_bad_tile="mask")
    found = ds.blank_map(slide, tile_size=37, detector=ds.Otsu()).compute()
    pack = ds.pack_tiles(slide, tile_size=40, detector=ds.Contrast(0.05))
    crops = ds.random_crops(slide, n=5, size=30, seed=1, detector=ds.Contrast(0.05))
    return [
        found.statistics, found.blank, found.unknown, found.bad_tiles,
        slide.to_dask(chunks=111).compute(), slide.bad_tiles(),
        ds.resize(slide, downsample=2.3).to_dask(chunks=50).compute(),
        ds.resize(slide, downsample=2.3).bad_tiles(),
        pack.tiles.compute(), pack.y, dict(pack.attributes),
        crops.tiles.compute(), crops.x, ds.check_slide(path),
    ]  # fmt: skip


def test_a_cluster_finds_the_same(tmp_path, client):
    path, *_ = damaged_slide(tmp_path / "a", "jpeg", {4, 5}, {11, 20})
    expected = everything(path)
    with dask.config.set(scheduler=None):
        found = everything(path)
    for one, two in zip(found, expected, strict=True):
        if isinstance(two, np.ndarray):
            np.testing.assert_array_equal(one, two)
        else:
            assert one == two


def levels_of(path):
    group = zarr.open_group(path, mode="r")
    return [group[str(n)][...].transpose(1, 2, 0) for n in range(len(list(group.array_keys())))]


def lost_at(mask, level):
    """Return which pixels of a level are means that include a lost pixel."""
    side = 2**level
    padded = np.pad(mask, [(0, -n % side) for n in mask.shape])
    blocks = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)
    return blocks.any(axis=(1, 3))


def test_a_store_records_its_bad_tiles(tmp_path):
    shape = (1500, 1100)  # two stages
    path, pixels, mask = damaged_slide(tmp_path / "a", "jpeg", {0, 1, 19}, {100, 333}, shape=shape)
    slide = ds.open_slide(path, on_bad_tile="mask")
    out = ds.write(slide, tmp_path / "a.ome.zarr")
    good = [pixels, *oracle.area_pyramid(pixels, 9)]
    levels = levels_of(out)
    for number, level in enumerate(levels):
        np.testing.assert_array_equal(level, filled(good[number], lost_at(mask, number)))
    assert len(levels) >= 3
    assert {"absent", "corrupt"} <= set(ds.verify(out).statuses)
    group = zarr.open_group(out, mode="r")
    bad_tiles = group.attrs["dask_slides"]["bad_tiles"]
    assert [(t["y"], t["x"], t["width"], t["status"]) for t in bad_tiles] == [
        (0, 0, 128, "absent"), (64, 64, 64, "absent"), (320, 640, 64, "corrupt"),
        (1152, 576, 64, "corrupt"),
    ]  # fmt: skip
    # they are known when the store is opened again
    again = ds.open_slide(out)
    np.testing.assert_array_equal(footprint(again, shape), mask)
    one, two = (
        ds.blank_map(one, tile_size=90, detector=ds.Contrast(0.05)).compute()
        for one in (again, slide)
    )
    np.testing.assert_array_equal(one.statistics, two.statistics)


def test_a_resumed_write_records_all_bad_tiles(tmp_path, monkeypatch):
    path, *_ = damaged_slide(tmp_path / "a", "deflate", {2}, {100, 333}, shape=(1500, 1100))
    slide = ds.open_slide(path, on_bad_tile="mask")
    whole = zarr.open_group(ds.write(slide, tmp_path / "whole.zarr"), mode="r")
    from dask_slides.writers import pyramid

    put, calls = pyramid.put_shards, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 4:
            raise ds.errors.TileDecodeError("a.tif: the disk is gone; plug it in")
        return put(*args)

    with monkeypatch.context() as patch, pytest.raises(ds.errors.TileDecodeError):
        patch.setattr(pyramid, "put_shards", failing)
        ds.write(slide, tmp_path / "b.zarr", resume=True)
    again = zarr.open_group(ds.write(slide, tmp_path / "b.zarr", resume=True), mode="r")
    one, two = (group.attrs["dask_slides"] for group in (whole, again))
    assert (one["bad_tiles"], one["holes"]) == (two["bad_tiles"], two["holes"])
    assert one["manifest"]["checksum"] == two["manifest"]["checksum"]


def test_a_reopened_pack_lists_the_skipped_tiles(tmp_path):
    path, *_ = damaged_slide(tmp_path / "a", "deflate", {4}, {11})
    pack = ds.pack_tiles(
        ds.open_slide(path, on_bad_tile="mask"), tile_size=40, detector=ds.Contrast(0.05)
    )
    again = ds.open_pack(ds.write(pack, tmp_path / "a.tiles.zarr"))
    assert dict(again.attributes) == dict(pack.attributes)
    assert again.attributes["skipped"] > 0 and len(again.attributes["bad_tiles"]) == 2


def test_a_map_is_written_with_its_unknown_tiles(tmp_path):
    path, _pixels, mask = damaged_slide(tmp_path / "a", "deflate", {4, 8, 9}, {11})
    found = ds.blank_map(
        ds.open_slide(path, on_bad_tile="mask"), tile_size=30, detector=ds.Contrast(9)
    ).compute()
    group = zarr.open_group(ds.write(found, tmp_path / "m.ome.zarr"), mode="r")
    unknown = oracle.per_cell(mask, (30, 30), np.any)
    np.testing.assert_array_equal(group["blank_map/unknown"][...], unknown)
    np.testing.assert_array_equal(group["blank_map/blank"][...], ~unknown)
    np.testing.assert_array_equal(group["0"][0], np.where(unknown, 128, 0))
    np.testing.assert_array_equal(group["labels/tissue/0"][...], np.where(unknown, 2, 0))
    assert group["blank_map"].attrs["statistics"][-2:] == ["missing", "nodata"]
    label = group["labels/tissue"].attrs["ome"]["image-label"]
    assert label["properties"][2] == {"label-value": 2, "name": "unknown"}


def test_invalid_holes_in_a_store_are_refused(tmp_path):
    path, *_ = damaged_slide(tmp_path / "a", "deflate", {4}, ())
    out = ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr")
    group = zarr.open_group(out, mode="r+")
    for rows in ([[1, 2, 3, "absent"]], [["y", 0, 1, 1, "absent"]], [[0, 0, 9, 9, "fine"]], 7):
        group.attrs["dask_slides"] = group.attrs["dask_slides"] | {"holes": rows}
        with pytest.raises(ds.errors.SlideFormatError):
            ds.open_slide(out)


PRESENT = {(0, 0), (3, 6), (40, 90), (99, 0)}
"""The tiles that the file holds, of 100 x 100."""


@pytest.fixture(params=["uint8", "uint16"])
def sparse(request, tmp_path):
    """Return a slide of 1,600 x 1,600 px with four present tiles, and its pixels."""
    dtype = np.dtype(request.param)
    pixels = np.full((1600, 1600, 3), np.iinfo(dtype).max, dtype)
    rng = np.random.default_rng(3)
    for row, column in PRESENT:
        where = slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16)
        pixels[where] = rng.integers(0, 200, (16, 16, 3))
    parts = (
        pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        if (row, column) in PRESENT
        else None
        for row in range(100)
        for column in range(100)
    )
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(
        path, parts, shape=pixels.shape, dtype=dtype, tile=(16, 16), photometric="rgb",
        compression="zlib",
    )  # fmt: skip
    return ds.open_slide(path), pixels


def test_the_cost_of_absent_tiles_does_not_grow_with_their_number(sparse, monkeypatch):
    slide, pixels = sparse
    decoded, created = Counter(), []
    once, of_tile = TileDecoder._tile, tile_status.BadTile

    def counted(self, number, data, into=None):
        decoded[divmod(number, 100)] += 1
        return once(self, number, data, into)

    def create(*facts):
        created.append(facts)
        return of_tile(*facts)

    monkeypatch.setattr(TileDecoder, "_tile", counted)
    monkeypatch.setattr(tile_status, "BadTile", create)
    found = ds.blank_map(slide, tile_size=16, detector=ds.Contrast(0.05)).compute()
    assert dict(decoded) == dict.fromkeys(PRESENT, 1)
    whole = np.zeros((100, 100), bool)
    whole[tuple(np.transpose(sorted(PRESENT)))] = True
    assert np.array_equal(found.stats.whole, whole)
    checked = ds.check_slide(slide)
    assert checked.statuses == {"ok": 4, "absent": 9996, "corrupt": 0}
    assert checked.bad_tiles == found.bad_tiles == slide.bad_tiles()
    assert len(found.bad_tiles) < 20
    assert np.array_equal(slide.data.compute(), pixels)
    small = ds.resize(slide, downsample=4, kernel="nearest").data.compute()
    assert np.array_equal(small[:, :40], pixels[2::4, 2:160:4])
    # a few per task, not one per tile
    assert len(created) < 500


def test_resized_regions_of_absent_tiles_are_not_read(sparse, monkeypatch):
    slide, _ = sparse
    small = ds.resize(slide, downsample=2)

    def reads(*_):
        raise AssertionError("read")

    monkeypatch.setattr(TiffSource, "read_valid", reads)
    monkeypatch.setattr(TiffSource, "read_reduced", reads)
    assert (small.read(100, 100, 200, 600) == np.iinfo(slide.dtype).max).all()
    with pytest.raises(AssertionError, match="read"):
        small.read(0, 0, 200, 200)
