"""Detectors that decide from the statistics of tiles which of them are blank.

A detector is a frozen value that you call with statistics. `needs` lists the fields of the
statistics that it uses. `pooled` says whether it needs the statistics of all tiles to judge one:
then `fit` returns a detector for these statistics that does not. A detector may have `measure`,
which returns the number that it compares; reports show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import SlideArgumentError, SlideError
from dask_slides.numerics.histograms import BINS
from dask_slides.numerics.mask_detectors import (
    Background,
    MaskDetector,
    Tissue,
    check_background,
    set_number,
)
from dask_slides.numerics.onnx_detector import OnnxTissue
from dask_slides.numerics.statistics import CellStats

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Measure:
    """A number of each tile, and the threshold that decides which tiles are kept."""

    what: str
    """What the number is."""
    values: NDArray[Any]
    """Of any shape; NaN where it is not known."""
    threshold: float
    """Tiles above it are kept; with `includes`, those at it too. NaN if there is none."""
    is_share: bool = False
    """Whether the numbers are shares, 0 to 1."""
    includes: bool = False
    meaning: str = ""
    """How it is computed, if `what` does not tell."""


@runtime_checkable
class StatisticsDetector(Protocol):
    """The protocol of detectors that judge tiles by their statistics at level 0."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of the statistics beyond the moments: "histogram", "saturation"."""
        ...

    @property
    def pooled(self) -> bool:
        """Whether judging one tile needs the statistics of all."""
        ...

    def fit(self, stats: CellStats) -> StatisticsDetector:
        """Return the detector for a slide with these statistics."""
        ...

    def __call__(self, stats: CellStats) -> Mask:
        """Return a mask (rows, cols) that is True where a tile is blank."""
        ...


class _BaseDetector:
    """Base class of detectors, which you can combine as ``a | b`` and ``a & b``."""

    needs: ClassVar[tuple[str, ...]] = ()
    pooled: ClassVar[bool] = False

    def fit(self, stats: CellStats) -> Any:
        """Return the detector itself: it does not depend on the other tiles."""
        return self

    def __or__(self, other: StatisticsDetector) -> AnyOf:
        return AnyOf((self, other))  # type: ignore[arg-type]

    def __and__(self, other: StatisticsDetector) -> AllOf:
        return AllOf((self, other))  # type: ignore[arg-type]

    def __ror__(self, other: StatisticsDetector) -> AnyOf:
        return AnyOf((other, self))  # type: ignore[arg-type]

    def __rand__(self, other: StatisticsDetector) -> AllOf:
        return AllOf((other, self))  # type: ignore[arg-type]


def _set_share(detector: Any, name: str) -> None:
    set_number(detector, name, lambda x: 0 <= x <= 1, "a share; give a number from 0 to 1")


@dataclass(frozen=True)
class Contrast(_BaseDetector):
    """Blank where the standard deviation is at most `ratio` times the mean.

    This is the test of the original blank_tile_detector, on the coefficient of variation over all
    colour samples of a tile. A ratio of 0.05 drops only empty glass; 0.35 leaves only dense tissue.
    For signed data the absolute mean is used, so that a tile of one value is always blank. A flat
    colour has contrast too, as its channels differ: use `Tissue` to find tissue.

    Parameters
    ----------
    ratio : float
        Largest standard deviation of a blank tile, relative to its absolute mean.
    with_alpha : bool
        Whether to count an alpha of 255 as a fourth sample of each pixel, as the original did.
        Only for RGB images of 8 bits.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_slides import CellStats, Contrast
    >>> flat = CellStats(np.array([[4.0]]), np.array([[800.0]]), np.array([[160000.0]]))
    >>> Contrast(0.05)(flat)
    array([[ True]])
    """

    ratio: float = 0.05
    with_alpha: bool = False

    def __post_init__(self) -> None:
        set_number(self, "ratio", lambda x: 0 <= x < np.inf, "a ratio; give 0 or more")

    def __repr__(self) -> str:
        alpha = ", with_alpha=True" if self.with_alpha else ""
        return f"Contrast(ratio={self.ratio!r}{alpha})"

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        std, mean = self._moments(stats)
        return np.asarray(std <= self.ratio * mean)

    def measure(self, stats: CellStats) -> Measure:
        """Return the ratio of each tile."""
        std, mean = self._moments(stats)
        ratios = np.divide(std, mean, out=np.where(std > 0, np.inf, 0.0), where=mean > 0)
        return Measure("contrast", ratios, self.ratio, meaning="standard deviation / mean")

    def _moments(self, stats: CellStats) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.with_alpha:
            stats = _with_alpha(stats)
        return stats.std, np.abs(stats.mean)


