"""What dask_slides costs beside other tools: run ``python -m benchmarks``."""
