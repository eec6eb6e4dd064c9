"""Reference results from slow, simple code on whole arrays, without dask_slides."""

import math

import numpy as np
from PIL import Image

PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "area": Image.Resampling.BOX,
    "linear": Image.Resampling.BILINEAR,
    "cubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def pillow_resize(image, shape, kernel="lanczos"):
    """Resize 8-bit `image` (y, x, c) as a whole, one channel after the other.

    Resize columns first, then rows. Pillow 13 starts with the rows where that is less work, which
    changes the rounding between the passes. One axis at a time gives the same result with every
    version.
    """

    def one(channel):
        picture = Image.fromarray(np.ascontiguousarray(channel))
        middle = picture.resize((shape[1], picture.height), PILLOW[kernel])
        return np.asarray(middle.resize((shape[1], shape[0]), PILLOW[kernel]))

    return np.stack([one(image[..., c]) for c in range(image.shape[2])], axis=-1)


def grey(image):
    """Return the mean of the channels of `image` (y, x, c), rounded down if it has integers."""
    total = sum(image[..., c].astype(np.float64) for c in range(image.shape[-1]))
    mean = total / image.shape[-1]
    return mean if image.dtype.kind == "f" else np.floor(mean).astype(np.int64)


def _sinc(x):
    return 1.0 if x == 0 else math.sin(math.pi * x) / (math.pi * x)


def _cubic(x):
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


KERNELS = {
    "area": (0.5, lambda x: 1.0 if -0.5 < x <= 0.5 else 0.0),
    "linear": (1.0, lambda x: max(0.0, 1 - abs(x))),
    "cubic": (2.0, _cubic),
    "lanczos": (3.0, lambda x: _sinc(x) * _sinc(x / 3) if abs(x) < 3 else 0.0),
}


def weight_matrix(n_in, n_out, kernel):
    """Return the dense (n_out, n_in) matrix of a resize of an axis, number by number."""
    support, function = KERNELS[kernel]
    ratio = n_in / n_out
    widen = max(ratio, 1.0)
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        centre = (i + 0.5) * ratio
        first = max(0, int(centre - support * widen + 0.5))
        last = min(n_in, int(centre + support * widen + 0.5))
        for j in range(first, last):
            matrix[i, j] = function((j + 0.5 - centre) / widen)
        matrix[i] /= math.fsum(matrix[i])
    return matrix


def nearest_resize(image, shape):
    """Take the pixel at the centre of each output pixel; valid for ratios without ties."""
    rows = [int((i + 0.5) * image.shape[0] / shape[0]) for i in range(shape[0])]
    columns = [int((j + 0.5) * image.shape[1] / shape[1]) for j in range(shape[1])]
    return image[rows][:, columns]


def _resize_matrices(image, shape, kernel):
    """Return the weights (output, input) along y and x; an axis of the same size is kept."""
    return (
        np.eye(after) if before == after else weight_matrix(before, after, kernel)
        for before, after in zip(image.shape[:2], shape, strict=True)
    )


def dense_resize(image, shape, kernel):
    """Resize any `image` (y, x, c) in float64 by dense matrices; columns first, then rows.

    Integers are rounded between the passes, as in Pillow. The result is float64, and rounded for
    integers. A NaN spreads to all output pixels in which its weight is not zero.
    """
    rows, columns = _resize_matrices(image, shape, kernel)
    missing = np.isnan(image.astype(np.float64))
    values = np.where(missing, 0.0, image.astype(np.float64))

    def rounded(result):
        if image.dtype.kind == "f":
            return result
        info = np.iinfo(image.dtype)
        return np.clip(np.rint(result), info.min, info.max)

    result = rounded(np.einsum("jx,yxc->yjc", columns, values))
    result = rounded(np.einsum("iy,yjc->ijc", rows, result))
    spread = np.einsum("jx,yxc->yjc", abs(columns) > 1e-9, missing.astype(float))
    spread = np.einsum("iy,yjc->ijc", abs(rows) > 1e-9, spread)
    return np.where(spread > 0, np.nan, result)