def _with_alpha(stats: CellStats) -> CellStats:
    """Return the moments of RGB tiles with an alpha of 255 as a fourth sample of each pixel."""
    pixels = stats.count / 3
    return CellStats(
        stats.count + pixels, stats.total + 255 * pixels, stats.squares + 255**2 * pixels
    )


def counts_alpha(detector: Any) -> bool:
    """Return whether `detector`, or one that it combines, counts an alpha."""
    if isinstance(detector, _Group):
        return any(counts_alpha(one) for one in detector.detectors)
    return isinstance(detector, Contrast) and detector.with_alpha


def _share_from(histogram: NDArray[Any], first: NDArray[Any]) -> NDArray[Any]:
    """Return the share of bins [first, 256) in the histogram per tile; 0 if it is empty."""
    inside = np.arange(BINS) >= first[..., None]
    top = histogram.sum(axis=-1, where=inside)
    return np.asarray(top / np.maximum(histogram.sum(axis=-1), 1))


def _field(stats: CellStats, name: str) -> NDArray[Any]:
    found = getattr(stats, name)
    if found is None:
        raise SlideArgumentError(
            f"the statistics hold no {name}, which this detector needs; "
            "make the blank map with this detector"
        )
    return np.asarray(found)


@dataclass(frozen=True)
class _Level(_BaseDetector):
    """Blank where at most `share` of the pixels lie on the tissue side of the value `level`."""

    level: float
    share: float
    background: Background
    needs: ClassVar[tuple[str, ...]] = ("histogram",)

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        return np.asarray(self.measure(stats).values <= self.share)

    def measure(self, stats: CellStats) -> Measure:
        """Return the share of the pixels of each tile that are tissue."""
        width = 1.0 if stats.width is None else np.where(stats.width > 0, stats.width, 1.0)
        first = np.ceil(self.level / width - np.rint(stats.first / width))
        histogram = _field(stats, "histogram")
        bright = _share_from(histogram, first)
        tissue = 1 - bright if self.background == "bright" else bright
        tissue = np.where(histogram.sum(axis=-1) > 0, tissue, 0.0)
        side = "darker than" if self.background == "bright" else "of at least"
        which = f"{side} grey {self.level:.4g}" if np.isfinite(self.level) else "of tissue"
        return Measure(f"share of pixels {which}", tissue, self.share, is_share=True)


def _all_blank(share: float, background: Background) -> _Level:
    """Return a detector for which all tiles are blank."""
    return _Level(-np.inf if background == "bright" else np.inf, share, background)


