"""Damaged files give the right pixels or an error that names the damage, never wrong pixels."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import damage
import numpy as np
import pytest
import tifffile
from rw_fixtures import one_line

import dask_slides as ds

CASES = damage.cases()


@pytest.fixture(scope="module")
def undamaged():
    """Return the pixels of each undamaged file, as tifffile decodes them."""
    return {
        codec: tifffile.imread(io.BytesIO(damage.sound(codec, False))) for codec in damage.CODECS
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def read(path, **options):
    return ds.open_slide(path, **options).read(0, 0, damage.SIDE, damage.SIDE)


def test_there_are_400_cases():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 400
    assert len(damage.KINDS) >= 40
    assert {case.big for case in CASES} == {False, True}


@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("codec", damage.CODECS)
def test_undamaged_files_are_read(tmp_path, undamaged, codec, big):
    path = tmp_path / "a.tif"
    path.write_bytes(damage.sound(codec, big))
    case = damage.Case("empty", codec, big, None)
    np.testing.assert_array_equal(read(path, sha256=case.checksum()), undamaged[codec])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_damage(folder, undamaged, case):
    path = folder / f"{case.name}.tif"
    path.write_bytes(case.data())
    right = undamaged[case.codec]
    if case.outcome in ("right", "fill"):
        expected = right.copy()
        if case.outcome == "fill":
            row, column = (n * damage.TILE for n in divmod(case.tile, 3))
            expected[row : row + damage.TILE, column : column + damage.TILE] = 255
        np.testing.assert_array_equal(read(path), expected)
        return
    if case.outcome == "hash":
        with pytest.raises(ds.errors.SlideChangedError, match="SHA-256") as error:
            read(path, sha256=case.checksum())
        one_line(error)
        return
    name, words = case.outcome.split(": ")
    with pytest.raises(ds.SlideError) as error:
        read(path)
    assert type(error.value).__name__ == name
    message = one_line(error)
    assert words in message and str(path) in message
    copy = pickle.loads(pickle.dumps(error.value))
    assert (type(copy), str(copy)) == (type(error.value), message)
    if name == "TileDecodeError" and case.tile is not None:
        position = tuple(n * damage.TILE for n in divmod(case.tile, 3))
        assert (error.value.y, error.value.x) == position
        # other tiles can still be read
        other = ds.open_slide(path).read(0, 64, 32, 32)
        np.testing.assert_array_equal(other, right[:32, 64:96])


def test_an_error_has_the_position_of_the_tile(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(damage.Case("zeros", "jpeg", False, "middle").data())
    with pytest.raises(ds.errors.TileDecodeError) as error:
        ds.open_slide(path).read(32, 40, 20, 10)
    found = pickle.loads(pickle.dumps(error.value))
    assert (found.level, found.y, found.x) == (0, 32, 32)  # the tile, not the region that was read
    with tifffile.TiffFile(path) as tiff:
        assert found.offset == tiff.pages[0].dataoffsets[4]


LIMITED = """
import resource, sys
import numpy as np
import dask_slides as ds
from pathlib import Path
sound, *bombs = sys.argv[1:]
ds.open_slide(sound).read(0, 0, 96, 96)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
for path in bombs:
    try:
        ds.open_slide(path).read(0, 0, 96, 96)
    except ds.SlideError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("codec", [name for name in damage.CODECS if name != "raw"])
def test_a_bomb_does_not_fill_the_memory(tmp_path, codec):
    cases = [damage.Case("bomb", codec, False, "middle"), damage.Case("bomb", codec, True, "first"),
             damage.Case("tile huge", codec, False, None),
             damage.Case("sides huge", codec, False, None)]  # fmt: skip
    sound = tmp_path / "sound.tif"
    sound.write_bytes(damage.sound(codec, False))
    paths = [tmp_path / f"{number}.tif" for number in range(len(cases))]
    for path, case in zip(paths, cases, strict=True):
        path.write_bytes(case.data())
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(sound), *map(str, paths)],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1] / "support",
    )  # fmt: skip
    expected = ["TileDecodeError"] * 2 + ["SlideLimitError"] * 2
    assert done.stdout.split() == expected, done.stderr
