"""From a file, a store or a dask array to pixels."""
