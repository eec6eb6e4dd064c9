"""The command group ``dask-slides``.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 done except for bad tiles or failed slides, 130
interrupted, 143 terminated.
"""

from __future__ import annotations

import click

from dask_slides.cli import (
    crops,
    cutoff,
    demo_command,
    doctor,
    export,
    info,
    mask,
    pack,
    report,
    resize,
    run,
    sample,
    verify,
    view,
)
from dask_slides.core.version import __version__

COMMANDS = (
    info, doctor, sample, demo_command, resize, mask, cutoff, pack, crops, export, view, report,
    run, verify,
)  # fmt: skip
"""Modules that each define a `command`."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="dask-slides")
def main() -> None:
    """Process images that are too large to load: map blank areas, resize, cut, pack and crop."""


for module in COMMANDS:
    main.add_command(module.command)
