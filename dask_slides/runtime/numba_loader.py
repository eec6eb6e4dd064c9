"""Load the Numba kernels where a job is large enough to gain from them."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

LOADING = 1.5
"""Seconds of one core that importing Numba and its cached kernels takes, rounded up.

It takes 110 MB of memory too, which a small job should not need.
"""

_MODULE = "dask_slides.numerics.numba_kernels"
_lock = threading.Lock()
_loaded: list[Any] = []
"""The module once an import was tried: None if it cannot be used."""


def numba_kernels(seconds: float) -> Any:
    """Return `dask_slides.numerics.numba_kernels`, or None if numpy and Pillow are to be used.

    Both give the same bits. `seconds` is what the whole job, not this call, would save.
    """
    # while one thread imports the module the others go on without it
    if not _loaded and seconds >= LOADING and _lock.acquire(blocking=False):
        try:
            if not _loaded:
                _loaded.append(_import())
        finally:
            _lock.release()
    return _loaded[0] if _loaded else None


def _import() -> Any:
    if sys.byteorder != "little":
        return None
    try:
        import numba

        module = importlib.import_module(_MODULE)
    except Exception:  # Numba is missing or does not fit numpy, which it reports in many ways
        return None
    return None if numba.config.DISABLE_JIT else module
