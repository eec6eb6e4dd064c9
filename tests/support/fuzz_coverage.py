"""Fuzzing that is led by the lines it reaches, with atheris (Linux).

    python tests/support/fuzz_coverage.py KIND CORPUS -max_total_time=600

KIND is one of those of `fuzz.py`: tiff, jpeg, store or cohort. CORPUS is a folder that keeps
what reached something new; the options are those of libFuzzer. Errors of ours are fine,
everything else stops the run and leaves its input.
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

with atheris.instrument_imports(include=["dask_slides"]):
    import dask_slides as ds
    from dask_slides import cohort, readers, writers
    from dask_slides.cli import main as command

import fuzz

assert command and cohort and readers and writers

_numbers = itertools.count()


class Inputs:
    """What libFuzzer changes: a byte that says which of the sound files it was, and its bytes."""

    def __init__(self, target):
        self.target = target

    def seeds(self):
        """Return what it begins with."""
        return [bytes([n]) + data for n, (_, data) in enumerate(self.target.sound)]

    def mutated(self, data, size, seed):
        """Mutate by structure where there is one, else, and now and then, byte by byte."""
        place, sound = self._parted(data)
        room = max(1, size - 1)
        if random.Random(seed).random() < 0.7:
            with contextlib.suppress(Exception):  # what was mutated before may have none any more
                return data[:1] + self.target.mutated(place, seed, sound)[:room]
        return data[:1] + atheris.Mutate(sound[:room], room)

    def __call__(self, data):
        """Look at one."""
        place, changed = self._parted(data)
        with contextlib.suppress(ds.SlideError):
            self.target.look(place, next(_numbers), changed, False)

    def _parted(self, data):
        number = data[0] if data else 0
        return self.target.sound[number % len(self.target.sound)][0], bytes(data[1:])


def main(arguments):
    """Run libFuzzer; the first of the arguments after the name of the program is the kind."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    program, kind, *rest = arguments
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shm) as name:
        made, seeds = Path(name) / kind, Path(name) / "seeds"
        made.mkdir()
        seeds.mkdir()
        inputs = Inputs(fuzz.KINDS[kind](made))
        for number, data in enumerate(inputs.seeds()):
            (seeds / str(number)).write_bytes(data)
        limits = ["-timeout=60", "-rss_limit_mb=2048"]
        atheris.Setup(
            [program, *rest, *limits, str(seeds)], inputs, custom_mutator=inputs.mutated
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
