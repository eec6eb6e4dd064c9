"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, get_args

import click
from click.core import ParameterSource

from dask_slides.core.grid import Edge
from dask_slides.errors import SlideArgumentError, SlideError
from dask_slides.numerics.detectors import (
    DETECTORS,
    ONNX,
    Contrast,
    Detector,
    checked_detector,
    detector_names,
)
from dask_slides.numerics.kernels import KERNELS
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR
from dask_slides.ops.aligned_tiles import ALIGN
from dask_slides.ops.blank_map import MIN_TISSUE, BlankMap
from dask_slides.ops.cutoff import LAYOUTS
from dask_slides.ops.map_tiles import TILE_PX, TILE_UM
from dask_slides.ops.pack import TILE_SIZE, USUAL_MPP
from dask_slides.slide import Slide
from dask_slides.writers.blank_map_reader import open_blank_map
from dask_slides.writers.exports.ome_tiff import CODECS, PYRAMIDS, QUALITY, SUFFIXES
from dask_slides.writers.pack_chunks import COPY, PACK_CODECS
from dask_slides.writers.source_copy import LEVEL_STEP, LEVEL_STEPS
from dask_slides.writers.source_copy import QUALITY as MADE_QUALITY
from dask_slides.writers.store.arrays import VERSIONS

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def add_options(*options: Decorator) -> Decorator:
    """Return a decorator that adds `options` to a command, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@dataclass(frozen=True)
class CommonOptions:
    """Options of every command that computes something."""

    scheduler: str
    workers: int | None
    memory: str | None
    overwrite: bool
    resume: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool

    @property
    def threads(self) -> int:
        """Number of threads or processes to use on this machine."""
        return self.workers or os.cpu_count() or 1


json_option = click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="replace an output that dask-slides wrote"
)

_common_options = add_options(
    click.option("--scheduler", default="threads", metavar="WHERE",
                 help="threads, processes, tcp://HOST:PORT or a scheduler file (.json)"),
    click.option("--workers", type=click.IntRange(1), show_default="all cores",
                 help="threads or processes to use"),
    click.option("--memory", metavar="SIZE", show_default="all of the machine or container",
                 help="limit for all threads or processes together, such as 8GB"),
    overwrite_option,
    click.option("--resume", is_flag=True,
                 help="continue the same command after it was stopped, and keep unfinished work"),
    click.option("--dry-run", is_flag=True, help="print the plan and write nothing"),
    json_option,
    click.option("-q", "--quiet", is_flag=True, help="print errors only"),
    click.option("-v", "--verbose", is_flag=True, help="show the traceback of an error"),
)  # fmt: skip


def common_options(command: Command) -> Command:
    """Add the options of `CommonOptions`, and pass them to the command as `common`."""

    @wraps(command)
    def run(**kwargs: Any) -> Any:
        names = [field.name for field in fields(CommonOptions)]
        common = CommonOptions(**{name: kwargs.pop(name) for name in names})
        return command(common=common, **kwargs)

    return _common_options(run)


IMAGE, TILES = ".ome.zarr", ".tiles.zarr"
"""Usual endings of a store of an image, and of one of tiles."""


def output_path(
    kind: str, endings: tuple[str, ...], usual: str, more: str = ""
) -> Callable[..., str]:
    """Return a callback that refuses paths without one of `endings`, and stores of tiles.

    The message names `kind`, such as "a TIFF", suggests the ending `usual`, and says `more`.
    """

    def check(_context: click.Context, _argument: click.Parameter, value: str) -> str:
        path = value.rstrip("/")
        if not path.lower().endswith(endings) or path.lower().endswith(TILES):
            raise click.BadParameter(
                f"{value!r} is not the name of {kind}; use {stem_of(path) + usual!r}{more}"
            )
        return path

    return check


def stem_of(path: str) -> str:
    """Return the path of an output without its ending, of one or two parts."""
    return os.path.splitext(path)[0].removesuffix(".ome").removesuffix(".tiles")


def is_tiff(out: str) -> bool:
    """Return whether the name of an output is that of an OME-TIFF."""
    return out.lower().endswith(SUFFIXES)


_TIFF_OPTIONS = ("codec", "quality", "pyramid")
_COPY_OPTIONS = ("drop_blank", "verify_pixels", "level_step")
"""Options of a copy of compressed tiles, in the names of `write`."""


_copy_options = add_options(
    click.option("--drop-blank", is_flag=True, default=None,
                 help=f"with --codec {COPY}, leave out tiles without tissue"),
    click.option("--verify-pixels", type=click.FloatRange(0, 1), is_flag=False, flag_value=0.01,
                 show_default="0; 0.01 without SHARE", metavar="[SHARE]",
                 help=f"with --codec {COPY}, decode this share of the tiles both ways"),
    click.option("--level-step", type=click.Choice([*map(str, LEVEL_STEPS), "none"]),
                 show_default=str(LEVEL_STEP),
                 help=f"with --codec {COPY}, largest ratio of two levels; missing ones are made, "
                 "or none"),
)  # fmt: skip


def _tiff_options(copies: bool) -> Decorator:
    """Add the options of an OME-TIFF, and, if the command `copies` tiles, those of a copy."""
    codecs = (*CODECS, COPY) if copies else CODECS
    of_codec, of_quality = "of an OME-TIFF", "of JPEG in an OME-TIFF"
    if copies:
        of_codec += f"; in Zarr, {COPY} copies the slide's own compressed tiles"
        of_quality += f", and with {COPY} of the levels that are made"
    return add_options(
        click.option("--codec", type=click.Choice(codecs), help=of_codec,
                     show_default="jpeg for 8-bit RGB, else deflate; zstd in Zarr"),
        click.option("--quality", type=click.IntRange(1, 100), show_default=str(QUALITY),
                     help=of_quality),
        *([_copy_options] if copies else []),
        click.option("--pyramid", type=click.Choice(PYRAMIDS), show_default=PYRAMIDS[0],
                     help="levels of a TIFF: subifds for Bio-Formats and QuPath, pages for "
                     "OpenSlide"),
    )  # fmt: skip


def image_argument(endings: tuple[str, ...] = (), more: str = "", copies: bool = True) -> Decorator:
    """Add the path of an image to write, a Zarr store or an OME-TIFF, and the options of TIFF.

    These are passed to the command as the dictionary `tiff`. `endings` are those of other outputs,
    about which the message for a wrong name says `more`. `copies` says whether the command can copy
    the compressed tiles of the slide.
    """
    more = f", or the ending {more}{SUFFIXES[0]} for an OME-TIFF"
    check = output_path("an image", (".zarr", *SUFFIXES, *endings), IMAGE, more)
    names = (*_TIFF_OPTIONS, *(_COPY_OPTIONS if copies else ()))

    def add(command: Command) -> Command:
        @wraps(command)
        def run(**kwargs: Any) -> Any:
            given = {name: kwargs.pop(name) for name in names}
            tiff = {name: value for name, value in given.items() if value is not None}
            if step := tiff.get("level_step"):
                tiff["level_step"] = None if step == "none" else int(step)
            _check_image_options(kwargs["out"], tiff.get("codec"))
            return command(tiff=tiff, **kwargs)

        return click.argument("out", metavar="OUT", callback=check)(_tiff_options(copies)(run))

    return add


def _check_image_options(out: str, codec: str | None) -> None:
    """Refuse options that do not fit the name of the output or the codec."""
    if is_tiff(out):
        of_zarr = ("ome_zarr", "shards", *_COPY_OPTIONS, *(["codec"] if codec == COPY else []))
        _refuse(of_zarr, "is for a Zarr store, not a TIFF")
        return
    for_tiff = f"is for an OME-TIFF; end the name of the output with {SUFFIXES[0]}"
    if codec == COPY:
        _refuse(("pyramid",), for_tiff)
    else:
        _refuse(_COPY_OPTIONS, f"needs --codec {COPY}")
        _refuse(_TIFF_OPTIONS, for_tiff)


def _refuse(names: tuple[str, ...], reason: str) -> None:
    """Raise if one of the options with these names is given."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) in (None, ParameterSource.DEFAULT):
            continue
        option = "no-shards" if name == "shards" else name.replace("_", "-")
        value = f" {context.params[name]}" if name == "codec" else ""
        raise click.UsageError(f"--{option}{value} {reason}")


