"""The benchmark of tissue detection: its images are the same every time, its scores are right."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # at the end: the installed package first

from benchmarks.tissue import score, summary
from benchmarks.tissue_images import GROUPS, Labelled, generated, truth


def test_an_image_depends_on_its_name_only():
    first, again = next(generated("fragments")), next(generated("fragments"))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert sum(count for count, _ in GROUPS.values()) >= 40


def test_truth_fills_small_holes_and_leaves_the_rim_open():
    tissue = np.zeros((200, 200), bool)
    tissue[20:180, 20:180] = True
    tissue[40:46, 40:46] = False  # 36 px, a gland
    tissue[80:100, 80:100] = False  # 400 px, a matter of opinion
    tissue[110:150, 110:150] = False  # 1,600 px, torn out
    tissue[5:10, 5:10] = True  # 25 px, a crumb
    label = truth(tissue)
    found = [int(label[at]) for at in ((43, 43), (90, 90), (130, 130), (7, 7), (20, 60), (60, 60))]
    assert found == [1, 255, 0, 255, 255, 1]


def test_scores_count_judged_pixels():
    label = np.array([[1, 1, 1, 1, 0, 0, 2, 2, 255, 255]], np.uint8)
    labelled = Labelled("one", "faint", np.zeros((1, 10, 3), np.uint8), label, None)
    mask = np.array([[1, 1, 1, 0, 1, 0, 1, 0, 1, 0]], bool)
    rows = summary([score(labelled, "some", mask, 0.5)])
    assert rows["faint"]["some"] == pytest.approx(3 / 6)
    assert rows["recall, faint tissue"]["some"] == pytest.approx(3 / 4)
    assert rows["pen on glass kept"]["some"] == pytest.approx(1 / 2)
    empty = Labelled("none", "empty", labelled.image, np.zeros_like(label), None)
    assert score(empty, "some", np.zeros((1, 10), bool), 0).iou == 1
    assert score(empty, "some", mask, 0).iou == 0
