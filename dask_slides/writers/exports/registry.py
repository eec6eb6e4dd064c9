"""The formats of exports. To add one, write a module beside this one and add a line to `EXPORTS`.

Other packages add theirs by an entry point of the group ``dask_slides.exports`` whose object is an
`Exporter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from dask_slides.errors import SlideArgumentError

GROUP = "dask_slides.exports"


@dataclass(frozen=True)
class Exporter:
    """A format, and the function that writes it."""

    name: str
    """What `to=` calls it."""
    kinds: tuple[str, ...]
    """Class names of the objects it takes: TilePack, BlankMap, Slide, Cutoff."""
    function: Callable[..., str] | str
    """``function(obj, path, *, overwrite, **options)`` writes `obj` and returns the path. Or its
    address, ``module:function``, which is imported at the first use."""
    description: str
    """One line for users."""
    suffixes: tuple[str, ...] = ()
    """Ends of output names that choose the format without `to=`."""

    def load(self) -> Callable[..., str]:
        """Return the function."""
        if not isinstance(self.function, str):
            return self.function
        module, name = self.function.split(":")
        function: Callable[..., str] = getattr(import_module(module), name)
        return function


_HERE = "dask_slides.writers.exports"
EXPORTS = (
    Exporter("csv", ("TilePack",), f"{_HERE}.tables:export_csv",
             "table of tiles, one row each", (".csv",)),
    Exporter("deepzoom", ("Slide", "Cutoff"), f"{_HERE}.deepzoom:export_deepzoom",
             "Deep Zoom image for viewers such as OpenSeadragon", (".dzi",)),
    Exporter("jpeg", ("TilePack",), f"{_HERE}.image_tiles:export_jpeg",
             "folder of JPEG tiles whose names carry the coordinates"),
    Exporter("png", ("TilePack",), f"{_HERE}.image_tiles:export_png",
             "folder of PNG tiles whose names carry the coordinates"),
    Exporter("webdataset", ("TilePack",), f"{_HERE}.webdataset:export_webdataset",
             "tar shards of tiles for WebDataset", (".tar",)),
)  # fmt: skip


@cache
def exporters() -> Mapping[str, Exporter]:
    """Return all formats by name; those of other packages come last and replace none."""
    found = {one.name: one for one in EXPORTS}
    for entry in entry_points(group=GROUP):
        exporter = entry.load()
        found.setdefault(exporter.name, exporter)
    return found


def exporter_for(path: str, to: str | None, kind: str) -> Exporter:
    """Return the format `to`, or the one that the name of the output chooses, for a `kind`."""
    fitting = {name: one for name, one in exporters().items() if kind in one.kinds}
    if to is not None:
        if to in fitting:
            return fitting[to]
        if to in exporters():
            takes = " or ".join(exporters()[to].kinds)
            raise SlideArgumentError(f"{path}: {to!r} is a format for a {takes}, not for a {kind}")
        raise SlideArgumentError(f"{path}: the format {to!r} is not known; {_known(fitting, kind)}")
    chosen = [one for one in fitting.values() if path.lower().endswith(one.suffixes or ("\0",))]
    if not chosen:
        raise SlideArgumentError(f"{path}: its name names no format; {_known(fitting, kind)}")
    return max(
        chosen, key=lambda one: max(len(s) for s in one.suffixes if path.lower().endswith(s))
    )


def _known(fitting: Mapping[str, Exporter], kind: str) -> str:
    return (
        f"give to= one of {', '.join(sorted(fitting))}" if fitting else f"no format takes a {kind}"
    )
