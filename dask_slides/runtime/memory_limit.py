"""What this process may take of the machine that it runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

GROUPS = "/proc/self/cgroup"
"""Where Linux names the control groups of a process, and where they lie:"""
ROOT = "/sys/fs/cgroup"


def memory() -> int | None:
    """Return the bytes of memory that this process can have; None on a system that does not tell.

    Those of the machine, or fewer where a container or a batch system sets a limit.
    """
    return min([*_of_machine(), *limits_of_groups()], default=None)


def _of_machine() -> Iterator[int]:
    try:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no such question
        return


def limits_of_groups(groups: str = GROUPS, root: str = ROOT) -> Iterator[int]:
    """Yield the limits in bytes of the control groups of this process and of those around them.

    Both versions of Linux; a container often sees its own group as the root, whatever its name.
    """
    try:
        lines = Path(groups).read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, file = Path(root), "memory.max"
        elif "memory" in controllers.split(","):
            top, file = Path(root, "memory"), "memory.limit_in_bytes"
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            try:
                limit = (top / group / file).read_text(encoding="ascii").strip()
            except OSError:  # the root has none, and outside of a container its path means nothing
                continue
            if limit.isdecimal():  # else "max"
                yield int(limit)
