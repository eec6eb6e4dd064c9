"""Read TIFF and the scanner formats that are based on it."""
