"""Blank or not: pure functions from the statistics of tiles to booleans.

A detector is a frozen value with three things: `needs`, the fields of the statistics it
looks at; `pooled`, whether it must see all tiles before it can judge one; and the call. A
pooled detector has `fit`, which looks at all tiles once and returns a detector that is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import SlideArgumentError
from dask_slides.numerics.histograms import BINS
from dask_slides.numerics.statistics import CellStats

Mask = NDArray[np.bool_]
Background = Literal["bright", "dark"]


@runtime_checkable
class Detector(Protocol):
    """What `blank_map` and every other operation accepts as a detector."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of the statistics beyond the moments: "histogram", "saturation"."""
        ...

    @property
    def pooled(self) -> bool:
        """Whether one tile can only be judged after looking at all."""
        ...

    def fit(self, stats: CellStats) -> Detector:
        """Return the detector for a slide with these statistics."""
        ...

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank; shape of the statistics."""
        ...


class _Judge:
    """What detectors share: `a | b` is blank where either says so, `a & b` where both do."""

    needs: ClassVar[tuple[str, ...]] = ()
    pooled: ClassVar[bool] = False

    def fit(self, stats: CellStats) -> Any:
        """Return the detector itself: it does not depend on the other tiles."""
        return self

    def __or__(self, other: Detector) -> AnyOf:
        return AnyOf((self, other))  # type: ignore[arg-type]

    def __and__(self, other: Detector) -> AllOf:
        return AllOf((self, other))  # type: ignore[arg-type]


def _share(value: float, name: str) -> None:
    if not (isinstance(value, int | float | np.floating) and 0 <= value <= 1):
        raise SlideArgumentError(f"{name}={value!r} is not a share; give a number from 0 to 1")


@dataclass(frozen=True)
class Contrast(_Judge):
    """Blank where the standard deviation is at most `ratio` times the mean.

    The coefficient of variation over all colour samples of a tile, the test of the original
    blank_tile_detector: 0.05 drops only empty glass, 0.35 leaves only dense tissue. Of signed
    data the absolute value of the mean counts: a tile of one value is blank whatever the value is.

    Parameters
    ----------
    ratio : float
        Greatest standard deviation of a blank tile, as a share of its absolute mean.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_slides import CellStats, Contrast
    >>> flat = CellStats(np.array([[4.0]]), np.array([[800.0]]), np.array([[160000.0]]))
    >>> Contrast(0.05)(flat)
    array([[ True]])
    """

    ratio: float = 0.05

    def __post_init__(self) -> None:
        if not (isinstance(self.ratio, int | float | np.floating) and 0 <= self.ratio < np.inf):
            raise SlideArgumentError(f"ratio={self.ratio!r} is not a ratio; give 0 or more")

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        return np.asarray(stats.std <= self.ratio * np.abs(stats.mean))


def _beyond(histogram: NDArray[Any], first: NDArray[Any]) -> NDArray[Any]:
    """Return the share of each tile's histogram in bins [first, 256); 0 for empty tiles."""
    inside = np.arange(BINS) >= first[..., None]
    top = histogram.sum(axis=-1, where=inside)
    return np.asarray(top / np.maximum(histogram.sum(axis=-1), 1))


def _field(stats: CellStats, name: str) -> NDArray[Any]:
    found = getattr(stats, name)
    if found is None:
        raise SlideArgumentError(
            f"the statistics hold no {name}, which this detector needs; "
            "make the blank map with it from the start"
        )
    return np.asarray(found)


@dataclass(frozen=True)
class _Level(_Judge):
    """Blank where at most `share` of the samples lie on the tissue side of a value of theirs."""

    level: float
    share: float
    background: Background
    needs: ClassVar[tuple[str, ...]] = ("histogram",)

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        width = 1.0 if stats.width is None else np.where(stats.width > 0, stats.width, 1.0)
        first = np.ceil(self.level / width - np.rint(stats.first / width))
        bright = _beyond(_field(stats, "histogram"), first)
        tissue = 1 - bright if self.background == "bright" else bright
        return np.asarray((tissue <= self.share) | (stats.count == 0))


def _nothing(share: float, background: Background) -> _Level:
    """Return the detector under which all tiles are blank."""
    return _Level(-np.inf if background == "bright" else np.inf, share, background)


