"""The house: who imports whom, what importing costs, what is public and documented."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dask_slides as ds

ROOT = Path(ds.__file__).parent

NAMES = sorted(
    f"{info.name}"
    for info in pkgutil.walk_packages([str(ROOT)], "dask_slides.")
    if not info.ispkg and not info.name.endswith("__main__")
)


def imports(name, top_only=True):
    """Return the modules of the package that `name` imports; inside functions too if asked."""
    tree = ast.parse((ROOT.parent / (name.replace(".", "/") + ".py")).read_text())
    nodes = top_level(tree) if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in NAMES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {one for one in found if one.startswith("dask_slides")} - {name}


def top_level(tree):
    """Yield the statements that run on import; not those for type checkers only."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from ast.walk(node)


ORDER = (
    "errors", "core", "runtime", "numerics", "plots", "readers", "graph", "slide", "ops",
    "writers", "feed", "cohort", "testing", "cli",
)  # fmt: skip
"""Folders from the ground up; a module imports from its own and those before it."""


def place(name):
    """Return where in `ORDER` a module lies."""
    return ORDER.index(name.split(".")[1])


@pytest.mark.parametrize("name", NAMES)
def test_imports_run_downward(name):
    for other in imports(name, top_only=False) - {"dask_slides"}:
        assert place(other) <= place(name), f"{name} imports {other}"


def test_there_are_no_circles():
    graph = {name: imports(name) & set(NAMES) for name in NAMES}
    left = dict(graph)
    while left:
        free = [name for name, needs in left.items() if not needs & set(left)]
        assert free, f"circle among {sorted(left)}"
        for name in free:
            del left[name]


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "code", ["", "import dask.array as da; ds.resize(da.ones((9, 9)), downsample=2)"]
)
def test_importing_stays_light(code):
    heavy = "tifffile zarr distributed matplotlib skimage PIL scipy.sparse imagecodecs click rich"
    out = run(
        "import sys, dask.array\nbefore = set(sys.modules)\n"  # dask itself imports scipy.sparse
        f"import dask_slides as ds\n{code}\n"
        f"print([name for name in {heavy.split()!r} if name in set(sys.modules) - before])"
    )
    assert out.strip() == "[]"


def test_a_small_job_loads_neither_distributed_nor_zarr(tmp_path):
    path = ds.sample_slide(tmp_path / "small.tif", shape=(512, 512), tile=128)
    out = run(
        "import sys, dask, dask_slides as ds\n"
        f"slide = ds.open_slide({str(path)!r})\n"
        "slide.thumbnail(64), ds.blank_map(slide, tile_size=64).compute()\n"
        "with dask.config.set(scheduler='Synchronous'): slide.thumbnail(64)\n"
        "print([name for name in ('distributed', 'zarr') if name in sys.modules])"
    )
    assert out.strip() == "[]"


def test_the_package_comes_with_types():
    assert (ROOT / "py.typed").exists()


CONTRACT = {
    "open_slide": ["path", "mpp", "fill", "on_bad_tile"],
    "from_dask": ["array", "mpp"],
    "blank_map": ["slide", "tile_size", "detector"],
    "resize": ["slide", "downsample", "mpp", "max_size", "shape", "kernel", "gap"],
    "cutoff_resize": ["slide", "downsample", "mpp", "max_size", "shape", "kernel", "gap",
                      "tile_size", "detector", "blank_map"],
    "pack_tiles": ["slide", "tile_size", "stride", "downsample", "mpp", "detector", "edge",
                   "top_k"],
    "random_crops": ["slide", "n", "size", "seed", "downsample", "mpp", "detector"],
    "write": ["obj", "path", "compute", "overwrite", "resume"],
    "open_pack": ["path"],
    "sample_slide": ["path", "shape"],
}  # fmt: skip
"""The names and arguments of "The contract" of the design."""

DEFAULTS = {
    ("open_slide", "fill"): None, ("open_slide", "on_bad_tile"): "raise",
    ("resize", "kernel"): "lanczos", ("resize", "gap"): 2.0,
    ("blank_map", "detector"): ds.Contrast(0.05), ("pack_tiles", "detector"): ds.Contrast(0.35),
    ("pack_tiles", "edge"): "drop", ("random_crops", "seed"): 0, ("write", "overwrite"): False,
    ("sample_slide", "shape"): (20480, 20480),
}  # fmt: skip

