"""Write slides as Hamamatsu does, as one JPEG with restart markers, without dask_slides."""

import io

import tifffile
from PIL import Image


def ndpi(path, pixels, across=2, grey=False, subsampling=0):
    """Write `pixels` as one strip of JPEG, `across` intervals in each row of its blocks."""
    height, width = pixels.shape[:2]
    side = 16 if subsampling and not grey else 8
    stream = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    how = {} if grey else {"subsampling": subsampling}
    image.save(stream, "JPEG", quality=90, restart_marker_blocks=width // side // across, **how)
    data = stream.getvalue()
    starts = [begin_of_scan(data)]
    for at in range(starts[0], len(data) - 1):
        if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7:
            starts.append(at + 2)
    assert len(starts) == across * (height // side)
    tifffile.imwrite(
        path,
        iter([data]),
        shape=pixels.shape[:2] if grey else pixels.shape,
        dtype="uint8",
        rowsperstrip=height,
        compression="jpeg",
        photometric="minisblack" if grey else "ycbcr",
        subsampling=None if grey else (side // 8, side // 8),
        metadata=None,
        extratags=[
            (65420, "I", 1, 1, True),
            (271, "s", 9, "Hamamatsu", True),
            (65426, "I", len(starts), starts, True),
        ],
    )
    return path


def begin_of_scan(data):
    """Return the offset of the coded pixels of a JPEG."""
    at = 2
    while data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
