"""The slides that the scenarios read; each is made once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP = 2560
"""Sides are multiples of this, for whole tiles, an exact 1/10 and 40 equal cells."""
GRID_TILES = 200
"""Tiles along a side of the slide that is only opened."""
TILE = 512
"""Default side of the tiles."""
QUALITY = 80


def rounded(size: int) -> int:
    """Return the multiple of STEP that is nearest to `size`."""
    return max(STEP, round(size / STEP) * STEP)


def slide(folder: Path, kind: str, size: int) -> Path:
    """Return the path of a slide of `kind`, and make it if it does not exist."""
    most, make = KINDS[kind]
    side = GRID_TILES * TILE if kind == "grid" else min(size, most)
    path = folder / f"{kind}-{side}.tif"
    if not path.exists():
        _write_atomically(path, lambda hidden: make(hidden, side))
    return path


def warm(path: Path) -> None:
    """Read the file into the page cache of the system, if it fits."""
    if path.stat().st_size > available_memory() // 2:
        return
    with path.open("rb") as file:
        while file.read(2**24):
            pass


def available_memory() -> int:
    """Return the bytes of memory that are free or can be freed."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _write_atomically(path: Path, make: Callable[[Path], None]) -> None:
    """Let `make` write a temporary file, and rename it to `path` when it is complete."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make(hidden)
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)


def _flat(path: Path, side: int, tile: int = TILE, compression: str = "jpeg") -> None:
    """Write a slide of one level."""
    import dask_slides as ds

    ds.sample_slide(
        path,
        shape=(side, side),
        tile=tile,
        compression=compression,
        overwrite=True,
    )


def _pyramid(path: Path, side: int) -> None:
    """Write levels of 1/2, 1/4 ... as pages, the layout that every tool reads."""
    import tifffile
    from PIL import Image

    flat = path.with_name(f"{path.name}.flat")
    try:
        _flat(flat, side)
        pixels: NDArray[Any] = tifffile.imread(flat)
    finally:
        flat.unlink(missing_ok=True)
    with tifffile.TiffWriter(path, bigtiff=True, ome=False) as writer:
        level = 0
        while True:
            _write_level(writer, pixels, level)
            if max(pixels.shape) <= TILE:
                return
            pixels = np.asarray(Image.fromarray(pixels).reduce(2))
            level += 1


def _write_level(
    writer: Any, pixels: Any, level: int, shape: Any = None, mpp: float = 0.25
) -> None:
    writer.write(
        pixels,
        shape=shape,
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": QUALITY},
        subsampling=(2, 2),
        subfiletype=1 if level else 0,
        resolution=(10000 / mpp / 2**level,) * 2,
        resolutionunit="CENTIMETER",
        metadata=None,
    )


def _grid(path: Path, side: int) -> None:
    """Write the same tile repeatedly, for a scenario that reads no pixels."""
    import tifffile

    one = path.with_name(f"{path.name}.one")
    try:
        with tifffile.TiffWriter(one, ome=False) as writer:
            _write_level(writer, np.full((TILE, TILE, 3), 240, np.uint8), 0)
        with tifffile.TiffFile(one) as tiff:
            page = tiff.pages[0]
            start, count = page.dataoffsets[0], page.databytecounts[0]
        tile = one.read_bytes()[start : start + count]
    finally:
        one.unlink(missing_ok=True)

    def tiles() -> Iterator[bytes]:
        for _ in range((side // TILE) ** 2):
            yield tile

    with tifffile.TiffWriter(path, bigtiff=True, ome=False) as writer:
        _write_level(writer, tiles(), 0, shape=(side, side, 3))


KINDS: dict[str, tuple[int, Callable[[Path, int], None]]] = {
    "flat": (102_400, _flat),
    "flat256": (20_480, partial(_flat, tile=256)),
    "lzw": (20_480, partial(_flat, compression="lzw")),
    "deflate": (20_480, partial(_flat, compression="deflate")),
    "jpeg2000": (10_240, partial(_flat, compression="jpeg2000")),
    "pyramid": (20_480, _pyramid),  # its levels are made in memory
    "grid": (GRID_TILES * TILE, _grid),
}
"""The longest side of each kind of slide, and the function that writes it."""