@dataclass(frozen=True)
class Brightness(_BaseDetector):
    """Blank where at most `share` of the pixels lie on the tissue side of `threshold`.

    The grey value of a pixel, the mean of its channels, is compared. A fixed threshold suits
    transmitted light; use ``background="dark"`` for fluorescence.

    Parameters
    ----------
    threshold : float
        Value between tissue and background, as a share of the range of samples. The range of
        uint8 is 0 to 255. Of other dtypes it is the range that the slide uses: from 0, or from
        its smallest sample if that is negative, to its largest sample. A slide of one value is
        blank.
    share : float
        Largest share of pixels that are tissue in a blank tile.
    background : {"bright", "dark"}
        The blank side of the threshold.
    """

    threshold: float = 0.86
    share: float = 0.02
    background: Background = "bright"
    needs: ClassVar[tuple[str, ...]] = ("histogram",)
    pooled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _set_share(self, "threshold")
        _set_share(self, "share")
        check_background(self.background)

    def fit(self, stats: CellStats) -> StatisticsDetector:
        """Return the detector with the threshold of this slide."""
        _field(stats, "histogram")
        low, high = 0.0, float(BINS)
        if stats.low is not None and stats.high is not None and stats.width is not None:
            some = stats.width > 0
            low = float(stats.low[some].min(initial=np.inf))
            high = float(stats.high[some].max(initial=-np.inf))
            if low >= high:  # one value, or no samples
                return _all_blank(self.share, self.background)
            low = min(0.0, low)
        _, _, width = stats.pool()
        # in pooled bins, whose edges are also edges of the bins of every tile
        level = (low * (1 - self.threshold) + high * self.threshold) / width
        return _Level(float(np.ceil(level)) * width, self.share, self.background)

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank, if these are all tiles of the slide."""
        return self.fit(stats)(stats)


@dataclass(frozen=True)
class Otsu(_BaseDetector):
    """Blank as with `Brightness`, with the threshold of Otsu for the histogram of the slide.

    The histogram is that of the grey values of all pixels of the slide, the means of their
    channels, with 256 bins over the range that the slide uses (`CellStats.pool`).

    N. Otsu, A threshold selection method from gray-level histograms, IEEE Transactions on
    Systems, Man, and Cybernetics 9(1), 1979.

    Parameters
    ----------
    share : float
        Largest share of pixels that are tissue in a blank tile.
    background : {"bright", "dark"}
        The blank side of the threshold.
    """

    share: float = 0.02
    background: Background = "bright"
    needs: ClassVar[tuple[str, ...]] = ("histogram",)
    pooled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _set_share(self, "share")
        check_background(self.background)

    def fit(self, stats: CellStats) -> StatisticsDetector:
        """Return the detector with the threshold of this slide."""
        from skimage.filters import threshold_otsu

        _field(stats, "histogram")
        pooled, first, width = stats.pool()
        if np.count_nonzero(pooled) < 2:  # one value, or no samples
            return _all_blank(self.share, self.background)
        bins = np.rint(first / width) + np.arange(BINS)
        threshold = threshold_otsu(hist=(pooled, bins))
        return _Level((float(threshold) + 1) * width, self.share, self.background)

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank, if these are all tiles of the slide."""
        return self.fit(stats)(stats)


@dataclass(frozen=True)
class Saturation(_BaseDetector):
    """Blank where at most `share` of the pixels have an HSV saturation above `threshold`.

    Stain is coloured, but glass and shadows of pens are grey. This is the test of CLAM (Lu et al.,
    Nature Biomedical Engineering 5, 2021), whose threshold is 8 of 255. It needs RGB images.

    Parameters
    ----------
    threshold : float
        Largest saturation of the background, 0 to 1.
    share : float
        Largest share of coloured pixels in a blank tile.
    """

    threshold: float = 8 / 255
    share: float = 0.02
    needs: ClassVar[tuple[str, ...]] = ("saturation",)

    def __post_init__(self) -> None:
        _set_share(self, "threshold")
        _set_share(self, "share")

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        return np.asarray(self.measure(stats).values <= self.share)

    def measure(self, stats: CellStats) -> Measure:
        """Return the share of the pixels of each tile that are coloured."""
        first = np.floor(self.threshold * (BINS - 1) + 1e-9) + 1
        coloured = _share_from(_field(stats, "saturation"), np.asarray(first))
        what = f"share of pixels with a saturation above {self.threshold:.3g}"
        return Measure(what, coloured, self.share, is_share=True)


