"""How bright and how sharp tiles are."""

from __future__ import annotations

import numpy as np

from dask_slides.core.types import Array


def grey_and_focus(tiles: Array) -> tuple[float, float]:
    """Return the mean grey value of tiles, and the median of their sharpness.

    The sharpness of a tile is the variance of its Laplacian over the variance of its grey values,
    the means of its channels. It is high for fine detail and falls when the tile is blurred; stain
    and exposure hardly change it. J. Pech-Pacheco et al., Diatom autofocusing in brightfield
    microscopy, ICPR 2000, use the variance of the Laplacian.

    Parameters
    ----------
    tiles : ndarray, (n, h, w, c)
        At least one tile.

    Examples
    --------
    >>> fine = np.indices((1, 64, 64)).sum(axis=0)[..., None] % 2
    >>> coarse = fine.repeat(4, axis=1).repeat(4, axis=2)
    >>> grey_and_focus(fine)[1] > grey_and_focus(coarse)[1]
    True
    """
    from scipy.ndimage import laplace

    grey = tiles.mean(axis=-1, dtype=np.float32)
    sharpness = [
        float(laplace(one).var()) / float(one.var()) if one.var() > 0 else 0.0 for one in grey
    ]
    return float(grey.mean(dtype=np.float64)), float(np.median(sharpness))
