"""The formats of exports, and how one is chosen."""

import csv

import numpy as np
import pytest

import dask_slides as ds
from dask_slides.errors import OutputExistsError, SlideArgumentError


@pytest.fixture
def pack():
    rng = np.random.default_rng(1)
    slide = ds.from_dask(rng.integers(0, 255, (512, 768, 3), dtype="uint8"), mpp=0.5)
    return ds.pack_tiles(slide, detector=ds.Contrast(0.05))


def test_a_csv_has_one_row_per_tile(pack, tmp_path):
    path = ds.export(pack, tmp_path / "tiles.csv")
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["y"]), int(row["x"])) for row in rows] == [
        (y, x) for y in (0, 256) for x in (0, 256, 512)
    ]
    with pytest.raises(
        OutputExistsError, match="already exists; overwrite it, or choose another name"
    ):
        ds.export(pack, path)
    assert ds.export(pack, path, overwrite=True) == path
    assert [one.name for one in tmp_path.iterdir()] == ["tiles.csv"]


def test_an_unknown_or_unfit_format_is_refused(pack, tmp_path):
    for name, to, message in (
        ("tiles.xyz", None, "names no format; choose one of these with to or --to: .*csv"),
        ("tiles.csv", "xls", "'xls' is not known"),
    ):
        with pytest.raises(SlideArgumentError, match=message):
            ds.export(pack, tmp_path / name, to=to)
    with pytest.raises(SlideArgumentError, match="for a TilePack, not for a Slide"):
        ds.export(pack.slide, tmp_path / "slide.csv", to="csv")
