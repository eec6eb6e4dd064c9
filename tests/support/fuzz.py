"""Open and read mutants of small files, which may raise only errors of dask_slides.

    python tests/support/fuzz.py --kind tiff --executions 100000

Each finding is written to the folder of `--out`: the file and the traceback.
"""

import argparse
import contextlib
import logging
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import tifffile
from click.testing import CliRunner
from mutate import mutated_json, mutated_tiff

import dask_slides as ds
from dask_slides.cli import main as command


def small_tiffs(folder):
    """Return the bytes of small TIFFs with all supported layouts and codecs."""
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
    """The mutants that raised other errors than those of dask_slides."""

    def __init__(self, out):
        self.out = out
        self.count = 0
        out.mkdir(parents=True, exist_ok=True)

    def add(self, name, data):
        self.count += 1
        (self.out / f"{name}.bin").write_bytes(data)
        (self.out / f"{name}.txt").write_text(traceback.format_exc())
        print(f"FOUND {name}: {traceback.format_exc().splitlines()[-1]}", file=sys.stderr)


def try_one(read, findings, name, data):
    """Call `read`; any error except a SlideError of one line is a finding."""
    try:
        read()
    except ds.SlideError as error:
        if "\n" in str(error):
            findings.add(name, data)
    except Exception:
        findings.add(name, data)


class Tiffs:
    """TIFFs with changed entries, tables, tiles or bytes."""

    mutated = staticmethod(mutated_tiff)

    def __init__(self, folder):
        self.folder = folder
        self.files = list(small_tiffs(folder).items())

    def read(self, name, label, data, in_full):
        """Open the image and read a little of it; with `in_full` also resize it."""
        # each mutant needs its own name, as open files are identified by name, size and time
        path = self.folder / f"mutant-{label}{'.svs' if name == 'aperio' else '.tif'}"
        path.write_bytes(data)
        try:
            read_image(path, in_full)
        finally:
            path.unlink()


def read_image(path, in_full=True):
    """Open the image at `path` and read a little of it; with `in_full` also resize it."""
    slide = ds.open_slide(path)
    height, width = slide.shape[:2]
    slide.read(0, 0, min(height, 40), min(width, 40))
    slide.read(height - 1, width - 1, 1, 1)
    if in_full and height * width < 2**20:
        ds.resize(slide, max_size=7).data.compute(scheduler="sync")
        slide._repr_html_()


class Stores:
    """Stores with one changed JSON file."""

    mutated = staticmethod(mutated_json)

    def __init__(self, folder):
        self.folder = folder
        written = folder / "stores"
        written.mkdir()
        path = written / "a.tif"
        rng = np.random.default_rng(0)
        tifffile.imwrite(path, rng.integers(0, 255, (64, 64, 3), np.uint8), photometric="rgb")
        pack, image = written / "a.tiles.zarr", written / "a.ome.zarr"
        ds.write(ds.pack_tiles(path, tile_size=16, detector=ds.Contrast(0.35)), pack)
        ds.write(ds.open_slide(path), image)
        self.files = [
            ((store, file), file.read_bytes())
            for store in (pack, image)
            for file in sorted(store.rglob("*.json"))
            if file.name in ("zarr.json", "manifest.json")
        ]

    def read(self, place, label, data, in_full):
        """Verify a copy of the store, print its facts, and open it."""
        store, file = place
        # each mutant needs its own name, as cached stores are identified by their path
        copy = self.folder / f"{label}-{store.name}"
        shutil.copytree(store, copy)
        (copy / file.relative_to(store)).write_bytes(data)
        try:
            self._read(copy)
        finally:
            shutil.rmtree(copy)

    def _read(self, path):
        with contextlib.suppress(ds.SlideError):
            ds.verify(path)
        result = CliRunner().invoke(command, ["info", str(path)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if path.name.endswith(".tiles.zarr"):
            pack = ds.open_pack(path)
            pack._repr_html_()
            if len(pack):
                pack.tiles[:2].compute(scheduler="sync")
        else:
            read_image(path)


KINDS = {"tiff": Tiffs, "store": Stores}


def fuzz(kind, folder, seeds, findings):
    """Try the mutants of `seeds`."""
    own = folder / f"{kind}-{seeds.start}"
    own.mkdir()
    target = KINDS[kind](own)
    for seed in seeds:
        name, data = target.files[seed % len(target.files)]
        mutant = target.mutated(seed, data)
        in_full = seed // len(target.files) % 8 == 0
        try_one(
            lambda name=name, seed=seed, mutant=mutant, full=in_full: target.read(
                name, seed, mutant, full
            ),
            findings,
            f"{kind}-{seed}",
            mutant,
        )


def main():
    """Try mutants; exit with 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="tiff")
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first mutant")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    findings = Findings(given.out)
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(given.first, given.first + given.executions)
        fuzz(given.kind, Path(folder), seeds, findings)
    print(f"{given.executions:,} {given.kind} mutants, {findings.count} findings")
    return 1 if findings.count else 0


if __name__ == "__main__":
    sys.exit(main())
