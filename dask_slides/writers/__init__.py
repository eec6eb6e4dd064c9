"""From slides, blank maps and packs to Zarr stores."""
