import csv

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_slides import feed
from dask_slides.errors import SlideArgumentError, SlideFormatError, SlideNotFoundError

ROWS = [
    {"path": "a.svs", "label": "tumour", "split": "train", "group": "p1", "mpp": 0.25},
    {"path": "sub/b.svs", "label": "normal", "split": "test", "group": "p2", "mpp": None},
    {"path": "s3://bucket/c.svs", "label": "normal", "split": "train", "group": None, "mpp": 0.5},
]


def written(folder, kind):
    frame = pd.DataFrame(ROWS)
    if kind == "frame":
        return frame
    path = folder / f"slides.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False, encoding="utf-8-sig")
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_tables_of_any_kind_are_read(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    table = feed.read_table(written(tmp_path, kind))
    assert [row.path for row in table] == [
        str(tmp_path / "a.svs"), str(tmp_path / "sub" / "b.svs"), "s3://bucket/c.svs",
    ]  # fmt: skip
    assert [row.label for row in table] == ["tumour", "normal", "normal"]
    assert [row.mpp for row in table] == [0.25, None, 0.5]
    assert [row.group for row in table] == ["p1", "p2", ""]
    assert [row.label for row in table.part("train")] == ["tumour", "normal"]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab")), min_size=1, max_size=150),
    st.integers(0, 2**32),
)
def test_a_split_keeps_groups_together_and_each_slide_once(slides, seed):
    rows = tuple(
        feed.SlideRow(f"{n}.svs", label, group=group) for n, (group, label) in enumerate(slides)
    )
    table = feed.SlideTable(rows)
    found = table.split(seed=seed)
    assert [row.path for row in found] == [row.path for row in table]
    parts = {}
    for row in found:
        parts.setdefault(row.group, set()).add(row.split)
    assert all(len(some) == 1 for some in parts.values())
    assert {row.split for row in found} <= {"train", "val", "test"}
    assert table.split(seed=seed) == found


@given(st.integers(0, 2**32))
def test_a_split_has_the_shares_of_each_label(seed):
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(200):  # of one to four slides, mostly of one label
        label = "tumour" if rng.random() < 0.2 else "normal"
        for _ in range(int(rng.integers(1, 5))):
            own = label if rng.random() < 0.9 else "normal"
            rows.append(feed.SlideRow(f"{len(rows)}.svs", own, group=patient))
    found = feed.SlideTable(tuple(rows)).split(seed=seed, shares={"train": 3, "test": 1})
    for label in ("tumour", "normal"):
        parts = [row.split for row in found if row.label == label]
        assert abs(parts.count("train") / len(parts) - 0.75) < 0.05


def test_slides_without_a_group_are_divided_one_by_one():
    table = feed.SlideTable(tuple(feed.SlideRow(f"{n}.svs", "a") for n in range(100)))
    found = table.split(seed=1, shares={"train": 0.8, "test": 0.2})
    assert len(found.part("train")) == 80
    assert found != table.split(seed=2, shares={"train": 0.8, "test": 0.2})


def test_wrong_tables_are_refused(tmp_path):
    with pytest.raises(SlideNotFoundError, match=r"none\.csv: No such file"):
        feed.read_table(tmp_path / "none.csv")
    path = tmp_path / "a.csv"
    for text, message in (
        ("file,label\na,b\n", "has no column path"),
        ("path,mpp\na.svs,zero\n", "line 2: mpp 'zero' is not a number above 0"),
        ("path,label\n,b\n", "line 2: has no path"),
        ("path\n", "has no rows"),
    ):
        path.write_text(text)
        with pytest.raises(SlideFormatError, match=message):
            feed.read_table(path)
    path.write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(SlideFormatError, match="is not a CSV table in UTF-8"):
        feed.read_table(path)
    table = feed.SlideTable((feed.SlideRow("a.svs", split="train"),))
    with pytest.raises(
        SlideArgumentError, match="no slide is in the part 'val'; there are 'train'"
    ):
        table.part("val")
    with pytest.raises(SlideArgumentError, match="by='label' is not known"):
        table.split(by="label")
    with pytest.raises(SlideArgumentError, match="give each part a number above 0"):
        table.split(shares={"train": 0})


def test_names_of_columns_may_have_spaces_around_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("path, label , mpp\na.tif, tumour, 1.0\n")
    (row,) = feed.read_table(path).rows
    assert (row.label, row.mpp) == ("tumour", 1.0)
    with pytest.raises(SlideArgumentError, match="'label' is there twice"):
        path.write_text("path,label, label\na.tif,a,b\n")
        feed.read_table(path)


def test_a_folder_is_no_table(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(SlideFormatError, match="cannot be read as a table"):
        feed.read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"seed": None}, {"shares": [0.7, 0.3]}, {"shares": {"a": "x"}}]
)
def test_arguments_of_a_split_are_checked(options):
    table = feed.SlideTable(tuple(feed.SlideRow(f"{n}.svs", "a") for n in range(8)))
    with pytest.raises(SlideArgumentError, match=f"{next(iter(options))}="):
        table.split(**options)


def test_a_table_of_spreadsheets_may_have_other_columns(tmp_path):
    path = tmp_path / "a.csv"
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["path", "stain", "label"], ["a.svs", "HE", " x "], ["", "", ""]])
    (row,) = feed.read_table(path)
    assert (row.label, row.split, row.mpp) == ("x", "", None)
