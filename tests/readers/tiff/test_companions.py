"""Files beside an OME-TIFF: read on request, from the slide's own folder, like the slide itself."""

import json
import os
import pickle
import struct
import subprocess
import sys

import dask
import numpy as np
import pytest
import tifffile
from bad_tiles import spoil
from click.testing import CliRunner
from rw_fixtures import change_file, noise, one_line, patch_tag, segments
from split_files import (
    KINDS,
    NAMES,
    SHAPE,
    TILE,
    pixels_of,
    planes_of,
    split,
    uuid_of,
    write_plane,
    xml_of,
)

import dask_slides as ds
from dask_slides.cli.main import main
from dask_slides.writers.store.transaction import facts_of


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="sync"):
        yield


def opened(path, **options):
    return ds.open_slide(path, companions=True, **options)


def refused(path, kind, **options):
    with pytest.raises(ds.SlideError) as error:
        opened(path, **options)
    message = one_line(error)
    assert type(error.value) is kind, message
    assert str(path) in message
    return message


def without(name):
    """Return what is read of a slide none of whose companions is."""
    return planes_of()[NAMES.index(name)][..., None]


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [0, 2], ids=["flat", "pyramid"])
def test_pixels_are_those_of_all_files(tmp_path, kind, levels):
    path = split(tmp_path, kind, levels)
    slide = opened(path)
    assert slide.shape == (*SHAPE, 3)
    assert slide.mpp == 0.5
    assert len(slide.levels) == 1 + levels
    for level in range(1 + levels):
        expected = pixels_of(path, level)
        whole = slide.to_dask(level, chunks=50).compute()
        np.testing.assert_array_equal(whole, expected)
    lossy = kind.startswith("jpeg")
    stored = planes_of(kind).transpose(1, 2, 0)
    assert np.abs(pixels_of(path).astype(int) - stored).max() <= (16 if lossy else 0)
    np.testing.assert_array_equal(slide.read(33, 70, 90, 61), pixels_of(path)[33:123, 70:131])
    assert slide.bad_tiles() == ()


def test_any_of_the_files_may_be_the_slide(tmp_path):
    path = split(tmp_path)
    expected = pixels_of(path)
    for name in NAMES:
        np.testing.assert_array_equal(opened(tmp_path / name).data.compute(), expected)


def test_a_plane_of_nothing_but_a_companion(tmp_path):
    """One page in another file looks like a page that can be read straight."""
    planes = planes_of()
    for kind in ("deflate", "raw", "raw tiles"):
        folder = tmp_path / kind
        folder.mkdir()
        xml = xml_of([("b.ome.tif", uuid_of(1))], uuid_of(0))
        write_plane(folder / "a.ome.tif", planes[0], xml, **KINDS[kind])
        write_plane(folder / "b.ome.tif", planes[1], None, **KINDS[kind])
        slide = opened(folder / "a.ome.tif")
        np.testing.assert_array_equal(slide.data.compute(), planes[1][..., None])
        assert ds.resize(slide, downsample=4).data.compute().shape == (38, 50, 1)


def test_another_process_reads_them_too(tmp_path, processes):
    path = split(tmp_path)
    slide = pickle.loads(pickle.dumps(opened(path)))
    with processes.Pool(1) as pool:
        found = pool.apply(slide.read, (0, 0, *SHAPE))
    np.testing.assert_array_equal(found, pixels_of(path))


def test_more_slides_than_a_process_keeps_open(tmp_path):
    paths = []
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(split(folder, "deflate", 1))
    slides = [opened(path) for path in paths]
    expected = [pixels_of(paths[0], level) for level in (0, 1)]
    for _ in range(2):
        for slide in slides:
            for level in (1, 0):
                height, width = slide.levels[level].shape
                found = slide.read(0, 0, height, width, level=level)
                np.testing.assert_array_equal(found, expected[level])


# ---------------------------------------------------------------- not asked for


def test_unless_asked_for_none_is_read_and_the_slide_says_so(tmp_path):
    path = split(tmp_path)
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.data.compute(), without("a.ome.tif"))
    told = slide.properties["companions"]
    assert "b.ome.tif, c.ome.tif" in told and "companions=True" in told
    assert opened(path).properties["companions"] == "b.ome.tif, c.ome.tif"


