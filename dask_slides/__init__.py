"""Images too large to load, as lazy Dask arrays: blank maps, resizing, cutting, packs, crops."""

from dask_slides._version import __version__
from dask_slides.blank import BlankMap, blank_map
from dask_slides.check import SlideCheck, check_slide
from dask_slides.cohort.run import CohortResult, run_cohort
from dask_slides.crops import random_crops
from dask_slides.cutoff import Cutoff, cutoff_resize
from dask_slides.detectors import (
    AllOf,
    AnyOf,
    Brightness,
    Contrast,
    Detector,
    Otsu,
    Saturation,
)
from dask_slides.errors import (
    BlankSlideError,
    BlankSlideWarning,
    ClusterLostError,
    OutputBusyError,
    OutputDeniedError,
    OutputExistsError,
    OutputFullError,
    OutputRoomWarning,
    RemoteAccessError,
    RemoteError,
    ResumeError,
    SlideArgumentError,
    SlideChangedError,
    SlideError,
    SlideFormatError,
    SlideLimitError,
    SlideMemoryError,
    SlideMppError,
    SlideNotFoundError,
    SlideTruncatedError,
    SlideUnsupportedError,
    StoreDamagedError,
    TileDecodeError,
    WorkerKilledError,
)
from dask_slides.pack import TilePack, pack_tiles
from dask_slides.readers.bad_tiles import BadTile
from dask_slides.readers.limits import Limits
from dask_slides.resize import resize
from dask_slides.sample import sample_slide
from dask_slides.sharing import decode_once
from dask_slides.slide import Slide, from_dask, open_slide
from dask_slides.stats import CellStats
from dask_slides.writers.proof import Verified
from dask_slides.writers.store import verify
from dask_slides.writers.tiles import open_pack
from dask_slides.writers.write import write

__all__ = [
    "AllOf",
    "AnyOf",
    "BadTile",
    "BlankMap",
    "BlankSlideError",
    "BlankSlideWarning",
    "Brightness",
    "CellStats",
    "ClusterLostError",
    "CohortResult",
    "Contrast",
    "Cutoff",
    "Detector",
    "Limits",
    "Otsu",
    "OutputBusyError",
    "OutputDeniedError",
    "OutputExistsError",
    "OutputFullError",
    "OutputRoomWarning",
    "RemoteAccessError",
    "RemoteError",
    "ResumeError",
    "Saturation",
    "Slide",
    "SlideArgumentError",
    "SlideChangedError",
    "SlideCheck",
    "SlideError",
    "SlideFormatError",
    "SlideLimitError",
    "SlideMemoryError",
    "SlideMppError",
    "SlideNotFoundError",
    "SlideTruncatedError",
    "SlideUnsupportedError",
    "StoreDamagedError",
    "TileDecodeError",
    "TilePack",
    "Verified",
    "WorkerKilledError",
    "__version__",
    "blank_map",
    "check_slide",
    "cutoff_resize",
    "decode_once",
    "from_dask",
    "open_pack",
    "open_slide",
    "pack_tiles",
    "random_crops",
    "resize",
    "run_cohort",
    "sample_slide",
    "verify",
    "write",
]