@dataclass(frozen=True)
class _Group(_BaseDetector):
    detectors: tuple[StatisticsDetector, ...]

    def __post_init__(self) -> None:
        if not self.detectors:
            raise SlideArgumentError(f"{type(self).__name__} has no detectors; give at least one")
        for one in self.detectors:
            _require_detector(one, one)
            if isinstance(one, MaskDetector):
                raise SlideArgumentError(
                    f"{one!r} finds a mask and cannot be combined with statistics of tiles; "
                    "combine blank maps, with union() or intersection()"
                )

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The fields that any of the detectors needs."""
        return tuple(dict.fromkeys(name for one in self.detectors for name in one.needs))

    @property
    def pooled(self) -> bool:  # type: ignore[override]
        """Whether any of the detectors is pooled."""
        return any(one.pooled for one in self.detectors)

    def fit(self, stats: CellStats) -> Any:
        """Return a group of the fitted detectors."""
        return type(self)(tuple(one.fit(stats) for one in self.detectors))

    def _measure(self, stats: CellStats, choose: Any) -> Measure | None:
        """Return how far each tile is above the threshold of the detector that `choose` takes."""
        found = [one for each in self.detectors if (one := measure_of(each, stats)) is not None]
        if len(found) < len(self.detectors):
            return None
        above = choose([one.values - one.threshold for one in found])
        which = "smallest" if choose is np.minimum.reduce else "largest"
        parts = " and ".join(f"{one.what} - {one.threshold:.3g}" for one in found)
        return Measure("margin", np.asarray(above), 0.0, meaning=f"the {which} of {parts}")


@dataclass(frozen=True)
class AnyOf(_Group):
    """Blank where at least one of the detectors returns True. The short form is ``a | b``."""

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        return reduce(np.logical_or, [one(stats) for one in self.detectors])

    def measure(self, stats: CellStats) -> Measure | None:
        """Return how far each tile is above the threshold that it is least above."""
        return self._measure(stats, np.minimum.reduce)


@dataclass(frozen=True)
class AllOf(_Group):
    """Blank where all of the detectors return True. The short form is ``a & b``."""

    def __call__(self, stats: CellStats) -> Mask:
        """Return True where a tile is blank."""
        return reduce(np.logical_and, [one(stats) for one in self.detectors])

    def measure(self, stats: CellStats) -> Measure | None:
        """Return how far each tile is above the threshold that it is most above."""
        return self._measure(stats, np.maximum.reduce)


def measure_of(detector: StatisticsDetector, stats: CellStats) -> Measure | None:
    """Return the number that `detector` compares; None if it does not tell."""
    measure = getattr(detector.fit(stats), "measure", None)  # optional in the protocol
    return None if measure is None else measure(stats)


Detector: TypeAlias = StatisticsDetector | MaskDetector
"""What `blank_map` and all other operations accept as a detector."""

DETECTORS: dict[str, Any] = {
    "tissue": Tissue,
    "contrast": Contrast,
    "otsu": Otsu,
    "brightness": Brightness,
    "saturation": Saturation,
}
"""Detectors by their names on the command line. Add new detectors here."""

ONNX = ".onnx"
"""End of the paths of ONNX models."""

ENTRY_POINTS = "dask_slides.detectors"
"""Group of the entry points by which other packages add detectors.

An entry point has the name of a detector, and refers to a class or function that returns it when
called without arguments. The names of `DETECTORS` cannot be replaced."""


def detector_names() -> list[str]:
    """Return the names of all detectors, those that other packages add last."""
    others = {one.name for one in entry_points(group=ENTRY_POINTS)}
    return [*DETECTORS, *sorted(others - set(DETECTORS))]


def checked_detector(detector: Any) -> Detector:
    """Return `detector`, or the one with that name; raise SlideArgumentError if there is none.

    The path of an ONNX model is a name too. For other names that are not in `DETECTORS`, the
    `ENTRY_POINTS` of other packages are searched.
    """
    found = _detector_named(detector) if isinstance(detector, str) else detector
    _require_detector(found, detector)
    return found  # type: ignore[no-any-return]


def _detector_named(name: str) -> Any:
    """Return the detector `name`, or the name itself if there is none."""
    if name in DETECTORS:
        return DETECTORS[name]()
    return OnnxTissue(name) if name.endswith(ONNX) else _from_entry_point(name)


def _from_entry_point(name: str) -> Any:
    """Return what another package adds as the detector `name`; the name itself if none does."""
    for one in entry_points(group=ENTRY_POINTS, name=name):
        try:
            return one.load()()
        except SlideError:
            raise
        except Exception as error:
            package = one.dist.name if one.dist else one.value
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise SlideArgumentError(
                f"the detector {name!r} of the package {package} cannot be made: {reason}; "
                "update or remove the package"
            ) from error
    return name


def _require_detector(detector: Any, given: Any) -> None:
    """Raise SlideArgumentError unless `detector` is one; `given` is what the user gave."""
    kinds = (StatisticsDetector, MaskDetector)
    if isinstance(detector, type) or not isinstance(detector, kinds):
        raise SlideArgumentError(
            f"detector={given!r} is not a detector; use Tissue(), Contrast(0.05), Otsu(), "
            f"or a name: {', '.join(detector_names())}"
        )
