"""Tables of slides as CSV, Parquet and data frames."""

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import dask_slides as ds
from dask_slides.cohort.slide_list import SlideEntry, read_list

COLUMNS = {
    "path": ["b.svs", "s3://bucket/a.svs", "sub/c.svs"],
    "mpp": [0.5, None, 0.25],
    "name": ["first", None, None],
    "label": ["tumour", "normal", None],
    "fold": [0, 1, 2],
    "seen": [True, False, True],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected(folder):
    """Return the entries of `COLUMNS`, with their types."""
    rows = zip(COLUMNS["label"], COLUMNS["fold"], COLUMNS["seen"], strict=True)
    first, second, third = (dict(zip(("label", "fold", "seen"), row, strict=True)) for row in rows)
    return (
        SlideEntry(str(folder / "b.svs"), 0.5, "first", columns=first),
        SlideEntry(str(folder / "sub/c.svs"), 0.25, columns=third),
        SlideEntry("s3://bucket/a.svs", columns=second),
    )


def test_a_data_frame_and_parquet_keep_the_types_of_their_values(folder):
    assert read_list(pd.DataFrame(COLUMNS)).entries == expected(folder)
    parquet.write_table(pa.table(COLUMNS), "list.parquet")
    assert read_list("list.parquet").entries == expected(folder)


def test_csv_keeps_texts_as_they_are(folder):
    pd.DataFrame(COLUMNS | {"fold": ["007", "1", "2"]}).to_csv("list.csv")
    found = read_list("list.csv").entries
    assert [entry.path for entry in found] == [entry.path for entry in expected(folder)]
    assert [entry.mpp for entry in found] == [0.5, 0.25, None]
    assert found[0].columns == {"label": "tumour", "fold": "007", "seen": "True"}
    assert found[1].columns["label"] == ""


def test_what_is_no_path_and_no_table_is_refused():
    for slides in ([3], pa.table({"path": ["a.svs"]})):
        with pytest.raises(ds.errors.SlideArgumentError, match="neither a path nor a DataFrame"):
            read_list(slides)


def test_a_column_that_is_there_twice_is_refused():
    frame = pd.DataFrame([["a.svs", 1, 2]], columns=["path", "label", "label"])
    with pytest.raises(ds.errors.SlideArgumentError, match="the column 'label' is there"):
        read_list(frame)


def test_values_of_other_types_become_text_or_none(folder):
    frame = pd.DataFrame({"path": ["a.svs"], "date": [pd.Timestamp("2026-01-02")], "gone": [pd.NA]})
    assert read_list(frame).entries[0].columns == {"date": "2026-01-02 00:00:00", "gone": None}


def test_rows_without_a_path_are_left_out_and_empty_ones_are_ignored(folder):
    (folder / "list.csv").write_text("path,label\na.svs,1\n,2\n,\nb.svs,3,more\n")
    found = read_list("list.csv")
    assert [entry.columns["label"] for entry in found.entries] == ["1", "3"]
    assert found.left_out == ("list.csv, line 3: has no path; give one or remove it",)


def test_a_process_list_is_a_table_with_the_columns_before_its_status(folder):
    header = "name,path,mpp,label,status,mask_tiles,seconds,error,message"
    (folder / "list.csv").write_text(f"{header}\nx,a.svs,0.5,1,done,4,1.5,,\n")
    entry = SlideEntry(str(folder / "a.svs"), 0.5, "x", columns={"label": "1"})
    assert read_list("list.csv").entries == (entry,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pd.DataFrame({"slide": ["a.svs"]}), "the table: has no column path.*it has slide"),
        (lambda: pd.DataFrame({"path": [None]}), "the table: has no rows"),
        (lambda: pd.DataFrame({"path": ["a", "b"], "mpp": [1, "x"]}), "the table, row 2: mpp 'x'"),
        (lambda: "bad.parquet", "bad.parquet: is not a Parquet table"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(folder, make, message):
    (folder / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(ds.errors.SlideFormatError, match=message) as caught:
        read_list(make())
    assert "\n" not in str(caught.value)
