"""Many slides in one run: a list of slides, a window of slides in flight, a row for each."""
