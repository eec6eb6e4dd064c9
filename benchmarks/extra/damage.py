"""``python -m benchmarks.extra.damage``: read the damaged files of the tests with several readers.

Every reader runs in a separate process, with a limit of one gigabyte and of 30 seconds per file. A
process that dies counts as a crash, one that does not answer as a hang. Codecs that a reader cannot
decode undamaged are skipped. Prints Markdown. openslide-python, openslide-bin and pyvips are
optional.
"""

from __future__ import annotations

import argparse
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 30
MEMORY = 2**30
ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "support"
NEAR = 4.0
"""Allowed mean difference between JPEG decoders in a tile, in grey levels."""


def with_tifffile(path: str, checksum: str) -> Any:
    import dask.array as da
    import tifffile

    return da.from_zarr(tifffile.imread(path, aszarr=True)).compute(scheduler="sync")


def with_openslide(path: str, checksum: str) -> Any:
    import openslide

    with openslide.OpenSlide(path) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
    return np.where(pixels[..., 3:] == 0, 255, pixels[..., :3])


def with_vips(path: str, checksum: str) -> Any:
    import pyvips

    return pyvips.Image.new_from_file(path).numpy()


def with_strict_vips(path: str, checksum: str) -> Any:
    import pyvips

    return pyvips.Image.new_from_file(path, fail_on="warning").numpy()


def with_ours(path: str, checksum: str) -> Any:
    import dask_slides as ds

    return ds.open_slide(path).data.compute(scheduler="sync")


def with_ours_and_checksum(path: str, checksum: str) -> Any:
    import dask_slides as ds

    return ds.open_slide(path, sha256=checksum).data.compute(scheduler="sync")


READERS: dict[str, Callable[[str, str], Any]] = {
    "tifffile and dask": with_tifffile,
    "OpenSlide": with_openslide,
    "libvips": with_vips,
    'libvips, `fail_on="warning"`': with_strict_vips,
    "dask_slides": with_ours,
    "dask_slides, `sha256=`": with_ours_and_checksum,
}


def corpus() -> Any:
    """Import the test module that makes the damaged files."""
    sys.path.insert(0, str(TESTS))
    import damage

    return damage


def is_right(found: Any, right: Any, absent: int | None, side: int) -> bool:
    """Return whether the pixels are undamaged; an absent tile may have any single colour."""
    if found.shape != right.shape:
        return False
    for number in range((right.shape[0] // side) ** 2):
        row, column = (n * side for n in divmod(number, right.shape[1] // side))
        tile = slice(row, row + side), slice(column, column + side)
        error = np.abs(found[tile].astype(int) - right[tile]).mean()
        if number == absent:
            if len(np.unique(found[tile].reshape(-1, 3), axis=0)) > 1:
                return False
        elif error > NEAR:
            return False
    return True


def work(reader: str, folder: Path, first: int) -> None:
    """Read the files from number `first` on; print the result of each."""
    import logging
    import resource
    import warnings

    damage = corpus()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    read, cases = READERS[reader], damage.cases()
    rights = {}
    for codec in damage.CODECS:
        path = folder / f"sound-{codec}.tif"
        try:
            found = read(str(path), damage.Case("", codec, False, None).checksum())
        except Exception:
            continue  # the reader does not support this codec
        right = np.load(folder / f"{codec}.npy")
        if is_right(found, right, None, damage.TILE):
            rights[codec] = right
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, case in enumerate(cases[first:], first):
        print("at", number, flush=True)
        if case.codec not in rights:
            result = "not read"
        else:
            absent = case.tile if case.outcome == "fill" else None
            try:
                found = read(str(folder / f"{number}.tif"), case.checksum())
                good = is_right(found, rights[case.codec], absent, damage.TILE)
                result = "right" if good else "wrong"
            except Exception:
                result = "raised"
        print("is", result, flush=True)


def results_of(reader: str, folder: Path, count: int) -> list[str]:
    """Return the result of each file with a reader; restart the reader when it dies."""
    results: list[str] = []
    while len(results) < count:
        code = "from benchmarks.extra.damage import work; from pathlib import Path; "
        code += f"work({reader!r}, Path({str(folder)!r}), {len(results)})"
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, cwd=ROOT,
        )  # fmt: skip
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_lines, args=(process, lines), daemon=True).start()
        started = False
        while True:
            try:
                # the imports take long on a busy machine
                word, _, rest = lines.get(timeout=SECONDS if started else 300).partition(" ")
            except queue.Empty:
                process.kill()
                results.append("hung")
                break
            if word == "is":
                results.append(rest.strip())
            elif word == "end":
                if len(results) < count and not started:
                    raise SystemExit(f"{reader} did not start: exit code {process.wait()}")
                if len(results) < count:
                    results.append("crashed")
                break
            started = True
        process.wait()
    return results


def _lines(process: Any, lines: queue.Queue[str]) -> None:
    for line in process.stdout:
        lines.put(line)
    lines.put("end")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extra.damage", description=__doc__)
    parser.add_argument("--only", action="append", choices=READERS, help="one reader; repeats")
    given = parser.parse_args()
    damage = corpus()
    cases = damage.cases()
    columns = ("raised", "right", "wrong", "crashed", "hung", "not read")
    print("| reader | raised | right | silently wrong | crashed | hung | codec not read |")
    print("| --- |" + " ---: |" * len(columns))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for codec in damage.CODECS:
            path = folder / f"sound-{codec}.tif"
            path.write_bytes(damage.sound(codec, False))
            np.save(folder / f"{codec}.npy", with_tifffile(str(path), ""))
        for number, case in enumerate(cases):
            (folder / f"{number}.tif").write_bytes(case.data())
        for reader in given.only or READERS:
            results = results_of(reader, folder, len(cases))
            counts = Counter(results)
            print(f"| {reader} | " + " | ".join(f"{counts[c]:,}" for c in columns) + " |")
            for case, result in zip(cases, results, strict=True):
                if result in ("crashed", "hung"):
                    print(f"{reader}: {case.name}: {result}", file=sys.stderr)


if __name__ == "__main__":
    main()
