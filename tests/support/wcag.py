"""Contrast of colours, as WCAG 2.2 defines it."""

import numpy as np


def luminance(rgb):
    """Return the relative luminance of 8-bit colours (..., 3)."""
    share = np.asarray(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def contrast(one, other):
    """Return the contrast of 8-bit colours (..., 3), from 1 to 21."""
    first, second = luminance(one) + 0.05, luminance(other) + 0.05
    return np.maximum(first / second, second / first)
