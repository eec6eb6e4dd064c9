"""Methods of tissue detection: dask_slides, and classical ones written from their papers.

A method takes an image (h, w, c) and its pixel size in µm (or None) and returns a mask (h, w). The
methods were made for bright glass. Where an image is dark, they are given its bright side: the
brightness, stretched per channel, in place of darkness or of saturation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, filters

Image = NDArray[Any]
Mask = NDArray[np.bool_]
Grey = NDArray[np.uint8]
Method = Callable[[Image, float | None], Mask]

MPP = 8.0
"""The pixel size that is assumed where none is known."""
PIECE, HOLE = 10_000, 50_000
"""Areas in µm²: smaller pieces are dropped and smaller holes filled where a paper gives none."""


def ours(image: Image, mpp: float | None) -> Mask:
    """Return the mask of dask_slides with its defaults."""
    from dask_slides.numerics.tissue import find_tissue

    return np.asarray(find_tissue(image, mpp=mpp), bool)


def otsu_grey(image: Image, mpp: float | None) -> Mask:
    """Threshold the grey value as Otsu (1979)."""
    return clean(above_otsu(darkness(image)), mpp)


def otsu_saturation(image: Image, mpp: float | None) -> Mask:
    """Threshold the saturation as Otsu, after a Gaussian blur of 1 px."""
    blurred = ndimage.gaussian_filter(saturation(image).astype(np.float32), 1)
    return clean(above_otsu(blurred.round().astype(np.uint8)), mpp)


def clam(image: Image, mpp: float | None) -> Mask:
    """Detect tissue as CLAM does (Lu et al. 2021), with the defaults of its script.

    Saturation, median of 7 px, threshold 8, closing with 4 px; pieces of at least 100 and holes of
    at least 16 reference patches of 512 px of level 0, which are taken as 0.25 µm; at most 8 holes
    in a piece.
    """
    return _clam(saturation(image), mpp, threshold=8, median=7, close=4, areas=(100, 16), holes=8)


def clam_biopsy(image: Image, mpp: float | None) -> Mask:
    """Detect tissue as CLAM does with its preset for biopsies."""
    return _clam(saturation(image), mpp, threshold=15, median=11, close=2, areas=(1, 1), holes=2)


def clam_otsu(image: Image, mpp: float | None) -> Mask:
    """Detect tissue as CLAM does with Otsu's threshold and the areas of its preset for biopsies."""
    grey = saturation(image)
    return _clam(grey, mpp, threshold=None, median=7, close=4, areas=(1, 1), holes=2)


def _clam(
    grey: Grey, mpp: float | None, *, threshold: int | None, median: int, close: int,
    areas: tuple[float, float], holes: int,
) -> Mask:  # fmt: skip
    smooth = filters.rank.median(grey, np.ones((median, median), np.uint8))
    mask = above_otsu(smooth) if threshold is None else smooth > threshold
    mask = closed(mask, close)
    patch = (512 * 0.25) ** 2
    kept = np.zeros_like(mask)
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    for number, window in enumerate(ndimage.find_objects(numbers, count), 1):
        piece = numbers[window] == number
        filled = ndimage.binary_fill_holes(piece)
        inner, _ = ndimage.label(filled & ~piece)
        sizes = np.bincount(inner.ravel())[1:]
        if filled.sum() - sizes.sum() < pixels(areas[0] * patch, mpp):
            continue
        largest = np.argsort(sizes)[::-1][:holes]
        open_holes = 1 + largest[sizes[largest] > pixels(areas[1] * patch, mpp)]
        kept[window] |= filled & ~np.isin(inner, open_holes)
    return kept


