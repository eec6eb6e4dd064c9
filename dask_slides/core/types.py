"""Types that all modules share."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of any shape and dtype. Docstrings say which one."""
