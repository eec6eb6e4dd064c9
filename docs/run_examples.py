"""Run the examples of Markdown files: every python block, and every dask-slides command.

    python docs/run_examples.py             # README and all pages of docs
    python docs/run_examples.py FILE.md...

The blocks of a file run in order, in one namespace, in a temporary folder that holds a small
sample slide as slide.tif. A block marked ``no-run`` is left alone, and one marked
``needs=PACKAGE`` where that package is not installed. A block marked ``file=NAME`` is written to
this file, for the commands that follow. Notebooks are left to Sphinx, which executes them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from importlib.util import find_spec
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = {"dask-slides": "dask_slides", "torchrun": "torch.distributed.run"}
"""Commands that are run, and their modules."""


def pages() -> list[Path]:
    """Return README and the pages of docs that are not notebooks."""
    found = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
    return [path for path in found if not path.read_text("utf-8").startswith("---\njupytext:")]


def run_python(code: str, namespace: dict[str, object], where: str) -> bool:
    """Run a block; say where it failed."""
    try:
        exec(compile(code, where, "exec"), namespace)
    except Exception:
        print(f"FAILED {where}\n{code}\n{traceback.format_exc()}", file=sys.stderr)
        return False
    return True


def run_shell(code: str, where: str) -> bool:
    """Run the commands of a block that are among `COMMANDS`."""
    good = True
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] not in COMMANDS:
            continue
        command = [sys.executable, "-m", COMMANDS[words[0]], *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"FAILED {where}: {line}\n{done.stderr}", file=sys.stderr)
            good = False
    return good


def run_file(path: Path) -> tuple[int, list[str], bool]:
    """Run the blocks of a file; return how many, what others needed, whether all went well."""
    import dask_slides

    text = path.read_text(encoding="utf-8")
    count, absent, good = 0, [], True
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            dask_slides.sample_slide("slide.tif", shape=(4096, 4096), seed=38)
            namespace: dict[str, object] = {"__name__": "__main__"}
            for language, mark, code in BLOCK.findall(text):
                if "no-run" in mark or language not in ("python", "sh"):
                    continue
                marks = dict(one.split("=") for one in mark.split())
                if "needs" in marks and find_spec(marks["needs"]) is None:
                    absent.append(marks["needs"])
                    continue
                count += 1
                where = f"{path.name}, block {count}"
                if "file" in marks:
                    Path(marks["file"]).write_text(code, encoding="utf-8")
                elif language == "python":
                    good &= run_python(code, namespace, where)
                else:
                    good &= run_shell(code, where)
        finally:
            os.chdir(before)
    return count, absent, good


def main() -> None:
    """Run the files named, or all; exit 1 if anything failed."""
    good = True
    for path in [Path(name).resolve() for name in sys.argv[1:]] or pages():
        count, absent, fine = run_file(path)
        left_out = f", {len(absent)} left out without {', '.join(sorted(set(absent)))}"
        if count:
            print(
                f"{path.relative_to(TOP)}: {count} examples {'ran' if fine else 'FAILED'}"
                f"{left_out if absent else ''}"
            )
        good &= fine
    sys.exit(not good)


if __name__ == "__main__":
    main()
