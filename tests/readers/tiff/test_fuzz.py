"""Run the fuzzer briefly with fixed seeds; `python tests/support/fuzz.py` runs longer."""

import json
import logging

import fuzz
import pytest
from mutate import Tiff, mutated_json

import dask_slides as ds

FOUND = {
    # 34,892 and 65,535 samples per pixel take minutes in the general path, chunk by chunk
    "many samples": ("tiff", 1001352),
    "many samples, LZMA": ("tiff", 1001915),
    "a level without a page": ("tiff", 6005347),
    "manifest of a number": ("store", 17),
    "scale of a number": ("store", 26),
    "manifest elsewhere": ("store", 104),
    "transformation of a number": ("store", 197),
    "shards of no tiles": ("store", 209),
    "mpp of a word": ("store", 302),
    "manifest without a path": ("store", 311),
    "manifest of a list": ("store", 347),
    "count of shards of a list": ("store", 134),
    "count of shards of a word": ("store", 680),
    "mpp of a mapping": ("store", 1958),
    "tiles of an impossible size": ("store", 4286),
}
"""Mutants that once raised errors of other packages."""


@pytest.fixture
def findings(tmp_path):
    logging.disable(logging.CRITICAL)
    yield fuzz.Findings(tmp_path / "findings")
    logging.disable(logging.NOTSET)


def tracebacks(findings):
    return [path.read_text() for path in findings.out.glob("*.txt")]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mutants_are_read_or_raise_errors_of_dask_slides(tmp_path, findings, kind):
    fuzz.fuzz(kind, tmp_path, range({"tiff": 300, "store": 60}[kind]), findings)
    assert not tracebacks(findings)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FOUND)
def test_mutants_found_before(tmp_path, findings, name):
    kind, seed = FOUND[name]
    fuzz.fuzz(kind, tmp_path, range(seed, seed + 1), findings)
    assert not tracebacks(findings)


def test_the_mutator_finds_the_structure(tmp_path):
    for name, data in fuzz.small_tiffs(tmp_path).items():
        tiff = Tiff(data)
        assert tiff.entries and tiff.tiles, name
        assert all(offset + count <= len(data) for offset, count in tiff.tiles)
    document = json.dumps({"a": [1, {"b": 2}], "c": "d"}).encode()
    assert len({mutated_json(seed, document) for seed in range(40)}) > 20


def test_only_errors_of_other_packages_are_findings(findings):
    def broken():
        raise ZeroDivisionError("not ours")

    def ours():
        raise ds.errors.SlideFormatError("a.tif: what; cure")

    fuzz.try_one(broken, findings, "broken", b"bytes")
    fuzz.try_one(ours, findings, "ours", b"")
    assert (findings.out / "broken.bin").read_bytes() == b"bytes"
    assert "not ours" in tracebacks(findings)[0]
    assert findings.count == 1
