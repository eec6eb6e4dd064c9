"""Crops and tiles of many slides for training: `CropStream`, `SlideDataset`, and their tables."""

from dask_slides.feed.crop_batches import CropBatches, collate
from dask_slides.feed.crop_stream import CropStream
from dask_slides.feed.slide_dataset import SlideDataset
from dask_slides.feed.slide_table import SlideRow, SlideTable, read_table

__all__ = [
    "CropBatches",
    "CropStream",
    "SlideDataset",
    "SlideRow",
    "SlideTable",
    "collate",
    "read_table",
]
