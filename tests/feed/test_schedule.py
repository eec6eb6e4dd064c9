import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dask_slides.feed.order import CropOrder, Group
from dask_slides.feed.schedule import Schedule, permutation, permuted, shuffled

weights = st.lists(st.floats(0.01, 1), min_size=1, max_size=40)


@given(weights, st.integers(0, 2**63 - 1), st.integers(0, 5000), st.integers(1, 300))
def test_any_part_of_a_schedule_is_that_of_the_whole(shares, seed, start, count):
    schedule = Schedule(np.array(shares), seed, 1)
    member, occurrence = schedule.turns(0, start + count)
    part = schedule.turns(start, start + count)
    assert np.array_equal(part[0], member[start:]) and np.array_equal(part[1], occurrence[start:])
    for one in np.unique(member):  # each occurrence once, in order
        assert np.array_equal(occurrence[member == one], np.arange((member == one).sum()))


@given(weights, st.integers(0, 2**63 - 1))
def test_members_have_their_share_at_any_time(shares, seed):
    shares = np.array(shares) / sum(shares)
    member, _ = Schedule(shares, seed, 1).turns(0, 2000)
    counts = np.cumsum(member[:, None] == np.arange(len(shares)), axis=0)
    asked = shares * np.arange(1, 2001)[:, None]
    # one turn, and what all of them together may be late
    assert np.abs(counts - asked).max() < 1 + shares.max() * len(shares) ** 0.5 * 2


def test_members_with_one_share_come_in_rounds_of_another_order_each():
    member, _ = Schedule(np.ones(100), 3, 1).turns(0, 1000)
    rounds = member.reshape(10, 100)
    assert (np.sort(rounds, axis=1) == np.arange(100)).all()
    assert len({tuple(one) for one in rounds.tolist()}) == 10


@given(st.integers(1, 300), st.integers(0, 2**63 - 1))
def test_a_permutation_has_each_number_once(size, seed):
    assert np.array_equal(np.sort(permutation(size, seed, 4, 1)), np.arange(size))


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_a_permutation_of_which_nothing_is_stored_has_each_number_once(size, seed):
    found = [permuted(number, size, seed, 5, 1, 2) for number in range(size)]
    assert sorted(found) == list(range(size))


def test_permuted_numbers_are_anywhere():
    found = np.array([[permuted(n, 20, 0, 5, turn) for n in range(20)] for turn in range(4000)])
    counts = np.stack([np.bincount(column, minlength=20) for column in found.T])
    assert stats.chisquare(counts, axis=1).pvalue.min() > 1e-4
    after = np.bincount((found[:, 1:] - found[:, :-1]).reshape(-1) % 20, minlength=20)
    assert after[0] == 0 and np.ptp(after[1:]) < 0.1 * after[1:].mean()


def test_a_shuffle_moves_numbers_within_their_block():
    found = shuffled(np.arange(300), 64, 1, 2, 3)
    assert np.array_equal(np.sort(found[:256]), np.arange(256))
    assert (found[:256] // 64 == np.arange(256) // 64).all()
    assert not np.array_equal(found, np.arange(300))
    assert np.array_equal(shuffled(np.arange(70, 90), 64, 1, 2, 3), found[70:90])


@pytest.mark.parametrize("each", [1, 8])
def test_turns_are_those_of_any_other_numbers_asked_for_with_them(each):
    groups = (
        Group("a", 0.7, np.arange(5), np.ones(5)),
        Group("b", 0.3, np.arange(5, 8), np.array([1.0, 2, 3])),
    )
    order = CropOrder(groups, 11, each)
    numbers = np.random.default_rng(0).permutation(5000)
    turns = order.turns(numbers)
    alone = [CropOrder(groups, 11, each).turns(numbers[i : i + 1]) for i in range(0, 5000, 700)]
    assert [one.member[0] for one in alone] == turns.member[::700].tolist()
    assert [one.occurrence[0] for one in alone] == turns.occurrence[::700].tolist()
    first = np.argsort(numbers)
    pairs = set(zip(turns.member.tolist(), turns.occurrence.tolist(), strict=True))
    assert len(pairs) == 5000  # nothing comes twice
    in_b = (turns.member[first] >= 5).cumsum()
    assert np.abs(in_b - 0.3 * np.arange(1, 5001)).max() < 2
