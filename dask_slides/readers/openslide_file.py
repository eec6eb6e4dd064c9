"""Read slides with OpenSlide: MIRAX, Hamamatsu VMS and VMU, Sakura, and others that it knows."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dask_slides.core.geometry import Region, snapped_factor, strips
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Opened
from dask_slides.core.types import Array
from dask_slides.errors import SlideFormatError, SlideLimitError, reason_of
from dask_slides.readers.library_source import Files, LibrarySource, OpenHandles, check_levels
from dask_slides.readers.physical_units import number_above_zero
from dask_slides.readers.selection import ImageSelection
from dask_slides.readers.tile_status import fill_for

MIN_TILE = 256
"""Smallest side of a tile in pixels. Those of some formats have 8 rows, and of others no size."""
CACHE_BYTES = 2**25
"""Decoded tiles that OpenSlide keeps, of all slides that are open in a process."""
_PIXELS_AT_ONCE = 2**20
"""Pixels that OpenSlide returns at once; they are copied several times, with four samples."""
_SYSTEM_ERRORS = {os.strerror(number): number for number in (
    errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.ENOMEM, errno.ESTALE,
)}  # fmt: skip
"""Ends of OpenSlide's messages that are about the system, not about damage."""


@dataclass(frozen=True)
class OpenSlideSource(LibrarySource):
    """A slide that OpenSlide reads. Pixels outside of the scanned areas have no value."""

    path: str
    files: Files
    levels: tuple[Level, ...]
    scales: tuple[float, ...]
    """Downsample of each level by which OpenSlide places a region."""
    background: float = 255
    on_bad_tile: str = "raise"
    channels: ClassVar[int] = 3
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    @property
    def masked(self) -> bool:
        """True: areas that were not scanned have no pixels."""
        return True

    def part(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`; the mask is False where OpenSlide returns transparent pixels.

        OpenSlide takes positions in whole pixels of level 0, and interpolates where they are no
        whole pixels of the level, by up to half a pixel of level 0. Each tile of such a level is
        read from its own corner, so that its pixels do not depend on the region that is read.
        """
        rgb = np.empty((region.height, region.width, 3), np.uint8)
        valid = np.ones((region.height, region.width), bool)
        for whole in self._pieces(level, region):
            part = whole.intersect(region)
            rgba = self._rgba(level, whole)[part.slices(whole.y, whole.x)]
            where = part.slices(region.y, region.x)
            self._composite(rgba, rgb[where], valid[where])
        return rgb, None if valid.all() else valid

    def _pieces(self, level: int, region: Region) -> Iterator[Region]:
        """Yield what is read at once: strips, or tiles of a level at a fraction."""
        if self.scales[level].is_integer():
            yield from strips(region, self.levels[level].tile[0], _PIXELS_AT_ONCE)
            return
        height, width = self.levels[level].tile
        whole = Region(0, 0, *self.levels[level].shape)
        for y in range(region.y // height * height, region.stop_y, height):
            for x in range(region.x // width * width, region.stop_x, width):
                yield Region(y, x, height, width).intersect(whole)

    def _rgba(self, level: int, region: Region) -> Array:
        import openslide

        scale = self.scales[level]
        where = (round(region.x * scale), round(region.y * scale)), level
        size = (region.width, region.height)
        handle = _HANDLES.get((self.path, self.files))
        try:
            return np.asarray(handle.read_region(*where, size))
        except openslide.OpenSlideError:
            _HANDLES.drop((self.path, self.files), handle)
        # after an error a handle fails for ever, and this one may have failed in another thread
        with openslide.OpenSlide(self.path) as own:
            try:
                return np.asarray(own.read_region(*where, size))
            except openslide.OpenSlideError as error:
                number = _SYSTEM_ERRORS.get(str(error).rpartition(": ")[2])
                if number is not None:
                    raise OSError(number, str(error)) from None
                raise

    def _composite(self, rgba: Array, rgb: Array, valid: Array) -> None:
        """Write `rgba` on the background into `rgb`, and which pixels are not transparent."""
        rgb[...], alpha = rgba[..., :3], rgba[..., 3:]
        if alpha.min(initial=255) < 255:
            wide = alpha.astype(np.uint32)
            rgb[...] = (rgb * wide + np.uint32(self.background) * (255 - wide) + 127) // 255
            valid[...] = alpha[..., 0] > 0


def _open_cache(nbytes: int) -> Any:
    import openslide

    return openslide.OpenSlideCache(nbytes)


def _open_handle(key: tuple[str, Files]) -> Any:
    import openslide

    handle = openslide.OpenSlide(key[0])
    handle.set_cache(_CACHES.get(CACHE_BYTES))
    return handle


_CACHES = OpenHandles(_open_cache)
# after the caches: before a fork the locks are taken in reverse order, as `_open_handle` does
_HANDLES = OpenHandles(_open_handle)


def open_openslide(
    path: str, fill: float | None, limits: Limits, choice: ImageSelection = ImageSelection()
) -> Opened:
    """Read the metadata of the slide at `path`."""
    choice.check_single_plane(path)
    files = Files.of([path, *_companions(path)])
    try:
        slide = _HANDLES.get((path, files))
        properties = dict(slide.properties)
        sizes, scales = slide.level_dimensions, slide.level_downsamples
    except ImportError:
        raise
    except Exception as error:  # also of ctypes, where the texts of a file are damaged
        reason = reason_of(error)
    else:
        fill = _background(properties) if fill is None else fill
        fill = fill_for(path, fill, OpenSlideSource.dtype, colour=True)
        _check_tiles(path, properties, limits)
        full = sizes[0]
        levels = [
            Level(size[::-1], _downsample(full, size, scale), _tile(properties, number))
            for number, (size, scale) in enumerate(zip(sizes, scales, strict=True))
        ]
        source = OpenSlideSource(
            path, files, check_levels(path, levels, 4, limits), tuple(scales), fill
        )
        return Opened(source, _mpp(properties), _described(properties))
    raise SlideFormatError(f"{path}: OpenSlide cannot open it ({reason}); {_advice(path)}")


def _advice(path: str) -> str:
    """Say what to do if OpenSlide does not open the file."""
    stem, suffix = os.path.splitext(path)
    folder = os.path.basename(stem)
    if suffix.lower() == ".mrxs" and not os.path.isfile(os.path.join(stem, "Slidedat.ini")):
        return f"the pixels of a MIRAX slide lie in the folder {folder} next to it, copy it there"
    if suffix.lower() == ".mrxs" and suffix != ".mrxs":
        return f"rename it to {folder}.mrxs"  # it compares the letters
    if suffix.lower() == ".czi":  # it reads colours without other planes
        return "pip install 'dask-slides[czi]', which reads more kinds of CZI"
    return "check the file"


def _companions(path: str) -> list[str]:
    """Return the other files of a slide whose format says which they are."""
    stem, suffix = os.path.splitext(path)
    try:
        if suffix.lower() == ".mrxs":
            return sorted(entry.path for entry in os.scandir(stem) if entry.is_file())
        if suffix.lower() in (".vms", ".vmu"):
            with open(path, encoding="utf-8", errors="replace") as file:
                values = [line.partition("=")[2].strip() for line in file.read(2**20).splitlines()]
            named = [os.path.join(os.path.dirname(path), os.path.basename(name)) for name in values]
            return sorted({name for name in named if os.path.isfile(name)})
    except OSError:  # OpenSlide says what is wrong
        pass
    return []


def _background(properties: Mapping[str, str]) -> float | None:
    """Return the background of the slide if it is grey, so that one number holds it."""
    color = properties.get("openslide.background-color", "")
    return int(color[:2], 16) if re.fullmatch(r"([0-9a-fA-F]{2})\1\1", color) else None


def _downsample(full: tuple[int, int], size: tuple[int, int], scale: float) -> tuple[float, float]:
    """Return the downsample (y, x) of a level from sizes (width, height)."""
    if scale.is_integer():
        return scale, scale
    return snapped_factor(full[1], size[1]), snapped_factor(full[0], size[0])


def _tile(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    """Return height and width of the tiles of a level: several stored ones if they are small."""
    stored = [
        max(1, int(properties.get(f"openslide.level[{level}].tile-{side}", MIN_TILE)))
        for side in ("height", "width")
    ]
    height, width = (-(-MIN_TILE // side) * side for side in stored)
    return height, width


def _check_tiles(path: str, properties: Mapping[str, str], limits: Limits) -> None:
    """Raise SlideLimitError if a tile is so large that OpenSlide would abort the process."""
    pairs = (("tile-height", "tile-width"), ("DIGITIZER_HEIGHT", "DIGITIZER_WIDTH"))
    for down, across in pairs:
        for name, height in properties.items():
            width = properties.get(name.removesuffix(down) + across)
            if (
                name.endswith(down) and width is not None
                and height.isdecimal() and width.isdecimal()
                and int(height) * int(width) * 4 > limits.tile_bytes
            ):  # fmt: skip
                raise SlideLimitError(
                    f"{path}: declares tiles of {height} x {width}; if that is right, open it with "
                    "limits=Limits(...)"
                )


def _mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    y, x = (number_above_zero(properties.get(f"openslide.mpp-{axis}")) for axis in "yx")
    return None if y is None or x is None else (y, x)


def _described(properties: Mapping[str, str]) -> dict[str, str]:
    found = {"format": properties.get("openslide.vendor", "not known"), "reader": "OpenSlide"}
    power = properties.get("openslide.objective-power")
    bounds = [properties.get(f"openslide.bounds-{name}") for name in ("y", "x", "height", "width")]
    if power:
        found["objective"] = power
    if None not in bounds:
        found["bounds"] = ", ".join(str(one) for one in bounds)
    return found
