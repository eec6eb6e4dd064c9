"""Run the command line: ``python -m dask_slides``."""

from dask_slides.cli import main

if __name__ == "__main__":
    main()
