"""Where a slide made from a GeoTIFF lies on a map."""

from __future__ import annotations

from dask_slides.core.geometry import Region
from dask_slides.core.georeference import GeoReference, reference_of
from dask_slides.core.source import placement_of, root_spans
from dask_slides.slide import Slide


def georeference(slide: Slide) -> GeoReference | None:
    """Return the reference of level 0 of `slide`, resized or cut; None without one in the file."""
    reference = reference_of(slide.properties)
    if reference is None or 0 in slide.shape:
        return None
    spans = root_spans(slide.source, 0, Region(0, 0, *slide.shape[:2]))
    whole = len(spans) == 1 and all(len(ranges) == 1 for ranges in spans[0])
    return reference.placed(placement_of(slide.source), whole=whole)
