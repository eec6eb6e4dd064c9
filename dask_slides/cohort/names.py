"""Folder names of slides: valid on every system, distinct, and stable between runs."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

LONGEST = 100
"""Maximum bytes of a name in UTF-8, so that hidden files derived from it stay below 255 bytes."""
_RESERVED = {"con", "prn", "aux", "nul"}
_RESERVED |= {port + digit for port in ("com", "lpt") for digit in "0123456789"}
"""Device names on Windows, reserved with any suffix after the first dot."""
PROCESS_LIST = "process_list.csv"
"""File name of the table in the job folder."""
LOG = "cohort.log"
"""File name of the log in the job folder."""
EXPORTS = "exports"
"""Name of the folder of exports in the job folder."""
REPORT = "report.html"
"""File name of the report in the job folder."""
_SUFFIXES = (".ome.zarr", ".ome.tiff", ".ome.tif")
_ALLOWED = "-_.+@=#, ()"


def folded(name: str) -> str:
    """Normalize a name: names that a file system may not distinguish give the same text."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def safe_name(text: str) -> str:
    """Make `text` a valid folder name: one path component, printable, short, not reserved."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(char if char.isalnum() or char in _ALLOWED else "_" for char in text)
    text = text.encode("utf-8", "replace")[: LONGEST - 1].decode("utf-8", "ignore")
    text = text.lstrip(". ").rstrip(". ") or "slide"
    reserved = folded(text.partition(".")[0].strip()) in _RESERVED
    return f"_{text}" if reserved or folded(text) in (PROCESS_LIST, LOG, REPORT, EXPORTS) else text


def stem(path: str) -> str:
    """Return the last component of a path or URL without the suffix of its format."""
    last = path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    for suffix in _SUFFIXES:
        if last.lower().endswith(suffix) and len(last) > len(suffix):
            return last[: -len(suffix)]
    head, dot, _ = last.rpartition(".")
    return head if dot and head else last


def names_for(
    paths: Iterable[str], given: Mapping[str, str], before: Mapping[str, str]
) -> dict[str, str]:
    """Return a name for each path: the user's, that of an earlier run, or one made from the path.

    If several paths give the same name, each name gets the first digits of the checksum of its
    path, so that names do not depend on the order of the list.

    Parameters
    ----------
    paths
        Paths of all slides, without duplicates.
    given, before
        Names from the user, and names in an earlier run, by path.
    """
    fixed = {path: given.get(path) or before.get(path) for path in paths}
    used = {folded(name) for name in (*before.values(), *given.values())}
    wanted = {path: safe_name(stem(path)) for path, name in fixed.items() if name is None}
    count = Counter(folded(name) for name in wanted.values())
    for path, name in wanted.items():
        if count[folded(name)] > 1 or folded(name) in used:
            short = name.encode()[: LONGEST - 9].decode("utf-8", "ignore").rstrip(". ")
            digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
            name = f"{short}-{digest[:8]}"
        fixed[path] = name
    return {path: str(name) for path, name in fixed.items()}
