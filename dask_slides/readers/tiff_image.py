"""Which image of a TIFF file is the slide, whether it can be read, and what its samples mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dask_slides.errors import (
    SlideFormatError,
    SlideLimitError,
    SlideTruncatedError,
    SlideUnsupportedError,
)
from dask_slides.readers.frames import JPEG
from dask_slides.readers.limits import Limits
from dask_slides.readers.pixels import Conversion
from dask_slides.readers.preflight import Structure
from dask_slides.readers.strict import DECODED
from dask_slides.readers.strict_bytes import BYTES
from dask_slides.readers.tiff_tags import is_mapped
from dask_slides.readers.tile_sizes import check_raw, samples_of, tile_size

_PHOTOMETRIC = {0, 1, 2, 3, 6}
_LUMA = JPEG | {33003, 50001, 34933}
"""Compressions whose decoder makes RGB of luma and chroma, or whose samples we do."""
_BESIDE = {"label", "macro", "map", "overview", "thumbnail"}
"""Series that are no slide, in small letters: some show a person's name."""
_BITS = {1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64}
_UNPREDICTED = {1, 32773, 34887}
"""Compressions for which tifffile applies a predictor and libtiff does not."""
_TABLES = (273, 279, 324, 325)
"""Tags of the offsets and byte counts of strips and tiles."""


def largest_series(path: str, all_series: list[Any]) -> tuple[int, Any]:
    """Return the series that is the slide: not label, macro or thumbnail, most pixels."""
    best: tuple[int, int, Any] | None = None
    for index, series in enumerate(all_series):
        if series.name.lower() in _BESIDE or 0 in series.shape:
            continue
        sizes = dict(zip(series.axes, series.shape, strict=True))
        area = sizes.get("Y", 0) * sizes.get("X", 0)
        if area and (best is None or area > best[0]):
            best = (area, index, series)
    if best is None:
        raise SlideFormatError(f"{path}: the file holds no image; check the file")
    return best[1], best[2]


def check_level(where: str, level: Any) -> None:
    """Refuse what tifffile would read as zeros or as something else than the picture."""
    page = level.keyframe
    if page.dtype is None or page.dtype.kind not in "buif" or page.bitspersample not in _BITS:
        raise SlideUnsupportedError(
            f"{where} has samples of {page.bitspersample} bits, format {page.sampleformat}; "
            "convert it to 8 or 16-bit integers or 32-bit floats"
        )
    if int(page.photometric) not in _PHOTOMETRIC:
        name = getattr(page.photometric, "name", page.photometric)
        raise SlideUnsupportedError(f"{where} is in colour space {name}; convert it to RGB")
    luma = page.photometric == 6 and page.compression not in _LUMA
    if page.compression == 6 or luma:
        raise SlideUnsupportedError(
            f"{where} holds YCbCr outside of JPEG, or old-style JPEG; convert it to RGB"
        )
    if page.predictor != 1 and int(page.compression) in _UNPREDICTED:
        raise SlideUnsupportedError(
            f"{where} has a predictor (tag 317) although its codec has none: some programs apply "
            "it, libtiff does not; save it without"
        )
    if page.predictor == 3 and page.dtype.kind != "f" and int(page.compression) in BYTES:
        raise SlideUnsupportedError(
            f"{where} has the predictor of floating point (tag 317) for {page.dtype}; save it anew"
        )
    if page.compression == 33007 and page.description.startswith("Aperio"):
        raise SlideUnsupportedError(
            f"{where} holds Aperio's uncompressed YUYV (33007), which is not read; save it as JPEG"
        )
    orientation = page.tags.valueof(274, 1)
    if orientation != 1:
        raise SlideUnsupportedError(f"{where} has orientation {orientation}; save it upright")
    if getattr(page.decode, "__name__", "").startswith("decode_raise"):
        try:
            page.decode(None, 0)
        except Exception as error:  # the reason, whatever class tifffile gives it
            raise SlideUnsupportedError(
                f"{where} cannot be decoded ({' '.join(str(error).split())}); "
                "install imagecodecs, or convert it to a tiled JPEG TIFF"
            ) from None
    if int(page.compression) not in DECODED:
        name = getattr(page.compression, "name", page.compression)
        raise SlideUnsupportedError(
            f"{where} is compressed as {name}, whose tiles do not tell their size beforehand; "
            "convert it to a tiled JPEG or JPEG 2000 TIFF"
        )


def check_declared(where: str, level: Any, limits: Limits) -> None:
    """Refuse sizes that are none, or beyond `limits`."""
    page = level.keyframe
    height, width = tile_size(page)
    if min(height, width, page.samplesperpixel, page.imagelength, page.imagewidth) < 1:
        raise SlideFormatError(
            f"{where} declares {page.imagelength} x {page.imagewidth} px of {page.samplesperpixel} "
            f"samples in tiles of {height} x {width}; the file is damaged, fetch it again"
        )
    if page.imagelength * page.imagewidth > limits.pixels:
        raise SlideLimitError(
            f"{where} declares {page.imagelength:,} x {page.imagewidth:,} px; if that is right, "
            "open it with limits=Limits(pixels=...)"
        )
    if page.samplesperpixel > limits.channels:
        raise SlideLimitError(
            f"{where} has {page.samplesperpixel:,} samples a pixel; if that is right, open it with "
            "limits=Limits(channels=...)"
        )
    decoded = height * width * samples_of(page) * page.dtype.itemsize
    if decoded > limits.tile_bytes and not is_mapped(level):
        raise SlideLimitError(
            f"{where} has tiles of {height:,} x {width:,} px, {decoded:,} bytes each in memory; "
            "save it in smaller tiles, or open it with limits=Limits(tile_bytes=...)"
        )


def check_tables(where: str, page: Any, one: Any, file: Structure) -> None:
    """Refuse offsets and byte counts that cannot be those of `one`, a page like `page`.

    How many there are is asked of the `file`, as tifffile has mended what it could.
    """
    if one is None:
        raise SlideFormatError(
            f"{where} lacks a page that its metadata name; if that is in a file beside it, open it "
            "with companions=True, or save all as one file"
        )
    counts = file.tags.get(one.offset, {})
    expected = math.prod(page.chunked)
    lengths = [counts[code] for code in _TABLES if code in counts]
    found = [len(one.dataoffsets), len(one.databytecounts)]
    # one strip after the other, which tifffile takes for one; NDPI keeps a table of its own
    merged = page.jpegheader is not None or (found == [1, 1] and page.is_contiguous)
    if lengths == [1, 1] and not any(one.dataoffsets) and not any(one.databytecounts):
        merged = True  # one 0 for all: none of them is in the file
    if found != [expected] * 2 or (not merged and lengths and lengths != [expected] * 2):
        told = lengths if len(lengths) == 2 else found
        raise SlideFormatError(
            f"{where} has {told[0]} offsets and {told[1]} byte counts for {expected} tiles; "
            "fetch the file again"
        )
    offsets, nbytes = np.array(one.dataoffsets, np.int64), np.array(one.databytecounts, np.int64)
    if (offsets < 0).any() or (nbytes < 0).any():
        raise SlideFormatError(f"{where} has tiles at negative offsets; fetch the file again")
    there = np.flatnonzero((offsets > 0) & (nbytes > 0))
    if not len(there):
        return
    beyond = there[offsets[there] + nbytes[there] > file.size]
    if len(beyond):
        first = int(beyond[0])
        raise SlideTruncatedError(
            f"{where}: {len(beyond):,} of {expected:,} tiles lie beyond the end of the file, tile "
            f"{first} at byte {offsets[first]:,} first; the file was cut short, fetch it again"
        )
    # glass that was not scanned is often one tile, named again and again: those are the same
    order = there[np.argsort(offsets[there], kind="stable")]
    starts, stops = offsets[order], offsets[order] + nbytes[order]
    same = (starts[1:] == starts[:-1]) & (stops[1:] == stops[:-1])
    overlap = np.flatnonzero((starts[1:] < stops[:-1]) & ~same)
    if len(overlap):
        raise SlideFormatError(
            f"{where}: the tile at byte {starts[overlap[0] + 1]:,} begins within the one before "
            "it; the file is damaged, fetch it again"
        )
    before = np.searchsorted(starts, file.taken[:, 1]) - 1  # the last that begins in time
    inside = before[(before >= 0) & (stops[before] > file.taken[:, 0])]
    if len(inside):
        raise SlideFormatError(
            f"{where}: the tile at byte {starts[inside[0]]:,} lies where a table or a "
            "directory lies; the file is damaged, fetch it again"
        )
    if page.compression == 1 and len(nbytes) == expected:
        wrong = check_raw(page, nbytes)
        if wrong is not None:
            raise SlideFormatError(
                f"{where}: tile {wrong[0]} has {wrong[1]:,} bytes, which is not what its pixels "
                "take; fetch the file again"
            )


def check_alike(where: str, level: Any) -> None:
    """Refuse pages that are not stored as the first one is, by which all of them are decoded."""
    for number, page in enumerate(level.pages):
        if page is None or page.is_virtual:  # without tags of its own
            continue
        if page.aspage().hash != level.keyframe.hash:
            raise SlideUnsupportedError(
                f"{where}: plane {number} is not stored as the first one is (size, tiles, codec, "
                "bits or colour space); save all of them alike"
            )


def conversion_of(path: str, page: Any, channels: int, fill: float) -> Conversion:
    """Return what the samples of a page of tifffile mean, or refuse it."""
    photometric = int(page.photometric)
    if photometric == 3:
        if page.colormap is None or page.dtype != np.uint8 or channels != 1:
            raise SlideUnsupportedError(f"{path}: a palette that is not 8-bit; convert it to RGB")
        table = np.asarray(page.colormap)
        table = table // 256 if table.max() > 255 else table  # some writers leave 8-bit values
        full = np.zeros((256, 3), np.uint8)
        full[: table.shape[1]] = table.T
        return Conversion(palette=full.tobytes(), fill=fill)
    bits = page.bitspersample
    scale = None
    if page.dtype == np.bool_:
        scale = 255
    elif page.dtype == np.uint8 and bits in (2, 4):
        scale = 255 // (2**bits - 1)
    # Aperio's scanners write YCbCr and call it RGB, others what they say
    is_aperio = page.description.startswith("Aperio")
    # tifffile's SAMPLE kinds: 0 is a channel like any other, 1 and 2 are alpha
    kinds = tuple(int(kind) for kind in page.extrasamples)
    alpha = {1: "premultiplied", 2: "straight"}.get(kinds[-1]) if kinds and channels > 1 else None
    plain = page.dtype.kind in "bu" and bits in (1, 2, 4, 8, 16, 32) and alpha is None
    if photometric == 0 and not plain:
        raise SlideUnsupportedError(
            f"{path}: {bits}-bit {page.dtype} where 0 is white, with alpha or an unknown black; "
            "save it with black at 0"
        )
    return Conversion(
        scale=scale,
        invert=photometric == 0,
        ycbcr=page.compression == 33003 and channels == 3 and (is_aperio or photometric == 6),
        alpha=alpha,  # type: ignore[arg-type]
        fill=fill,
    )