def _parse_gap(_context: click.Context, _option: click.Parameter, value: str) -> float | None:
    if value == "none":
        return None
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}: give a number of 1 or more, or none") from None


ome_zarr_option = click.option(
    "--ome-zarr", type=click.Choice(VERSIONS), default="0.5", help="0.5 is Zarr v3, 0.4 is Zarr v2"
)


def tile_codec_options(prefix: str = "", quality: int | None = None) -> Decorator:
    """Add the codec of tiles in a Zarr store, and its `quality` if none is given."""
    return add_options(
        click.option(f"--{prefix}codec", type=click.Choice(PACK_CODECS),
                     show_default="zstd, without loss",
                     help=f"of a Zarr store: {COPY} copies whole compressed tiles of the slide"),
        click.option(f"--{prefix}quality", type=click.IntRange(1, 100), default=quality,
                     show_default=str(MADE_QUALITY),
                     help="of jpeg and jpegxl; jpegxl of 100 loses nothing"),
    )  # fmt: skip


def encoding_options(command: Command) -> Command:
    """Add the codec of tiles in a Zarr store: the argument `encoding`, the options of `write`."""

    @wraps(command)
    def run(**kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in ("codec", "quality")}
        if given["quality"] is not None and given["codec"] is None:
            raise click.BadParameter("needs --codec jpeg or jpegxl", param_hint="--quality")
        encoding = {name: value for name, value in given.items() if value is not None}
        return command(encoding=encoding, **kwargs)

    return tile_codec_options()(run)


