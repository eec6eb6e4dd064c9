"""The peak memory of new processes stays below the estimate and does not grow with the slide."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import tifffile
from PIL import Image

import dask_slides as ds
from dask_slides.runtime.buffer_pool import LIMIT

CODE = """
import json, sys
import dask, imagecodecs, numpy, PIL.Image, scipy.sparse, tifffile, zarr
import zarr.codecs
import dask_slides as ds
from dask_slides.runtime.numba_loader import numba_kernels

numba_kernels(10)  # used for large slides; memory of imports is not measured

def resident(what):
    # not ru_maxrss, which a new process inherits from the one that started it
    text = open("/proc/self/status").read()
    return int(text.split(what + ":")[1].split()[0]) * 1024

slide = ds.open_slide(sys.argv[1])
slide.read(0, 0, 16, 16)
before = resident("VmRSS")
with dask.config.set(scheduler="threads", num_workers=2):
    ds.write(ds.resize(slide, downsample=10), sys.argv[2])
print(json.dumps([before, resident("VmHWM")]))
"""


PLANNED = """
import json, sys
import dask, imagecodecs, numpy, PIL.Image, scipy.sparse, tifffile, zarr
import zarr.codecs
import dask_slides as ds
from dask_slides.ops.pack import plan_pack
from dask_slides.writers import estimate

def resident(what):
    text = open("/proc/self/status").read()
    return int(text.split(what + ":")[1].split()[0]) * 1024

path, out, kind = sys.argv[1:]
slide = ds.open_slide(path)
slide.read(0, 0, 16, 16)
before = resident("VmRSS")
with dask.config.set(scheduler="threads", num_workers=2):
    if kind == "pack":
        image, grid = plan_pack(slide, 256, None, None, None, "drop")
        plan = estimate.estimate_tiles(grid.rows * grid.cols, grid, image, slide)
        ds.write(ds.pack_tiles(slide, tile_size=256, detector=ds.Contrast(0.05)), out)
    elif kind == "blank map":
        found = ds.blank_map(slide)
        plan = estimate.estimate_blank_map(found, slide)
        ds.write(found, out)
    else:
        image = ds.resize(slide, downsample={"resize": 4, "whole": 1}[kind])
        plan = estimate.estimate_image(image, slide)
        ds.write(image, out)
print(json.dumps([resident("VmHWM") - before, plan.task_bytes]))
"""


COMPUTED = """
import dask, numpy
import dask.array as da
from dask_slides.runtime.scheduler import compute

def resident(what):
    text = open("/proc/self/status").read()
    return int(text.split(what + ":")[1].split()[0]) * 1024

array = da.ones((10_000, 10_000, 3), dtype="uint8", chunks=(1000, 1000, 3))
compute(array[:1], "")
before = resident("VmRSS")
with dask.config.set(scheduler="threads", num_workers=2):
    found = compute(array + 1, "")
assert found.min() == found.max() == 2
print(resident("VmHWM") - before - found.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_computing_holds_the_result_only_once():
    result = subprocess.run([sys.executable, "-c", COMPUTED], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 60e6  # of a result of 300 MB, in blocks of 3 MB


@pytest.mark.parametrize("compression", ["jpeg", pytest.param("lzw", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["resize", "whole", "blank map", "pack"])
def test_the_peak_stays_below_the_estimate(tmp_path, kind, compression):
    """The peak is that of two tasks, plus the free memory of the pool."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not report the peak of a process")
    path = tmp_path / "s.tif"
    ds.sample_slide(path, shape=(4096, 4096), compression=compression)
    args = [sys.executable, "-c", PLANNED, str(path), str(tmp_path / "out.zarr"), kind]
    result = subprocess.run(args, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    grown, task = json.loads(result.stdout.splitlines()[-1])
    print(f"{kind} of {compression}: {grown / 1e6:.0f} MB, estimated {task / 1e6:.0f} MB per task")
    assert grown <= 2 * task + LIMIT


def growth(path, out):
    """Return the bytes that writing adds to the peak of a process."""
    args = [sys.executable, "-c", CODE, str(path), str(out)]
    result = subprocess.run(args, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    before, after = json.loads(result.stdout.splitlines()[-1])
    return after - before


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not report the peak of a process")
    folder = tmp_path_factory.mktemp("memory")
    found = {}
    for side in (20_480, 61_440):
        path = folder / f"{side}.tif"
        ds.sample_slide(path, shape=(side, side), tile=512)
        # the median of three, as the peaks of two threads coincide by chance
        found[side] = median(growth(path, folder / f"{side}.{run}.zarr") for run in range(3))
        path.unlink()
    return found


@pytest.mark.slow
def test_memory_has_a_limit(peaks):
    assert max(peaks.values()) < 500e6, peaks


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slide(peaks):
    assert peaks[61_440] <= 1.1 * peaks[20_480], peaks


LIMITED = """
import resource, sys
import dask_slides as ds
from pathlib import Path
slides = [ds.open_slide(path, on_bad_tile="mask") for path in sys.argv[2:]]
ds.open_slide(sys.argv[1]).read(0, 0, 64, 64)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25,) * 2)
for slide in slides:
    try:
        slide.read(0, 0, 64, 64)
    except ds.errors.SlideMemoryError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_process_without_memory_does_not_call_a_slide_damaged(tmp_path):
    """The only strip, or the whole picture, has 144 MB, which does not fit."""
    small, *paths = (str(tmp_path / name) for name in ("s.png", "a.png", "a.tif"))
    image = Image.fromarray(np.zeros((6900, 6900, 3), np.uint8))
    image.crop((0, 0, 64, 64)).save(small)
    image.save(paths[0])
    tifffile.imwrite(paths[1], np.asarray(image), photometric="rgb", compression="zlib",
                     rowsperstrip=6900)  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, small, *paths], capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line, path in zip(lines, paths, strict=True):
        assert line.startswith(path) and "no memory is left" in line
