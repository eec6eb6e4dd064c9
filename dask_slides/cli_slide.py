"""The slide of a command and how it is opened: SLIDE and its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from dask_slides.cli_options import Command
from dask_slides.readers.bad_tiles import MODES
from dask_slides.slide import Slide, open_slide


@dataclass(frozen=True)
class Given:
    """SLIDE and how it is to be opened."""

    path: str
    mpp: float | None
    on_bad_tile: str
    sha256: str | None
    companions: bool

    def open(self) -> Slide:
        """Open it."""
        return open_slide(
            self.path,
            mpp=self.mpp,
            on_bad_tile=self.on_bad_tile,
            sha256=self.sha256,
            companions=self.companions,
        )


def slide_mpp_option(command: Command) -> Command:
    """Add how slides are opened."""
    return click.option("--slide-mpp", type=float, help="micrometres per pixel of the slide")(
        command
    )


def bad_tile_option(command: Command) -> Command:
    """Add what becomes of corrupt tiles."""
    told = "fail at a tile that cannot be decoded, or fill it, name it and exit 3"
    return click.option(
        "--on-bad-tile", type=click.Choice(MODES), default="raise", show_default=True, help=told
    )(command)


def slide_options(command: Command) -> Command:
    """Add the slide and how it is opened, and hand it over as one value."""

    @wraps(command)
    def run(
        slide: str,
        slide_mpp: float | None,
        on_bad_tile: str,
        verify_hash: str | None,
        companions: bool,
        **kwargs: Any,
    ) -> Any:
        given = Given(slide, slide_mpp, on_bad_tile, verify_hash, companions)
        return command(slide=given, **kwargs)

    options: list[Callable[[Command], Command]] = [
        click.argument("slide", metavar="SLIDE"),
        slide_mpp_option,
        bad_tile_option,
        click.option("--verify-hash", metavar="SHA256",
                     help="read the whole file first, and refuse it if it has another checksum"),
        click.option("--companions", is_flag=True,
                     help="read the files beside an OME-TIFF that hold other planes of it"),
    ]  # fmt: skip
    decorated: Command = run
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
