"""How an image becomes levels, shards and tasks: plain numbers, no pixel."""

from __future__ import annotations

from dataclasses import dataclass

from dask_slides.core.geometry import halved
from dask_slides.graph.chunks import MAX_TASKS, TASK_SIDE

SMALLEST = 256
"""Longest side of the smallest level, at the least."""
FEW_TASKS = 16
"""Tasks of the first stage that an image is shared out to if it is large enough."""
LARGEST_SHARD = 4096
"""Pixels a side of a shard at the most: a task holds it whole, so memory has a ceiling and
an image of a million pixels a side has more tasks instead."""
SMALLEST_SHARD = 512
"""The same at the least, however short memory is."""
STAGE_CHUNKS = 2
"""Chunks a side that a later stage reads back at once: it writes two levels of them."""
STAGE_SIDE = 1024
"""Pixels a side that a task of it aims at."""


@dataclass(frozen=True)
class LevelPlan:
    """One array of the pyramid."""

    shape: tuple[int, int]
    chunk: int
    """Side of a chunk."""
    shard: int
    """Side of a shard, a multiple of `chunk`: what one task writes."""


@dataclass(frozen=True)
class Stage:
    """Tasks that read blocks of one image and write them as shards of several levels.

    The first stage reads the slide; a later one reads the last level of the one before.
    Each task writes whole shards of every level it has, so no two write the same shard.
    """

    side: int
    """Side of a block, in pixels of what is read."""
    first: int
    """Halvings between what is read and the first level written."""
    levels: tuple[int, ...]
    """Numbers of the levels written."""
    wide: int = 1
    """Blocks beside each other that are read at once."""
    turns: int = 1
    """Times that a task does so, one after another: few tasks, and the memory of one."""

    @property
    def across(self) -> int:
        """Pixels along x that a task takes."""
        return self.side * self.wide * self.turns


@dataclass(frozen=True)
class ImagePlan:
    """Levels and stages of an image."""

    levels: tuple[LevelPlan, ...]
    stages: tuple[Stage, ...]

    @property
    def tasks(self) -> int:
        """Tasks of all stages."""
        return sum(self.blocks(stage)[0] * self.blocks(stage)[1] for stage in self.stages)

    def blocks(self, stage: Stage) -> tuple[int, int]:
        """Return how many blocks a stage has along y and x."""
        height, width = self.levels[stage.levels[0] - stage.first].shape
        return -(-height // stage.side), -(-width // stage.across)

    @property
    def pixels(self) -> int:
        """Pixels of all levels."""
        return sum(level.shape[0] * level.shape[1] for level in self.levels)


def plan_image(
    shape: tuple[int, int],
    input_ratio: float = 1.0,
    largest: int = LARGEST_SHARD,
    span: int = 0,
    aim: int = TASK_SIDE,
) -> ImagePlan:
    """Plan the pyramid of an image of `shape`.

    `input_ratio` is how many pixels of the file a pixel stands for along a side: a task that
    shrinks much takes fewer output pixels. No shard is longer than `largest` a side. Tasks are
    at least `span` pixels wide, as far as they stay small, and take shards one after another up
    to as many pixels of the file as `aim` x `aim`.
    """
    longest = max(shape)
    count = 1
    while halved(longest, count) >= SMALLEST:
        count += 1
    sizes = [(halved(shape[0], k), halved(shape[1], k)) for k in range(count)]
    target = min(largest, TASK_SIDE / input_ratio)  # an enlarged image reads less
    # what shrinks much has small blocks, so that a task reads no more than any other
    chunk = 256 if longest <= 4096 or target < 2 * 512 else 512
    side = 2 * chunk
    while side < target and _blocks(shape, 2 * side) >= FEW_TASKS:
        side *= 2
    while _blocks(shape, side) > MAX_TASKS * 2 // 3 and side < largest:
        side *= 2
    wide = max(1, min(-(-span // side), largest**2 // side**2))
    aim = int(aim / input_ratio)
    stages: list[Stage] = []
    shards: list[int] = []
    first, base = 0, 0
    while len(shards) < count:
        whole = side >= max(sizes[base])
        fitting: list[int] = []
        while len(shards) < count and (whole or side >> (first + len(fitting)) >= chunk):
            # a block that is the whole image writes all that is left, a chunk at the least
            fitting.append(len(shards))
            shards.append(max(chunk, side >> (first + len(fitting) - 1)))
        turns = min(aim**2 // side**2, _blocks(sizes[base], side) // FEW_TASKS) // wide
        stages.append(Stage(side, first, tuple(fitting), wide, max(1, turns)))
        base, first, side = fitting[-1], 1, STAGE_CHUNKS * chunk
        wide, aim = 1, STAGE_SIDE
    levels = tuple(LevelPlan(size, chunk, shard) for size, shard in zip(sizes, shards, strict=True))
    return ImagePlan(levels, tuple(stages))


def _blocks(shape: tuple[int, int], side: int) -> int:
    return -(-shape[0] // side) * -(-shape[1] // side)