shards_option = click.option(
    "--shards/--no-shards", default=True,
    help="several chunks per file, or one, for programs that cannot read shards",
)  # fmt: skip
_scale_options = add_options(
    click.option("--downsample", type=float, show_default="1, 2, 5 or 10, by the longest side",
                 help="how many times smaller"),
    click.option("--mpp", type=float, show_default="from --downsample",
                 help="micrometres per pixel of the result"),
    click.option("--magnification", type=float, show_default="from --downsample",
                 help="of the objective, such as 20 for 0.5 micrometres per pixel"),
    click.option("--max-size", type=int, show_default="from --downsample",
                 help="longest side of the result in pixels"),
    click.option("--shape", type=(int, int), show_default="from --downsample",
                 help="height and width of the result"),
    click.option("--kernel", type=click.Choice(list(KERNELS)), default="lanczos",
                 help="resampling kernel"),
    click.option("--gap", metavar="FLOAT|none", callback=_parse_gap, default="2.0",
                 help="minimum reduction by the kernel after a smaller level is read; none always "
                 "reads level 0"),
)  # fmt: skip
enlarge_option = click.option(
    "--enlarge", is_flag=True, help="accept a finer scale than that of the slide"
)
layout_option = click.option(
    "--layout", type=click.Choice(LAYOUTS), default="grid",
    help="cut off blank rows and columns, or place islands of tissue on a small canvas",
)  # fmt: skip
blank_map_option = click.option(
    "--blank-map", "map_file", metavar="FILE", show_default="what the detector finds",
    help="a store that `mask` wrote, or polygons of the tissue in pixels of the slide, as QuPath "
         "exports them (.geojson)",
)  # fmt: skip


def scale_options(command: Command) -> Command:
    """Add the scale of an image, and pass it to the command as the dictionary `scale`."""

    @wraps(command)
    def run(**kwargs: Any) -> Any:
        names = ("downsample", "mpp", "magnification", "max_size", "shape", "kernel", "gap")
        return command(scale={name: kwargs.pop(name) for name in names}, **kwargs)

    return _scale_options(run)


