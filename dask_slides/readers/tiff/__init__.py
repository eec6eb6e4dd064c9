"""TIFF and the formats of scanners that are built on it."""
