"""Place islands of tissue on a small canvas, without rotating or mirroring them.

Tissue is rarely a rectangle: packed as bounding boxes, the islands of generated slides need 1.8
times their own area, and thin biopsies 5 times. So shapes are placed cell by cell, each at the
first free position from the top (bottom-left placement of irregular shapes, with the free positions
of a shape from the correlation of the canvas with it). If that is not compact, islands are cut
into pieces along rows and columns of the lattice, the most wasteful first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from dask_slides.numerics.island_shapes import (
    Mask,
    Shape,
    bands,
    cut,
    island_shapes,
    with_small_holes,
)

ROUNDS = 24
"""Largest number of times that pieces are cut."""
MAX_PIECES = 96
"""Pieces of all islands beyond one each."""
BANDS = (32, 16, 12, 8, 6)
"""Heights of bands in cells, from which biopsies can be stacked like bricks."""
LONG = 1.5
"""Longest side per shortest side of a canvas, up to which only its area counts."""
FEW = 6
"""Number of islands up to which none are joined."""
NEAR = (1, 3)
"""More islands are joined if they are at most twice as many cells apart, and if the canvas is not
compact otherwise: between many small pieces, gutters take more space than anything else."""
FULL = 0.2
"""Waste of an island, as a share of its bounding box, up to which it is not cut into bands."""
WIDTHS = (0.75, 0.88, 1.0, 1.12, 1.25, 1.4)
"""Widths of the canvas that are tried, relative to a square one."""
PLACEMENTS = 800
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


@dataclass(frozen=True)
class _Wanted:
    """What a canvas must have."""

    gutter: tuple[int, int]
    """Cells between two islands, along y and x."""
    cell: tuple[float, float]
    """Height and width of a cell in pixels."""
    area: float
    """Cells of a canvas that is small enough."""
    most: float
    """Cells of a canvas that is only taken if there is no other one."""

    def cost(self, canvas: Canvas) -> tuple[bool, float]:
        """Return a key that is smallest for the best canvas.

        It is the area, or for a long canvas that of a wider one with the same longest side, which
        decides about the resolution of an image of a given size.
        """
        height, width = canvas.rows * self.cell[0], canvas.columns * self.cell[1]
        return canvas.area > self.most, max(height * width, max(height, width) ** 2 / LONG)


def pack_islands(
    cells: Mask,
    gutter: tuple[int, int] = (1, 1),
    cell: tuple[float, float] = (1.0, 1.0),
    compact: float = 1.3,
) -> Canvas:
    """Place the islands of `cells` (rows, cols) on a canvas.

    There are at least `gutter` cells (y, x) between two islands, but not between pieces of one.
    `cell` is the height and width of a cell in pixels: the canvas is about square in pixels.
    If it has more than `compact` times as many cells as `cells`, islands are cut into pieces.
    """
    area = compact * int(np.count_nonzero(cells))
    cells = with_small_holes(cells)
    islands = island_shapes(cells)
    unmoved = _as_on_the_slide(islands)
    apart = gutter == (1, 1)
    wanted = _Wanted(gutter, cell, area, unmoved.area if apart else math.inf)
    best = _best_canvas(islands, wanted)
    if apart:
        best = min(best, unmoved, key=wanted.cost)
    for near in (0, *NEAR) if len(islands) > FEW else (0,):
        for shapes in _divisions(island_shapes(cells, near)):
            if best.area <= wanted.area:
                return best
            best = min(best, _best_canvas(shapes, wanted), key=wanted.cost)
    return best


def _as_on_the_slide(shapes: list[Shape]) -> Canvas:
    """Return the islands where they are: one cell at least lies between them."""
    top, left = min(shape.y for shape in shapes), min(shape.x for shape in shapes)
    rows = max(shape.y + shape.mask.shape[0] for shape in shapes) - top
    columns = max(shape.x + shape.mask.shape[1] for shape in shapes) - left
    at = tuple((shape.y - top, shape.x - left) for shape in shapes)
    return Canvas(rows, columns, tuple(shapes), at)


def _divisions(islands: list[Shape]) -> Iterator[list[Shape]]:
    """Yield the islands in more and more pieces: cut where it wastes least, then in bands."""
    shapes, limit = islands, len(islands) + MAX_PIECES
    for _ in range(ROUNDS):
        pieces = _cut_wasteful(shapes)
        if len(pieces) == len(shapes):
            break
        yield pieces
        if len(pieces) >= limit:
            break
        shapes = pieces
    for height in BANDS:
        pieces = [piece for shape in islands for piece in _banded(shape, height)]
        if len(pieces) >= 2 * limit:
            break
        yield pieces


def _banded(shape: Shape, height: int) -> list[Shape]:
    """Return the bands of an island, or the island if it nearly fills its bounding box."""
    return bands(shape, height) if shape.waste > FULL * shape.mask.size else [shape]


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


def _best_canvas(shapes: list[Shape], wanted: _Wanted) -> Canvas:
    """Return the best canvas over several widths and orders of the shapes."""
    tissue = sum(int(np.count_nonzero(shape.mask)) for shape in shapes)
    side = math.sqrt(1.2 * tissue * wanted.cell[0] / wanted.cell[1])
    widest = max(shape.mask.shape[1] for shape in shapes)
    widths = sorted({max(widest, round(side * factor)) for factor in WIDTHS})
    tries = [(order, width) for order in _orders(shapes) for width in widths]
    tries = tries[:: max(1, -(-len(tries) * len(shapes) // PLACEMENTS))]
    placed = (_place(shapes, order, width, wanted.gutter) for order, width in tries)
    return min(placed, key=wanted.cost)


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
