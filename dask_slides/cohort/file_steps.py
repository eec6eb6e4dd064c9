"""Steps that write no store: exports to other formats, and functions of a user.

What was done is in a record beside the results of the slide (see `results`).
"""

from __future__ import annotations

import glob
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dask_slides.cohort.names import EXPORTS, safe_name
from dask_slides.cohort.results import CORRUPT_TILES
from dask_slides.cohort.step import BlankMaps, Built, Step
from dask_slides.core.plain_values import plain
from dask_slides.errors import SlideArgumentError
from dask_slides.slide import Slide
from dask_slides.writers.estimate import Estimate
from dask_slides.writers.export import export
from dask_slides.writers.exports.registry import Exporter, exporter_for
from dask_slides.writers.store.transaction import Target, facts_of

OUTPUT = "output"
"""Count of a function step: the path that the function returned."""
NAME = "name"
"""Option of a format that names the file of a slide in a folder for all slides."""


class FileStep(Step):
    """Base of the steps whose result is recorded beside it, not inside."""

    draws: ClassVar[bool] = False

    @property
    def is_store(self) -> bool:
        """It writes no store."""
        return False


@dataclass(frozen=True)
class Export(FileStep):
    """Export what another step makes to another format; the arguments are those of `export`.

    The files of all slides lie in one folder, ``JOB/exports/STEP_FORMAT``, as many tools want
    them. A format that itself names the file of each slide, by its option `name`, such as that of a
    job of TRIDENT, gets the folder ``JOB/exports/FORMAT`` for everything that is exported to it.
    The step that it exports need not be a step of the run: no pixel store is written then.
    """

    kind: ClassVar[str] = "export"

    of: Step
    """The step whose object is exported."""
    to: str
    """The format."""
    file: str | None = None
    """Path of the file of a slide in the folder, with ``{name}``; that of the format by default."""
    options: tuple[tuple[str, Any], ...] = ()
    """Options of the format, by name; a step stands for what it makes of the slide."""

    @property
    def name(self) -> str:
        """The names of the step and of the format, such as pack_csv."""
        return f"{self.of.name}_{self.to}"

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of the counts of the step that is exported."""
        return self.of.counts

    @property
    def makes(self) -> str:  # type: ignore[override]
        """Class name of the object that is exported."""
        return self.of.makes

    @property
    def suffix(self) -> str:
        """The usual end of names of this format; empty for folders."""
        suffixes = self._exporter.suffixes
        return suffixes[0] if suffixes else ""

    @property
    def _exporter(self) -> Exporter:
        return exporter_for(f"step {self.name}", self.to, self.makes)

    @property
    def shares_path(self) -> bool:
        """Whether the format itself names the file of each slide in one folder."""
        exporter = self._exporter
        return not exporter.suffixes and NAME in exporter.options()

    def path(self, job: str, name: str) -> str:
        """Return the path of the output of the slide `name`, or the folder of all of them."""
        if self.shares_path:
            return os.path.join(job, EXPORTS, self.to)
        file = self.file or "{name}" + self.suffix
        return os.path.normpath(os.path.join(job, EXPORTS, self.name, file.format(name=name)))

    def facts(self) -> dict[str, Any]:
        """Return the arguments of the step and of the one it exports."""
        own = {"file": self.file} | {name: value for name, value in self.options}
        mine = {f"{self.name}.{key}": repr(value) for key, value in own.items()}
        return facts_of(self.of, f"{self.name}.of") | mine

    def scale_arguments(self) -> dict[str, Any]:
        """Return the arguments that may enlarge a slide."""
        return self.of.scale_arguments()

    def check(self) -> None:
        """Raise SlideArgumentError for arguments that no slide accepts."""
        for step in (self.of, *(value for _, value in self.options if isinstance(value, Step))):
            step.check()
        self._check_file()
        self._exporter.check_options(f"step {self.name}", dict(self.options))

    def _check_file(self) -> None:
        if self.file is None:
            return
        if self.shares_path:
            raise SlideArgumentError(f"step {self.name}: {self.to} names its files; omit file")
        try:
            differs = self.file.format(name="a") != self.file.format(name="b")
        except (LookupError, ValueError):
            differs = False
        parts = self.file.replace("\\", "/").split("/")
        if not differs or ".." in parts or os.path.isabs(self.file):
            raise SlideArgumentError(
                f"step {self.name}: file={self.file!r} is not a path for each slide; give one such "
                "as '{name}.csv', inside the folder of the exports"
            )

    def estimate(self, slide: Slide) -> Estimate:
        """Return an upper bound without reading pixels: that of a store of the same object."""
        return self.of.estimate(slide)

    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return the reductions at which the exported step reads level 0."""
        return self.of.reductions(slide)

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Return the object to export and its counts."""
        return maps.build(self.of)

    def write(self, obj: Any, target: Target, maps: BlankMaps) -> str | None:
        """Export the object; return the path."""
        options = {
            name: maps.build(value)[0] if isinstance(value, Step) else value
            for name, value in self.options
        }
        if self.shares_path:
            options[NAME] = maps.name
        return export(obj, target.path, to=self.to, overwrite=target.overwrite, **options)

    def outputs(self, path: str | None, name: str) -> list[str]:
        """Return the files of the slide in a folder of all slides, or else what was written."""
        if not self.shares_path or path is None:
            return super().outputs(path, name)
        patterns = (one.format(name=glob.escape(name)) for one in self._exporter.files)
        folder = glob.escape(path)
        found = [file for one in patterns for file in glob.glob(os.path.join(folder, one))]
        return found or [path]


@dataclass(frozen=True)
class Function(FileStep):
    """Call a function of the user with each slide (see `run_cohort`)."""

    kind: ClassVar[str] = "function"
    makes: ClassVar[str] = "None"

    function: Callable[..., Any]
    title: str = ""
    """Name of the step; that of the function by default."""

    @property
    def name(self) -> str:
        """The name of the step."""
        return self.title or str(getattr(self.function, "__name__", ""))

    @property
    def counts(self) -> tuple[str, ...]:
        """No counts are known before the function returns them."""
        return ()

    @property
    def suffix(self) -> str:
        """It has no output of its own."""
        return ""

    @property
    def shares_path(self) -> bool:
        """The folder of the slide is that of other steps too."""
        return True

    def path(self, job: str, name: str) -> str:
        """Return the folder of the slide."""
        return os.path.join(job, name)

    def facts(self) -> dict[str, Any]:
        """Return the name of the step; changes of the code are not noticed."""
        return {self.name: "function"}

    def check(self) -> None:
        """Raise SlideArgumentError for a function that cannot be called or has no name."""
        if not self.name.isidentifier() or self.name != safe_name(self.name):
            raise SlideArgumentError(
                f"step {self.name!r} is a function without a usable name; define it with def, or "
                "give {'NAME': function}"
            )
        if self.takes > 2:
            raise SlideArgumentError(
                f"step {self.name}: the function takes {self.takes} arguments; it is called as "
                "function(slide) or function(slide, folder)"
            )

    @property
    def takes(self) -> int:
        """Number of arguments it is called with: the slide, and the folder if it takes one."""
        named = inspect.signature(self.function).parameters.values()
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        placed = [one for one in named if one.kind in by_place]
        needed = sum(one.default is one.empty for one in placed)
        return max(needed, 1 + (len(placed) > 1 and placed[1].name == "folder"))

    def estimate(self, slide: Slide) -> Estimate:
        """Return zeros, as nothing is known of the function."""
        return Estimate(slide.shape, (), 1, 0, 0)

    def reductions(self, slide: Slide) -> tuple[int, ...]:
        """Return none, as nothing is known of the function."""
        return ()

    def build(self, slide: Slide, maps: BlankMaps) -> Built:
        """Call the function; return the path that it returned, if it did, and its values."""
        result = self.function(*(slide, maps.folder)[: self.takes])
        if isinstance(result, str | os.PathLike):
            path = os.path.join(maps.folder, os.fspath(result))
            if not os.path.exists(path):
                raise SlideArgumentError(
                    f"{slide.name}: {self.name} returned the path {path}, which does not exist"
                )
            job = os.path.dirname(maps.folder)
            inside = os.path.relpath(path, job)
            return path, {OUTPUT: path if inside.startswith("..") else inside}
        return None, self._values(slide, {} if result is None else result)

    def _values(self, slide: Slide, result: Any) -> dict[str, Any]:
        """Return the values for the process list; raise SlideArgumentError for other objects."""
        wrong = type(result).__name__
        if isinstance(result, Mapping):
            try:
                values = {str(name): plain(value) for name, value in result.items()}
            except TypeError as error:
                wrong = f"a dict with a value of type {error}"
            else:
                if CORRUPT_TILES not in values:
                    return values
                wrong = f"a dict with {CORRUPT_TILES!r}, which is a column of every step"
        raise SlideArgumentError(
            f"{slide.name}: {self.name} returned {wrong}; return a dict of numbers and text, the "
            "path of a file, or None"
        )

    def write(self, obj: Any, target: Target, maps: BlankMaps) -> str | None:
        """Return the path that the function returned."""
        return None if obj is None else str(obj)
