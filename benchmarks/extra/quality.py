"""``python -m benchmarks.extra.quality``: compare a default resize with one from level 0.

Tissue is written as JPEG tiles with each chroma subsampling and resized twice: from level 0, and
with the default gap, from tiles that are decoded at reduced size. Prints Markdown.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}
RATIOS = (4, 5, 8, 10, 16, 20, 33.2)


def psnr(one: Any, two: Any) -> float:
    """Return the peak signal to noise ratio of two 8-bit images in dB."""
    error = float(np.mean((one.astype(np.float64) - two) ** 2))
    return float("inf") if not error else float(10 * np.log10(255**2 / error))


def pictures() -> dict[str, Any]:
    """Return pictures of tissue (h, w, 3), from scikit-image and from `sample_slide`."""
    import skimage.data

    import dask_slides as ds

    stained = skimage.data.immunohistochemistry()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sample.tif"
        path = ds.sample_slide(file, shape=(20480, 20480), compression="zstd")
        sample = ds.open_slide(path).read(4096, 4096, 2048, 2048)
    return {
        "scikit-image's immunohistochemistry, mirrored": np.pad(
            stained, ((0, 1024), (0, 1024), (0, 0)), mode="symmetric"
        ),
        "a part of sample_slide": sample,
    }


def main() -> None:
    """Print a table."""
    import tifffile

    import dask_slides as ds

    print("| picture | colours | " + " | ".join(f"1/{r:g}" for r in RATIOS) + " |")
    print("| --- | --- |" + " ---: |" * len(RATIOS))
    with tempfile.TemporaryDirectory() as folder:
        for title, picture in pictures().items():
            for name, subsampling in SUBSAMPLINGS.items():
                path = Path(folder) / "picture.tif"
                tifffile.imwrite(
                    path, np.ascontiguousarray(picture), tile=(256, 256), photometric="rgb",
                    compression="jpeg", compressionargs={"level": 90}, subsampling=subsampling,
                )  # fmt: skip
                cells = []
                for ratio in RATIOS:
                    small = ds.resize(path, downsample=ratio)
                    exact = ds.resize(path, downsample=ratio, gap=None)
                    value = psnr(small.data.compute(), exact.data.compute())
                    cells.append(f"{value:.1f} dB (1/{small.source.factor})")
                print(f"| {title} | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
