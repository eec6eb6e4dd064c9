"""Tar shards of tiles, as the library WebDataset reads them.

Each tile is a sample of two members: ``KEY.jpg`` or ``KEY.png``, and ``KEY.json`` with its
coordinates, scores and classes. Keys are ``SLIDE-DIGEST-NUMBER``. The digest is that of the
coordinates and scores of the whole pack, so that keys of slides with equal names differ.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.ops.pack import TilePack
from dask_slides.runtime.write_permission import check_parent, exists_error
from dask_slides.writers.exports.encoders import Encoder, encoder_for
from dask_slides.writers.exports.output import staging_folder
from dask_slides.writers.exports.pack_facts import source_name
from dask_slides.writers.exports.tile_blocks import name_of, write_tile_blocks

TILES_PER_SHARD = 1000
"""Default; 25 MB of JPEG tiles of 256 px."""
RECORD = tarfile.RECORDSIZE
FIELD = re.compile(r"%0?(\d*)d|\{:0?(\d*)d?\}")
"""The place of the number in the name of a shard."""


@dataclass(frozen=True)
class ShardNames:
    """The names of the shards of one export."""

    folder: str
    before: str
    after: str
    digits: int | None
    """Least digits of the number; None for a single shard whose name has no number."""

    @classmethod
    def of(cls, path: str, pack: TilePack) -> ShardNames:
        """Return the names for ``FOLDER/NAME-{:06d}.tar``, ``FOLDER/NAME.tar`` or ``FOLDER``."""
        if not path.lower().endswith(".tar"):
            return cls(os.path.abspath(path), f"{name_of(pack)}-", ".tar", 6)
        folder, name = os.path.split(os.path.abspath(path))
        fields = list(FIELD.finditer(name))
        if not fields and "{" not in name:
            return cls(folder, name, "", None)
        if len(fields) != 1:
            raise SlideArgumentError(
                f"{path}: give one place for the number of a shard, such as name-{{:06d}}.tar"
            )
        digits = int(fields[0][1] or fields[0][2] or 1)
        return cls(folder, name[: fields[0].start()], name[fields[0].end() :], digits)

    def __call__(self, number: int) -> str:
        """Return the name of a shard."""
        return f"{self.before}{self._digits(number)}{self.after}"

    def _digits(self, number: int) -> str:
        return "" if self.digits is None else f"{number:0{self.digits}d}"

    def existing(self) -> list[str]:
        """Return the files of the folder with such a name, also with numbers of other shards."""
        number = "" if self.digits is None else r"\d+"
        name = re.compile(re.escape(self.before) + number + re.escape(self.after))
        found = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return sorted(one for one in found if name.fullmatch(one))

    def check_new(self, overwrite: bool) -> None:
        """Raise OutputExistsError if there are shards with such names and they must stay."""
        found = self.existing()
        if found and not overwrite:
            raise exists_error(os.path.join(self.folder, found[0]))


@dataclass(frozen=True, eq=False)
class _WriteSegments:
    """Write tiles as segments of tar files, which are joined later."""

    folder: str
    encode: Encoder
    tiles_per_shard: int
    records: Records

    def __call__(self, start: int, tiles: Array) -> None:
        step = self.tiles_per_shard
        stop = start + len(tiles)
        for shard in range(start // step, -(-stop // step)):
            first, last = max(start, shard * step), min(stop, (shard + 1) * step)
            with open(os.path.join(self.folder, _segment(shard, first)), "wb") as file:
                for number in range(first, last):
                    for name, data in self._members(number, tiles[number - start]):
                        _add(file, name, data)

    def _members(self, number: int, tile: Array) -> Iterator[tuple[str, bytes]]:
        key = self.records.key(number)
        yield f"{key}.{self.encode.suffix}", self.encode(tile)
        yield f"{key}.json", json.dumps(self.records.of(number), allow_nan=False).encode()


@dataclass(frozen=True, eq=False)
class Records:
    """The keys and the metadata of the tiles of a pack, without the pack."""

    source: str
    prefix: str
    mpp: float | None
    boxes: Array
    score: Array
    tissue_fraction: Array
    labels: Array | None
    classes: tuple[str, ...]
    coverage: Array | None

    @classmethod
    def from_pack(cls, pack: TilePack) -> Records:
        """Return the records of `pack`."""
        source = source_name(pack)
        prefix = f"{name_of(pack)}-{_digest(pack)[:8]}"
        columns = (pack.boxes, pack.score, pack.tissue_fraction, pack.labels)
        classes = tuple(map(str, pack.attributes.get("classes", ())))
        return cls(source, prefix, pack.mpp, *columns, classes, pack.coverage)

    def key(self, number: int) -> str:
        """Return the key of a tile."""
        return f"{self.prefix}-{number:06d}"

    def of(self, number: int) -> dict[str, Any]:
        """Return the metadata of a tile as plain values."""
        y, x, height, width = self.boxes[number].tolist()
        shares = () if self.coverage is None else self.coverage[number].tolist()
        return {
            "source": self.source, "number": number, "y": y, "x": x,
            "height": height, "width": width, "mpp": self.mpp,
            "score": _plain(self.score[number]),
            "tissue_fraction": _plain(self.tissue_fraction[number]),
            "label": None if self.labels is None else str(self.labels[number]),
            "classes": dict(zip(self.classes, shares, strict=False)),
        }  # fmt: skip


def _plain(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _digest(pack: TilePack) -> str:
    """Return a digest of the coordinates and scores; it does not depend on the path."""
    names = ("source", "source_shape", "downsample", "tile_size")
    facts = json.dumps([pack.attributes.get(name) for name in names], default=str)
    digest = hashlib.sha256(facts.encode())
    for column in (pack.y, pack.x, pack.score, pack.tissue_fraction):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _segment(shard: int, first: int) -> str:
    return f"{shard:09d}-{first:012d}"


def _add(file: Any, name: str, data: bytes) -> None:
    """Add a member to a tar file, with a header that is the same at any time and for any user."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    file.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def export_webdataset(
    pack: TilePack,
    path: str,
    *,
    overwrite: bool = False,
    tiles_per_shard: int | None = None,
    image: str = "jpg",
    quality: int | None = None,
) -> str:
    """Write the tiles of `pack` as tar shards for WebDataset.

    Parameters
    ----------
    pack : TilePack
        Its tiles are read once, on the active scheduler. On a cluster, every worker must be able to
        write to the folder.
    path : str
        ``FOLDER/NAME-{:06d}.tar``, where the number of the shard replaces ``{:06d}``; ``NAME.tar``
        for a single shard; or a folder, in which the shards get the name of the slide. The folder
        may hold shards of other slides.
    overwrite : bool
        Replace all shards with such a name.
    tiles_per_shard : int, optional
        1,000 by default; all tiles for a single shard.
    image : {"jpg", "png"}
        Format of the tiles.
    quality : int, optional
        Quality of JPEG, 1 to 100; 90 by default. Colour is not subsampled.

    Returns
    -------
    str
        `path`.
    """
    encode = encoder_for(path, image, quality, pack.tiles.dtype, pack.tiles.shape[3])
    names = ShardNames.of(path, pack)
    per_shard = _checked_count(path, tiles_per_shard, names.digits is None, len(pack))
    names.check_new(overwrite)
    made = not os.path.isdir(names.folder) and not path.lower().endswith(".tar")
    if made:
        check_parent(names.folder)
        os.mkdir(names.folder)
    try:
        inside = os.path.join(names.folder, names(0))
        with staging_folder(inside, encode.largest(pack.tiles.nbytes)) as staging:
            write = _WriteSegments(staging, encode, per_shard, Records.from_pack(pack))
            write_tile_blocks(pack, write)
            _join(staging, max(1, -(-len(pack) // per_shard)), names)
            names.check_new(overwrite)  # again, as another process may have written meanwhile
            _publish(staging, names)
    finally:
        if made and not os.listdir(names.folder):
            os.rmdir(names.folder)
    return path


def _checked_count(path: str, count: Any, single: bool, tiles: int) -> int:
    if count is None:
        return max(1, tiles) if single else TILES_PER_SHARD
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise SlideArgumentError(f"{path}: tiles_per_shard={count!r}; give 1 or more")
    if single and count < tiles:
        raise SlideArgumentError(
            f"{path}: {tiles:,} tiles with tiles_per_shard={count:,} are several shards; "
            "give a name such as name-{:06d}.tar"
        )
    return int(count)


def _join(staging: str, shards: int, names: ShardNames) -> None:
    """Join the segments of each shard to a tar file."""
    segments = sorted(os.listdir(staging))
    for shard in range(shards):
        with open(os.path.join(staging, names(shard)), "xb") as out:
            while segments and int(segments[0].split("-")[0]) == shard:
                segment = os.path.join(staging, segments.pop(0))
                with open(segment, "rb") as file:
                    shutil.copyfileobj(file, out, 2**20)
                os.unlink(segment)
            end = out.tell() + 2 * tarfile.BLOCKSIZE
            out.write(bytes(end + -end % RECORD - out.tell()))


def _publish(staging: str, names: ShardNames) -> None:
    """Move the shards into the folder; remove those of an earlier export that they replace."""
    shards = sorted(os.listdir(staging))
    for old in set(names.existing()) - set(shards):
        os.unlink(os.path.join(names.folder, old))
    for shard in shards:
        os.replace(os.path.join(staging, shard), os.path.join(names.folder, shard))
