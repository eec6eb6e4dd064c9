"""OME-TIFFs whose channels lie in files of their own; nothing here is under test."""

import numpy as np
import tifffile
from rw_fixtures import smooth

SHAPE = (150, 200)
NAMES = ("a.ome.tif", "b.ome.tif", "c.ome.tif")
TILE = 64

KINDS = {
    "deflate": {"tile": (TILE, TILE), "compression": "zlib"},
    "lzw strips": {"rowsperstrip": 24, "compression": "lzw"},
    "jpeg": {"tile": (TILE, TILE), "compression": "jpeg"},
    "jpeg 2000": {"tile": (TILE, TILE), "compression": "jpeg2000"},
    "raw tiles": {"tile": (TILE, TILE)},
    "raw strips": {"rowsperstrip": 16},
    "raw": {},
    "uint16": {"tile": (TILE, TILE), "compression": "zlib"},
}
"""How each of the files is stored."""


def planes_of(kind="deflate", count=3):
    """Return (c, y, x): pictures that are not alike."""
    planes = [smooth(*SHAPE, seed)[..., seed % 3] for seed in range(count)]
    return np.stack(planes).astype(np.uint16 if kind == "uint16" else np.uint8) * (
        200 if kind == "uint16" else 1
    )


def uuid_of(number):
    """Return the UUID of file `number`."""
    return f"urn:uuid:00000000-0000-0000-0000-00000000000{number}"


def xml_of(files, own, dtype="uint8", shape=SHAPE):
    """Return metadata of a plane for each of the (name, UUID) in `files`; `own` is a UUID."""
    data = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{uuid}</UUID>'
        "</TiffData>"
        for c, (name, uuid) in enumerate(files)
    )
    channels = "".join(f'<Channel ID="Channel:0:{c}"/>' for c in range(len(files)))
    root = "" if own is None else f' UUID="{own}"'
    return (
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{root}>'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
        f'Type="{dtype}" SizeX="{shape[1]}" SizeY="{shape[0]}" SizeC="{len(files)}" SizeZ="1" '
        f'SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">{channels}{data}</Pixels></Image></OME>'
    )


def write_plane(path, plane, xml, levels=0, **options):
    """Write one plane and `levels` of half the size each."""
    options = {"photometric": "minisblack", "metadata": None} | options
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(plane, description=xml, subifds=levels, **options)
        for level in range(levels):
            smaller = plane[:: 2 << level, :: 2 << level]
            tiff.write(smaller, subfiletype=1, **options)


def split(folder, kind="deflate", levels=0, others=(), **options):
    """Write a slide of three files that all name each other; return the path of the first.

    `others` are the options that the other two are stored with, instead of those of `kind`.
    """
    planes = planes_of(kind)
    files = [(name, uuid_of(number)) for number, name in enumerate(NAMES)]
    for number, (name, uuid) in enumerate(files):
        xml = xml_of(files, uuid, planes.dtype.name)
        how = KINDS[kind] | options | (dict(others) if number else {})
        write_plane(folder / name, planes[number], xml, levels, **how)
    return folder / NAMES[0]


def pixels_of(path, level=0):
    """Return what tifffile makes of a level of all files, (y, x, c)."""
    with tifffile.TiffFile(path, _multifile=True) as tiff:
        return tiff.series[0].levels[level].asarray().transpose(1, 2, 0)
