"""Encode pixels as JPEG or PNG files.

The same pixels give the same bytes with the same versions of the codecs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError

QUALITY = 90
"""Default quality of JPEG."""
PNG_LEVEL = 1
"""Level of zlib. Higher ones make tiles of tissue 1 % smaller in twice the time."""
NAMES = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png"}
"""Formats by what users call them."""


@dataclass(frozen=True)
class Encoder:
    """Encode images of one format."""

    format: str
    """jpeg or png."""
    quality: int = QUALITY
    """Quality of JPEG, 1 to 100."""

    @property
    def suffix(self) -> str:
        """The suffix of files, without a dot."""
        return "jpg" if self.format == "jpeg" else "png"

    def __call__(self, pixels: Array) -> bytes:
        """Return the file of `pixels` (h, w, c)."""
        pixels = np.ascontiguousarray(pixels)
        if self.format == "png":
            import imagecodecs

            image = pixels[..., 0] if pixels.shape[2] == 1 else pixels
            # imagecodecs reserves too little for noise, which grows by an eighth at low levels
            most = pixels.nbytes + pixels.nbytes // 4 + 4096
            return bytes(imagecodecs.png_encode(image, PNG_LEVEL, out=most))
        import simplejpeg

        # colour is not subsampled, as models see the stains
        space = "GRAY" if pixels.shape[2] == 1 else "RGB"
        encoded: bytes = simplejpeg.encode_jpeg(pixels, self.quality, space, "444")
        return encoded

    def largest(self, nbytes: int) -> int:
        """Return an upper bound of the bytes of files of `nbytes` of pixels."""
        return nbytes if self.format == "png" else nbytes // 2


def encoder_for(
    path: str, image: Any, quality: int | None, dtype: np.dtype[Any], channels: int
) -> Encoder:
    """Return the encoder of the format `image`; raise if it cannot hold such pixels."""
    if not isinstance(image, str) or image not in NAMES:
        raise SlideArgumentError(f"{path}: image={image!r} is not known; use 'jpg' or 'png'")
    name = NAMES[image]
    if quality is not None and name == "png":
        raise SlideArgumentError(f"{path}: PNG is lossless and takes no quality; leave it out")
    if quality is not None and not (isinstance(quality, int | np.integer) and 1 <= quality <= 100):
        raise SlideArgumentError(f"{path}: quality={quality!r}; give a whole number from 1 to 100")
    fits = channels in (1, 3) and dtype in (("uint8",) if name == "jpeg" else ("uint8", "uint16"))
    if not fits:
        pixels = "8-bit grey or RGB" if name == "jpeg" else "8- or 16-bit grey or RGB"
        raise SlideArgumentError(
            f"{path}: a {name.upper()} holds {pixels}, and these pixels are {dtype} with "
            f"{channels} channels; write them as Zarr, or export another image"
        )
    return Encoder(name, QUALITY if quality is None else int(quality))
