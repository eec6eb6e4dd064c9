"""Read OME-XML: the files of the planes, the pixel size, the channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_slides.core.channels import Channel, described, hex_color
from dask_slides.errors import SlideUnsupportedError
from dask_slides.readers.physical_units import micrometres, number_above_zero

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def root_of_xml(text: str | None) -> Element | None:
    """Return the root of `text`; None if it is not XML. A DOCTYPE was refused before."""
    from xml.etree import ElementTree

    try:
        return ElementTree.fromstring(text or "")
    except ElementTree.ParseError:
        return None


def children(element: Element, name: str) -> list[Element]:
    """Return the children of `element` called `name`, in any namespace."""
    return [one for one in element if one.tag.rpartition("}")[2] == name]


def check_single_file(path: str, tiff: Any) -> None:
    """Refuse an OME-TIFF with planes in other files, none of which is opened.

    The metadata may also describe images of which all planes are in other files, such as the other
    wells of a plate. These images are ignored if the file has an image of its own.
    """
    root = root_of_xml(tiff.ome_metadata) if tiff.is_ome else None
    if root is None:
        return
    own = _own_uuid(root, tiff.filename)
    images = [_files_of(image, own, tiff.filename) for image in children(root, "Image")]
    is_split = any("" in files and len(files) > 1 for files in images)
    others = sorted({repr(name) for files in images for name in files if name})
    if children(root, "BinaryOnly"):
        others = ["its metadata"]
    elif {""} in images and not is_split:
        return
    if others:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise SlideUnsupportedError(
            f"{path}: parts of this OME-TIFF are in other files ({listed}), which are not opened; "
            "convert it to OME-Zarr with bioformats2raw, or stack the arrays of the files and use "
            "from_dask"
        )


def _own_uuid(root: Element, filename: str) -> str | None:
    """Return the UUID of the opened file itself."""
    elements = [one for one in root.iter() if one.tag.endswith("UUID")]
    named = (one.text for one in elements if one.get("FileName") == filename)
    own = root.get("UUID") or next(named, None)
    if own is None and len({one.text for one in elements}) == 1:  # the file was renamed
        own = elements[0].text
    return own


def _files_of(image: Element, own: str | None, filename: str) -> set[str]:
    """Return the names of the files that hold planes of `image`; "" means the opened file."""
    found = set()
    for one in image.iter():
        if one.tag.endswith("TiffData") and not len(one):
            found.add("")
        if one.tag.endswith("UUID"):
            is_own = one.text == own or one.get("FileName") == filename
            found.add("" if is_own else one.get("FileName") or str(one.text))
    return found or {""}


def pixels_of(tiff: Any, series: Any) -> list[Element]:
    """Return the Pixels element that describes a series of tifffile.

    If tifffile did not follow the metadata, return all elements with the size of the series.
    """
    root = root_of_xml(tiff.ome_metadata)
    if root is None:
        return []
    images = [
        (image.get("Name") or "", pixels)
        for image in children(root, "Image")
        for pixels in children(image, "Pixels")
    ]
    if series.kind == "ome":
        start = 0  # tifffile leaves out images without data, and does not change the order
        for one in tiff.series:
            own = next((n for n in range(start, len(images)) if _matches(one, *images[n])), None)
            if one is series and own is not None:
                return [images[own][1]]
            start = start if own is None else own + 1
    return [pixels for _, pixels in images if _of_size(pixels, series)]


def _matches(series: Any, name: str, pixels: Element) -> bool:
    return series.name in (name, name or "Baseline") and _of_size(pixels, series)


def _of_size(pixels: Element, series: Any) -> bool:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return all(pixels.get(f"Size{axis}") == str(sizes.get(axis)) for axis in "YX")


def mpp_of_pixels(pixels: list[Element]) -> tuple[float, float] | None:
    """Return micrometres per pixel (y, x), or None unless all elements agree."""
    found = {tuple(_micrometres(one, axis) for axis in "YX") for one in pixels}
    if len(found) != 1:
        return None
    y, x = found.pop()
    return None if y is None or x is None else (y, x)


def _micrometres(pixels: Element, axis: str) -> float | None:
    size = number_above_zero(pixels.get(f"PhysicalSize{axis}"))
    factor = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return None if size is None or factor is None else size * factor


def channels_of_pixels(pixels: Element, count: int) -> tuple[Channel, ...]:
    """Return the names and colours of `count` channels."""
    elements = children(pixels, "Channel")
    names = [one.get("Name") for one in elements]
    return described(count, names, [_color(one.get("Color")) for one in elements])


def _color(text: str | None) -> str | None:
    """Return the colour in a signed 32-bit integer of red, green, blue and alpha."""
    try:
        value = int(text or "")
    except ValueError:
        return None
    red, green, blue, _ = (value & 0xFFFFFFFF).to_bytes(4, "big")
    return hex_color(red, green, blue)