class DetectorName(click.Choice[str]):
    """The name of a detector of this package or another one, or the path of an ONNX model."""

    name = "detector"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is given."""
        if value in DETECTORS or not (value.endswith(ONNX) or value in detector_names()):
            return super().convert(value, param, ctx)
        return str(value)


def detector_options(prefix: str = "") -> Decorator:
    """Add the options of a detector, and pass it to the command as `detector`."""
    options = add_options(
        click.option(f"--{prefix}detector", type=DetectorName(list(DETECTORS)),
                     default="tissue",
                     help="method that finds blank tiles, or the path of an ONNX model"),
        click.option(f"--{prefix}ratio", type=float, show_default="0.05",
                     help="for contrast: a tile is blank if std <= ratio * mean"),
    )  # fmt: skip
    names = [f"{prefix}{name}".replace("-", "_") for name in ("detector", "ratio")]

    def add(command: Command) -> Command:
        @wraps(command)
        def run(**kwargs: Any) -> Any:
            name, ratio = (kwargs.pop(name) for name in names)
            if ratio is not None and name != "contrast":
                raise click.BadParameter(
                    f"the detector {name} has no ratio; use --{prefix}detector contrast",
                    param_hint=f"--{prefix}ratio",
                )
            try:
                detector = checked_detector(name) if ratio is None else Contrast(ratio)
            except SlideError as error:
                raise click.BadParameter(str(error), param_hint=f"--{prefix}detector") from None
            # operations compare with the default itself to know whether a detector is given
            detector = DEFAULT_DETECTOR if detector == DEFAULT_DETECTOR else detector
            return command(**{names[0]: detector}, **kwargs)

        return options(run)

    return add


def given_map(
    slide: Slide, file: str | None, detector: Detector, tile_size: int | None = None
) -> BlankMap | None:
    """Return the blank map in `file`, if there is one; then no detector may be."""
    if file is None:
        return None
    if detector is not DEFAULT_DETECTOR:
        raise SlideArgumentError("--blank-map and --detector exclude each other; give one")
    if file.rstrip("/").endswith(".zarr"):
        stored = open_blank_map(file)
        return stored if tile_size is None else stored.with_tile_size(tile_size)
    return BlankMap.from_geojson(file, slide, tile_size=tile_size)


def blank_map_options(
    prefix: str = "", micrometres: float = TILE_UM, pixels: int = TILE_PX
) -> Decorator:
    """Add the tile size of a blank map, its share of tissue and the detector.

    The default tile size has `micrometres`, or `pixels` if the pixel size is not known.
    """
    usual = f"{micrometres:g} µm, or {pixels} px if the pixel size is not known"
    return add_options(
        click.option(f"--{prefix}tile-size", type=int, show_default=usual,
                     help="side of a tile in pixels of the slide"),
        click.option(f"--{prefix}min-tissue", type=click.FloatRange(0, 1), default=MIN_TISSUE,
                     help="a tile is blank if a smaller share of its area is tissue"),
        detector_options(prefix),
    )  # fmt: skip


def tile_scale_options(prefix: str = "") -> Decorator:
    """Add the scale of tiles, and the share of tissue in them."""
    usual = f"{USUAL_MPP:g} if the slide is finer, else that of the slide"
    return add_options(
        click.option(f"--{prefix}downsample", type=float, show_default=f"from --{prefix}mpp",
                     help="how many times smaller"),
        click.option(f"--{prefix}mpp", type=float, show_default=usual,
                     help="micrometres per pixel of the tiles"),
        click.option(f"--{prefix}magnification", type=float, show_default=f"from --{prefix}mpp",
                     help="of the objective, such as 20 for 0.5 micrometres per pixel"),
        click.option(f"--{prefix}min-tissue", type=click.FloatRange(0, 1), default=0.5,
                     help="smallest share of the area of a tile that is tissue"),
        detector_options(prefix),
    )  # fmt: skip


def pack_options(prefix: str = "") -> Decorator:
    """Add the options of a pack and the detector."""
    return add_options(
        click.option(f"--{prefix}tile-size", type=int, default=TILE_SIZE,
                     help="side of a tile in pixels of the pack"),
        click.option(f"--{prefix}stride", type=int, show_default="the tile size",
                     help="distance between tiles"),
        click.option(f"--{prefix}edge", type=click.Choice(get_args(Edge)), default="drop",
                     help="what to do with the last tile of a row or column if it does not fit"),
        click.option(f"--{prefix}align", type=click.Choice(ALIGN), show_default="none",
                     help="move tiles to the slide's own compressed tiles, to copy them with "
                     f"--{prefix}codec {COPY}"),
        click.option(f"--{prefix}top-k", type=int, show_default="all tiles",
                     help="pack only the k tiles with the highest score"),
        tile_scale_options(prefix),
    )  # fmt: skip
