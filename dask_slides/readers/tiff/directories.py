"""Check the structure of a TIFF before tifffile reads it; no pixel is read.

tifffile also opens broken files: it ends the list of pages where directories loop, leaves out
values beyond the end of the file and cuts tables that are too long. The pixels would be wrong, so
such files are refused here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.limits import Limits
from dask_slides.errors import SlideFormatError, SlideLimitError, SlideTruncatedError

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
          16: 8, 17: 8, 18: 8}  # fmt: skip
"""Bytes of a value, by its type."""
_INTEGERS = frozenset({1, 3, 4, 9, 13, 16, 18})
"""Integer types. Some writers use 9, which is signed, in place of 4."""
_NUMBERS = frozenset({254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 322,
                      323, 324, 325, 330, 338, 339})  # fmt: skip
"""Tags with integers that describe the pixels and where they are stored; each may occur once."""
_TEXTS = frozenset({270, 700, 42112})
"""Tags that hold XML: description, XMP and GDAL's metadata."""
_SUB_DIRECTORIES = 330
_MOST_TAGS = 4096
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF."""


@dataclass(frozen=True)
class Format:
    """The layout of the directories of a TIFF."""

    order: str
    big: bool
    ndpi: bool
    """Whether offsets of directories have 64 bits in a classic TIFF, as Hamamatsu writes them."""

    @property
    def pointer(self) -> str:
        """Struct format of the offset of a directory."""
        return self.order + ("Q" if self.big or self.ndpi else "I")

    @property
    def count(self) -> str:
        """Struct format of the number of entries."""
        return self.order + ("Q" if self.big else "H")

    @property
    def entry(self) -> np.dtype[np.void]:
        """Dtype of an entry; the value stays bytes."""
        size = "u8" if self.big else "u4"
        value = "V8" if self.big else "V4"
        fields = [("code", "u2"), ("type", "u2"), ("count", size), ("value", value)]
        return np.dtype([(name, kind if "V" in kind else self.order + kind)
                         for name, kind in fields])  # fmt: skip


Counts = Mapping[int, int]
"""Number of values of each tag of a directory."""


@dataclass(frozen=True)
class Structure:
    """The checked structure of a TIFF."""

    size: int
    """Bytes of the file."""
    tags: Mapping[int, Counts]
    """Tags of each directory, by its offset."""
    reserved: NDArray[np.int64]
    """Byte ranges (n, 2) of header, directories and tables, where no tile can lie."""


@dataclass
class _Walk:
    """A walk over the directories of one file."""

    path: str
    file: BinaryIO
    size: int
    limits: Limits
    format: Format
    found: dict[int, Counts]
    reserved: list[tuple[int, int]]

    def read(self, offset: int, size: int, what: str) -> bytes:
        if offset + size > self.size:
            raise SlideTruncatedError(
                f"{self.path}: {what} at byte {offset:,} reaches beyond the end of the file at "
                f"{self.size:,}; the file was cut short, fetch it again"
            )
        self.file.seek(offset)
        return self.file.read(size)

    def chain(self, offset: int) -> Iterator[int]:
        """Check the directories from `offset` on; yield the offsets of their sub-directories."""
        chained: set[int] = set()
        # a list of sub-images and the chain of pages may name the same directories
        while offset and (offset in chained or offset not in self.found):
            if offset in chained:
                raise SlideFormatError(
                    f"{self.path}: the list of images is a loop: the directory at byte {offset:,} "
                    "is in it twice; export the slide again"
                )
            if len(self.found) >= self.limits.pages:
                raise SlideLimitError(
                    f"{self.path}: more than {self.limits.pages:,} images in one file; if that is "
                    "right, open it with limits=Limits(pages=...)"
                )
            entries, following = self.directory(offset)
            chained.add(offset)
            self.found[offset] = self.checked(offset, entries)
            yield from self.sub_directories(entries)
            offset = following

    def directory(self, offset: int) -> tuple[NDArray[np.void], int]:
        """Return the entries of the directory at `offset`, and the offset of the next one."""
        layout = self.format
        head = struct.calcsize(layout.count)
        what = f"directory {len(self.found)}"
        (count,) = struct.unpack(layout.count, self.read(offset, head, what))
        if not 0 < count <= _MOST_TAGS:
            raise SlideFormatError(
                f"{self.path}: the directory at byte {offset:,} has {count:,} tags, which no "
                "image has; the file is damaged, fetch it again"
            )
        size = layout.entry.itemsize
        tail = struct.calcsize(layout.pointer)
        # the pointer to a next directory may be missing at the end of the file
        left = max(0, min(tail, self.size - offset - head - count * size))
        data = self.read(offset + head, count * size + left, what)
        if left < tail and any(data[count * size :]):
            self.read(offset + head, count * size + tail, what)
        (following,) = struct.unpack(layout.pointer, data[count * size :].ljust(tail, b"\0"))
        self.reserved.append((offset, offset + head + len(data)))
        return np.frombuffer(data, layout.entry, count), following

    def checked(self, offset: int, entries: NDArray[np.void]) -> Counts:
        """Return how many values the tags have; refuse values beyond the end of the file."""
        counts: dict[int, int] = {}
        where = f"{self.path}: the directory at byte {offset:,}"
        for code, kind, count, value in entries.tolist():
            if code in _NUMBERS:
                if code in counts:
                    raise SlideFormatError(f"{where} has tag {code} twice; export the slide again")
                if kind not in _INTEGERS or not count:
                    raise SlideFormatError(
                        f"{where} has tag {code} of type {kind} with {count:,} values, not "
                        "integers; the file is damaged, fetch it again"
                    )
            counts[code] = count
            nbytes = count * _SIZES.get(kind, 0)
            if nbytes <= len(value):
                continue
            if code in _TEXTS and nbytes > self.limits.description_bytes:
                raise SlideLimitError(
                    f"{where} has a text of {nbytes:,} bytes (tag {code}), more than "
                    f"{self.limits.description_bytes:,}; if that is right, open it with "
                    "limits=Limits(description_bytes=...)"
                )
            (start,) = struct.unpack(self.format.order + "IQ"[len(value) == 8], value)
            if self.format.ndpi and self.size >= 2**32:
                continue  # the high bits of the offset are stored elsewhere
            if code in _TEXTS:
                text = self.read(start, nbytes, f"the value of tag {code}")
                self.check_doctype(where, code, text)
            elif start + nbytes > self.size:
                self.read(start, nbytes, f"the value of tag {code}")
            elif code in _NUMBERS:
                self.reserved.append((start, start + nbytes))
        return counts

    def check_doctype(self, where: str, code: int, text: bytes) -> None:
        """Refuse XML with entities, which can name other files or expand without limit."""
        lowered = text.lower() if b"<!" in text else b""
        if b"<!doctype" in lowered or b"<!entity" in lowered:
            raise SlideFormatError(
                f"{where} has XML with a DOCTYPE (tag {code}), which no scanner writes; "
                "do not trust the file"
            )

    def sub_directories(self, entries: NDArray[np.void]) -> Iterator[int]:
        """Yield the offsets of the sub-directories in `entries`."""
        for code, kind, count, value in entries.tolist():
            if code != _SUB_DIRECTORIES:
                continue
            each = {4: "I", 13: "I", 16: "Q", 18: "Q"}.get(kind)
            if each is None or count > self.limits.pages:
                raise SlideFormatError(
                    f"{self.path}: {count:,} sub-images of type {kind}; the file is damaged, "
                    "fetch it again"
                )
            nbytes = count * struct.calcsize(each)
            data = value[:nbytes]
            if nbytes > len(value):
                (start,) = struct.unpack(self.format.order + "IQ"[len(value) == 8], value)
                data = self.read(start, nbytes, "the list of sub-images")
            yield from struct.unpack(f"{self.format.order}{count}{each}", data)


def check_structure(path: str, file: BinaryIO, size: int, limits: Limits) -> Structure:
    """Return the structure of a TIFF of `size` bytes.

    Raises SlideTruncatedError if a part lies beyond the end of the file, SlideFormatError for
    loops and contradictions, and SlideLimitError beyond `limits`.
    """
    file.seek(0)
    head = file.read(16)
    if len(head) < 8:
        raise SlideTruncatedError(
            f"{path}: {size} bytes are not a TIFF; the file was cut short, fetch it again"
        )
    order = ">" if head[:2] == b"MM" else "<"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    ndpi = not big and order == "<" and path.lower().endswith(".ndpi")
    layout = Format(order, big, ndpi)
    walk = _Walk(path, file, size, limits, layout, {}, [(0, 16 if big else 8)])
    if big and head[4:8] != struct.pack(order + "HH", 8, 0):
        raise SlideFormatError(
            f"{path}: a BigTIFF whose offsets do not have 8 bytes; check the file"
        )
    at = 8 if big else 4
    (first,) = struct.unpack(
        layout.pointer, walk.read(at, struct.calcsize(layout.pointer), "the header")
    )
    if not first:
        raise SlideFormatError(f"{path}: the file holds no image; check the file")
    waiting = [first]
    while waiting:
        # no recursion: a file can nest directories to any depth
        waiting += walk.chain(waiting.pop())
    return Structure(size, walk.found, np.array(walk.reserved, np.int64))
