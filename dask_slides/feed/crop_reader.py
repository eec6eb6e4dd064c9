"""Find and read the crops with some numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.types import Array
from dask_slides.errors import TileDecodeError
from dask_slides.feed.members import Chances, Member, Place, RandomPlaces
from dask_slides.feed.order import CropOrder, Turns
from dask_slides.feed.pixels import Crop, log_bad_tiles
from dask_slides.feed.random_numbers import uniform
from dask_slides.feed.schedule import Integers

PLACE_STREAM, VISIT_STREAM, FLIP_STREAM = 3, 4, 7
"""Streams of random numbers."""
STRICT, ANY = 16, 16
"""Attempts per member to place a crop with as much tissue as asked for, and then with any."""
MEMBERS = 8
"""Members that are tried for one crop, if all places of a member are corrupt."""


@dataclass(frozen=True)
class Found:
    """The place of a crop."""

    number: int
    member: int
    place: Place
    attempt: int
    skipped: int = 0
    """Places before this one that are corrupt."""


@dataclass(frozen=True, eq=False)
class CropReader:
    """Finds and reads crops. A crop depends on its number and the seed only, and on the files."""

    members: tuple[Member, ...]
    order: CropOrder
    flips: bool
    transform: Callable[[Any], Any] | None
    bad_tiles: dict[str, None] = field(default_factory=dict)
    """The bad tiles that this process has met, with the name of the slide."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for another process, which meets its own bad tiles."""
        return self.__dict__ | {"bad_tiles": {}}

    def find(self, numbers: Integers) -> list[Found]:
        """Return the places of crops, as if no tile was corrupt; no pixel is read."""
        zeros = np.zeros(len(numbers), np.int64)
        return self._find(numbers, zeros, zeros) if len(numbers) else []

    def _find(self, numbers: Integers, attempts: Integers, skipped: Integers) -> list[Found]:
        """Return the first place of each number from its attempt on."""
        found: dict[int, Found] = {}
        turns, attempts = self.order.turns(numbers), attempts.copy()
        pending = np.arange(len(numbers))
        while len(pending):
            tried = self._attempt(turns.at(pending), numbers[pending], attempts[pending])
            missed = []
            for at, member, place in tried:
                i = int(pending[at])
                if place is None:
                    missed.append(i)
                else:
                    number, attempt, before = int(numbers[i]), int(attempts[i]), int(skipped[i])
                    found[i] = Found(number, member, place, attempt, before)
            pending = np.array(missed, np.int64)
            attempts[pending] += 1
        return [found[i] for i in range(len(numbers))]

    def _attempt(
        self, turns: Turns, number: Integers, attempt: Integers
    ) -> Iterator[tuple[int, int, Place | None]]:
        """Make one attempt for each of `turns`; yield its index, the member, and the place."""
        if attempt.max() >= MEMBERS * (STRICT + ANY):
            self._give_up(int(number[attempt.argmax()]), int(turns.member[attempt.argmax()]))
        drawn = uniform(self.order.seed, PLACE_STREAM, number, attempt)[:3]
        members = self._members(turns, number, attempt)
        starts = self._starts(turns)
        strict = attempt % (STRICT + ANY) < STRICT
        for member in np.unique(members).tolist():
            own = np.flatnonzero(members == member)
            places = self.members[member].places
            along = drawn[0, own]
            if starts is not None and isinstance(places, RandomPlaces):
                # the crops of a visit lie on a stretch that holds about their area of tissue
                stretch = min(1.0, self.order.per_visit / places.weight)
                near = (starts[own] + along * stretch) % 1.0
                along = np.where(attempt[own] < STRICT + ANY, near, along)
            chances = Chances(
                self.order.seed, np.stack([along, drawn[1, own], drawn[2, own]]),
                turns.occurrence[own], attempt[own], strict[own],
            )  # fmt: skip
            for at, place in zip(own.tolist(), places.find(chances), strict=True):
                yield at, member, place

    def _members(self, turns: Turns, number: Integers, attempt: Integers) -> Integers:
        """Return the members whose turn it is, and others of the group if those are corrupt."""
        members = turns.member.copy()
        for i in np.flatnonzero(attempt >= STRICT + ANY).tolist():
            which = attempt[i] // (STRICT + ANY) * (STRICT + ANY)
            others = self.order.groups[turns.group[i]].members
            at = uniform(self.order.seed, PLACE_STREAM, number[i : i + 1], which)[3, 0]
            members[i] = others[int(at * len(others))]
        return members

    def _starts(self, turns: Turns) -> NDArray[np.float64] | None:
        """Return where visits of several crops begin along the places of their members.

        This may be anywhere, so that every place has the same probability.
        """
        if self.order.per_visit == 1:
            return None
        return np.asarray(uniform(self.order.seed, VISIT_STREAM, turns.group, turns.visit)[0])

    def _give_up(self, number: int, member: int) -> None:
        others = ", nor in other slides that were tried" if len(self.members) > 1 else ""
        raise TileDecodeError(
            f"crop {number:,}: no place without corrupt tiles was found in "
            f"{self.members[member].name}{others}; check the files"
        )

    def read(self, numbers: Integers) -> list[dict[str, Any]]:
        """Return the crops with these numbers, in their order."""
        return self.read_found(self.find(numbers))

    def read_found(self, found: list[Found]) -> list[dict[str, Any]]:
        """Return the crops at these places, and at their next places if tiles are corrupt."""
        flips = self._flips_of(found)
        items: dict[int, dict[str, Any]] = {}
        pending = list(enumerate(found))
        while pending:
            failed = []
            for member, some in _by_member(pending).items():
                at = np.array([one.place.at for _, one in some], np.int64)
                pixels = self.members[member].pixels.read(at[:, 0] if at.shape[1] == 1 else at)
                log_bad_tiles(self.bad_tiles, self.members[member].name, pixels.bad, "crops")
                for (i, one), crop in zip(some, pixels.crops, strict=True):
                    if crop is None:
                        failed.append((i, one))
                    else:
                        items[i] = self._item(one, crop, flips[i])
            pending = self._next_places(failed) if failed else []
        return [items[i] for i in range(len(found))]

    def _next_places(self, failed: list[tuple[int, Found]]) -> list[tuple[int, Found]]:
        again = [(one.number, one.attempt + 1, one.skipped + 1) for _, one in failed]
        retried = self._find(*np.array(again, np.int64).T)
        return [(i, one) for (i, _), one in zip(failed, retried, strict=True)]

    def _flips_of(self, found: list[Found]) -> list[int]:
        if not self.flips:
            return [0] * len(found)
        numbers = np.array([one.number for one in found], np.int64)
        drawn = uniform(self.order.seed, FLIP_STREAM, numbers)[0]
        return [int(one) for one in (drawn * 4).tolist()]

    def _item(self, found: Found, crop: Crop, flip: int) -> dict[str, Any]:
        member = self.members[found.member]
        arrays = tuple(flipped(one, flip) for one in crop)
        mpp = tuple(float("nan") if one is None else one for one in member.pixels.mpp)
        pixels: Any = arrays[0] if len(arrays) == 1 else arrays
        return {
            "pixels": pixels if self.transform is None else self.transform(pixels),
            "slide": member.name,
            "y": found.place.y,
            "x": found.place.x,
            "mpp": mpp[0] if len(mpp) == 1 else mpp,
            "label": member.label,
            "class": member.class_name,
            "flip": flip,
            "number": found.number,
            "skipped": found.skipped,
        }


def _by_member(found: list[tuple[int, Found]]) -> dict[int, list[tuple[int, Found]]]:
    groups: dict[int, list[tuple[int, Found]]] = {}
    for one in found:
        groups.setdefault(one[1].member, []).append(one)
    return groups


def flipped(pixels: Array, flip: int) -> Array:
    """Return `pixels` turned upside down (1), mirrored (2), or both (3)."""
    if not flip:
        return pixels
    rows, columns = (
        slice(None, None, -1 if flip & 1 else 1),
        slice(None, None, -1 if flip & 2 else 1),
    )
    return np.ascontiguousarray(pixels[rows, columns])
