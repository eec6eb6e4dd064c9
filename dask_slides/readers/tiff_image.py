"""Which image of a TIFF file is the slide, whether it can be read, and what its samples mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dask_slides.errors import (
    SlideArgumentError,
    SlideFormatError,
    SlideLimitError,
    SlideTruncatedError,
    SlideUnsupportedError,
)
from dask_slides.readers.choice import (
    Choice,
    Plane,
    examples_of_axes,
    named_image,
    unique_names,
)
from dask_slides.readers.frames import JPEG
from dask_slides.readers.limits import Limits
from dask_slides.readers.pixels import Conversion
from dask_slides.readers.preflight import Structure
from dask_slides.readers.strict import DECODED, check_raw, samples_of, tile_size
from dask_slides.readers.tiff_tags import BESIDE, is_mapped

_PHOTOMETRIC = {0, 1, 2, 3, 6}
_LUMA = JPEG | {33003, 50001, 34933}
"""Compressions whose decoder makes RGB of luma and chroma, or whose samples we do."""
_BITS = {1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64}
_TABLES = (273, 279, 324, 325)
"""Tags of the offsets and byte counts of strips and tiles."""


def chosen_series(
    path: str, all_series: list[Any], choice: Choice
) -> tuple[int, int | None, str, tuple[str, ...]]:
    """Return the series that is read, and which page of it alone; its name, and those of all.

    Unless it is asked for, that is the one of most pixels that is not label, macro or the like.
    Pages that the file stacks without a meaning are images of their own, to be asked for.
    """
    areas, images = {}, []
    for index, series in enumerate(all_series):
        sizes = dict(zip(series.axes, series.shape, strict=True))
        if 0 in series.shape or not {"Y", "X"} <= set(sizes):
            continue
        areas[index] = sizes["Y"] * sizes["X"]
        other = [n for axis, n in zip(series.axes, series.shape, strict=True)
                 if axis not in "YXSCZT" and n > 1]  # fmt: skip
        apart = len(other) == 1 and choice.axes is None
        images += [(index, page) for page in (range(other[0]) if apart else [None])]
    if not areas:
        raise SlideFormatError(f"{path}: the file holds no image; check the file")
    names = unique_names([all_series[index].name for index, _ in images])
    number = named_image(path, names, choice.image)
    if number is None:
        slides = [
            n for n, (index, _) in enumerate(images)
            if len(areas) == 1 or all_series[index].name.lower() not in BESIDE
        ]  # fmt: skip
        if not slides:
            raise SlideArgumentError(
                f"{path}: its {len(images)} images are called {', '.join(names)}, and none is the "
                "slide itself; choose one with image="
            )
        number = max(slides, key=lambda n: areas[images[n][0]])
        if images[number][1] is not None:
            of_it = [n for n, (index, _) in enumerate(images) if index == images[number][0]]
            series = all_series[images[number][0]]
            raise SlideUnsupportedError(
                f"{path}: {len(of_it)} pages of one size, and the file does not say what they are; "
                f"choose one with image={of_it[0]} to {of_it[-1]}, or say it: "
                f"{examples_of_axes(series.axes, series.shape)}"
            )
    return (*images[number], names[number], names if len(names) > 1 else ())


def series_of(tiff: Any, axes: str | None) -> list[Any]:
    """Return the series of a file of tifffile, whose images are a stack if `axes` says so."""
    found: list[Any] = tiff.series
    kinds = {(one.kind, one.axes, one.shape, one.dtype) for one in found}
    pages = [page for one in found for page in one.pages]
    if len(kinds) != 1 or not 1 < len(found) == len(pages) or found[0].kind != "shaped":
        return found
    first = found[0]
    if (
        axes is None
        or len(axes) != len(first.axes) + 1
        or any(len(one.levels) > 1 for one in found)
    ):
        return found
    import tifffile

    # pages that were written one by one, each as an image
    shape = (len(pages), *first.shape)
    return [tifffile.TiffPageSeries(pages, shape, first.dtype, f"I{first.axes}", kind="shaped")]


def one_plane(path: str, series: Any, plane: Plane) -> tuple[Any, str]:
    """Return the pages of a series that hold `plane`, as a series, and its axes.

    So nothing else is checked, and the plane is read as fast as a file of its own. If all planes
    lie in one page that is the whole series: they are told apart when it is read.
    """
    depth = series.keyframe.imagedepth
    if depth > 1:
        raise SlideUnsupportedError(
            f"{path}: its pages hold {depth} planes each (ImageDepth); save each plane as a page"
        )
    made = [_pages_of(path, level, plane) for level in series.levels]
    levels = [level for level in made if level is not None]
    if len(levels) < len(made):
        return series, plane.axes
    levels[0].levels = levels
    return levels[0], levels[0].axes


def _pages_of(path: str, level: Any, plane: Plane) -> Any:
    """Return the pages of `plane` of one level as a level; None if they are not pages."""
    import tifffile

    axes, shape = plane.axes, level.shape
    if not any(n > 1 and axis not in "YXSC" for axis, n in zip(axes, shape, strict=True)):
        return None
    stacked = len(axes) - len(level.keyframe.shape)
    if (
        len(level.pages) != math.prod(shape[:stacked])
        or shape[stacked:] != level.keyframe.shape
        or level.is_truncated
    ):
        return None
    index = tuple(
        slice(None) if axis in "YXSC" else plane.at(axis) if n > 1 else 0
        for axis, n in zip(axes[:stacked], shape, strict=False)
    )
    numbers = np.arange(len(level.pages)).reshape(shape[:stacked])[index]
    pages = [level.pages[int(number)] for number in numbers.ravel()]
    if any(page is None or page.is_virtual for page in pages):
        if all(page is None for page in pages):
            raise SlideFormatError(
                f"{path}: plane z={plane.z}, t={plane.t} is not in the file; choose another"
            )
        return None
    first = pages[0].aspage()  # the others have the tags of the first one of all
    # these may have been mended, as those of LSM are
    first.dataoffsets, first.databytecounts = pages[0].dataoffsets, pages[0].databytecounts
    pages[0] = first
    kept = [
        (axis, n) for at, (axis, n) in enumerate(zip(axes, shape, strict=True))
        if not (at < stacked and (axis not in "YXSC" or n == 1))
    ]  # fmt: skip
    return tifffile.TiffPageSeries(
        pages,
        tuple(n for _, n in kept),
        level.dtype,
        "".join(axis for axis, _ in kept),
        parent=level.parent,
        name=level.name,
        kind=level.kind,
        multifile=level.is_multifile,
        transform=level.transform,
    )


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
        ycbcr=page.compression == 33003 and channels == 3,
        alpha=alpha,  # type: ignore[arg-type]
        fill=fill,
    )
