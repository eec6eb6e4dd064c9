"""The formats of exports. To add one, write a module beside this one and add a line to `EXPORTS`.

Other packages add theirs by an entry point of the group ``dask_slides.exports`` whose object is an
`Exporter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, signature

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
    """What it makes of an object, in words that follow "as": "a CSV table"."""
    suffixes: tuple[str, ...] = ()
    """Ends of output names that choose the format without `to=`."""
    files: tuple[str, ...] = ()
    """Patterns of the files of a slide in a folder for many slides: "patches/{name}.h5"."""

    def load(self) -> Callable[..., str]:
        """Return the function."""
        if not isinstance(self.function, str):
            return self.function
        module, name = self.function.split(":")
        function: Callable[..., str] = getattr(import_module(module), name)
        return function

    def suffix_of(self, path: str) -> str:
        """Return the longest of `suffixes` that `path` ends with, or ""."""
        return max(
            (one for one in self.suffixes if path.lower().endswith(one)), key=len, default=""
        )

    def options(self) -> tuple[str, ...]:
        """Return the names of the options of the function."""
        found = signature(self.load()).parameters.values()
        names = (one.name for one in found if one.kind is Parameter.KEYWORD_ONLY)
        return tuple(name for name in names if name != "overwrite")

    def check_options(self, path: str, given: Iterable[str]) -> None:
        """Raise SlideArgumentError for an option that the function does not take."""
        kinds = {one.kind for one in signature(self.load()).parameters.values()}
        unknown = sorted(set(given) - set(self.options()))
        if unknown and Parameter.VAR_KEYWORD not in kinds:
            known = ", ".join(self.options()) or "none"
            raise SlideArgumentError(
                f"{path}: {self.name} has no option {unknown[0]!r}; its options are: {known}"
            )


MAKERS = {
    "TilePack": "pack_tiles (dask-slides pack)",
    "BlankMap": "blank_map (dask-slides mask)",
}
"""What makes an object of each kind from a slide."""
_HERE = "dask_slides.writers.exports"
EXPORTS = (
    Exporter("csv", ("TilePack",), f"{_HERE}.tables:export_csv",
             "a CSV table", (".csv",)),
    Exporter("parquet", ("TilePack",), f"{_HERE}.tables:export_parquet",
             "a Parquet table", (".parquet",)),
    Exporter("geoparquet", ("TilePack",), f"{_HERE}.tables:export_geoparquet",
             "a GeoParquet table with rectangles", (".geoparquet", ".geo.parquet")),
    Exporter("geojson", ("TilePack", "BlankMap"), f"{_HERE}.geojson:export_geojson",
             "GeoJSON for QuPath", (".geojson", ".geojson.gz")),
    Exporter("trident", ("TilePack", "BlankMap"), f"{_HERE}.trident:export_trident",
             "files in the folder of a TRIDENT job",
             files=("*/patches/{name}_patches.h5", "contours_geojson/{name}.geojson")),
    Exporter("clam", ("TilePack",), f"{_HERE}.clam:export_clam",
             "an HDF5 file in a folder of CLAM",
             files=("patches/{name}.h5",)),
    Exporter("deepzoom", ("Slide", "Cutoff"), f"{_HERE}.deepzoom:export_deepzoom",
             "a Deep Zoom image for viewers such as OpenSeadragon", (".dzi",)),
    Exporter("jpeg", ("TilePack",), f"{_HERE}.image_tiles:export_jpeg",
             "JPEG files in a folder, whose names carry the coordinates"),
    Exporter("png", ("TilePack",), f"{_HERE}.image_tiles:export_png",
             "PNG files in a folder, whose names carry the coordinates"),
    Exporter("ome-tiff", ("Slide", "Cutoff", "BlankMap"), f"{_HERE}.ome_tiff:export_ome_tiff",
             "TIFF", (".ome.tif", ".ome.tiff")),
    Exporter("spatialdata", ("Slide",), f"{_HERE}.spatialdata:export_spatialdata",
             "a store of SpatialData", (".spatialdata.zarr",)),
    Exporter("webdataset", ("TilePack",), f"{_HERE}.webdataset:export_webdataset",
             "tar files for WebDataset", (".tar",)),
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
            makers = " or ".join(MAKERS[one] for one in exporters()[to].kinds if one in MAKERS)
            raise SlideArgumentError(
                f"{path}: {to!r} is a format for a {takes}, not for a {kind}"
                + (f"; make one with {makers}" if makers else "")
            )
        raise SlideArgumentError(f"{path}: the format {to!r} is not known; {_known(fitting, kind)}")
    chosen = [one for one in fitting.values() if one.suffix_of(path)]
    others = [one for one in exporters().values() if one.suffix_of(path)]
    if not chosen and others:
        return exporter_for(path, others[0].name, kind)  # which says what it takes
    if not chosen:
        raise SlideArgumentError(f"{path}: its name names no format; {_known(fitting, kind)}")
    return max(chosen, key=lambda one: len(one.suffix_of(path)))


def _known(fitting: Mapping[str, Exporter], kind: str) -> str:
    if not fitting:
        return f"no format takes a {kind}"
    return f"choose one of these with to or --to: {', '.join(sorted(fitting))}"
