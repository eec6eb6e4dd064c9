"""Labelled overviews for the benchmark of tissue detection: made ones, and real ones of a folder.

The made ones look like slides at about 8 µm a pixel, and their truth is known: tissue as a person
would outline it, so the holes of glands belong to it and large torn out holes do not. Pixels on
which two people would differ are not judged. Every image is made from its own seed, so an image
does not depend on which others are made.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks import tissue_scene as scene
from benchmarks.tissue_scene import Field, Mask, Rng, Shape

GLASS, TISSUE, PEN, UNJUDGED = 0, 1, 2, 255
SMALL_HOLE, LARGE_HOLE, SMALL_PIECE = 100, 800, 60
"""Areas in px of holes that are tissue, of holes that are glass, of pieces that are not judged."""
REAL_MPP = {"cmu": 1.5}
"""Pixel sizes of the real pictures in µm, where they are known."""

Label = NDArray[np.uint8]
Made = tuple[NDArray[Any], Label]


@dataclass(frozen=True)
class Labelled:
    """One image and its truth."""

    name: str
    group: str
    image: NDArray[Any]
    """(h, w, c)."""
    label: Label
    """(h, w): 0 glass, 1 tissue, 2 pen on glass, 255 not judged."""
    mpp: float | None
    """Size of a pixel in µm."""


def generated(group: str | None = None, seed: str = "") -> Iterator[Labelled]:
    """Yield the made images, or those of one group; another `seed` makes other images."""
    for name, (count, make) in GROUPS.items():
        for number in range(count if group in (None, name) else 0):
            rng = np.random.default_rng(zlib.crc32(f"{seed}{name}-{number}".encode()))
            image, label = make(rng, number)
            mpp = (8.0, 8.0, 7.0, 8.0, 10.0, None)[number % 6]
            yield Labelled(f"{name}-{number}", name, image, label, mpp)


def real(folder: Path) -> Iterator[Labelled]:
    """Yield NAME.png with NAME-label.png of `folder`."""
    for path in sorted(folder.glob("*-label.png")):
        name = path.stem.removesuffix("-label")
        image = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
        label = np.asarray(Image.open(path))
        yield Labelled(name, "real", image, label, REAL_MPP.get(name))


def truth(tissue: Mask) -> Label:
    """Return the label of what was made as tissue, where a person would draw it."""
    solid = ndimage.binary_closing(np.pad(tissue, 2, "edge"), np.ones((3, 3)))[2:-2, 2:-2]
    label = solid.astype(np.uint8)
    holes, sizes = _regions(~solid)
    label[(sizes < LARGE_HOLE)[holes] & ~solid] = UNJUDGED
    label[(sizes < SMALL_HOLE)[holes] & ~solid] = TISSUE
    parts, sizes = _regions(label == TISSUE)
    label[(sizes < SMALL_PIECE)[parts] & (label == TISSUE)] = UNJUDGED
    return _without_edge(label, label == TISSUE, 1)


def _regions(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    numbers, _ = ndimage.label(mask)
    return numbers, np.bincount(numbers.ravel())


def _without_edge(label: Label, mask: Mask, width: int) -> Label:
    """Return `label` without a verdict within `width` px of the outline of `mask`."""
    square = np.ones((2 * width + 1,) * 2)
    edge = ndimage.binary_dilation(mask, square) & ~ndimage.binary_erosion(
        mask, square, border_value=1
    )
    return np.where(edge, np.uint8(UNJUDGED), label)


def _shape(rng: Rng, least: int = 620, most: int = 1150) -> Shape:
    height, width = rng.integers(least, most, 2)
    return int(height), int(width)


def _white(rng: Rng) -> NDArray[np.float64]:
    return np.asarray(rng.uniform(232, 250) + rng.normal(0, 1.5, 3))


def _photograph(
    rng: Rng,
    density: Field,
    label: Label,
    *,
    colour: scene.Numbers | None = None,
    dust: float = 0.6,
    shade: Field | None = None,
    pens: Sequence[tuple[str, Sequence[Any], float]] = (),
    noise: float = 1.2,
    quality: int | None = None,
) -> Made:
    """Return what a scanner makes of tissue of `density` on glass, with pen and dust on it."""
    shape = label.shape
    light = scene.glass(rng, shape, _white(rng) if colour is None else colour)
    light = light * np.exp(-density - scene.dust(rng, shape, dust))
    for name, strokes, width in pens:
        cover, thick = scene.ink(rng, shape, strokes, width)
        light = light * np.asarray(scene.INKS[name], np.float32) ** thick[..., None]
        label = _with_pen(label, cover)
    if shade is not None:
        light = light * (shade if shade.ndim == 3 else shade[..., None])
    return scene.camera(rng, light, quality or int(rng.integers(72, 93)), noise), label


def _with_pen(label: Label, cover: Mask) -> Label:
    near = ndimage.binary_dilation(label == TISSUE, iterations=3)
    label = np.where(cover & ~near & (label != UNJUDGED), np.uint8(PEN), label)
    label = np.where(cover & near, np.uint8(UNJUDGED), label)
    return _without_edge(label, cover, 2)


def _section(
    rng: Rng, shape: Shape, count: int = 1, size: tuple[float, float] | None = None
) -> tuple[Mask, Mask]:
    """Return the outline of tissue and what is torn out of it."""
    span = min(shape)
    mask = scene.pieces(rng, shape, count, size or (span * 0.3, span * 0.46))
    return mask, scene.tears(rng, mask)


def _plain(rng: Rng, shape: Shape, strength: float = 1) -> tuple[Field, Label]:
    mask, torn = _section(rng, shape, int(rng.integers(1, 4)))
    return scene.stained(rng, mask, strength, torn), truth(mask & ~torn)


def faint(rng: Rng, number: int) -> Made:
    """Tissue 5 to 25 grey levels darker than glass, alone or beside well stained tissue."""
    shape = _shape(rng)
    mask, torn = _section(rng, shape, int(rng.integers(1, 4)))
    strength = np.full(shape, (0.22, 0.14, 0.1, 0.17, 0.08, 0.12)[number])
    if number % 2:  # a part is stained as usual
        strength = strength + 0.85 * scene.sigmoid(12 * scene.smooth(rng, shape, 260) - 6)
    density = scene.stained(rng, mask, 1, torn) * strength[..., None].astype(np.float32)
    return _photograph(rng, density, truth(mask & ~torn), noise=(1.0, 1.5)[number % 2])


def fat(rng: Rng, number: int) -> Made:
    """Fat alone, around other tissue, and in lobules within it."""
    shape = _shape(rng)
    mask, torn = _section(rng, shape, int(rng.integers(1, 3)))
    part = scene.fractal(rng, shape, 260, 12) > (-9, 0.1, 0.6, -0.4, -9)[number]
    density, area = scene.fat(rng, mask & ~torn & part, rng.uniform(8, 12))
    solid = mask & ~torn & ~area & ~part
    density = density + scene.stained(rng, solid, rng.uniform(0.6, 1))
    return _photograph(rng, density, truth(area | solid))


def dust(rng: Rng, number: int) -> Made:
    """Much dust, fibres, bubbles and grain around little tissue."""
    shape = _shape(rng)
    mask, torn = _section(rng, shape, 1, (min(shape) * 0.08, min(shape) * (0.15, 0.3)[number % 2]))
    density = scene.stained(rng, mask, rng.uniform(0.5, 1), torn)
    amount, noise = (4, 8, 3, 6, 2)[number], (1.2, 1.5, 4.0, 2.0, 6.0)[number]
    return _photograph(rng, density, truth(mask & ~torn), dust=amount, noise=noise)


def _notes(rng: Rng, shape: Shape, width: float) -> list[NDArray[np.float64]]:
    """Return strokes like a few letters, a line and a dot."""
    x, y = rng.uniform(0.1, 0.7) * shape[1], rng.uniform(0.1, 0.85) * shape[0]
    strokes = [
        scene.stroke_points(rng, (x + 3 * width * n, y), rng.uniform(60, 140), 0.3)
        for n in range(4)
    ]
    far = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
    strokes.append(scene.stroke_points(rng, far, rng.uniform(150, 500), 0.03))
    dot = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
    return [*strokes, np.asarray([dot] * 3)]


def _around(rng: Rng, label: Label, margin: float) -> NDArray[np.float64]:
    """Return a ring around all tissue, or across its rim if `margin` is small."""
    rows, columns = np.nonzero(label == TISSUE)
    low, high = (rows.min(), columns.min()), (rows.max(), columns.max())
    centre = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    radii = [(b - a) / 2 + margin for a, b in zip(low, high, strict=True)]
    return scene.ring_points(rng, centre, radii)


def pen_on_glass(rng: Rng, number: int) -> Made:
    """Rings around tissue and notes beside it."""
    shape = _shape(rng, 700)
    size = (min(shape) * 0.14, min(shape) * 0.3)
    mask, torn = _section(rng, shape, int(rng.integers(1, 3)), size)
    density, label = scene.stained(rng, mask, rng.uniform(0.5, 1), torn), truth(mask & ~torn)
    width = rng.uniform(9, 32)
    strokes = [_around(rng, label, 4 * width), *_notes(rng, shape, width)]
    names = list(scene.INKS)
    pens = [(names[number % 4], strokes[number // 4 :], width)]
    if number >= 4:
        pens.append((names[(number + 1) % 4], _notes(rng, shape, width), rng.uniform(8, 20)))
    return _photograph(rng, density, label, pens=pens)


def pen_on_tissue(rng: Rng, number: int) -> Made:
    """Pen along the rim of tissue, across it, and in rings within it."""
    shape = _shape(rng, 700)
    density, label = _plain(rng, shape, rng.uniform(0.6, 1))
    inside = np.argwhere(label == TISSUE)
    spots = [inside[rng.integers(len(inside))] for _ in range(5)]
    width = rng.uniform(9, 20)
    rings = [scene.ring_points(rng, spot, rng.uniform(20, 45, 2)) for spot in spots]
    across = [scene.stroke_points(rng, spot[::-1], rng.uniform(250, 700), 0.06) for spot in spots]
    names = list(scene.INKS)
    pens = [
        (names[number % 4], [_around(rng, label, -width), *across[:2]], width),
        (names[(number + 1) % 4], rings if number % 2 else across[2:], rng.uniform(7, 14)),
    ]
    return _photograph(rng, density, label, pens=pens)


def folded(rng: Rng, number: int) -> Made:
    """Tissue that lies two or three times over itself."""
    shape = _shape(rng)
    mask, torn = _section(rng, shape, 1 + number % 2)
    density = scene.stained(rng, mask, (0.2, 0.4, 0.8, 0.12)[number], torn)
    layers = scene.folds(rng, mask & ~torn, 4 + 2 * number)
    return _photograph(rng, density * (1 + layers[..., None]), truth(mask & ~torn))


def uneven(rng: Rng, number: int) -> Made:
    """Vignetting, light from one side, a shadow, shading of every tile of the scan."""
    shape = _shape(rng)
    density, label = _plain(rng, shape, (0.9, 0.5, 0.35, 0.7, 0.5)[number])
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    corner = 1 - rng.uniform(0.12, 0.28) * (x**2 + y**2) / 2
    side = 1 - rng.uniform(0.1, 0.25) * (1 + x * rng.choice([-1, 1])) / 2
    shadow = 1 - 0.2 * scene.sigmoid(2 * scene.smooth(rng, shape, 350))
    step = int(rng.integers(60, 130))
    rows, columns = (np.mgrid[: shape[0], : shape[1]] % step) / step - 0.5
    tiles = 1 - rng.uniform(0.08, 0.16) * 2 * (rows**2 + columns**2)
    shade = (corner, side, tiles, shadow, corner * tiles)[number]
    warm = 1 - (1 - shade[..., None]) * np.array([0.8, 1.0, 1.25])
    return _photograph(rng, density, label, shade=warm.astype(np.float32))


def borders(rng: Rng, number: int) -> Made:
    """Black bars, the grey rim of a scan, the edge of the slide or of its coverslip."""
    shape = _shape(rng)
    density, label = _plain(rng, shape, rng.uniform(0.4, 1))
    shade, bar = np.ones(shape, np.float32), np.zeros(shape, bool)
    for side in rng.permutation(4)[: 1 + number % 3]:
        wide = int(rng.uniform(12, 110))
        lines, bars = np.rot90(shade, side), np.rot90(bar, side)
        y = np.arange(lines.shape[0])[:, None] + rng.uniform(-0.03, 0.03) * np.arange(
            lines.shape[1]
        )
        if number in (0, 1, 2):
            lines[y < wide] *= rng.uniform(0, 0.06)
        elif number == 3:  # a grey rim that fades, as in pens.png
            lines *= 1 - 0.75 * np.exp(-np.clip(y, 0, None) / (wide / 3))
        else:  # the edge of the glass: a dark line, and grey beyond it
            lines[y < wide] *= rng.uniform(0.6, 0.85)
            lines *= 1 - 0.8 * np.exp(-(((y - wide) / 2.5) ** 2))
        bars |= y < (wide if number != 3 else wide / 2)
    label = np.where(bar, np.uint8(GLASS), label)
    return _photograph(rng, density, _without_edge(label, bar, 2), shade=shade)


def skipped(rng: Rng, number: int) -> Made:
    """Pure white where the scanner found nothing, beside real glass that is darker."""
    shape = _shape(rng)
    density, label = _plain(rng, shape, (0.8, 0.3, 0.12, 0.2)[number])
    grey = rng.uniform(224, 240)
    image, label = _photograph(rng, density, label, colour=(grey + 1, grey - 2, grey + 1))
    tile = int(rng.integers(55, 120))
    rows, columns = (-(-side // tile) for side in shape)
    found = np.zeros((rows, columns), bool)
    y, x = np.nonzero(ndimage.binary_dilation(label != GLASS, iterations=8))
    found[y // tile, x // tile] = True
    scanned = np.kron(found, np.ones((tile, tile), bool))[: shape[0], : shape[1]]
    return np.where(scanned[..., None], image, np.uint8(255)), label


def yellow(rng: Rng, number: int) -> Made:
    """Glass and mounting medium that have yellowed, evenly or not."""
    shape = _shape(rng)
    density, label = _plain(rng, shape, (0.8, 0.4, 0.2, 0.6)[number])
    colour = ((235, 225, 200), (240, 228, 190), (228, 214, 186), (238, 230, 205))[number]
    stain = 0.5 + 0.5 * scene.sigmoid(3 * scene.fractal(rng, shape, 300, 60))
    shade = np.exp(-(number % 2) * 0.12 * stain[..., None] * np.array([0.2, 0.4, 1.0]))
    return _photograph(rng, density, label, colour=colour, shade=shade.astype(np.float32))


def ihc(rng: Rng, number: int) -> Made:
    """Pale hematoxylin, and DAB in some cells, in patches, in nearly none, or everywhere."""
    shape = _shape(rng)
    mask, torn = _section(rng, shape, int(rng.integers(1, 4)))
    blue, pink, holes = scene.amounts(rng, mask)
    ground = (0.28, 0.16, 0.45, 0.12, 0.2, 0.09)[number]
    level = (0.6, 1.4, 0.0, 3.5, -2.0, 3.5)[number]
    patch = scene.sigmoid(4 * (scene.fractal(rng, shape, 90, 4) - level))
    brown = 0.8 * patch * rng.gamma(1.5, 0.5, shape) * (mask & ~holes)
    solid = ndimage.gaussian_filter((mask & ~torn & ~holes).astype(np.float32), 0.7) * mask
    density = scene.density(
        (ground * (0.35 * pink + 1.2 * blue) * solid, scene.HEMATOXYLIN),
        (np.asarray(brown * solid, np.float32), scene.DAB),
    )
    return _photograph(rng, density, truth(mask & ~torn))


def fragments(rng: Rng, number: int) -> Made:
    """Many small pieces: curettage, a cell block, cores of a needle biopsy, frayed shreds."""
    shape = _shape(rng)
    if number == 2:
        mask = np.zeros(shape, bool)
        for _ in range(5):
            centre = [rng.uniform(0.2, 0.8) * side for side in shape]
            radii = rng.uniform(7, 14), rng.uniform(120, 300)
            mask |= scene.ragged(rng, scene.ellipse(shape, centre, radii, rng.uniform(0, 3)), 0.4)
    else:
        size = ((9, 40), (7, 16), (0, 0), (12, 60), (8, 25))[number]
        mask = scene.pieces(rng, shape, (45, 110, 0, 25, 60)[number], size)
    density = scene.stained(
        rng, mask, (0.8, 0.6, 0.9, 0.3, 0.2)[number], scene.tears(rng, mask, False)
    )
    return _photograph(rng, density, truth(mask))


def empty(rng: Rng, number: int) -> Made:
    """Slides without tissue: clean, dusty, marked, frosted by ice, vignetted, dark."""
    shape = _shape(rng)
    label = np.zeros(shape, np.uint8)
    if number == 5:
        return _fluorescence(rng, np.zeros(shape, bool), 3, np.uint16, 0.05), label
    density, shade = np.zeros((*shape, 3), np.float32), None
    if number == 3:  # residue of ice and of mounting medium
        haze = scene.sigmoid(5 * scene.fractal(rng, shape, 200, 4) - 3)
        density += 0.06 * haze[..., None]
    if number == 4:
        y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
        shade = np.asarray(1 - 0.1 * (x**2 + y**2), np.float32)
    pens = [("black", _notes(rng, shape, 14), 14.0)] if number == 2 else []
    return _photograph(
        rng, density, label, dust=(0, 3, 0.5, 1, 0.3)[number], pens=pens, shade=shade
    )


def fluorescence(rng: Rng, number: int) -> Made:
    """Dark slides whose background was subtracted."""
    return _dark(rng, number, 0)


def fluorescence_background(rng: Rng, number: int) -> Made:
    """Dark slides with the offset of a camera, stray light and glow of the mounting medium."""
    return _dark(rng, number + 1, (0.06, 0.1, 0.04, 0.15, 0.08)[number])


def _dark(rng: Rng, number: int, ground: float) -> Made:
    shape = _shape(rng)
    mask, torn = _section(rng, shape, 1 + number % 3)
    channels = (1, 3, 4, 2, 3, 1)[number]
    dtype = (np.uint8, np.uint8, np.uint16, np.uint16, np.uint16, np.uint16)[number]
    return _fluorescence(rng, mask & ~torn, channels, dtype, ground), truth(mask & ~torn)


def _fluorescence(
    rng: Rng, mask: Mask, channels: int, dtype: type[np.integer[Any]], ground: float
) -> NDArray[Any]:
    """Return channels (y, x, c) of glowing tissue: nuclei, fibres, few cells, all cells."""
    shape = mask.shape
    blue, pink, holes = scene.amounts(rng, mask)
    solid = ndimage.gaussian_filter((mask & ~holes).astype(np.float32), 0.8)
    few = scene.sigmoid(5 * (scene.fractal(rng, shape, 60, 3) - 1.5)) * rng.gamma(1.5, 0.6, shape)
    signals = (blue, 0.5 * pink, few * mask, 0.4 * pink + 0.3 * blue)
    full = int(rng.choice([45, 120, 255] if dtype is np.uint8 else [1500, 8000, 40000]))
    base = rng.choice([0.03, 0.06, 0.12])  # what all tissue glows with
    image = np.zeros((*shape, channels), np.float64)
    for channel in range(channels):
        light = rng.uniform(0.3, 1) * (base + 0.8 * signals[channel % 4]) * solid
        light = light + 0.06 * ndimage.gaussian_filter(light, 14) + _stray(rng, shape, ground)
        light = light + 0.6 * (scene.dust(rng, shape, 0.4)[..., 0] > 0.25) * rng.uniform(0, 1)
        photons = rng.uniform(150, 800)
        light += rng.standard_normal(shape) * np.sqrt(np.clip(light, 0, None) / photons + 3e-5)
        image[..., channel] = light
    offset = 0 if dtype is np.uint8 or not ground else 100
    return np.asarray(np.clip(image * full + offset, 0, np.iinfo(dtype).max), dtype)


def _stray(rng: Rng, shape: Shape, ground: float) -> Field:
    """Return the light of the background: even, from one side, and one glowing spot."""
    if not ground:
        return np.zeros(shape, np.float32)
    x = np.linspace(0, rng.uniform(-0.4, 0.4), shape[1], dtype=np.float32)
    centre = [rng.uniform(0, side) for side in shape]
    spot = scene.ellipse(shape, centre, rng.uniform(80, 250, 2))
    return np.asarray(
        ground * (1 + x + rng.uniform(0.2, 0.8) * scene.sigmoid(spot * 4)), np.float32
    )


GROUPS: dict[str, tuple[int, Callable[[Rng, int], Made]]] = {
    "faint": (6, faint),
    "fat": (5, fat),
    "dust": (5, dust),
    "pen on glass": (6, pen_on_glass),
    "pen on tissue": (4, pen_on_tissue),
    "folds": (4, folded),
    "uneven light": (5, uneven),
    "borders": (5, borders),
    "skipped": (4, skipped),
    "yellow glass": (4, yellow),
    "immunohistochemistry": (6, ihc),
    "fragments": (5, fragments),
    "fluorescence": (5, fluorescence),
    "fluorescence, background": (5, fluorescence_background),
    "empty": (6, empty),
}
"""How many images each group has, and the function that makes one from its number."""
