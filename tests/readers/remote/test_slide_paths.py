"""Slides, stores and tables that are named in buckets, as they are on a disk."""

import os

import numpy as np
import pytest
from click.testing import CliRunner

import dask_slides as ds
from dask_slides import feed
from dask_slides.cli import main
from dask_slides.cohort.slide_list import read_list
from dask_slides.errors import SlideArgumentError, SlideNotFoundError

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
FILES = (
    "a/x.svs", "a/y.TIF", "a/notes.txt", "a/.z.svs", "a/s.ome.zarr/zarr.json", "b/x.svs",
    "b/deep/w.ndpi", "b/deep/er/x.svs", "b/deep/s.zarr/0/c/0.svs", "b/.hidden/x.svs", "c/[q].tif",
    "d/store/zarr.json", "e/notes.txt",
)  # fmt: skip


@pytest.fixture
def tree(bucket, tmp_path):
    """Return the same files in a folder, and in the bucket."""
    for name in FILES:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return str(tmp_path / "tree"), bucket.put(tmp_path / "tree", "tree")


def found(root, name):
    """Return the slides and what is left out, relative to `root`; None if nothing is found."""
    try:
        listed = read_list(os.path.join(root, name))
    except SlideNotFoundError:
        return None
    slides = [os.path.relpath(entry.path, root) for entry in listed.entries]
    return slides, [one.replace(root, "") for one in listed.left_out]


@pytest.mark.parametrize(
    "name",
    [
        "a", "a/", "b", "e", "d/store", "a/x.svs", "a/s.ome.zarr", "a/*.svs", "a/*", "*/x.svs",
        "**/*.svs", "**/x.svs", "b/**", "b/**/*.svs", "b/*/*.ndpi", "?/[x-y].*", "c/[q].tif",
        "a/.*.svs", "**/*.ZARR", "**/*.zarr", "a/*.png", "none/*.svs", "*/deep/**/*.svs",
    ],
)  # fmt: skip
def test_folders_and_patterns_name_the_same_slides(tree, name):
    on_disk, in_bucket = tree
    expected = found(on_disk, name)
    assert found(in_bucket, name) == expected
    assert (expected is None) == (name in ("e", "**/*.ZARR", "a/*.png", "none/*.svs"))


def test_a_pattern_lists_only_the_folders_that_it_names(tree, bucket):
    _, in_bucket = tree
    bucket.traffic.requests.clear()
    read_list(f"{in_bucket}/a/*.svs")
    assert len(bucket.traffic.requests) <= 2  # whether it is an object, and the folder
    bucket.traffic.requests.clear()
    read_list(f"{in_bucket}/a/x.svs")
    assert not bucket.traffic.requests


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_paths_of_a_table_are_relative_to_it(bucket, tmp_path, ending):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"path": ["x.svs", "/disk/y.svs", "s3://other/z.svs"],
                              "label": ["one", "two", "three"]})  # fmt: skip
    path = tmp_path / f"t.{ending}"
    table.to_csv(path) if ending == "csv" else table.to_parquet(path)
    address = bucket.put(path, f"lists/t.{ending}")
    expected = ["s3://slides/lists/x.svs", "/disk/y.svs", "s3://other/z.svs"]
    assert [row.path for row in feed.read_table(address)] == expected
    assert sorted(one.path for one in read_list(address).entries) == sorted(expected)
    with pytest.raises(SlideNotFoundError, match="no such object"):
        read_list(f"s3://slides/lists/none.{ending}")


@pytest.fixture
def stores(bucket, tmp_path):
    """Return a slide, its blank map, its pack and outlines, on a disk and in the bucket."""
    path = ds.sample_slide(tmp_path / "a.tif", shape=(1024, 1024), tile=128, mpp=0.5)
    blank_map = ds.blank_map(path).compute()
    ds.write(blank_map, tmp_path / "a.mask.ome.zarr")
    ds.write(ds.pack_tiles(path, tile_size=128), tmp_path / "a.tiles.zarr")
    blank_map.to_geojson(tmp_path / "a.geojson")
    names = ("a.tif", "a.mask.ome.zarr", "a.tiles.zarr", "a.geojson")
    return {name: (str(tmp_path / name), bucket.put(tmp_path / name, f"s/{name}"))
            for name in names}  # fmt: skip


