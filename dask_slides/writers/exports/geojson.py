"""GeoJSON for QuPath: tiles as objects with measurements, or the outlines of the tissue."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.pack import TilePack
from dask_slides.plots.overlay import OKABE_ITO
from dask_slides.writers.exports.output import check_new, new_file

BATCH = 4096
"""Tiles that are text in memory at a time."""
LONGEST_NUMBERS = 200
"""Bytes of the numbers of a tile beyond their places in its text."""
CORNERS = "[[[%d,%d],[%d,%d],[%d,%d],[%d,%d],[%d,%d]]]"


def export_geojson(obj: TilePack | BlankMap, path: str, *, overwrite: bool = False) -> str:
    """Write the tiles of a pack, or the outlines of a blank map, for QuPath.

    Coordinates are x before y, in pixels of level 0. Tiles are objects of the type "tile" with the
    measurements "score", "tissue fraction" and "CLASS coverage"; their label is their class.

    Parameters
    ----------
    obj : TilePack or BlankMap
        What to write.
    path : str
        ``NAME.geojson``; a name that ends with ``.gz`` is compressed.
    overwrite : bool
        Replace a file that exists.

    Returns
    -------
    str
        The path.
    """
    if isinstance(obj, BlankMap):
        check_new(path, overwrite)
        obj.to_geojson(path, overwrite=overwrite)
        return path
    features = _features(obj)
    nbytes = len(obj) * (max(map(len, features)) + LONGEST_NUMBERS)
    with new_file(path, overwrite, nbytes) as partial, _text_file(partial) as file:
        file.write('{"type":"FeatureCollection","features":[\n')
        for number, text in enumerate(_batches(obj, features)):
            file.write(",\n" * (number > 0) + text)
        file.write("\n]}\n")
    return path


@contextmanager
def _text_file(path: str) -> Iterator[TextIO]:
    """Yield a file of text; the bytes of a compressed one do not depend on the time."""
    with ExitStack() as stack:
        file: Any = stack.enter_context(open(path, "wb"))
        if path.endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
        yield stack.enter_context(TextIOWrapper(file, encoding="utf-8"))


def _features(pack: TilePack) -> list[str]:
    """Return the text of a tile without a class, and of each class."""
    classes = _classes(pack)
    return [_feature(name, classes) for name in ("", *classes)]


def _classes(pack: TilePack) -> list[str]:
    return [] if pack.labels is None else list(pack.attributes["classes"])


def _batches(pack: TilePack, features: list[str]) -> Iterator[str]:
    """Yield the features of the tiles, some thousand at a time, as text."""
    kinds = _kinds(pack)
    numbers = [pack.score, pack.tissue_fraction]
    numbers += [] if pack.coverage is None else list(pack.coverage.T)
    top, left, height, width = pack.boxes.T
    bottom, right = top + height, left + width
    ring = (left, top, right, top, right, bottom, left, bottom, left, top)
    for start in range(0, len(pack), BATCH):
        part = slice(start, start + BATCH)
        values = zip(*(column[part].tolist() for column in (*ring, *numbers)), strict=True)
        kind = kinds[part].tolist()
        yield ",\n".join(features[k] % value for k, value in zip(kind, values, strict=True))


def _feature(name: str, classes: list[str]) -> str:
    """Return the text of a tile of the class `name`, with places for its numbers."""
    measured = ["score", "tissue fraction", *(f"{one} coverage" for one in classes)]
    places = ",".join(f"{_quoted(one)}:%.6g" for one in measured)
    properties = f'"objectType":"tile","measurements":{{{places}}}'
    if name:
        colour = OKABE_ITO[1 + classes.index(name) % (len(OKABE_ITO) - 1)].tolist()
        properties += f',"classification":{{"name":{_quoted(name)},"color":{colour}}}'
    geometry = f'{{"type":"Polygon","coordinates":{CORNERS}}}'
    return f'{{"type":"Feature","geometry":{geometry},"properties":{{{properties}}}}}'


def _quoted(text: str) -> str:
    """Return `text` for JSON, inside of a template of %."""
    return json.dumps(text, ensure_ascii=False).replace("%", "%%")


def _kinds(pack: TilePack) -> NDArray[np.intp]:
    """Return the number of the class of each tile, from 1; 0 for none."""
    kinds = np.zeros(len(pack), np.intp)
    for number, name in enumerate(_classes(pack), 1):
        kinds[np.asarray(pack.labels) == name] = number
    return kinds
