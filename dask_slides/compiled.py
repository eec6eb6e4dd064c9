"""When the compiled loops are used: where loading Numba pays, or has been paid."""

from __future__ import annotations

import sys
import threading
from typing import Any

LOADING = 1.5
"""Seconds of one core that Numba and what it compiled once take to load, and a little more;
and 110 MB, which no small job should have to find."""

_lock = threading.Lock()
_loops: Any = None
_is_missing = sys.byteorder != "little"


def loops(seconds: float) -> Any:
    """Return the module `dask_slides.loops`, or None where numpy and Pillow are to do it.

    `seconds` is what the whole job, not this call, would save. Whether it is loaded changes
    no pixel: both ways give the same bits.
    """
    global _loops, _is_missing
    if _loops is not None or _is_missing or seconds < LOADING:
        return _loops
    # while one thread loads them the others go on without
    if _lock.acquire(blocking=False):
        try:
            _loops = _loops or _loaded()
            _is_missing = _loops is None
        finally:
            _lock.release()
    return _loops


def _loaded() -> Any:
    try:
        import numba

        from dask_slides import loops as compiled
    except Exception:  # absent, or of another age than numpy: it says so in many ways
        return None
    return None if numba.config.DISABLE_JIT else compiled
