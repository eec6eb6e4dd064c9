"""Inner loops compiled by Numba; see `dask_slides.runtime.numba_loader`."""
