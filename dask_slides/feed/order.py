"""Which slide gives the crop with a number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dask_slides.feed.schedule import Integers, Schedule, shuffled

BLOCK = 1024
"""Numbers whose turns are computed together."""
SHUFFLED_VISITS = 64
"""Visits of slides among which crops are shuffled, if a visit gives several."""
GROUP_STREAM, SHUFFLE_STREAM, MEMBER_STREAM = 1, 2, 16
"""Streams of random numbers; each group has its own from `MEMBER_STREAM` on."""


@dataclass(frozen=True, eq=False)
class Group:
    """Members that are balanced among each other: those of a label, or all."""

    name: str
    share: float
    members: Integers
    weights: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Turns:
    """The turns of some numbers, each field (n,)."""

    group: Integers
    member: Integers
    occurrence: Integers
    """Number of crops that the member gave before, in its group."""
    visit: Integers
    """Number of the visit in the group."""

    def at(self, index: Integers) -> Turns:
        """Return the turns at `index`."""
        return Turns(
            self.group[index], self.member[index], self.occurrence[index], self.visit[index]
        )


@dataclass(frozen=True, eq=False)
class CropOrder:
    """The order in which groups, and the members of each, give crops."""

    groups: tuple[Group, ...]
    seed: int
    per_visit: int = 1
    """Crops that a member gives at each of its turns."""

    @property
    def shuffled_together(self) -> int:
        """Crops of a group that are shuffled among each other."""
        return self.per_visit * SHUFFLED_VISITS if self.per_visit > 1 else 1

    def turns(self, numbers: Integers) -> Turns:
        """Return the turns of the crops with these numbers, in any order."""
        blocks, index = np.unique(numbers // BLOCK, return_inverse=True)
        found = [_turns_of_block(self, one) for one in blocks.tolist()]
        joined = Turns(
            *(
                np.concatenate([getattr(one, name) for one in found])
                for name in ("group", "member", "occurrence", "visit")
            )
        )
        return joined.at(index * BLOCK + numbers % BLOCK)

    def _of_block(self, block: int) -> Turns:
        shares = np.array([group.share for group in self.groups])
        schedule = Schedule(shares, self.seed, GROUP_STREAM)
        group, count = schedule.turns(block * BLOCK, (block + 1) * BLOCK)
        member, occurrence, visit = (np.empty_like(group) for _ in range(3))
        for number in np.unique(group).tolist():
            own = group == number
            member[own], occurrence[own], visit[own] = self._of_group(number, count[own])
        return Turns(group, member, occurrence, visit)

    def _of_group(self, number: int, turns: Integers) -> tuple[Integers, Integers, Integers]:
        group, each = self.groups[number], self.per_visit
        if each > 1:
            turns = shuffled(turns, self.shuffled_together, self.seed, SHUFFLE_STREAM, number)
        visit, within = np.divmod(turns, each)
        schedule = Schedule(group.weights, self.seed, MEMBER_STREAM + number)
        first = int(visit.min())
        member, occurrence = schedule.turns(first, int(visit.max()) + 1)
        at = visit - first
        return group.members[member[at]], occurrence[at] * each + within, visit


@lru_cache(maxsize=16)
def _turns_of_block(order: CropOrder, block: int) -> Turns:
    return order._of_block(block)