def test_a_page_that_is_missing_tells_of_the_request(tmp_path):
    path = tmp_path / "a.ome.tif"
    xml = xml_of([("", ""), ("", "")], None).replace('<UUID FileName=""></UUID>', "")
    xml = xml.replace('FirstC="1" IFD="0"', 'FirstC="1" IFD="1"')
    write_plane(path, planes_of()[0], xml, **KINDS["deflate"])
    with pytest.raises(ds.errors.SlideFormatError, match="companions=True") as error:
        ds.open_slide(path)
    one_line(error)


def test_a_slide_of_one_file_is_the_same_with_the_request(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64), tile=(32, 32), compression="zlib")
    assert opened(path) == ds.open_slide(path)
    assert "companions" not in opened(path).properties


def test_what_the_request_does_not_go_with(tmp_path):
    path = split(tmp_path)
    with pytest.raises(ds.errors.SlideArgumentError, match="sha256"):
        opened(path, sha256="0" * 64)
    with pytest.raises(ds.errors.SlideUnsupportedError, match="this machine"):
        opened("https://127.0.0.1:1/a.ome.tif")


# ---------------------------------------------------------------- names


@pytest.fixture
def secret(tmp_path):
    """A plane in another folder."""
    folder = tmp_path / "outside"
    folder.mkdir()
    write_plane(folder / "secret.ome.tif", planes_of()[1], None, **KINDS["deflate"])
    return folder / "secret.ome.tif"


@pytest.fixture
def naming(tmp_path):
    """Return a function that writes a slide that names another file, and gives its path."""
    folder = tmp_path / "slides"
    folder.mkdir()

    def write(name, own=uuid_of(0)):
        files = [("a.ome.tif", uuid_of(0)), (name, uuid_of(1))]
        write_plane(folder / "a.ome.tif", planes_of()[0], xml_of(files, own), **KINDS["deflate"])
        return folder / "a.ome.tif"

    return write


WATCHED = """
import os, sys
found = []
sys.addaudithook(lambda event, args: found.append(args[0]) if event == "open" else None)
import dask_slides as ds
kind = "opened"
try:
    slide = ds.open_slide(sys.argv[1], companions=sys.argv[2] == "True")
    slide.read(0, 0, *slide.shape[:2])
except ds.SlideError as error:
    kind = type(error).__name__
print(kind)
for one in found:
    if isinstance(one, (str, bytes)):
        print(os.path.realpath(os.fsdecode(one)))
"""


