"""cutoff_resize(layout="islands") against canvases that numpy slices from the whole image."""

import pickle
from collections import Counter
from dataclasses import replace

import dask.array as da
import numpy as np
import oracle
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from strategies import chunkings, kernels, pixels, seeds

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.core.layout import IslandLayout, IslandPart
from dask_slides.graph.islands import IslandsSource, lattice_step
from dask_slides.graph.resized import ResizedSource
from dask_slides.readers.codecs.tile_decoder import TileDecoder

GLASS, WHITE = 230, 255


def image_of(blank, tile, shape, seed=0):
    """Return an image with noise in the cells that are not blank, and glass elsewhere."""
    image = pixels(seed, (*shape, 3), "uint8")
    cells = np.repeat(np.repeat(blank, tile[0], axis=0), tile[1], axis=1)
    image[cells[: shape[0], : shape[1]]] = GLASS
    return image


@st.composite
def slides(draw):
    """Return (image, blank cells, tile): blobs of cells, of which one at least is tissue."""
    rows, cols = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    tile = draw(st.integers(3, 12)), draw(st.integers(3, 12))
    shape = tuple(
        n * t - draw(st.integers(0, t - 2)) for n, t in ((rows, tile[0]), (cols, tile[1]))
    )
    seed = draw(seeds)
    rng = np.random.default_rng(seed)
    blank = rng.random((rows, cols)) > draw(st.sampled_from([0.1, 0.3, 0.6]))
    blank[rng.integers(rows), rng.integers(cols)] = False
    return image_of(blank, tile, shape, seed), blank, tile


def map_of(image, blank, tile):
    return ds.blank_map(image, tile_size=tile).with_blank(blank)


def islands_of(image, blank, tile, **options):
    if not {"max_size", "shape"} & set(options):
        options.setdefault("downsample", 1)
    slide = ds.from_dask(image)
    return ds.cutoff_resize(
        slide, blank_map=map_of(slide, blank, tile), layout="islands", **options
    )


def canvas_of(cut, image, fill=WHITE):
    """Return the canvas and the island of each of its pixels, sliced from the whole image."""
    table = cut.islands
    height = (table["canvas_y"] + table["height"]).max()
    width = (table["canvas_x"] + table["width"]).max()
    canvas = np.full((height, width, image.shape[2]), fill, image.dtype)
    owner, times = np.zeros((height, width), int), np.zeros((height, width), int)
    for row in table:
        at = np.s_[row["canvas_y"] :, row["canvas_x"] :]
        size = np.s_[: row["height"], : row["width"]]
        canvas[at][size] = image[row["y"] :, row["x"] :][size]
        owner[at][size] = row["island"]
        times[at][size] += 1
    assert times.max() == 1, "rectangles overlap on the canvas"
    return canvas, owner


def owners_on_source(cut):
    """Return the island of each pixel of the source."""
    owner = np.zeros(cut.source_shape, int)
    for row in cut.islands:
        part = owner[row["y"] : row["y"] + row["height"], row["x"] : row["x"] + row["width"]]
        assert part.shape == (row["height"], row["width"]) and not part.any()
        part[:] = row["island"]
    return owner


@given(slides(), st.data())
def test_the_canvas_equals_slices_of_the_image(case, data):
    image, blank, tile = case
    chunks = (*data.draw(chunkings(image.shape)), 3)
    cut = islands_of(da.from_array(image, chunks=chunks), blank, tile)
    expected, owner = canvas_of(cut, image)
    found = cut.image.to_dask(chunks=data.draw(chunkings(expected.shape)))
    assert np.array_equal(found.compute(scheduler="sync"), expected)
    assert np.array_equal(cut.island_mask(max_size=max(owner.shape)), owner)
    assert cut.gain == max(image.shape[:2]) / max(expected.shape[:2])


@given(slides(), st.integers(0, 9))
def test_islands_hold_the_connected_tissue_with_its_margin(case, margin):
    image, blank, tile = case
    cut = islands_of(image, blank, tile, margin=margin)
    owner = owners_on_source(cut)
    tissue = ~np.repeat(np.repeat(blank, tile[0], axis=0), tile[1], axis=1)
    tissue = tissue[: image.shape[0], : image.shape[1]]
    square = np.ones((2 * margin + 1, 2 * margin + 1))
    assert owner[ndimage.binary_dilation(tissue, square)].all()
    labels, count = ndimage.label(tissue, np.ones((3, 3)))
    assert all(len(set(owner[labels == number])) == 1 for number in range(1, count + 1))
    assert all(tissue[owner == island].any() for island in set(owner.flat) - {0})


