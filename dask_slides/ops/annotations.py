"""Annotations of a slide: polygons or a label image, and what tiles have of each class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import as_array, as_shape
from dask_slides.core.equality import EqualByFields
from dask_slides.core.polygons import Outline, Polygons
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.numerics.coverage import covered_areas
from dask_slides.numerics.outlines import outlines_mask
from dask_slides.numerics.tissue_mask import BoxSums, TissueMask


class Labels(Protocol):
    """What has classes at places of a slide: `Annotations` or `LabelImage`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    def coverage(self, boxes: Array) -> NDArray[np.float64]:
        """Return the share of each box (n, 4) that each class covers, (n, classes)."""
        ...

    def mask(self, y_edges: Array, x_edges: Array, *, name: str | None = None) -> NDArray[np.bool_]:
        """Return the pixels whose centres are of one class, or of any; see `outlines_mask`."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Annotations(EqualByFields):
    """Polygons of a slide and their classes."""

    polygons: Polygons
    """In pixels of level 0; a sequence of `Outline`."""
    labels: NDArray[np.int64]
    """(polygons,): index into `classes`."""
    classes: tuple[str, ...]
    """Names of the classes."""
    name: str = ""
    """Name of the file."""

    @classmethod
    def of(cls, outlines: Iterable[Outline], names: Sequence[str], name: str = "") -> Annotations:
        """Return the annotations of outlines, each with the name of its class."""
        polygons = Polygons.of(outlines)
        if len(names) != len(polygons):
            raise SlideArgumentError(
                f"{len(polygons)} polygons need as many names, not {len(names)}"
            )
        numbers = {one: at for at, one in enumerate(dict.fromkeys(names))}
        labels = np.array([numbers[one] for one in names], np.int64)
        return cls(polygons, labels, tuple(numbers), name)

    def __len__(self) -> int:
        return len(self.polygons)

    def of_class(self, name: str | None) -> Polygons:
        """Return the polygons of one class; None means all."""
        if name is None:
            return self.polygons
        return self.polygons.select(self.labels == _number_of(name, self.classes))

    def mask(self, y_edges: Array, x_edges: Array, *, name: str | None = None) -> NDArray[np.bool_]:
        """Return the pixels whose centres are of class `name`, or of any; see `outlines_mask`."""
        return outlines_mask(self.of_class(name), y_edges, x_edges)

    def label_image(self, y_edges: Array, x_edges: Array) -> NDArray[np.int64]:
        """Return the number of the class of each pixel, from 1, and 0 where there is none.

        Where classes overlap, the later one of `classes` is shown.
        """
        image = np.zeros((len(y_edges) - 1, len(x_edges) - 1), np.int64)
        for number, name in enumerate(self.classes, 1):
            image[self.mask(y_edges, x_edges, name=name)] = number
        return image

    def coverage(self, boxes: Array) -> NDArray[np.float64]:
        """Return the share of each box (n, 4) that each class covers, (n, classes).

        This needs shapely (the extra ``annotations``).
        """
        areas = covered_areas(self.polygons, self.labels, len(self.classes), boxes)
        sizes = np.prod(boxes[:, 2:], axis=1, dtype=np.float64)
        return np.asarray(np.clip(areas / sizes[:, None], 0, 1))

    def __repr__(self) -> str:
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        parts = [f"{name}: {n:,}" for name, n in zip(self.classes, counts, strict=True)]
        return f"Annotations<{', '.join([self.name] * bool(self.name) + parts) or 'none'}>"


@dataclass(frozen=True, eq=False, repr=False)
class LabelImage(EqualByFields):
    """An image that covers a slide and has the number of a class in each pixel."""

    values: Array
    """(h, w) integers."""
    shape: tuple[int, int]
    """Height and width of the slide in pixels of level 0."""
    numbers: tuple[tuple[int, ...], ...]
    """The values of each class."""
    classes: tuple[str, ...]
    """The name of each class."""

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of level 0 per pixel of the image, along y and x."""
        (height, width), (rows, cols) = self.shape, self.values.shape
        return height / rows, width / cols

    def mask(self, y_edges: Array, x_edges: Array, *, name: str | None = None) -> NDArray[np.bool_]:
        """Return the pixels whose centres are of class `name`, or of any; see `outlines_mask`."""
        image = self.label_image(y_edges, x_edges)
        return image > 0 if name is None else image == 1 + _number_of(name, self.classes)

    def label_image(self, y_edges: Array, x_edges: Array) -> NDArray[np.int64]:
        """Return the number of the class of each pixel, from 1, and 0 where there is none."""
        at = []
        for edges, scale, size in zip(
            (y_edges, x_edges), self.scale, self.values.shape, strict=True
        ):
            centres = edges[:-1] + np.diff(edges) / 2
            at.append(np.clip((centres / scale).astype(np.int64), 0, size - 1))
        values = self.values[np.ix_(*at)]
        image = np.zeros(values.shape, np.int64)
        for number, of_class in enumerate(self.numbers, 1):
            image[np.isin(values, of_class)] = number
        return image

    def coverage(self, boxes: Array) -> NDArray[np.float64]:
        """Return the share of each box (n, 4) that each class covers, (n, classes)."""
        shares = [self._areas(of_class, boxes) for of_class in self.numbers]
        sizes = np.prod(boxes[:, 2:] / self.scale, axis=1)
        return np.asarray(np.reshape(shares, (len(self.numbers), len(boxes))).T / sizes[:, None])

    def _areas(self, of_class: tuple[int, ...], boxes: Array) -> NDArray[np.float64]:
        """Return the area of the values of a class in boxes, in pixels of the image."""
        rows, columns = (np.arange(size + 1) for size in self.values.shape)
        mask = TissueMask.of(np.isin(self.values, of_class), (rows, columns))
        return np.asarray(BoxSums(mask.tissue, mask)(boxes / (self.scale * 2)), np.float64)

    def __repr__(self) -> str:
        return (
            f"LabelImage<shape={self.values.shape}, slide={self.shape}, "
            f"classes={', '.join(self.classes) or 'none'}>"
        )


