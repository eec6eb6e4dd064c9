import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dask_slides.feed.random_numbers import philox, uniform

words = st.integers(0, 2**64 - 1)


@given(st.tuples(words, words), st.tuples(st.integers(0, 2**64 - 2), words, words, words))
def test_it_is_the_philox_of_numpy(key, counter):
    whole = sum(word << 64 * i for i, word in enumerate(counter))
    expected = np.random.Philox(key=key[0] + (key[1] << 64), counter=whole).random_raw(4)
    first, *rest = counter  # NumPy counts up before it makes the first words
    found = philox(key, tuple(np.array([one], np.uint64) for one in (first + 1, *rest)))
    assert np.concatenate(found).tolist() == expected.tolist()


def test_uniform_numbers_are_those_of_numpy_for_any_counters_together():
    found = uniform(5, 2, np.arange(1, 40), 7)
    for number in range(1, 40):
        raw = np.random.Philox(key=5 + (2 << 64), counter=number - 1 + (7 << 64)).random_raw(4)
        assert np.array_equal(found[:, number - 1], (raw >> np.uint64(11)) / 2**53)
