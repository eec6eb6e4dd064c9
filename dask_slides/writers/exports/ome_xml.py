"""OME-XML of one image, and the facts of dask_slides in the description of a TIFF.

`readers.tiff.own_facts` reads these facts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from dask_slides.core.bad_tiles import MARK
from dask_slides.core.channels import DEFAULT_COLORS, Channel
from dask_slides.core.version import __version__

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SCHEMA = f"{NAMESPACE} {NAMESPACE}/ome.xsd"
TYPES = {
    "uint8": "uint8", "int8": "int8", "uint16": "uint16", "int16": "int16", "uint32": "uint32",
    "int32": "int32", "float32": "float", "float64": "double",
}  # fmt: skip
"""Pixel types of OME, by dtype."""


def ome_xml(
    name: str,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    channels: Sequence[Channel],
    mpp: tuple[float, float] | None,
    facts: Mapping[str, Any],
) -> bytes:
    """Return the OME-XML, in ASCII, of an image (y, x, c) at the start of a TIFF.

    Several `channels` are planes of a page each. A single one has all samples, as RGB has.
    Pixel sizes `mpp` (y, x) are in micrometres. `facts` become an annotation with JSON.
    """
    height, width, samples = shape
    root = ElementTree.Element("OME", {
        "xmlns": NAMESPACE, "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
        "xsi:schemaLocation": _SCHEMA, "Creator": f"dask_slides {__version__}",
    })  # fmt: skip
    image = _child(root, "Image", ID="Image:0", Name=name)
    micrometres = {} if mpp is None else {"PhysicalSizeX": mpp[1], "PhysicalSizeY": mpp[0]}
    pixels = _child(
        image, "Pixels", ID="Pixels:0", DimensionOrder="XYCZT", Type=TYPES[str(dtype)],
        BigEndian="false", Interleaved=str(len(channels) < samples).lower(),
        SizeX=width, SizeY=height, SizeC=samples, SizeZ=1, SizeT=1, **micrometres,
    )  # fmt: skip
    for number, channel in enumerate(channels):
        values = {"ID": f"Channel:0:{number}", "SamplesPerPixel": samples // len(channels)}
        if len(channels) == samples:
            values |= {"Name": channel.name, "Color": _color(channel, number, len(channels))}
        _child(pixels, "Channel", **values)
    _child(pixels, "TiffData", IFD=0, PlaneCount=len(channels))
    _child(image, "AnnotationRef", ID="Annotation:0")
    annotations = _child(root, "StructuredAnnotations")
    comment = _child(annotations, "CommentAnnotation", ID="Annotation:0", Namespace=MARK)
    _child(comment, "Value").text = plain_description(facts)
    text: bytes = ElementTree.tostring(root, encoding="us-ascii")
    return b'<?xml version="1.0" encoding="UTF-8"?>' + text


def plain_description(facts: Mapping[str, Any]) -> str:
    """Return `facts` as a description without OME-XML: JSON in ASCII."""
    return json.dumps({MARK: {"version": __version__, **facts}})


def _child(parent: ElementTree.Element, tag: str, **values: Any) -> ElementTree.Element:
    texts = {name: _valid(str(value)) for name, value in values.items()}
    return ElementTree.SubElement(parent, tag, texts)


def _valid(text: str) -> str:
    """Return `text` without control characters, which XML cannot hold."""
    return "".join(c if c.isprintable() else " " for c in text)


def _color(channel: Channel, number: int, count: int) -> int:
    """Return the colour as OME wants it: RGBA as a signed integer of 32 bits."""
    default = DEFAULT_COLORS[number % len(DEFAULT_COLORS)] if count > 1 else "FFFFFF"
    rgba = int(f"{channel.color or default}FF", 16)
    return rgba - 2**32 if rgba >= 2**31 else rgba
