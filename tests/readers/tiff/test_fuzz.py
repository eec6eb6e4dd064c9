"""A short run of the fuzzers with fixed seeds; `python tests/support/fuzz.py` is the long one."""

import json
import logging
import random
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
from mutate import Tiff, mutated_json, mutated_tiff

import dask_slides as ds

FOUND = {
    # 34,892 and 65,535 samples a pixel: minutes in the general path, chunk by chunk
    "many samples": ("tiff", 1001352),
    "many samples, LZMA": ("tiff", 1001915),
    # a level that tifffile finds no page for
    "level of nothing": ("tiff", 6005347),
    # a manifest that is a number, a list; scales that are no mappings; chunks of no tiles
    "manifest of a number": ("store", 17),
    "scale of a number": ("store", 26),
    "manifest of a float": ("store", 80),
    "manifest elsewhere": ("store", 104),
    "transformation of a number": ("store", 197),
    "shards of no tiles": ("store", 209),
    "mpp of a word": ("store", 302),
    "manifest without a path": ("store", 311),
    "manifest of a list": ("store", 347),
    # shards and bad tiles that are none; pixels of a mapping in micrometres
    "count of shards of a list": ("store", 134),
    "count of shards of a word": ("store", 680),
    "mpp of a mapping": ("store", 1958),
    "tiles of no size that can be": ("store", 4286),
    # headers of JPEG that libjpeg refuses: a symbol that no difference has, Se of a lossless scan
    "difference of more bits": ("jpeg", 40078),
    "lossless scan of coefficients": ("jpeg", 48491),
    # a record of a slide with other kinds of values; a path of two lines
    "record with a key of a number": ("cohort", 11),
    "record of an unhashable path": ("cohort", 59),
    "record with counts of a number": ("cohort", 111),
    "record with seconds of a word": ("cohort", 159),
    "path of two lines": ("cohort", 2040),
}
"""What long runs found, by the mutant that did."""


@pytest.fixture
def findings(tmp_path):
    logging.disable(logging.CRITICAL)
    yield fuzz.Findings(tmp_path / "findings")
    logging.disable(logging.NOTSET)


def told(findings):
    return [path.read_text() for path in findings.out.glob("*.txt")]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mutants_raise_errors_of_ours_or_are_read(tmp_path, findings, kind):
    count = {"tiff": 300, "jpeg": 300, "store": 60, "cohort": 200}[kind]
    fuzz.fuzz(kind, tmp_path, range(count), findings)
    assert not told(findings)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_before(tmp_path, findings, name):
    kind, seed = FOUND[name]
    fuzz.fuzz(kind, tmp_path, range(seed, seed + 1), findings)
    assert not told(findings)


def test_a_mutant_depends_on_its_seed_and_on_nothing_else(tmp_path):
    sound = fuzz.sound_tiffs(tmp_path)["jpeg"]
    mutants = [mutated_tiff(seed, sound) for seed in range(50)]
    random.seed(3)
    assert mutants == [mutated_tiff(seed, sound) for seed in range(50)]
    assert len(set(mutants)) > 40 and sound not in mutants[:10]


def test_the_mutator_knows_the_structure(tmp_path):
    for name, sound in fuzz.sound_tiffs(tmp_path).items():
        tiff = Tiff(sound)
        assert tiff.entries and tiff.tiles, name
        assert all(offset + count <= len(sound) for offset, count in tiff.tiles)
    document = json.dumps({"a": [1, {"b": 2}], "c": "d"}).encode()
    assert len({mutated_json(seed, document) for seed in range(40)}) > 20


def test_a_finding_is_kept(findings):
    def broken():
        raise ZeroDivisionError("not ours")

    fuzz.try_one(broken, findings, "broken", b"bytes")
    assert (findings.out / "broken.bin").read_bytes() == b"bytes"
    assert "not ours" in told(findings)[0]

    def ours():
        raise ds.errors.SlideFormatError("a.tif: what; cure")

    fuzz.try_one(ours, findings, "ours", b"")
    assert findings.count == 1


COVERED = """
import atheris, sys
sys.path.insert(0, {folder!r})
import fuzz_coverage
fuzz_coverage.main(["fuzz", {kind!r}, "-runs={runs}", "-seed=1", "-max_len=20000"])
"""


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_the_coverage_guided_fuzzer_runs(tmp_path, kind):
    pytest.importorskip("atheris")
    runs = 150
    code = COVERED.format(folder=str(Path(__file__).parents[2] / "support"), kind=kind, runs=runs)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr or f"Done {runs} runs" in done.stderr
