"""Builds the API reference into a folder: `python docs/build_reference.py build/docs`.

pdoc looks at a module's own names; those that tfbatch imports when they are first asked for are
asked for here. A warning is an error.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import tfbatch


def lazy_modules() -> list[str]:
    """Every module of the package that has a `__getattr__` of its own."""
    names = [info.name for info in pkgutil.walk_packages(tfbatch.__path__, "tfbatch.")]
    found = [importlib.import_module(n) for n in ["tfbatch", *names] if "__main__" not in n]
    return [module.__name__ for module in found if hasattr(module, "__getattr__")]


def main(folder: Path) -> None:
    """Writes the pages."""
    for name in lazy_modules():
        module = importlib.import_module(name)
        for public in module.__all__:
            setattr(module, public, getattr(module, public))
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        pdoc.pdoc("tfbatch", output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
