"""Batches of a stream, read ahead in threads."""

from __future__ import annotations

import multiprocessing
import operator
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.system import CPU_COUNT

from dask_slides.errors import SlideArgumentError
from dask_slides.feed.crop_reader import CropReader, Found
from dask_slides.feed.schedule import Integers

if TYPE_CHECKING:
    from dask_slides.feed.crop_stream import CropStream

CHUNK = 32
"""Most crops of a slide that one thread reads at once."""
WINDOW = 512
"""Crops that are read together by default."""
Batch = dict[str, Any]
_EXITING = threading.Event()
"""Set when Python exits. It waits for the threads of pools, and calls functions of `atexit` only
then."""
threading._register_atexit(_EXITING.set)  # type: ignore[attr-defined]


class CropBatches:
    """Batches of a `CropStream`; `CropStream.batches` makes them.

    Iterating gives the batches up to the end of an epoch; iterating again, those of the next one.
    Batch `i` is ``batches[i]``, so this is a map-style dataset too: a data loader with workers asks
    for batches by number, in any process. Each process reads those ahead that it will be asked for.
    """

    def __init__(
        self,
        stream: CropStream,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        window: int | None = None,
        threads: int | None = None,
    ) -> None:
        if window is None:
            window = max(WINDOW, stream._reader.order.shuffled_together)
        for name, value, least in (
            ("batch_size", batch_size, 1), ("world", world, 1), ("rank", rank, 0),
            ("start", start, 0), ("window", window, 1),
            ("threads", 1 if threads is None else threads, 1),
        ):  # fmt: skip
            if not isinstance(value, int | np.integer) or value < least:
                raise SlideArgumentError(f"{name}={value!r}; give a whole number from {least}")
        if rank >= world:
            raise SlideArgumentError(f"rank={rank} of world={world}; ranks are from 0 to world - 1")
        self._stream, self._rank, self._world = stream, int(rank), int(world)
        self._size, self._start, self._window = int(batch_size), int(start), int(window)
        self._threads = threads
        self._next = 0
        self._used = 0
        self._is_sampled = False
        self._ahead: _ReadAhead | None = None

    @property
    def _numbers_per_step(self) -> int:
        return self._size * self._world

    def numbers(self, step: int) -> Integers:
        """Return the numbers of the crops of a batch."""
        first = self._start + step * self._numbers_per_step + self._rank
        return first + self._world * np.arange(self._size)

    def _end_of_epoch(self, step: int) -> int:
        """Return the first batch after the epoch of batch `step`; the last one may go beyond."""
        return self._end_of_block(step, len(self._stream))

    def _end_of_block(self, step: int, length: int) -> int:
        """Return the first batch after the block of `length` numbers in which `step` begins."""
        end = ((self._start + step * self._numbers_per_step) // length + 1) * length
        return -(-(end - self._start) // self._numbers_per_step)

    def __len__(self) -> int:
        """Return the number of batches up to the end of the epoch."""
        return self._end_of_epoch(self._next) - self._next

    def __getitem__(self, step: int) -> Batch:
        """Read a batch: as `CropStream`'s items, with an array or a list of all crops per key."""
        if step < 0:
            raise IndexError(f"there is no batch {step}; batches are from 0")
        self._is_sampled = False
        if self._ahead is None or self._ahead.process != os.getpid():
            threads = self._threads or (1 if _in_worker() else CPU_COUNT)
            self._ahead = _ReadAhead(self._stream._reader, self, threads, self._window)
        batch = collate(self._ahead.get(step))
        self._used = step + 1
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the batches up to the end of the epoch."""
        for step in range(self._next, self._end_of_epoch(self._next)):
            batch = self[step]
            self._next = step + 1
            yield batch

    def steps(self) -> StepSampler:
        """Return the sampler for PyTorch's DataLoader: the numbers of the batches of each epoch.

        ``DataLoader(batches, batch_size=None, sampler=batches.steps(), num_workers=2)``

        A loader reads ahead. So if a loop over it is left early, the next one begins with the next
        epoch.
        """
        return StepSampler(self)

    def state_dict(self, batch: Mapping[str, Any] | None = None) -> dict[str, int]:
        """Return where the stream goes on, for ``start`` on any number of ranks and workers.

        Parameters
        ----------
        batch : mapping, optional
            The last batch that was used, if a data loader with workers reads ahead. By default the
            last one that this object gave in this process.

        Returns
        -------
        dict
            ``seed`` and ``number``, the first number that no rank has used.

        Raises
        ------
        SlideArgumentError
            Workers of a data loader give the batches, and `batch` is missing.
        """
        if batch is None and self._is_sampled:
            raise SlideArgumentError(
                "workers of a data loader give the batches, so it is not known which one was used; "
                "give the last one, as state_dict(batch)"
            )
        step = self._used
        if batch is not None:
            first = int(batch["number"][0]) - self._start
            step = first // self._numbers_per_step + 1
        return {
            "seed": self._stream.seed,
            "number": self._start + step * self._numbers_per_step,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was called.

        Make data loaders with workers after this, as workers have copies of this object.
        """
        number = number_of_state(state, self._stream.seed)
        step, rest = divmod(number - self._start, self._numbers_per_step)
        if rest or step < 0:
            self._start, step = number, 0
        self._next = self._used = step
        self._is_sampled, self._ahead = False, None

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for another process, which reads ahead by itself."""
        return self.__dict__ | {"_ahead": None}


class StepSampler:
    """The numbers of the batches of an epoch, and those of the next one when iterated again."""

    def __init__(self, batches: CropBatches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, as trainers count those before a stop."""
        return -(-len(self._batches._stream) // self._batches._numbers_per_step)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the numbers of the batches up to the end of the epoch."""
        # at the first step, as a data loader may make two iterators and use one
        batches = self._batches
        first, batches._next = batches._next, batches._end_of_epoch(batches._next)
        for step in range(first, batches._next):
            batches._is_sampled = True
            yield step


def number_of_state(state: Any, seed: int) -> int:
    """Return the number in what `state_dict` returned for a stream of this seed."""
    try:
        found, number = operator.index(state["seed"]), operator.index(state["number"])
    except (KeyError, TypeError):
        number = -1
    if number < 0:
        raise SlideArgumentError(
            f"{state!r} is not a state of a stream; give what state_dict() returned"
        )
    if found != seed:
        raise SlideArgumentError(
            f"the state is of seed={found}, and the stream has seed={seed}; make the stream with "
            "that seed"
        )
    return number


def _in_worker() -> bool:
    """Return whether a data loader or a pool started this process; such workers are daemons."""
    return multiprocessing.current_process().daemon


class _ReadAhead:
    """Reads batches before a process asks for them, slide by slide in windows of batches.

    Windows grow from one batch, so that the first batch is there soon. A window is read once its
    last but one is used up, so that memory holds two. Its crops are found before, as the threads
    would wait for that.
    """

    def __init__(self, reader: CropReader, batches: CropBatches, threads: int, window: int) -> None:
        self.process = os.getpid()
        self._reader, self._batches = reader, batches
        self._most = max(1, window // batches._size)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dask-slides-feed")
        # not a shutdown of the pool: this may run in one of its threads, which holds its lock
        self._stopped = threading.Event()
        weakref.finalize(self, self._stopped.set)
        self._windows: dict[int, _Window] = {}
        self._next: _Window | None = None
        self._last = -1
        # a worker of a data loader is asked for every n-th batch; the second one tells n
        self._stride = 0 if _in_worker() else 1
        self._grown, self._planned, self._turn = 1, 0, 0

    def get(self, step: int) -> list[dict[str, Any]]:
        """Return the crops of a batch."""
        if step not in self._windows or step != self._last + self._stride:
            self._jump(step)
        window = self._windows.pop(step)
        self._last = step
        if self._stride and len(self._windows) <= self._grown:
            self._read_on(self._batches._end_of_epoch(step))
        return window.crops(step)

    def _jump(self, step: int) -> None:
        """Start at a batch that was not expected; the next ones are as far from each other."""
        for window in (*self._windows.values(), self._next):
            if window is not None:
                window.cancel()
        self._windows.clear()
        if self._last >= 0:
            self._stride = max(0, step - self._last)
        self._grown, self._planned = 1, step
        self._start(self._window(1, step + 1))
        self._next = None

    def _read_on(self, end: int) -> None:
        """Read the next window, and find the crops of the one after it meanwhile."""
        self._start(self._next or self._grown_window(end))
        self._next = self._grown_window(end)

    def _grown_window(self, end: int) -> _Window | None:
        self._grown = min(self._most, 2 * self._grown)
        return self._window(self._grown, end)

    def _start(self, window: _Window | None) -> None:
        if window is not None:
            window.start()
            self._windows.update(dict.fromkeys(window.steps, window))

    def _window(self, count: int, end: int) -> _Window | None:
        """Return up to `count` batches before `end`, and of one block of the largest windows.

        The crops of a visit lie in one block of numbers, so that they are read together wherever
        the stream was started.
        """
        each = max(1, self._stride)
        block = self._most * each * self._batches._numbers_per_step
        end = min(end, self._batches._end_of_block(self._planned, block))
        steps = range(self._planned, min(self._planned + count * each, end), each)
        if not steps:
            return None
        numbers = {step: self._batches.numbers(step) for step in steps}
        self._planned = steps[-1] + each
        self._turn += 1
        return _Window(self._reader, self._pool, self._stopped, numbers, self._turn)


class _Window:
    """Batches that are read together."""

    def __init__(
        self,
        reader: CropReader,
        pool: ThreadPoolExecutor,
        stopped: threading.Event,
        numbers: dict[int, Integers],
        turn: int,
    ) -> None:
        self._turn, self._is_cancelled = turn, False
        self._reader, self._pool, self._stopped, self._numbers = reader, pool, stopped, numbers
        self._crops: dict[int, dict[str, Any]] = {}
        self._reads: list[Future[None]] = []
        self._found = pool.submit(self._find)
        self._plan: Future[None] | None = None

    @property
    def steps(self) -> list[int]:
        """The numbers of the batches that `crops` has not returned yet."""
        return list(self._numbers)

    def start(self) -> None:
        """Read the crops, once they are found."""
        self._plan = self._pool.submit(self._start)

    def cancel(self) -> None:
        """Find and read nothing more."""
        self._is_cancelled = True

    def _is_wanted(self) -> bool:
        return not (self._is_cancelled or self._stopped.is_set() or _EXITING.is_set())

    def _find(self) -> list[Found]:
        if not self._is_wanted():
            return []
        return self._reader.find(np.concatenate(list(self._numbers.values())))

    def _start(self) -> None:
        """Read the crops slide by slide and from top to bottom."""
        found = self._found.result()  # it was submitted before this, so it runs or is done
        by_member: dict[int, list[Found]] = {}
        for one in found:
            by_member.setdefault(one.member, []).append(one)
        # to and fro, so that the slides that were read last, and are open, come first
        order = sorted(by_member, reverse=bool(self._turn % 2))
        for some in (by_member[member] for member in order):
            some.sort(key=lambda one: one.place.at)
            for start in range(0, len(some), CHUNK):
                self._reads.append(self._pool.submit(self._read, some[start : start + CHUNK]))

    def _read(self, found: list[Found]) -> None:
        if self._is_wanted():
            for crop in self._reader.read_found(found):
                self._crops[crop["number"]] = crop

    def crops(self, step: int) -> list[dict[str, Any]]:
        """Return the crops of a batch, once all of the window are read."""
        assert self._plan is not None  # `start` was called
        self._plan.result()
        for read in self._reads:
            read.result()
        return [self._crops.pop(number) for number in self._numbers.pop(step).tolist()]


def collate(crops: list[dict[str, Any]]) -> Batch:
    """Return crops as one dict: arrays of pixels and numbers, and lists of other values."""
    columns = {name: [crop[name] for crop in crops] for name in crops[0]}
    return {name: _joined(values) for name, values in columns.items()}


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, tuple):
        return tuple(_joined(list(some)) for some in zip(*values, strict=True))
    if isinstance(first, np.ndarray):
        return np.stack(values)
    if all(isinstance(value, int | float | np.number) for value in values):
        return np.array(values)
    return values
