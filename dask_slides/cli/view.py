"""``dask-slides view``: look at slides and their layers in the browser."""

from __future__ import annotations

import threading
import webbrowser

import click

from dask_slides.cli.exit_codes import report_errors
from dask_slides.cli.options import blank_map_option, detector_options, given_map
from dask_slides.errors import SlideArgumentError
from dask_slides.numerics.detectors import Detector
from dask_slides.view.content import open_paths
from dask_slides.view.server import View, import_bokeh


@click.command("view")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@detector_options()
@blank_map_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one",
              help="port of 127.0.0.1 to listen on")  # fmt: skip
@click.option("--no-browser", is_flag=True, help="print the address only")
@report_errors
def command(
    paths: tuple[str, ...], detector: Detector, map_file: str | None, port: int, no_browser: bool
) -> None:
    """Show slides, stores, packs, blank maps and GeoJSON in the browser.

    Layers are shown on the slide that they are of. The blank map can be corrected, and the outlines
    of its tissue are saved as GeoJSON for --blank-map. It ends with Ctrl-C.
    """
    import_bokeh()
    shown = open_paths(paths)
    if map_file is not None:
        if len(shown) != 1:
            raise SlideArgumentError("--blank-map is for one slide; give the path of one")
        slide = shown[0].slide
        found = given_map(slide, map_file, detector)
        shown = (shown[0].plus(map_file, found),)
    for note in (note for one in shown for note in one.notes):
        click.echo(f"dask-slides: note: {note}", err=True)
    with View(shown, detector=detector, port=port) as view:
        click.echo(f"{view.name}: {view.url} (Ctrl-C ends it)")
        if not no_browser:
            webbrowser.open(view.url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("\nended")
