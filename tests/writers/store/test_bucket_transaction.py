"""Stores in buckets: killed, raced and disturbed they are old, new or no store at all."""

import itertools
import json
import random
import signal

import dask
import durable_work as work
import numpy as np
import pytest
import remote_work
import servers
from click.testing import CliRunner
from durable_work import contents, finished

import dask_slides as ds
from dask_slides.cli.main import main
from dask_slides.readers.tiff.source import TiffSource
from dask_slides.writers.store import bucket_prefix as bucket_module

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

WRITERS = ("image", "pack", "cutoff", "map")
_names = (f"{n}.ome.zarr" for n in itertools.count())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return work.slide_file(tmp_path_factory.mktemp("remote") / "s.tif")


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """Of each kind, the files of a store on a disk."""
    found = {}
    for kind in WRITERS:
        out = tmp_path_factory.mktemp("expected") / "a.zarr"
        write(kind, source, out)
        found[kind] = contents(out)
    return found


def write(kind, source, out, **options):
    with dask.config.set(scheduler="sync"):
        made = ds.blank_map(source, tile_size=100) if kind == "map" else work.made(kind, source)
        return ds.write(made, out, **options)


@pytest.fixture
def name():
    return next(_names)


def at(name):
    return f"s3://{servers.BUCKET}/{name}"


@pytest.mark.parametrize(
    "kind",
    ["image", "pack", *(pytest.param(one, marks=pytest.mark.slow) for one in ("cutoff", "map"))],
)
def test_a_store_has_the_bytes_of_one_on_a_disk(bucket, source, expected, kind, name):
    assert write(kind, source, at(name)) == at(name)
    assert bucket.contents(name) == expected[kind]
    assert ds.verify(at(name)).files == len(expected[kind]) - 2  # the root, the manifest
    if kind == "pack":
        pack = ds.open_pack(at(name))
        tiles = work.made("pack", source).tiles.compute()
        assert np.array_equal(pack.tiles.compute(), tiles)
    else:
        ds.open_slide(at(name)).thumbnail(64)
    # one that is there is not touched, and an overwrite leaves nothing beside it
    with pytest.raises(ds.errors.OutputExistsError, match="is there already"):
        write(kind, source, at(name))
    write(kind, source, at(name), overwrite=True)
    assert bucket.contents(name) == expected[kind]
    assert bucket.contents(f".{name}.partial") == {}


def test_ome_zarr_0_4(bucket, source, name, tmp_path):
    small = ds.resize(source, downsample=3)
    for out in (at(name), tmp_path / "a.zarr"):
        ds.write(small, out, ome_zarr="0.4")
    found = {n: d for n, d in bucket.contents(name).items() if not n.startswith(".z")}
    assert found == contents(tmp_path / "a.zarr")
    for root in (".zgroup", ".zattrs"):
        assert bucket.contents(name)[root] == (tmp_path / "a.zarr" / root).read_bytes()
    ds.verify(at(name))


def disturbed(bucket, source, expected, count):
    """Write and verify again and again until `count` faults were injected; return the writes."""
    slide = bucket.put(source, "disturbed.tif")
    bucket.traffic.injected.clear()
    # of the kinds that cost a second of waiting fewer
    kinds = servers.FAULTS[:-1] * 5 + servers.FAULTS[-1:]
    for round_ in itertools.count():
        if bucket.traffic.injected.total() >= count:
            return round_
        name = next(_names)
        bucket.faults.start(0.2, kinds, seed=round_)
        ds.write(work.made("image", slide), at(name))
        ds.verify(at(name))
        bucket.faults.stop()
        assert bucket.contents(name) == expected


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_injected_faults_lose_and_double_nothing(
    bucket,
    source,
    tmp_path,
    count,
):
    slide = bucket.put(source, "disturbed.tif")
    name = next(_names)
    ds.write(work.made("image", slide), at(name))
    undisturbed = bucket.contents(name)
    assert disturbed(bucket, source, undisturbed, count) >= 1
    assert set(bucket.traffic.injected) == set(servers.FAULTS) or count < 200