MEMBERS = {
    "Slide": ["shape", "dtype", "mpp", "levels", "path", "data", "to_dask", "read", "thumbnail"],
    "BlankMap": ["blank", "grid", "compute"],
    "Cutoff": ["image", "blank_map", "to_source", "from_source"],
    "TilePack": ["tiles", "y", "x", "score"],
}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_holds(name):
    signature = inspect.signature(getattr(ds, name))
    assert list(signature.parameters)[: len(CONTRACT[name])] == CONTRACT[name]
    for (function, argument), default in DEFAULTS.items():
        if function == name:
            assert signature.parameters[argument].default == default


@pytest.mark.parametrize("name", MEMBERS)
def test_the_nouns_hold(name):
    kind = getattr(ds, name)
    fields = set(kind.__dataclass_fields__) | set(dir(kind))
    assert set(MEMBERS[name]) <= fields
    assert kind.__dataclass_params__.frozen


def test_all_names_are_there():
    assert list(ds.__all__) == sorted(ds.__all__)
    assert set(CONTRACT) | set(MEMBERS) | {"Contrast", "Otsu", "SlideError"} <= set(ds.__all__)
    for name in ds.__all__:
        assert getattr(ds, name) is not None
    public = {
        name
        for name, value in vars(ds).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public <= set(ds.__all__)


def documented():
    """Yield every public function, and the public methods of public classes."""
    for name in ds.__all__:
        thing = getattr(ds, name)
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            for key, value in vars(thing).items():
                if inspect.isfunction(value) and not key.startswith("_"):
                    yield f"{name}.{key}", value


@pytest.mark.parametrize(
    ("name", "function"), list(documented()), ids=lambda value: str(value)[:40]
)
def test_public_functions_are_documented(name, function):
    text = inspect.getdoc(function)
    assert text, name
    first = text.splitlines()[0]
    assert first.endswith(".") and len(first) < 100
    if "." in name:
        return
    assert "Parameters\n----------" in text
    assert "Returns\n-------" in text
    parts = text.split("Parameters\n----------")[1].split("Returns\n-------")[0]
    said = [one.strip(" *") for line in parts.splitlines() if line and not line.startswith(" ")
            for one in line.split(":")[0].split(",")]  # fmt: skip
    assert said == [one for one in inspect.signature(function).parameters], name


@pytest.mark.parametrize("name", ds.__all__)
def test_everything_public_says_what_it_is(name):
    thing = getattr(ds, name)
    if not isinstance(thing, str):
        assert inspect.getdoc(thing)


def modules_with_examples():
    return [name for name in NAMES if ">>>" in (ROOT.parent / (name.replace(".", "/") + ".py"))
            .read_text()]  # fmt: skip


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, optionflags=flags)
    assert result.attempted
    assert not result.failed


def test_modules_are_small():
    long = {
        name: count
        for name in NAMES
        if (count := (ROOT.parent / (name.replace(".", "/") + ".py")).read_text().count("\n")) > 400
    }
    assert not long


SHARED = re.compile(
    r"config\.set\(|signal\.signal\(|simplefilter|filterwarnings|showwarning =|catch_warnings"
    r"|\.setLevel\(|\.addHandler\(|os\.environ\[|environ\.update|excepthook|\.register\(\)"
    r"|seterr\(|set_start_method|setrecursionlimit|MAX_IMAGE_PIXELS"
)
"""What changes something that all threads of a process share."""
OWNERS = {
    "runtime.local_cluster": "the command line's cluster, and the processes that it starts",
    "cohort.workers": "a process that it starts",
    "cohort.run": "a logger of one run, which nobody else can find",
    "readers.codecs.fax": "the level of one logger, put back by the last thread",
    "readers.image_file": "warnings of Pillow alone, put back by the last thread",
}
"""Modules that do, beside those of the command line, and what of."""


def test_only_the_command_line_changes_what_a_process_shares():
    found = {
        name.removeprefix("dask_slides.")
        for name in NAMES
        if SHARED.search((ROOT.parent / (name.replace(".", "/") + ".py")).read_text())
    }
    assert {name for name in found if not name.startswith("cli")} == set(OWNERS)
    for name in NAMES:
        if not name.startswith(("dask_slides.cli", "dask_slides.runtime.local_cluster")):
            assert "dask_slides.runtime.local_cluster" not in imports(name, top_only=False), name
