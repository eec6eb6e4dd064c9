"""The list of slides of a run and the names of their folders."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dask_slides as ds
from dask_slides.cohort.names import names_for, safe_name, stem
from dask_slides.cohort.slide_list import SlideEntry, read_list
from dask_slides.readers import registry

WINDOWS = {"con", "prn", "aux", "nul", *(f"{a}{n}" for a in ("com", "lpt") for n in range(10))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "a/x.svs",
        "a/y.tif",
        "a/notes.txt",
        "a/.z.svs",
        "b/x.svs",
        "b/deep/w.ndpi",
        "c/[q].tif",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "a" / "s.ome.zarr").mkdir()
    return tmp_path


def listed(folder, *args):
    return [os.path.relpath(entry.path, folder) for entry in read_list(*args).entries]


@pytest.mark.parametrize(
    ("slides", "found"),
    [
        ("a/x.svs", ["a/x.svs"]),
        ("a", ["a/s.ome.zarr", "a/x.svs", "a/y.tif"]),
        ("a/*.svs", ["a/x.svs"]),
        ("**/*.svs", ["a/x.svs", "b/x.svs"]),
        (["b", "a/x.svs", "a/*.svs"], ["a/x.svs", "b/x.svs"]),
        ("a/s.ome.zarr", ["a/s.ome.zarr"]),
        ("b/*", ["b/x.svs"]),
        ("c/[q].tif", ["c/[q].tif"]),  # a file, so not a pattern
    ],
)
def test_paths_folders_and_patterns(folder, slides, found):
    assert listed(folder, slides) == found


def test_a_table_gives_mpp_and_names(folder):
    text = "path,mpp,name,more\nx.svs,0.5,first,?\n../b/x.svs,,,\n"
    (folder / "a" / "list.csv").write_text(text, encoding="utf-8-sig")
    first, second = read_list("a/list.csv", mpp=0.25).entries
    assert first == SlideEntry(str(folder / "a/x.svs"), 0.5, "first", columns={"more": "?"})
    assert second == SlideEntry(str(folder / "b/x.svs"), 0.25, None, columns={"more": ""})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("slide\nx.svs\n", ds.errors.SlideFormatError, "no column path"),
        ("path,mpp\nx.svs,far\n", ds.errors.SlideFormatError, "line 2.*'far'"),
        ("path,mpp\nx.svs,-1\n", ds.errors.SlideFormatError, "line 2.*'-1'"),
        ("path\n", ds.errors.SlideFormatError, "has no rows"),
        ("path,error\nx.svs,1\n", ds.errors.SlideArgumentError, "'error' is one of the process"),
        ("path,a,a\nx.svs,1,2\n", ds.errors.SlideArgumentError, "'a' is there twice"),
        ("path,a\nx.svs,1\nx.svs,2\n", ds.errors.SlideArgumentError, "listed twice"),
        ("path,mpp\n,1\n", ds.errors.SlideFormatError, "line 2.*no path"),
        (
            "path,name\nx.svs,../up\n",
            ds.errors.SlideArgumentError,
            "line 2.*not a valid folder name",
        ),
        ("path,name\nx.svs,A\ny.tif,a\n", ds.errors.SlideArgumentError, "in case only"),
        ("path,mpp\nx.svs,1\nx.svs,2\n", ds.errors.SlideArgumentError, "listed twice"),
        ("path\n\udcff\n", ds.errors.SlideFormatError, "UTF-8"),
    ],
)
def test_a_wrong_table_is_refused(folder, text, error, message):
    (folder / "list.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(error, match=message):
        read_list("list.csv")


@pytest.mark.parametrize("slides", ["none.svs", "none/*.svs", "none.csv", "b/deep/../empty"])
def test_paths_and_patterns_without_a_slide_are_refused(folder, slides):
    (folder / "b" / "empty").mkdir()
    with pytest.raises(ds.errors.SlideNotFoundError):
        read_list(slides)


def test_a_folder_of_dicom_files_is_one_slide(folder):
    (folder / "dicom").mkdir()
    for name in ("1.dcm", "2.dcm"):
        (folder / "dicom" / name).write_bytes(bytes(128) + b"DICM")
    assert listed(folder, "dicom") == ["dicom"]
    assert listed(folder, ".") == ["dicom"]


def test_slides_of_optional_readers_are_taken_if_these_are_installed(folder, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: True)
    (folder / "b" / "m.mrxs").touch()
    (folder / "b" / "m").mkdir()
    found = read_list("b")
    assert [os.path.basename(entry.path) for entry in found.entries] == ["m.mrxs", "x.svs"]
    assert not any("/m" in line for line in found.left_out)


def test_what_a_folder_leaves_out_is_named_with_the_reason(folder, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for name in ("m.mrxs", "n.MRXS", "o.jp2", "slide"):
        (folder / "b" / name).touch()
    found = read_list("b")
    assert [os.path.basename(entry.path) for entry in found.entries] == ["o.jp2", "x.svs"]
    lines = [line.removeprefix(f"{folder / 'b'}") for line in found.left_out]
    assert [line.split(";")[0] for line in lines] == [
        "/m.mrxs: is the preview of a MIRAX slide, whose pixels lie in the folder m next to it",
        "/n.MRXS: is the preview of a MIRAX slide, whose pixels lie in the folder n next to it",
        "/slide: does not have the suffix of a slide",
        ": 1 subfolder",
    ]
    assert "; pip install 'dask-slides[openslide]', or " in lines[0]
    assert read_list("b/*.mrxs").left_out == ()  # a pattern may name any file


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/x.svs", "x"),
        ("/a/x.ome.tif", "x"),
        ("/a/x.OME.zarr/", "x"),
        ("s3://bucket/k/x.y.svs", "x.y"),
        ("/a/noend", "noend"),
        ("/a/.svs", ".svs"),
    ],
)
def test_a_stem_is_the_file_name_without_suffix(path, expected):
    assert stem(path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slide 1_HE (2)", "slide 1_HE (2)"),
        ("Größe", "Größe"),
        ("../..", "_"),
        ("Com1.tissue", "_Com1.tissue"),
        ("a\nb\x00", "a_b_"),
        ("process_list.csv", "_process_list.csv"),
        ("", "slide"),
    ],
)
def test_safe_names(text, expected):
    assert safe_name(text) == expected


NAMES = st.text(
    st.one_of(st.sampled_from('aA.ß_ /\\:*?"<>|\0\n\u0301é'), st.characters()), max_size=150
)
PATHS = st.lists(
    st.builds("/{}/{}.svs".format, st.sampled_from("abc"), NAMES), unique=True, max_size=8
)


@given(NAMES)
def test_a_safe_name_is_a_valid_folder_on_every_system(text):
    name = safe_name(text)
    assert name and name not in (".", "..")
    assert not set(name) & set('/\\:*?"<>|\0')
    assert name.isprintable()
    assert len(name.encode()) <= 100
    assert name[0] != "." and name[-1] not in ". " and name[0] != " "
    assert name.split(".")[0].strip().lower() not in WINDOWS
    assert safe_name(name) == name


@given(PATHS, st.randoms())
def test_names_are_distinct_and_independent_of_the_order(paths, random):
    names = names_for(paths, {}, {})
    assert set(names) == set(paths)
    assert len({name.casefold() for name in names.values()}) == len(paths)
    assert all(safe_name(name) == name for name in names.values())
    shuffled = random.sample(paths, len(paths))
    assert names_for(shuffled, {}, {}) == names


def test_paths_that_are_no_unicode_have_names():
    names = names_for(["/a/'.svs", "/a/\ud800.svs", "/a/\udcff.svs"], {}, {})
    assert len(set(names.values())) == 3 and all(name.isascii() for name in names.values())


@given(PATHS, st.data())
def test_a_slide_keeps_its_name_when_others_are_added(paths, data):
    some = data.draw(st.lists(st.sampled_from(paths), unique=True)) if paths else []
    before = names_for(some, {}, {})
    after = names_for(paths, {}, before)
    assert {path: after[path] for path in some} == before
    assert len({name.casefold() for name in after.values()}) == len(paths)


def test_a_given_name_takes_precedence():
    names = names_for(["/a/x.svs", "/b/y.svs"], {"/b/y.svs": "x"}, {})
    assert names["/b/y.svs"] == "x"
    assert names["/a/x.svs"].startswith("x-")
