"""Tar shards, as the library WebDataset reads them."""

import io
import json
import tarfile
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
from PIL import Image

import dask_slides as ds
from dask_slides.core.polygons import Outline
from dask_slides.errors import (
    BlankSlideWarning,
    OutputExistsError,
    SlideArgumentError,
    SlideNotFoundError,
)
from dask_slides.ops.annotations import Annotations

# WebDataset leaves it to the garbage collector to close shards
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

NAMES = ["dask_array-000000.tar", "dask_array-000001.tar", "dask_array-000002.tar"]


def files_of(folder):
    return sorted(one.name for one in folder.iterdir())


def samples_of(*shards):
    wds = pytest.importorskip("webdataset")
    return list(wds.WebDataset([str(one) for one in shards], shardshuffle=False))


def test_webdataset_reads_the_pixels_and_the_columns(new_pack, tmp_path):
    pack = new_pack()
    folder = tmp_path / "shards"
    assert ds.export(pack, folder, to="webdataset", image="png", tiles_per_shard=8) == str(folder)
    assert files_of(folder) == NAMES
    assert [len(samples_of(folder / name)) for name in NAMES] == [8, 8, 4]
    found = samples_of(*(folder / name for name in NAMES))
    assert len({one["__key__"] for one in found}) == len(pack) == 20
    for number, sample in enumerate(found):
        assert np.array_equal(Image.open(io.BytesIO(sample["png"])), pack[number])
        record = json.loads(sample["json"])
        assert (record["number"], record["y"], record["x"]) == (
            number, pack.y[number], pack.x[number],
        )  # fmt: skip
        assert record["score"] == pack.score[number]
        assert (record["source"], record["mpp"], record["label"]) == ("dask array", None, None)


def test_jpeg_tiles_are_close_to_the_pixels_and_have_their_classes(tissue_tiff, tmp_path):
    square = np.array([(50, 80), (50, 400), (260, 400), (260, 80)])
    labels = Annotations.of([Outline(square)], ["tumour"], "drawn")
    pack = ds.pack_tiles(
        tissue_tiff, tile_size=64, downsample=1, detector=ds.Contrast(0.05), labels=labels
    )
    path = ds.export(pack, tmp_path / "tissue-{:03d}.tar", tiles_per_shard=1000, quality=95)
    (shard,) = [one for one in tmp_path.iterdir() if one.suffix == ".tar"]
    assert path.endswith("tissue-{:03d}.tar") and shard.name == "tissue-000.tar"
    for number, sample in enumerate(samples_of(shard)):
        pixels = np.asarray(Image.open(io.BytesIO(sample["jpg"])), float)
        assert abs(pixels - pack[number]).mean() < 3
        record = json.loads(sample["json"])
        assert record["label"] == pack.labels[number]
        assert record["classes"] == {"tumour": pack.coverage[number, 0]}


def test_the_bytes_depend_only_on_the_pack(new_pack, tmp_path, monkeypatch):
    """Not on chunks, the scheduler, the time or the user."""
    for name, chunks, scheduler in (("a", 200, "sync"), ("b", 77, "threads"), ("c", 640, "sync")):
        pack = new_pack(chunks=chunks)
        with monkeypatch.context() as patch, dask.config.set(scheduler=scheduler):
            # not `time.time`, as messages of the cluster of other tests would wait for its end
            patch.setattr(tarfile, "time", SimpleNamespace(time=lambda: 1e9))
            ds.export(pack, tmp_path / name, to="webdataset", tiles_per_shard=7)
    read = [[one.read_bytes() for one in sorted((tmp_path / name).iterdir())] for name in "abc"]
    assert len(read[0]) == 3 and read[0] == read[1] == read[2]
    with tarfile.open(tmp_path / "a" / NAMES[0]) as file:
        assert {(one.mtime, one.uid, one.gid, one.mode) for one in file} == {(0, 0, 0, 0o644)}


def test_slides_share_a_folder_and_their_keys_differ(new_pack, tmp_path):
    for seed in (1, 2):
        ds.export(new_pack(seed=seed), tmp_path / f"{seed}-%06d.tar")
    assert files_of(tmp_path) == ["1-000000.tar", "2-000000.tar"]
    keys = [one["__key__"] for one in samples_of(*sorted(tmp_path.glob("*.tar")))]
    assert len(set(keys)) == len(keys) == 40
    assert not any("." in key for key in keys)  # WebDataset ends a key at the first dot


