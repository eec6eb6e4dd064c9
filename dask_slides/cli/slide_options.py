"""The slide of a command and how it is opened: SLIDE and its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

import click
from dask.utils import parse_bytes

from dask_slides.cli.options import Command
from dask_slides.core.bad_tiles import MODES
from dask_slides.core.limits import Limits
from dask_slides.slide import Slide, open_slide


@dataclass(frozen=True)
class Given:
    """SLIDE and how it is to be opened."""

    path: str
    mpp: float | None
    on_bad_tile: str
    limits: Limits
    sha256: str | None
    image: str | None
    axes: str | None
    z: int
    t: int

    def open(self) -> Slide:
        """Open it."""
        return open_slide(
            self.path,
            mpp=self.mpp,
            on_bad_tile=self.on_bad_tile,
            limits=self.limits,
            sha256=self.sha256,
            image=self.image,
            axes=self.axes,
            z=self.z,
            t=self.t,
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


def limits_option(command: Command) -> Command:
    """Add what files may declare."""
    names = ", ".join(field.name for field in fields(Limits))
    return click.option(
        "--limits", metavar="NAME=N", multiple=True, callback=_limits,
        help=f"let a file declare more, or less, than by default: {names}; such as tile_bytes=2GB",
    )(command)  # fmt: skip


def _limits(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> Limits:
    known = {field.name for field in fields(Limits)}
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            found[name] = int(parse_bytes(number)) if number[:1].isdigit() else 0
        except ValueError:
            found[name] = 0
        if name not in known or found[name] < 1:
            raise click.BadParameter(
                f"{text!r}: give one of {', '.join(sorted(known))}, = and a number"
            )
    return Limits(**found)


def slide_options(command: Command) -> Command:
    """Add the slide and how it is opened, and hand it over as one value."""

    @wraps(command)
    def run(
        slide: str,
        slide_mpp: float | None,
        on_bad_tile: str,
        limits: Limits,
        verify_hash: str | None,
        image: str | None,
        axes: str | None,
        z: int,
        t: int,
        **kwargs: Any,
    ) -> Any:
        given = Given(slide, slide_mpp, on_bad_tile, limits, verify_hash, image, axes, z, t)
        return command(slide=given, **kwargs)

    options: list[Callable[[Command], Command]] = [
        click.argument("slide", metavar="SLIDE"),
        slide_mpp_option,
        bad_tile_option,
        limits_option,
        click.option("--verify-hash", metavar="SHA256",
                     help="read the whole file first, and refuse it if it has another checksum"),
        click.option("--image", metavar="NAME|NUMBER",
                     help="which of several images of the file; info lists them"),
        click.option("--axes", metavar="LETTERS",
                     help="what stacked pages are, such as CYX for channels, ZYX or TYX"),
        click.option("--z", type=click.IntRange(0), default=0, show_default=True,
                     help="which plane along z"),
        click.option("--t", type=click.IntRange(0), default=0, show_default=True,
                     help="which plane along t"),
    ]  # fmt: skip
    decorated: Command = run
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
