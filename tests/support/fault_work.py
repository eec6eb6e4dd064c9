"""Slides that kill or delay the process that reads them, and commands that wait in a read."""

import ctypes
import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.core.source import Source
from dask_slides.readers.tiff.source import TiffSource


@dataclasses.dataclass(frozen=True)
class Faulty(Source):
    """A source that triggers `fault` in reads of `places` while the file `switch` exists."""

    parent: Any
    places: tuple[tuple[int, int], ...]
    fault: str
    switch: str
    pace: float = 0.0
    """Minimum seconds per read."""

    @property
    def path(self):
        return self.parent.path

    @property
    def levels(self):
        return self.parent.levels

    @property
    def channels(self):
        return self.parent.channels

    @property
    def dtype(self):
        return self.parent.dtype

    def read(self, level, region):
        if os.path.exists(self.switch) and any(
            Region(y, x, 1, 1).intersect(region).area for y, x in self.places
        ):
            FAULTS[self.fault]()
        time.sleep(self.pace)
        return self.parent.read(level, region)


def _out_of_memory():
    arrays = []
    while True:  # until the nanny kills this process
        arrays.append(np.ones(2**21))
        time.sleep(0.002)


def _segfault():
    ctypes.string_at(0)


FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": _segfault,
    "out of memory": _out_of_memory,
}


def faulty(path, places, fault, switch):
    """Return the slide at `path` with a fault at `places` (y, x) while `switch` exists."""
    slide = ds.open_slide(path)
    source = Faulty(slide.source, tuple(places), fault, str(switch))
    return dataclasses.replace(slide, source=source)


def slow(path, seconds):
    """Return the slide at `path` with reads that take at least `seconds`."""
    slide = ds.open_slide(path)
    source = Faulty(slide.source, (), "", "", seconds)
    return dataclasses.replace(slide, source=source)


def wait_until(condition, seconds=180):
    """Poll until `condition` holds; fail after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "the condition never held"
        time.sleep(0.01)


def held_up(folder, work):
    """Call `work`; let reads wait for the file "go", and create "reading" when one waits."""
    read = TiffSource.read_valid

    def waiting(self, level, region):
        if region.y >= 512:  # earlier reads do not wait
            (folder / "reading").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        return read(self, level, region)

    TiffSource.read_valid = waiting
    work()


if __name__ == "__main__":
    from dask_slides.cli import main

    held_up(Path(sys.argv[1]), lambda: main(sys.argv[2:]))
