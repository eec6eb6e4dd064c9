"""Values and protocols without pixels: regions, grids, sources, bad tiles, limits."""
