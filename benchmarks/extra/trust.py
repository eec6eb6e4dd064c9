"""``python -m benchmarks.extra.trust``: measure the cost and the effect of strict decoding.

Prints Markdown: the time to check the tables of 40,000 tiles, the time to check a stream compared
to decoding it, and the share of damaged JPEG tiles that are refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

ROUNDS = 7


def seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the minimum CPU time of several runs, as other processes may disturb some of them."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def tissue() -> Any:
    """Return stained tissue (512, 512, 3)."""
    import skimage.data

    return np.ascontiguousarray(skimage.data.immunohistochemistry())


def preflight(folder: Path) -> list[str]:
    """Time opening a slide of 40,000 tiles, and the checks that are part of it."""
    import tifffile

    import dask_slides as ds
    from dask_slides.core.limits import Limits
    from dask_slides.readers.tiff.directories import check_structure
    from dask_slides.readers.tiff.page_checks import (
        check_alike,
        check_declared,
        check_level,
        check_tables,
    )

    path = folder / "tiles.tif"
    tile = tissue()[:256, :256]
    tifffile.imwrite(
        path, (tile for _ in range(40_000)), shape=(51_200, 51_200, 3), dtype="uint8",
        tile=(256, 256), photometric="rgb", compression="jpeg", metadata=None,
    )  # fmt: skip
    limits, size = Limits(), path.stat().st_size

    def structure() -> Any:
        with open(path, "rb") as file:
            return check_structure(str(path), file, size, limits)

    found = structure()
    with tifffile.TiffFile(path) as tiff:
        level = tiff.series[0]

        def checks() -> None:
            check_level("", level)
            check_declared("", level, limits)
            check_alike("", level)
            check_tables("", level.keyframe, level.pages[0], found)

        checked = seconds(checks)
    whole, structured = seconds(lambda: ds.open_slide(path)), seconds(structure)
    return [
        "| 40,000 tiles of 256 px | ms |",
        "| --- | ---: |",
        f"| structure of the file | {1e3 * structured:.1f} |",
        f"| tables and declared sizes | {1e3 * checked:.1f} |",
        f"| `open_slide`, all of it | {1e3 * whole:.1f} |",
    ]


def strictness(folder: Path) -> list[str]:
    """Time the checks of a tile against its decode, codec by codec."""
    import tifffile

    from dask_slides.readers.codecs.strict import strict_decode
    from dask_slides.readers.codecs.tile_sizes import FrameCheck
    from dask_slides.readers.remote.byte_ranges import byte_file
    from dask_slides.readers.remote.identity import identify
    from dask_slides.readers.tiff.tiled_page import TiledPage

    rows = ["| codec, tiles or strips of 65,536 px | decode, µs per tile | checks, µs | share |",
            "| --- | ---: | ---: | ---: |"]  # fmt: skip
    for codec in ("jpeg", "jpeg2000", "webp", "lzw", "zlib", "zstd", "jpeg strips", "ndpi"):
        path = folder / f"{codec}.tif"
        layout: Any = {"rowsperstrip": 128} if "strips" in codec else {"tile": (256, 256)}
        if codec == "ndpi":  # 8 rows between restart markers
            hamamatsu(path)
        else:
            kind = codec.split(maxsplit=1)[0]
            tifffile.imwrite(path, tissue(), photometric="rgb", compression=kind, **layout)
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            with open(path, "rb") as file:
                file.seek(page.dataoffsets[0])
                data = file.read(page.databytecounts[0])
            if codec in ("jpeg2000", "webp"):
                decode, check = page.decode, FrameCheck(page)
                bare = each_call(lambda decode=decode, data=data: decode(data, 0), 30)
                extra = each_call(lambda check=check, data=data: check(0, data), 10_000)
            elif codec == "jpeg":
                decoder = TiledPage(byte_file(str(path), identify(str(path))), page, 255).decoder
                jpeg: Any = decoder.simplejpeg()
                full = each_call(lambda jpeg=jpeg, data=data: jpeg.tile(0, data))
                extra = each_call(lambda jpeg=jpeg, data=data: jpeg._check(0, data), 10_000)
                bare = full - extra
            else:
                plain, strict = page.decode, strict_decode(page)
                how: dict[str, Any] = {"_fullsize": True}
                if page.jpegheader:
                    how["jpegheader"] = page.jpegheader
                bare, full = interleaved(
                    lambda plain=plain, data=data, how=how: plain(data, 0, **how),
                    lambda strict=strict, data=data, how=how: strict(data, 0, **how),
                )
                extra = full - bare
        rows.append(f"| {codec} | {1e6 * bare:.0f} | {1e6 * extra:.1f} | {extra / bare:.1%} |")
    return rows


def hamamatsu(path: Path) -> None:
    """Write an NDPI whose tiles are 8 rows of 8,192 px, 65,536 px each."""
    from ndpi_files import ndpi

    ndpi(path, np.tile(tissue()[:256], (1, 16, 1)), across=1)


def interleaved(*works: Callable[[], Any], count: int = 300) -> list[float]:
    """Return the minimum CPU time of each function; call them in turn."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(count):
        for one, times in zip(works, found, strict=True):
            start = time.thread_time()
            one()
            times.append(time.thread_time() - start)
    return [min(times) for times in found]