@given(slides(), st.sampled_from([1, 2.5, 7]))
def test_gutters_separate_islands_and_lie_on_the_lattice(case, downsample):
    image, blank, tile = case
    cut = islands_of(image, blank, tile, downsample=downsample)
    _, owner = canvas_of(cut, image)
    gutter = [max(side, 4 * downsample) for side in tile]
    for island in set(owner.flat) - {0}:
        size = [2 * int(side * 0.99) + 1 for side in gutter]  # sizes of images are rounded
        around = ndimage.maximum_filter(owner == island, size)
        assert set(owner[around]) <= {0, island}
    table = cut.islands
    for axis, (name, size) in enumerate((("y", "height"), ("x", "width"))):
        assert not (table[name] % tile[axis]).any()
        assert not (table[f"canvas_{name}"] % tile[axis]).any()
        stops = table[name] + table[size]
        assert ((stops % tile[axis] == 0) | (stops == image.shape[axis])).all()


@given(slides(), st.sampled_from([1, 0.7, 1.3, 3, 3.7]))
def test_points_convert_there_and_back_and_others_are_nan(case, downsample):
    image, blank, tile = case
    cut = islands_of(image, blank, tile, downsample=downsample)
    fractions = np.stack(np.meshgrid([0, 1 / 16, 15 / 16], [0, 0.5]), axis=-1).reshape(-1, 2)
    points = np.stack(np.mgrid[: image.shape[0], : image.shape[1]], axis=-1)[:, :, None] + fractions
    inside = owners_on_source(cut) > 0
    there = cut.from_source(points)
    assert np.isnan(there[~inside]).all()
    assert np.array_equal(cut.to_source(there[inside]), points[inside])
    canvas, owner = canvas_of(cut, image)
    on_canvas = there[inside] * cut.factors
    y, x = np.moveaxis(np.floor(on_canvas + 1e-6).astype(int), -1, 0)
    assert np.array_equal(
        canvas[y, x], np.broadcast_to(image[:, :, None], (*points.shape[:3], 3))[inside]
    )
    every = np.stack(np.mgrid[: owner.shape[0], : owner.shape[1]], axis=-1) + 0.5
    back = cut.to_source(every / cut.factors)
    assert np.array_equal(np.isnan(back).any(axis=-1), owner == 0)


def test_points_outside_the_canvas_are_nan(tissue):
    cut = ds.cutoff_resize(tissue, tile_size=30, downsample=2, layout="islands")
    height, width = cut.image.shape[:2]
    outside = [[-0.1, 0], [0, -3], [height, 1], [1, width + 9], [np.nan, 1]]
    assert np.isnan(cut.to_source(outside)).all()
    assert np.isnan(cut.from_source([[-1, 5], [5, 1e9], [np.nan, 3]])).all()


@given(slides(), st.floats(0.5, 5), kernels, st.data())
def test_the_image_equals_the_resized_canvas_with_clean_gutters(case, ratio, kernel, data):
    image, blank, tile = case
    cut = islands_of(image, blank, tile, downsample=ratio, kernel=kernel, gap=None)
    canvas, _ = canvas_of(cut, image)
    shape = cut.image.shape[:2]
    expected = canvas
    if shape != canvas.shape[:2]:
        expected = oracle.pillow_resize(canvas, shape, kernel)
        expected[cut.island_mask(max_size=max(shape)) == 0] = WHITE
    found = cut.image.to_dask(chunks=data.draw(chunkings(shape))).compute(scheduler="sync")
    assert np.array_equal(found, expected)


@pytest.fixture
def speckled(stained):
    """Three areas of tissue on glass; the image is not a multiple of 64 px."""
    image = np.full_like(stained, GLASS)
    for area in (np.s_[64:320, 128:384], np.s_[448:640, 448:832], np.s_[700:, 64:200]):
        image[area] = stained[area]
    return image


