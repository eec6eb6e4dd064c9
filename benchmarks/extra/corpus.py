"""``python -m benchmarks.extra.corpus FOLDER...``: compare how readers read the images of folders.

dask_slides reads each file in a separate process with limits of time and memory: it opens the file
with the defaults, computes all pixels and runs every operation. Other readers run in processes of
their own. Their images are converted to the conventions of dask_slides: palettes looked up, black
at 0, samples of 1, 2 and 4 bits scaled to 0 to 255, upright, alpha and masks composited on the
fill, only the largest image.

Lossless pixels must be equal, or differ by one step if alpha was composited or JPEG 2000 rounded.
Lossy decoders differ in the IDCT and the chroma upsampling: 99 % of the samples must differ by at
most a quarter of the range, and the means of 99 % of the blocks of 8 x 8 px by at most 3 %.

right          a reader has equal pixels, and no reader without warnings has other pixels
disputed       one reader has equal pixels and another one has other pixels
wrong          every reader that reads the file has other pixels
false alarm    reported as damaged, but libvips (fail_on="warning") or GDAL reads it without warning
refused        a SlideError of one line with the reason
bad reason     a SlideError that is not one plain line
bare error     any other exception in an operation, or a traceback
inconsistent   two operations of dask_slides give different pixels
crash, hang    the process died or exceeded the time limit
alone          no other reader reads the file

The readers are rasterio, pyvips (with pyvips-binary), Pillow, tifffile and imagecodecs. The first
two are not dependencies of dask_slides: ``pip install rasterio pyvips pyvips-binary``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extra.pictures import KIN, READERS, STRICT, Abstained, Array, closeness, compared

MAX_PIXELS = 2**25
"""Only the top left of larger images is read, and it is not compared."""
SUFFIXES = re.compile(
    r"\.(avif|bmp|btf|dds|gif|h5|heic|icns|ico|j2k|jp2|jpc|jpe?g|jpx|jxl|lsm|ndpi|p[abfgnp]m|pcx"
    r"|png|psd|qptiff|scn|sgi|svs|tga|tiff?|vsi|webp)",
    re.IGNORECASE,
)
MAGIC = re.compile(
    rb"II[*+]\0|MM\0[*+]|\x89PNG|\xff\xd8\xff|\0\0\0\x0cjP  |\xff\x4f\xff\x51|GIF8|BM|RIFF....WEBP"
    rb"|P[1-7]\s|\x89HDF|DDS ",
    re.DOTALL,
)
DAMAGE = {"SlideFormatError", "SlideTruncatedError", "TileDecodeError"}
OTHERS = re.compile(r"not an image that is known|holds no image|is empty")
"""Format errors that do not report damage."""
ODD_REASON = re.compile(r"<class|<\w+\.|object at 0x|Traceback|\w+Error\b|__\w+__|\bb'|b\"")
BEFORE = (
    "dask_slides.cli", "distributed", "click.testing", "tifffile.zarr", "imagecodecs",
    "rasterio", "pyvips", "PIL.ImageOps",
)  # fmt: skip
BAD = ("wrong", "crash", "hang", "bare error", "false alarm", "inconsistent", "bad reason")


def comparison(reader: str, path: str, saved: str | None, tell: Any = None) -> str:
    """Compare the pixels of a reader with those saved at `saved`; return "read" without `saved`."""
    warnings.simplefilter("ignore")
    ours = None
    if saved is not None:
        with np.load(saved) as file:
            ours, skip, fill = file["ours"], file["skip"], file["fill"]
        near = closeness(path)
    words = []
    try:
        for picture in READERS[reader](path, None if ours is None else ours.shape):
            if ours is None:
                words.append("read")
                continue
            narrow = picture.pixels.itemsize < ours.itemsize and ours.shape[2] > 1
            unsigned = ours.dtype == np.int8 and picture.pixels.dtype == np.uint8
            if unsigned or (reader == "Pillow" and narrow):
                return "abstains: it does not support int8, or 16-bit colour"
            words.append(compared(ours, skip, picture, fill, near))
    except Abstained as error:  # a warning at the end does not change that the pixels are equal
        return "equal" if "equal" in words else f"abstains: {error}"
    except BaseException as error:
        return f"cannot: {' '.join(str(error).replace(path, '').split())[:200]}"
    return "equal" if "equal" in words else words[0]


@dataclass
class Ours:
    """The results of dask_slides for a file."""

    shape: tuple[int, ...] | None = None
    errors: list[tuple[str, str, str, bool]] = field(default_factory=list)
    """Operation, class, message, and whether the class is a SlideError."""
    large: bool = False
    facts: str = ""

    @property
    def damaged(self) -> bool:
        """Whether dask_slides reports the file as damaged."""
        return any(kind in DAMAGE for _, kind, _, _ in self.errors)


def read_ours(path: str, saved: str, tell: Callable[[str], None]) -> Ours:
    """Open `path`, save all pixels to `saved`, and run every operation."""
    from click.testing import CliRunner

    import dask_slides as ds
    from dask_slides.cli import main as command

    warnings.simplefilter("ignore")
    result = Ours()

    def tried(name: str, call: Callable[[], Any]) -> Any:
        tell(name)
        try:
            return call()
        except Exception as error:
            ours = isinstance(error, ds.SlideError)
            result.errors.append((name, type(error).__name__, str(error), ours))

    slide = tried("open", lambda: ds.open_slide(path))
    ran = tried("info", lambda: CliRunner().invoke(command, ["info", path]))
    if ran and not isinstance(ran.exception, SystemExit | None):
        result.errors.append(("info", type(ran.exception).__name__, str(ran.exception), False))
    elif ran and (ran.exit_code not in (0, 1) or ran.stderr.count("\n") != ran.exit_code):
        result.errors.append(("info", f"exit {ran.exit_code}", ran.stderr, True))
    if slide is None:
        return result
    result.shape, result.facts = slide.shape, f"{slide.dtype} {dict(slide.properties)}"
    height, width, _ = slide.shape
    result.large = height * width > MAX_PIXELS
    if result.large:
        tried("read", lambda: slide.read(0, 0, min(512, height), min(512, width)))
        return result
    pixels = tried("read", lambda: slide.read(0, 0, height, width))
    again = tried("compute", lambda: slide.data.compute())
    if pixels is not None and again is not None and not _same(pixels, again):
        result.errors.append(("compute", "unequal", "read and compute differ", True))
    if pixels is not None:
        skip = np.zeros(pixels.shape[:2], bool)
        for tile in tried("bad_tiles", slide.bad_tiles) or ():
            skip[tile.region.slices()] = True
        np.savez(saved, ours=pixels, skip=skip, fill=np.asarray(slide.source.fill))
    tried("blank_map", lambda: ds.blank_map(slide).compute())
    tried("resize", lambda: ds.resize(slide, max_size=64).data.compute())
    tried("random_crops", lambda: ds.random_crops(slide, n=4, size=8).tiles.compute())
    tried("check_slide", lambda: ds.check_slide(slide))
    return result


def _same(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def alone(work: Callable[..., Any], seconds: float, memory: int) -> tuple[str, Any]:
    """Call `work(tell=...)` in a separate process: return ("done", result), or its end and where.

    The limit of CPU time is `seconds`; that of wall time is four times as long.
    """
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_limited, args=(work, sender, seconds, memory)
    )
    process.start()
    sender.close()
    last, stop = "start", time.monotonic() + 4 * seconds
    try:
        while receiver.poll(max(0, stop - time.monotonic())):
            word, value = receiver.recv()
            if word != "at":
                return word, value
            last = value
        return "hang", last
    except EOFError:
        process.join()
        number = -(process.exitcode or 0)
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return "hang", last
        return "crash", f"{last}: {signal.Signals(number).name if number > 0 else process.exitcode}"
    finally:
        process.kill()
        process.join()
        receiver.close()


def _limited(work: Callable[..., Any], sender: Any, seconds: float, memory: int) -> None:
    import resource

    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sender.send(("done", work(tell=lambda place: sender.send(("at", place)))))
    except BaseException as error:
        sender.send(("bare error", f"{type(error).__name__}: {error}"))
    os._exit(0)


def judged(ended: str, value: Any, words: dict[str, str]) -> tuple[str, str]:
    """Return the verdict and the reason, from our result and those of the other readers."""
    if ended != "done":
        return ended, str(value)
    for name, kind, message, ours in value.errors:
        if not ours:
            return "bare error", f"{name}: {kind}: {message}"
        if kind == "unequal":
            return "inconsistent", message
        if "\n" in message or not message or ODD_REASON.search(message):
            return "bad reason", f"{name}: {kind}: {message}"
    vips, gdal = words.get("libvips", ""), words.get("GDAL", "")
    refused = [(k, m) for n, k, m, _ in value.errors if n in ("open", "read", "compute")]
    if refused:
        reason = f"{refused[0][0]}: {refused[0][1]}"
        if value.damaged and not OTHERS.search(reason):
            others = sum(word == "read" for word in words.values())
            if vips == "read" or (others > 1 and gdal == "read" and "known file format" in vips):
                return "false alarm", reason
            if gdal == "read":
                return "disputed", f"GDAL reads it, libvips {vips}; {reason}"
        return "refused", reason
    for name, kind, message, _ in value.errors:
        if kind in DAMAGE:
            return "inconsistent", f"{name}: {kind}: {message}, though all pixels were read"
    if value.large:
        return "large", ""
    agree = {name for name, word in words.items() if word == "equal"}
    differ = {
        name: word
        for name, word in words.items()
        if word != "equal" and not word.startswith(("abstains", "cannot"))
    }
    reason = "; ".join(f"{name}: {word}" for name, word in differ.items())
    strict = set(STRICT) & set(differ)
    if not differ or (agree & set(STRICT) and not strict):
        return ("right" if agree else "alone"), ""
    if agree - (KIN if strict else set()):
        return "disputed", f"{reason}; same as {', '.join(sorted(agree))}"
    return "wrong", reason


def examine(path: str, seconds: float, memory: int, readers: Iterable[str]) -> dict[str, Any]:
    """Read a file with all readers; return the results and the verdict."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        saved = f"{folder}/ours.npz"
        ended, value = alone(partial(read_ours, path, saved), seconds, memory)
        words: dict[str, str] = {}
        pixels = saved if os.path.exists(saved) else None
        # unsupported files and large images are not compared
        for reader in readers if ended == "done" and (pixels or value.damaged) else ():
            how, word = alone(partial(comparison, reader, path, pixels), seconds, memory)
            words[reader] = word if how == "done" else f"cannot: {how} {word}"
            if all(words.get(strict) == "equal" for strict in STRICT):
                break
    verdict, why = judged(ended, value, words)
    facts = asdict(value) if ended == "done" else {}
    spent = round(time.monotonic() - began, 2)
    return {"path": path, "verdict": verdict, "why": why, "words": words, "ours": facts} | {
        "seconds": spent
    }


