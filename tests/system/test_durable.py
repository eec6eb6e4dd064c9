"""Writers that are killed at any step, or that race, on a disk and in a bucket.

The store is old, new or absent afterwards, and can be resumed.
"""

import itertools
import signal

import durable_work as work
import pytest
from durable_work import finished

import dask_slides as ds

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


def is_survived(processes, step, kind, source, target, expected, overwrite):
    """Kill a write at its `step`th change, and resume it; return whether it has that many changes.

    After the kill the target is the old store, the new one, or does not open.
    """
    if overwrite:
        work.write("cutoff", source, target.path)
    old, options = target.contents(), {"overwrite": overwrite, "resume": True}
    code = finished(
        processes, work.write_until, step, target.environment, kind, source, target.path, options
    )
    assert code in (0, -signal.SIGKILL)
    if is_store(target.path):
        assert target.contents() in (old, expected)
    if target.contents() != expected or not is_store(target.path):
        work.write(kind, source, target.path, **options)
        assert target.contents() == expected
        assert target.hidden() == []
    ds.verify(target.path)
    return code == 0


def is_store(path):
    try:
        ds.verify(path)
    except (ds.errors.SlideNotFoundError, ds.errors.SlideFormatError):
        return False
    return True


SAMPLED = [
    ("image", False, 2, 31),
    ("pack", False, 4, 11),
    ("pack without shards", False, 5, 53),
    pytest.param("pack", True, 7, 17, marks=pytest.mark.slow),
]
"""Kind, overwrite, first step, increment."""


@pytest.mark.parametrize(("kind", "overwrite", "first", "distance"), SAMPLED)
def test_killed_at_some_steps(
    processes, new_target, source, expected, kind, overwrite, first, distance
):
    for step in itertools.count(first, distance):
        target = new_target()
        if is_survived(processes, step, kind, source, target, expected[kind], overwrite):
            break
    assert step > 20


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "overwrite"), [("image", False), ("pack", True)])
def test_killed_at_every_step(processes, new_target, source, expected, kind, overwrite):
    for step in itertools.count(1):
        target = new_target()
        if is_survived(processes, step, kind, source, target, expected[kind], overwrite):
            break
    assert step > 20


@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_two_writers_have_one_winner(processes, new_target, source, expected, rounds):
    for _ in range(rounds):
        target = new_target()
        barrier, results = processes.Barrier(2), processes.Queue()
        args = (target.environment, barrier, "pack", source, target.path, results)
        pair = [processes.Process(target=work.race, args=args) for _ in range(2)]
        for one in pair:
            one.start()
        ends = sorted(results.get(timeout=120) for _ in pair)
        for one in pair:
            one.join()
        assert ends[1] == "written"
        assert ends[0] in ("OutputBusyError", "OutputExistsError")
        assert target.contents() == expected["pack"]
        assert target.hidden() == []
