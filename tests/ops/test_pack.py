import dask.array as da
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunkings, images, pixels

import dask_slides as ds
from dask_slides.core.tile_origins import TileOrigins
from dask_slides.ops.pack import plan_pack

ALL_TILES = ds.Contrast(0)
tiles = st.tuples(st.integers(7, 40), st.integers(7, 40))


def expected_pack(image, tile, stride, edge, ratio):
    """Return y, x and score of the tiles that are not blank, in order of position."""
    found = []
    for y in oracle.starts(image.shape[0], tile[0], stride[0], edge):
        for x in oracle.starts(image.shape[1], tile[1], stride[1], edge):
            part = image[y : y + tile[0], x : x + tile[1]]
            if part.std(dtype=np.float64) > ratio * part.mean(dtype=np.float64):
                found.append((y, x, part.std(dtype=np.float64)))
    return (np.array(column) for column in zip(*found, strict=True)) if found else ([], [], [])


def planned(slide, **kwargs):
    """Return the grid of a pack without reading anything."""
    values = {"tile_size": 256, "stride": None, "downsample": None, "mpp": None, "edge": "drop"}
    return plan_pack(slide, **(values | kwargs))


@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
@settings(max_examples=12)
@given(images(), tiles, st.integers(0, 10), st.sampled_from(["drop", "pad", "shift"]), st.data())
def test_tiles_are_slices_of_the_image_for_any_edge_stride_and_chunks(image, tile, gap, edge, data):
    if edge != "pad":
        tile = tuple(min(t, n) for t, n in zip(tile, image.shape, strict=False))
    stride = tuple(max(1, t - gap) for t in tile)
    array = da.from_array(image, chunks=(*data.draw(chunkings(image.shape)), image.shape[2]))
    detector = ds.Contrast(0.55)
    pack = ds.pack_tiles(array, tile_size=tile, stride=stride, detector=detector, edge=edge, fill=9)
    y, x, score = expected_pack(image, tile, stride, edge, 0.55)
    assert pack.y.tolist() == list(y) and pack.x.tolist() == list(x)
    assert pack.y.dtype == pack.x.dtype == np.int64
    assert np.allclose(pack.score, score, rtol=1e-9)
    assert len(pack) == len(y) and pack.tiles.shape == (len(y), *tile, image.shape[2])
    if len(pack):
        found = pack.tiles.compute(scheduler="sync")
        assert np.array_equal(found, oracle.tiles_at(image, y, x, tile, fill=9))


def test_tiles_of_a_file_are_slices_of_its_pixels(tissue, tissue_tiff):
    pack = ds.pack_tiles(tissue_tiff, tile_size=(50, 60), detector=ds.Contrast(0.1))
    y, x, _ = expected_pack(tissue, (50, 60), (50, 60), "drop", 0.1)
    assert 0 < len(y) < 42
    assert (pack.y.tolist(), pack.x.tolist()) == (y.tolist(), x.tolist())
    assert np.array_equal(pack.tiles.compute(), oracle.tiles_at(tissue, y, x, (50, 60)))
    assert np.array_equal(pack.reader(1, 3), oracle.tiles_at(tissue, y, x, (50, 60))[1:3])


def test_tiles_at_a_scale_are_slices_of_the_resized_slide(tissue):
    pack = ds.pack_tiles(
        ds.from_dask(tissue, mpp=0.5), tile_size=40, downsample=2, detector=ALL_TILES
    )
    small = oracle.pillow_resize(tissue, (150, 210), "lanczos")
    y, x, _ = expected_pack(small, (40, 40), (40, 40), "drop", 0)
    assert np.array_equal(pack.tiles.compute(), oracle.tiles_at(small, y, x, (40, 40)))
    assert np.array_equal(pack.y, 2 * y) and np.array_equal(pack.x, 2 * x)
    assert pack.mpp == 1.0 and pack.attributes["downsample"] == [2.0, 2.0]
    same = ds.pack_tiles(ds.from_dask(tissue, mpp=0.5), tile_size=40, mpp=1.0, detector=ALL_TILES)
    assert np.array_equal(same.tiles.compute(), pack.tiles.compute())


def test_positions_at_a_fractional_scale_are_the_nearest_pixels_of_level_0(tissue):
    pack = ds.pack_tiles(ds.from_dask(tissue), tile_size=40, downsample=2.7, detector=ALL_TILES)
    factors = 300 / 111, 420 / 156
    assert sorted(set(pack.y)) == [round(40 * i * factors[0]) for i in range(2)]
    assert sorted(set(pack.x)) == [round(40 * i * factors[1]) for i in range(3)]


