"""``python -m benchmarks.annotations``: time the classes of tiles from many polygons.

Draws polygons of 20 points like nuclei, of three classes, over a square slide of 100,000 tiles of
256 px, and two regions of 50,000 points each. Compares some tiles with shapely, one by one.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import shapely

from dask_slides.core.polygons import Outline, Polygons, starts_of
from dask_slides.core.types import Array
from dask_slides.ops.annotations import Annotations, class_coverage

TILE = 256
POINTS = 20
CLASSES = ("tumour", "lymphocyte", "stroma")


def nuclei(count: int, radius: float, side: int) -> Polygons:
    """Return polygons with centres anywhere in a square; some overlap."""
    rng = np.random.default_rng(0)
    angle = np.sort(rng.random((count, POINTS)), axis=1) * 2 * np.pi
    around = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    distance = radius * rng.uniform(0.7, 1.3, (count, POINTS, 1))
    points = rng.random((count, 1, 2)) * side + distance * around
    return Polygons(points.reshape(-1, 2), np.arange(count + 1) * POINTS, np.arange(count + 1))


def regions(side: int, points: int = 50_000) -> list[Outline]:
    """Return two polygons with wavy sides, which cover a third of the square."""
    angle = np.arange(points) / points * 2 * np.pi
    wave = side / 5 * (1 + 0.1 * np.sin(97 * angle) + 0.02 * np.sin(5003 * angle))
    ring = np.stack([np.sin(angle), np.cos(angle)], axis=1) * wave[:, None]
    return [Outline(ring + side * at) for at in (0.3, 0.7)]


def joined(one: Polygons, other: Polygons) -> Polygons:
    lengths = [np.diff(each.ring_starts) for each in (one, other)]
    counts = [np.diff(each.polygon_starts) for each in (one, other)]
    points = np.concatenate([one.points, other.points])
    return Polygons(points, starts_of(np.concatenate(lengths)), starts_of(np.concatenate(counts)))


def tiles(side: int) -> Array:
    at = np.arange(0, side, TILE)
    y, x = (axis.reshape(-1) for axis in np.meshgrid(at, at, indexing="ij"))
    return np.stack([y, x, np.full_like(y, TILE), np.full_like(y, TILE)], axis=1)


def largest_difference(annotations: Annotations, boxes: Array, coverage: Array) -> float:
    """Return the largest difference from unions and intersections of shapely."""
    shapes = annotations.polygons.to_shapely()
    tree = shapely.STRtree(shapes)
    largest = 0.0
    for at in np.random.default_rng(1).integers(0, len(boxes), 200):
        y, x, height, width = boxes[at]
        cell = shapely.box(x, y, x + width, y + height)
        near = tree.query(cell)
        for number, share in enumerate(coverage[at]):
            union = shapely.union_all(shapes[near[annotations.labels[near] == number]])
            largest = max(largest, abs(union.intersection(cell).area / cell.area - share))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polygons", type=int, default=1_000_000)
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--radius", type=float, default=15.0, help="of a nucleus, in pixels")
    options = parser.parse_args()
    side = TILE * round(options.tiles**0.5)
    boxes = tiles(side)
    polygons = joined(nuclei(options.polygons, options.radius, side), Polygons.of(regions(side)))
    labels = np.random.default_rng(2).integers(0, len(CLASSES), len(polygons))
    labels[-2:] = 0
    annotations = Annotations(polygons, labels, CLASSES)
    start, start_cpu = time.perf_counter(), time.process_time()
    _, coverage = class_coverage(annotations, boxes)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    largest = largest_difference(annotations, boxes, coverage)
    print(f"{annotations!r} over {len(boxes):,} tiles: {seconds:.1f} s, {cpu:.1f} s of CPU")
    print(f"largest difference of the coverage of 200 tiles from shapely's: {largest:.1e}")


if __name__ == "__main__":
    main()
