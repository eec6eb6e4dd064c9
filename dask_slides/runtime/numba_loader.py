"""Load the Numba kernels for jobs that are large enough to gain from them."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

LOADING = 1.5
"""Seconds to import Numba and its cached kernels on one core, rounded up.

They also take 110 MB of memory, which a small job should not need.
"""

_MODULE = "dask_slides.numerics.numba_kernels"
_lock = threading.Lock()
_loaded: list[Any] = []
"""The module, or None if it cannot be used; empty before the first import."""
_missed = 0.0
"""Seconds that the calls of this process would have saved so far."""


def numba_kernels(job: float = 0.0, call: float = 0.0) -> Any:
    """Return `dask_slides.numerics.numba_kernels`, or None to use NumPy and Pillow instead.

    Both give the same bits. `job` is the time that the whole job would save, if it is known, and
    `call` that of this call. Many small calls load the kernels too.
    """
    global _missed
    # while one thread imports the module, the others continue without it
    if not _loaded:
        _missed += call  # an addition that another thread overwrites does not matter
        if max(job, _missed) >= LOADING and _lock.acquire(blocking=False):
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
    except Exception:  # Numba is missing, or does not support this NumPy and raises any error
        return None
    return None if numba.config.DISABLE_JIT else module