def test_top_k_prefers_high_scores_then_upper_left_tiles():
    flat = np.full((10, 10, 1), 100, np.uint8)
    weak, strong = flat.copy(), flat.copy()
    weak[::2], strong[::2] = 90, 50
    rows = [[weak, strong, weak], [flat, strong, weak]]
    image = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    for k, expected in [
        (1, [(0, 10)]),
        (2, [(0, 10), (10, 10)]),
        (3, [(0, 0), (0, 10), (10, 10)]),
        (4, [(0, 0), (0, 10), (0, 20), (10, 10)]),
        (99, [(0, 0), (0, 10), (0, 20), (10, 10), (10, 20)]),
    ]:
        pack = ds.pack_tiles(ds.from_dask(image), tile_size=10, detector=ds.Contrast(0.01), top_k=k)
        assert list(zip(pack.y.tolist(), pack.x.tolist(), strict=True)) == expected
        tiles = oracle.tiles_at(image, pack.y, pack.x, (10, 10))
        assert np.array_equal(pack.tiles.compute(), tiles)
        assert np.allclose(pack.score, tiles.reshape(len(tiles), -1).std(axis=1))


@pytest.mark.parametrize(
    ("mpp", "factor"), [(None, 1), (0.25, 2), (0.1, 5), (0.5, 1), (0.48, 1), (0.52, 1), (2, 1)]
)
def test_default_tiles_have_256_pixels_at_about_half_a_micrometre(mpp, factor):
    slide = ds.from_dask(da.zeros((20_000, 9_000, 3), dtype="uint8", chunks=-1), mpp=mpp)
    image, grid = planned(slide)
    assert image.shape == (20_000 // factor, 9_000 // factor, 3)
    assert (grid.tile, grid.stride) == ((256, 256), (256, 256))
    assert grid.rows == 20_000 // factor // 256 and grid.cols == 9_000 // factor // 256


def test_a_magnification_is_an_objective():
    slide = ds.from_dask(da.zeros((2_000, 2_400, 3), dtype="uint8", chunks=-1), mpp=0.25)
    for magnification, side in [(40, 2_000), (20, 1_000), (10, 500), (12.5, 625)]:
        image, _ = planned(slide, magnification=magnification)
        assert image.shape[0] == side and image.mpp == pytest.approx(10 / magnification)
    with pytest.raises(ds.errors.SlideMppError):
        planned(ds.from_dask(np.zeros((90, 90), np.uint8)), magnification=20)


def test_attributes_describe_source_and_tiles(tissue_tiff):
    slide = ds.open_slide(tissue_tiff, mpp=(0.25, 0.25))
    pack = ds.pack_tiles(
        slide, tile_size=(40, 60), stride=(20, 30), mpp=0.5, detector=ds.Contrast(0.1), edge="pad"
    )
    assert dict(pack.attributes) == {
        "source": "tissue.tif",
        "source_shape": [300, 420, 3],
        "mpp": 0.5,
        "downsample": [2.0, 2.0],
        "read_from": "resized by 2 with lanczos from level 0",
        "tile_size": [40, 60],
        "stride": [20, 30],
        "channels": [
            {"name": "red", "color": "FF0000", "window": None},
            {"name": "green", "color": "00FF00", "window": None},
            {"name": "blue", "color": "0000FF", "window": None},
        ],
        "detector": repr(ds.Contrast(0.1)),
        "version": ds.__version__,
        "edge": "pad",
    }


def test_building_a_pack_reads_the_slide_once():
    calls = []

    def block(block_id):
        calls.append(block_id)
        return pixels(sum(block_id), (20, 20, 1), "uint8")

    meta = np.empty((0, 0, 0), np.uint8)
    array = da.map_blocks(block, chunks=((20,) * 3, (20,) * 3, (1,)), dtype="uint8", meta=meta)
    pack = ds.pack_tiles(array, tile_size=20, detector=ALL_TILES)
    assert len(calls) == 9 and len(pack) == 9
    pack.tiles[:1].compute(scheduler="sync")
    assert len(calls) == 10


def test_a_pack_of_a_blank_slide_is_empty_with_a_warning():
    glass = np.full((80, 60, 3), 240, np.uint8)
    for options, name in (({"detector": ds.Contrast(0.35)}, "Contrast"), ({}, "Tissue")):
        with pytest.warns(
            ds.errors.BlankSlideWarning, match=f"every tile is blank under {name}"
        ) as caught:
            pack = ds.pack_tiles(glass, tile_size=20, **options)
        assert caught[0].filename == __file__
    assert len(pack) == 0 and pack.tiles.compute().shape == (0, 20, 20, 3)
    assert pack.y.shape == pack.x.shape == pack.score.shape == (0,)
    assert "0 of 20 x 20 px" in pack._repr_html_() and "none" in pack._repr_html_()
    assert pack.contact_sheet().shape[2] == 3


@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
def test_a_pack_of_an_empty_image_is_empty():
    empty = ds.cutoff_resize(np.full((80, 60, 3), 240, np.uint8)).image
    for options in ({}, {"tile_size": 20, "detector": ALL_TILES}):
        pack = ds.pack_tiles(empty, **options)
        assert len(pack) == 0 and pack.attributes["downsample"] == [1.0, 1.0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"tile_size": 0},
        {"tile_size": None},
        {"tile_size": (5, 5, 5)},
        {"tile_size": 2.5},
        {"stride": 0},
        {"stride": "a"},
        {"edge": "clip"},
        {"edge": "shift", "tile_size": 301},
        {"top_k": 0},
        {"top_k": 2.5},
        {"downsample": 0},
        {"downsample": 2, "mpp": 1},
        {"mpp": 1},
        {"detector": 0.35},
        {"magnification": 20},
        {"magnification": 20, "downsample": 2},
        {"min_tissue": -0.1},
        {"min_tissue": None},
        {"fill": 256},
        {"fill": -1},
        {"fill": float("nan")},
        {"fill": "white"},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_in_one_line(arguments, tissue):
    with pytest.raises(ds.errors.SlideArgumentError, match=r"; (give|use) ") as caught:
        ds.pack_tiles(ds.from_dask(tissue), **arguments)
    assert "\n" not in str(caught.value)


def test_a_contact_sheet_shows_evenly_chosen_tiles(tissue):
    pack = ds.pack_tiles(ds.from_dask(tissue), tile_size=32, detector=ds.Contrast(0.1))
    sheet = pack.contact_sheet(count=3, columns=2, side=32)
    assert sheet.shape == (2 * 36 + 4, 2 * 36 + 4, 3)
    tiles = oracle.tiles_at(tissue, pack.y, pack.x, (32, 32))
    middle = (len(tiles) - 1) // 2
    assert np.array_equal(sheet[4:36, 4:36], tiles[0])
    assert np.array_equal(sheet[4:36, 40:72], tiles[middle])
    assert np.array_equal(sheet[40:72, 4:36], tiles[-1])


def test_the_repr_of_a_pack(tissue):
    slide = ds.from_dask(tissue, mpp=0.5)
    pack = ds.pack_tiles(slide, tile_size=(40, 50), detector=ds.Contrast(0.1))
    assert repr(pack) == (
        f"TilePack<dask array, shape=({len(pack)}, 40, 50, 3), dtype=uint8, mpp=0.5, "
        f"detector={ds.Contrast(0.1)!r}, chunksize=({len(pack)}, 40, 50, 3)>"
    )
    assert "mpp=None" in repr(ds.pack_tiles(tissue, tile_size=50, detector=ALL_TILES))


def test_comparing_packs_neither_raises_nor_reads(tissue_tiff, reads):
    pack, other = (ds.pack_tiles(tissue_tiff, tile_size=50) for _ in range(2))
    reads.clear()
    assert pack == pack and pack != other and pack != 3
    assert np.arange(3) != pack
    assert len({pack, other}) == 2
    assert not reads


def test_the_html_repr_escapes_the_source(tissue):
    slide = ds.from_dask(tissue, mpp=0.5)
    object.__setattr__(slide, "name", "<i>&")
    html = ds.pack_tiles(slide, tile_size=50, detector=ds.Contrast(0.1))._repr_html_()
    assert "<i>" not in html and "Tiles of &lt;i&gt;&amp;" in html
    assert "0.5 µm" in html and "data:image/png;base64," in html


def test_a_plot_is_a_contact_sheet(tissue, axes):
    pack = ds.pack_tiles(ds.from_dask(tissue), tile_size=50, detector=ds.Contrast(0.1))
    assert pack.plot(axes) is axes
    assert axes.get_title() == f"dask array: {len(pack)} tiles"


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), max_size=50))
def test_tile_origins_round_trip(points):
    yx = np.array(points, np.int64).reshape(-1, 2)
    origins = TileOrigins.of(yx)
    assert np.array_equal(origins.yx(), yx) and origins.yx().dtype == np.int64


def test_tile_origins_of_a_large_grid_are_a_few_kilobytes():
    yx = np.stack(np.mgrid[:200, :200], axis=-1).reshape(-1, 2) * 512
    assert len(TileOrigins.of(yx).packed) < 4000


@pytest.mark.parametrize("edge", ["drop", "shift"])
def test_a_tile_larger_than_the_image_is_refused_or_padded(edge):
    image = pixels_of(40, 300)
    with pytest.raises(ds.errors.SlideArgumentError, match="does not fit the image of 40 x 300 px"):
        ds.pack_tiles(image, tile_size=64, edge=edge)
    assert ds.pack_tiles(image, tile_size=64, edge="pad", detector=ALL_TILES).tiles.shape[0] == 5


def pixels_of(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
