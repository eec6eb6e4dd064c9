"""Plan the levels, shards and tasks of the pyramid of an image. No pixel is read."""

from __future__ import annotations

from dataclasses import dataclass

from dask_slides.core.geometry import halved
from dask_slides.graph.chunks import MAX_TASKS, TASK_SIDE

SMALLEST_LEVEL = 256
"""Least longest side of a level; a smaller image has one level."""
FEW_TASKS = 16
"""Least number of tasks of the first stage, if the image is large enough."""
LARGEST_SHARD = 4096
"""Largest side of a shard in pixels. A task holds a whole shard, so this limits memory; an image of
1,000,000 x 1,000,000 pixels has more than `MAX_TASKS` tasks instead."""
SMALLEST_SHARD = 512
"""Smallest side of a shard in pixels, even if memory is short."""
LARGEST_CHUNK = 1024
"""Largest side of a chunk in pixels if there are no shards. Each chunk is a file then, so larger
chunks mean fewer files, and smaller ones less to decode for a small region."""
STAGE_CHUNKS = 2
"""Side of a block of a later stage in chunks, so that a stage writes two levels."""
STAGE_SIDE = 1024
"""Side in pixels of the area that a task of a later stage reads."""


@dataclass(frozen=True)
class LevelPlan:
    """One array of the pyramid."""

    shape: tuple[int, int]
    chunk: int
    """Side of a chunk."""
    shard: int
    """Side of a shard, a multiple of `chunk`; `chunk` itself without shards. A task writes whole
    shards."""


@dataclass(frozen=True)
class Stage:
    """Tasks that read blocks of one image and write them as shards of several levels.

    The first stage reads the slide; a later one reads the last level of the previous stage.
    Each task writes whole shards of all its levels, so no two tasks write the same shard.
    """

    side: int
    """Side of a block, in pixels of the image that is read."""
    halvings: int
    """Halvings from the image read to the first level written: 0 in the first stage, then 1."""
    levels: tuple[int, ...]
    """Numbers of the levels written."""
    blocks_per_read: int = 1
    """Neighbouring blocks that are read at once."""
    reads_per_task: int = 1
    """Reads of a task, one after another: fewer tasks, without more memory."""

    @property
    def task_width(self) -> int:
        """Width in pixels of the area that a task reads."""
        return self.side * self.blocks_per_read * self.reads_per_task


@dataclass(frozen=True)
class ImagePlan:
    """The levels of an image, and the stages that write them."""

    levels: tuple[LevelPlan, ...]
    stages: tuple[Stage, ...]

    @property
    def tasks(self) -> int:
        """Number of tasks of all stages."""
        return sum(self.blocks(stage)[0] * self.blocks(stage)[1] for stage in self.stages)

    def blocks(self, stage: Stage) -> tuple[int, int]:
        """Return how many tasks a stage has along y and x."""
        height, width = self.levels[stage.levels[0] - stage.halvings].shape
        return -(-height // stage.side), -(-width // stage.task_width)

    @property
    def pixels(self) -> int:
        """Number of pixels of all levels."""
        return sum(level.shape[0] * level.shape[1] for level in self.levels)


def plan_image(
    shape: tuple[int, int],
    input_ratio: float = 1.0,
    largest: int = LARGEST_SHARD,
    span: int = 0,
    aim: int = TASK_SIDE,
    sharded: bool = True,
    chunk: int | None = None,
) -> ImagePlan:
    """Plan the pyramid of an image of `shape`.

    Parameters
    ----------
    shape
        Height and width of the image.
    input_ratio
        Pixels of the file per pixel of the image, along a side. The larger it is, the fewer pixels
        a task writes.
    largest
        Largest side of a shard.
    span
        Least width in pixels to read at once, as long as this is at most `largest`**2 pixels.
    aim
        Side of the area that a task should read, in pixels of the file. A task reads several
        blocks, one after another, to reach it.
    sharded
        Whether a file holds several chunks. If not, chunks are larger.
    chunk
        Side of a chunk; None chooses 256 or 512.
    """
    longest = max(shape)
    count = 1
    while halved(longest, count) >= SMALLEST_LEVEL:
        count += 1
    sizes = [(halved(shape[0], k), halved(shape[1], k)) for k in range(count)]
    chunk, side = _first_sides(shape, min(largest, TASK_SIDE / input_ratio), largest, chunk)
    if not sharded:  # half of a block, as the first stage must write two levels
        chunk = min(LARGEST_CHUNK, side // 2)
    blocks_per_read = max(1, min(-(-span // side), largest**2 // side**2))
    aim = int(aim / input_ratio)
    stages: list[Stage] = []
    shards: list[int] = []
    halvings, base = 0, 0
    while len(shards) < count:
        whole = side >= max(sizes[base])
        levels: list[int] = []
        while len(shards) < count and (whole or side >> (halvings + len(levels)) >= chunk):
            # a block of the whole image writes all remaining levels; a shard is at least a chunk
            levels.append(len(shards))
            shards.append(max(chunk, side >> (halvings + len(levels) - 1)))
        reads = min(aim**2 // side**2, _blocks(sizes[base], side) // FEW_TASKS) // blocks_per_read
        stages.append(Stage(side, halvings, tuple(levels), blocks_per_read, max(1, reads)))
        base, halvings, side = levels[-1], 1, STAGE_CHUNKS * chunk
        blocks_per_read, aim = 1, STAGE_SIDE
    levels_planned = zip(sizes, shards, strict=True)
    return ImagePlan(
        tuple(
            LevelPlan(size, chunk, shard if sharded else chunk) for size, shard in levels_planned
        ),
        tuple(stages),
    )


def _first_sides(
    shape: tuple[int, int], target: float, largest: int, chunk: int | None
) -> tuple[int, int]:
    """Return the sides of a chunk and of a block of the first stage, the latter near `target`."""
    # tasks that shrink the image a lot write small blocks, so they read no more than others
    chunk = chunk or (256 if max(shape) <= 4096 or target < 2 * 512 else 512)
    side = 2 * chunk
    while side < target and _blocks(shape, 2 * side) >= FEW_TASKS:
        side *= 2
    while _blocks(shape, side) > MAX_TASKS * 2 // 3 and side < largest:
        side *= 2
    return chunk, side


def _blocks(shape: tuple[int, int], side: int) -> int:
    return -(-shape[0] // side) * -(-shape[1] // side)
