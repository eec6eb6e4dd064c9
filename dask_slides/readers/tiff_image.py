"""Which image of a TIFF file is the slide, whether it can be read, and what its samples mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dask_slides.errors import SlideFormatError, SlideUnsupportedError
from dask_slides.readers.pixels import Conversion

_PHOTOMETRIC = {0, 1, 2, 3, 6}
_JPEG = {6, 7, 34892, 33007}


def largest_series(path: str, all_series: list[Any]) -> tuple[int, Any]:
    """Return the series that is the slide: not label, macro or thumbnail, most pixels."""
    best: tuple[int, int, Any] | None = None
    for index, series in enumerate(all_series):
        if series.name.lower() in {"label", "macro", "thumbnail"} or 0 in series.shape:
            continue
        sizes = dict(zip(series.axes, series.shape, strict=True))
        area = sizes.get("Y", 0) * sizes.get("X", 0)
        if area and (best is None or area > best[0]):
            best = (area, index, series)
    if best is None:
        raise SlideFormatError(f"{path}: the file holds no image; check the file")
    return best[1], best[2]


def check_level(path: str, number: int, level: Any) -> None:
    """Refuse what tifffile would read as zeros or as something else than the picture."""
    page = level.keyframe
    where = f"{path}: level {number}"
    if page.dtype is None or page.dtype.kind not in "buif":
        raise SlideUnsupportedError(
            f"{where} has samples of {page.bitspersample} bits, format {page.sampleformat}; "
            "convert it to 8 or 16-bit integers or 32-bit floats"
        )
    if int(page.photometric) not in _PHOTOMETRIC:
        name = getattr(page.photometric, "name", page.photometric)
        raise SlideUnsupportedError(f"{where} is in colour space {name}; convert it to RGB")
    luma = page.photometric == 6 and page.compression not in _JPEG | {33003, 50001, 34933}
    if luma or page.compression == 6:
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
    expected = math.prod(page.chunked)
    for one in level.pages:
        if one is None:
            raise SlideFormatError(f"{where} lacks a page; fetch the file again")
        if len(one.dataoffsets) != expected or len(one.databytecounts) != expected:
            raise SlideFormatError(
                f"{where} has {len(one.dataoffsets)} offsets and {len(one.databytecounts)} byte "
                f"counts for {expected} tiles; fetch the file again"
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
