"""References into a slide, read by Zarr through fsspec."""

import json

import numpy as np
import pytest
import tifffile
import zarr
from encoded_tiffs import written
from zarr.storage import FsspecStore

import dask_slides as ds
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideUnsupportedError
from dask_slides.readers.codecs.zarr_codecs import register


@pytest.fixture
def image(stained):
    return np.ascontiguousarray(stained[100:300, 100:350])


@pytest.mark.parametrize(
    "kind", ["jpeg", "shared tables, RGB", "shared tables, YCbCr 4:2:2", "lzw", "jpeg 2000"]
)
def test_zarr_reads_the_slide_through_references(tmp_path, image, kind):
    pytest.importorskip("fsspec")
    register()
    path = written(kind, image, tmp_path / "a.tif")
    out = ds.write(ds.open_slide(path), tmp_path / "a.refs.json", codec="virtual")
    store = FsspecStore.from_url(
        "reference://", storage_options={"fo": out, "remote_protocol": "file"}, read_only=True
    )
    array = zarr.open_group(store, mode="r")["0"]
    np.testing.assert_array_equal(array[...].transpose(1, 2, 0), tifffile.imread(path))


def test_references_hold_byte_ranges_and_no_pixels(tmp_path, image):
    path = written("jpeg", image, tmp_path / "a.tif")
    out = ds.write(ds.open_slide(path), tmp_path / "a.refs.json", codec="virtual")
    refs = json.loads((tmp_path / "a.refs.json").read_text())["refs"]
    with tifffile.TiffFile(path) as opened:
        page = opened.pages[0]
        expected = {
            f"0/c/0/{number // 4}/{number % 4}": [str(path), start, length]
            for number, (start, length) in enumerate(
                zip(page.dataoffsets, page.databytecounts, strict=True)
            )
        }
    assert {key: one for key, one in refs.items() if "/c/" in key} == expected
    assert out == str(tmp_path / "a.refs.json")


def test_what_has_no_references_is_refused(tmp_path, image):
    slide = ds.open_slide(written("jpeg", image, tmp_path / "a.tif"))
    with pytest.raises(SlideArgumentError, match=r"NAME\.refs\.json"):
        ds.write(slide, tmp_path / "a.ome.zarr", codec="virtual")
    with pytest.raises(SlideUnsupportedError, match="leave codec out"):
        ds.write(ds.resize(slide, downsample=2), tmp_path / "a.json", codec="virtual")
    copy = ds.open_slide(ds.write(slide, tmp_path / "a.ome.zarr", codec="source"))
    with pytest.raises(SlideUnsupportedError, match="use codec='source'"):
        ds.write(copy, tmp_path / "a.json", codec="virtual")


OTHERS = ['{"name": "viewer"}', '{"version": 1, "refs": {"zarr.json": "{}"}}', "[1]", "no JSON", ""]


@pytest.mark.parametrize("content", OTHERS)
def test_only_references_of_dask_slides_are_replaced(tmp_path, image, content):
    slide, path = ds.open_slide(written("jpeg", image, tmp_path / "a.tif")), tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(OutputExistsError, match="not written by dask_slides"):
        ds.write(slide, path, codec="virtual", overwrite=True)
    assert path.read_text() == content
    path.unlink()
    ds.write(slide, path, codec="virtual")
    expected = path.read_text()
    with pytest.raises(OutputExistsError):
        ds.write(slide, path, codec="virtual")
    other = ds.open_slide(written("lzw", image, tmp_path / "b.tif"))
    ds.write(other, path, codec="virtual", overwrite=True)
    assert path.read_text() != expected
