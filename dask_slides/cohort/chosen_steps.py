"""Make the steps of a run from what the user gives: names, arguments, steps and functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from dask_slides.cohort.file_steps import Export, Function
from dask_slides.cohort.step import Step
from dask_slides.cohort.steps import STEPS
from dask_slides.errors import SlideArgumentError

Steps = str | Step | Callable[..., Any] | Mapping[str, Any] | Sequence[Any]
"""What `run_cohort` takes as steps: one item, or a sequence of them."""
OBJECTS = {"blank_map": "BlankMap", "pack": "TilePack"}
"""Options of exports that may be steps, and what these make."""
KNOWN = (*STEPS, Export.kind)
"""Names of steps for the user."""


def checked_steps(steps: Steps) -> tuple[Step, ...]:
    """Return the steps in the order in which they run, with their arguments checked.

    Steps that write stores run in the order of `STEPS`. Then come exports and then functions, in
    the order in which they are given.

    Raises
    ------
    SlideArgumentError
        A step or an argument does not exist, the value of an argument is wrong, or two steps have
        the same name.
    """
    items = steps if isinstance(steps, Sequence) and not isinstance(steps, str) else [steps]
    given = [pair for item in items for pair in _pairs(item)]
    exports = [value for name, value in given if name == Export.kind]
    made = [value for name, value in given if name != Export.kind]
    stores = sorted((step for step in made if not isinstance(step, Function)), key=_place)
    functions = [step for step in made if isinstance(step, Function)]
    chosen = (*stores, *(_export(one, stores) for one in exports), *functions)
    if not chosen:
        raise SlideArgumentError(f"no step is given; use {', '.join(KNOWN)}, or a function")
    for step in chosen:
        step.check()
    _check_names(chosen)
    return chosen


def _place(step: Step) -> int:
    return [*STEPS, step.kind].index(step.kind)


def _pairs(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield the kind of each step in `item`, and the step; for an export, its arguments."""
    if isinstance(item, Step):
        yield item.kind, item
    elif isinstance(item, str):
        yield item, _step(item, {})
    elif isinstance(item, Mapping):
        for name, value in item.items():
            if name == Export.kind:
                yield from ((name, one) for one in (value if isinstance(value, list) else [value]))
            elif isinstance(value, Mapping):
                yield name, _step(name, value)
            elif callable(value):
                yield Function.kind, Function(value, name)
            else:
                raise SlideArgumentError(
                    f"step {name}: {value!r} is neither arguments nor a function; give a dict"
                )
    elif callable(item):
        yield Function.kind, Function(item)
    else:
        raise SlideArgumentError(
            f"{item!r} is not a step; use {', '.join(KNOWN)}, a dict of their arguments, or a "
            "function"
        )


def _step(name: str, arguments: Mapping[str, Any]) -> Step:
    """Return the step `name` with `arguments`, whose names are checked."""
    if name == Export.kind:
        raise SlideArgumentError(
            "step export needs arguments; give {'export': {'of': 'pack', 'to': FORMAT}}"
        )
    if name not in STEPS:
        raise SlideArgumentError(f"step {name!r} is not known; use {', '.join(KNOWN)}")
    known = {one.name: one.default for one in fields(STEPS[name])}  # type: ignore[arg-type]
    wrong = sorted(set(arguments) - known.keys())
    if wrong:
        raise SlideArgumentError(
            f"step {name} has no argument {wrong[0]!r}; use {', '.join(sorted(known))}"
        )
    absent = [one for one, default in known.items() if default is MISSING and one not in arguments]
    if absent:
        raise SlideArgumentError(f"step {name} needs {' and '.join(absent)}")
    return STEPS[name](**arguments)


def _export(given: Any, stores: Sequence[Step]) -> Export:
    """Return the export with the arguments `given`, of a step of this run or another one."""
    if isinstance(given, Export):
        return given
    options = dict(given) if isinstance(given, Mapping) else {}
    of, to, file = (options.pop(name, None) for name in ("of", "to", "file"))
    if of is None or not isinstance(to, str):
        raise SlideArgumentError(
            "step export needs of, the step to export, and to, the format; give "
            "{'export': {'of': 'pack', 'to': FORMAT}}"
        )
    for name, makes in OBJECTS.items():
        value = options.get(name)
        if isinstance(value, Mapping) or (isinstance(value, str) and value in STEPS):
            options[name] = step = _exported(value, stores)
            if step.makes != makes:
                raise SlideArgumentError(
                    f"step export: {name}={value!r} makes a {step.makes}; give a step that makes "
                    f"a {makes}"
                )
    return Export(_exported(of, stores), to, file, tuple(sorted(options.items())))


def _exported(of: Any, stores: Sequence[Step]) -> Step:
    """Return the step to export: given with its arguments, or the step of the run with its name."""
    if isinstance(of, Step):
        return of
    if isinstance(of, Mapping) and len(of) == 1:
        ((name, arguments),) = of.items()
        return _step(name, arguments)
    same = [step for step in stores if step.kind == of]
    if not same and not isinstance(of, str):
        raise SlideArgumentError(f"step export: of={of!r} is not a step; use {', '.join(STEPS)}")
    return same[0] if same else _step(of, {})


def _check_names(steps: Sequence[Step]) -> None:
    count = Counter(step.name for step in steps)
    count.update(one.name for one in steps if isinstance(one, Function) and one.name in KNOWN)
    name, most = count.most_common(1)[0]
    if most > 1:
        raise SlideArgumentError(f"two steps are called {name}; give each its own name")
