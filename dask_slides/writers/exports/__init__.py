"""Exports to the formats of other tools: one module per format, listed in `registry`."""
