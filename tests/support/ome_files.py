"""Write OME-XML of several planes in one or several files, without dask_slides."""

import numpy as np
from rw_fixtures import smooth

SHAPE = (150, 200)


def planes_of(count=3):
    """Return `count` different images (c, y, x)."""
    return np.stack([smooth(*SHAPE, seed)[..., seed % 3] for seed in range(count)])


def uuid_of(number):
    """Return the UUID of file `number`."""
    return f"urn:uuid:00000000-0000-0000-0000-00000000000{number}"


def image_of(planes, shape=SHAPE):
    """Return the Image element of channels; each of `planes` is (IFD, file name, UUID)."""
    data = "".join(
        f'<TiffData FirstC="{channel}" IFD="{ifd}" PlaneCount="1">'
        + (f'<UUID FileName="{name}">{uuid}</UUID>' if uuid else "")
        + "</TiffData>"
        for channel, (ifd, name, uuid) in enumerate(planes)
    )
    channels = "".join(f'<Channel ID="Channel:0:{c}"/>' for c in range(len(planes)))
    return (
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="{shape[1]}" SizeY="{shape[0]}" SizeC="{len(planes)}" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="0.5" PhysicalSizeY="0.5">{channels}{data}</Pixels></Image>'
    )


def xml_of(*images, own=None):
    """Return OME-XML of Image elements; `own` is the UUID of the file itself."""
    root = "" if own is None else f' UUID="{own}"'
    namespace = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<OME xmlns="{namespace}"{root}>{"".join(images)}</OME>'
