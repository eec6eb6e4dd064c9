"""One slide for each reader that a library does the reading for, and its pixels."""

from dicom_files import write_dicom
from mrxs_files import write_mrxs
from rw_fixtures import noise


def mirax(folder):
    pixels = noise(384, 512, 3)
    return write_mrxs(folder / "a.mrxs", [pixels, noise(192, 256, 3, seed=1)]), pixels


def dicom(folder):
    pixels = noise(2, 1, 300, 400, 1, dtype="uint16")
    write_dicom(folder / "slide", [pixels, pixels[:, :, ::2, ::2]], paths=("DAPI", "FITC"))
    return folder / "slide", pixels[:, 0, :, :, 0].transpose(1, 2, 0)


def mosaic(folder):
    from czi_files import write_czi

    pixels = noise(300, 400, 2, dtype="uint16")
    tiles = [
        (pixels[y : y + 150, x : x + 200, channel : channel + 1], y, x, 1, {"C": channel}, 0)
        for channel in range(2) for y in (0, 150) for x in (0, 200)
    ]  # fmt: skip
    return write_czi(folder / "a.czi", tiles), pixels


SLIDES = {
    "openslide": (mirax, "openslide"),
    "dicom": (dicom, "wsidicom"),
    "czi": (mosaic, "pylibCZIrw"),
}
"""A function that writes a slide into a folder and returns its path and pixels; the package."""