def label_mask(
    values: Array, slide_shape: tuple[int, ...], names: Mapping[int, str] | None = None
) -> LabelImage:
    """Return the classes of an image that covers a slide.

    Parameters
    ----------
    values : array
        (h, w) integers or bool, at any scale.
    slide_shape : tuple
        Height and width of the slide at level 0, and anything after them.
    names : mapping, optional
        The name of each value that is a class; others are not. Values with one name are one
        class. By default each value but 0 is a class, named by its number.

    Returns
    -------
    LabelImage

    Raises
    ------
    SlideArgumentError
        The values are not a 2-D array of integers, their shape is not that of the slide, or the
        names are not those of integers.

    Examples
    --------
    >>> import dask_slides as ds
    >>> image = np.array([[1, 2], [0, 2]])  # covers the slide, at any scale
    >>> ds.label_mask(image, (1000, 1000), {1: "tumour", 2: "stroma"}).classes
    ('tumour', 'stroma')
    """
    given, values = values, as_array(values)
    if values is None:
        raise SlideArgumentError(
            f"a label image is a 2-D array of integers, not a {type(given).__name__} of rows of "
            "several lengths"
        )
    if values.ndim != 2 or values.dtype.kind not in "biu" or not values.size:
        raise SlideArgumentError(
            f"a label image is a 2-D array of integers, not {values.ndim}-D of {values.dtype}"
        )
    height, width = checked_slide_shape(slide_shape)
    (rows, cols), expected = values.shape, values.shape[0] * width / height
    if abs(cols - expected) > max(2, 0.05 * expected, 2 * width / height):
        raise SlideArgumentError(
            f"a label image of {rows} x {cols} does not cover a slide of {height} x {width}: its "
            f"width would be {expected:.0f}; is it turned, or of another slide?"
        )
    if names is None:
        names = {int(value): str(int(value)) for value in np.unique(values) if value}
    classes = _values_of_classes(names)
    numbers = tuple(tuple(of_class) for of_class in classes.values())
    return LabelImage(values, (height, width), numbers, tuple(classes))


def _values_of_classes(names: Any) -> dict[str, list[int]]:
    """Return the values of each class; raise SlideArgumentError unless `names` has their names."""
    if not isinstance(names, Mapping):
        raise SlideArgumentError(
            f"names of type {type(names).__name__}; give a mapping such as {{1: 'tumour'}}"
        )
    classes: dict[str, list[int]] = {}
    for value, name in names.items():
        if not isinstance(value, int | np.integer | np.bool_) or not isinstance(
            name, str | np.str_
        ):
            raise SlideArgumentError(
                f"names has {value!r}: {name!r}; give integers and their names, as {{1: 'tumour'}}"
            )
        classes.setdefault(str(name), []).append(int(value))
    return classes


def checked_slide_shape(shape: Any) -> tuple[int, int]:
    """Return height and width of a slide; raise SlideArgumentError if `shape` has not both."""
    found = as_shape(shape)
    if found is None:
        shown = repr(shape) if isinstance(shape, tuple) else type(shape).__name__
        raise SlideArgumentError(f"slide_shape={shown:.60}; give slide.shape, or (height, width)")
    return found


def _number_of(name: str, classes: tuple[str, ...]) -> int:
    if name not in classes:
        raise SlideArgumentError(
            f"no class is named {name!r}; there are {', '.join(map(repr, classes)) or 'none'}"
        )
    return classes.index(name)


def check_labels(name: str, labels: Any) -> None:
    """Raise SlideArgumentError unless `labels` has classes at places of the slide `name`."""
    if not (hasattr(labels, "classes") and hasattr(labels, "coverage")):
        raise SlideArgumentError(
            f"{name}: annotations of type {type(labels).__name__}; give what read_geojson "
            "or label_mask returns"
        )


def class_coverage(
    labels: Labels, boxes: Any, *, min_coverage: float = 0.5
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Return the class of each box, and the share of it that each class covers.

    Polygons of one class that overlap count once; those of different classes count for each. Where
    a polygon crosses itself, what it encloses twice is outside.

    Parameters
    ----------
    labels : Annotations or LabelImage
        `Annotations` need shapely (the extra ``annotations``).
    boxes : array
        (n, 4) as y, x, height, width, in pixels of level 0; they may overlap.
    min_coverage : float
        Least share of a box that its class covers. With 0, the class is the one that covers most
        of the box, however little that is.

    Returns
    -------
    names : array
        (n,) str: the class that covers the largest share, the first one if several do; "" where
        no class covers enough.
    coverage : array
        (n, classes) float64, from 0 to 1, in the order of ``labels.classes``.

    Raises
    ------
    SlideArgumentError
        The boxes are not (n, 4), or a height or width is not positive.
    ImportError
        shapely is missing.
    """
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or (boxes[:, 2:] <= 0).any():
        raise SlideArgumentError("boxes are (n, 4) as y, x, height, width, each of some pixels")
    coverage = labels.coverage(boxes)
    names = np.array(["", *labels.classes])
    if not coverage.size:
        return np.full(len(boxes), names[0], names.dtype), coverage
    largest = coverage.argmax(axis=1)
    share = coverage[np.arange(len(boxes)), largest]
    return names[np.where((share >= min_coverage) & (share > 0), 1 + largest, 0)], coverage