def test_shards_are_replaced_only_if_asked_and_all_of_them(new_pack, tmp_path):
    other = tmp_path / "other-000000.tar"
    other.write_bytes(b"mine")
    path = tmp_path / "x-{:06d}.tar"
    ds.export(new_pack(), path, tiles_per_shard=4)
    assert len(files_of(tmp_path)) == 6
    with pytest.raises(OutputExistsError, match=r"x-000000\.tar: already exists; overwrite it"):
        ds.export(new_pack(), path, tiles_per_shard=10)
    ds.export(new_pack(), path, tiles_per_shard=10, overwrite=True)
    assert files_of(tmp_path) == ["other-000000.tar", "x-000000.tar", "x-000001.tar"]


def test_a_single_shard_needs_no_number(new_pack, tmp_path):
    ds.export(new_pack(), tmp_path / "all.tar")
    assert len(samples_of(tmp_path / "all.tar")) == 20
    ds.export(new_pack(top_k=1), tmp_path / "one.tar", tiles_per_shard=5)
    assert len(samples_of(tmp_path / "one.tar")) == 1


def test_a_pack_without_tiles_gives_an_empty_shard(tmp_path):
    with pytest.warns(BlankSlideWarning):
        pack = ds.pack_tiles(np.zeros((512, 512, 3), np.uint8), detector=ds.Contrast(0.05))
    ds.export(pack, tmp_path / "x-{:06d}.tar")
    with tarfile.open(tmp_path / "x-000000.tar") as file:
        assert file.getmembers() == []


def test_a_failed_export_leaves_nothing(new_pack, tmp_path, sync):
    pack = new_pack()

    def fail(tiles, block_id=None):
        if block_id[0] == 3:
            raise OSError("unreadable")
        return tiles

    bad = replace(pack, tiles=pack.tiles.map_blocks(fail, dtype="uint8"))
    with pytest.raises(OSError, match="unreadable"):
        ds.export(bad, tmp_path / "shards", to="webdataset")
    assert files_of(tmp_path) == []


def test_each_tile_of_the_file_is_decoded_once(noise_tiff, tmp_path, decodes):
    pack = ds.pack_tiles(noise_tiff, tile_size=128, downsample=1, detector=ds.Contrast(0.05))
    decodes.clear()
    ds.export(pack, tmp_path / "x-{:06d}.tar", tiles_per_shard=7)
    assert len(decodes) == 64 and set(decodes.values()) == {1}


def test_memory_holds_a_chunk_and_not_the_pack(tmp_path, sync):
    slide = ds.from_dask(da.zeros((2048, 8192, 3), chunks=512, dtype="uint8"))
    pack = ds.pack_tiles(
        slide, tile_size=512, downsample=1,
        blank_map=ds.blank_map(slide, tile_size=512).with_blank(np.zeros((4, 16), bool)),
    )  # fmt: skip
    assert len(pack) == 64 and pack.tiles.nbytes == 50_331_648
    ds.export(pack, tmp_path / "first.tar")  # imports
    tracemalloc.start()
    ds.export(pack, tmp_path / "second.tar")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_a_cluster_writes_the_same_bytes(noise_tiff, tmp_path, client):
    pack = ds.pack_tiles(noise_tiff, tile_size=128, downsample=1, detector=ds.Contrast(0.05))
    ds.export(pack, tmp_path / "cluster.tar")
    with dask.config.set(scheduler="sync"):
        ds.export(pack, tmp_path / "sync.tar")
    assert (tmp_path / "cluster.tar").read_bytes() == (tmp_path / "sync.tar").read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("x.tar", {"tiles_per_shard": 5}, SlideArgumentError, "20 tiles .* are several shards"),
        ("x-{:06d}.tar", {"tiles_per_shard": 0}, SlideArgumentError, "tiles_per_shard=0; give 1"),
        ("x-{}-{}.tar", {}, SlideArgumentError, "one place for the number of a shard"),
        ("x-{name}.tar", {}, SlideArgumentError, "one place for the number of a shard"),
        ("x.tar", {"image": "webp"}, SlideArgumentError, "image='webp' is not known"),
        ("x.tar", {"image": "png", "quality": 5}, SlideArgumentError, "PNG is lossless"),
        ("x.tar", {"quality": 101}, SlideArgumentError, "from 1 to 100"),
        ("no/x-{:06d}.tar", {}, SlideNotFoundError, "is not a directory; create it first"),
        ("no/shards", {"to": "webdataset"}, SlideNotFoundError, "is not a directory"),
    ],
)
def test_wrong_arguments_are_refused(new_pack, tmp_path, name, options, error, message):
    with pytest.raises(error, match=message):
        ds.export(new_pack(), tmp_path / name, **options)
    assert files_of(tmp_path) == []
