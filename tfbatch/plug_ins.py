"""Where plug-ins are found: in a folder of Python files or of YAML files, or by a function's name.

A folder is a registry: the file's name is the plug-in's name, and there is no list to edit. A name
with a leading underscore is not a plug-in. Listing the names imports nothing, so an unknown name is
refused before TensorFlow is loaded. The YAML plug-ins, pipelines/NAME.yaml (data sets) and
tuner_configs/NAME.yaml (searches), are folders of data, found by path and not by import, so that
they work alike from a bare checkout, an editable install and a wheel. A user's own function is
named `package.module:function`.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tfbatch.errors import ConfigurationError, InputError, did_you_mean
from tfbatch.schema import expanded


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


_PACKAGE = Path(__file__).resolve().parent


class YamlFolder:
    """One kind of YAML plug-in.

    Args:
        folder: The folder's name, "pipelines" or "tuner_configs".
        kind: What one file is called in messages.
        variable: Environment variable with a further folder that is searched first.
    """

    def __init__(self, folder: str, *, kind: str, variable: str):
        self.folder = folder
        self.kind = kind
        self.variable = variable

    def folders(self, extra: Path | None = None) -> list[Path]:
        """The folders that are searched, first one first."""
        asked = [extra, os.environ.get(self.variable)]
        folders = [Path(folder).expanduser() for folder in asked if folder]
        if (_PACKAGE / self.folder).is_dir():  # a wheel
            folders.append(_PACKAGE / self.folder)
        # Only beside our own setup.cfg: site-packages/pipelines could be anybody's.
        if (_PACKAGE.parent / "setup.cfg").is_file():
            folders.append(_PACKAGE.parent / self.folder)
        return folders

    def names(self, extra: Path | None = None) -> list[str]:
        """All names that can be asked for, sorted."""
        return sorted({p.stem for f in self.folders(extra) for p in f.glob("*.yaml")})

    def find(self, name: str, extra: Path | None = None) -> Path:
        """Returns the file of a plug-in; a path that ends in .yaml is taken as it is.

        Raises:
            ConfigurationError: There is no such file; lists the names and the folders searched.
        """
        if name.endswith((".yaml", ".yml")):
            path = Path(name)
            if not _is_file(path):
                path = expanded(path)
            if not _is_file(path):
                raise ConfigurationError(f"No {self.kind} file `{name}`.")
            return path
        for folder in self.folders(extra):
            if _is_file(folder / f"{name}.yaml"):
                return folder / f"{name}.yaml"
        names = self.names(extra)
        raise ConfigurationError(
            f"Unknown {self.kind} `{name}`.{did_you_mean(name, names)} "
            f"Available: {', '.join(names) or 'none'}. "
            f"Searched: {', '.join(map(str, self.folders(extra)))}. "
            f"Add {name}.yaml to one of them, or set {self.variable} to a folder of your own."
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def check_reference(text: str, *, flag: str) -> None:
    """Refuses what is not `package.module:function`, importing nothing.

    Raises:
        InputError: A part is missing, or the function's name is not an identifier.
    """
    module, colon, function = text.partition(":")
    if not colon or not module or not function.isidentifier():
        raise InputError(f"`{flag}` must be package.module:function. Received: {text!r}.")


def is_importable(reference: str) -> bool:
    """Whether another process may find what `package.module:function` names.

    It finds nothing of a script or a notebook, nothing nested, and no lambda.
    """
    module, _, function = reference.partition(":")
    return module != "__main__" and function.isidentifier()


def find_function(reference: str, *, flag: str) -> Callable[..., object]:
    """The function that `package.module:function` names, as Python finds it from this folder.

    Args:
        reference: The name.
        flag: The flag that it was given by, for messages.

    Raises:
        InputError: There is no such module or function.
    """
    module_name, function_name = reference.split(":", 1)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"`{flag}={reference}`: cannot import {module_name}: {error}.") from error
    except Exception as error:  # whatever the user's own module raises
        place = traceback.format_exc(limit=-1).splitlines()[1].strip()
        raise InputError(
            f"`{flag}={reference}`: cannot import {module_name}: {type(error).__name__}: {error} "
            f"({place})."
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(
            f"`{flag}={reference}`: {module_name} has no function `{function_name}`."
            f"{did_you_mean(function_name, functions)}"
        )
    function: Callable[..., Any] = found
    return function
