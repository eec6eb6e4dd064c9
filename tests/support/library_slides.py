"""One slide for each reader that a library does the reading for, and its pixels."""

from mrxs_files import write_mrxs
from rw_fixtures import noise


def mirax(folder):
    pixels = noise(384, 512, 3)
    return write_mrxs(folder / "a.mrxs", [pixels, noise(192, 256, 3, seed=1)]), pixels


SLIDES = {"openslide": (mirax, "openslide")}
"""A function that writes a slide into a folder and returns its path and pixels; the package."""