@dataclass(frozen=True)
class Brightness(_Judge):
    """Blank where at most `share` of the samples lie on the tissue side of `threshold`.

    The fixed threshold of transmitted light viewers; `background="dark"` for fluorescence.

    Parameters
    ----------
    threshold : float
        Level between tissue and background, as a share of the range: of uint8 0 to 255. Other
        dtypes hold 12 bits, 0 to 1, degrees or metres: their range is the one that the slide uses,
        from 0, or from its smallest sample if that is below 0, to its largest. A slide of one
        value is blank.
    share : float
        Greatest share of tissue samples in a blank tile.
    background : {"bright", "dark"}
        Which side of the threshold is blank.
    """

    threshold: float = 0.86
    share: float = 0.02
    background: Background = "bright"
    needs: ClassVar[tuple[str, ...]] = ("histogram",)
    pooled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _share(self.threshold, "threshold")
        _share(self.share, "share")
        _background(self.background)

    def fit(self, stats: CellStats) -> Detector:
        """Return the detector with the level of this slide."""
        _field(stats, "histogram")
        low, high = 0.0, float(BINS)
        if stats.low is not None and stats.high is not None and stats.width is not None:
            some = stats.width > 0
            low = float(stats.low[some].min(initial=np.inf))
            high = float(stats.high[some].max(initial=-np.inf))
            if low >= high:  # one value, or none: there is no range
                return _nothing(self.share, self.background)
            low = min(0.0, low)
        _, _, width = stats.pool()
        # where bins of every tile begin: they are as wide or narrower
        level = (low * (1 - self.threshold) + high * self.threshold) / width
        return _Level(float(np.ceil(level)) * width, self.share, self.background)

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank, taking these tiles for the whole slide."""
        return self.fit(stats)(stats)


def _background(value: str) -> None:
    if value not in ("bright", "dark"):
        raise SlideArgumentError(f"background={value!r} is not known; use 'bright' or 'dark'")


@dataclass(frozen=True)
class Otsu(_Judge):
    """Like `Brightness`, with the threshold that splits the slide's own histogram best.

    The histogram has 256 bins over the range that the slide uses (`CellStats.pool`).

    N. Otsu, A threshold selection method from gray-level histograms, IEEE Transactions on
    Systems, Man, and Cybernetics 9(1), 1979, on the histogram of all samples of the slide.

    Parameters
    ----------
    share : float
        Greatest share of tissue samples in a blank tile.
    background : {"bright", "dark"}
        Which side of the threshold is blank.
    """

    share: float = 0.02
    background: Background = "bright"
    needs: ClassVar[tuple[str, ...]] = ("histogram",)
    pooled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _share(self.share, "share")
        _background(self.background)

    def fit(self, stats: CellStats) -> Detector:
        """Return the detector with the threshold of this slide."""
        from skimage.filters import threshold_otsu

        _field(stats, "histogram")
        pooled, first, width = stats.pool()
        if np.count_nonzero(pooled) < 2:  # one grey level, or none: nothing to split
            return _nothing(self.share, self.background)
        bins = np.rint(first / width) + np.arange(BINS)
        threshold = threshold_otsu(hist=(pooled, bins))
        return _Level((float(threshold) + 1) * width, self.share, self.background)

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank, taking these tiles for the whole slide."""
        return self.fit(stats)(stats)


@dataclass(frozen=True)
class Saturation(_Judge):
    """Blank where at most `share` of the pixels have an HSV saturation above `threshold`.

    The test of CLAM (Lu et al., Nature Biomedical Engineering 5, 2021), which takes 8 of 255
    for its threshold: stain is coloured, glass and pen shadows are grey. Only for RGB.

    Parameters
    ----------
    threshold : float
        Greatest saturation of background, 0 to 1.
    share : float
        Greatest share of coloured pixels in a blank tile.
    """

    threshold: float = 8 / 255
    share: float = 0.02
    needs: ClassVar[tuple[str, ...]] = ("saturation",)

    def __post_init__(self) -> None:
        _share(self.threshold, "threshold")
        _share(self.share, "share")

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        first = np.floor(self.threshold * (BINS - 1) + 1e-9) + 1
        coloured = _beyond(_field(stats, "saturation"), np.asarray(first))
        return np.asarray(coloured <= self.share)


@dataclass(frozen=True)
class _Group(_Judge):
    detectors: tuple[Detector, ...]

    def __post_init__(self) -> None:
        if not self.detectors:
            raise SlideArgumentError(f"{type(self).__name__} of no detectors; give at least one")
        for one in self.detectors:
            _require_detector(one)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What any of the detectors needs."""
        return tuple(dict.fromkeys(name for one in self.detectors for name in one.needs))

    @property
    def pooled(self) -> bool:  # type: ignore[override]
        """Whether any of the detectors is."""
        return any(one.pooled for one in self.detectors)

    def fit(self, stats: CellStats) -> Any:
        """Return the group of the detectors, each fitted."""
        return type(self)(tuple(one.fit(stats) for one in self.detectors))


@dataclass(frozen=True)
class AnyOf(_Group):
    """Blank where any of the detectors says so: the union. Also written ``a | b``."""

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        return reduce(np.logical_or, [one(stats) for one in self.detectors])


@dataclass(frozen=True)
class AllOf(_Group):
    """Blank where all of the detectors say so: the intersection. Also written ``a & b``."""

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        return reduce(np.logical_and, [one(stats) for one in self.detectors])


DETECTORS: dict[str, Any] = {
    "contrast": Contrast,
    "otsu": Otsu,
    "brightness": Brightness,
    "saturation": Saturation,
}
"""Detectors by the name the command line uses; a new one is one line here."""


def checked_detector(detector: Any) -> Detector:
    """Return `detector` if it is one, else raise SlideArgumentError."""
    if isinstance(detector, str) and detector in DETECTORS:
        return DETECTORS[detector]()  # type: ignore[no-any-return]
    _require_detector(detector)
    return detector  # type: ignore[no-any-return]


def _require_detector(detector: Any) -> None:
    if isinstance(detector, type) or not isinstance(detector, Detector):
        raise SlideArgumentError(
            f"detector={detector!r} is not a detector; use Contrast(0.05), Otsu(), "
            f"or a name: {', '.join(DETECTORS)}"
        )
