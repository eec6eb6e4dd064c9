"""Mutants of sound files through opening and reading: only errors of ours may come out.

    python tests/support/fuzz.py --executions 1000000 --processes 2

Each process may use one gigabyte beyond what its imports take, and five seconds for each
mutant. What breaks a rule is kept in the folder of `--out`, with what happened.
"""

import argparse
import contextlib
import functools
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
from click.testing import CliRunner
from mutate import Tiff, mutated_csv, mutated_json, mutated_tiff, mutated_tiles

import dask_slides as ds
from dask_slides.cli import main as command

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


class Tiffs:
    """TIFFs of which entries, tables, tiles or bytes are changed."""

    def __init__(self, folder):
        self.folder = folder
        self.sound = list(self.files(folder).items())

    def files(self, folder):
        """Return the bytes of sound files by name."""
        return sound_tiffs(folder)

    def mutated(self, name, seed, data):
        """Return the bytes of a mutant."""
        return mutated_tiff(seed, data)

    def look(self, name, label, data, well):
        """Open the image and read a little of it; if it shall be `well`, in every way."""
        # a name of its own each, as open files are told apart by name, size and time
        path = self.folder / f"mutant-{label}{'.svs' if name == 'aperio' else '.tif'}"
        path.write_bytes(data)
        try:
            self.read(path, well)
        finally:
            path.unlink()

    def read(self, path, well):
        """Read a little."""
        look(path, well)


def look(path, well=True):
    """Open the image at `path` and read a little of it; if it shall be `well`, in every way."""
    slide = ds.open_slide(path)
    height, width = slide.shape[:2]
    slide.read(0, 0, min(height, 40), min(width, 40))
    slide.read(height - 1, width - 1, 1, 1)
    if well and height * width < 2**20:
        ds.resize(slide, max_size=7).data.compute(scheduler="sync")
        slide._repr_html_()


class Jpegs(Tiffs):
    """JPEG that imagecodecs alone decodes, changed within the streams."""

    def files(self, folder):
        """Return slides of three tiles."""
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:32, :96]
        deep = np.stack([y * 99, x * 40, y * x], axis=-1) + rng.integers(0, 99, (32, 96, 3))
        deep = deep.astype(np.uint16)
        grey = {"photometric": "minisblack"}
        two = {"planarconfig": "contig", "extrasamples": [0], **grey}
        kinds = {
            "420": (deep, {"subsampling": (2, 2)}),
            "422": (deep, {"subsampling": (2, 1)}),
            "444": (deep, {"subsampling": (1, 1)}),
            "grey": (np.ascontiguousarray(deep[..., 0]), grey),
            "two samples": ((deep[..., :2] >> 4).astype(np.uint8), two),
            "lossless": (deep, {"compressionargs": {"lossless": True}}),
        }
        for name, (data, how) in kinds.items():
            how = {"photometric": "rgb", "compression": "jpeg", "metadata": None, **how}
            tifffile.imwrite(folder / f"{name}.tif", data, tile=(32, 32), **how)
        return {name: (folder / f"{name}.tif").read_bytes() for name in kinds}

    def mutated(self, name, seed, data):
        """Return the bytes of a mutant."""
        return mutated_tiles(seed, data)

    def look(self, name, label, data, well):
        """Read all of it; if nothing but tiles is changed, what is no error is tifffile's."""
        sound = dict(self.sound)[name]
        same = len(data) == len(sound)
        if same:
            without_tiles = [bytearray(data), bytearray(sound)]
            for offset, count in Tiff(sound).tiles:
                for file in without_tiles:
                    file[offset : offset + count] = bytes(count)
            same = without_tiles[0] == without_tiles[1]
        super().look(name, label, data, same)

    def read(self, path, well):
        """Read all of it."""
        slide = ds.open_slide(path)
        found = slide.read(0, 0, *slide.shape[:2])
        if well:
            np.testing.assert_array_equal(found, tifffile.imread(path).reshape(found.shape))


