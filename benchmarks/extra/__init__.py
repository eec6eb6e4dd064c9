"""Measurements beside the main table: run ``python -m benchmarks.extra.NAME``."""
