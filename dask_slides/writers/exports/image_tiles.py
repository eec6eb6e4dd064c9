"""A folder of tiles as PNG or JPEG files whose names carry the coordinates.

The names are ``SLIDE_yY_xX_hHEIGHT_wWIDTH_NUMBER.png``: top, left, height and width in pixels of
level 0 of the slide, then the number of the tile in the pack. Numbers of one column have as many
digits, so that sorted names are in the order of the slide.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dask_slides.core.types import Array
from dask_slides.ops.pack import TilePack
from dask_slides.writers.exports.encoders import Encoder, encoder_for
from dask_slides.writers.exports.output import new_folder
from dask_slides.writers.exports.tile_blocks import name_of, write_tile_blocks


@dataclass(frozen=True, eq=False)
class _WriteImages:
    """Write tiles as files of a folder."""

    folder: str
    encode: Encoder
    name: str
    boxes: Array
    """(n, 4) y, x, height and width of each tile at level 0."""
    digits: tuple[int, int]
    """Digits of coordinates, and of the number."""

    def __call__(self, start: int, tiles: Array) -> None:
        for number, tile in enumerate(tiles, start):
            with open(os.path.join(self.folder, self.file(number)), "wb") as file:
                file.write(self.encode(tile))

    def file(self, number: int) -> str:
        y, x, height, width = self.boxes[number].tolist()
        wide, long = self.digits
        place = f"y{y:0{wide}d}_x{x:0{wide}d}_h{height}_w{width}"
        return f"{self.name}_{place}_{number:0{long}d}.{self.encode.suffix}"


def export_png(pack: TilePack, path: str, *, overwrite: bool = False) -> str:
    """Write the tiles of `pack` as PNG files of a folder; it must be new or empty."""
    return _export(pack, path, "png", None)


def export_jpeg(
    pack: TilePack, path: str, *, overwrite: bool = False, quality: int | None = None
) -> str:
    """Write the tiles of `pack` as JPEG files of a folder; it must be new or empty."""
    return _export(pack, path, "jpeg", quality)


def _export(pack: TilePack, path: str, image: str, quality: int | None) -> str:
    encode = encoder_for(path, image, quality, pack.tiles.dtype, pack.tiles.shape[3])
    boxes = pack.boxes
    digits = (max(6, len(str(boxes[:, :2].max(initial=0)))), max(6, len(str(len(pack)))))
    with new_folder(path, encode.largest(pack.tiles.nbytes)) as folder:
        write_tile_blocks(pack, _WriteImages(folder, encode, name_of(pack), boxes, digits))
    return path
