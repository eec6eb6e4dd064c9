"""The memory that a task may use: configuration, and the limit of the machine or container."""

import dask
import pytest
from distributed.system import MEMORY_LIMIT
from scheduler_processes import local_client

from dask_slides.errors import ClusterLostError
from dask_slides.runtime import scheduler

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture
def threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def test_large_tasks_get_a_share_of_the_limit():
    assert scheduler.memory_per_thread(scheduler.ENOUGH) == MEMORY_LIMIT // 2
    with dask.config.set(scheduler="sync"):
        assert scheduler.memory_per_thread(2 * scheduler.ENOUGH) == MEMORY_LIMIT


def test_the_configuration_takes_precedence():
    with dask.config.set({scheduler.MEMORY: "8GB"}):
        assert scheduler.memory_per_thread(1) == 4_000_000_000


def test_small_tasks_do_not_look_up_the_limit(monkeypatch):
    monkeypatch.setattr(scheduler, "memory_limit", lambda: 1 / 0)
    assert scheduler.memory_per_thread(scheduler.ENOUGH // 2) is None


def test_a_closed_client_is_a_lost_cluster():
    with local_client(1) as client, dask.config.set(scheduler=client):
        assert scheduler.memory_per_thread(1) > 0
        client.close()
        with pytest.raises(ClusterLostError, match="the scheduler was lost"):
            scheduler.memory_per_thread(1)
