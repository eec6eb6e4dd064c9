"""The command line, one module for each command."""

from dask_slides.cli.group import main

__all__ = ["main"]
