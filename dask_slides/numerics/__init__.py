"""Functions from arrays to arrays: resampling, statistics, histograms, detectors."""
