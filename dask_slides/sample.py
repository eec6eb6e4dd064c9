"""A whole-slide image to try things on, drawn offline from one bundled histology picture."""

from __future__ import annotations

import io
import math
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideNotFoundError

_CODECS = ("jpeg", "none", "lzw", "deflate", "zstd", "jpeg2000", "webp")
_RASTER = 512
_MOST_TILES = 4_000_000
_CACHE_BYTES = 100_000_000

Array = NDArray[Any]


@dataclass(frozen=True)
class _Stroke:
    """A band along a curve x(y), in parts of the slide's height and width."""

    top: float
    tall: float
    left: float
    slope: float
    half: float
    ink: tuple[float, float, float]

    def curve(self, y: Array) -> tuple[Array, Array]:
        t = (y - self.top) / self.tall
        wave = 0.025 * np.sin(np.pi * t) + 0.004 * np.sin(9 * t)
        taper = np.sqrt(np.clip(1 - np.abs(2 * t - 1) ** 5, 0, 1))
        wobble = 1 + 0.15 * np.sin(11 * t) + 0.08 * np.sin(31 * t)
        return self.left + self.slope * t - wave, self.half * taper * wobble

    def reach(self, y: Array) -> tuple[float, float]:
        """Return the least and the greatest x at rows `y`, in reverse if it is not there."""
        y = y[(y > self.top) & (y < self.top + self.tall)]
        if not y.size:
            return 2.0, -1.0
        middle, half = self.curve(y)
        return float((middle - half).min()), float((middle + half).max())

    def apply(self, pixels: Array, y: Array, x: Array) -> Array:
        low, high = self.reach(y)
        if high < x[0] or low > x[-1]:
            return pixels
        first, last = np.searchsorted(x, (low, high))
        pixels, x = pixels.copy(), x[first:last]
        middle, half = self.curve(y)
        across = (x - middle[:, None]) / np.maximum(half, 1e-9)[:, None]
        # Ink gathers at the rim of a stroke, and the bristles leave streaks along it.
        streaks = 0.86 + 0.06 * np.sin(17 * across + 3 * np.sin(40 * y)[:, None]) + 0.08 * across**2
        cover = (np.clip((1 - np.abs(across)) * 9, 0, 1) * streaks)[..., None]
        passed = 1 - cover * (1 - np.array(self.ink))
        pixels[:, first:last] = np.rint(pixels[:, first:last] * passed)
        return pixels


@dataclass(frozen=True)
class _Scene:
    """Where the tissue is, the same in relative coordinates at every size."""

    fields: tuple[Array, ...]
    pen: _Stroke
    fold: _Stroke


