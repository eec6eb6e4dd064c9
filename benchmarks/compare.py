"""Compare the results of methods with those of dask_slides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Agreement:
    """The comparison of a result with ours."""

    text: str
    good: bool


def array_of(result: Any) -> tuple[Array | None, Facts]:
    """Return a result in memory as an array."""
    return (None if result is None else np.asarray(result)), {}


def facts_of_graph(result: Any) -> tuple[Array | None, Facts]:
    """Return the size of a graph; nothing is compared."""
    import cloudpickle

    try:
        pickled: Any = len(cloudpickle.dumps(result))
    except (TypeError, AttributeError) as error:
        pickled = f"none: {error}"
    tasks = len(dict(result.__dask_graph__()))
    return None, {"shape": list(result.shape), "tasks": tasks, "pickled bytes": pickled}


def stored_image(path: Any) -> tuple[Array | None, Facts]:
    """Return the pixels of an image in a store, (y, x, c)."""
    import zarr

    node = zarr.open(path, mode="r")
    facts = {"bytes on disk": _bytes_on_disk(path)}
    if isinstance(node, zarr.Group):  # OME-Zarr: level 0, channels first
        return np.asarray(node["0"][...]).transpose(1, 2, 0), facts
    return np.asarray(node[...]), facts


def stored_pack(path: Any) -> tuple[Array | None, Facts]:
    """Return one row per tile of a stored pack: y, x, mean and standard deviation."""
    import zarr

    group = zarr.open_group(path, mode="r")
    corners = zip(group["y"][...], group["x"][...], strict=True)
    tiles = (group["tiles"][i] for i in range(group["tiles"].shape[0]))
    rows = [(y, x, t.mean(), t.std()) for (y, x), t in zip(corners, tiles, strict=True)]
    table = np.array(rows, np.float64).reshape(-1, 4)
    return table, {"tiles": len(table), "bytes on disk": _bytes_on_disk(path)}


def _bytes_on_disk(path: Any) -> int:
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def psnr(ours: Array, theirs: Array, least: float) -> Agreement:
    """Compare the pixels, of an image whose size differs by up to 2 % after a resize to ours."""
    note = ""
    if ours.shape != theirs.shape:
        sizes = " x ".join(map(str, theirs.shape))
        off = [abs(a - b) / a for a, b in zip(ours.shape, theirs.shape, strict=False)]
        if ours.ndim != 3 or theirs.ndim != 3 or max(off) > 0.02:
            return Agreement(f"shape {sizes}", False)
        note = f", stretched from {sizes}"
        theirs = _stretched(theirs, (ours.shape[1], ours.shape[0]))
    error = np.mean((ours.astype(np.float32) - theirs) ** 2, dtype=np.float64)
    if error == 0:
        return Agreement("the same pixels", True)
    value = 10 * np.log10(255**2 / error)
    return Agreement(f"{value:.1f} dB{note}", bool(value >= least))


def _stretched(pixels: Array, size: tuple[int, int]) -> Array:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def same_cells(ours: Array, theirs: Array, _: float) -> Agreement:
    """Compare blank maps; at most 1 % of the cells may differ."""
    if ours.shape != theirs.shape:
        return Agreement(f"{theirs.shape} cells for {ours.shape}", False)
    off = int((ours != theirs).sum())
    return Agreement(f"{off} of {ours.size} cells differ", off <= ours.size / 100)


def same_tiles(ours: Array, theirs: Array, _: float) -> Agreement:
    """Compare packs; at most 1 % of the tiles may differ, and no mean by more than 1."""
    here, there = ({tuple(row[:2]): row[2:] for row in table} for table in (ours, theirs))
    common = here.keys() & there.keys()
    off = len(here.keys() | there.keys()) - len(common)
    level = max((float(np.abs(here[at] - there[at]).max()) for at in common), default=0.0)
    text = f"{off} of {len(here)} tiles differ, means by {level:.2f}"
    return Agreement(text, off <= max(1, len(here) / 100) and level <= 1)
