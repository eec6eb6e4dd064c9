"""From a path or a dask array to a source of pixels."""
