"""The steps that are made from names, arguments and functions."""

import pytest

import dask_slides as ds
from dask_slides.cohort.chosen_steps import checked_steps
from dask_slides.cohort.file_steps import Export, Function
from dask_slides.cohort.steps import Crops, Mask, Pack


def count(slide):
    return {"pixels": slide.shape[0] * slide.shape[1]}


CSV = {"of": "pack", "to": "csv"}
CROPS = {"n": 9, "size": 64}


def test_names_arguments_steps_and_functions_run_in_a_fixed_order():
    given = [count, {"export": CSV}, {"crops": CROPS}, Pack(tile_size=64), "mask"]
    pack, crops = Pack(tile_size=64), Crops(**CROPS)
    made = (Mask(), pack, crops, Export(pack, "csv"), Function(count))
    assert checked_steps(given) == made
    mapping = {
        "count": count, "export": [CSV], "crops": CROPS, "pack": {"tile_size": 64}, "mask": {}
    }  # fmt: skip
    assert [step.name for step in checked_steps(mapping)] == [step.name for step in made]
    assert checked_steps("mask") == (Mask(),) and checked_steps(count) == (Function(count),)


def test_an_export_takes_the_arguments_of_the_step_of_the_run_or_its_own():
    (export,) = checked_steps({"export": {"of": {"pack": {"tile_size": 64}}, "to": "csv"}})
    assert export.of == Pack(tile_size=64)
    (export,) = checked_steps({"export": CSV})
    assert export.of == Pack()
    *_, export = checked_steps([{"pack": {"tile_size": 32}}, {"export": CSV}])
    assert export.of == Pack(tile_size=32)
    assert export.path("/job", "a") == "/job/exports/pack_csv/a.csv"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("polish", "'polish' is not known; use mask, .*, crops, export"),
        ([3], "3 is not a step"),
        ({"mask": 3}, "step mask: 3 is neither arguments nor a function"),
        ("crops", "step crops needs n and size"),
        ({"crops": {"n": 0, "size": 9}}, "n=0 is not a count"),
        ({"crops": CROPS | {"seed": -1}}, "seed=-1"),
        (["mask", Mask(tile_size=9)], "two steps are called mask"),
        ({"mask": count}, "two steps are called mask"),
        ([count, count], "two steps are called count"),
        (lambda slide: None, "without a usable name"),
        ({"far": lambda a, b, c: None}, "far: the function takes 3 arguments"),
        ("export", "needs arguments"),
        ({"export": 3}, "needs of, the step"),
        ({"export": {"of": "pack"}}, "needs of, the step to export, and to"),
        ({"export": {"of": "polish", "to": "csv"}}, "'polish' is not known"),
        ({"export": {"of": 3, "to": "csv"}}, "of=3 is not a step"),
        ({"export": {"of": "pack", "to": "xls"}}, "step pack_xls: the format 'xls' is not known"),
        (
            {"export": {"of": "mask", "to": "csv"}},
            "step mask_csv: 'csv' is a format for a TilePack",
        ),
        ({"export": CSV | {"colour": 1}}, "pack_csv: csv has no option 'colour'"),
        ({"export": CSV | {"file": "all.csv"}}, "file='all.csv' is not a path for each slide"),
        ({"export": CSV | {"file": "../{name}.csv"}}, "inside the folder of the exports"),
        ({"export": CSV | {"file": "{nom}.csv"}}, "not a path for each slide"),
        ({"export": [CSV, CSV]}, "two steps are called pack_csv"),
        ({"mask": {"format": "png"}}, "format='png' is not known; use ome.zarr or ome.tif"),
    ],
)
def test_wrong_steps_are_refused_in_one_line(steps, message):
    with pytest.raises(ds.errors.SlideArgumentError, match=message):
        checked_steps(steps)


def test_a_function_is_called_with_the_arguments_it_takes():
    def defaults(slide, depth=3):
        pass

    def optional(slide, folder=None):
        pass

    takes = {"count": 1, "defaults": 1, "optional": 2, "both": 2}
    functions = [count, defaults, optional, {"both": lambda slide, place: None}]
    assert {step.name: step.takes for step in checked_steps(functions)} == takes
