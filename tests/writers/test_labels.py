"""Labels of images show the mask of the blank map, with its edges."""

import pickle

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from rw_fixtures import noise

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.core.intervals import Intervals
from dask_slides.core.layout import GridLayout
from dask_slides.numerics.tissue_mask import MISSING, TissueMask
from dask_slides.writers.labels import PackedMask, TissueLabel, tissue_label


@st.composite
def masks(draw):
    """Return a mask with random edges, and its values at level 0."""
    edges = [np.array([0, *sorted(draw(st.sets(st.integers(1, 90), min_size=1, max_size=20)))])
             for _ in "yx"]  # fmt: skip
    shape = tuple(len(one) - 1 for one in edges)
    kinds = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, shape, dtype=np.uint8)
    whole = kinds.repeat(np.diff(edges[0]), axis=0).repeat(np.diff(edges[1]), axis=1)
    return TissueMask(kinds, *edges), whole


@settings(max_examples=60, deadline=None)
@given(masks(), st.data())
def test_a_pixel_has_the_value_at_its_centre(case, data):
    mask, whole = case
    top, left = (data.draw(st.integers(0, n - 1)) for n in whole.shape)
    rows, columns = (
        Intervals((first,), (n,)) for first, n in zip((top, left), whole.shape, strict=True)
    )
    factors = tuple(data.draw(st.sampled_from([1.0, 1.25, 3.0, 7.5])) for _ in "yx")
    label = TissueLabel(GridLayout(rows, columns), factors, PackedMask.of(mask))
    label = pickle.loads(pickle.dumps(label))
    assert label.has_unknown == (whole == MISSING).any()
    for level in (0, 2):
        size = [max(1, int(one.length / factor / 2**level))
                for one, factor in zip((rows, columns), factors, strict=True)]  # fmt: skip
        found = label.pixels(level, Region(0, 0, *size))
        for i, j in np.ndindex(*size):
            y = min(int((i + 0.5) * 2**level * factors[0]), rows.length - 1) + top
            x = min(int((j + 0.5) * 2**level * factors[1]), columns.length - 1) + left
            assert found[i, j] == whole[y, x]
        part = Region(size[0] // 2, size[1] // 3, size[0] - size[0] // 2, size[1] - size[1] // 3)
        np.testing.assert_array_equal(label.pixels(level, part), found[part.slices()])


@pytest.mark.parametrize("layout", ["grid", "islands"])
def test_a_written_cutoff_has_the_edges_of_the_mask(tmp_path, layout):
    y, x = np.ogrid[:600, :800]
    tissue = (y - 150) ** 2 + (x - 160) ** 2 < 90**2
    tissue |= (y - 420) ** 2 + (x - 640) ** 2 < 70**2
    slide = ds.from_dask(noise(600, 800, 3), mpp=0.5)
    found = ds.blank_map(slide, tile_size=64, detector=ds.Contrast(0)).with_blank(~tissue)
    cut = ds.cutoff_resize(slide, downsample=1, blank_map=found.with_min_tissue(0), layout=layout)
    assert np.prod(cut.image.shape[:2]) < 600 * 800
    path = ds.write(cut, tmp_path / "a.ome.zarr")
    label = zarr.open_group(path, mode="r")["labels/tissue/0"][...]
    assert label.sum() == tissue.sum()
    centres = np.stack(np.nonzero(label), axis=-1) + 0.5
    at = np.floor(cut.to_source(centres)).astype(int)
    assert tissue[at[:, 0], at[:, 1]].all()


def test_a_label_is_small_when_it_is_pickled():
    y, x = np.ogrid[:4096, :4096]
    wave = 40 * np.sin(x / 37) + 30 * np.cos(y / 23)
    tissue = (y - 2048) ** 2 + (x - 2048) ** 2 < (1700 + wave) ** 2
    slide = ds.from_dask(np.zeros((4096, 4096), np.uint8))
    found = ds.blank_map(slide, tile_size=64, detector=ds.Contrast(0)).with_blank(~tissue)
    label = tissue_label(found, GridLayout(*(Intervals((0,), (4096,)),) * 2), (1.0, 1.0))
    assert len(pickle.dumps(label)) < tissue.size / 8 / 20
    np.testing.assert_array_equal(label.pixels(0, Region(0, 0, 4096, 4096)), tissue)
