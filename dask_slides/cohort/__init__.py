"""Run the same steps for many slides."""
