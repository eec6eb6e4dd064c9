"""Arrays in, arrays out: resampling, statistics, histograms, detectors."""
