"""A folder is a registry: the file's name is the plug-in's name, and there is no list to edit.

A name with a leading underscore is not a plug-in. Listing the names imports nothing, so an unknown
name is refused before TensorFlow is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tfbatch.errors import InputError, did_you_mean


class Registry:
    """The plug-ins in one package folder.

    Args:
        package: The package's import name, e.g. "tfbatch.schedules".
        kind: What one plug-in is called in messages, e.g. "schedule".
        folder: The package's `__path__`.
    """

    def __init__(self, package: str, *, kind: str, folder: Sequence[str]):
        self.package = package
        self.kind = kind
        self._folder = Path(folder[0])

    def names(self) -> list[str]:
        """The names of all plug-ins, sorted."""
        return sorted(p.stem for p in self._folder.glob("*.py") if not p.stem.startswith("_"))

    def check(self, name: str) -> str:
        """Returns `name` if it is a plug-in of this folder.

        Raises:
            InputError: There is no such file; the message lists the names and the closest one.
        """
        if name not in self.names():
            raise InputError(
                f"Unknown {self.kind} `{name}`.{did_you_mean(name, self.names())} "
                f"Available: {', '.join(self.names())}."
            )
        return name

    def load(self, name: str) -> ModuleType:
        """Imports the plug-in's module.

        Raises:
            InputError: There is no such plug-in.
        """
        return importlib.import_module(f"{self.package}.{self.check(name)}")