def trident(image: Image, mpp: float | None) -> Mask:
    """Detect tissue as TRIDENT (Zhang et al. 2025) does without a model, at 8 µm a pixel.

    Each field of 512 px is judged by itself. Grey pixels (saturation up to 10 of 255 with a value
    from 70) and black ones (value up to 85) become white; Otsu on grey; pieces of up to 60 px are
    dropped and all but the rest made white; Otsu again; holes of up to 5,000 px are filled.
    """
    rgb, grey = _bright_side(image), saturation(image)
    value = rgb.max(-1)
    if not is_dark(image):
        rgb[((grey <= 10) & (value >= 70)) | (value <= 85)] = 255
    mask = np.zeros(grey.shape, bool)
    for y, x in np.ndindex(-(-grey.shape[0] // 512), -(-grey.shape[1] // 512)):
        field = np.s_[y * 512 : y * 512 + 512, x * 512 : x * 512 + 512]
        mask[field] = _two_thresholds(rgb[field])
    return mask


def _two_thresholds(rgb: Grey) -> Mask:
    first = _below_otsu(255 * color.rgb2gray(rgb))
    rgb[~_without_small(first, 60)] = 255
    second = _below_otsu(255 * color.rgb2gray(rgb))
    return _filled(second, 5000)


def double_pass(image: Image, mpp: float | None) -> Mask:
    """Find the glass first, then all that differs from it.

    The first pass takes the brighter half of what Otsu's threshold leaves as glass and measures its
    colour in CIELAB: the median and how far pixels lie from it. The second thresholds how far each
    pixel lies from that colour: by Otsu, within 3 to 8 times the distance in glass.
    """
    lab = color.rgb2lab(ndimage.median_filter(_bright_side(image), (3, 3, 1)))
    light = lab[..., 0]
    bright = light >= np.median(light[~above_otsu(darkness(image))])
    middle = np.median(lab[bright], 0)
    away = np.linalg.norm(lab - middle, axis=-1)
    spread = 1.4826 * np.median(away[bright])
    limit = np.clip(_otsu(away), max(3 * spread, 2), max(8 * spread, 4))
    return clean(closed(away > limit, 3), mpp)


METHODS: dict[str, Method] = {
    "ours": ours,
    "Otsu grey": otsu_grey,
    "Otsu saturation": otsu_saturation,
    "CLAM": clam,
    "CLAM biopsy": clam_biopsy,
    "CLAM Otsu": clam_otsu,
    "TRIDENT Otsu": trident,
    "double pass": double_pass,
}


def is_dark(image: Image) -> bool:
    """Tell whether an image is fluorescence: not 8-bit RGB, or mostly black."""
    return image.shape[-1] != 3 or image.dtype != np.uint8 or bool(np.median(image) < 80)


def _stretched(image: Image) -> Grey:
    """Return the channels of a dark image, each from its lowest to its 99.5 % quantile."""
    low, high = np.percentile(image, (0.5, 99.5), (0, 1))
    return np.asarray(np.clip((image - low) / np.maximum(high - low, 1) * 255, 0, 255), np.uint8)


def _bright_side(image: Image) -> Grey:
    """Return a copy as RGB on which tissue is darker than the background."""
    if not is_dark(image):
        return image.copy()
    return np.repeat(255 - darkness(image)[..., None], 3, -1)


def darkness(image: Image) -> Grey:
    """Return how much tissue darkens each pixel, or brightens it in a dark image."""
    if is_dark(image):
        return np.asarray(_stretched(image).mean(-1).round(), np.uint8)
    return np.asarray(255 - (255 * color.rgb2gray(image)).round(), np.uint8)


def saturation(image: Image) -> Grey:
    """Return the saturation of HSV, 0 to 255, or the brightness of a dark image."""
    if is_dark(image):
        return darkness(image)
    high, low = image.max(-1).astype(np.float32), image.min(-1)
    return np.asarray(np.divide(255 * (high - low), np.maximum(high, 1)).round(), np.uint8)


def _otsu(values: NDArray[Any]) -> float:
    return float(filters.threshold_otsu(values)) if np.ptp(values) else float(values.max())


def above_otsu(grey: NDArray[Any]) -> Mask:
    """Return what lies above Otsu's threshold."""
    return np.asarray(grey > _otsu(grey))


def _below_otsu(grey: NDArray[Any]) -> Mask:
    return np.asarray(grey < _otsu(grey)) if np.ptp(grey) else np.zeros(grey.shape, bool)


def pixels(area: float, mpp: float | None) -> float:
    """Return an area in µm² in pixels."""
    return area / (mpp or MPP) ** 2


def closed(mask: Mask, side: int) -> Mask:
    """Close gaps with a square; the picture goes on beyond its rim."""
    padded = np.pad(mask, side, "edge")
    done = ndimage.binary_closing(padded, np.ones((side, side)))
    return np.asarray(done[side:-side, side:-side])


def clean(mask: Mask, mpp: float | None) -> Mask:
    """Fill holes up to HOLE and drop pieces up to PIECE."""
    filled = _filled(mask, pixels(HOLE, mpp))
    return _without_small(filled, pixels(PIECE, mpp))


def _without_small(mask: Mask, area: float) -> Mask:
    numbers, _ = ndimage.label(mask)
    return np.asarray(mask & (np.bincount(numbers.ravel()) > area)[numbers])


def _filled(mask: Mask, area: float) -> Mask:
    return ~_without_small(~mask, area)
