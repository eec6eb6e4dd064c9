"""Structure of the package: order and cost of imports, and the public API."""

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
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(ROOT)], "dask_slides.")
    if not info.ispkg and not info.name.endswith("__main__")
)
ORDER = (
    "errors", "core", "runtime", "numerics", "plots", "readers", "graph", "slide", "ops",
    "writers", "feed", "cohort", "testing", "view", "cli",
)  # fmt: skip
"""Folders from the bottom up; a module imports only from its own folder and earlier ones."""

UPWARD = {"dask_slides.slide": {"dask_slides.view.server"}}
"""Imports against the order: `Slide.view` opens the viewer, which shows all that is made of it."""


def source_of(name):
    return (ROOT.parent / (name.replace(".", "/") + ".py")).read_text()


def imports(name, everywhere=True):
    """Return the modules of the package that `name` imports; `everywhere` includes functions."""
    tree = ast.parse(source_of(name))
    found = set()
    for node in ast.walk(tree) if everywhere else statements_on_import(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= inner or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES) - {name}


def statements_on_import(tree):
    """Yield the statements that run on import."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from ast.walk(node) if isinstance(node, ast.If | ast.Try) else [node]


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downward(name):
    for other in imports(name) - UPWARD.get(name, set()):
        assert folder(other) <= folder(name), f"{name} imports {other}"


def folder(name):
    return ORDER.index(name.split(".")[1])


def test_there_are_no_import_cycles():
    remaining = {name: imports(name, everywhere=False) for name in MODULES}
    while remaining:
        free = [name for name, needs in remaining.items() if not needs & set(remaining)]
        assert free, f"import cycle among {sorted(remaining)}"
        for name in free:
            del remaining[name]


SHARED = re.compile(
    r"config\.set\(|signal\.signal\(|simplefilter|filterwarnings|showwarning =|catch_warnings"
    r"|\.setLevel\(|\.addHandler\(|os\.environ\[|environ\.update|excepthook|\.register\(\)"
    r"|seterr\(|set_start_method|setrecursionlimit|MAX_IMAGE_PIXELS"
)
"""Code that changes settings of the whole process."""
OWNERS = {
    "runtime.local_cluster": "the cluster of the command line and the processes that it starts",
    "cohort.run": "the logger of one run, which other code cannot access",
    "readers.codecs.fax": "the level of one logger, restored by the last thread",
    "readers.image_file": "warnings of Pillow only, restored by the last thread",
}
"""Modules outside the command line that change such settings, with the reason."""


def test_only_the_command_line_changes_settings_of_the_process():
    library = [name.removeprefix("dask_slides.") for name in MODULES if ".cli" not in name]
    assert {n for n in library if SHARED.search(source_of(f"dask_slides.{n}"))} == set(OWNERS)
    for name in library:
        assert "dask_slides.runtime.local_cluster" not in imports(f"dask_slides.{name}"), name


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "code", ["", "import dask.array as da; ds.resize(da.ones((9, 9)), downsample=2)"]
)
def test_importing_is_light(code):
    heavy = "tifffile zarr distributed matplotlib skimage PIL scipy.sparse imagecodecs click"
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


ARGUMENTS = {
    "open_slide": "path mpp=None fill=None image=None axes=None z=0 t=0 channels=None reader=None "
    "on_bad_tile='raise'",
    "from_dask": "array mpp=None",
    "blank_map": "slide tile_size=None detector=Tissue() mpp=None min_tissue=0.05",
    "resize": "slide downsample=None mpp=None max_size=None shape=None kernel='lanczos' gap=2.0",
    "cutoff_resize": "slide downsample=None mpp=None max_size=None shape=None kernel='lanczos' "
    "gap=2.0 tile_size=None detector=Tissue() blank_map=None",
    "pack_tiles": "slide tile_size=256 stride=None downsample=None mpp=None magnification=None "
    "min_tissue=0.5 detector=Tissue() edge='drop' top_k=None blank_map=None labels=None",
    "random_crops": "slide n size seed=0 downsample=None mpp=None magnification=None "
    "min_tissue=0.5 detector=Tissue() blank_map=None weights=None",
    "write": "obj path overwrite=False resume=False",
    "export": "obj path to=None",
    "open_blank_map": "path",
    "open_mapping": "path",
    "open_pack": "path",
    "sample_slide": "path shape=(20480,20480)",
}
"""Arguments and defaults of the public functions."""
MEMBERS = {
    "Slide": "shape dtype mpp levels path properties channels images data to_dask read thumbnail "
    "view",
    "BlankMap": "blank unknown tissue tissue_fraction tissue_share mask grid compute with_detector "
    "with_min_tissue with_tile_size with_blank remove_small fill_holes union intersection polygons "
    "to_geojson from_geojson from_labels plot",
    "Cutoff": "image blank_map to_source from_source gain",
    "TilePack": "tiles y x score tissue_fraction labels coverage boxes to_frame plot",
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_public_functions_have_these_arguments(name):
    first, *rest = inspect.signature(getattr(ds, name)).parameters.values()
    found = [first.name, *(str(p.replace(annotation=p.empty)).replace(" ", "") for p in rest)]
    promised = ARGUMENTS[name].split()
    assert [one for one in found if one in promised] == promised
    if name not in ("write", "export"):  # write(obj, path)
        assert {one.kind for one in rest} <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", MEMBERS)
def test_public_classes_have_these_members(name):
    kind = getattr(ds, name)
    assert set(MEMBERS[name].split()) <= set(kind.__dataclass_fields__) | set(dir(kind))
    assert kind.__dataclass_params__.frozen


def test_all_lists_the_public_names():
    public = {
        name for name, value in vars(ds).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }  # fmt: skip
    assert list(ds.__all__) == sorted(public | {"__version__"})
    assert (ROOT / "py.typed").exists()


def documented():
    """Yield all public functions, classes and methods."""
    for name in ds.__all__:
        value = getattr(ds, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
        if inspect.isclass(value):
            for key, method in inspect.getmembers(value, inspect.isfunction):
                if method.__module__.startswith("dask_slides") and not key.startswith("_"):
                    yield f"{name}.{key}", method


@pytest.mark.parametrize(("name", "value"), [pytest.param(*one, id=one[0]) for one in documented()])
def test_everything_public_is_documented(name, value):
    text = inspect.getdoc(value)
    first = text.splitlines()[0]
    assert first.endswith(".") and len(first) < 100
    if inspect.isclass(value) or "." in name:
        return
    parts = re.split(r"(Parameters|Returns)\n-+\n", text)
    assert parts[1::2] == ["Parameters", "Returns"]
    names = re.findall(r"^(\S.*?)(?: :|$)", parts[2], re.MULTILINE)
    listed = [one.strip(" *") for line in names for one in line.split(",")]
    assert listed == list(inspect.signature(value).parameters)


@pytest.mark.parametrize("name", [name for name in MODULES if ">>>" in source_of(name)])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.attempted and not result.failed
