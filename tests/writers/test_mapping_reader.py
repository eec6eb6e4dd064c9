"""The way back to the source, read from written cut-offs."""

import numpy as np
import pytest
import zarr

import dask_slides as ds

pytestmark = pytest.mark.usefixtures("sync")

GLASS = ds.Contrast(0.05)


@pytest.fixture
def image():
    """Two areas of noise on glass, 300 x 420 px."""
    image = np.full((300, 420, 3), 240, np.uint8)
    noise = np.random.default_rng(0).integers(0, 200, (300, 420, 3))
    for area in (np.s_[40:130, 200:390], np.s_[210:290, 20:90]):
        image[area] = noise[area]
    return image


@pytest.mark.parametrize("layout", ["grid", "islands"])
@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_a_written_cutoff_converts_the_same_points(tmp_path, image, layout, version):
    cut = ds.cutoff_resize(image, downsample=1.7, tile_size=10, detector=GLASS, layout=layout)
    path = ds.write(cut, tmp_path / "a.ome.zarr", ome_zarr=version)
    mapping = ds.open_mapping(path)
    assert mapping == cut.mapping and mapping.source_shape == (300, 420)
    points = np.random.default_rng(1).uniform(-20, 440, (2000, 2))
    for name in ("to_source", "from_source"):
        expected = getattr(cut, name)(points)
        assert np.isnan(expected).any() and not np.isnan(expected).all()
        assert np.array_equal(getattr(mapping, name)(points), expected, equal_nan=True)


def test_the_attributes_of_islands_are_their_rectangles(tmp_path, image):
    cut = ds.cutoff_resize(image, downsample=2, tile_size=10, detector=GLASS, layout="islands")
    own = zarr.open_group(ds.write(cut, tmp_path / "a.ome.zarr"), mode="r").attrs["dask_slides"]
    assert own["kind"] == "cutoff" and own["layout"] == "islands"
    assert own["source_shape"] == [300, 420] and own["factors"] == list(cut.factors)
    assert own["islands"] == [list(row) for row in cut.islands.tolist()]
    y, x = (own["islands"][0][n] for n in (1, 2))
    assert [y, x] in ([40, 200], [210, 20])


def test_pixels_and_labels_of_written_islands(tmp_path, image):
    image = image.repeat(4, axis=0).repeat(4, axis=1)
    found = ds.blank_map(image, tile_size=40, detector=GLASS).compute()
    # a blank cell inside of an island stays in the image, but is no tissue
    blank = np.array(found.blank)
    blank[8, 25] = True
    cut = ds.cutoff_resize(image, downsample=1, blank_map=found.with_blank(blank), layout="islands")
    group = zarr.open_group(ds.write(cut, tmp_path / "a.ome.zarr"), mode="r")
    assert np.array_equal(group["0"][...].transpose(1, 2, 0), cut.image.data.compute())
    for level in range(2):
        label = group[f"labels/tissue/{level}"][...]
        centres = (np.stack(np.mgrid[: label.shape[0], : label.shape[1]], -1) + 0.5) * 2**level
        source = cut.to_source(np.minimum(centres, np.array(cut.image.shape[:2]) - 1e-6))
        inside = ~np.isnan(source).any(axis=-1)
        cells = np.where(inside[..., None], source, 0).astype(int) // 40
        expected = inside & ~blank[cells[..., 0], cells[..., 1]]
        assert np.array_equal(label, expected)
        assert not inside.all() and (inside & ~expected).any()
        assert (group[str(level)][...].transpose(1, 2, 0)[~inside] == 255).all()


def test_other_stores_and_damaged_attributes_are_refused(tmp_path, image):
    plain = ds.write(ds.from_dask(image), tmp_path / "plain.ome.zarr")
    for path in (plain, str(tmp_path / "nothing.ome.zarr")):
        with pytest.raises(ds.errors.SlideFormatError, match="not a cut-off; give a store"):
            ds.open_mapping(path)
    cut = ds.cutoff_resize(image, downsample=1, tile_size=10, detector=GLASS, layout="islands")
    path = ds.write(cut, tmp_path / "cut.ome.zarr")
    group = zarr.open_group(path, mode="r+")
    own = dict(group.attrs["dask_slides"])
    for islands in ([[1, 2]], "x", None):
        group.attrs["dask_slides"] = own | {"islands": islands}
        with pytest.raises(ds.errors.SlideFormatError, match="write it again"):
            ds.open_mapping(path)