def each_call(work: Callable[[], Any], count: int = 300) -> float:
    """Return the minimum CPU time of one call."""
    found = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(count):
            work()
        found.append((time.thread_time() - start) / count)
    return min(found)


def damaged(stream: bytes, kind: str, rng: Any) -> bytes:
    """Return a damaged copy of a JPEG stream."""
    data = bytearray(stream)
    at = int(rng.integers(1, len(data)))
    if kind == "cut off":
        del data[at:]
    elif kind == "zeros to the end":
        data[at:] = bytes(len(data) - at)
    elif kind == "200 random bytes":
        at = int(rng.integers(0, len(data) - 200))
        data[at : at + 200] = rng.bytes(200)
    elif kind == "one random byte":
        data[at] = (data[at] + int(rng.integers(1, 256))) % 256
    else:
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


KINDS = ("cut off", "zeros to the end", "200 random bytes", "one random byte", "one bit")


def mutants(folder: Path, count: int) -> list[str]:
    """Read damaged JPEG tiles; count the refused, right and silently wrong ones."""
    import tifffile

    import dask_slides as ds

    rows = ["| damage of one JPEG tile | tile | refused | right pixels | wrong pixels |",
            "| --- | --- | ---: | ---: | ---: |"]  # fmt: skip
    for side in (256, 512):
        path = folder / "one.tif"
        pixels = tissue()[:side, :side]
        tifffile.imwrite(
            path, pixels, tile=(side, side), photometric="rgb", compression="jpeg",
            compressionargs={"level": 85}, metadata=None,
        )  # fmt: skip
        whole = path.read_bytes()
        right = ds.open_slide(path).read(0, 0, side, side)
        with tifffile.TiffFile(path) as tiff:
            offset, length = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        for kind in KINDS:
            refused = good = wrong = 0
            for seed in range(count):
                mutant = damaged(whole[offset : offset + length], kind, np.random.default_rng(seed))
                data = bytearray(whole)
                data[offset : offset + length] = mutant.ljust(length, b"\0")
                one = folder / f"{side}-{kind}-{seed}.tif"
                one.write_bytes(data)
                if kind == "cut off":
                    with tifffile.TiffFile(one, mode="r+") as tiff:
                        tiff.pages[0].tags[325].overwrite(len(mutant))
                try:
                    found = ds.open_slide(one).read(0, 0, side, side)
                except ds.SlideError:
                    refused += 1
                else:
                    same = np.array_equal(found, right)
                    good, wrong = good + same, wrong + (not same)
                one.unlink()
            rows.append(
                f"| {kind} | {side} px | {refused / count:.1%} | {good / count:.1%} | "
                f"{wrong / count:.1%} |"
            )
    return rows


def mutants_of_ndpi(folder: Path, count: int) -> list[str]:
    """Decode damaged restart intervals; count those that tifffile and dask_slides refuse."""
    import tifffile

    from dask_slides.readers.codecs.strict import strict_decode

    rows = ["| damage of one restart interval | refused by tifffile | refused by dask_slides |",
            "| --- | ---: | ---: |"]  # fmt: skip
    path = folder / "ndpi.tif"
    hamamatsu(path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        tiff.filehandle.seek(page.dataoffsets[0])
        whole = tiff.filehandle.read(page.databytecounts[0])
        decoders = (page.decode, strict_decode(page))
        for kind in KINDS:
            refused = [0, 0]
            for seed in range(count):
                mutant = damaged(whole, kind, np.random.default_rng(seed))
                for number, decode in enumerate(decoders):
                    try:
                        decode(mutant, 0, jpegheader=page.jpegheader, _fullsize=True)
                    except Exception:  # decoders raise many classes
                        refused[number] += 1
            rows.append(f"| {kind} | {refused[0] / count:.1%} | {refused[1] / count:.1%} |")
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extra.trust", description=__doc__)
    parser.add_argument("--mutants", type=int, default=1000, help="of each kind; 1000 by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = (
            preflight(folder),
            strictness(folder),
            mutants(folder, given.mutants),
            mutants_of_ndpi(folder, given.mutants),
        )
        for rows in tables:
            print("\n".join(rows), end="\n\n")


if __name__ == "__main__":
    main()
