"""Detectors that find tissue in a reduced picture of the whole slide.

Such a detector is a frozen value. It gets the picture once, of about `mpp` micrometres per pixel,
and returns a mask of it. The exact area of the mask in each tile decides which tiles are blank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import as_number
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError

Background = Literal["bright", "dark"]


@dataclass(frozen=True, eq=False)
class Overview:
    """A reduced picture of a slide."""

    pixels: Array
    """(h, w, c), in the dtype of the slide."""
    valid: NDArray[np.bool_] | None
    """(h, w), False where pixels are missing, nodata or masked; None if all have a value."""
    mpp: float | None
    """Micrometres per pixel of the picture, the mean of both axes; None if not known."""


@runtime_checkable
class MaskDetector(Protocol):
    """The protocol of detectors that find tissue in a picture.

    A detector for some slides only may have a method ``check(channels, dtype)``, which raises
    SlideArgumentError for the others before anything is read.
    """

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the picture that the detector asks for."""
        ...

    def fit(self, overview: Overview) -> MaskDetector:
        """Return the detector for this slide, with what it found out, such as the background."""
        ...

    def find(self, overview: Overview) -> NDArray[np.bool_]:
        """Return the mask (h, w) of the picture, True = tissue."""
        ...


def check_background(value: str | None) -> None:
    """Raise SlideArgumentError unless `value` is a background."""
    if value not in ("bright", "dark"):
        raise SlideArgumentError(f"background={value!r} is not known; use 'bright' or 'dark'")


def set_number(detector: Any, name: str, fits: Callable[[float], bool], advice: str) -> None:
    """Make a field a number of Python, which repr and JSON show alike, or raise with `advice`."""
    number = as_number(getattr(detector, name))
    if not fits(number):
        raise SlideArgumentError(f"{name}={getattr(detector, name)!r} is not {advice}")
    object.__setattr__(detector, name, number)


@dataclass(frozen=True, repr=False)
class Tissue:
    """Find tissue as a person would outline it. This is the default detector.

    Tissue is what has colour relative to the glass, or in dark field what is brighter than the
    background; `dask_slides.numerics.tissue` describes the method. It includes faint tissue and
    fat. Dust, shadows, black bars, borders of scanners, and pen are not tissue.

    Parameters
    ----------
    background : {"bright", "dark"}, optional
        Glass in transmitted light, or the dark ground of fluorescence. By default it is found in
        the picture; a computed blank map shows which one.
    min_area : float
        Smallest area of a piece of tissue, in square micrometres.
    max_hole : float
        Holes in tissue of up to this area are filled, in square micrometres.
    pen : {"exclude", "keep"}
        What to do with tissue under pen. Pen on glass is never tissue.
    mpp : float
        Micrometres per pixel of the picture in which tissue is found. If the pixel size of the
        slide is not known, 0.5 is assumed, and the longest side has 1,024 to 4,096 px.

    Examples
    --------
    >>> import numpy as np, dask_slides as ds
    >>> slide = np.full((600, 600, 3), 240, "uint8")
    >>> slide[200:400, 200:400] = np.random.default_rng(0).integers(90, 190, (200, 200, 1))
    >>> slide[200:400, 200:400, 1] //= 2
    >>> ds.blank_map(ds.from_dask(slide, mpp=8), tile_size=200).compute().blank
    array([[ True,  True,  True],
           [ True, False,  True],
           [ True,  True,  True]])
    """

    background: Background | None = None
    min_area: float = 10_000.0
    max_hole: float = 60_000.0
    pen: Literal["exclude", "keep"] = "exclude"
    mpp: float = 8.0

    def __post_init__(self) -> None:
        if self.background is not None:
            check_background(self.background)
        for name in ("min_area", "max_hole"):
            set_number(self, name, lambda area: 0 <= area < np.inf, "an area; give 0 or more µm²")
        if self.pen not in ("exclude", "keep"):
            raise SlideArgumentError(f"pen={self.pen!r} is not known; use 'exclude' or 'keep'")
        set_number(self, "mpp", lambda mpp: 0 < mpp < np.inf, "a pixel size; give a number above 0")

    def __repr__(self) -> str:
        given = (one for one in fields(self) if getattr(self, one.name) != one.default)
        return f"Tissue({', '.join(f'{one.name}={getattr(self, one.name)!r}' for one in given)})"

    def fit(self, overview: Overview) -> Tissue:
        """Return the detector with the background of this picture."""
        from dask_slides.numerics.tissue import background_side

        if self.background is not None:
            return self
        return replace(self, background=background_side(overview.pixels, overview.valid))

    def find(self, overview: Overview) -> NDArray[np.bool_]:
        """Return the mask (h, w) of the picture, True = tissue."""
        from dask_slides.numerics.tissue import Parameters, find_tissue

        sizes = Parameters(self.min_area, self.max_hole, keep_ink=self.pen == "keep")
        return find_tissue(
            overview.pixels,
            valid=overview.valid,
            mpp=overview.mpp,
            background=self.background,
            parameters=sizes,
        )


DEFAULT_DETECTOR = Tissue()
"""The default detector of every operation."""
