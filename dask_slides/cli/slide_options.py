"""The argument SLIDE and the options to open it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

import click
from dask.utils import parse_bytes

from dask_slides.cli.options import Command, add_options
from dask_slides.core.arguments import is_remote
from dask_slides.core.bad_tiles import MODES
from dask_slides.core.limits import Limits
from dask_slides.slide import Slide, open_slide


@dataclass(frozen=True)
class SlideOptions:
    """SLIDE and the options to open it."""

    slide: str
    slide_mpp: float | None
    on_bad_tile: str
    limits: Limits
    verify_hash: str | None
    image: str | None
    axes: str | None
    z: int
    t: int
    channels: list[str] | None
    reader: str | None

    @property
    def path(self) -> str:
        """Path or address of the slide."""
        return self.slide.rstrip("/") if is_remote(self.slide) else self.slide

    def open(self) -> Slide:
        """Open the slide."""
        return open_slide(
            self.slide,
            mpp=self.slide_mpp,
            on_bad_tile=self.on_bad_tile,
            limits=self.limits,
            sha256=self.verify_hash,
            image=self.image,
            axes=self.axes,
            z=self.z,
            t=self.t,
            channels=self.channels,
            reader=self.reader,
        )


def _parse_channels(_context: Any, _option: Any, given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",")]


def _parse_limits(_context: Any, _option: Any, given: tuple[str, ...]) -> Limits:
    known = {field.name for field in fields(Limits)}
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            found[name] = int(parse_bytes(number)) if number[:1].isdigit() else 0
        except ValueError:
            found[name] = 0
        if name not in known or found[name] < 1:
            names = ", ".join(sorted(known))
            raise click.BadParameter(f"{text!r}: give one of {names}, = and a number")
    return Limits(**found)


opening_options = add_options(
    click.option("--slide-mpp", type=float, show_default="from the file",
                 help="micrometres per pixel of the slide"),
    click.option("--on-bad-tile", type=click.Choice(MODES), default="raise",
                 help="fail if a tile cannot be decoded, or fill it, print it and exit with 3"),
    click.option("--limits", metavar="NAME=N", multiple=True, callback=_parse_limits,
                 help="change a limit for values that the file declares, as in tile_bytes=2GB; "
                 f"limits are {', '.join(field.name for field in fields(Limits))}"),
)  # fmt: skip
"""Options that apply to single and to many slides."""

_slide_options = add_options(
    click.argument("slide", metavar="SLIDE"),
    opening_options,
    click.option("--verify-hash", metavar="SHA256", show_default="not checked",
                 help="read the whole file first and fail if its checksum differs"),
    click.option("--image", metavar="NAME|NUMBER", show_default="the largest",
                 help="image to open if the file has several; info lists them"),
    click.option("--axes", metavar="LETTERS", show_default="from the file",
                 help="axes of stacked pages, such as CYX for channels, ZYX or TYX"),
    click.option("--z", type=click.IntRange(0), default=0, help="index of the plane along z"),
    click.option("--t", type=click.IntRange(0), default=0, help="index of the plane along t"),
    click.option("--channels", metavar="NAME,NUMBER,...", show_default="all",
                 callback=_parse_channels,
                 help="channels to read, in this order, such as DAPI,CD3; info lists them"),
    click.option("--reader", metavar="NAME", show_default="chosen by the file",
                 help="reader to use, such as tiff or openslide"),
)  # fmt: skip


def slide_options(command: Command) -> Command:
    """Add SLIDE and its options, and pass them to the command as `slide`."""

    @wraps(command)
    def run(**kwargs: Any) -> Any:
        options = {field.name: kwargs.pop(field.name) for field in fields(SlideOptions)}
        return command(slide=SlideOptions(**options), **kwargs)

    return _slide_options(run)
