"""Read stored packs: single tiles are read alone, damage is reported, other stores are refused."""

import json
import os

import numpy as np
import pytest
import tifffile
import zarr
from rw_fixtures import noise, one_line, tissue

import dask_slides as ds
from dask_slides.readers.remote.byte_ranges import LocalFile
from dask_slides.writers import pack_reader, packs

pytestmark = pytest.mark.usefixtures("sync")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "a.tif"
    tifffile.imwrite(path, tissue(700, 530), photometric="rgb", tile=(64, 64), compression="zlib")
    return ds.open_slide(path)


@pytest.fixture
def stored(tmp_path, slide):
    return ds.write(ds.pack_tiles(slide, tile_size=64), tmp_path / "a.tiles.zarr")


@pytest.fixture
def file_reads(monkeypatch):
    """Return the files that are opened for byte ranges, and the ranges read of them."""
    opened, ranges = [], []
    init, read = LocalFile.__init__, LocalFile.ranges

    def counted_init(self, path):
        opened.append(path)
        init(self, path)

    def counted_read(self, wanted):
        ranges.extend(wanted)
        return read(self, wanted)

    monkeypatch.setattr(LocalFile, "__init__", counted_init)
    monkeypatch.setattr(LocalFile, "ranges", counted_read)
    pack_reader._open_shard.cache_clear()
    return opened, ranges


def shards(path):
    return sorted(one for one in (path / "tiles" / "c").rglob("*") if one.is_file())


def test_tiles_are_read_alone_and_neighbours_at_once(stored, file_reads):
    pack, (opened, ranges) = ds.open_pack(stored), file_reads
    for i in (3, 0, 3, len(pack) - 1):
        pack[i]
    assert len(opened) == 1
    assert len(ranges) == 1 + 4  # the index, then the tiles
    assert max(stop - start for start, stop in ranges) < 1.1 * 64 * 64 * 3
    ranges.clear()
    np.asarray(pack.tiles)
    assert len(ranges) == 1
    assert pack[[1, 2, 3, 7]].shape[0] == 4
    assert (len(opened), len(ranges)) == (1, 3)


def test_tiles_lie_in_the_shards_that_they_were_written_to(tmp_path, slide, monkeypatch):
    monkeypatch.setattr(packs, "TASK_BYTES", 7 * 64 * 64 * 3)
    pack = ds.pack_tiles(slide, tile_size=64)
    found = ds.open_pack(ds.write(pack, tmp_path / "a.zarr"))
    numbers = np.random.default_rng(0).permutation(len(pack))
    np.testing.assert_array_equal(found[numbers], pack[numbers])
    np.testing.assert_array_equal(found.tiles.compute(scheduler="threads"), pack[:])


def flipped(shard):
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"), [(flipped, "checksum mismatch"), (os.unlink, "shard 0 is missing")]
)
def test_damage_is_detected(tmp_path, stored, damage, message):
    damage(shards(tmp_path / "a.tiles.zarr")[0])
    with pytest.raises(ds.errors.TileDecodeError, match=message) as error:
        ds.open_pack(stored)[:]
    one_line(error)


def enormous(document):
    document["shape"][1:3] = [2**40, 2**40]


def without_checksums(document):
    del document["codecs"][0]["configuration"]["codecs"][-1]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (enormous, ds.errors.SlideLimitError, "declares tiles of"),
        (without_checksums, ds.errors.SlideFormatError, "encoded by bytes, zstd"),
        (dict.clear, ds.errors.SlideFormatError, "not a tile pack"),
    ],
)
def test_a_pack_with_other_metadata_is_refused(tmp_path, stored, change, kind, message):
    file = tmp_path / "a.tiles.zarr" / "tiles" / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(kind, match=message) as error:
        ds.open_pack(stored)
    one_line(error)


def test_a_pack_that_was_replaced_since_it_was_opened_is_refused(stored, slide):
    pack = ds.open_pack(stored)
    ds.write(ds.pack_tiles(slide, tile_size=50), stored, overwrite=True)
    with pytest.raises(ds.errors.SlideChangedError) as error:
        pack.tiles.compute()
    one_line(error)
    assert ds.open_pack(stored).tiles.shape[1:] == (50, 50, 3)


def test_other_stores_are_refused(tmp_path):
    with pytest.raises(ds.errors.SlideNotFoundError) as error:
        ds.open_pack(tmp_path / "absent")
    one_line(error)
    image = ds.write(ds.from_dask(noise(64, 64)), tmp_path / "image.zarr")
    zarr.create_group(tmp_path / "foreign")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("hello")
    for path in (image, tmp_path / "foreign", tmp_path / "folder", tmp_path / "file"):
        with pytest.raises(ds.errors.SlideFormatError) as error:
            ds.open_pack(path)
        assert str(path) in one_line(error)