class Stores:
    """Stores of which a JSON file is changed."""

    def __init__(self, folder):
        self.folder = folder
        made = folder / "stores"
        made.mkdir()
        path = made / "a.tif"
        rng = np.random.default_rng(0)
        tifffile.imwrite(path, rng.integers(0, 255, (64, 64, 3), np.uint8), photometric="rgb")
        pack, image = made / "a.tiles.zarr", made / "a.ome.zarr"
        ds.write(ds.pack_tiles(path, tile_size=16), pack)
        ds.write(ds.open_slide(path), image)
        self.sound = [
            ((store, file), file.read_bytes())
            for store in (pack, image)
            for file in sorted(store.rglob("*.json"))
            if file.name in ("zarr.json", "manifest.json")
        ]

    def mutated(self, place, seed, data):
        """Return the bytes of a mutant."""
        return mutated_json(seed, data)

    def look(self, place, label, data, well):
        """Prove a copy of the store, and open it."""
        store, file = place
        # what the process keeps of a store is told apart by its path
        copy = self.folder / f"{label}-{store.name}"
        shutil.copytree(store, copy)
        (copy / file.relative_to(store)).write_bytes(data)
        try:
            self.read(copy)
        finally:
            shutil.rmtree(copy)

    def read(self, path):
        """Prove the store at `path`, tell of it, and open it."""
        with contextlib.suppress(ds.SlideError):
            ds.verify(path)
        told = CliRunner().invoke(command.main, ["info", str(path)])
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        if path.name.endswith(".tiles.zarr"):
            pack = ds.open_pack(path)
            pack._repr_html_()
            if len(pack):
                pack.tiles[:2].compute(scheduler="sync")
        else:
            look(path)


class Cohorts:
    """Runs over slides of which the table or the record of a slide is changed."""

    def __init__(self, folder):
        made = folder / "cohort"
        made.mkdir()
        rng = np.random.default_rng(0)
        for name in ("a.tif", "b.tif"):
            data = rng.integers(0, 255, (32, 32, 3), np.uint8)
            tifffile.imwrite(made / name, data, photometric="rgb")
        self.table, self.job, self.kept = made / "slides.csv", made / "job", made / "kept"
        self.table.write_bytes(b"path,mpp,name\r\na.tif,0.5,one\r\nb.tif,,\r\n")
        self.go_on()
        shutil.copytree(self.job, self.kept)
        record = self.job / "one" / "one.json"
        places = [self.table] * 3 + [record]
        self.sound = [(place, place.read_bytes()) for place in places]

    def mutated(self, place, seed, data):
        """Return the bytes of a mutant."""
        return (mutated_csv if place == self.table else mutated_json)(seed, data)

    def look(self, place, label, data, well):
        """Go on with a run that was done before."""
        shutil.rmtree(self.job)
        shutil.copytree(self.kept, self.job)
        sound = self.table.read_bytes()
        place.write_bytes(data)
        try:
            self.go_on()
        finally:
            self.table.write_bytes(sound)

    def go_on(self):
        """Run over the slides of the table."""
        ds.run_cohort(self.table, job=self.job, steps={"mask": {"tile_size": 16}})


KINDS = {"tiff": Tiffs, "jpeg": Jpegs, "store": Stores, "cohort": Cohorts}


def fuzz(kind, folder, seeds, findings, told=lambda seed: None):
    """Try the mutants of `seeds`."""
    made = folder / f"{kind}-{seeds.start}"
    made.mkdir()
    target = KINDS[kind](made)
    for seed in seeds:
        place, data = target.sound[seed % len(target.sound)]
        mutant = target.mutated(place, seed, data)
        told(seed)
        well = seed // len(target.sound) % 8 == 0
        looked = functools.partial(target.look, place, seed, mutant, well)
        try_one(looked, findings, f"{kind}-{seed}", mutant)
        if findings.count >= KEPT:
            return


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
        fuzz(kind, Path(folder), range(start, start + step, step), Findings(out))  # imports
        limited()
        seeds = range(start + step, stop, step)
        fuzz(kind, Path(folder), seeds, Findings(out), lambda seed: done.write_text(str(seed)))
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