def dense_ties(image, shape, kernel):
    """Return which pixels of `dense_resize` depend on how a half is rounded, in either pass."""
    rows, columns = _resize_matrices(image, shape, kernel)

    def is_tie(exact):
        return np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 1e-6

    info = np.iinfo(image.dtype)
    middle = np.einsum("jx,yxc->yjc", columns, image.astype(np.float64))
    ties = np.einsum("iy,yjc->ijc", (np.abs(rows) > 1e-9).astype(float), is_tie(middle)) > 0
    middle = np.clip(np.rint(middle), info.min, info.max)
    return ties | is_tie(np.einsum("iy,yjc->ijc", rows, middle))


def psnr(one, two):
    """Return the peak signal to noise ratio of two 8-bit images in decibels."""
    error = np.mean((one.astype(np.float64) - two.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def area_pyramid(image, count):
    """Return `count` levels, each the mean of whole blocks of level 0, rounded half up."""
    levels = []
    for side in (2**number for number in range(1, count + 1)):
        starts = [np.arange(0, size, side) for size in image.shape[:2]]
        sums = np.add.reduceat(image.astype(np.int64), starts[0], axis=0)
        sums = np.add.reduceat(sums, starts[1], axis=1)
        height, width = (
            np.minimum(start + side, size) - start
            for start, size in zip(starts, image.shape, strict=False)
        )
        area = (height[:, None] * width)[..., None]
        levels.append(((2 * sums + area) // (2 * area)).astype(image.dtype))
    return levels


def cells(image, tile):
    """Yield (row, col, pixels) of a grid of `tile` (h, w), including partial tiles at the edges."""
    for row, top in enumerate(range(0, image.shape[0], tile[0])):
        for col, left in enumerate(range(0, image.shape[1], tile[1])):
            yield row, col, image[top : top + tile[0], left : left + tile[1]]


def per_cell(image, tile, judge):
    """Return the results of `judge` for the pixels of each cell as (rows, cols)."""
    found = {(row, col): judge(pixels) for row, col, pixels in cells(image, tile)}
    rows, cols = (1 + max(key[axis] for key in found) for axis in (0, 1))
    return np.array([[found[row, col] for col in range(cols)] for row in range(rows)])


def contrast_blank(image, tile, ratio):
    """Return (rows, cols) bool: std <= ratio * mean, in float64."""
    return per_cell(
        image,
        tile,
        lambda p: p.std(dtype=np.float64) <= ratio * p.mean(dtype=np.float64),
    )


def kept_lines(blank, axis, tile, size):
    """Return the source rows (axis 0) or columns (axis 1) that a cut keeps, one by one."""
    dropped = blank.all(axis=1 - axis)
    return np.array([i for i in range(size) if not dropped[i // tile]], int)


def cut(image, blank, tile):
    """Return `image` without the wholly blank rows and columns of the grid."""
    for axis in (0, 1):
        kept = kept_lines(blank, axis, tile[axis], image.shape[axis])
        gone = np.setdiff1d(np.arange(image.shape[axis]), kept)
        image = np.delete(image, gone, axis=axis)
    return image


def tiles_at(image, y, x, tile, fill=255):
    """Return tiles (n, h, w, c) by slicing a copy of `image` with `fill` around it."""
    padded = np.pad(
        image, ((0, tile[0]), (0, tile[1]), (0, 0)), mode="constant", constant_values=fill
    )
    return np.stack([padded[a : a + tile[0], b : b + tile[1]] for a, b in zip(y, x, strict=True)])


def starts(size, tile, stride, edge):
    """Return the starts of tiles along an axis, found one after the other."""
    found = [at for at in range(0, size, stride) if at + tile <= size]
    end = found[-1] + tile if found else 0
    if edge != "drop" and end < size:
        found.append(size - tile if edge == "shift" else (found[-1] + stride if found else 0))
    return found
