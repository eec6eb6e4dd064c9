"""Measure dask_slides beside other tools: ``python -m benchmarks``."""
