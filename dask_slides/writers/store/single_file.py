"""An output of one file, put together in the hidden folder where tasks write its parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dask_slides.writers.store.local_folder import LocalFolder, flush_file, flush_folder
from dask_slides.writers.store.location import Data, Location

ASSEMBLED = "assembled"
"""Name of the complete file in the hidden folder."""


@dataclass(frozen=True)
class SingleFile(LocalFolder):
    """A file of a disk."""

    def is_own(self) -> bool:
        """Return whether what is here may be overwritten: any file, but no folder."""
        return os.path.isfile(self.path)

    def recover(self, staging: Location) -> None:
        """Do nothing: a file is replaced in one step."""

    def publish(
        self, staging: LocalFolder, root: Mapping[str, Data], check: Callable[[], None]
    ) -> None:
        """Rename the assembled file, then delete its parts."""
        assembled = os.path.join(staging.path, ASSEMBLED)
        flush_file(assembled)
        check()
        os.replace(assembled, self.path)
        flush_folder(os.path.dirname(self.path))
        staging.delete()
