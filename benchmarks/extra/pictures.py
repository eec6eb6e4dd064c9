"""Read image files with other readers, and convert the pixels to the conventions of dask_slides.

Each reader yields a `Picture`: palette looked up, black at 0, samples of 1, 2 and 4 bits scaled to
0 to 255, upright, with alpha or mask as a separate array. A reader that cannot follow this for a
file, or warns about the file, abstains.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
LOSSY = re.compile(
    rb"\xff\xd8\xff|RIFF....WEBP|....ftyp(avif|heic|mif1)|\xff\x0a|....JXL ", re.DOTALL
)
JPEG_2000 = re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")
CMYK_JP2 = re.compile(rb"colr\x01..\0\0\0\x0c", re.DOTALL)
SYCC_JP2 = re.compile(rb"colr\x01..\0\0\0\x12|cdef", re.DOTALL)
LOSSY_TIFF = {6, 7, 33003, 33004, 33005, 33007, 34712, 34892, 34887, 50001, 50002, 52546}
GDAL_DRIVERS = {"GTiff", "PNG", "JPEG", "JP2OpenJPEG", "WEBP", "PNM"}
"""Formats that GDAL reads as other readers do; GIF and BMP are not among them."""


class Abstained(Exception):
    """A reader does not follow the conventions for this kind of file."""


@dataclass
class Picture:
    """The pixels (h, w, c) of a reader and their opacity."""

    pixels: Array
    alpha: Array = None
    """Opacity (h, w) from 0 to 1; nan is not compared."""
    composited: bool = False
    straight: bool = True
    """Whether the pixels are not yet multiplied by alpha."""

    def on(self, fill: Any) -> Array:
        """Composite the pixels on `fill`; nan where alpha is nan."""
        if self.alpha is None:
            return self.pixels
        alpha = self.alpha[..., None]
        exact = self.pixels.astype(np.float64)
        mixed = exact * (alpha if self.straight else 1) + (1 - alpha) * float(np.ravel(fill)[0])
        if self.pixels.dtype.kind in "ui":
            mixed = np.clip(np.rint(mixed), 0, np.iinfo(self.pixels.dtype).max)
        return np.where(alpha == 1, exact, mixed)


def alpha_of(band: Array) -> Array:
    """Return alpha from 0 to 1; for dtypes other than uint8 and uint16, nan unless opaque."""
    if band.dtype in (np.uint8, np.uint16):
        return band / np.iinfo(band.dtype).max
    top = 1 if band.dtype.kind == "f" else np.iinfo(band.dtype).max
    return np.where(band == top, 1.0, np.nan)


def of_cmyk(inks: Array) -> Array:
    """Convert CMYK to RGB without a profile."""
    top = np.iinfo(inks.dtype).max
    light = top - inks.astype(np.float64)
    return np.rint(light[..., :3] * light[..., 3:] / top).astype(inks.dtype)


def tiff_page(path: str) -> Any:
    """Return the relevant tags of the first page; empty if the file is not a TIFF."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            return {
                tag.code: tag.value for tag in page.tags if tag.code in (262, 274, 277, 338)
            } | {"all": [int(one.compression) for one in file.pages[:20]]}
    except Exception:
        return {}


