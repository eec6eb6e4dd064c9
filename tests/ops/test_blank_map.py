import dask
import dask.array as da
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import chunkings, images, tiles

import dask_slides as ds

CONTRAST = ds.Contrast(0.05)


@given(images(channels=st.sampled_from([1, 3, 4])), tiles, st.data())
def test_chunks_of_the_array_do_not_change_the_map(image, tile, data):
    chunks = (*data.draw(chunkings(image.shape)), image.shape[2])
    found = ds.blank_map(
        da.from_array(image, chunks=chunks), tile_size=tile, detector=ds.Contrast(0.5)
    )
    expected = oracle.contrast_blank(image, tile, 0.5)
    assert found.shape == expected.shape
    assert np.array_equal(found.blank.compute(scheduler="sync"), expected)


@pytest.mark.parametrize(
    "detector", [ds.Tissue(), ds.Contrast(), ds.Otsu(), ds.Saturation()], ids=repr
)
def test_computed_and_lazy_agree(tissue_tiff, detector, sync):
    lazy = ds.blank_map(tissue_tiff, tile_size=23, detector=detector)
    assert isinstance(lazy.blank, da.Array) and not lazy.computed
    found = lazy.compute()
    assert found.computed and found.blank.dtype == bool
    assert np.array_equal(lazy.blank.compute(), found.blank)
    assert found.compute() is found
    assert np.array_equal(lazy.unknown.compute(), found.unknown) and not found.unknown.any()
    assert np.array_equal(lazy.tissue.compute(), found.tissue)
    assert np.array_equal(lazy.tissue_fraction.compute(), found.tissue_fraction)
    assert lazy.tissue_share == found.tissue_share


def test_the_map_of_a_file_equals_the_map_of_its_pixels(tissue, tissue_tiff):
    found = ds.blank_map(tissue_tiff, tile_size=(37, 51), detector=CONTRAST).compute()
    assert np.array_equal(found.blank, oracle.contrast_blank(tissue, (37, 51), 0.05))
    assert 0 < found.blank.mean() < 1


@pytest.mark.parametrize("detector", [CONTRAST, ds.Otsu(), ds.Tissue()], ids=repr)
def test_arrays_of_a_map_computed_together_compute_a_dask_array_once(tissue, sync, detector):
    calls = []

    def block(block_info):
        calls.append(1)
        return tissue

    array = da.map_blocks(block, chunks=((300,), (420,), (3,)), dtype="uint8", meta=tissue[:0])
    lazy = ds.blank_map(array, tile_size=100, detector=detector)
    blank, unknown, fraction = dask.compute(lazy.blank, lazy.unknown, lazy.tissue_fraction)
    assert calls == [1]
    found = ds.blank_map(tissue, tile_size=100, detector=detector).compute()
    assert np.array_equal(blank, found.blank)
    assert not unknown.any() and np.array_equal(fraction >= 0.05, ~blank)


def test_the_repr_of_a_map(tissue_tiff, sync):
    slide = ds.resize(tissue_tiff, downsample=2)
    start = (
        "BlankMap<resized by 2 with lanczos from tissue.tif, shape=(3, 3), dtype=bool, "
        "tile_size=(50, 70), mpp=None, detector="
    )
    lazy = ds.blank_map(slide, tile_size=(50, 70))
    assert repr(lazy) == f"{start}Tissue(), min_tissue=0.05, chunksize=(3, 3)>"
    found = lazy.compute()
    detector = "Tissue(background='bright')"
    share = f"tissue={found.tissue_share:.1%}"
    assert repr(found) == f"{start}{detector}, min_tissue=0.05, {share}>"
    lazy = ds.blank_map(slide, tile_size=(50, 70), detector=CONTRAST)
    assert repr(lazy) == f"{start}{CONTRAST!r}, chunksize=(3, 3)>"


def test_maps_and_statistics_compare_without_an_error(tissue, sync):
    one, two = (
        ds.blank_map(ds.from_dask(tissue), tile_size=60, detector=CONTRAST) for _ in range(2)
    )
    assert one == two and one != ds.blank_map(tissue, tile_size=50, detector=CONTRAST)
    assert one.compute() == two.compute() and one != one.compute()
    assert one.compute() != one.compute().with_detector(ds.Contrast(1))
    assert (
        one.stats == two.stats
        and one.stats != ds.blank_map(tissue, tile_size=50, detector=CONTRAST).stats
    )
    found, same = (ds.blank_map(ds.from_dask(tissue), tile_size=60) for _ in range(2))
    assert found == same and found.compute() == same.compute() != found
    assert found.compute() != found.compute().remove_small(10**9)
    for other in (one.blank, one.compute().blank, None, 3):
        assert (one == other) is False and (other == one) is False


def test_building_reads_nothing_and_computing_reads_each_pixel_once(reads, tissue_tiff):
    lazy = ds.blank_map(tissue_tiff, tile_size=37)
    assert reads == []
    lazy.compute(scheduler="sync")
    seen = np.zeros((300, 420), int)
    for region in reads:
        seen[region.slices()] += 1
    assert (seen == 1).all()


def test_changing_the_detector_of_a_computed_map_reads_nothing(reads, tissue, tissue_tiff):
    found = ds.blank_map(tissue_tiff, tile_size=30, detector=ds.Brightness()).compute()
    reads.clear()
    for ratio in (0, 0.01, 0.05, 0.2, 0.35, 1):
        again = found.with_detector(ds.Contrast(ratio))
        assert again.detector == ds.Contrast(ratio)
        assert np.array_equal(again.blank, oracle.contrast_blank(tissue, (30, 30), ratio))
    assert np.array_equal(
        found.with_detector(ds.Otsu()).blank,
        ds.blank_map(da.from_array(tissue), tile_size=30, detector=ds.Otsu()).blank.compute(),
    )
    assert reads == []


