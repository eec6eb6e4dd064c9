"""The call depth inside the package stays small, from an entry point to the codec."""

import sys
from pathlib import Path

import dask
import pytest
import simplejpeg

import dask_slides as ds
from dask_slides.readers.tile_cache import TILE_CACHE

ROOT = Path(ds.__file__).parent

MOST = 10
ROUTES = {
    "slide.read": lambda slide, _: slide.read(0, 0, 300, 300),
    "a block of a resize": lambda slide, _: ds.resize(slide, downsample=10).data.compute(),
    "a block of statistics": lambda slide, _: ds.blank_map(
        slide, detector=ds.Contrast(0.05)
    ).statistics.compute(),
    "a block of an overview": lambda slide, _: ds.blank_map(slide).areas.compute(),
    "a shard of a write": lambda slide, path: ds.write(slide, path / "a.ome.zarr"),
}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = ds.sample_slide(tmp_path_factory.mktemp("depth") / "a.tif", shape=(4096, 4096))
    slide = ds.open_slide(path)
    slide.read(0, 0, 300, 300)  # the decoder of a page is chosen at its first tile
    return slide


def frames(task_only):
    """Return the running functions of the package, from the outermost to the innermost.

    With `task_only`, return only those that Dask called in a task.
    """
    found, frame = [], sys._getframe(2)
    while frame:
        path = Path(frame.f_code.co_filename)
        if task_only and path.name == "_task_spec.py":
            break
        if path.is_relative_to(ROOT):
            found.append(f"{path.relative_to(ROOT)}: {frame.f_code.co_qualname}")
        frame = frame.f_back
    return found[::-1]


@pytest.mark.parametrize("route", ROUTES)
def test_frames_from_the_entry_to_the_codec(slide, route, tmp_path, monkeypatch):
    decode, stacks = simplejpeg.decode_jpeg, []

    def counted(*args, **options):
        stacks.append(frames(task_only=route != "slide.read"))
        return decode(*args, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    TILE_CACHE.clear()
    with dask.config.set(scheduler="sync"):
        ROUTES[route](slide, tmp_path)
    deepest = max(stacks, key=len)
    print(f"{route}: {len(deepest)}", *deepest, sep="\n  ")
    assert len(deepest) <= MOST
