"""Place islands of tissue on a small canvas, without rotating or mirroring them.

Tissue is rarely a rectangle: packed as bounding boxes, the islands of generated slides need 1.8
times their own area, and thin biopsies 5 times. So shapes are placed cell by cell, each at the
first free position from the top (bottom-left placement of irregular shapes, with the free positions
of a shape from the correlation of the canvas with it). If that is not compact, islands are cut
into pieces along rows and columns of the lattice, the most wasteful first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from dask_slides.numerics.island_shapes import Mask, Shape, cut, island_shapes

COMPACT = 1.28
"""Canvas cells per tissue cell from which no island is cut any more."""
ROUNDS = 24
"""Largest number of times that pieces are cut."""
MAX_PIECES = 96
"""Pieces of all islands beyond one each."""
WIDTHS = (0.75, 0.88, 1.0, 1.12, 1.25, 1.4)
"""Widths of the canvas that are tried, relative to a square one."""
PLACEMENTS = 1500
"""Shapes to place in a round, at most; with many shapes, fewer widths are tried."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """Shapes on a canvas of `rows` x `columns` cells, each with its first row and column."""

    rows: int
    columns: int
    shapes: tuple[Shape, ...]
    at: tuple[tuple[int, int], ...]

    @property
    def area(self) -> int:
        """Number of cells."""
        return self.rows * self.columns


def pack_islands(
    cells: Mask, gutter: tuple[int, int] = (1, 1), cell: tuple[float, float] = (1.0, 1.0)
) -> Canvas:
    """Place the islands of `cells` (rows, cols) on a canvas.

    There are at least `gutter` cells (y, x) between two islands, but not between pieces of one.
    `cell` is the height and width of a cell in pixels: the canvas is about square in pixels.
    """
    shapes = island_shapes(cells)
    tissue = int(np.count_nonzero(cells))
    best = _best_canvas(shapes, gutter, cell)
    limit = len(shapes) + MAX_PIECES
    for _ in range(ROUNDS):
        if best.area <= COMPACT * tissue or len(shapes) >= limit:
            break
        pieces = _cut_wasteful(shapes)
        if len(pieces) == len(shapes):
            break
        shapes = pieces
        found = _best_canvas(shapes, gutter, cell)
        best = min(best, found, key=lambda canvas: canvas.area)
    return best


def _cut_wasteful(shapes: list[Shape]) -> list[Shape]:
    """Cut the quarter of the shapes whose bounding boxes waste most."""
    waste = np.array([shape.waste for shape in shapes])
    chosen = np.argsort(-waste, kind="stable")[: max(1, len(shapes) // 4)]
    cut_now = set(chosen[waste[chosen] > 2].tolist())
    return [
        piece
        for number, shape in enumerate(shapes)
        for piece in (cut(shape) if number in cut_now else [shape])
    ]


def _best_canvas(shapes: list[Shape], gutter: tuple[int, int], cell: tuple[float, float]) -> Canvas:
    """Return the smallest canvas over several widths and orders of the shapes."""
    tissue = sum(int(np.count_nonzero(shape.mask)) for shape in shapes)
    side = math.sqrt(1.2 * tissue * cell[0] / cell[1])
    widest = max(shape.mask.shape[1] for shape in shapes)
    widths = sorted({max(widest, round(side * factor)) for factor in WIDTHS})
    tries = [(order, width) for order in _orders(shapes) for width in widths]
    tries = tries[:: max(1, -(-len(tries) * len(shapes) // PLACEMENTS))]
    placed = (_place(shapes, order, width, gutter) for order, width in tries)
    return min(placed, key=lambda canvas: canvas.area)


def _orders(shapes: list[Shape]) -> list[list[int]]:
    """Return two orders of the shapes: large islands first, all pieces of each, and tall first."""
    largest: dict[int, int] = {}
    for shape in shapes:
        largest[shape.island] = max(largest.get(shape.island, 0), shape.mask.size)
    numbers = range(len(shapes))
    together = sorted(
        numbers,
        key=lambda n: (-largest[shapes[n].island], shapes[n].island, -shapes[n].mask.size),
    )
    return [together, sorted(numbers, key=lambda n: -shapes[n].mask.shape[0])]


def _place(shapes: list[Shape], order: list[int], width: int, gutter: tuple[int, int]) -> Canvas:
    """Place the shapes in `order`, each at the first free position of a canvas of this width."""
    owner = np.zeros((0, width), np.int32)
    at = [(0, 0)] * len(shapes)
    used = 0
    for number in order:
        shape = shapes[number]
        height = used + gutter[0] + shape.mask.shape[0]
        owner = np.pad(owner, ((0, max(0, height - len(owner))), (0, 0)))
        y, x = _first_free(_taken(owner[:height], shape.island, gutter), shape.mask)
        at[number] = y, x
        rows, columns = shape.mask.shape
        owner[y : y + rows, x : x + columns][shape.mask] = shape.island
        used = max(used, y + rows)
    right = max(x + shape.mask.shape[1] for shape, (_, x) in zip(shapes, at, strict=True))
    return Canvas(used, right, tuple(shapes), tuple(at))


def _taken(owner: NDArray[np.int32], island: int, gutter: tuple[int, int]) -> Mask:
    """Return the cells that a piece of `island` cannot use: its own, and others with gutters."""
    own = owner == island
    others = (owner != 0) & ~own
    sides = (2 * gutter[0] + 1, 2 * gutter[1] + 1)
    wide = ndimage.maximum_filter(others.view(np.uint8), size=sides, mode="constant")
    return np.asarray(wide.astype(bool) | own)


def _first_free(taken: Mask, mask: Mask) -> tuple[int, int]:
    """Return the first position, row by row, at which `mask` covers no cell that is `taken`."""
    (height, width), (rows, columns) = taken.shape, mask.shape
    sides = [fft.next_fast_len(n, real=True) for n in (height, width)]
    canvas, shape = (fft.rfft2(array.astype(np.float32), sides) for array in (taken, mask))
    overlap = fft.irfft2(canvas * np.conj(shape), sides)
    free = overlap[: height - rows + 1, : width - columns + 1] < 0.5
    for position in np.flatnonzero(free):
        y, x = divmod(int(position), width - columns + 1)
        if not (taken[y : y + rows, x : x + columns] & mask).any():  # counts are rounded sums
            return y, x
    raise AssertionError("the rows below all shapes are free")
