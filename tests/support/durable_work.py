"""Write stores of a small slide, in processes that are killed while they write.

The processes import this module.
"""

import os
import shutil
import signal
from pathlib import Path

import dask
import numpy as np
import tifffile

import dask_slides as ds

UNSHARDED = " without shards"
KINDS = ("image", "copy", "pack", "cutoff", f"pack{UNSHARDED}")


def slide_file(path, side=1500):
    """Write a slide with some tissue, whose pyramid is built in two stages."""
    rng = np.random.default_rng(3)
    image = np.full((side, side, 3), 236, np.uint8)
    image[300:1200, 200:1100] = rng.integers(60, 220, (900, 900, 3), dtype=np.uint8)
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), compression="zlib")
    return path


def made(kind, path):
    """Return the object of a kind to write."""
    if kind == "pack":
        return ds.pack_tiles(path, tile_size=128, detector=ds.Contrast(0.05))
    if kind == "cutoff":
        return ds.cutoff_resize(path, max_size=700, tile_size=100, detector=ds.Contrast(0.05))
    if kind == "blank map":
        return ds.blank_map(path, tile_size=100, detector=ds.Contrast(0.05))
    return ds.open_slide(path)


def write(kind, source, out, **options):
    if kind == "copy":
        options |= {"codec": "source", "level_step": 2}
    if kind == "image 0.4":
        options["ome_zarr"] = "0.4"
    if kind.endswith(UNSHARDED):
        kind, options["shards"] = kind.removesuffix(UNSHARDED), False
    with dask.config.set(scheduler="sync"):
        return ds.write(made(kind, source), out, **options)


def write_threaded(source, out):
    """Write with two threads."""
    with dask.config.set(scheduler="threads", num_workers=2):
        ds.write(ds.open_slide(source), out)


def is_hidden(name):
    """Return whether a file is temporary: its name begins with a dot and is not one of Zarr."""
    return name.startswith(".") and not name.startswith(".z")


def contents(folder):
    """Return the files of a store by name, without hidden ones."""
    return {
        str(one.relative_to(folder)): one.read_bytes()
        for one in sorted(Path(folder).rglob("*"))
        if one.is_file() and not is_hidden(str(one.relative_to(folder)))
    }


def undisturbed(source, folder, kinds=KINDS):
    """Return the files of an undisturbed store of each kind."""
    found = {}
    for kind in kinds:
        write(kind, source, folder / f"{kind}.zarr")
        found[kind] = contents(folder / f"{kind}.zarr")
    return found


def killing_at(step):
    """Return a decorator that kills this process at the `step`th call of all its functions."""
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    return counted


def write_until(step, environment, kind, source, out, options):
    """Write; kill this process just before the `step`th change of the disk or bucket."""
    os.environ.update(environment)
    import obstore

    counted = killing_at(step)
    for module, name in [
        (os, "rename"), (os, "replace"), (os, "unlink"), (os, "fsync"), (shutil, "rmtree"),
        (obstore, "put"), (obstore, "delete"), (obstore, "copy"),
    ]:  # fmt: skip
        setattr(module, name, counted(getattr(module, name)))
    write(kind, source, out, **options)


def race(environment, barrier, kind, source, out, results):
    """Write at the same time as another process, and report the result."""
    os.environ.update(environment)
    obj = made(kind, source)
    barrier.wait()
    try:
        with dask.config.set(scheduler="sync"):
            ds.write(obj, out)
    except (ds.errors.OutputBusyError, ds.errors.OutputExistsError) as error:
        results.put(type(error).__name__)
    else:
        results.put("written")


def finished(processes, target, *args):
    """Run `target` in a process and return its exit code."""
    process = processes.Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode
