"""Check that a page can be read, and find the conversion of its samples."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np

from dask_slides.core.limits import Limits
from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideFormatError,
    SlideLimitError,
    SlideTruncatedError,
    SlideUnsupportedError,
)
from dask_slides.readers.codecs.byte_codecs import BYTES
from dask_slides.readers.codecs.colour import BT601, FULL_RANGE, Conversion
from dask_slides.readers.codecs.fax import FAX
from dask_slides.readers.codecs.headers import JPEG
from dask_slides.readers.codecs.strict import DECODED
from dask_slides.readers.codecs.tile_sizes import check_raw, is_subsampled, samples_of, tile_size
from dask_slides.readers.tiff.directories import Structure
from dask_slides.readers.tiff.tags import is_mapped, photometric_of, reason_of_tags

_PHOTOMETRIC = {0, 1, 2, 3, 5, 6}
_LUMA = JPEG | {33003, 50001, 34933}
"""Compressions in which YCbCr is converted to RGB, by the decoder or here."""
_JPEG2000 = {33003, 33004, 33005, 34712}
_OF_FLOATS = {3, 34894, 34895}
"""Predictors for floats only."""
_NEVER_PREDICTED = {1, 32773, 34887}
"""Compressions for which libtiff ignores the tag of the predictor: none, PackBits and LERC."""
_PLAIN = BYTES | {1}
"""Compressions that store YCbCr as bytes."""
_BITS = {1, 2, 4, *range(8, 33), 64}
_TABLES = (273, 279, 324, 325)
"""Tags with the offsets and byte counts of strips and tiles."""


def check_level(where: str, level: Any) -> None:
    """Refuse a level that tifffile would read as zeros or as other pixels."""
    page = level.keyframe
    bits = page.bitspersample
    height, width = tile_size(page)
    if min(height, width, page.samplesperpixel, page.imagelength, page.imagewidth) < 1:
        raise SlideFormatError(
            f"{where} declares {page.imagelength} x {page.imagewidth} px of {page.samplesperpixel} "
            f"samples in tiles of {height} x {width}; the file is damaged, fetch it again"
        )
    if page.dtype is None or page.dtype.kind not in "buif" or bits not in _BITS:
        each = "different bits" if isinstance(bits, tuple) else f"{bits} bits"
        raise SlideUnsupportedError(
            f"{where} has samples of {each}, format {page.sampleformat}; "
            "convert it to 8 or 16-bit integers or 32-bit floats"
        )
    if bits > 24 and page.compression in _JPEG2000:
        raise SlideUnsupportedError(
            f"{where} has JPEG 2000 of {bits} bits, of which its decoder returns 24; convert it to "
            "another codec"
        )
    plain = page.compression in _PLAIN and page.dtype.kind == "u"
    if bits == 24 and plain and page.parent.byteorder == ">":
        raise SlideUnsupportedError(
            f"{where} has integers of 24 bits in a big-endian file, whose byte order differs "
            "between programs; convert it to 32 bits"
        )
    is_named = 262 in page.tags or page.samplesperpixel < 3 or page.compression in _PLAIN
    if not is_named or photometric_of(page) not in _PHOTOMETRIC:
        name = getattr(page.photometric, "name", page.photometric) if is_named else "unknown"
        raise SlideUnsupportedError(f"{where} is in colour space {name}; convert it to RGB")
    if page.compression == 6:
        raise SlideUnsupportedError(f"{where} is an old-style JPEG; convert it to RGB")
    if page.photometric == 6 and page.compression not in _LUMA:
        _check_luma(where, page)
    if page.compression == 33007 and page.description.startswith("Aperio"):
        raise SlideUnsupportedError(
            f"{where} holds Aperio's uncompressed YUYV (33007), which is not read; save it as JPEG"
        )
    if page.compression in FAX and (page.bitspersample, samples_of(page)) != (1, 1):
        raise SlideUnsupportedError(
            f"{where} is CCITT with {samples_of(page)} samples of {page.bitspersample} bits, but "
            "only one bit per pixel is read; convert it to another codec"
        )
    orientation_of(where, page)
    if page.compression in _PLAIN | _NEVER_PREDICTED and page.predictor != 1:
        _check_predictor(where, page)
    if not is_subsampled(page):
        _check_decode(where, page)
    if int(page.compression) not in DECODED:
        name = getattr(page.compression, "name", page.compression)
        raise SlideUnsupportedError(
            f"{where} is compressed as {name}, which shows the size of a tile only after decoding; "
            "convert it to a tiled JPEG or JPEG 2000 TIFF"
        )


def _check_decode(where: str, page: Any) -> None:
    """Refuse a page that tifffile does not decode."""
    try:
        decode = page.decode
        if not getattr(decode, "__name__", "").startswith("decode_raise"):
            return
        decode(None, 0)
    except Exception as error:  # tifffile raises many classes of errors here
        raise SlideUnsupportedError(
            f"{where} cannot be decoded ({reason_of_tags(error)}); "
            "convert it to a tiled JPEG or deflate TIFF"
        ) from None


def _check_predictor(where: str, page: Any) -> None:
    """Refuse predictors that libtiff ignores, or that programs apply differently."""
    packed = page.bitspersample not in (8, 16, 32, 64)
    of_floats = page.predictor in _OF_FLOATS and page.dtype.kind != "f"
    if page.compression in _NEVER_PREDICTED or packed or of_floats:
        name = getattr(page.compression, "name", page.compression)
        raise SlideUnsupportedError(
            f"{where} has predictor {page.predictor} for samples of {page.bitspersample}-bit "
            f"{page.dtype} compressed as {name}; save it without a predictor"
        )


def _check_luma(where: str, page: Any) -> None:
    """Refuse YCbCr outside of JPEG unless it has three samples of 8 bits."""
    plain = page.compression in _PLAIN and page.bitspersample == 8
    blocks = page.planarconfig == 1 and page.predictor == 1
    if not plain or page.samplesperpixel != 3 or (is_subsampled(page) and not blocks):
        raise SlideUnsupportedError(
            f"{where} holds YCbCr outside of JPEG of {page.samplesperpixel} samples of "
            f"{page.bitspersample} bits, planar configuration {int(page.planarconfig)}, predictor "
            f"{page.predictor}; convert it to RGB"
        )


def orientation_of(where: str, page: Any) -> int:
    """Return the Orientation tag of a page, 1 to 8; 1 is upright."""
    orientation = page.tags.valueof(274, 1) or 1  # some writers use 0 for unknown
    if isinstance(orientation, bytes) and len(orientation) == 1:
        orientation = orientation[0]
    if orientation not in range(1, 9):
        raise SlideUnsupportedError(
            f"{where} has orientation {orientation}, which is not known; save it upright"
        )
    return int(orientation)


def check_declared(where: str, level: Any, limits: Limits) -> None:
    """Refuse a level whose declared sizes are beyond `limits`."""
    page = level.keyframe
    height, width = tile_size(page)
    if page.imagelength * page.imagewidth > limits.pixels:
        raise SlideLimitError(
            f"{where} declares {page.imagelength:,} x {page.imagewidth:,} px; if that is right, "
            "open it with limits=Limits(pixels=...)"
        )
    if page.samplesperpixel > limits.channels:
        raise SlideLimitError(
            f"{where} has {page.samplesperpixel:,} samples per pixel; if that is right, open "
            "it with limits=Limits(channels=...)"
        )
    decoded = height * width * samples_of(page) * page.dtype.itemsize
    if decoded > limits.tile_bytes and not is_mapped(level):
        raise SlideLimitError(
            f"{where} has tiles of {height:,} x {width:,} px, {decoded:,} bytes each in memory; "
            "save it in smaller tiles, or open it with limits=Limits(tile_bytes=...)"
        )


def check_tables(where: str, page: Any, one: Any, file: Structure) -> None:
    """Refuse tables of offsets and byte counts that do not fit `one`, a page like `page`.

    The numbers of entries come from the structure of `file`, as tifffile corrects the tables.
    """
    if one is None:
        raise SlideFormatError(
            f"{where} lacks a page that its metadata name; save all planes in one file"
        )
    counts = file.tags.get(one.offset, {})
    expected = math.prod(page.chunked)
    # as libtiff does, the byte count of a single uncompressed strip is computed from its size
    known = page.jpegheader is not None or (expected == 1 and page.compression == 1)
    if counts and not known and not counts.keys() & {279, 325}:
        raise SlideFormatError(
            f"{where} lacks the byte counts of its {expected} tiles or strips; save it again"
        )
    lengths = [counts[code] for code in _TABLES if code in counts]
    found = [len(one.dataoffsets), len(one.databytecounts)]
    # tifffile joins adjacent strips; NDPI has a table of its own
    merged = page.jpegheader is not None or (found == [1, 1] and page.is_contiguous)
    if lengths == [1, 1] and not any(one.dataoffsets) and not any(one.databytecounts):
        merged = True  # a single entry of 0 means that all tiles are absent
    # libtiff and GDAL ignore entries beyond the number of tiles
    enough = len(lengths) == 2 and min(lengths) >= expected
    if found != [expected] * 2 or (not merged and lengths and not enough):
        counted = lengths if len(lengths) == 2 else found
        raise SlideFormatError(
            f"{where} has {counted[0]} offsets and {counted[1]} byte counts for {expected} tiles; "
            "fetch the file again"
        )
    offsets, nbytes = np.array(one.dataoffsets, np.int64), np.array(one.databytecounts, np.int64)
    if (offsets < 0).any() or (nbytes < 0).any():
        raise SlideFormatError(f"{where} has tiles at negative offsets; fetch the file again")
    present = np.flatnonzero((offsets > 0) & (nbytes > 0))
    if not len(present):
        return
    _check_positions(where, file, offsets, nbytes, present)
    if page.compression == 1:
        wrong = check_raw(page, nbytes)
        if wrong is not None:
            raise SlideFormatError(
                f"{where}: tile {wrong[0]} has {wrong[1]:,} bytes, which does not fit its "
                "pixels; fetch the file again"
            )


def _check_positions(
    where: str, file: Structure, offsets: Array, nbytes: Array, present: Array
) -> None:
    """Refuse tiles beyond the end of the file, over each other, or over a table or directory.

    `present` are the numbers of the tiles that are not absent.
    """
    beyond = present[offsets[present] + nbytes[present] > file.size]
    if len(beyond):
        first = int(beyond[0])
        raise SlideTruncatedError(
            f"{where}: {len(beyond):,} of {len(offsets):,} tiles lie beyond the end of the file, "
            f"tile {first} at byte {offsets[first]:,} first; the file was cut short, fetch it again"
        )
    # many entries may point to the same tile, as for glass that was not scanned
    order = present[np.argsort(offsets[present], kind="stable")]
    starts, stops = offsets[order], offsets[order] + nbytes[order]
    same = (starts[1:] == starts[:-1]) & (stops[1:] == stops[:-1])
    overlap = np.flatnonzero((starts[1:] < stops[:-1]) & ~same)
    if len(overlap):
        raise SlideFormatError(
            f"{where}: the tile at byte {starts[overlap[0] + 1]:,} begins within the one before "
            "it; the file is damaged, fetch it again"
        )
    before = np.searchsorted(starts, file.reserved[:, 1]) - 1  # the last tile before each range
    inside = before[(before >= 0) & (stops[before] > file.reserved[:, 0])]
    if len(inside):
        raise SlideFormatError(
            f"{where}: the tile at byte {starts[inside[0]]:,} overlaps a table or a "
            "directory; the file is damaged, fetch it again"
        )


def check_alike(where: str, level: Any) -> None:
    """Refuse pages that are not stored like the first one, whose tags are used for all."""
    for number, page in enumerate(level.pages):
        if page is None or page.is_virtual:  # it has no tags of its own
            continue
        own, first = page.aspage(), level.keyframe
        is_turned = orientation_of(where, own) != orientation_of(where, first)
        if is_turned or own.hash != first.hash:
            raise SlideUnsupportedError(
                f"{where}: plane {number} is stored differently from the first one (size, tiles, "
                "codec, bits, colour space or orientation); save all planes alike"
            )


def conversion_of(path: str, page: Any, channels: int, fill: float) -> Conversion:
    """Return the conversion of a page's samples to grey or RGB; refuse unsupported samples."""
    photometric, bits = photometric_of(page), page.bitspersample
    # ExtraSamples: 0 is a plain channel, 1 and 2 are alpha
    kinds = tuple(int(kind) for kind in page.extrasamples)
    if photometric == 3:
        return _palette_conversion(path, page, channels, fill)
    if photometric == 5:
        return _cmyk_conversion(path, page, channels, fill)
    scale = None
    if page.dtype == np.bool_:
        scale = 255
    elif page.dtype == np.uint8 and bits in (2, 4):
        scale = 255 // (2**bits - 1)
    # Aperio's scanners write YCbCr and call it RGB; other writers use the right tag
    is_aperio = page.description.startswith("Aperio")
    wavelet = page.compression == 33003 and channels == 3 and (is_aperio or photometric == 6)
    alpha = {1: "premultiplied", 2: "straight"}.get(kinds[-1]) if kinds and channels > 1 else None
    if any(kinds[:-1]):
        raise SlideUnsupportedError(
            f"{path}: has several alpha samples, or alpha before other samples (ExtraSamples "
            f"{kinds}); save it with one alpha as the last sample"
        )
    if alpha and page.dtype.kind in "iu" and bits not in (*range(1, 17), 32):
        raise SlideUnsupportedError(
            f"{path}: has alpha in {bits}-bit {page.dtype}, whose scale is unknown; save it in 8 "
            "or 16 bits, or without alpha"
        )
    plain = page.dtype.kind in "bu" and bits in (1, 2, 4, 8, 16, 32) and page.samplesperpixel == 1
    if photometric == 0 and not plain:
        raise SlideUnsupportedError(
            f"{path}: has {bits}-bit {page.dtype} where 0 is white, with further samples or an "
            "unknown black; save it with black at 0"
        )
    luma = photometric == 6 and int(page.compression) in _PLAIN
    packed = page.dtype == np.uint16 and bits < 16
    return Conversion(
        scale=scale,
        invert=photometric == 0,
        ycbcr=luma or wavelet,
        luma=_numbers(path, page, 529, BT601) if luma else BT601,
        reference=_numbers(path, page, 532, FULL_RANGE) if luma else FULL_RANGE,
        alpha=alpha,  # type: ignore[arg-type]
        opaque=2**bits - 1 if alpha and packed else None,
        fill=fill,
    )


def _palette_conversion(path: str, page: Any, channels: int, fill: float) -> Conversion:
    """Return the conversion of palette indices to RGB; refuse incomplete palettes."""
    bits = page.bitspersample
    problem = None
    if page.colormap is None:
        problem = "whose colours are missing"
    elif channels != 1:
        problem = f"with {channels} samples per pixel"
    elif page.dtype.kind not in "bu" or bits > 16:
        problem = f"of {bits}-bit {page.dtype}"
    if problem:
        raise SlideUnsupportedError(f"{path}: has a palette {problem}; convert it to RGB")
    table = np.asarray(page.colormap)
    table = table // 256 if table.max() > 255 else table  # some writers use 8-bit values
    full = np.zeros((2**bits, 3), np.uint8)
    full[: table.shape[1]] = table.T[: 2**bits]
    return Conversion(palette=full.tobytes(), fill=fill)


def _cmyk_conversion(path: str, page: Any, channels: int, fill: float) -> Conversion:
    """Return the conversion of CMYK to RGB; refuse other inks."""
    bits = page.bitspersample
    # InkSet 2 means other inks than cyan, magenta, yellow and black
    inks = channels == 4 and not tuple(page.extrasamples) and page.tags.valueof(332, 1) == 1
    if not inks or page.dtype not in (np.uint8, np.uint16) or bits not in (8, 16):
        raise SlideUnsupportedError(
            f"{path}: has {channels} inks of {bits}-bit {page.dtype}, but only CMYK of 8 or 16 "
            "bits without alpha is read; convert it to RGB"
        )
    return Conversion(cmyk=True, fill=fill)


def _numbers(path: str, page: Any, code: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return the fractions in a tag of coefficients for YCbCr."""
    value = page.tags.valueof(code)
    if value is None:
        return default
    if code == 529 and isinstance(value, tuple) and not all(value[1::2]):
        return default  # libtiff takes the default for fractions of 0 too
    with suppress(TypeError, ValueError, ZeroDivisionError):
        found = tuple(top / bottom for top, bottom in zip(value[::2], value[1::2], strict=False))
        positive = code != 529 or min(found) > 0
        ascending = code != 532 or all(b > a for a, b in zip(found[::2], found[1::2], strict=True))
        if len(found) == len(default) and positive and ascending:
            return found
    raise SlideFormatError(
        f"{path}: tag {code} holds invalid coefficients ({value!r:.60}); convert it to RGB"
    )
