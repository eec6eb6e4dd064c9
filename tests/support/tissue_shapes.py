"""Generated slides as masks of tiles with tissue: sections, biopsies and ragged pieces."""

import numpy as np
from scipy import ndimage

SCANS = ((0.25, 240), (0.25, 256), (0.25, 256), (0.25, 512), (0.5, 240), (0.5, 256))
"""Micrometres per pixel and side of a tile, as scanners write them."""


def outline(rng, shape, centre, radius, aspect, angle, rough):
    """Return a blob whose outline is a circle with noise, stretched and rotated."""
    dy, dx = (n + 0.5 - c for n, c in zip(np.mgrid[: shape[0], : shape[1]], centre, strict=True))
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / np.sqrt(aspect)
    across = (dy * np.cos(angle) - dx * np.sin(angle)) * np.sqrt(aspect)
    turn = np.arctan2(across, along)
    waves = (rng.normal() / k * np.cos(k * turn + rng.uniform(0, 6.28)) for k in range(2, 8))
    return np.hypot(along, across) <= radius * np.clip(1 + rough * sum(waves), 0.3, 2)


def sections(rng, shape, tile):
    """Yield 1 to 12 sections of one block, of 4 to 18 mm together."""
    count = int(rng.integers(1, 13))
    size = rng.uniform(2, 9) / count**0.4 / tile
    aspect, angle, rough = rng.uniform(1, 2.5), rng.uniform(0, 3.14), rng.uniform(0.1, 0.35)
    for _ in range(count):
        radius = min(size * rng.uniform(0.8, 1.2), 0.42 * min(shape))
        own = aspect * rng.uniform(0.85, 1.2), angle + rng.normal() * 0.3
        yield lambda c, radius=radius, own=own: outline(rng, shape, c, radius, *own, rough)


def biopsies(rng, shape, tile):
    """Yield 1 to 8 cores of 0.7 to 1.2 mm by 5 to 18 mm, about parallel and slightly bent."""
    angle = rng.uniform(0, 3.14)
    for _ in range(int(rng.integers(1, 9))):
        width, length = rng.uniform(0.7, 1.2) / tile, rng.uniform(5, 18) / tile
        turns = angle + rng.normal() * 0.15 + rng.normal() * 0.5 * np.linspace(-0.5, 0.5, 600)

        def core(centre, width=width, length=length, turns=turns):
            line = np.ones(shape, bool)
            steps = np.stack([np.sin(turns), np.cos(turns)]) * length / 600
            path = np.cumsum(steps, axis=1)
            y, x = (path - path.mean(axis=1)[:, None] + np.array(centre)[:, None]).astype(int)
            inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            line[y[inside], x[inside]] = False
            wide = ndimage.gaussian_filter(rng.normal(size=shape), 0.6 / tile)
            return ndimage.distance_transform_edt(line) <= width / 2 * (
                1 + 0.15 * wide / wide.std()
            )

        yield core


def ragged(rng, shape, tile):
    """Yield one area of pieces with holes, frayed at a scale of 0.3 to 1 mm."""
    frayed = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.3, 1) / tile)
    kept = frayed / frayed.std() > rng.uniform(-0.4, 0.8)
    size = min(shape) * rng.uniform(0.3, 0.5)
    form = rng.uniform(1, 1.8), rng.uniform(0, 3.14)
    yield lambda _: outline(rng, shape, [n / 2 for n in shape], size, *form, 0.2) & kept


def tissue_tiles(seed):
    """Return the tiles (rows, cols) with tissue of a generated slide; half are sections."""
    rng = np.random.default_rng(seed)
    mpp, side = SCANS[rng.integers(len(SCANS))]
    tile = mpp * side / 1000  # millimetres
    shape = int(rng.uniform(12, 24) / tile), int(rng.uniform(15, 45) / tile)
    kind = (sections, sections, biopsies, ragged)[rng.integers(4)]
    out = np.zeros(shape, bool)
    while out.sum() < 20:
        for draw in kind(rng, shape, tile):
            for _ in range(20):  # until it lies apart from the others
                one = draw([rng.uniform(0.2 * n, 0.8 * n) for n in shape])
                if not (ndimage.binary_dilation(one, iterations=2) & out).any():
                    out |= one
                    break
    for _ in range(int(rng.integers(4))):  # dust
        y, x = (int(rng.integers(n)) for n in shape)
        out[y : y + int(rng.integers(1, 4)), x : x + int(rng.integers(1, 4))] = True
    return out