def test_levels_of_an_island_slide_are_laid_out_levels(write_pyramid, speckled):
    cut = ds.cutoff_resize(
        write_pyramid(speckled, levels=2), downsample=1, tile_size=64, layout="islands",
        detector=ds.Contrast(0.05),
    )  # fmt: skip
    assert [level.downsample for level in cut.image.levels] == [(1, 1), (2, 2), (4, 4)]
    levels = [speckled, *oracle.area_pyramid(speckled, 2)]
    for number, level in enumerate(levels):
        step = 2**number
        expected = np.full((*cut.image.levels[number].shape, 3), WHITE, np.uint8)
        for row in cut.islands:
            y, x, cy, cx = (row[name] // step for name in ("y", "x", "canvas_y", "canvas_x"))
            part = level[y : y + -(-row["height"] // step), x : x + -(-row["width"] // step)]
            expected[cy : cy + part.shape[0], cx : cx + part.shape[1]] = part
        assert np.array_equal(cut.image.to_dask(level=number).compute(), expected)
    small = ds.resize(cut.image, downsample=9)
    assert small.source.from_level == 2
    found = small.data.compute()
    exact = ds.resize(cut.image, downsample=9, gap=None).data.compute()
    assert oracle.psnr(found, exact) >= 45
    gutter = (exact == WHITE).all(axis=-1)
    assert gutter.any() and (found[gutter] == WHITE).all()


@pytest.fixture(scope="module")
def jpeg_slide(tmp_path_factory):
    """Return the path of a flat slide with two areas of tissue, 256 px tiles, and its pixels."""
    path = tmp_path_factory.mktemp("islands") / "two.tif"
    image = np.full((2048, 3072, 3), 245, np.uint8)
    noise = np.random.default_rng(7).integers(60, 200, (75, 115, 3))
    image[300:900, 520:1100] = np.kron(noise, np.ones((8, 8, 1)))[:600, :580]
    image[1300:1900, 1800:2700] = np.kron(noise, np.ones((8, 8, 1)))[:, :900]
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="jpeg")
    return path, tifffile.imread(path)


def test_a_task_decodes_each_tile_once_and_no_others(jpeg_slide, monkeypatch, sync):
    path, image = jpeg_slide
    cut = ds.cutoff_resize(path, downsample=1, tile_size=256, layout="islands")
    assert len({row["island"] for row in cut.islands}) == 2
    canvas, owner = canvas_of(cut, image)
    decoded, counts = TileDecoder.__call__, Counter()

    def count(self, number, data, factor, into=None):
        counts[number] += 1
        return decoded(self, number, data, factor, into)

    monkeypatch.setattr(TileDecoder, "__call__", count)
    blocks = cut.image.to_dask(chunks=512)
    total = Counter()
    for index in np.ndindex(blocks.numblocks[:2]):
        counts.clear()
        found = blocks.blocks[index].compute()
        part = np.s_[index[0] * 512 : index[0] * 512 + 512, index[1] * 512 : index[1] * 512 + 512]
        assert np.array_equal(found, canvas[part])
        assert set(counts.values()) <= {1}
        assert len(counts) == np.count_nonzero(owner[part][::256, ::256])
        total += counts
    assert set(total.values()) == {1}  # not in two tasks either


def test_reduced_decoding_keeps_gutters_clean(jpeg_slide):
    path, image = jpeg_slide
    cut = ds.cutoff_resize(path, downsample=8, tile_size=256, layout="islands")
    assert cut.image.source.factor > 1
    canvas, _ = canvas_of(cut, image)
    found = cut.image.data.compute()
    expected = oracle.pillow_resize(canvas, found.shape[:2], "lanczos")
    gutter = cut.island_mask(max_size=max(found.shape)) == 0
    assert gutter.any() and (found[gutter] == WHITE).all()
    assert oracle.psnr(found[~gutter], expected[~gutter]) >= 44


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("downsample", [1, 4, 8])
def test_gutters_are_no_tissue_and_nothing_is_missing(jpeg_slide, fill, downsample):
    """Black gutters beside glass would be tissue if their pixels counted."""
    slide = ds.open_slide(jpeg_slide[0], fill=fill)
    cut = ds.cutoff_resize(
        slide, downsample=downsample, tile_size=256, layout="islands", kernel="area"
    )
    side = 200 // downsample  # not on the grid of the tiles
    found = ds.blank_map(cut.image, tile_size=side, detector=ds.Contrast(0.05)).compute()
    mask = cut.island_mask(max_size=max(cut.image.shape))
    assert not found.unknown.any() and not found.bad_tiles
    pixels_counted = oracle.per_cell(mask, (side, side), np.count_nonzero)
    assert np.array_equal(found.stats.count, 3 * pixels_counted)
    assert found.blank[pixels_counted == 0].all()
    # tiles that touch a gutter are not whole, as tiles with nodata
    whole = pixels_counted == side**2
    pack = ds.pack_tiles(cut.image, tile_size=side, detector=ds.Contrast(0.05))
    assert len(pack) == np.count_nonzero(whole & ~found.blank) > 0


def test_crops_of_the_image_are_found_on_the_source(jpeg_slide):
    path, image = jpeg_slide
    cut = ds.cutoff_resize(path, downsample=1, tile_size=256, layout="islands")
    canvas, _ = canvas_of(cut, image)
    crops = ds.random_crops(cut.image, n=5, size=100, seed=1)
    expected = oracle.tiles_at(canvas, crops.y, crops.x, (100, 100))
    assert np.array_equal(crops.tiles.compute(), expected)
    back = cut.to_source(np.stack([crops.y, crops.x], axis=-1) + 50)
    centres = canvas[crops.y + 50, crops.x + 50]
    known = ~np.isnan(back).any(axis=-1)
    assert known.any()
    y, x = back[known].astype(int).T
    assert np.array_equal(image[y, x], centres[known])


def test_a_cut_can_be_cut_again(jpeg_slide):
    path, _ = jpeg_slide
    cut = ds.cutoff_resize(path, downsample=2, tile_size=256, layout="islands", gap=None)
    pixels = cut.image.data.compute()
    again = ds.cutoff_resize(cut.image, downsample=1, tile_size=64, layout="grid")
    blank = np.asarray(again.blank_map.blank)
    assert np.array_equal(again.image.data.compute(), oracle.cut(pixels, blank, (64, 64)))
    third = ds.cutoff_resize(again.image, downsample=1, tile_size=64, layout="islands")
    assert np.array_equal(
        third.image.data.compute(), canvas_of(third, again.image.data.compute())[0]
    )


def test_nodata_is_never_mixed_into_islands():
    """Over a source with nodata, the fill may be NaN: pixels that need a gutter have no value."""
    image = np.full((64, 96, 1), np.nan, np.float32)
    image[:20, :24], image[40:, 64:] = 1, 2
    layout = IslandLayout((IslandPart(1, 0, 0, 20, 24, 0, 0), IslandPart(2, 40, 64, 24, 32, 0, 40)))

    class WithNodata(type(ds.from_dask(image).source.without_blocks())):
        masked, fill = True, np.nan

        def read_valid(self, level, region):
            pixels = self.read(level, region)
            return pixels, ~np.isnan(pixels[..., 0])

    blocks = ds.from_dask(image).source.without_blocks()
    parent = WithNodata(**{**vars(blocks), "blocks": {(0, 0): image}})
    source = IslandsSource(parent, layout, 0)
    assert source.gutters(np.arange(3), np.arange(3)) is None
    small, valid = ResizedSource(source, (12, 36), "lanczos", None).read_valid(
        0, Region(0, 0, 12, 36)
    )
    assert set(np.unique(small[valid])) == {1, 2} and np.isnan(small[~valid]).all()
    assert valid[:7, :9].all() and not valid[:, 14:18].any()


def test_damage_is_shown_where_its_island_lies(jpeg_slide, tmp_path):
    path, _ = jpeg_slide
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        number = 6 * 12 + 8  # row 6, column 8: in the second island
        start = page.dataoffsets[number]
        data[start : start + page.databytecounts[number]] = bytes(page.databytecounts[number])
    broken = tmp_path / "broken.tif"
    broken.write_bytes(data)
    slide = ds.open_slide(broken, on_bad_tile="mask")
    found = ds.blank_map(ds.open_slide(path), tile_size=256).compute()
    cut = ds.cutoff_resize(slide, downsample=1, blank_map=found, layout="islands")
    cut.image.data.compute()
    whole = Region(0, 0, *cut.image.shape[:2])
    (hole,) = cut.image.source.holes(0, whole)
    corner = cut.to_source([hole.region.y, hole.region.x])
    assert corner.tolist() == [6 * 256, 8 * 256] and hole.region.area == 256**2
    assert [(tile.y, tile.x) for tile in cut.image.bad_tiles()] == [(6 * 256, 8 * 256)]


def test_the_lattice_is_that_of_the_tiles_of_the_file(tmp_path):
    image = np.zeros((600, 700, 3), np.uint8)
    for name, options, expected in (
        ("tiled", {"tile": (64, 96)}, (64, 96)),
        ("small tiles", {"tile": (16, 16)}, (64, 64)),
        ("strips", {"rowsperstrip": 8}, (64, 50)),
        ("one strip", {"rowsperstrip": 600}, (50, 50)),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, image, photometric="rgb", compression="zlib", **options)
        assert lattice_step(ds.open_slide(path).source, (50, 50)) == expected
    array = da.zeros((600, 700), chunks=100, dtype="u1")
    assert lattice_step(ds.from_dask(array).source, (50, 40)) == (50, 40)


def test_the_gutter_is_wide_enough_for_the_scale():
    blank = np.ones((20, 20), bool)
    blank[2:8, 2:8] = blank[11:18, 12:17] = False
    image = image_of(blank, (16, 16), (320, 320))
    for options in ({"downsample": 10}, {"max_size": 20}, {"shape": (12, 20)}):
        cut = islands_of(image, blank, (16, 16), **options)
        _, owner = canvas_of(cut, image)
        gutter = np.array(cut.factors) * 4 * 0.9
        size = [2 * int(side) + 1 for side in gutter]
        assert set(owner[ndimage.maximum_filter(owner == 1, size)]) == {0, 1}


def test_one_island_that_fills_its_box_is_not_cut():
    blank = np.ones((9, 9), bool)
    blank[2:5, 3:8] = False
    image = image_of(blank, (10, 10), (88, 90))
    cut = islands_of(image, blank, (10, 10))
    assert cut.islands.tolist() == [(1, 20, 30, 30, 50, 0, 0)]
    assert np.array_equal(cut.image.data.compute(), image[20:50, 30:80])


def test_islands_stay_whole_if_you_want():
    """One diagonal strip fills a small part of its bounding box."""
    blank = ~np.eye(20, dtype=bool)
    image = image_of(blank, (10, 10), (200, 200))
    whole = islands_of(image, blank, (10, 10), compact=None)
    assert whole.image.shape == image.shape and len(whole.islands) == 20
    cut = islands_of(image, blank, (10, 10))
    assert np.prod(cut.image.shape[:2]) <= 1.3 * 20 * 100


def test_a_wholly_blank_slide_has_no_islands():
    glass = np.full((80, 60, 3), GLASS, np.uint8)
    with pytest.warns(ds.errors.BlankSlideWarning):
        cut = ds.cutoff_resize(glass, tile_size=20, layout="islands")
    assert cut.image.shape == (0, 0, 3)
    assert np.isnan(cut.to_source([[0, 0]])).all() and np.isnan(cut.from_source([[0, 0]])).all()


def test_a_cut_with_islands_is_pickled_small_and_equal(tissue):
    cut = ds.cutoff_resize(ds.from_dask(tissue), tile_size=30, downsample=2, layout="islands")
    cut.to_source([0, 0])
    again = pickle.loads(pickle.dumps(cut))
    assert again.layout == cut.layout and np.array_equal(again.islands, cut.islands)
    source = cut.image.source.parent
    fresh = replace(source)  # the other one has made its levels
    assert len(pickle.dumps(source)) == len(pickle.dumps(fresh))
    assert pickle.loads(pickle.dumps(source)) == source
    assert "cut into islands and resized by 2 with lanczos" in repr(cut)


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "rows"},
        {"layout": None},
        {"margin": 3},
        {"layout": "islands", "margin": -1},
        {"layout": "islands", "margin": 1.5},
        {"layout": "islands", "margin": True},
        {"layout": "islands", "compact": 0.9},
        {"layout": "islands", "compact": "no"},
    ],
)
def test_wrong_layouts_and_margins_are_refused(options, tissue):
    with pytest.raises(ds.errors.SlideArgumentError, match=r"(use|give) "):
        ds.cutoff_resize(tissue, **options)


def test_a_grid_layout_has_no_islands(tissue):
    cut = ds.cutoff_resize(ds.from_dask(tissue), tile_size=30)
    for ask in (lambda: cut.islands, cut.island_mask):
        with pytest.raises(ds.errors.SlideArgumentError, match='give layout="islands"'):
            ask()