def orientation(path: str) -> int:
    """Return the orientation in the EXIF or TIFF tag; 1 is upright."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return int(image.getexif().get(274, 1))
    except Exception:
        return int(tiff_page(path).get(274, 1))


def with_pillow(path: str, shape: Any) -> Iterator[Picture]:
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as image:
        frames = range(min(getattr(image, "n_frames", 1), 50)) if image.format == "TIFF" else (0,)
        sizes = []
        for frame in frames if len(frames) > 1 else ():
            image.seek(frame)
            sizes.append(image.size)
        if sizes:
            image.seek(max(frames, key=lambda at: (sizes[at][0] * sizes[at][1], -at)))
        if image.format == "JPEG2000" and image.mode.startswith("I"):
            raise Abstained("Pillow shifts samples of JPEG 2000")
        image.load()
        upright = ImageOps.exif_transpose(image)
        mode = upright.mode
        if mode in ("LAB", "HSV"):
            raise Abstained("no RGB")
        if mode in ("P", "PA", "RGBa", "La") or "transparency" in upright.info:
            clear = mode in ("PA", "RGBa", "La") or "transparency" in upright.info
            upright = upright.convert({"La": "LA"}.get(mode, "RGBA" if clear else "RGB"))
        if mode in ("CMYK", "YCbCr") or (mode == "RGBX" and image.format != "TIFF"):
            upright = upright.convert("RGB")
        pixels = np.asarray(upright)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if image.format == "TGA" and not Path(path).read_bytes()[17] & 15:
        raise Abstained("Pillow reads the unused bits of a TGA as alpha")
    if upright.mode in ("LA", "RGBA"):
        yield Picture(pixels[..., :-1], alpha_of(pixels[..., -1]), True)
    else:
        yield Picture(pixels)


def with_vips(path: str, shape: Any) -> Iterator[Picture]:
    import pyvips

    def load(**options: Any) -> Any:
        try:
            return pyvips.Image.new_from_file(path, fail_on="warning", **options)
        except pyvips.Error as error:
            if "does not support optional argument" in str(error):
                return pyvips.Image.new_from_file(path, fail_on="warning")
            raise

    image = load()
    loader = image.get("vips-loader")
    if loader.startswith(("svg", "pdf", "magick", "openslide", "matrix", "mat", "fits", "nifti")):
        raise Abstained(loader)
    pages = (
        image.get("n-pages") if loader.startswith("tiff") and "n-pages" in image.get_fields() else 1
    )
    if pages > 1:
        sizes = [
            (lambda one: one.width * one.height)(load(page=at)) for at in range(min(pages, 50))
        ]
        best = max(range(len(sizes)), key=lambda at: (sizes[at], -at))
        image = load(page=best)
        if shape is not None and shape[2] > image.bands and sizes.count(sizes[best]) >= shape[2]:
            image = image.bandjoin([load(page=best + at) for at in range(1, shape[2])])
    image = image.autorot()
    if str(image.interpretation) in ("lab", "labs", "labq", "xyz", "scrgb", "fourier"):
        raise Abstained(f"libvips reads it as {image.interpretation}")
    if str(image.interpretation) == "cmyk":
        yield Picture(of_cmyk(image.numpy().reshape(image.height, image.width, -1)), None, True)
        return
    pixels = image.numpy().reshape(image.height, image.width, -1)
    tags = tiff_page(path)
    if tags.get(262) == 3 and pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)  # palettes store 16-bit colours
    if tags.get(262) == 6 and tags.get(277) == 3:
        pixels = pixels[..., :3]  # libvips adds an alpha to YCbCr that is not in the file
    has_alpha = not tags or tags.get(338, (0,))[-1] in (1, 2)
    if image.hasalpha() and pixels.shape[2] in (2, 4) and has_alpha:
        yield Picture(pixels[..., :-1], alpha_of(pixels[..., -1]), True)
    else:
        yield Picture(pixels)


def with_rasterio(path: str, shape: Any) -> Iterator[Picture]:
    import rasterio
    from rasterio.enums import ColorInterp, MaskFlags

    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("rasterio").addHandler(handler)
    with rasterio.open(path) as first:
        parts, driver = [path, *first.subdatasets[:20]], first.driver
        if not first.count:
            parts = parts[1:]
    tags = tiff_page(path)
    if driver not in GDAL_DRIVERS or orientation(path) != 1:
        raise Abstained(f"GDAL reads it as {driver}, or does not turn it upright")
    if driver == "JP2OpenJPEG" and CMYK_JP2.search(Path(path).read_bytes()[:2000]):
        raise Abstained("GDAL does not recognize CMYK in JPEG 2000")
    read = False
    for part in parts:
        with rasterio.open(part) as data:
            if (
                shape is not None
                and (data.height, data.width) != tuple(shape[:2])
                and part != parts[-1]
            ):
                continue
            if read and shape is None:
                break
            if shape is not None and len(parts) > 2 and data.count < shape[2]:
                raise Abstained("GDAL gives the pages of a stack one by one")
            read = True
            pixels = np.moveaxis(data.read(), 0, -1)
            kinds = data.colorinterp
            bits = int(data.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
            if kinds[0] == ColorInterp.palette and data.count == 1:
                table = np.zeros((65536, 4), np.uint8)
                for key, value in data.colormap(1).items():
                    table[key] = value
                pixels, kinds = table[pixels[..., 0]], (ColorInterp.red,) * 3 + (ColorInterp.alpha,)
            elif bits in (1, 2, 4):
                pixels = pixels * np.uint8(255 // (2**bits - 1))
            white = data.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
            if white and kinds[0] == ColorInterp.gray:
                pixels = np.invert(pixels)
            # the transparent grey of a PNG is nodata, which shows the fill
            kind = MaskFlags.nodata if driver == "PNG" else MaskFlags.per_dataset
            hidden = [flags for flags in data.mask_flag_enums if kind in flags]
            mask = data.dataset_mask() if hidden and ColorInterp.alpha not in kinds else None
        if ColorInterp.cyan in kinds:
            yield Picture(of_cmyk(pixels[..., :4]), None, True)
        elif kinds[-1] == ColorInterp.alpha and len(kinds) > 1:
            straight = tags.get(338, (2,))[-1] != 1
            yield Picture(pixels[..., :-1], alpha_of(pixels[..., -1]), True, straight)
        else:
            yield Picture(pixels, None if mask is None else (mask > 0).astype(float))
    if warned:
        raise Abstained(f"GDAL warns: {warned[0]}")


def with_tifffile(path: str, shape: Any) -> Iterator[Picture]:
    import tifffile

    with tifffile.TiffFile(path, _multifile=False) as file:
        pages = [s for s in file.series if 0 not in s.shape]
        sizes = [dict(zip(s.axes, s.shape, strict=True)) for s in pages]
        best = max(range(len(pages)), key=lambda at: sizes[at].get("Y", 0) * sizes[at].get("X", 0))
        series, page = pages[best], pages[best].keyframe
        simple = page.photometric in (1, 2, 6) and not page.extrasamples
        if not simple or page.tags.valueof(274, 1) != 1 or page.bitspersample < 8:
            raise Abstained("the stored pixels are not those to show")
        pixels, axes = series.asarray(), series.axes
    order = [axes.index(name) for name in "YX"]
    rest = [at for at in range(len(axes)) if at not in order]
    pixels = pixels.transpose(order + rest)
    yield Picture(pixels.reshape(*pixels.shape[:2], -1))


def with_imagecodecs(path: str, shape: Any) -> Iterator[Picture]:
    import imagecodecs
    from PIL import Image

    data = Path(path).read_bytes()
    codecs = {
        rb"\x89PNG": imagecodecs.png_decode,
        JPEG_2000.pattern: imagecodecs.jpeg2k_decode,
        rb"\xff\xd8\xff": imagecodecs.jpeg8_decode,
        rb"RIFF....WEBP": imagecodecs.webp_decode,
        rb"....ftypavif": imagecodecs.avif_decode,
        rb"\xff\x0a|....JXL ": imagecodecs.jpegxl_decode,
    }
    decode = next((one for magic, one in codecs.items() if re.match(magic, data, re.DOTALL)), None)
    if decode is None:
        raise Abstained("no codec for this format")
    is_jp2 = decode is imagecodecs.jpeg2k_decode
    if is_jp2 and SYCC_JP2.search(data[:2000]):
        raise Abstained("channel definitions and sYCC are left to the caller")
    with Image.open(path) as image:
        if orientation(path) != 1 or (image.mode == "CMYK" and not is_jp2):
            raise Abstained("neither turned nor converted")
    pixels = decode(data)
    pixels = pixels.reshape(*pixels.shape[:2], -1) if pixels.ndim < 4 else pixels[0]
    if is_jp2 and CMYK_JP2.search(data[:2000]) and pixels.shape[2] == 4:
        yield Picture(of_cmyk(pixels), None, True)
    elif pixels.shape[2] in (2, 4) and not is_jp2:
        yield Picture(pixels[..., :-1], alpha_of(pixels[..., -1]), True)
    else:
        yield Picture(pixels)


READERS: dict[str, Callable[[str, Any], Iterator[Picture]]] = {
    "libvips": with_vips,
    "GDAL": with_rasterio,
    "Pillow": with_pillow,
    "tifffile": with_tifffile,
    "imagecodecs": with_imagecodecs,
}
STRICT = ("libvips", "GDAL")
"""Readers that warn about damaged files."""
KIN = {"tifffile", "imagecodecs"}
"""Readers that dask_slides itself uses, so their agreement proves little."""


def closeness(path: str) -> int:
    """Return the expected difference of decoders: 0 none, 1 one step, 2 lossy."""
    with open(path, "rb") as file:
        first = file.read(16)
    if re.match(rb"II[*+]\0|MM\0[*+]", first):
        tags = tiff_page(path)
        if LOSSY_TIFF.intersection(tags.get("all", ())):
            return 2
        return int(tags.get(262) == 6)
    return 2 if LOSSY.match(first) else int(bool(JPEG_2000.match(first)))


def compared(ours: Array, skip: Array, picture: Picture, fill: Any, near: int) -> str:
    """Return "equal", or describe how the pixels of `ours` and another reader differ."""
    right = picture.on(fill)
    if right.shape[:2] != ours.shape[:2]:
        return f"{ours.shape[0]} x {ours.shape[1]} px and not {right.shape[0]} x {right.shape[1]}"
    if {ours.shape[2], right.shape[2]} == {1, 3}:  # some readers return grey as RGB
        ours, right = np.broadcast_arrays(ours, right)
    if ours.shape != right.shape:
        return f"{ours.shape[2]} channels and not {right.shape[2]}"
    if np.array_equal(ours, right):
        return "equal"
    wide = np.float64 if max(ours.itemsize, right.itemsize) <= 4 else np.longdouble
    with np.errstate(all="ignore"):
        gap = ours.astype(wide) - right
    gap[(ours == right) | (np.isnan(ours) & np.isnan(right)) | skip[..., None]] = 0
    if picture.alpha is not None:
        gap[np.isnan(picture.alpha)] = 0
    top = 255 if ours.dtype.kind == "f" else np.iinfo(ours.dtype).max
    step = 1 if picture.composited or near else 0
    sizes = np.abs(gap)
    if ours.size == 0 or sizes.max() <= step * (1 if top < 2**31 else top * 2.0**-24):
        return "equal"
    if near == 2 and np.percentile(sizes, 99) <= 0.25 * top:
        rows, columns = (range(0, side, 8) for side in gap.shape[:2])
        sums = np.add.reduceat(np.add.reduceat(gap, rows), columns, axis=1) / 64
        if np.percentile(np.abs(sums), 99) <= 0.03 * top:
            return "equal"
    at = np.unravel_index(np.nanargmax(sizes), gap.shape)
    share = float((sizes > step).mean())
    return f"{share:.1%} differ, at {tuple(map(int, at))} {ours[at]} and not {right[at]}"
