"""Fixtures that several test files use: real slides, small slides, a cluster."""

import multiprocessing
import os
import signal
from pathlib import Path

import dask
import numpy as np
import oracle
import pytest
import tifffile
from hypothesis import HealthCheck, settings
from remote_fixtures import (  # noqa: F401
    bucket,
    new_target,
    quick_retries,
    served_bucket,
    target,
)
from report_jobs import mixed_job

TEST_DATA = "DASK_SLIDES_TEST_DATA"

# processes that a shell starts in the background ignore SIGINT, which the tests send
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "local",
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "local"))


@pytest.fixture(scope="session")
def test_data():
    """Return the folder with slides/ and odd-tiffs/, which are not part of the project."""
    folder = os.environ.get(TEST_DATA)
    if not folder:
        pytest.skip(f"{TEST_DATA} is not set to a folder with slides/ and odd-tiffs/")
    if not (Path(folder) / "slides").is_dir():
        pytest.skip(f"{TEST_DATA}={folder} has no folder slides/")
    return Path(folder)


@pytest.fixture(scope="session")
def real_slide(test_data):
    """Return the path of an Aperio SVS of one level, 2967 x 2220 px."""
    return test_data / "slides" / "CMU-1-Small-Region.svs"


@pytest.fixture
def sync():
    """Compute in this thread, which is fast for small arrays and does not wrap errors."""
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture
def reads(monkeypatch):
    """Return a list that records each region read from a file, in pixels of its level."""
    from dask_slides.core.geometry import Region
    from dask_slides.readers.tiff.source import TiffSource

    found = []
    read_valid, tiles = TiffSource.read_valid, TiffSource.tiles
    read_reduced = TiffSource.read_reduced
    gather = TiffSource.gather

    def counted(self, level, region):  # `read` calls it
        found.append(region)
        return read_valid(self, level, region)

    def counted_reduced(self, level, factor, region):
        whole = [factor * n for n in (region.y, region.x, region.height, region.width)]
        found.append(Region(*whole))
        return read_reduced(self, level, factor, region)

    def counted_tiles(self, level, region):
        for part, pixels in tiles(self, level, region):
            found.append(part)
            yield part, pixels

    def counted_gather(self, level, regions):
        for index, part, pixels in gather(self, level, regions):
            found.append(part)
            yield index, part, pixels

    monkeypatch.setattr(TiffSource, "gather", counted_gather)
    monkeypatch.setattr(TiffSource, "read_valid", counted)
    monkeypatch.setattr(TiffSource, "tiles", counted_tiles)
    monkeypatch.setattr(TiffSource, "read_reduced", counted_reduced)
    return found


@pytest.fixture(scope="session")
def stained():
    """Return 768 x 1024 px of real histology, mirrored to avoid seams."""
    data = pytest.importorskip("skimage.data")
    return np.pad(data.immunohistochemistry(), ((0, 256), (0, 512), (0, 0)), mode="symmetric")


@pytest.fixture(scope="session")
def tissue(stained):
    """Return 300 x 420 px of noisy glass with tissue in rows 60:250, columns 90:360.

    Rows 130:170 are glass, so that a cut-off removes rows inside the tissue.
    """
    rng = np.random.default_rng(7)
    image = rng.integers(238, 243, (300, 420, 3), dtype=np.uint8)
    image[60:130, 90:360] = stained[100:170, 90:360]
    image[170:250, 90:360] = stained[200:280, 90:360]
    return image


@pytest.fixture(scope="session")
def tissue_tiff(tissue, tmp_path_factory):
    """Return the path of `tissue` as a lossless TIFF with tiles of 64 px."""
    path = tmp_path_factory.mktemp("tissue") / "tissue.tif"
    tifffile.imwrite(path, tissue, tile=(64, 64), compression="zlib", photometric="rgb")
    return path


@pytest.fixture(scope="session")
def write_pyramid(tmp_path_factory):
    """Return a function that writes a lossless pyramid of exact area means."""

    def write(image, levels=3, tile=64):
        path = tmp_path_factory.mktemp("pyramid") / "pyramid.tif"
        options = {"tile": (tile, tile), "compression": "zlib", "photometric": "rgb"}
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(image, subifds=levels, **options)
            for level in oracle.area_pyramid(image, levels):
                tiff.write(level, subfiletype=1, **options)
        return path

    return write


@pytest.fixture(scope="session")
def pyramid(stained, write_pyramid):
    """Return the path of `stained` with levels at 1/2, 1/4 and 1/8."""
    return write_pyramid(stained)


@pytest.fixture(scope="session")
def cluster():
    """Start two worker processes on this machine."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        # None would use port 8787 and warn if it is in use
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
    ) as running:
        yield running


@pytest.fixture
def client(cluster):
    """Make `cluster` the scheduler of this test only."""
    import distributed

    with (
        distributed.Client(cluster, set_as_default=False) as connected,
        connected.as_current(),
    ):
        yield connected


@pytest.fixture(scope="session")
def reported_job(tmp_path_factory):
    """Return the folder of a run over several slides, some with faults; do not change it."""
    return mixed_job(tmp_path_factory.mktemp("report"))


@pytest.fixture
def axes():
    """Create matplotlib axes without a display."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, made = plt.subplots()
    yield made
    plt.close(figure)


@pytest.fixture(scope="session")
def processes():
    """Return a context that forks processes quickly from one with all imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dask_slides",
            "dask.array",
            "zarr",
            "tifffile",
            "imagecodecs",
            "PIL.Image",
            "scipy.sparse",
        ]
    )
    return context
