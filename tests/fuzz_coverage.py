"""Fuzzing that is led by the lines it reaches, with atheris (Python 3.11 and 3.12, Linux).

    python tests/fuzz_coverage.py CORPUS -max_total_time=600

CORPUS is a folder that keeps what reached something new; the options are those of libFuzzer.
Errors of ours are fine, everything else stops the run and leaves its input.
"""

import contextlib
import itertools
import logging
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dask_slides.readers", "dask_slides.slide"]):
    import dask_slides as ds
    from dask_slides import readers

import fuzz
from mutate import mutated_tiff

assert readers

_numbers = itertools.count()


def mutated(data, size, seed):
    """Mutate by structure where there is one, else, and now and then, byte by byte."""
    if random.Random(seed).random() < 0.7:
        with contextlib.suppress(Exception):  # what was mutated before may have none any more
            return mutated_tiff(seed, data)[:size]
    return atheris.Mutate(data, size)


def main(arguments):
    """Run libFuzzer."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shm) as name:
        folder = Path(name)
        seeds = folder / "seeds"
        seeds.mkdir()
        for number, data in enumerate(fuzz.sound_tiffs(folder).values()):
            (seeds / str(number)).write_bytes(data)

        def once(data):
            path = folder / f"{next(_numbers)}.tif"
            path.write_bytes(data)
            try:
                with contextlib.suppress(ds.SlideError):
                    fuzz.look(path, well=False)
            finally:
                path.unlink()

        limits = ["-timeout=60", "-rss_limit_mb=2048"]
        atheris.Setup([*arguments, *limits, str(seeds)], once, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
