"""Measurements in addition to the main table: run ``python -m benchmarks.extra.NAME``."""
