"""Many slides in one run: a list, a window of slides in flight, a row a slide."""