def images_in(folders: Iterable[str]) -> Iterator[str]:
    """Yield the files that are images by their names or their first bytes."""
    for folder in folders:
        root = Path(folder)
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if not path.is_file() or path.is_symlink() or ".zarr" in str(path):
                continue
            with path.open("rb") as file:
                first = file.read(16)
            if SUFFIXES.fullmatch(path.suffix) or MAGIC.match(first):
                yield str(path)


def main() -> None:
    """Print the counts, and one line per file that is neither right nor refused."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extra.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--json", help="file for all results, one line per image")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    memory = int(float(given.memory.removesuffix("GiB")) * 2**30)
    missing = [name for name in ("rasterio", "pyvips") if find_spec(name) is None]
    if missing:
        sys.exit(
            f"{' and '.join(missing)} cannot be imported: pip install rasterio pyvips pyvips-binary"
        )
    for name in BEFORE:  # once, instead of in each process
        import_module(name)

    look = partial(examine, seconds=given.seconds, memory=memory, readers=tuple(READERS))
    counts: dict[str, Counter[str]] = {}
    results = []
    fork = multiprocessing.get_context("fork")
    with (
        open(given.json or os.devnull, "w") as out,
        ProcessPoolExecutor(given.jobs, mp_context=fork) as pool,
    ):
        paths = images_in(given.folders)
        for future in as_completed([pool.submit(look, path) for path in paths]):
            result = future.result()
            results.append(result)
            print(json.dumps(result, default=str), file=out, flush=True)
            folder = next(f for f in given.folders if result["path"].startswith(f))
            counts.setdefault(folder, Counter())[result["verdict"]] += 1
    verdicts = [v for v in ("right", "refused", "alone", "large", "disputed", *BAD)]
    print("| folder | files | " + " | ".join(verdicts) + " |")
    print("| --- |" + " ---: |" * (len(verdicts) + 1))
    for folder, count in counts.items():
        cells = " | ".join(f"{count[verdict]:,}" for verdict in verdicts)
        print(f"| {Path(folder).name} | {count.total():,} | {cells} |")
    print()
    for result in sorted(results, key=lambda one: str(one["path"])):
        if result["verdict"] not in ("right", "refused", "large", "alone"):
            print(f"{result['verdict']}: {result['path']}: {result['why']}")
    sys.exit(any(result["verdict"] in BAD for result in results))


if __name__ == "__main__":
    main()
