"""Parse lengths: a number and the name of a unit."""

from __future__ import annotations

import math
import re
from typing import Any

_MICROMETRES = {
    "pm": 1e-6, "nm": 1e-3, "um": 1.0, "µm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4,
    "in": 25_400.0,
    "picometer": 1e-6, "nanometer": 1e-3, "micrometer": 1.0, "micron": 1.0, "millimeter": 1e3,
    "centimeter": 1e4, "meter": 1e6, "angstrom": 1e-4, "inch": 25_400.0,
}  # fmt: skip


def number_above_zero(value: Any) -> float | None:
    """Return a number or text as a positive number, else None; text may have a decimal comma."""
    try:
        number = float(str(value).replace(",", "."))
    except ValueError:
        return None
    return number if 0 < number < math.inf else None


def micrometres(unit: Any) -> float | None:
    """Return the micrometres in a unit that microscopes use; None for other units."""
    if not isinstance(unit, str):
        return None
    # ImageJ escapes other than ASCII letters; Unicode has two micro and two angstrom signs
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), unit.strip())
    text = text.replace("\u03bc", "\u00b5").replace("\u212b", "\u00c5")
    if len(text) > 3:  # case matters in symbols (Mm, mm), not in words
        text = text.lower().replace("metre", "meter")
        text = "inch" if text == "inches" else text.removesuffix("s")
    return _MICROMETRES.get(text)
