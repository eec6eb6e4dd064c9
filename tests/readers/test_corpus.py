"""The corpus harness of benchmarks/ distinguishes all kinds of failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # at the end: the installed package is the one that is tested

from benchmarks.extra.corpus import Ours, comparison, images_in, judged  # noqa: E402
from benchmarks.extra.pictures import Picture, compared  # noqa: E402

FAKES = """
import json, os, signal, sys
from benchmarks.extra.corpus import alone, examine

def sound(tell): return 7
def killed(tell): tell("read"); os.kill(os.getpid(), signal.SIGSEGV)
def endless(tell):
    tell("resize")
    while True: pass
def asleep(tell): tell("info"); signal.pause()
def raising(tell): raise KeyError("width")
def greedy(tell): return len(bytes(2**31))

found = {f.__name__: alone(f, 1, 2**28) for f in (sound, killed, endless, asleep, raising, greedy)}
for path in sys.argv[1:]:
    found[os.path.basename(path)] = examine(path, 60, 2**31, ["Pillow"])["verdict"]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """Return the endings of processes of each kind, and the verdicts on two files."""
    folder = tmp_path_factory.mktemp("corpus")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "right.tif")
    (folder / "refused.tif").write_bytes(b"II*\0" + bytes(60))
    done = subprocess.run(
        [sys.executable, "-c", FAKES, str(folder / "right.tif"), str(folder / "refused.tif")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("fake", "ended", "word"),
    [
        ("sound", "done", 7),
        ("killed", "crash", "read: SIGSEGV"),
        ("endless", "hang", "resize"),
        ("asleep", "hang", "info"),
        ("raising", "bare error", "KeyError: 'width'"),
        ("greedy", "bare error", "MemoryError: "),
    ],
)
def test_the_ending_of_a_subprocess_is_reported(endings, fake, ended, word):
    assert endings[fake] == [ended, word]
    if ended != "done":
        assert judged(ended, word, {}) == (ended, word)


def test_files_are_right_or_refused(endings):
    assert endings["right.tif"] == "right"
    assert endings["refused.tif"] == "refused"


def _ours(operation="read", kind="TileDecodeError", message="x.tif: tile 3 is damaged", ours=True):
    return Ours(shape=(4, 4, 3), errors=[(operation, kind, message, ours)])


READ = Ours(shape=(4, 4, 3))


@pytest.mark.parametrize(
    ("verdict", "ours", "words"),
    [
        ("right", READ, {"libvips": "equal", "Pillow": "3 channels and not 4"}),
        ("right", READ, {"libvips": "cannot: no", "GDAL": "abstains: no", "Pillow": "equal"}),
        ("alone", READ, {"libvips": "cannot: no"}),
        ("wrong", READ, {"libvips": "3 channels and not 4"}),
        ("wrong", READ, {"GDAL": "3 channels and not 4", "tifffile": "equal"}),
        ("disputed", READ, {"GDAL": "3 channels and not 4", "Pillow": "equal"}),
        ("large", Ours(shape=(1, 1, 1), large=True), {}),
        ("refused", _ours(), {"libvips": "cannot: damaged", "GDAL": "cannot: damaged"}),
        ("refused", _ours("open", "SlideUnsupportedError"), {}),
        ("false alarm", _ours(), {"libvips": "read"}),
        ("false alarm", _ours("open", "SlideFormatError"), {"libvips": "read"}),
        ("disputed", _ours(), {"libvips": "cannot: damaged", "GDAL": "read"}),
        ("bare error", _ours("resize", "KeyError", "'width'", False), {"libvips": "equal"}),
        ("bad reason", _ours(message="two\nlines"), {}),
        ("bad reason", _ours(message="cannot be opened (<class 'int'>)"), {}),
        ("inconsistent", _ours("blank_map"), {"libvips": "equal"}),
        ("inconsistent", _ours("compute", "unequal"), {"libvips": "equal"}),
    ],
)
def test_verdicts(verdict, ours, words):
    assert judged("done", ours, words)[0] == verdict


def test_pixels_are_compared_with_another_reader(tmp_path):
    """Pillow compares a file with our pixels: equal, one sample off, or transposed."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    path = str(tmp_path / "image.png")
    Image.fromarray(pixels).save(path)

    def verdict(ours):
        saved = str(tmp_path / "ours.npz")
        np.savez(saved, ours=ours, skip=np.zeros(ours.shape[:2], bool), fill=np.asarray(255))
        return comparison("Pillow", path, saved)

    assert verdict(pixels) == "equal"
    off = pixels.copy()
    off[7, 3, 1] ^= 1
    assert verdict(off).startswith("0.1% differ, at (7, 3, 1)")
    assert verdict(pixels.transpose(1, 0, 2)) == "20 x 30 px and not 30 x 20"
    assert comparison("Pillow", path, None) == "read"
    Path(path).write_bytes(b"nothing")
    assert verdict(pixels).startswith("cannot: ")


def test_alpha_is_composited_and_lossy_pixels_may_be_near():
    pixels = np.full((16, 16, 3), 100, np.uint8)
    clear = np.zeros((16, 16), bool)
    half = Picture(pixels, np.full((16, 16), 0.5), composited=True)
    assert compared(np.full_like(pixels, 178), clear, half, 255, near=0) == "equal"
    assert compared(np.full_like(pixels, 150), clear, half, 255, near=0) != "equal"
    unknown = Picture(pixels, np.full((16, 16), np.nan))
    assert compared(np.zeros_like(pixels), clear, unknown, 255, near=0) == "equal"
    skipped = ~clear  # absent tiles, which other readers fill differently
    assert compared(np.zeros_like(pixels), skipped, Picture(pixels), 255, near=0) == "equal"
    chroma = pixels.copy()
    chroma[::2, :, 0] += 40
    chroma[1::2, :, 0] -= 40
    assert compared(chroma, clear, Picture(pixels), 255, near=2) == "equal"
    assert compared(chroma, clear, Picture(pixels), 255, near=0) != "equal"
    assert compared(pixels + 20, clear, Picture(pixels), 255, near=2) != "equal"
    assert compared(pixels + 1, clear, Picture(pixels), 255, near=1) == "equal"
    assert compared(pixels + 2, clear, Picture(pixels), 255, near=1) != "equal"


def test_images_are_found_by_suffix_or_first_bytes(tmp_path):
    (tmp_path / "store.zarr").mkdir()
    for name, data in {
        "a.txt": b"text", "b.TIF": b"", "c": b"\x89PNG\r\n\x1a\n", "store.zarr/d.png": b"",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    assert [Path(path).name for path in images_in([str(tmp_path)])] == ["b.TIF", "c"]