def test_changing_the_detector_of_a_lazy_map_stays_lazy(reads, tissue, tissue_tiff):
    lazy = ds.blank_map(tissue_tiff, tile_size=30, detector=ds.Otsu())
    lazy = lazy.with_detector(ds.Contrast(0.2) | ds.Otsu(0.9))
    assert reads == [] and not lazy.computed
    found = lazy.blank.compute()
    assert np.array_equal(found, lazy.compute().blank)
    assert (found | ~oracle.contrast_blank(tissue, (30, 30), 0.2)).all()


@pytest.mark.parametrize("tile", [1, 30])
def test_maps_store_the_statistics_that_their_detector_needs(tile):
    zeros = da.zeros((70, 70), dtype="uint8")
    bare = ds.blank_map(zeros, tile_size=tile, detector=CONTRAST)
    assert bare.fields == ()
    assert ds.blank_map(zeros, tile_size=tile, detector=ds.Otsu()).fields == ("histogram",)
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"holds no histogram.*; make the blank map"
    ):
        bare.with_detector(ds.Otsu())


def test_a_detector_that_needs_missing_statistics_is_refused(tissue_tiff):
    found = ds.blank_map(tissue_tiff, tile_size=30, detector=CONTRAST)
    with pytest.raises(ds.errors.SlideArgumentError, match=r"holds no saturation for Saturation"):
        found.with_detector(ds.Saturation())
    for detector in (ds.Tissue(), "tissue"):
        with pytest.raises(ds.errors.SlideArgumentError, match=r"no statistics for Tissue\(\)"):
            found.with_detector(detector)
    with pytest.raises(ds.errors.SlideArgumentError, match="no statistics for Contrast"):
        ds.blank_map(tissue_tiff, tile_size=30).with_detector(CONTRAST)
    with pytest.raises(ds.errors.SlideArgumentError, match="is not a detector"):
        found.with_detector(0.05)
    incomplete = ds.CellStats(*np.ones((3, 2, 2)))
    with pytest.raises(ds.errors.SlideArgumentError, match="the statistics hold no histogram"):
        ds.Otsu()(incomplete)


@pytest.mark.parametrize(
    ("mpp", "tile"),
    [
        (None, (256, 256)),
        (0.25, (256, 256)),
        (0.5, (128, 128)),
        ((0.2528, 0.4990), (256, 128)),
        (0.23, (280, 280)),
        (8.0, (8, 8)),
        (8.1, (256, 256)),
        (10_000.0, (256, 256)),
    ],
)
def test_default_tiles_have_64_micrometres_and_can_be_cut_off_at_an_eighth(mpp, tile):
    slide = ds.from_dask(da.zeros((3_000, 2_000, 3), dtype="uint8", chunks=-1), mpp=mpp)
    found = ds.blank_map(slide)
    assert found.grid.tile == found.grid.stride == tile
    assert found.shape == (-(-3_000 // tile[0]), -(-2_000 // tile[1]))


def test_a_tile_size_counts_in_pixels_of_the_mpp_that_is_given():
    slide = ds.from_dask(da.zeros((3_000, 2_000, 3), dtype="uint8", chunks=-1), mpp=(0.25, 0.5))
    assert ds.blank_map(slide, tile_size=100, mpp=1).grid.tile == (400, 200)
    assert ds.blank_map(slide, tile_size=(10, 30), mpp=(0.25, 1)).grid.tile == (10, 60)
    with pytest.raises(ds.errors.SlideMppError):
        ds.blank_map(np.zeros((9, 9), np.uint8), tile_size=4, mpp=1)


@pytest.mark.parametrize("tile_size", [0, -3, 2.5, (1, 2, 3), "all"])
def test_a_wrong_tile_size_is_refused(tile_size, tissue_tiff):
    with pytest.raises(
        ds.errors.SlideArgumentError, match=r"tile_size=.*; give whole pixels above 0"
    ):
        ds.blank_map(tissue_tiff, tile_size=tile_size)


def test_html_escapes_the_name(tissue_tiff, sync):
    lazy = ds.blank_map(tissue_tiff, tile_size=100, detector=ds.Otsu() | ds.Contrast())
    object.__setattr__(lazy.slide, "name", "<script>&.tif")
    for found in (lazy, lazy.compute()):
        html = found._repr_html_()
        assert "<script>" not in html and "&lt;script&gt;&amp;.tif" in html
        assert "3 x 5 tiles of 100 x 100 px" in html
    assert "not computed" in lazy._repr_html_()
    assert "data:image/png;base64," in lazy.compute()._repr_html_()


def test_a_plot_has_the_extent_of_the_slide(tissue_tiff, axes):
    found = ds.blank_map(tissue_tiff, tile_size=100).compute()
    assert found.plot(axes) is axes
    assert axes.images[0].get_extent() == [0, 420, 300, 0]
    assert axes.get_title() == f"tissue.tif: {found.tissue_share:.1%} tissue"


@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
def test_the_map_of_an_image_without_pixels_is_empty():
    empty = ds.cutoff_resize(np.full((40, 50), 9, np.uint8)).image
    found = ds.blank_map(empty).compute()
    assert found.blank.shape == (0, 0) and found.tissue_share == 0
    assert "0 x 0 tiles" in found._repr_html_()


def test_a_map_of_a_mask_computes_statistics_on_request(tissue_tiff):
    mask, statistics = (ds.blank_map(tissue_tiff, tile_size=30, detector=one).stats
                        for one in (ds.Tissue(), CONTRAST))  # fmt: skip
    for name in ("count", "total", "squares"):
        assert np.array_equal(getattr(mask, name), getattr(statistics, name))
