"""A slide to try things on."""
