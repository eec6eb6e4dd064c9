"""Cut-offs and islands of the slide's own compressed tiles."""

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
import zarr

import dask_slides as ds
from dask_slides.errors import BlankSlideError, BlankSlideWarning, SlideUnsupportedError
from dask_slides.graph.stored_level import LevelSource
from dask_slides.readers.codecs.zarr_codecs import register


@pytest.fixture(autouse=True)
def _sync(sync):
    register()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return a slide of 1000 x 1500 px in tiles of 64 px, with two pieces of tissue."""
    rng = np.random.default_rng(3)
    image = np.full((1000, 1500, 3), 236, np.uint8)
    image[128:350, 256:550] = rng.integers(60, 220, (222, 294, 3), dtype=np.uint8)
    image[650:880, 1000:1400] = rng.integers(60, 220, (230, 400, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("cut") / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), compression="jpeg")
    return path


def cut_of(path, layout, **options):
    options = {"downsample": 1, "tile_size": 128, "detector": ds.Contrast(0.05)} | options
    return ds.cutoff_resize(path, layout=layout, **options)


@pytest.mark.parametrize("layout", ["grid", "islands"])
def test_a_cutoff_is_copied_and_leads_back_to_the_slide(tmp_path, path, layout):
    cut = cut_of(path, layout)
    store = ds.write(cut, tmp_path / "a.ome.zarr", codec="source")
    pixels = zarr.open_group(store, mode="r")["0"][...].transpose(1, 2, 0)
    assert pixels.shape == cut.image.shape and pixels.shape[0] < 1000
    slide, mapping = tifffile.imread(path), ds.open_mapping(store)
    y, x = np.indices(pixels.shape[:2]).reshape(2, -1) + 0.5
    back = mapping.to_source(np.stack((y, x), axis=1))
    inside = np.isfinite(back).all(axis=1)
    rows, columns = np.floor(back[inside]).astype(int).T
    np.testing.assert_array_equal(pixels.reshape(-1, 3)[inside], slide[rows, columns])
    assert (pixels.reshape(-1, 3)[~inside] == 255).all()
    assert inside.mean() > 0.5
    label = zarr.open_group(store, mode="r")["labels/tissue/0"][...]
    ds.write(cut, tmp_path / "b.ome.zarr")
    expected = zarr.open_group(tmp_path / "b.ome.zarr", mode="r")["labels/tissue/0"][...]
    np.testing.assert_array_equal(label, expected)
    ds.verify(store)


def test_gutters_of_copied_islands_show_the_fill_of_the_slide(tmp_path, path):
    """White of 16 bits, which Zarr shows too."""
    image = tifffile.imread(path).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64),
                     compression="zstd")  # fmt: skip
    cut = cut_of(tmp_path / "a.tif", "islands")
    store = ds.write(cut, tmp_path / "a.ome.zarr", codec="source")
    expected = zarr.open_group(store, mode="r")["0"][...].transpose(1, 2, 0)
    assert (expected == 65_535).all(axis=2).mean() > 0.05
    copy = ds.open_slide(store)
    np.testing.assert_array_equal(copy.read(0, 0, *copy.shape[:2]), expected)


@pytest.mark.parametrize("layout", ["grid", "islands"])
def test_copying_a_cutoff_decodes_nothing(tmp_path, path, layout, monkeypatch):
    cut = cut_of(path, layout)
    source = cut.image.source
    expected = list(source.streams(0, list(range(12))))

    def decode(*args, **kwargs):
        raise AssertionError("a tile was decoded")

    for module, name in ((imagecodecs, "jpeg8_decode"), (simplejpeg, "decode_jpeg")):
        monkeypatch.setattr(module, name, decode)
    assert list(source.streams(0, list(range(12)))) == expected
    assert source.encoding(0).tile == (64, 64)


@pytest.mark.parametrize("options", [{"tile_size": 100}, {"downsample": 2}])
@pytest.mark.parametrize("layout", ["grid", "islands"])
def test_a_cutoff_that_divides_tiles_is_refused(tmp_path, path, layout, options):
    if options == {"tile_size": 100} and layout == "islands":
        options = {"downsample": 3}  # islands lie on the tiles of the slide
    reason = "not whole tiles of 64 x 64 px; give another tile_size"
    if "downsample" in options:
        reason = "resized .*give downsample=1 to a cut-off"
    with pytest.raises(SlideUnsupportedError, match=f"cannot be copied, as .*{reason}"):
        ds.write(cut_of(path, layout, **options), tmp_path / "a.ome.zarr", codec="source")


def test_a_grid_may_end_at_the_edge_of_the_slide_and_islands_may_not(tmp_path):
    """Edge tiles hold padding beyond the slide, which must not show in a gutter."""
    rng = np.random.default_rng(3)
    image = np.full((1000, 1500, 3), 236, np.uint8)
    image[128:350, 256:550] = rng.integers(60, 220, (222, 294, 3), dtype=np.uint8)
    image[750:, 1000:] = rng.integers(60, 220, (250, 500, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64),
                     compression="zstd")  # fmt: skip
    cut = cut_of(tmp_path / "a.tif", "grid")
    store = ds.write(cut, tmp_path / "a.ome.zarr", codec="source")
    copy = ds.open_slide(store)
    shape = cut.image.shape[:2]
    np.testing.assert_array_equal(copy.read(0, 0, *shape), cut.image.read(0, 0, *shape))
    with pytest.raises(SlideUnsupportedError, match=r"partial tile at the edge.*layout='grid'"):
        ds.write(cut_of(tmp_path / "a.tif", "islands"), tmp_path / "b.ome.zarr", codec="source")


def test_a_blank_cutoff_is_refused(tmp_path, path):
    with pytest.warns(BlankSlideWarning):
        cut = cut_of(path, "grid", detector=ds.Contrast(9.0))
    with pytest.raises(BlankSlideError):
        ds.write(cut, tmp_path / "a.ome.zarr", codec="source")


def test_a_derived_source_that_is_not_moved_has_no_encoding(path):
    assert LevelSource(ds.open_slide(path).source, 0).encoding(0) is None
