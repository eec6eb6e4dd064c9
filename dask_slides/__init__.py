"""Work with images too large to load, as lazy Dask arrays.

Open whole slides and other huge images, find what is blank, resize, cut off blank areas, pack
dense tiles, draw crops, and write Zarr.
"""

from dask_slides.cohort.report import write_report
from dask_slides.cohort.run import CohortResult, run_cohort
from dask_slides.core.bad_tiles import BadTile
from dask_slides.core.limits import Limits
from dask_slides.core.version import __version__
from dask_slides.errors import SlideError
from dask_slides.numerics.detectors import (
    AllOf,
    AnyOf,
    Brightness,
    Contrast,
    Detector,
    Otsu,
    Saturation,
)
from dask_slides.numerics.mask_detectors import Tissue
from dask_slides.numerics.onnx_detector import OnnxTissue
from dask_slides.numerics.statistics import CellStats
from dask_slides.ops.annotations import Annotations, LabelImage, label_mask
from dask_slides.ops.blank_map import BlankMap, blank_map
from dask_slides.ops.check import SlideCheck, check_slide
from dask_slides.ops.crops import random_crops
from dask_slides.ops.cutoff import Cutoff, cutoff_resize
from dask_slides.ops.geojson import read_geojson
from dask_slides.ops.pack import TilePack, pack_tiles
from dask_slides.ops.resize import resize
from dask_slides.runtime.progress import progress
from dask_slides.slide import Slide, SlideLike, from_dask, open_slide
from dask_slides.testing.sample_slide import sample_slide
from dask_slides.writers.blank_map_reader import open_blank_map
from dask_slides.writers.export import export
from dask_slides.writers.mapping_reader import open_mapping
from dask_slides.writers.pack_reader import open_pack
from dask_slides.writers.store.verify import Verified, verify
from dask_slides.writers.write import write

__all__ = [
    "AllOf",
    "Annotations",
    "AnyOf",
    "BadTile",
    "BlankMap",
    "Brightness",
    "CellStats",
    "CohortResult",
    "Contrast",
    "Cutoff",
    "Detector",
    "LabelImage",
    "Limits",
    "OnnxTissue",
    "Otsu",
    "Saturation",
    "Slide",
    "SlideCheck",
    "SlideError",
    "SlideLike",
    "TilePack",
    "Tissue",
    "Verified",
    "__version__",
    "blank_map",
    "check_slide",
    "cutoff_resize",
    "export",
    "from_dask",
    "label_mask",
    "open_blank_map",
    "open_mapping",
    "open_pack",
    "open_slide",
    "pack_tiles",
    "progress",
    "random_crops",
    "read_geojson",
    "resize",
    "run_cohort",
    "sample_slide",
    "verify",
    "write",
    "write_report",
]
