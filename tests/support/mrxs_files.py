"""Write MIRAX slides (.mrxs) of lossless images, from the published description of the format."""

import io
import struct
from pathlib import Path

from PIL import Image

SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"
VERSION = "01.02"


def write_mrxs(path, levels, side=64, missing=(), mpp=0.25, background=0xFFFFFF, overlap=0):
    """Write `levels`, (h, w, 3) arrays each half as large as the one before, in images of `side`.

    Level 0 has a whole number of images along each axis. `missing` are (level, row, column) of
    images that are not stored. Photos that overlap are placed closer to each other.
    """
    path = Path(path)
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(b"")
    rows, columns = (n // side for n in levels[0].shape[:2])
    data, pages = io.BytesIO(), []
    for number, pixels in enumerate(levels):
        page = []
        for row in range(-(-rows // 2**number)):
            for column in range(-(-columns // 2**number)):
                if (number, row, column) in missing:
                    continue
                part = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
                image = Image.new("RGB", (side, side), "white")
                image.paste(Image.fromarray(part))
                start = data.tell()
                image.save(data, "PNG")
                place = (row * columns + column) << number
                page.append((place, start, data.tell() - start, 0))
        pages.append(page)
    (folder / "Data0000.dat").write_bytes(data.getvalue())
    (folder / "Index.dat").write_bytes(_index(pages))
    (folder / "Slidedat.ini").write_text(
        _slidedat(len(levels), rows, columns, side, mpp, background, overlap), encoding="utf-8"
    )
    return path


def _index(pages):
    """Return the index: roots, one pointer per level, and a page of records for each."""
    head = (VERSION + SLIDE_ID).encode()
    at = len(head) + 8
    pointers, body = b"", b""
    start = at + 4 * len(pages)
    for page in pages:
        here = start + len(body)
        pointers += struct.pack("<i", here)
        records = b"".join(struct.pack("<4i", *record) for record in page)
        body += struct.pack("<4i", 0, here + 8, len(page), 0) + records
    return head + struct.pack("<2i", at, 0) + pointers + body


def _slidedat(levels, rows, columns, side, mpp, background, overlap):
    sections = [f"LAYER_0_LEVEL_{number}_SECTION" for number in range(levels)]
    lines = [
        "[GENERAL]", f"SLIDE_ID = {SLIDE_ID}", f"IMAGENUMBER_X = {columns}",
        f"IMAGENUMBER_Y = {rows}", "OBJECTIVE_MAGNIFICATION = 40",
        "CameraImageDivisionsPerSide = 1",
        "[HIERARCHICAL]", "HIER_COUNT = 1", "NONHIER_COUNT = 0", "INDEXFILE = Index.dat",
        "HIER_0_NAME = Slide zoom level", f"HIER_0_COUNT = {levels}",
        *(f"HIER_0_VAL_{number}_SECTION = {name}" for number, name in enumerate(sections)),
        "[DATAFILE]", "FILE_COUNT = 1", "FILE_0 = Data0000.dat",
    ]  # fmt: skip
    for number, name in enumerate(sections):
        lines += [
            f"[{name}]", f"IMAGE_CONCAT_FACTOR = {min(number, 1)}",
            f"OVERLAP_X = {overlap / 2**number}", f"OVERLAP_Y = {overlap / 2**number}",
            f"MICROMETER_PER_PIXEL_X = {mpp * 2**number}",
            f"MICROMETER_PER_PIXEL_Y = {mpp * 2**number}",
            f"IMAGE_FILL_COLOR_BGR = {background}", f"DIGITIZER_WIDTH = {side}",
            f"DIGITIZER_HEIGHT = {side}", "IMAGE_FORMAT = PNG",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"