def opened_files(path, companions):
    """Return how it ends in a process of its own, and every file that is opened meanwhile."""
    command = [sys.executable, "-c", WATCHED, str(path), str(companions)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind, *files = done.stdout.splitlines()
    return kind, files


OUTSIDE = {
    "above": "../outside/secret.ome.tif",
    "below": "sub/secret.ome.tif",
    "absolute": "{secret}",
    "link": "link.ome.tif",
    "link of a link": "second.ome.tif",
    "folder": "sub",
    "folder above": "..",
    "this folder": ".",
    "no name": "",
    "drive": "C:\\secret.ome.tif",
    "backslash": "..\\outside\\secret.ome.tif",
    "pipe": "pipe.ome.tif",
    "the slide in other letters": "A.OME.TIF",
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_name_that_leads_elsewhere_is_refused(naming, secret, case):
    name = OUTSIDE[case].format(secret=secret)
    # of a slide without a UUID tifffile takes the first one of its name for its own
    path = naming(name, None if case == "the slide in other letters" else uuid_of(0))
    folder = path.parent
    (folder / "sub").mkdir()
    os.symlink(secret, folder / "sub" / "secret.ome.tif")
    os.symlink(secret, folder / "link.ome.tif")
    os.symlink("link.ome.tif", folder / "second.ome.tif")
    os.symlink(secret, folder / "A.OME.TIF")
    os.mkfifo(folder / "pipe.ome.tif")
    message = refused(path, ds.errors.SlideFormatError)
    assert repr(name) in message
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(), without("a.ome.tif"))


@pytest.mark.parametrize("case", ["above", "absolute", "link", "the slide in other letters"])
@pytest.mark.parametrize("companions", [True, False], ids=["asked", "not asked"])
def test_no_file_outside_of_the_folder_is_opened(naming, secret, case, companions):
    own = None if case == "the slide in other letters" else uuid_of(0)
    path = naming(OUTSIDE[case].format(secret=secret), own)
    os.symlink(secret, path.parent / "link.ome.tif")
    os.symlink(secret, path.parent / "A.OME.TIF")
    kind, files = opened_files(path, companions)
    assert kind == ("SlideFormatError" if companions else "opened")
    assert str(path) in files
    assert str(secret) not in files


def test_the_watch_sees_what_tifffile_opens(tmp_path):
    path = split(tmp_path)
    for companions, names in ((True, NAMES), (False, NAMES[:1])):
        kind, files = opened_files(path, companions)
        assert kind == "opened"
        assert {os.path.basename(one) for one in files if one.endswith("ome.tif")} == set(names)


def test_a_companion_that_is_missing(naming):
    path = naming("b.ome.tif")
    message = refused(path, ds.errors.SlideNotFoundError)
    assert "'b.ome.tif'" in message and "beside" in message


def test_a_folder_that_is_a_link_is_the_folder(tmp_path):
    (tmp_path / "real").mkdir()
    path = split(tmp_path / "real")
    os.symlink("real", tmp_path / "link")
    found = opened(tmp_path / "link" / "a.ome.tif").data.compute()
    np.testing.assert_array_equal(found, pixels_of(path))


def test_the_folder_of_a_slide_that_is_a_link_is_that_of_the_slide(tmp_path, secret):
    for name in ("links", "real"):
        (tmp_path / name).mkdir()
    path = split(tmp_path / "real")
    expected = pixels_of(path)
    link = tmp_path / "links" / "a.ome.tif"
    os.symlink(path, link)
    np.testing.assert_array_equal(opened(link).data.compute(), expected)
    split(tmp_path / "links").unlink()
    os.symlink(path, link)
    (path.parent / "b.ome.tif").unlink()
    os.symlink(secret, path.parent / "b.ome.tif")  # that one would be opened
    assert "link" in refused(link, ds.errors.SlideFormatError)
    _, files = opened_files(link, True)
    assert str(path) in files and str(secret) not in files


def test_the_order_of_names_makes_no_file_the_slide(naming, secret):
    """Of a slide without a UUID, tifffile takes that by which it names itself, and no other."""
    path = naming("a.ome.tif", None)
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.pages[0].description
    first = f'FileName="a.ome.tif">{uuid_of(0)}'
    assert xml.count(first) == 1
    xml = xml.replace(first, f'FileName="../outside/secret.ome.tif">{uuid_of(1)}')
    write_plane(path, planes_of()[0], xml, **KINDS["deflate"])
    assert "secret" in refused(path, ds.errors.SlideFormatError)
    _, files = opened_files(path, True)
    assert str(path) in files and str(secret) not in files


def test_a_slide_that_was_renamed_knows_itself_by_its_uuid(tmp_path):
    path = split(tmp_path)
    expected = pixels_of(path)
    os.rename(path, tmp_path / "renamed.ome.tif")
    found = opened(tmp_path / "renamed.ome.tif")
    np.testing.assert_array_equal(found.data.compute(), expected)


def test_a_slide_that_names_itself_as_another_file(naming):
    path = naming("a.ome.tif")
    assert "'a.ome.tif'" in refused(path, ds.errors.SlideFormatError)


def test_metadata_in_another_file(tmp_path):
    path = tmp_path / "b.ome.tif"
    xml = '<OME><BinaryOnly MetadataFile="a.ome.tif" UUID="urn:uuid:0"/></OME>'
    write_plane(path, planes_of()[0], xml, **KINDS["deflate"])
    assert "metadata" in refused(path, ds.errors.SlideUnsupportedError)


# ---------------------------------------------------------------- structure


def test_a_companion_cut_short(tmp_path):
    path = split(tmp_path)
    beside = tmp_path / "b.ome.tif"
    offset, count = segments(beside)[-1]
    whole = beside.read_bytes()
    for size in (offset + count - 1, 200, 6):
        beside.write_bytes(whole[:size])
        assert "b.ome.tif" in refused(path, ds.errors.SlideTruncatedError)


def test_a_companion_that_is_no_tiff(tmp_path):
    path = split(tmp_path)
    (tmp_path / "b.ome.tif").write_bytes(b"# a diary\n" * 100)
    message = refused(path, ds.errors.SlideFormatError)
    assert "b.ome.tif" in message and "diary" not in message


def test_a_companion_whose_tables_contradict_each_other(tmp_path):
    path = split(tmp_path)
    patch_tag(tmp_path / "c.ome.tif", 324, [8] * 12)  # where the first directory lies
    assert "c.ome.tif" in refused(path, ds.errors.SlideFormatError)


def test_a_companion_with_a_doctype(tmp_path):
    path = split(tmp_path)
    xml = '<!DOCTYPE OME [<!ENTITY a SYSTEM "file:///etc/passwd">]><OME></OME>'
    write_plane(tmp_path / "b.ome.tif", planes_of()[1], xml, **KINDS["deflate"])
    message = refused(path, ds.errors.SlideFormatError)
    assert "b.ome.tif" in message and "DOCTYPE" in message


def test_limits_are_those_of_all_files(tmp_path):
    path = split(tmp_path, levels=1)
    opened(path, limits=ds.Limits(pages=6))
    message = refused(path, ds.errors.SlideLimitError, limits=ds.Limits(pages=5))
    assert "Limits(pages=" in message


@pytest.mark.parametrize(
    "others",
    [
        {"predictor": True},
        {"compression": "lzw"},
        {"tile": (32, 128)},
        {"photometric": "miniswhite"},
    ],
    ids=str,
)
def test_companions_that_are_stored_in_another_way(tmp_path, others):
    path = split(tmp_path, others=others)
    refused(path, ds.errors.SlideUnsupportedError)


def test_a_level_of_a_companion_that_is_stored_in_another_way(tmp_path):
    path = split(tmp_path, levels=1)
    planes = planes_of()
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tiff:
        xml = tiff.pages[0].description
    options = KINDS["deflate"] | {"photometric": "minisblack", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "b.ome.tif") as tiff:
        tiff.write(planes[1], description=xml, subifds=1, **options)
        tiff.write(planes[1][::2, ::2], subfiletype=1, predictor=True, **options)
    assert "level 1" in refused(path, ds.errors.SlideUnsupportedError)


CROWDED = """
import os, resource, sys
from contextlib import suppress
import dask_slides as ds
slide = ds.open_slide(sys.argv[1], companions=True)
slide.read(0, 0, 10, 10)  # what is loaded later is loaded now
ds.readers.tiff.file.opened.cache_clear()
del slide
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
taken = []
with suppress(OSError):
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
for one in taken[: int(sys.argv[2])]:
    os.close(one)
try:
    print(ds.open_slide(sys.argv[1], companions=True).shape)
except ds.errors.SlideUnsupportedError as error:
    print(error)
"""


def test_too_many_companions_to_be_open_at_a_time(tmp_path):
    path = split(tmp_path)
    for room, expected in ((3, "allow more open files"), (4, "(150, 200, 3)")):
        command = [sys.executable, "-c", CROWDED, str(path), str(room)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert expected in done.stdout, done.stderr


# ---------------------------------------------------------------- damage


def tile_mask(numbers):
    """Return which pixels lie in the tiles `numbers`."""
    mask = np.zeros(SHAPE, bool)
    for number in numbers:
        row, column = divmod(number, -(-SHAPE[1] // TILE))
        mask[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = True
    return mask


@pytest.mark.parametrize("mode", ["raise", "mask"])
def test_an_absent_tile_of_a_companion(tmp_path, mode):
    path = split(tmp_path)
    expected = pixels_of(path)
    spoil(tmp_path / "b.ome.tif", absent=[4])
    expected[tile_mask([4]), 1] = 7  # the other files hold theirs
    slide = opened(path, on_bad_tile=mode, fill=7)
    np.testing.assert_array_equal(slide.data.compute(), expected)
    (tile,) = slide.bad_tiles()
    assert (tile.y, tile.x, tile.status) == (TILE, 0, "absent")
    cells = ds.blank_map(slide, tile_size=TILE).compute()
    assert cells.unknown[1, 0] and cells.unknown.sum() == 1


@pytest.mark.parametrize("kind", ["deflate", "jpeg"])
def test_a_corrupt_tile_of_a_companion(tmp_path, kind):
    path = split(tmp_path, kind)
    expected = pixels_of(path)
    spoil(tmp_path / "c.ome.tif", corrupt=[5])
    with pytest.raises(ds.errors.TileDecodeError) as error:
        opened(path).data.compute()
    assert one_line(error).startswith(f"{path}: companion c.ome.tif: level 0, rows 64 to 128")
    assert (error.value.y, error.value.x, error.value.offset) == (TILE, TILE, None)
    expected[tile_mask([5])] = 0
    slide = opened(path, on_bad_tile="mask")
    np.testing.assert_array_equal(slide.data.compute(), expected)
    (tile,) = slide.bad_tiles()
    assert (tile.y, tile.x, tile.status, tile.offset) == (TILE, TILE, "corrupt", None)
    checked = ds.check_slide(opened(path))
    assert checked.statuses == {"ok": 11, "absent": 0, "corrupt": 1}


@pytest.mark.parametrize("name", NAMES)
def test_a_corrupt_tile_of_a_lower_level_is_told_with_its_file(tmp_path, name):
    path = split(tmp_path, levels=1)
    with tifffile.TiffFile(tmp_path / name) as tiff:
        page = tiff.pages[0].pages[0]
        offset, count = page.dataoffsets[3], page.databytecounts[3]
    with open(tmp_path / name, "r+b") as file:
        file.seek(offset)
        file.write(b"\x01" * count)
    slide = opened(path)
    np.testing.assert_array_equal(slide.data.compute(), pixels_of(path))
    with pytest.raises(ds.errors.TileDecodeError) as error:
        slide.to_dask(1).compute()
    told = str(path) if name == path.name else f"{path}: companion {name}"
    assert one_line(error).startswith(f"{told}: level 1, rows 64 to 75, columns 64 to 100 ")


def test_a_corrupt_tile_of_a_slide_that_is_one_companion(tmp_path):
    xml = xml_of([("b.ome.tif", uuid_of(1))], uuid_of(0))
    write_plane(tmp_path / "a.ome.tif", planes_of()[0], xml, **KINDS["deflate"])
    write_plane(tmp_path / "b.ome.tif", planes_of()[1], None, **KINDS["deflate"])
    spoil(tmp_path / "b.ome.tif", corrupt=[0])
    with pytest.raises(ds.errors.TileDecodeError, match="companion b") as error:
        opened(tmp_path / "a.ome.tif").data.compute()
    assert "b.ome.tif: level 0, rows 0 to 64" in one_line(error)


def test_a_jpeg_tile_of_a_companion_that_ends_early_is_not_grey(tmp_path):
    path = split(tmp_path, "jpeg")
    offset, count = segments(tmp_path / "b.ome.tif")[7]
    with open(tmp_path / "b.ome.tif", "r+b") as file:
        file.seek(offset + count // 2)
        file.write(bytes(count - count // 2 - 2))  # libjpeg warns, and decodes
    with pytest.raises(ds.errors.TileDecodeError):
        opened(path).data.compute()


# ---------------------------------------------------------------- change


@pytest.mark.parametrize("before", [True, False], ids=["read before", "not read before"])
@pytest.mark.parametrize("change", ["time", "size", "gone"])
def test_a_companion_that_changed(tmp_path, before, change):
    path = split(tmp_path)
    beside = tmp_path / "c.ome.tif"
    slide = opened(path)
    if before:
        slide.read(0, 0, 10, 10)
    change_file(beside, change)
    kind = ds.errors.SlideNotFoundError if change == "gone" else ds.errors.SlideChangedError
    with pytest.raises(kind) as error:
        slide.data.compute()
    assert str(beside) in one_line(error)


def test_a_companion_that_became_a_link_is_not_followed(naming, secret):
    path = naming("b.ome.tif")
    beside = path.parent / "b.ome.tif"
    beside.write_bytes(secret.read_bytes())
    status = beside.stat()
    slide = opened(path)
    os.utime(secret, ns=(status.st_atime_ns, status.st_mtime_ns))
    beside.unlink()
    os.symlink(secret, beside)
    with pytest.raises(ds.errors.SlideFormatError, match="link"):
        slide.read(0, 0, 10, 10)


def test_graphs_and_stores_are_of_these_companions(tmp_path):
    path = split(tmp_path)
    beside = tmp_path / "c.ome.tif"
    first, alone = opened(path), ds.open_slide(path)
    again = opened(path)
    assert first == again and first.data.name == again.data.name
    os.utime(beside, ns=(0, beside.stat().st_mtime_ns + 1_000_000))
    changed = opened(path)
    assert changed.data.name != first.data.name
    assert facts_of(changed.source, "slide") != facts_of(first.source, "slide")
    assert alone == ds.open_slide(path)


def test_a_write_goes_on_only_of_the_same_companions(tmp_path):
    path = split(tmp_path)
    beside = tmp_path / "b.ome.tif"
    whole = beside.read_bytes()
    out = tmp_path / "out.ome.zarr"
    spoil(beside, corrupt=[11])
    with pytest.raises(ds.errors.TileDecodeError):
        ds.write(opened(path), out, resume=True)
    beside.write_bytes(whole)
    os.utime(beside, ns=(0, 1))
    with pytest.raises(ds.errors.ResumeError, match="companions"):
        ds.write(opened(path), out, resume=True)
    ds.write(opened(path), out)
    found = ds.open_slide(out)
    np.testing.assert_array_equal(found.data.compute(), pixels_of(path))


# ---------------------------------------------------------------- command line


def test_the_command_line_asks_for_them(tmp_path):
    path = split(tmp_path)
    run = CliRunner().invoke
    told = run(main, ["info", str(path), "--companions", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["shape"] == [*SHAPE, 3]
    told = run(main, ["info", str(path)])
    assert "150 x 200 x 1" in told.output and "b.ome.tif, c.ome.tif: not read" in told.output
    out = str(tmp_path / "out.ome.zarr")
    done = run(main, ["resize", str(path), out, "--downsample", "2", "--companions", "-q"])
    assert done.exit_code == 0, done.output
    expected = ds.resize(opened(path), downsample=2).data.compute()
    np.testing.assert_array_equal(ds.open_slide(out).data.compute(), expected)


# ---------------------------------------------------------------- Micro-Manager


def ndtiff(path, plane):
    """Write a TIFF that says of itself that an index in its folder names its planes."""
    summary = b"{}"
    head = struct.pack("<IIII", 483729, 2, 2355492, len(summary)) + summary
    first = 8 + len(head)
    text = b"{}".ljust(16)
    height, width = plane.shape
    data = first + 2 + 11 * 12 + 4
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 8), (259, 3, 1, 1),
               (262, 3, 1, 1), (273, 4, 1, data), (277, 3, 1, 1), (278, 3, 1, height),
               (279, 4, 1, plane.nbytes), (339, 3, 1, 1),
               (51123, 2, len(text), data + plane.nbytes)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *entry) for entry in entries
    )
    header = struct.pack("<2sHI", b"II", 42, first)
    path.write_bytes(header + head + directory + bytes(4) + plane.tobytes() + text)


@pytest.mark.parametrize("companions", [True, False], ids=["asked", "not asked"])
def test_an_index_in_the_folder_is_not_followed(tmp_path, companions):
    folder = tmp_path / "slides"
    folder.mkdir()
    plane = noise(32, 48)
    path = folder / "a.tif"
    ndtiff(path, plane)
    tifffile.imwrite(tmp_path / "secret.tif", noise(32, 48, seed=1), photometric="minisblack")
    axes, name = json.dumps({"channel": 0}).encode(), b"../secret.tif"
    (folder / "NDTiff.index").write_bytes(
        struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name
        + struct.pack("<IiiiiIii", 8, 48, 32, 0, 0, 0, 0, 0)
    )  # fmt: skip
    with tifffile.TiffFile(path, _multifile=False) as tiff:  # tifffile does follow it
        assert tiff.is_ndtiff
        assert tiff.series[0].keyframe.parent.filename == "secret.tif"
    np.testing.assert_array_equal(
        ds.open_slide(path, companions=companions).data.compute(), plane[..., None]
    )
    _, files = opened_files(path, companions)
    assert str(path) in files
    assert not [one for one in files if one.endswith(("secret.tif", "NDTiff.index"))]
