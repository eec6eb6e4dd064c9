"""Tables of tiles, read by pandas, pyarrow and GeoPandas."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_packs import all_tiles, labelled_tiles, without_pixels
from hypothesis import given
from hypothesis import strategies as st

import dask_slides as ds
from dask_slides.writers.exports import tables

SAME = {"source": "dask array", "mpp": 0.5, "downsample_y": 1.0, "downsample_x": 1.0,
        "tile_height": 100, "tile_width": 100}  # fmt: skip


@pytest.fixture
def pack():
    return without_pixels(labelled_tiles())


def expected_rows(pack):
    """Return the rows of a table, from positions that are known."""
    at = [(y, x) for y in range(0, 400, 100) for x in range(0, 600, 100)]
    tumour = {0: 0, 100: 0, 200: 1, 300: 1, 400: 0.5, 500: 0}
    rows = []
    for i, (y, x) in enumerate(at):
        rest = y == 300 and x == 0
        label = "50% tumour" if tumour[x] else 'the "rest"' if rest else ""
        row = {"y": y, "x": x, "height": 100, "width": 100, "score": pack.score[i]}
        row |= {"tissue_fraction": 1.0, "label": label, "coverage_50% tumour": float(tumour[x])}
        rows.append({**row, 'coverage_the "rest"': float(rest), **SAME})
    return rows


def test_a_csv_says_what_each_tile_is_of(pack, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "BATCH", 5)
    with open(ds.export(pack, tmp_path / "tiles.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    expected = expected_rows(pack)
    assert list(rows[0]) == list(expected[0])
    assert len(rows) == len(expected)
    for row, values in zip(rows, expected, strict=True):
        assert {name: type(value)(row[name]) for name, value in values.items()} == values


def test_parquet_has_the_same_columns_and_the_attributes(pack, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = ds.export(pack, tmp_path / "tiles.parquet")
    table = parquet.read_table(path)
    assert table.to_pylist() == expected_rows(pack)
    facts = json.loads(table.schema.metadata[b"dask_slides"])
    assert facts == {"kind": "tiles", **json.loads(json.dumps(dict(pack.attributes)))}


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)


@given(name=TEXT, label=TEXT)
def test_any_text_is_one_field_of_a_csv(name, label, tmp_path):
    labels = ds.label_mask(np.ones((2, 2), np.uint8), (64, 64), {1: label})
    image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    slide = replace(ds.from_dask(image), name=name)
    pack = ds.pack_tiles(slide, tile_size=32, detector=ds.Contrast(0.0), labels=labels)
    with open(ds.export(pack, tmp_path / "a.csv", overwrite=True), newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [(row["source"], row["label"]) for row in rows] == [(name, label)] * 4
    assert [float(row[f"coverage_{label}"]) for row in rows] == [1] * 4


def test_an_mpp_that_is_not_known_is_missing_in_all_tables(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype="uint8")
    pack = ds.pack_tiles(ds.from_dask(image), tile_size=32, detector=ds.Contrast(0.05))
    for name, read in (("a.csv", pd.read_csv), ("a.parquet", pd.read_parquet)):
        frame = read(ds.export(pack, tmp_path / name))
        assert len(frame) == 6 and frame["mpp"].isna().all() and frame["mpp"].dtype == float


def test_geoparquet_has_rectangles_that_geopandas_finds(pyramid, tmp_path):
    geopandas = pytest.importorskip("geopandas")
    pack = without_pixels(all_tiles(pyramid, downsample=2, stride=32))
    path = ds.export(pack, tmp_path / "tiles.geo.parquet")
    frame = geopandas.read_parquet(path)
    assert frame.crs is None and len(frame) == len(pack) > 9
    assert frame.geometry.geom_type.eq("Polygon").all() and frame.geometry.is_valid.all()
    assert frame.geometry.exterior.is_ccw.all()
    bounds = np.stack((pack.x, pack.y, pack.x + 128, pack.y + 128), axis=1)
    assert (frame.geometry.bounds.to_numpy() == bounds).all()
    assert (frame.geometry.area == 128 * 128).all()
    assert (frame["tile_width"] == 64).all() and (frame["downsample_x"] == 2).all()
    part = geopandas.read_parquet(path, bbox=(300, 200, 400, 250))
    touches = (pack.x <= 400) & (pack.x + 128 >= 300) & (pack.y <= 250) & (pack.y + 128 >= 200)
    assert sorted(zip(part["y"], part["x"], strict=True)) == [
        one for one, inside in zip(zip(pack.y, pack.x, strict=True), touches, strict=True) if inside
    ]
    schema = pytest.importorskip("pyarrow.parquet").read_schema(path)
    geo = json.loads(schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["columns"]["geometry"]["bbox"] == [
        *bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::dask_slides.errors.BlankSlideWarning")
@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.geoparquet"])
def test_an_empty_pack_is_a_table_without_rows(name, tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pack = ds.pack_tiles(np.full((256, 256, 3), 240, "uint8"), tile_size=64)
    path = ds.export(pack, tmp_path / name)
    frame = (pd.read_csv if name == "a.csv" else pd.read_parquet)(path)
    assert len(frame) == 0 and {"y", "x", "source"} <= set(frame)


def test_a_stored_pack_gives_the_same_table(tmp_path):
    labelled = labelled_tiles()
    labelled_again = ds.open_pack(ds.write(labelled, tmp_path / "a.tiles.zarr"))
    fresh = ds.export(labelled, tmp_path / "fresh.csv")
    stored = ds.export(labelled_again, tmp_path / "stored.csv")
    assert Path(fresh).read_text() == Path(stored).read_text()
