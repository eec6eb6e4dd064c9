"""Functions of the cohort tests; the processes of the tests import this module."""

import csv
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import dask
import durable_work
import numpy as np
import tifffile

import dask_slides as ds
from dask_slides.cohort.step import Step
from dask_slides.writers.store.local_folder import LocalFolder

STEPS = {
    "mask": {"tile_size": 64},
    "resize": {"downsample": 2},
    "cutoff": {"downsample": 2, "tile_size": 64},
    "pack": {"tile_size": 64, "detector": ds.Contrast(0.2)},
}


def slide_file(path, seed, side=320):
    """Write a slide of noise on glass, at a position that depends on the seed."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 238, np.uint8)
    top, left = rng.integers(0, side // 3, 2)
    size = side // 2 + 5
    image[top : top + size, left : left + size] = rng.integers(0, 255, (size, size, 3), np.uint8)
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), compression="zlib")
    return path


def slide_files(folder, count):
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        slide_file(folder / f"s{seed:04}.tif", seed)
    return folder


def run_with_journal(folder, job, journal):
    """Run a cohort; append a line to `journal` for each published store."""
    publish = LocalFolder.publish

    def published(self, *args):
        publish(self, *args)
        handle = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{os.path.basename(self.path)}\n".encode())
        os.close(handle)

    LocalFolder.publish = published
    with dask.config.set(scheduler="threads", num_workers=2):
        ds.run_cohort(folder, job=job, steps=STEPS)


def table(job):
    with open(Path(job) / "process_list.csv", encoding="utf-8", newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


def statuses(job):
    return {name: row["status"] for name, row in table(job).items()}


def stores(job):
    """Return an identity of each store by path, which changes when the store is rewritten."""
    found = {}
    for path in Path(job).glob("*/*.zarr"):
        status = (path / "zarr.json").stat()
        found[str(path.relative_to(job))] = (status.st_ino, status.st_mtime_ns)
    return found


def contents(folder):
    """Return the bytes of all chunks of all stores by path."""
    files = Path(folder).glob("**/*.zarr/**/c/**/*")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def size(slide, folder):
    """Write the size of a slide to a file."""
    path = Path(folder, "size.txt")
    path.write_text(str(slide.shape))
    return path


KILLED = {
    "stores": {name: STEPS[name] for name in ("resize", "pack")},
    "files": {"export": {"of": {"pack": STEPS["pack"]}, "to": "csv"}, "size": size},
}
"""Steps of the runs that are killed."""


def run_until(step, kind, folder, job):
    """Run a cohort in one thread; kill this process before the `step`th disk operation."""

    def run(kind, source, out):
        with dask.config.set(scheduler="sync"):
            ds.run_cohort(source, job=out, steps=KILLED[kind])

    durable_work.write = run
    durable_work.write_until(step, {}, kind, folder, job, {})


@dataclass(frozen=True)
class Killing(Step):
    """A step that kills its process if the slide is called "killer"."""

    kind: ClassVar[str] = "killing"
    makes: ClassVar[str] = "None"
    suffix: ClassVar[str] = ".killing.zarr"
    draws: ClassVar[bool] = False
    counts: ClassVar[tuple[str, ...]] = ()

    def check(self):
        pass

    def estimate(self, slide):
        pass

    def reductions(self, slide):
        return ()

    def build(self, slide, maps):
        if "killer" in slide.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return None, {"pid": os.getpid()}

    def write(self, obj, target, name):
        os.makedirs(
            target.path, exist_ok=True
        )  # it exists if the process was killed after the write


if __name__ == "__main__":
    run_with_journal(*sys.argv[1:])
