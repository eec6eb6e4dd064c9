"""Random crops of many slides, each known by its number."""

from __future__ import annotations

import math
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dask_slides.core.arguments import as_whole, checked_seed, checked_share
from dask_slides.errors import BlankSlideError, BlankSlideWarning, SlideArgumentError
from dask_slides.feed.crop_batches import CropBatches, number_of_state
from dask_slides.feed.crop_reader import CropReader
from dask_slides.feed.entries import SlideEntry, entries_of, per_slide
from dask_slides.feed.members import CropOptions, Member, crop_size, members_of
from dask_slides.feed.order import CropOrder, Group
from dask_slides.feed.schedule import Integers
from dask_slides.feed.slide_table import are_shares
from dask_slides.numerics.detectors import Detector
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR

BALANCES = ("slide", "label", "class")
TOGETHER = 64
"""Crops that are read together when a stream is iterated."""
Item = dict[str, Any]


class CropStream:
    """Random crops of many slides, without an end, in an order that the seed decides.

    The crop with a number is a function of the seed and the number: its slide, its place and its
    flip. So a run can go on at any number on any count of ranks and workers, and sees what an
    uninterrupted run sees. Slides are balanced in every part of the stream. A corrupt tile is never
    shown: another place is drawn, and the tile is logged and listed in `bad_tiles`.

    A stream is a map-style dataset for PyTorch (``stream[number]``), and `batches` reads ahead. A
    pickle of it holds paths and numbers, and no file is open in it.

    Parameters
    ----------
    slides : path, Slide, TilePack, table, or sequence of them
        Slides, packs (``*.tiles.zarr``), or a table: a `SlideTable`, or what `read_table` reads. A
        path may be a folder of slides or a pattern, such as ``job/*/*.tiles.zarr``. Of a pack,
        whole tiles are drawn, each once before any of them comes again; its size, scale, classes
        and choice of tiles are those it was made with.
    size : int or (int, int), optional
        Height and width of a crop in pixels. Packs have the size of their tiles.
    seed : int
        From 0.
    downsample, mpp, magnification : float or sequence of float, optional
        Scale of the crops; give at most one, with the default of `pack_tiles`. Several values, such
        as ``mpp=(0.5, 2.0)``, give as many arrays of one centre.
    reduced : bool
        Whether to take the means of 2 x 2, 4 x 4 or 8 x 8 pixels that decoders of tiled TIFFs give,
        where they are within 5 % of the scale. By default pixels are resampled as in `pack_tiles`,
        which takes several times as long; do not mix both in one model.
    balance : {"slide", "label", "class"}
        What gets the same number of crops: each slide, each label of the table or of `labels`, or
        each class of `annotations` (of packs: that they were made with). Within a label or a class,
        slides get the same number.
    shares : mapping, optional
        Share of the crops of each label or class, instead of the same for all.
    slide_weights : "tissue", sequence or mapping, optional
        How many crops a slide gets among those of its label or class: in proportion to its area of
        tissue (of packs: to their tiles), or to these numbers. By default all get the same.
    per_visit : int
        Crops that a slide gives at each of its turns, near each other, shuffled with those of 64
        other turns. With more than 1, fewer tiles are decoded and fewer files opened, and slides
        are balanced only over many turns.
    length : int, optional
        Crops of an epoch. By default as many as cover the tissue once, or the tiles of the packs.
    min_tissue : float
        Smallest share of the area of a crop that is tissue, if the slide has such places.
    detector : Detector
        Finds the tissue of slides without a blank map.
    blank_maps : sequence or mapping, optional
        Blank maps, or the paths of stored ones or of outlines in GeoJSON, one per slide, in their
        order or by name or path. The others are computed now.
    labels : sequence or mapping, optional
        Labels, instead of those of a table.
    annotations : sequence or mapping, optional
        `Annotations` or `LabelImage` of slides.
    weights : sequence or mapping, optional
        Maps (h, w) of numbers from 0, of any size, that cover a slide: centres of crops are drawn
        in proportion to them, and never where they are 0. Their unit does not matter.
    flips : bool
        Whether to turn crops upside down and to mirror them at random.
    transform : callable, optional
        Gets the array (h, w, c) of a crop, or the tuple of them, and returns what replaces it. It
        may change the array. Batches stack arrays and numbers, and list other values.

    Raises
    ------
    SlideError
        An argument is wrong, a slide cannot be opened, a crop does not fit one, or a pack does
        not have the size or the scale that is given.
    BlankSlideError
        No slide has tissue.

    Examples
    --------
    >>> import dask_slides as ds
    >>> from dask_slides import feed
    >>> paths = [ds.sample_slide(f"{n}.tif", shape=(2048, 2048), seed=n) for n in range(2)]
    >>> stream = feed.CropStream(paths, size=64, mpp=0.5, seed=0)
    >>> next(iter(stream.batches(4)))["pixels"].shape
    (4, 64, 64, 3)
    """

    def __init__(
        self,
        slides: Any,
        *,
        size: int | Sequence[int] | None = None,
        seed: int = 0,
        downsample: Any = None,
        mpp: Any = None,
        magnification: Any = None,
        reduced: bool = False,
        balance: str = "slide",
        shares: Mapping[Any, float] | None = None,
        slide_weights: Any = None,
        per_visit: int = 1,
        length: int | None = None,
        min_tissue: float = 0.5,
        detector: Detector = DEFAULT_DETECTOR,
        blank_maps: Any = None,
        labels: Any = None,
        annotations: Any = None,
        weights: Any = None,
        flips: bool = False,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if balance not in BALANCES:
            raise SlideArgumentError(
                f"balance={balance!r} is not known; use one of {', '.join(BALANCES)}"
            )
        self._seed = checked_seed(seed)
        entries = entries_of(
            slides, labels=labels, blank_maps=blank_maps, weights=weights, annotations=annotations
        )
        scale = {"downsample": downsample, "mpp": mpp, "magnification": magnification}
        options = CropOptions(
            crop_size(size), scale, checked_share(min_tissue, "min_tissue"), detector,
            reduced=reduced, by_class=balance == "class",
        )  # fmt: skip
        opened = [entry.open() for entry in entries]  # errors come before tissue is searched
        found = [
            members_of(entry, one, options, n)
            for n, (entry, one) in enumerate(zip(entries, opened, strict=True))
        ]
        self._left_out = tuple(
            entry.name for entry, some in zip(entries, found, strict=True) if not some
        )
        members = tuple(member for some in found for member in some)
        _check_members(members, self._left_out)
        factors = _factors(slide_weights, entries, members)
        groups = _groups(members, balance, shares, factors)
        each = _checked_count(per_visit, "per_visit")
        order = CropOrder(groups, self._seed, each)
        self._reader = CropReader(members, order, bool(flips), transform)
        area = sum(member.places.weight for member in members)
        length = max(1, math.ceil(area)) if length is None else length
        self._length = _checked_count(length, "length")

    @property
    def seed(self) -> int:
        """The seed."""
        return self._seed

    @property
    def slides(self) -> tuple[str, ...]:
        """Names of the slides and packs that give crops."""
        return tuple(dict.fromkeys(member.name for member in self._reader.members))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the slides without tissue, and of empty packs."""
        return self._left_out

    @property
    def bad_tiles(self) -> tuple[str, ...]:
        """The corrupt tiles that this process has met, each with the name of its slide."""
        return tuple(self._reader.bad_tiles)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of a crop."""
        return self._reader.members[0].pixels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample before `transform`."""
        return self._reader.members[0].pixels.dtype

    def __len__(self) -> int:
        """Return the number of crops of an epoch."""
        return self._length

    def __getitem__(self, number: int) -> Item:
        """Read the crop with a number from 0; numbers beyond the first epoch go on.

        Returns
        -------
        dict
            ``pixels`` (h, w, c), or a tuple of them; ``slide``, its name; ``y`` and ``x``, top left
            in pixels of level 0; ``mpp``; ``label``; ``class``; ``flip``, 1 for upside down plus 2
            for mirrored; ``number``; ``skipped``, places before this one with corrupt tiles.
        """
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Item]:
        """Read the crops with these numbers; each tile of a file is decoded once for all."""
        return self._reader.read(_checked_numbers(numbers))

    def __iter__(self) -> Iterator[Item]:
        """Iterate over the crops of the first epoch, one by one; `batches` reads ahead."""
        for start in range(0, self._length, TOGETHER):
            yield from self.__getitems__(range(start, min(start + TOGETHER, self._length)))

    def places(self, numbers: Any) -> dict[str, Any]:
        """Return where crops lie, without reading a pixel.

        Parameters
        ----------
        numbers : sequence of int
            From 0.

        Returns
        -------
        dict
            ``slide``, ``label``, ``class``, ``y`` and ``x``, each an array (n,). A crop whose tiles
            turn out to be corrupt is read at another place.
        """
        found = self._reader.find(_checked_numbers(numbers))
        members = [self._reader.members[one.member] for one in found]
        return {
            "slide": np.array([one.name for one in members]),
            "label": np.array([one.label for one in members]),
            "class": np.array([one.class_name for one in members]),
            "y": np.array([one.place.y for one in found], np.int64),
            "x": np.array([one.place.x for one in found], np.int64),
        }

    def batches(
        self,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        start: int | Mapping[str, int] = 0,
        window: int | None = None,
        threads: int | None = None,
    ) -> CropBatches:
        """Return the stream in batches, read ahead in threads.

        Parameters
        ----------
        batch_size : int
            Crops of a batch. All batches are full.
        rank, world : int
            The share of this process: one of every `world` crops, from the one with the number
            `start` plus `rank` on. All ranks have the same number of batches.
        start : int or mapping
            The first number of all ranks, or what `CropBatches.state_dict` returned, on any number
            of ranks.
        window : int, optional
            Crops that are read together, slide by slide and from top to bottom. More crops share
            opened files and decoded tiles in larger windows. Two windows are in memory. By default
            512, or all that are shuffled together, 64 times `per_visit`.
        threads : int, optional
            Threads that read ahead. By default the cores that this process may use, and one in a
            worker of a data loader.

        Returns
        -------
        CropBatches
        """
        if isinstance(start, Mapping):
            start = number_of_state(start, self._seed)
        return CropBatches(self, batch_size, rank, world, start, window, threads)


def _checked_count(value: Any, name: str) -> int:
    count = as_whole(value)
    if count is None or count < 1:
        raise SlideArgumentError(f"{name}={value!r} is not a count; give 1 or more")
    return count


def _checked_numbers(numbers: Any) -> Integers:
    array = np.asarray(numbers)
    if array.ndim == 1 and not len(array):
        return array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0:
        shown = reprlib.repr(numbers)
        raise IndexError(f"there is no crop {shown}; give a list of whole numbers from 0")
    return array.astype(np.int64)


def _check_members(members: Sequence[Member], left_out: Sequence[str]) -> None:
    """Warn of slides without tissue; raise unless all others have crops of one kind."""
    if not members:
        raise BlankSlideError(f"{', '.join(left_out[:8])}: no slide has tissue to draw crops from")
    if left_out:
        names = ", ".join(left_out[:8]) + ", ..." * (len(left_out) > 8)
        slides = "slide without tissue is" if len(left_out) == 1 else "slides without tissue are"
        warnings.warn(
            f"{len(left_out):,} {slides} left out: {names}",
            BlankSlideWarning,
            stacklevel=3,
        )
    first = members[0]
    for other in members:
        kinds = [(*one.pixels.shape, str(one.pixels.dtype), len(one.pixels.mpp))
                 for one in (first, other)]  # fmt: skip
        if kinds[0] != kinds[1]:
            raise SlideArgumentError(
                f"{other.name}: its crops are {kinds[1][:3]} of {kinds[1][3]} at {kinds[1][4]} "
                f"scales, and those of {first.name} are {kinds[0][:3]} of {kinds[0][3]} at "
                f"{kinds[0][4]}; feed slides of one kind"
            )


def _factors(
    slide_weights: Any, entries: Sequence[SlideEntry], members: Sequence[Member]
) -> np.ndarray:
    """Return the weight of each member within its group."""
    if slide_weights is None:
        return np.ones(len(members))
    if isinstance(slide_weights, str):
        if slide_weights != "tissue":
            raise SlideArgumentError(
                f"slide_weights={slide_weights!r} is not known; use 'tissue', or give numbers"
            )
        return np.array([member.places.weight for member in members])
    values = dict(
        zip(
            [entry.name for entry in entries],
            per_slide("slide_weights", slide_weights, entries),
            strict=True,
        )
    )
    try:
        found = np.array([values[member.name] for member in members], np.float64)
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if not (np.isfinite(found) & (found > 0)).all():
        raise SlideArgumentError("slide_weights: give each slide a number above 0")
    return found


def _groups(
    members: Sequence[Member],
    balance: str,
    shares: Mapping[Any, float] | None,
    factors: np.ndarray,
) -> tuple[Group, ...]:
    """Return the members by what is balanced."""
    keys = [_key(member, balance) for member in members]
    names = sorted(set(keys), key=str)
    if shares is None:
        shares = dict.fromkeys(names, 1.0)
    elif balance == "slide":
        raise SlideArgumentError("shares are of labels or classes; set balance, or slide_weights")
    if not are_shares(shares) or set(shares) != set(names):
        raise SlideArgumentError(
            f"shares={shares!r}; give a number above 0 for each of {', '.join(map(repr, names))}"
        )
    groups = []
    for name in names:
        own = np.array([i for i, key in enumerate(keys) if key == name], np.int64)
        groups.append(Group(str(name), float(shares[name]), own, factors[own]))
    return tuple(groups)


def _key(member: Member, balance: str) -> Any:
    if balance == "class":
        return member.class_name
    if balance == "slide":
        return ""
    if member.label == "":
        raise SlideArgumentError(
            f"{member.name}: has no label to balance; give labels= or a table with them"
        )
    return member.label
