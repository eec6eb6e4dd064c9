"""Slides in buckets and on web servers: the same pixels, few requests, no superfluous bytes."""

import pickle
import subprocess
import sys

import dask
import numpy as np
import pytest
import servers
import tifffile
from rw_fixtures import noise, one_line, smooth, sparse_tiff

import dask_slides as ds
from dask_slides.readers.remote import object_store
from dask_slides.readers.tiff import opening
from dask_slides.readers.tile_cache import TILE_CACHE

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

LAYOUTS = {
    "jpeg": {"compression": "jpeg", "tile": (64, 96)},
    "lzw": {"compression": "lzw", "tile": (64, 64)},
    "uncompressed tiles": {"tile": (64, 64)},
    "strips": {"compression": "zlib", "rowsperstrip": 16},
    "planes": {"compression": "zlib", "tile": (64, 64), "planarconfig": "separate"},
    "on its side": {"tile": (64, 96), "extratags": [(274, 3, 1, 6, True)]},
    "mirrored": {"compression": "zlib", "tile": (64, 96), "extratags": [(274, 3, 1, 2, True)]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_are_those_of_the_file(bucket, tmp_path, layout):
    options = LAYOUTS[layout]
    image = smooth(300, 420)
    if "planarconfig" in options:
        image = np.ascontiguousarray(image.transpose(2, 0, 1))
    path = tmp_path / "a b.tif"
    tifffile.imwrite(path, image, photometric="rgb", **options)
    there = ds.open_slide(bucket.put(path, f"{layout}/a b.tif"))
    here = ds.open_slide(path)
    assert there.name == "a b.tif"
    assert there.levels == here.levels
    assert np.array_equal(there.data.compute(), here.data.compute())
    assert np.array_equal(there.read(101, 205, 90, 33), here.read(101, 205, 90, 33))
    small = ds.resize(there, downsample=3, gap=None).data.compute()
    assert np.array_equal(small, ds.resize(here, downsample=3, gap=None).data.compute())
    maps = [
        ds.blank_map(one, tile_size=50, detector=ds.Contrast(0.05)).compute()
        for one in (there, here)
    ]
    assert np.array_equal(maps[0].statistics, maps[1].statistics)


def test_a_pyramid_a_raster_and_a_zarr_store(bucket, pyramid, tmp_path):
    here = ds.open_slide(pyramid)
    there = ds.open_slide(bucket.put(pyramid, "p/pyramid.tif"))
    assert len(there.levels) == len(here.levels) == 4
    assert np.array_equal(there.thumbnail(100), here.thumbnail(100))
    from PIL import Image

    Image.fromarray(smooth(60, 80)).save(tmp_path / "a.png")
    raster = ds.open_slide(bucket.put(tmp_path / "a.png", "p/a.png"))
    assert np.array_equal(raster.read(0, 0, 60, 80), smooth(60, 80))
    for version in ("0.5", "0.4"):
        store = ds.write(here, tmp_path / f"{version}.ome.zarr", ome_zarr=version)
        zarr = ds.open_slide(bucket.put(store, f"p/{version}.ome.zarr"))
        assert zarr.levels == ds.open_slide(store).levels
        assert np.array_equal(zarr.data.compute(), here.data.compute())


def test_only_the_chosen_channels_are_fetched(bucket, tmp_path):
    stack = noise(4, 512, 512, dtype="uint16")
    options = {"tile": (256, 256), "compression": "zlib", "metadata": {"axes": "CYX"}}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, **options)
    url = bucket.put(tmp_path / "a.ome.tif", "channels/a.ome.tif")
    slide = ds.open_slide(url, channels=[2])
    before = sum(bucket.traffic.ranges())
    assert np.array_equal(slide.read(0, 0, 512, 512)[..., 0], stack[2])
    assert sum(bucket.traffic.ranges()) - before <= 0.3 * (tmp_path / "a.ome.tif").stat().st_size
    both = ds.open_slide(url, channels=[3, 0])
    assert np.array_equal(both.read(0, 0, 512, 512), stack[[3, 0]].transpose(1, 2, 0))


def test_an_image_in_one_large_strip_is_refused(bucket, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", smooth(300, 420), photometric="rgb")
    url = bucket.put(tmp_path / "a.tif", "one/a.tif")
    assert np.array_equal(ds.open_slide(url).data.compute(), smooth(300, 420))
    monkeypatch.setattr(opening, "_LARGEST_STRIP", 300 * 420 * 3 - 1)
    with pytest.raises(
        ds.errors.SlideUnsupportedError, match="strips of 0 MB, which can only"
    ) as error:
        ds.open_slide(url)
    assert url in one_line(error)


def test_a_slide_of_40000_tiles_opens_in_few_requests(bucket, tmp_path):
    path = sparse_tiff(tmp_path / "large.tif")
    url = bucket.put(path, "large.tif")
    slide = ds.open_slide(url)
    assert slide.shape == (102_400, 102_400, 3)
    assert len(bucket.traffic.requests) <= 8
    assert sum(bucket.traffic.ranges()) <= 2 * path.stat().st_size
    assert len(pickle.dumps(slide)) < 2000


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """Return a slide of noise, whose tiles are large: 200 KB each, 3 MB per row."""
    path = tmp_path_factory.mktemp("slides") / "heavy.tif"
    options = {"compression": "zlib", "compressionargs": {"level": 1}, "photometric": "rgb"}
    tifffile.imwrite(path, noise(4096, 4096, 3), tile=(256, 256), **options)
    with tifffile.TiffFile(path) as tiff:
        return path, sum(tiff.pages[0].databytecounts)


@pytest.mark.parametrize("downsample", [8, 20])
def test_a_resize_fetches_each_tile_once_in_large_requests(
    heavy,
    tmp_path,
    monkeypatch,
    quick_retries,
    downsample,
):
    path, tiles = heavy
    with (
        servers.web_server(path.parent.parent) as (address, traffic),
        dask.config.set(scheduler="sync"),
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        monkeypatch.setattr(
            object_store, "TIMEOUT", 60.0
        )  # no request is repeated on a busy machine
        small = ds.resize(f"s3://{path.parent.name}/heavy.tif", downsample=downsample)
        here = ds.resize(path, downsample=downsample)
        for make in (
            lambda: small.data.compute(),
            lambda: ds.write(small, tmp_path / "small.ome.zarr"),
        ):
            TILE_CACHE.clear()
            traffic.requests.clear()
            made = make()
            sizes = traffic.ranges()
            assert tiles <= sum(sizes) <= 1.05 * tiles + 2**18  # the tables of the file
            assert sum(sizes) / len(sizes) >= 1e6
            if not isinstance(made, str):
                assert np.array_equal(made, here.data.compute())
    assert np.array_equal(ds.open_slide(made).data.compute(), here.data.compute())


def test_only_the_tiles_of_a_crop_are_fetched(bucket, heavy):
    path, tiles = heavy
    slide = ds.open_slide(bucket.put(path, "heavy.tif"))
    slide.read(0, 0, 10, 10)  # tests simplejpeg on a tile
    bucket.traffic.requests.clear()
    slide.read(1024, 1024, 512, 512)
    assert len(bucket.traffic.requests) == 2  # two rows of two tiles
    assert sum(bucket.traffic.ranges()) <= 4.1 * tiles / 256


@pytest.mark.parametrize("kind", servers.FAULTS)
def test_requests_are_repeated_after_every_kind_of_fault(bucket, tissue_tiff, kind):
    expected = ds.open_slide(tissue_tiff).data.compute()
    url = bucket.put(tissue_tiff, "faults.tif")
    bucket.faults.start(0.4, (kind,), limit=2 if kind == "stall" else 10)
    assert np.array_equal(ds.open_slide(url).data.compute(), expected)
    assert bucket.traffic.injected[kind] >= 1


@pytest.mark.parametrize(("kind", "reason"), [("500", "answers 500"), ("reset", "breaks off")])
def test_a_server_that_never_answers_is_given_up(
    bucket,
    tissue_tiff,
    kind,
    reason,
):
    slide = ds.open_slide(bucket.put(tissue_tiff, "down.tif"))
    bucket.traffic.requests.clear()
    bucket.faults.start(1.0, (kind,))
    with pytest.raises(ds.errors.RemoteError, match=reason) as error:
        slide.read(0, 0, 20, 20)
    assert isinstance(error.value, ConnectionError)
    assert slide.path in one_line(error)
    assert len(bucket.traffic.requests) == object_store.RETRIES + 1
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_a_refused_request_is_not_repeated(bucket, monkeypatch):
    with pytest.raises(ds.errors.SlideNotFoundError, match="no such object"):
        ds.open_slide("s3://slides/nothing.tif")
    with pytest.raises(ds.errors.SlideNotFoundError):
        ds.open_slide("s3://no-such-bucket/a.tif")
    bucket.traffic.requests.clear()
    bucket.faults.start(1.0, ("403",))
    with pytest.raises(ds.errors.RemoteAccessError, match="denies access") as error:
        ds.open_slide("s3://slides/a.tif")
    assert len(bucket.traffic.requests) == 1
    assert isinstance(error.value, PermissionError)


def test_a_slide_that_changed_is_an_error(bucket, tissue_tiff, tissue, tmp_path):
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, 255 - tissue, tile=(64, 64), compression="zlib", photometric="rgb")
    store = ds.write(ds.open_slide(tissue_tiff), tmp_path / "a.ome.zarr")
    left = ds.write(ds.open_slide(other), tmp_path / "b.ome.zarr")
    for first, second, key in [(tissue_tiff, other, "c.tif"), (store, left, "c.ome.zarr")]:
        for was_read in (False, True):
            url = bucket.put(first, key)
            slide = ds.open_slide(url)
            if was_read:
                slide.read(0, 0, 10, 10)
            bucket.put(second, key)
            with pytest.raises(ds.errors.SlideChangedError, match="changed since it was opened"):
                slide.read(100, 100, 50, 50)


def test_no_secret_is_stored_or_shown(bucket, tissue_tiff):
    slide = ds.open_slide(bucket.put(tissue_tiff, "secret.tif"))
    small = ds.resize(slide, downsample=2)
    url = ds.write(small, "s3://slides/secret.ome.zarr")
    shown = [repr(slide), repr(slide.source), slide._repr_html_(), *map(repr, slide.details)]
    shown += [pickle.dumps(small.data).decode("latin1"), pickle.dumps(slide).decode("latin1")]
    stored = bucket.contents("secret.ome.zarr").values()
    for text in [*shown, *(data.decode("latin1") for data in stored)]:
        assert servers.SECRET not in text
        assert bucket.address.removeprefix("http://") not in text
    assert url == "s3://slides/secret.ome.zarr"
    for address in (
        "https://user:hidden-word@host/a.tif",
        "https://host/a.tif?X-Amz-Signature=hidden-word",
    ):
        with pytest.raises(ds.errors.SlideArgumentError) as error:
            ds.open_slide(address)
        assert "hidden-word" not in one_line(error)


def test_addresses_that_are_not_supported(tmp_path):
    with pytest.raises(ds.errors.SlideUnsupportedError, match="s3://, gs://, az://, http://"):
        ds.open_slide("ftp://bucket/a.tif")
    with pytest.raises(ds.errors.SlideArgumentError, match="no bucket"):
        ds.open_slide("s3:///a.tif")
    image = ds.from_dask(np.zeros((9, 9), np.uint8))
    with pytest.raises(ds.errors.SlideUnsupportedError, match="use s3://, gs://, az://"):
        ds.write(image, "https://host/a.ome.zarr")


def test_a_web_server(tissue_tiff, tmp_path, quick_retries):
    (tmp_path / "a b.tif").write_bytes(tissue_tiff.read_bytes())
    here = ds.open_slide(tissue_tiff)
    ds.write(here, tmp_path / "a.ome.zarr")
    expected = here.data.compute()
    with servers.web_server(tmp_path) as (address, _):
        for name in ("a b.tif", "a%20b.tif", "a.ome.zarr"):
            slide = ds.open_slide(f"{address}/{name}")
            assert np.array_equal(slide.data.compute(), expected)
        with pytest.raises(ds.errors.SlideNotFoundError):
            ds.open_slide(f"{address}/b.tif")
    with (
        servers.web_server(tmp_path, ranges=False) as (address, _),
        pytest.raises(ds.errors.SlideUnsupportedError, match="does not send parts of a file"),
    ):
        ds.open_slide(f"{address}/a b.tif")


def test_a_web_server_without_head(tissue_tiff, tmp_path, quick_retries):
    path = tmp_path / "a.tif"
    path.write_bytes(tissue_tiff.read_bytes())
    ds.write(ds.open_slide(path), tmp_path / "a.ome.zarr")
    expected = ds.open_slide(path).data.compute()
    with servers.web_server(tmp_path, head=501) as (address, traffic):
        assert object_store.head(f"{address}/a.tif")[0] == path.stat().st_size
        for name in ("a.tif", "a.ome.zarr"):
            slide = ds.open_slide(f"{address}/{name}")
            assert np.array_equal(slide.data.compute(), expected)
        assert not any(method == "HEAD" for method, *_ in traffic.requests)
        with pytest.raises(ds.errors.SlideNotFoundError):
            ds.open_slide(f"{address}/b.tif")
        slide = ds.open_slide(f"{address}/a.tif")
        path.write_bytes(path.read_bytes() + b"later")
        TILE_CACHE.clear()
        with pytest.raises(ds.errors.SlideChangedError):
            slide.data.compute()


def test_a_web_server_without_versions_that_breaks_off(tissue_tiff, quick_retries):
    expected = ds.open_slide(tissue_tiff).data.compute()
    with (
        servers.web_server(tissue_tiff.parent, tags=False) as (address, _),
        servers.proxy(address) as (through, traffic, faults),
    ):
        slide = ds.open_slide(f"{through}/{tissue_tiff.name}")
        faults.start(1.0, ("short",), limit=3)
        assert np.array_equal(slide.data.compute(), expected)
        assert traffic.injected["short"] == 3


def test_without_obstore_it_says_what_to_install():
    code = (
        "import sys; sys.modules['obstore'] = sys.modules['obstore.store'] = None\n"
        "import dask_slides as ds\n"
        "try: ds.open_slide('s3://bucket/a.tif')\n"
        "except ds.errors.SlideUnsupportedError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'dask-slides[cloud]'" in done.stdout, done.stderr
