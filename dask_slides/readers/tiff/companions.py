"""The files that hold the other planes of an OME-TIFF, which are opened on request only.

Metadata may name any file of the machine. So every name is looked at before one of the files
is opened: it must be a plain one, of a regular file that lies beside the slide.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from dask_slides.core.limits import Limits
from dask_slides.errors import (
    SlideChangedError,
    SlideFormatError,
    SlideLimitError,
    SlideNotFoundError,
    SlideUnsupportedError,
)
from dask_slides.readers.remote.identity import Identity, check_identity, identify
from dask_slides.readers.tiff.directories import MAGIC, Structure, check_structure

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


@dataclass(frozen=True)
class Companion:
    """A file beside the slide that holds planes of it."""

    path: str
    identity: Identity

    @property
    def name(self) -> str:
        """What messages call it."""
        return os.path.basename(self.path)


def names_in(tiff: Any) -> list[str]:
    """Return the names of other files in the metadata of an open TIFF; none is looked at.

    They are all that tifffile may come to open, and read from the very text that it reads. A
    DOCTYPE and texts of any size were refused when the structure was looked at.
    """
    root = _metadata_of(tiff)
    return [] if root is None else _names(root, tiff)


def _names(root: Element, tiff: Any) -> list[str]:
    named = [(one.get("FileName", ""), one.text) for one in root.iter() if one.tag.endswith("UUID")]
    own = root.get("UUID")
    if own is not None:  # a slide that was renamed is still known by it
        return sorted({name for name, uuid in named if uuid != own})
    # it is the one by which the slide names itself, if that is one
    known = len({uuid for name, uuid in named if _is_slide(name, tiff)}) == 1
    return sorted({name for name, _ in named if not (known and _is_slide(name, tiff))})


def _is_slide(name: str, tiff: Any) -> bool:
    return bool(name.lower() == tiff.filename.lower())  # so does tifffile compare them


def _metadata_of(tiff: Any) -> Element | None:
    from xml.etree import ElementTree

    if not tiff.is_ome:
        return None
    try:
        return ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:  # of which tifffile makes nothing either
        return None


def companions_of(path: str, tiff: Any) -> tuple[Companion, ...]:
    """Return the files that the slide at `path` names, each looked at and none opened.

    `tiff` is the slide, opened by tifffile, whose series nobody has asked for yet. Its folder is
    the one it really lies in.

    Raises
    ------
    SlideFormatError
        A name leads out of the folder of the slide, to something else than a file, or to itself.
    SlideNotFoundError
        There is no file of that name.
    SlideUnsupportedError
        The metadata lie in another file themselves.
    """
    root = _metadata_of(tiff)
    if root is None:
        return ()
    if any(one.tag.endswith("BinaryOnly") for one in root):
        raise SlideUnsupportedError(
            f"{path}: its metadata lie in another file, which is not read; open the OME-TIFF that "
            "holds them, or save all as one file"
        )
    return tuple(_checked(path, tiff, name) for name in _names(root, tiff))


def _checked(path: str, tiff: Any, name: str) -> Companion:
    where = f"{path}: its metadata name the file {name!r}"
    if _is_slide(name, tiff):
        raise SlideFormatError(
            f"{where} with the UUID of another one, and that is the slide itself; give the files "
            "their own names back"
        )
    parts = {PurePosixPath(name).name, PureWindowsPath(name).name}  # a slide may come from either
    if parts != {name} or name in ("", ".."):
        raise SlideFormatError(
            f"{where}, which is not the name of a file beside it; do not trust the slide"
        )
    folder = tiff.filehandle.dirname
    real = os.path.realpath(os.path.join(folder, name))
    if os.path.dirname(real) != os.path.realpath(folder):
        raise SlideFormatError(
            f"{where}, a link that leads out of its folder; put the file itself there if you trust "
            "the slide"
        )
    try:
        status = os.stat(real)
    except OSError as error:
        raise SlideNotFoundError(
            f"{where}, which is not there ({error.strerror}); put it beside the slide, or open the "
            "slide without companions"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise SlideFormatError(f"{where}, which is no file; do not trust the slide")
    return Companion(real, identify(real))


def structures_of(
    path: str, slide: Structure, companions: tuple[Companion, ...], limits: Limits
) -> dict[str, Structure]:
    """Return the structure of each file by its path: of the slide, and of its companions.

    The limit of pages is that of all files together.
    """
    found = {path: slide}
    for one in companions:
        where = f"{path}: companion {one.name}"
        with open(one.path, "rb") as file:
            if file.read(4) not in MAGIC:
                raise SlideFormatError(f"{where} is no TIFF; fetch it again")
            found[one.path] = check_structure(where, file, one.identity.size, limits)
        if sum(len(file.tags) for file in found.values()) > limits.pages:
            raise SlideLimitError(
                f"{path}: more than {limits.pages:,} images in the slide and its companions; if "
                "that is right, open it with limits=Limits(pages=...)"
            )
    return found


def check_known(path: str, tiff: Any, known: tuple[Companion, ...]) -> None:
    """Raise SlideChangedError unless the companions of an open slide are those that are `known`.

    No other one is opened when its series are asked for.
    """
    if companions_of(path, tiff) != known:
        raise SlideChangedError(f"{path}: a companion changed since it was opened; open it again")


def keep_open(path: str, series: Any, companions: tuple[Companion, ...]) -> None:
    """Open the files of a series of tifffile, which has closed them, until the slide is closed.

    What is open now is what was looked at, and is not asked for by its name again.
    """
    try:
        for level in series.levels:
            for page in level.pages:
                if page is not None and page.parent.filehandle.closed:
                    page.parent.filehandle.open()
    except OSError as error:
        raise SlideUnsupportedError(
            f"{path}: it and its {len(companions)} companions cannot be open at a time "
            f"({error.strerror}); allow more open files, or save all as one file"
        ) from error
    for one in companions:
        check_identity(one.path, one.identity)
