"""Read what dask_slides wrote about itself into the description of a TIFF."""

from __future__ import annotations

import json
from typing import Any

from dask_slides.core.bad_tiles import MARK, MissingRegion, missing_from_json
from dask_slides.core.json_values import require_type
from dask_slides.readers.tiff.ome_xml import root_of_xml


def facts_in(description: str) -> dict[str, Any]:
    """Return the facts of dask_slides in a description: JSON, or OME-XML with JSON in a comment.

    Raises ValueError, KeyError or TypeError if there are none.
    """
    if description.lstrip().startswith("<"):
        root = root_of_xml(description)
        path = f".//{{*}}CommentAnnotation[@Namespace='{MARK}']/{{*}}Value"
        found = None if root is None else root.find(path)
        description = "" if found is None else found.text or ""
    facts: dict[str, Any] = require_type(json.loads(description)[MARK], dict)
    return facts


def recorded_holes(tiff: Any) -> tuple[MissingRegion, ...]:
    """Return the missing regions that the facts list, in pixels of level 0; () without facts."""
    description = tiff.pages[0].description
    if MARK not in description:
        return ()
    try:
        return missing_from_json(facts_in(description).get("holes", ()))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # of another program
        return ()
