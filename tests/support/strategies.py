"""Hypothesis strategies for shapes, images, tile sizes, ratios and chunks."""

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

KERNELS = ("nearest", "area", "linear", "cubic", "lanczos")

sides = st.integers(1, 70)
shapes = st.tuples(sides, sides)
channels = st.sampled_from([1, 3, 4, 5])
tiles = st.tuples(st.integers(1, 40), st.integers(1, 40))
kernels = st.sampled_from(KERNELS)
seeds = st.integers(0, 2**32 - 1)
sixteenths = st.integers(0, 16 * 10_000).map(lambda k: k / 16)


def pixels(seed, shape, dtype):
    """Return seeded noise with flat parts, over the whole range of `dtype`."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        image = rng.normal(0.5, 0.3, shape).astype(dtype)
    else:
        info = np.iinfo(dtype)
        image = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    top, left = (int(rng.integers(0, side)) for side in shape[:2])
    image[top : top + shape[0] // 2, left:] = image[0, 0]
    return image


@st.composite
def images(draw, dtype="uint8", shapes=shapes, channels=channels):
    """Return an image (y, x, c)."""
    return pixels(draw(seeds), (*draw(shapes), draw(channels)), dtype)


@st.composite
def lengths(draw, size):
    """Return arbitrary chunk lengths that add up to `size`."""
    cuts = draw(st.sets(st.integers(1, max(1, size - 1)), max_size=4)) if size > 1 else set()
    edges = [0, *sorted(cuts), size]
    return tuple(b - a for a, b in pairwise(edges))


@st.composite
def chunkings(draw, shape):
    """Return chunk lengths along y and x for an image of `shape`."""
    return draw(lengths(shape[0])), draw(lengths(shape[1]))
