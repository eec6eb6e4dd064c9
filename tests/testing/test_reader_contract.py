"""The contract of readers finds what it is to find."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from rw_fixtures import noise

import dask_slides as ds
from dask_slides.core.bad_tiles import ABSENT, BadTile, MissingRegion
from dask_slides.core.geometry import Region
from dask_slides.core.source import Level, Source
from dask_slides.slide import Slide
from dask_slides.testing.reader_contract import check_reader

PIXELS = noise(120, 150, 2)
HALF = PIXELS[::2, ::2]


@dataclass(frozen=True)
class Good(Source):
    """Two levels of noise, with a hole and with pixels that have no value."""

    levels: tuple[Level, ...] = (
        Level((120, 150), (1.0, 1.0), (30, 30)),
        Level((60, 75), (2.0, 2.0), (30, 30)),
    )
    channels: int = 2
    dtype: np.dtype[Any] = PIXELS.dtype
    fill: Any = 0
    masked: bool = True
    name: str = "good"

    def read(self, level, region):
        return self.read_valid(level, region)[0]

    def read_valid(self, level, region):
        pixels = (PIXELS, HALF)[level][region.slices()].copy()
        valid = np.ones(pixels.shape[:2], bool)
        rows = np.arange(region.y, region.stop_y)
        valid[rows == 7] = False
        pixels[~valid] = 0
        for hole in Good.holes(self, level, region):
            pixels[hole.region.slices(region.y, region.x)] = 0
        return pixels, valid

    def holes(self, level, region):
        inside = Region(30, 30, 30, 30).intersect(region)
        tile = BadTile(level, 30, 30, 30, 30, ABSENT, "not there")
        return (MissingRegion(inside, tile),) if inside.area else ()


class OtherRegions(Good):
    def read_valid(self, level, region):
        pixels, valid = super().read_valid(level, region)
        return pixels + np.uint8(region.x % 2) * valid[..., None], valid


class MaskOfTheRegion(Good):
    def read_valid(self, level, region):
        pixels, valid = super().read_valid(level, region)
        return pixels, valid if region.y else np.ones_like(valid)


class Unfilled(Good):
    def read_valid(self, level, region):
        pixels, valid = super().read_valid(level, region)
        pixels[~valid] = 9
        return pixels, valid


class HoleWithPixels(Good):
    def holes(self, level, region):
        tile = BadTile(level, 0, 0, 30, 30, ABSENT, "not there")
        return (MissingRegion(Region(0, 0, 5, 5), tile),)


class OtherDtype(Good):
    def read_valid(self, level, region):
        pixels, valid = super().read_valid(level, region)
        return pixels.astype("uint16"), valid


@dataclass(frozen=True)
class Handle(Good):
    handle: Any = field(default_factory=threading.Lock)


class OtherValue(Good):
    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__


UPSIDE_DOWN = Good(levels=(Good().levels[0], Level((60, 75), (3.0, 3.0), (30, 30))))
BROKEN = {
    "differs from a larger region": OtherRegions(),
    "differs from": MaskOfTheRegion(),
    "missing pixels do not show the fill": Unfilled(),
    "a bad tile does not show the fill": HoleWithPixels(),
    "uint16 instead of uint8": OtherDtype(),
    "becomes another value": OtherValue(),
    "contradict each other": UPSIDE_DOWN,
    "`masked` is False": Good(masked=False),
}


def test_a_good_reader_passes():
    check_reader(Slide(Good(), "good", None))


@pytest.mark.parametrize("failure", BROKEN)
def test_a_broken_promise_is_named(failure):
    with pytest.raises(AssertionError, match=failure):
        check_reader(Slide(BROKEN[failure], "broken", None), new_process=False)


def test_a_source_that_cannot_be_pickled_is_found():
    with pytest.raises(TypeError, match="pickle"):
        check_reader(Slide(Handle(), "broken", None), new_process=False)


def test_other_pixels_are_found():
    with pytest.raises(AssertionError, match="not those expected"):
        check_reader(Slide(Good(), "good", None), PIXELS)
    check_reader(ds.from_dask(PIXELS), PIXELS, new_process=False)
