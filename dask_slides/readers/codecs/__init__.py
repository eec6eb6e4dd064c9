"""Decoders of one tile, and the checks of its bytes."""