def killed_at(bucket, processes, step, source, name, before, expected, **options):
    """Kill a write before its `step`th change of the bucket; return False if it has fewer.

    Then there is the old store, the new one, or none that opens, and resuming gives the new one.
    """
    args = (step, bucket.environment, "image", source, at(name), options)
    code = finished(processes, remote_work.write_until, *args)
    assert code in (0, -signal.SIGKILL)
    found = {n: data for n, data in bucket.contents(name).items() if not n.startswith(".")}
    if "zarr.json" in found:
        assert found in (before, expected)
    else:
        with pytest.raises((ds.errors.SlideNotFoundError, ds.errors.SlideFormatError)) as error:
            ds.open_slide(at(name))
        if bucket.contents(name).keys() - {".lock"}:
            assert "not finished" in str(error.value)
        with pytest.raises(ds.errors.SlideFormatError, match="not a finished store"):
            ds.verify(at(name))
    if code and not bucket.contents(name):  # killed before it began
        write("image", source, at(name), **options)
    elif code and found != expected:
        with pytest.raises((ds.errors.OutputBusyError, ds.errors.OutputExistsError)):
            write("image", source, at(name))
        write("image", source, at(name), resume=True, **options)
    elif code:  # killed while tidying up
        with pytest.raises(ds.errors.OutputExistsError):
            write("image", source, at(name))
    ds.verify(at(name))
    left = bucket.contents(name)
    assert {n: d for n, d in left.items() if not n.startswith(".")} == expected
    return code != 0


