"""The peak memory of new processes stays below the estimate and does not grow with the slide."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

import dask_slides as ds
from dask_slides.runtime.buffer_pool import LIMIT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")

SCRIPT = """
import json, sys
import dask, imagecodecs, numpy, PIL.Image, scipy.sparse, tifffile, zarr, zarr.codecs
import dask.array as da
import dask_slides as ds
from dask_slides.ops.pack import plan_pack
from dask_slides.runtime.numba_loader import numba_kernels
from dask_slides.runtime.scheduler import compute
from dask_slides.writers import estimate

def resident(what):
    # not ru_maxrss, which a new process inherits from the one that started it
    text = open("/proc/self/status").read()
    return int(text.split(what + ":")[1].split()[0]) * 1024

def resize_to_a_tenth(path, out):
    ds.write(ds.resize(opened, downsample=10), out)  # the tables of the file are in memory before

def resize(path, out, downsample=4):
    image = ds.resize(path, downsample=downsample)
    ds.write(image, out)
    return estimate.estimate_image(image, image).task_bytes

def whole(path, out):
    return resize(path, out, 1)

def tiff(path, out):
    ds.export(ds.open_slide(path), out, to="ome-tiff")
    return estimate.estimate_image(opened, opened).task_bytes

def blank_map(path, out, detector=ds.Contrast(0.05), **options):
    found = ds.blank_map(path, detector=detector, tile_size=512, **options)
    ds.write(found, out)
    return estimate.estimate_blank_map(found, ds.open_slide(path)).task_bytes

def tissue(path, out):
    return blank_map(path, out, ds.Tissue())

def pack(path, out, detector=ds.Contrast(0.05)):
    slide = ds.open_slide(path)
    image, grid = plan_pack(slide, 256, None, 1, None, "drop")
    ds.write(ds.pack_tiles(path, tile_size=256, downsample=1, detector=detector), out)
    return estimate.estimate_tiles(grid.rows * grid.cols, grid, image, slide, detector).task_bytes

def array(path, out):
    found = compute(da.ones((10_000, 10_000, 3), dtype="uint8", chunks=(1000, 1000, 3)) + 1, "")
    assert found.min() == found.max() == 2
    return found.nbytes

function, path, out = sys.argv[1:]
if function in ("tissue", "pack"):  # memory of imports is not measured
    import scipy.ndimage, skimage.filters
    import dask_slides.numerics.tissue
if function == "resize_to_a_tenth":
    numba_kernels(10)  # used for large slides
if function == "array":
    compute(da.ones(10, chunks=1), "")
else:
    opened = ds.open_slide(path)
    opened.read(0, 0, 16, 16)
before = resident("VmRSS")
with dask.config.set(scheduler="threads", num_workers=2):
    result = globals()[function](path, out)
print(json.dumps([resident("VmHWM") - before, result]))
"""


def grown(function, path, out):
    """Return the bytes that a function adds to the peak of a process, and its result."""
    command = [sys.executable, "-c", SCRIPT, function, str(path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_computing_holds_the_result_only_once():
    peak, result = grown("array", "", "")
    assert peak - result < 60e6  # of a result of 300 MB, in blocks of 3 MB


@pytest.mark.parametrize("compression", ["jpeg", pytest.param("lzw", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["resize", "whole", "tiff", "blank_map", "tissue", "pack"])
def test_the_peak_stays_below_the_estimate(tmp_path, kind, compression):
    """The peak is that of two tasks, plus the free memory of the pool."""
    path = tmp_path / "s.tif"
    ds.sample_slide(path, shape=(4096, 4096), compression=compression)
    peak, task = grown(kind, path, tmp_path / "out.zarr")
    print(f"{kind} of {compression}: {peak / 1e6:.0f} MB, estimated {task / 1e6:.0f} MB per task")
    assert peak <= 2 * task + LIMIT


@pytest.mark.slow
def test_memory_has_a_limit_and_does_not_grow_with_the_slide(tmp_path):
    peaks = []
    # in smaller ones the last stages have one task, so that only one thread has a buffer
    for side in (40_960, 81_920):
        path = tmp_path / f"{side}.tif"
        ds.sample_slide(path, shape=(side, side), tile=512)
        # the least of five, as the peaks of two threads coincide by chance
        runs = (grown("resize_to_a_tenth", path, tmp_path / f"{side}.{n}.zarr") for n in range(5))
        peaks.append(min(peak for peak, _ in runs))
        path.unlink()
    assert max(peaks) < 500e6, peaks
    assert peaks[1] <= 1.1 * peaks[0], peaks


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
