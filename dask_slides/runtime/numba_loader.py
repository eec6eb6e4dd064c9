"""When the compiled loops are used: where loading Numba pays, or has been paid."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

LOADING = 1.5
"""Seconds of one core that Numba and what it compiled once take to load, and a little more;
and 110 MB, which no small job should have to find."""

MORE = 0.1
"""The same for another module of them."""

_lock = threading.Lock()
_modules: dict[str, Any] = {}
"""Those that were loaded, by name; None if they cannot be."""


def numba_kernels(name: str, seconds: float) -> Any:
    """Return a module of `dask_slides.numerics.loops`, or None where other libraries are to do it.

    `seconds` is what the whole job, not this call, would save. Whether it is loaded changes
    no pixel: both ways give the same bits.
    """
    # while one thread loads it the others go on without
    if (
        name not in _modules
        and seconds >= (MORE if any(_modules.values()) else LOADING)
        and _lock.acquire(blocking=False)
    ):
        try:
            if name not in _modules:
                _modules[name] = _loaded(name)
        finally:
            _lock.release()
    return _modules.get(name)


def _loaded(name: str) -> Any:
    if sys.byteorder != "little":
        return None
    try:
        import numba

        module = importlib.import_module(f"dask_slides.numerics.loops.{name}")
    except Exception:  # absent, or of another age than numpy: it says so in many ways
        return None
    return None if numba.config.DISABLE_JIT else module