# before the root; while the old store is removed, and while the new one is copied
STEPS = [
    (48, False),
    pytest.param(50, True, marks=pytest.mark.slow),
    pytest.param(60, True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("step", "overwrite"), STEPS)
def test_killed_at_a_step(bucket, processes, source, expected, name, step, overwrite):
    assert killed_over(bucket, processes, step, source, name, expected, overwrite)


def killed_over(bucket, processes, step, source, name, expected, overwrite):
    """Kill a write to a free name, or one that replaces a store."""
    before, options = None, {}
    if overwrite:
        write("cutoff", source, at(name))
        before, options = bucket.contents(name), {"overwrite": True}
    image = expected["image"]
    return killed_at(bucket, processes, step, source, name, before, image, **options)


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_every_step(bucket, processes, source, expected, overwrite):
    for step in itertools.count(1):
        if not killed_over(bucket, processes, step, source, next(_names), expected, overwrite):
            break
    assert step > 30


def test_resume_does_only_what_is_missing(
    bucket,
    source,
    expected,
    name,
    monkeypatch,
):
    read, count = TiffSource.read, 0

    def failing(self, level, region):
        nonlocal count
        count += 1
        if count == 3:
            raise ConnectionAbortedError("pulled the plug")
        return read(self, level, region)

    with monkeypatch.context() as patch:
        patch.setattr(TiffSource, "read", failing)
        with pytest.raises(ConnectionAbortedError):
            write("image", source, at(name), resume=True)
    shards = {n for n in bucket.contents(name) if n.startswith("0/c/")}
    assert shards
    with pytest.raises(ds.errors.ResumeError, match=r"differs in .*kind"):
        write("cutoff", source, at(name), resume=True)
    bucket.traffic.requests.clear()
    write("image", source, at(name), resume=True)
    put = {path for method, path, *_ in bucket.traffic.requests if method == "PUT"}
    assert not {path for path in put if any(path.endswith(one) for one in shards)}
    assert bucket.contents(name) == expected["image"]


def test_a_failure_leaves_nothing_and_the_old_store(
    bucket,
    source,
    expected,
    name,
    monkeypatch,
):
    def failing(self, level, region):
        raise ConnectionAbortedError("pulled the plug")

    for before in (False, True):
        if before:
            write("cutoff", source, at(name))
        with monkeypatch.context() as patch:
            patch.setattr(TiffSource, "read", failing)
            with pytest.raises(ConnectionAbortedError):
                write("image", source, at(name), overwrite=before)
        assert bucket.contents(name) == (expected["cutoff"] if before else {})
        assert bucket.contents(f".{name}.partial") == {}
    write("image", source, at(name), overwrite=True)
    assert bucket.contents(name) == expected["image"]


def test_what_others_wrote_is_never_touched(bucket, source, tmp_path, name):
    import zarr

    zarr.create_group(tmp_path / "theirs")
    for key in (f"{name}/zarr.json", f"{name}/data/part.bin"):
        (tmp_path / "part.bin").write_bytes(b"theirs")
        bucket.put(tmp_path / ("theirs/zarr.json" if key.endswith("json") else "part.bin"), key)
        before = bucket.contents(name)
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(ds.errors.OutputExistsError):
                write("image", source, at(name), **options)
        assert bucket.contents(name) == before
        bucket.client.delete_object(Bucket=servers.BUCKET, Key=key)


def test_a_busy_prefix(bucket, source, expected, name):
    met = []

    def meanwhile(done, total):
        if done == 1 and not met:
            with pytest.raises(
                ds.errors.OutputBusyError, match="is being written by process"
            ) as error:
                write("image", source, at(name))
            met.append(error)

    with dask.config.set(scheduler="sync"):
        ds.write(ds.open_slide(source), at(name), progress=meanwhile)
    assert met
    assert bucket.contents(name) == expected["image"]


def test_one_that_was_taken_over_gives_up(bucket, source, expected, name):
    taken = []

    def meanwhile(done, total):
        if done == 1 and not taken:
            taken.append(write("image", source, at(name), resume=True))

    with (
        dask.config.set(scheduler="sync"),
        pytest.raises(ds.errors.OutputBusyError, match="taken over"),
    ):
        ds.write(ds.open_slide(source), at(name), progress=meanwhile)
    assert {n: d for n, d in bucket.contents(name).items() if n[0] != "."} == expected["image"]
    ds.verify(at(name))


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_two_writers_have_one_winner(
    bucket,
    processes,
    source,
    expected,
    rounds,
):
    for _ in range(rounds):
        name = next(_names)
        barrier, results = processes.Barrier(2), processes.Queue()
        args = (bucket.environment, barrier, "pack", source, at(name), results)
        pair = [processes.Process(target=remote_work.race, args=args) for _ in range(2)]
        for one in pair:
            one.start()
        ends = sorted(results.get(timeout=120) for _ in pair)
        for one in pair:
            one.join()
        assert ends[1] == "written"
        assert ends[0] in ("OutputBusyError", "OutputExistsError")
        assert bucket.contents(name) == expected["pack"]


def test_a_claim_whose_answer_was_lost_is_ones_own(bucket, name):
    place = bucket_module.BucketPrefix(at(name))
    bucket.faults.start(1.0, ("reset after",), limit=1)
    assert place.claim(".lock", b"mine") is not None
    assert place.claim(".lock", b"another's") is None
    assert place.claimed(".lock")[0] == b"mine"
    version = place.claimed(".lock")[1]
    assert place.claim(".lock", b"another's", instead=version) is not None
    assert place.claim(".lock", b"a third's", instead=version) is None


def test_every_damage_is_found(bucket, source, expected, name):
    write("pack", source, at(name))
    files = expected["pack"]
    kinds = itertools.cycle(("changed", "cut short", "gone"))
    for file in sorted(set(files) - {"zarr.json"}):
        good = files[file]
        changed = bytearray(good)
        changed[random.Random(file).randrange(len(good))] ^= 4
        key = {"Bucket": servers.BUCKET, "Key": f"{name}/{file}"}
        kind = next(kinds)
        if kind == "gone":
            bucket.client.delete_object(**key)
        else:
            bad = bytes(changed) if kind == "changed" else good[:-1]
            bucket.client.put_object(**key, Body=bad)
        with pytest.raises(ds.errors.StoreDamagedError, match=file):
            ds.verify(at(name))
        bucket.client.put_object(**key, Body=good)
    bucket.client.put_object(Bucket=servers.BUCKET, Key=f"{name}/tiles/more", Body=b"x")
    with pytest.raises(ds.errors.StoreDamagedError, match="tiles/more was added"):
        ds.verify(at(name))


def test_a_server_that_is_down_proves_no_damage(bucket, source, name):
    write("pack", source, at(name))
    bucket.faults.start(1.0, ("503",))
    with pytest.raises(ds.errors.RemoteError):
        ds.verify(at(name))
    with pytest.raises(ds.errors.RemoteError):
        ds.open_pack(at(name))


def test_a_cluster_reads_and_writes_buckets(bucket, source, expected, name):
    distributed = pytest.importorskip("distributed")
    slide = ds.open_slide(bucket.put(source, "cluster.tif"))
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        ds.write(slide, at(name), client=client)
    found = bucket.contents(name)
    assert ds.verify(at(name)).files == len(found) - 2
    shards = {n for n in found if "/c/" in n}
    assert {n: found[n] for n in shards} == {n: expected["image"][n] for n in shards}


def test_the_command_line(bucket, source, name, tmp_path):
    slide = bucket.put(source, "cli.tif")
    done = CliRunner().invoke(main, ["resize", slide, at(name), "--downsample", "2", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["path"] == at(name)
    assert CliRunner().invoke(main, ["verify", at(name)]).exit_code == 0
    assert CliRunner().invoke(main, ["info", at(name)]).exit_code == 0
    again = CliRunner().invoke(main, ["resize", slide, at(name), "--downsample", "2"])
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    bucket.client.delete_object(Bucket=servers.BUCKET, Key=f"{name}/0/zarr.json")
    assert CliRunner().invoke(main, ["verify", at(name)]).exit_code == 1
