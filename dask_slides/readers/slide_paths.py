"""Find the slides that paths, folders and patterns name, on disks and in buckets."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

from dask_slides.core.arguments import is_remote
from dask_slides.errors import SlideNotFoundError
from dask_slides.readers.registry import UNREAD, cures, is_dicom_folder, optional_suffixes
from dask_slides.readers.remote.object_store import BUCKETS, checked_address, exists, list_folder

SUFFIXES = (
    ".svs", ".tif", ".tiff", ".btf", ".tf8", ".ndpi", ".scn", ".bif", ".qptiff", ".lsm", ".zarr",
    ".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".bmp",
    ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Suffixes of slides in a folder; patterns and paths may name any file."""
ZARR_FILES = frozenset({"zarr.json", ".zattrs", ".zgroup"})
"""Files that make a folder a Zarr store, whatever its name."""


def slide_paths(text: str) -> tuple[list[str], list[str]]:
    """Return the slides that a path, a folder or a pattern names, sorted, and what is left out.

    Files of a folder that are not slides are left out; each comes with the reason. Raises
    SlideNotFoundError if there are no slides.
    """
    if is_remote(text):
        return _at_address(text)
    path = os.path.abspath(text)
    if os.path.isdir(path) and not _is_slide_folder(path):
        inside = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        folders = [one.path for one in inside if one.is_dir()]
        return _folder(path, [one.path for one in inside if one.is_file()], folders)
    if os.path.lexists(path):
        return [path], []
    if not glob.has_magic(text):
        raise SlideNotFoundError(f"{text}: No such file or directory; check the path")
    fixed = path.index(next(filter(glob.has_magic, path.split(os.sep))))
    found = [
        one for one in glob.glob(path, recursive=True)
        if _is_slide(one) and not _in_store(one[fixed:])
    ]  # fmt: skip
    return _matching(text, found), []


def _at_address(text: str) -> tuple[list[str], list[str]]:
    """Return the slides of an address; only buckets can be listed."""
    path = checked_address(text)
    if path.partition(":")[0] not in BUCKETS:
        return [path], []
    if glob.has_magic(path) and not exists(path):
        return _matching(path, list(_glob(path))), []
    known = path.lower().endswith(SUFFIXES + optional_suffixes())
    files, folders = ([], []) if known else list_folder(path)
    if not (files or folders) or not ZARR_FILES.isdisjoint(files):
        return [path], []
    visible = ([f"{path}/{one}" for one in names if one[0] != "."] for names in (files, folders))
    return _folder(path, *visible)


def _matching(pattern: str, found: list[str]) -> list[str]:
    if not found:
        raise SlideNotFoundError(f"{pattern}: no slide matches; check the pattern")
    return sorted(found)


def _glob(pattern: str) -> Iterator[str]:
    """Yield the addresses that match a pattern, as `glob.glob` does for files."""
    scheme, _, rest = pattern.partition("://")
    bucket, *parts = rest.split("/")
    yield from dict.fromkeys(_walk(f"{scheme}://{bucket}", parts))


def _walk(folder: str, parts: list[str]) -> Iterator[str]:
    """Yield the objects and Zarr stores below `folder` whose names match `parts`."""
    first, *rest = parts
    if rest and not glob.has_magic(first):
        yield from _walk(f"{folder}/{first}", rest)
        return
    files, folders = list_folder(folder)
    stores = [one for one in folders if one.lower().endswith(".zarr")]
    if first == "**":
        yield from _walk(folder, rest or ["*"])
        for one in folders:
            if one not in stores and one[0] != ".":
                yield from _walk(f"{folder}/{one}", parts)
    else:  # not into stores, whose chunks may be many
        for one in set(folders) - set(stores) if rest else [*files, *stores]:
            if fnmatchcase(one, first) and (one[0] != "." or first[0] == "."):
                yield from _walk(f"{folder}/{one}", rest) if rest else [f"{folder}/{one}"]


def _is_slide_folder(path: str) -> bool:
    is_store = path.lower().endswith(".zarr") or any(
        os.path.isfile(os.path.join(path, name)) for name in ZARR_FILES
    )
    return is_store or is_dicom_folder(path)


def _folder(path: str, files: list[str], folders: list[str]) -> tuple[list[str], list[str]]:
    """Return the slides of a folder, by their suffixes, and its other files."""
    known = SUFFIXES + optional_suffixes()
    slides = [one for one in files + folders if one.lower().endswith(known)]
    slides += [one for one in folders if one not in slides and is_dicom_folder(one)]
    others = [one for one in files if one not in set(slides)]
    if not slides:
        unread = next((_reason(one) for one in others if _unread(one)), "it")
        which = "" if unread == "it" else f" that are read (such as {unread})"
        raise SlideNotFoundError(f"{path}: this folder has no slides{which}; give a pattern")
    left_out = [_reason(one) for one in others]
    # a MIRAX slide keeps its pixels in a folder of its name
    taken = {*slides, *(os.path.splitext(one)[0] for one in slides)}
    deeper = sum(one not in taken for one in folders)
    if deeper:
        pattern = os.path.join(path, "**", "*.svs")
        count = f"{deeper:,} subfolder{'s' * (deeper > 1)}"
        left_out.append(f"{path}: {count}; give a pattern such as {pattern!r} to read slides there")
    return sorted(slides), left_out


def _unread(path: str) -> tuple[str, str] | None:
    """Return the description of a format that is not read, and the advice; None for others."""
    return UNREAD.get(os.path.splitext(path)[1].lower())


def _reason(path: str) -> str:
    """Return why the file at `path` is left out."""
    known = _unread(path)
    if known is None:
        return f"{path}: does not have the suffix of a slide; name the file to read it"
    description, advice = known
    stem = os.path.splitext(os.path.basename(path))[0]
    return f"{path}: {description.format(stem=stem)}; {', or '.join([*cures(path), advice])}"


def _in_store(path: str) -> bool:
    """Return whether `path` is a file of a Zarr store, such as a chunk."""
    return ".zarr" in (os.path.splitext(one)[1].lower() for one in path.split(os.sep)[:-1])


def _is_slide(path: str) -> bool:
    return os.path.isfile(path) or _is_slide_folder(path)
