"""Scale arguments as users give them: a magnification, and whether a slide is enlarged."""

from __future__ import annotations

from typing import Any

from dask_slides.errors import SlideArgumentError
from dask_slides.ops.pack import checked_magnification
from dask_slides.ops.resize import checked_mpp
from dask_slides.slide import Mpp, Slide

TOLERANCE = 0.05
"""Relative difference of pixel sizes that does not count, as scanners differ from their name."""


def resize_arguments(
    slide: Slide, *, magnification: float | None = None, **scale: Any
) -> dict[str, Any]:
    """Return the scale arguments of `resize`, with the `mpp` of a magnification.

    Raises
    ------
    SlideArgumentError
        The magnification is not a number above 0, or another scale is given too.
    SlideMppError
        The micrometres per pixel of the slide are not known.
    """
    if magnification is None:
        return scale
    others = [name for name in ("downsample", "mpp", "max_size", "shape") if scale.get(name)]
    if others:
        raise SlideArgumentError(
            f"{slide.name}: magnification and {others[0]} exclude each other; give one"
        )
    return scale | {"mpp": 10 / checked_magnification(slide, magnification)}


def check_not_enlarged(
    slide: Slide,
    *,
    downsample: float | None = None,
    mpp: Mpp = None,
    magnification: float | None = None,
    **_: Any,
) -> None:
    """Raise SlideArgumentError if these scale arguments enlarge the slide.

    A magnification up to that of the slide is accepted, such as 40 for 0.27 µm per pixel.
    """
    if downsample is not None and downsample < 1:
        _refuse(slide, f"downsample {downsample:g}", "downsample 1 or more")
    own, power = slide.mpp_yx, slide.magnification
    if own is None or power is None:
        return
    if magnification is not None and magnification > power * (1 + TOLERANCE):
        _refuse(slide, f"magnification {magnification:g}", f"magnification {power:.4g} or less")
    if mpp is not None:
        wanted = checked_mpp(slide, mpp)
        if any(w < o * (1 - TOLERANCE) for w, o in zip(wanted, own, strict=True)):
            _refuse(slide, f"mpp {min(wanted):g}", f"mpp {max(own):.4g} or more")


def _refuse(slide: Slide, given: str, cure: str) -> None:
    raise SlideArgumentError(
        f"{slide.name}: {given} enlarges the slide, which adds no detail; use {cure}, or --enlarge"
    )