def test_info_describes_stores_in_buckets(stores):
    for here, there in stores.values():
        if not here.endswith(".geojson"):
            lines, expected = (
                CliRunner().invoke(main, ["info", one]).output.splitlines() for one in (there, here)
            )
            differ = [a for a, b in zip(lines, expected, strict=True) if a != b]
            assert all(one.startswith("memory") for one in differ)  # tasks are wider in buckets
            assert any(one.startswith(("level 0", "tiles")) for one in lines)
    slash = CliRunner().invoke(main, ["info", f"{stores['a.tiles.zarr'][1]}/"])
    assert slash.exit_code == 0 and "tiles" in slash.output


def test_outlines_are_read_from_buckets(stores):
    slide = ds.open_slide(stores["a.tif"][0])
    here, there = stores["a.geojson"]
    expected, found = (ds.BlankMap.from_geojson(one, slide) for one in (here, there))
    assert (found.mask.tissue == expected.mask.tissue).all() and expected.mask.tissue.any()
    with pytest.raises(SlideNotFoundError, match="no such object"):
        ds.read_geojson("s3://slides/s/none.geojson")
    with pytest.raises(SlideArgumentError) as error:
        ds.read_geojson("https://me:secret@host/a.geojson")
    assert "secret" not in str(error.value)


def test_a_feed_takes_patterns_and_outlines(stores, bucket):
    def places(slides, **options):
        stream = feed.CropStream(slides, seed=1, **options)
        return [stream[n] | {"pixels": None} for n in range(5)]

    here, there = stores["a.tiles.zarr"]
    expected = places(here)
    for one in (there, there.replace("a.tiles", "*.tiles"), here.replace("a.tiles", "*.tiles")):
        assert places(one) == expected
    slide, outlines = stores["a.tif"][0], stores["a.geojson"]
    given = ds.BlankMap.from_geojson(outlines[0], ds.open_slide(slide))
    half = given.with_blank(given.blank | (np.arange(given.shape[1]) < given.shape[1] // 2))
    half.to_geojson(outlines[0], overwrite=True)
    bucket.put(outlines[0], "s/a.geojson")
    half = ds.BlankMap.from_geojson(outlines[0], ds.open_slide(slide))
    expected = places(slide, size=64, blank_maps=[half])
    assert expected != places(slide, size=64)
    for one in outlines:
        assert places(slide, size=64, blank_maps={"a.tif": one}) == expected


def test_what_is_not_there_is_said_so(stores, bucket):
    for opening in (ds.open_pack, ds.open_blank_map, ds.verify):
        with pytest.raises(SlideNotFoundError, match="no such object"):
            opening("s3://slides/s/none.zarr")
        with pytest.raises(ValueError, match=r"not a|no store"):
            opening(stores["a.tif"][1])


def test_what_is_written_to_disks_refuses_addresses(stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    slide = ds.open_slide(stores["a.tif"][0])
    pack = ds.open_pack(stores["a.tiles.zarr"][0])
    for write in (
        lambda path: ds.export(pack, f"{path}.csv"),
        lambda path: ds.export(slide, f"{path}.ome.tif"),
        lambda path: ds.export(slide, f"{path}.dzi"),
        lambda path: ds.blank_map(slide).compute().to_geojson(f"{path}.geojson"),
        lambda path: ds.sample_slide(f"{path}.tif", shape=(256, 256)),
        lambda path: ds.run_cohort(slide.path, job=path, steps=["mask"]),
        ds.write_report,
    ):
        with pytest.raises(SlideArgumentError, match="written to a disk; give a path"):
            write("s3://slides/out")
    for command in (
        ["mask", slide.path, "s3://slides/a.geojson"],
        ["export", stores["a.tiles.zarr"][0], "s3://slides/a.csv"],
        ["sample", "s3://slides/b.tif"],
        ["demo", "s3://slides/demo"],
        ["report", "s3://slides/job"],
        ["run", slide.path, "--out", "s3://slides/job"],
    ):
        result = CliRunner().invoke(main, command)
        assert (result.exit_code, "written to a disk; give a path" in result.output) == (2, True)
    assert sorted(os.listdir()) == before
