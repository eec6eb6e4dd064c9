"""Parse lengths: a number and the name of a unit."""

from __future__ import annotations

import math
import re
from typing import Any

_NUMBER = re.compile(r"\+?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?")
_METRES = {
    "Y": ("yotta", 24), "Z": ("zetta", 21), "E": ("exa", 18), "P": ("peta", 15), "T": ("tera", 12),
    "G": ("giga", 9), "M": ("mega", 6), "k": ("kilo", 3), "h": ("hecto", 2), "da": ("deca", 1),
    "": ("", 0), "d": ("deci", -1), "c": ("centi", -2), "m": ("milli", -3), "µ": ("micro", -6),
    "n": ("nano", -9), "p": ("pico", -12), "f": ("femto", -15), "a": ("atto", -18),
    "z": ("zepto", -21), "y": ("yocto", -24),
}  # fmt: skip
_INCH = 25_400.0
_MICROMETRES = {
    "um": 1.0, "micron": 1.0, "Å": 1e-4, "angstrom": 1e-4, "ångström": 1e-4,
    "thou": _INCH / 1000, "mil": _INCH / 1000, "pt": _INCH / 72, "point": _INCH / 72,
    "li": _INCH / 12, "line": _INCH / 12, "in": _INCH, "inch": _INCH, "inches": _INCH,
    "ft": 12 * _INCH, "foot": 12 * _INCH, "feet": 12 * _INCH, "yd": 36 * _INCH, "yard": 36 * _INCH,
    "mi": 63_360 * _INCH, "mile": 63_360 * _INCH, "ua": 149_597_870_700e6,
    "ly": 9_460_730_472_580_800e6, "pc": 3.0856775814913673e22, "parsec": 3.0856775814913673e22,
}  # fmt: skip
for _symbol, (_prefix, _power) in _METRES.items():
    for _name in (f"{_symbol}m", f"{_prefix}meter", f"{_prefix}metre"):
        _MICROMETRES[_name] = float(f"1e{_power + 6}")


def number_above_zero(value: Any) -> float | None:
    """Return a number or text as a positive number, else None; text may have a decimal comma."""
    text = str(value).strip()
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text.replace(",", "."))
    return number if 0 < number < math.inf else None


def micrometres(unit: Any) -> float | None:
    """Return the micrometres in a unit of length, by its name in OME, UDUNITS or ImageJ."""
    if not isinstance(unit, str):
        return None
    # ImageJ escapes other than ASCII letters; Unicode has two micro and two angstrom signs
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), unit.strip())
    text = text.replace("\u03bc", "\u00b5").replace("\u212b", "\u00c5")
    if len(text) > 3:  # case matters in symbols (Mm, mm), not in words
        text = text.lower()
    return _MICROMETRES.get(text, _MICROMETRES.get(text.removesuffix("s") if len(text) > 3 else ""))
