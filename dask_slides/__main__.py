"""Run the command line: ``python -m dask_slides``."""

from dask_slides.cli.main import main

if __name__ == "__main__":
    main()
