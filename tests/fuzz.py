"""Mutants of sound files through opening and reading: only errors of ours may come out.

    python tests/fuzz.py --executions 1000000 --processes 2

Each process may use one gigabyte beyond what its imports take, and five seconds for each
mutant. What breaks a rule is kept in the folder of `--out`, with what happened.
"""

import argparse
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import tifffile
from mutate import mutated_json, mutated_tiff

import dask_slides as ds

SECONDS = 5
"""Of the processor for one mutant, after which it is taken to hang; or of the clock:"""
WAITED = 120
MEMORY = 2**30
KEPT = 40
"""Findings of one process after which there is no use in more."""


def sound_tiffs(folder):
    """Return the bytes of small TIFFs of every layout and codec that is read."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :56]
    rgb = np.stack([y * 4, x * 4, y + x], axis=-1).astype(np.uint8)
    rgb += rng.integers(0, 20, rgb.shape, dtype=np.uint8)
    tiled = {"tile": (16, 16)}
    kinds = {
        "raw": {**tiled},
        "lzw": {"compression": "lzw", "predictor": True, **tiled},
        "deflate strips": {"compression": "zlib", "rowsperstrip": 9},
        "zstd big": {"compression": "zstd", "bigtiff": True, **tiled},
        "packbits": {"compression": "packbits", "rowsperstrip": 10},
        "lzma": {"compression": "lzma", **tiled},
        "jpeg": {"compression": "jpeg", "subsampling": (2, 2), **tiled},
        "jpeg strips": {"compression": "jpeg", "rowsperstrip": 16},
        "jpeg 2000": {"compression": "jpeg2000", **tiled},
        "webp big": {"compression": "webp", "bigtiff": True, **tiled},
        "png": {"compression": "png", **tiled},
        "jpeg xl": {"compression": "jpegxl", **tiled},
        "big endian": {"byteorder": ">", "compression": "zlib", **tiled},
        "planar": {"planarconfig": "separate", "compression": "zlib", **tiled},
        "mapped": {},
    }
    paths = {}
    for name, options in kinds.items():
        paths[name] = folder / f"{name}.tif"
        data = rgb.transpose(2, 0, 1) if name == "planar" else rgb
        tifffile.imwrite(paths[name], data, photometric="rgb", metadata=None, **options)
    grey = rgb[..., 0]
    one = {"metadata": None}
    others = {
        "one bit": (grey > 99, {"photometric": "miniswhite"}),
        "palette": (grey, {"photometric": "palette", "colormap": np.ones((3, 256), np.uint16)}),
        "float": (grey.astype(np.float32), {**tiled}),
        "16 bit": (grey.astype(np.uint16) * 257, {"compression": "lzw", **tiled}),
    }
    for name, (data, options) in others.items():
        paths[name] = folder / f"{name}.tif"
        tifffile.imwrite(paths[name], data, **one, **options)
    paths["ome"] = folder / "a.ome.tif"
    with tifffile.TiffWriter(paths["ome"], ome=True) as writer:
        writer.write(rgb, subifds=1, photometric="rgb", **tiled)
        writer.write(rgb[::2, ::2].copy(), subfiletype=1, photometric="rgb", **tiled)
    paths["aperio"] = folder / "a.svs"
    with tifffile.TiffWriter(paths["aperio"]) as writer:
        text = "Aperio Image Library v11\n56x48 |AppMag = 20|MPP = 0.5|User = x"
        writer.write(rgb, description=text, photometric="rgb", compression="jpeg", **one, **tiled)
        writer.write(rgb[:20, :20].copy(), description="label", photometric="rgb", **one)
    return {name: path.read_bytes() for name, path in paths.items()}


def look(path, well=True):
    """Open the image at `path` and read a little of it; if it shall be `well`, in every way."""
    slide = ds.open_slide(path)
    height, width = slide.shape[:2]
    slide.read(0, 0, min(height, 40), min(width, 40))
    slide.read(height - 1, width - 1, 1, 1)
    if well and height * width < 2**20:
        ds.resize(slide, max_size=7).data.compute(scheduler="sync")
        slide._repr_html_()


def sound_stores(folder):
    """Write a pack and an image, and return the paths of the JSON files that are read."""
    path = folder / "a.tif"
    rng = np.random.default_rng(0)
    tifffile.imwrite(path, rng.integers(0, 255, (64, 64, 3), np.uint8), photometric="rgb")
    pack, image = folder / "a.tiles.zarr", folder / "a.ome.zarr"
    ds.write(ds.pack_tiles(path, tile_size=16), pack)
    ds.write(ds.open_slide(path), image)
    wanted = ("zarr.json", "manifest.json")
    return {
        store: [one for one in sorted(store.rglob("*.json")) if one.name in wanted]
        for store in (pack, image)
    }


def look_at_store(path):
    """Prove the store at `path`, and open it."""
    with contextlib.suppress(ds.SlideError):
        ds.verify(path)
    if path.name.endswith(".tiles.zarr"):
        pack = ds.open_pack(path)
        pack._repr_html_()
        if len(pack):
            pack.tiles[:2].compute(scheduler="sync")
    else:
        look(path)


class Findings:
    """What came out that is no error of ours."""

    def __init__(self, out):
        self.out = out
        self.count = 0
        out.mkdir(parents=True, exist_ok=True)

    def add(self, name, data):
        self.count += 1
        (self.out / f"{name}.bin").write_bytes(data)
        (self.out / f"{name}.txt").write_text(traceback.format_exc())
        print(f"FOUND {name}: {traceback.format_exc().splitlines()[-1]}", file=sys.stderr)


def try_one(looked, findings, name, data):
    """Call `looked`; errors of ours and pixels are fine, all else is a finding."""
    try:
        looked()
    except ds.SlideError as error:
        if "\n" in str(error):
            findings.add(name, data)
    except Exception:
        findings.add(name, data)


def fuzz_tiffs(folder, seeds, findings, told=lambda seed: None):
    """Try the mutants of `seeds`."""
    sound = list(sound_tiffs(folder).items())
    for seed in seeds:
        name, data = sound[seed % len(sound)]
        mutant = mutated_tiff(seed, data)
        # a name of its own each, as open files are told apart by name, size and time
        path = folder / f"mutant-{seed}{'.svs' if name == 'aperio' else '.tif'}"
        path.write_bytes(mutant)
        told(seed)
        well = seed // len(sound) % 8 == 0
        try_one(lambda path=path, well=well: look(path, well), findings, f"tiff-{seed}", mutant)
        path.unlink()
        if findings.count >= KEPT:
            return


def fuzz_stores(folder, seeds, findings, told=lambda seed: None):
    """Try stores of which one JSON file is a mutant."""
    made = folder / str(seeds.start)
    made.mkdir()
    places = [(store, file) for store, files in sound_stores(made).items() for file in files]
    for seed in seeds:
        store, file = places[seed % len(places)]
        sound = file.read_bytes()
        mutant = mutated_json(seed, sound)
        # what the process keeps of a store is told apart by its path
        copy = folder / f"{seed}-{store.name}"
        shutil.copytree(store, copy)
        (copy / file.relative_to(store)).write_bytes(mutant)
        told(seed)
        try_one(lambda copy=copy: look_at_store(copy), findings, f"store-{seed}", mutant)
        shutil.rmtree(copy)
        if findings.count >= KEPT:
            return


KINDS = {"tiff": fuzz_tiffs, "store": fuzz_stores}


def limited():
    """Let this process use so much memory and no more."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(kind, start, stop, step, out):
    """Fuzz in this process; write down how far it is."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    done = out / f"done-{kind}-{start % step}"
    done.unlink(missing_ok=True)
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        KINDS[kind](Path(folder), range(start, start + step, step), Findings(out))  # imports
        limited()
        seeds = range(start + step, stop, step)
        KINDS[kind](Path(folder), seeds, Findings(out), lambda seed: done.write_text(str(seed)))
    done.write_text("all")


class Watch:
    """How long a process has been at one mutant."""

    def __init__(self):
        self.at, self.cpu, self.since = None, 0.0, 0.0

    def hangs(self, pid, done):
        """Return whether the process has been at it for too long."""
        if not done.exists():
            return False
        at, now = done.read_text(), time.monotonic()
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if at != self.at:
            self.at, self.cpu, self.since = at, cpu, now
        return cpu - self.cpu > SECONDS or now - self.since > WAITED


def main():
    """Run processes until all mutants were tried; one that dies is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="tiff")
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first mutant")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    step, stop = given.processes, given.first + given.executions
    starts = {number: given.first + number for number in range(step)}
    running, watches, began = {}, {}, time.monotonic()
    while starts or running:
        for number, start in starts.items():
            code = f"import fuzz, pathlib; fuzz.work({given.kind!r}, {start}, {stop}, {step}, "
            code += f"pathlib.Path({str(given.out.resolve())!r}))"
            running[number] = subprocess.Popen(
                [sys.executable, "-c", code], cwd=Path(__file__).parent
            )
            watches[number] = Watch()
        starts = {}
        for number, process in list(running.items()):
            done = given.out / f"done-{given.kind}-{number % step}"
            if process.poll() is None:
                if not watches[number].hangs(process.pid, done):
                    continue
                process.kill()
                process.wait()
            del running[number]
            last = done.read_text() if done.exists() else "nothing"
            done.unlink(missing_ok=True)
            if last == "all":
                continue
            if not last.isdigit():
                print(f"no mutant was tried: code {process.returncode}", file=sys.stderr)
                return 2
            print(f"DIED at {given.kind}-{last}, code {process.returncode}", file=sys.stderr)
            (given.out / f"{given.kind}-{last}-died.json").write_text(
                json.dumps({"seed": int(last), "code": process.returncode})
            )
            starts[number] = int(last) + step
        time.sleep(0.2)
    found = len([one for one in given.out.iterdir() if one.suffix in (".txt", ".json")])
    rate = given.executions / (time.monotonic() - began)
    print(f"{given.executions:,} {given.kind} mutants, {rate:.0f} a second, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
