"""Check that a reader keeps the promises of `dask_slides.core.source.Source`.

For tests of readers, also of those in other packages: ``check_reader(open_slide(path))``.
"""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np

from dask_slides.core.geometry import Region
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.slide import Slide

_REGIONS = 12
_LARGEST_SIDE = 1500
"""Most rows and columns of a level that are read."""
_MAX_PICKLE = 2**20


def check_reader(
    slide: Slide, expected: Array | None = None, *, seed: int = 0, new_process: bool = True
) -> None:
    """Raise AssertionError if the reader of `slide` breaks a promise.

    The levels become smaller, pixels do not depend on the region that is read, on threads or on
    the process, the source is small when pickled and equal afterwards, and missing pixels show the
    fill. At most 1,500 x 1,500 pixels of each level are read, several times.

    Parameters
    ----------
    slide : Slide
        As `open_slide` returned it.
    expected : ndarray, optional
        Pixels (y, x, c) of level 0 from another source.
    seed : int
        Seed of the regions that are read.
    new_process : bool
        Whether to read in a new process too, which takes a second or more.

    Returns
    -------
    None

    Examples
    --------
    >>> import dask_slides as ds
    >>> from dask_slides.testing.reader_contract import check_reader
    >>> check_reader(ds.open_slide(ds.sample_slide("a.tif", shape=(600, 700))))
    """
    source = slide.source
    _check_levels(source)
    if expected is not None:
        whole = source.read(0, Region(0, 0, *source.levels[0].shape))
        _require(np.array_equal(whole, expected), "the pixels of level 0 are not those expected")
    _check_pickle(source)
    rng = np.random.default_rng(seed)
    for number in range(len(source.levels)):
        _check_regions(source, number, rng)
    if new_process:
        _check_process(source)


def _require(condition: bool, failure: str) -> None:
    if not condition:
        raise AssertionError(failure)


def _check_levels(source: Source) -> None:
    full = source.levels[0]
    _require(full.downsample == (1.0, 1.0), "level 0 is not the full resolution")
    for number, level in enumerate(source.levels):
        _require(min(*level.shape, *level.tile) > 0, f"level {number} is empty")
        for axis in (0, 1):
            off = abs(full.shape[axis] / level.downsample[axis] - level.shape[axis])
            _require(off <= 2, f"size and downsample of level {number} contradict each other")
    areas = [level.shape[0] * level.shape[1] for level in source.levels]
    _require(areas == sorted(areas, reverse=True), "the levels do not become smaller")


def _check_pickle(source: Source) -> None:
    pickled = pickle.dumps(source)
    _require(len(pickled) < _MAX_PICKLE, f"pickled it takes {len(pickled):,} bytes")
    _require(pickle.loads(pickled) == source, "pickled it becomes another value")


def _corner(source: Source, level: int) -> Region:
    height, width = source.levels[level].shape
    return Region(0, 0, min(height, _LARGEST_SIDE), min(width, _LARGEST_SIDE))


def _check_regions(source: Source, level: int, rng: np.random.Generator) -> None:
    """Compare random regions, read by several threads, with one large region."""
    corner = _corner(source, level)
    whole, valid = source.read_valid(level, corner)
    shape = (corner.height, corner.width, source.channels)
    _require(whole.shape == shape, f"{whole.shape} pixels instead of {shape}")
    _require(whole.dtype == source.dtype, f"pixels of {whole.dtype} instead of {source.dtype}")
    if valid is not None:
        _require(source.masked, "pixels are missing, but `masked` is False")
        _require(valid.shape == shape[:2] and valid.dtype == bool, "the mask does not fit")
        _require(bool((whole[~valid] == source.fill).all()), "missing pixels do not show the fill")
    for hole in source.holes(level, corner):
        part = whole[hole.region.slices()]
        _require(bool((part == source.fill).all()), "a bad tile does not show the fill")

    def differs(region: Region) -> bool:
        pixels, mask = source.read_valid(level, region)
        where = region.slices()
        expected = np.ones(pixels.shape[:2], bool) if valid is None else valid[where]
        found = np.ones(pixels.shape[:2], bool) if mask is None else mask
        return not (np.array_equal(pixels, whole[where]) and np.array_equal(found, expected))

    with ThreadPoolExecutor(4) as threads:
        regions = [_random_region(corner, rng) for _ in range(_REGIONS)]
        for region, wrong in zip(regions, threads.map(differs, regions), strict=True):
            _require(not wrong, f"level {level}: {region} differs from a larger region")


def _random_region(within: Region, rng: np.random.Generator) -> Region:
    height, width = (int(rng.integers(1, n + 1)) for n in (within.height, within.width))
    y = int(rng.integers(0, within.height - height + 1))
    x = int(rng.integers(0, within.width - width + 1))
    return Region(y, x, height, width)


def _check_process(source: Source) -> None:
    level = len(source.levels) - 1
    corner = _corner(source, level)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        there = process.submit(source.read, level, corner).result()
    same = np.array_equal(there, source.read(level, corner))
    _require(same, "another process reads other pixels")
