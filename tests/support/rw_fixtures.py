"""Write test files with tifffile and numpy, without dask_slides."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

_DATA = os.environ.get("DASK_SLIDES_TEST_DATA", "")


def data_folder(name):
    """Return `name` ("slides", "odd-tiffs") of the test data, or None if it does not exist."""
    if not _DATA:
        return None
    for folder in (Path(_DATA) / name, Path(_DATA).parent / name):
        if folder.is_dir():
            return folder
    return None


def real(name):
    """Return the path of a real slide; skip without the data."""
    folder = data_folder("slides")
    if folder is None or not (folder / name).exists():
        pytest.skip("set DASK_SLIDES_TEST_DATA to the folder of the real slides")
    return folder / name


def noise(*shape, dtype="uint8", seed=0, top=None):
    """Return random samples over the range of an integer dtype, or floats in [0, 1)."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, (info.max if top is None else top) + 1, shape, dtype=dtype)


def smooth(height, width, seed=0):
    """Return a smooth RGB image, which lossy codecs change little."""
    y, x = np.mgrid[:height, :width] / 40.0
    waves = [np.sin(y + k + seed) * np.cos(x * (k + 1) / 2) for k in range(3)]
    return np.rint(128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def tissue(height, width, cell=64, seed=0):
    """Return an RGB image of cells, half of them flat glass and half noise."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    cells = rng.random((-(-height // cell), -(-width // cell))) < 0.5
    mask = cells.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    picture[mask] = 240
    return picture


def sparse_tiff(path, shape=(102_400, 102_400), tile=512, channels=3, **options):
    """Write a TIFF whose tiles are all absent, which takes a few bytes per tile."""
    count = -(-shape[0] // tile) * -(-shape[1] // tile)
    options = {"compression": "jpeg", "photometric": "ycbcr"} | options
    tifffile.imwrite(
        path,
        iter([b""] * count),
        shape=(*shape, channels) if channels else shape,
        dtype=options.pop("dtype", "uint8"),
        tile=(tile, tile),
        metadata=None,
        **options,
    )
    return path


def patch_tag(path, code, value, page=0):
    """Overwrite the value of a tag in the file."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[page].tags[code].overwrite(value)


def segments(path, page=0):
    """Return (offset, byte count) of each tile or strip."""
    with tifffile.TiffFile(path) as tiff:
        one = tiff.pages[page]
        return list(zip(one.dataoffsets, one.databytecounts, strict=True))


def change_file(path, how):
    """Change only the time of a file, or its size, or remove it."""
    status = path.stat()
    if how == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    elif how == "size":
        with open(path, "ab") as file:
            file.write(b"\0")
    else:
        path.unlink()


def bytes_read():
    """Return the bytes that this process has requested from the system so far."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        pytest.skip("this system does not count reads")
    return int(text.split("rchar:")[1].split()[0])


def one_line(error):
    """Return the message of `error`, which must be one line."""
    message = str(error.value if hasattr(error, "value") else error)
    assert message and "\n" not in message
    return message