@dataclass(frozen=True)
class _Canvas:
    """All that the pixels depend on; a tile follows from its corners and its phase."""

    shape: tuple[int, int]
    tile: int
    split: int
    unit: int
    corners: NDArray[np.int8]
    textures: tuple[Array, ...]
    ripple: Array
    scene: _Scene
    ids: NDArray[np.int64]
    first: NDArray[np.int64]

    def extent(self, ident: int) -> tuple[int, int, int, int]:
        """Top, left, rows and columns of the part of tile `ident` that is inside the slide."""
        row, col = divmod(int(self.first[ident]), self.ids.shape[1])
        top, left = row * self.tile, col * self.tile
        rows, cols = min(self.tile, self.shape[0] - top), min(self.tile, self.shape[1] - left)
        return top, left, rows, cols

    def render(self, ident: int) -> Array:
        top, left, rows, cols = self.extent(ident)
        at_y, at_x = top % len(self.ripple[0]), left % len(self.ripple[0])
        box = np.s_[at_y : at_y + self.tile, at_x : at_x + self.tile]
        row, col = (at // self.tile * self.split for at in (top, left))
        levels = self.corners[:, row : row + self.split + 1, col : col + self.split + 1]
        edge, stroma, stain = (self._cover(n, levels[n], self.ripple[n][box]) for n in range(3))
        glass, faint, brown, violet = (texture[box] for texture in self.textures)
        y = (top + 0.5 + np.arange(self.tile)) / self.shape[0]
        x = (left + 0.5 + np.arange(self.tile)) / self.shape[1]
        pixels = glass
        if not isinstance(edge, int) or edge:
            hidden = isinstance(stroma, int) and not stroma
            tissue = faint if hidden else _blend(faint, _blend(brown, violet, stain), stroma)
            pixels = _blend(glass, self.scene.fold.apply(tissue, y, x), edge)
        return _padded(self.scene.pen.apply(pixels, y, x)[:rows, :cols], self.tile)

    def _cover(self, n: int, levels: Array, ripple: Array) -> Array | int:
        # Ripple and soft edge stay below one cell: no outline where all corners are saturated.
        if levels.min() >= self.unit or levels.max() <= -self.unit:
            return 128 if levels.min() > 0 else 0
        cell = self.tile / self.split
        at = (np.arange(self.tile) + 0.5) / cell
        weights = np.maximum(1 - np.abs(at[:, None] - np.arange(self.split + 1)), 0)
        ramp = weights.astype(np.float32)
        field = ramp @ (levels.astype(np.float32) / self.unit) @ ramp.T + ripple
        # Stains run into each other over more pixels than the cut edge of tissue does.
        sharp = np.float32(128 * max(4.0, cell / (6, 20, 48)[n]))
        cover: Array = np.clip(field * sharp + 64, 0, 128).astype(np.int16)
        return cover


class _Levels:
    """Encoded tiles, each distinct one rendered and encoded about once."""

    def __init__(self, canvas: _Canvas, encode: Callable[[Array], bytes]) -> None:
        self._canvas, self._encode = canvas, encode
        self._recent: OrderedDict[Hashable, Any] = OrderedDict()
        self._held = 0
        self._uses = np.bincount(canvas.ids.ravel())

    def tiles(self, level: int) -> Iterator[bytes]:
        canvas, step = self._canvas, 4**level
        size = _reduced(canvas.shape, level)
        for row, col in np.ndindex(-(-size[0] // canvas.tile), -(-size[1] // canvas.tile)):
            if level:
                ids = canvas.ids[row * step :, col * step :][:step, :step]
                key = (level, ids.shape, ids.tobytes())
                yield self._once(key, partial(self._mean, level, row, col, ids))
            else:
                ident = int(canvas.ids[row, col])
                make = partial(self._base, ident)
                yield self._once(ident, make) if self._uses[ident] > 1 else make()

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        value = self._recent[key] = make()
        self._held += memoryview(value).nbytes
        while self._held > _CACHE_BYTES:
            self._held -= memoryview(self._recent.popitem(last=False)[1]).nbytes
        return value

    def _base(self, ident: int) -> bytes:
        return self._encode(self._canvas.render(ident))

    def _mean(self, level: int, row: int, col: int, ids: Array) -> bytes:
        step, tile = 4**level, self._canvas.tile
        fine = math.gcd(step, tile)
        part, whole = tile // fine, step // fine
        total = np.zeros((*(-(-n * part // whole) * whole for n in ids.shape), 3), np.uint32)
        for (i, j), ident in np.ndenumerate(ids):
            square = np.s_[i * part : (i + 1) * part, j * part : (j + 1) * part]
            total[square] = self._sums(int(ident), level)
        total = _halved(total, whole)
        spans = []
        for n, size, at in zip(
            self._canvas.shape, _reduced(self._canvas.shape, level), (row, col), strict=True
        ):
            starts = np.arange(at * tile, min((at + 1) * tile, size)) * step
            spans.append(np.minimum(n - starts, step))
        count = np.multiply.outer(spans[0], spans[1])[..., None]
        mean = (2 * total[: len(spans[0]), : len(spans[1])].astype(np.int64) + count) // (2 * count)
        return self._encode(_padded(mean.astype(np.uint8), tile))

    def _sums(self, ident: int, level: int) -> Array:
        """Return sums over squares of gcd(4**level, tile) pixels, of those inside the slide."""
        if level == 0:
            *_, rows, cols = self._canvas.extent(ident)
            pixels = self._canvas.render(ident).astype(np.uint16)
            pixels[rows:] = 0
            pixels[:, cols:] = 0
            return pixels
        # 16 x 16 values of 255 are the most that 16 bits hold.
        kind = np.uint16 if level <= 2 else np.uint32
        times = math.gcd(4**level, self._canvas.tile) // math.gcd(
            4 ** (level - 1), self._canvas.tile
        )
        return self._once(  # type: ignore[no-any-return]
            (ident, level), lambda: _halved(self._sums(ident, level - 1).astype(kind), times)
        )


def _halved(sums: Array, times: int) -> Array:
    while times > 1:
        sums = sums[::2] + sums[1::2]
        sums, times = sums[:, ::2] + sums[:, 1::2], times // 2
    return sums


def _padded(pixels: Array, tile: int) -> Array:
    rest = ((0, tile - pixels.shape[0]), (0, tile - pixels.shape[1]), (0, 0))
    return np.pad(pixels, rest, mode="edge")


def _reduced(shape: tuple[int, int], level: int) -> tuple[int, int]:
    step = 4**level
    return max(1, (shape[0] + step // 2) // step), max(1, (shape[1] + step // 2) // step)


def _blend(under: Array, over: Array, cover: Array | int) -> Array:
    if isinstance(cover, int):
        return over if cover else under
    # In place and with the same cover for each channel laid out: several times faster.
    mixed = over.astype(np.int16)
    mixed -= under
    mixed *= np.repeat(cover, 3).reshape(mixed.shape)
    mixed += 64
    mixed >>= 7
    mixed += under
    return mixed.astype(np.uint8)


def _noise(rng: np.random.Generator, size: int, longest: float, shortest: float) -> Array:
    """Return periodic noise with waves of these lengths in pixels, the long ones the strongest."""
    waves = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    waves[0, 0] = 1
    gain = np.where((waves >= 1 / longest) & (waves <= 1 / shortest), waves**-2.0, 0)
    noise: Array = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((size, size))) * gain, (size, size)
    )
    noise /= noise.std()
    return noise


def _scene(seed: int) -> _Scene:
    rng = np.random.default_rng([seed, 0])
    t = (np.arange(_RASTER) + 0.5) / _RASTER
    lanes = []
    for gap in rng.uniform(0.43, 0.57, 2):
        # The margins and one gap stay free of tissue, whatever the noise.
        spans = ((0.05, gap - 0.04), (gap + 0.04, 0.95))
        humps = [
            np.where((t > a) & (t < b), np.sin(np.pi * (t - a) / (b - a)), 0) for a, b in spans
        ]
        lanes.append(np.sqrt(np.maximum(*humps)))
    room = np.multiply.outer(*lanes)
    island = room * (1 + 0.35 * _noise(rng, _RASTER, _RASTER / 3, 12))
    island -= np.quantile(island, 0.65)
    dense = 1.5 * island / island.std() + _noise(rng, _RASTER, _RASTER / 4, 16)
    dense -= np.quantile(dense[island > 0], 0.3)
    violet = _noise(rng, _RASTER, _RASTER / 2, 40) - 0.4
    pen = _placed(rng, room, island, 0.4, 0.008, (0.12, 0.52, 0.56))
    fold = _placed(rng, room, island, 1.0, 0.005, (0.46, 0.32, 0.42))
    return _Scene((island, dense, violet), pen, fold)


def _placed(
    rng: np.random.Generator,
    room: Array,
    island: Array,
    share: float,
    half: float,
    ink: tuple[float, float, float],
) -> _Stroke:
    """Return the one of many strokes whose share over tissue is nearest to `share`."""
    best, least = None, math.inf
    for top, tall, left, slope in rng.uniform((0, 0.14, 0, -0.12), (0.8, 0.22, 1, 0.12), (500, 4)):
        stroke = _Stroke(top, tall, left, slope, half, ink)
        y = np.linspace(top, top + tall, 64)
        x = stroke.curve(y)[0] + np.array([[-1.5], [0], [1.5]]) * half
        at = tuple(np.clip(v * _RASTER, 0, _RASTER - 1).astype(int) for v in (y, x))
        miss = abs(float((island[at] > 0).mean()) - share) + float((room[at] <= 0).any())
        if miss < least:
            best, least = stroke, miss
    assert best is not None
    return best


def _textures(period: int, seed: int) -> tuple[Array, ...]:
    """Return glass, faint, brown and violet tissue, all periodic and without a seam."""
    from importlib.resources import files

    from PIL import Image

    with files("skimage").joinpath("data/ihc.png").open("rb") as file:
        picture = np.asarray(Image.open(file).convert("RGB"))[: period // 2, : period // 2]
    mirrored = np.pad(picture, ((0, period // 2),) * 2 + ((0, 0),), "symmetric")
    density = -np.log((mirrored + np.float32(1)) / 256)
    waves = np.hypot(np.fft.fftfreq(period)[:, None], np.fft.rfftfreq(period))
    gauss = np.exp(-2 * (np.pi * 40 * waves) ** 2).astype(np.float32)

    def smooth(values: Array) -> Array:
        layers = [
            np.fft.irfft2(np.fft.rfft2(v) * gauss, v.shape) for v in np.moveaxis(values, 2, 0)
        ]
        return np.stack(layers, 2)

    # A repeat shows from afar unless mean and contrast are the same all over the picture.
    local = density - smooth(density)
    spread = np.sqrt(smooth((local**2).mean(2, keepdims=True)))
    even = np.clip(density.mean((0, 1)) + 1.45 * local / spread * spread.mean(), 0.03, None)
    grey = np.roll(even.transpose(1, 0, 2), (300, 200), (0, 1)).mean(2, keepdims=True)
    pale = np.array([0.07, 0.22, 0.12], np.float32) * (0.25 + 0.75 * grey / grey.mean())
    noise = np.random.default_rng([seed, 2]).standard_normal((period, period, 3), np.float32)
    glass = np.rint(np.array([243, 241, 244], np.float32) + np.float32(1.2) * noise)
    stains = (pale, 1.6 * even, np.array((1.6, 2.0, 1.35), np.float32) * even)
    seen = [np.clip(np.rint(256 * np.exp(-od) - 1), 0, 255) for od in stains]
    return tuple(v.astype(np.uint8) for v in (glass, *seen))


def _corners(
    scene: _Scene, shape: tuple[int, int], cell: float, unit: int, cells: tuple[int, int]
) -> Array:
    """Return the distances of cell corners from each outline, in cells, from -unit to unit."""
    found = []
    for field in scene.fields:
        for n, size in zip(cells, shape, strict=True):
            at = np.clip(np.arange(n + 1) * cell / size * _RASTER - 0.5, 0, _RASTER - 1.001)
            low = at.astype(int)
            # Both axes in turn: what was sampled along the columns comes back to the rows.
            field = field[low].T * (1 - at % 1) + field[low + 1].T * (at % 1)
        slope = np.hypot(*np.gradient(field))
        found.append(np.rint(np.clip(field / np.maximum(slope, 1e-9), -1, 1) * unit))
    return np.array(found, np.int8)


def _canvas(shape: tuple[int, int], tile: int, seed: int) -> _Canvas:
    scene, rng = _scene(seed), np.random.default_rng([seed, 1])
    ny, nx = -(-shape[0] // tile), -(-shape[1] // tile)
    split = 1
    while min(shape) / tile * split < 64 and split < tile // 4:
        split *= 2
    unit = 4 if ny * nx <= 10_000 else 1
    period = tile * (1024 // tile) or tile // 2 ** math.ceil(math.log2(tile / 1024))
    corners = _corners(scene, shape, tile / split, unit, (ny * split, nx * split))
    ripple = [
        np.clip(0.3 * _noise(rng, period, 2 * tile / split, 4), -0.85, 0.85) for _ in range(3)
    ]
    repeats = max(1, tile // period)
    ids, first = _alike(
        scene, corners, shape, tile, max(1, period // tile), unit if split == 1 else 0
    )
    return _Canvas(
        shape,
        tile,
        split,
        unit,
        corners,
        tuple(np.tile(v, (repeats, repeats, 1)) for v in _textures(period, seed)),
        np.tile(np.rint(np.array(ripple) * 256).astype(np.float32) / 256, (1, repeats, repeats)),
        scene,
        ids,
        first,
    )


def _alike(
    scene: _Scene, corners: Array, shape: tuple[int, int], tile: int, phases: int, unit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which kind each tile is of, and the first tile of each kind."""
    ny, nx = -(-shape[0] // tile), -(-shape[1] // tile)
    if not unit:
        return np.arange(ny * nx).reshape(ny, nx), np.arange(ny * nx)
    drawn = np.zeros((ny, nx), bool)
    for row in range(ny):
        y = (row * tile + 0.5 + np.arange(tile)) / shape[0]
        for low, high in (scene.pen.reach(y), scene.fold.reach(y)):
            start, stop = (max(0, int(v * shape[1] // tile)) for v in (low, high))
            if low <= high:
                drawn[row, start : stop + 1] = True
    keys = np.zeros((ny, nx, 16), np.int8)
    for n, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        keys[..., n:12:4] = np.moveaxis(corners[:, i : i + ny, j : j + nx], 0, -1)
    # What lies under glass, or under faint tissue, makes no difference.
    keys[(keys[..., :4] <= -unit).all(-1), 4:12] = -unit
    keys[(keys[..., 4:8] <= -unit).all(-1), 8:12] = -unit
    keys[..., 12] = np.arange(ny)[:, None] % phases
    keys[..., 13] = np.arange(nx) % phases
    keys[-1, :, 14] = shape[0] % tile > 0
    # Else a tile with ink on it could stand for those without.
    keys[drawn, 14] += 2
    keys[:, -1, 15] = shape[1] % tile > 0
    packed = keys.reshape(-1, 16).view("V16").ravel()
    _, first, ids = np.unique(packed, return_index=True, return_inverse=True)
    ids = ids.reshape(ny, nx)
    ids[drawn] = len(first) + np.arange(drawn.sum())
    return ids, np.concatenate([first, np.flatnonzero(drawn)])


def _check(
    path: str, shape: Any, tile: Any, codec: Any, quality: Any, mpp: Any, seed: Any
) -> tuple[int, int]:
    whole = (int, np.integer)
    if not (isinstance(shape, (tuple, list)) and len(shape) == 2):
        wrong = f"shape {shape!r} is not two numbers; give (rows, columns)"
    elif not all(isinstance(n, whole) and n >= 1 for n in shape):
        wrong = f"shape {shape!r} is not of whole numbers from 1; give (rows, columns)"
    elif not (isinstance(tile, whole) and 16 <= tile <= 4096 and tile % 16 == 0):
        wrong = f"tile {tile!r} is not a multiple of 16 from 16 to 4096; take 256 or 512"
    elif -(-shape[0] // tile) * -(-shape[1] // tile) > _MOST_TILES:
        wrong = f"shape {shape!r} has over {_MOST_TILES:,} tiles of {tile}; take larger tiles"
    elif codec not in _CODECS:
        wrong = f"unknown compression {codec!r}; take one of {', '.join(_CODECS)}"
    elif not (isinstance(quality, whole) and 1 <= quality <= 100):
        wrong = f"quality {quality!r} is not a whole number from 1 to 100; take 80"
    elif not (isinstance(mpp, (int, float)) and 0 < mpp < math.inf):
        wrong = f"mpp {mpp!r} is not a positive number; take 0.25, micrometres per pixel"
    elif not (isinstance(seed, whole) and seed >= 0):
        wrong = f"seed {seed!r} is not a whole number from 0; take 0"
    else:
        return int(shape[0]), int(shape[1])
    raise SlideArgumentError(f"{path}: {wrong}")


def _encoder(tile: int, compression: str, quality: int) -> tuple[dict[str, Any], Any]:
    """Return the arguments of TiffWriter.write, and what makes the bytes of one tile by them."""
    from tifffile import TiffFile, TiffWriter

    options: dict[str, Any] = {
        "tile": (tile, tile),
        "compression": compression,
        "photometric": "rgb",
    }
    args: dict[str, Any] = {}
    if compression == "jpeg":
        options["subsampling"] = (2, 2)
        args = {"level": quality}
    elif compression == "jpeg2000" and quality < 100:
        args = {"level": 20 + quality // 4}
    elif compression == "webp":
        args = {"level": quality, "lossless": quality == 100}

    def encode(pixels: Array) -> bytes:
        held = io.BytesIO()
        with TiffWriter(held) as writer:
            writer.write(pixels, **options, compressionargs=dict(args), metadata=None)
        held.seek(0)
        with TiffFile(held) as tiff:
            start, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        return held.getvalue()[start : start + size]

    return options, encode


def sample_slide(
    path: str | os.PathLike[str],
    shape: tuple[int, int] = (20480, 20480),
    *,
    tile: int = 256,
    compression: str | None = "jpeg",
    quality: int = 80,
    pyramid: bool = False,
    mpp: float = 0.25,
    seed: int = 0,
    overwrite: bool = False,
) -> str | os.PathLike[str]:
    """
    Write a slide of stained tissue, with a pen mark and a fold, as a tiled BigTIFF.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write. It appears only when it is complete.
    shape : tuple of int
        Rows and columns. The picture is the same at every size.
    tile : int
        Side of the tiles in pixels, a multiple of 16 from 16 to 4096.
    compression : str or None
        ``"jpeg"``, ``"none"``, ``"lzw"``, ``"deflate"``, ``"zstd"``, ``"jpeg2000"`` or ``"webp"``.
    quality : int
        From 1 to 100, for the lossy codecs; 100 is lossless with JPEG 2000 and WebP.
    pyramid : bool
        Whether to add levels of 1/4, 1/16 ... as SubIFDs, down to a longest side of 1024.
    mpp : float
        Micrometres per pixel, kept in the resolution tags.
    seed : int
        Another seed draws other islands of tissue.
    overwrite : bool
        Whether to replace an existing file.

    Returns
    -------
    str or os.PathLike
        The path, as given.

    Raises
    ------
    SlideArgumentError
        If an argument is out of range.
    SlideNotFoundError
        If the folder to write to does not exist.
    OutputExistsError
        If the path is taken and `overwrite` is false.
    """
    from tifffile import TiffWriter

    name = os.fspath(path)
    codec = compression or "none"
    size = _check(name, shape, tile, codec, quality, mpp, seed)
    folder, base = os.path.split(os.path.abspath(name))
    if not os.path.isdir(folder):
        raise SlideNotFoundError(f"{name}: the folder {folder} does not exist; create it first")
    if os.path.isdir(name) or (os.path.lexists(name) and not overwrite):
        raise OutputExistsError(f"{name}: the path is taken; pass overwrite=True or another path")
    options, encode = _encoder(tile, codec, quality)
    levels = _Levels(_canvas(size, tile, seed), encode)
    depth = 0
    while pyramid and max(_reduced(size, depth)) > 1024:
        depth += 1
    hidden = os.path.join(folder, f".{base}.{secrets.token_hex(4)}.tmp")
    try:
        # With a name of x.ome.tif tifffile would add OME-XML, which has a random identifier.
        with TiffWriter(hidden, bigtiff=True, ome=False) as writer:
            for n in range(depth + 1):
                writer.write(
                    levels.tiles(n),
                    shape=(*_reduced(size, n), 3),
                    dtype=np.uint8,
                    resolution=(10000 / mpp / 4**n,) * 2,
                    resolutionunit="CENTIMETER",
                    software="dask_slides",
                    metadata=None,
                    subifds=None if n else depth,
                    subfiletype=1 if n else 0,
                    **options,
                )
        os.replace(hidden, name)
    finally:
        if os.path.exists(hidden):
            os.remove(hidden)
    return path
