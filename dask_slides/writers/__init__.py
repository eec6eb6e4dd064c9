"""From slides, blank maps and packs to stores."""
