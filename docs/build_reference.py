"""Builds the API reference into a folder: `python docs/build_reference.py build/docs`.

pdoc looks at a module's own names; those that tfbatch imports when they are first asked for are
asked for here. A warning is an error.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import pdoc

LAZY = ("tfbatch", "tfbatch.callbacks", "tfbatch.pipeline", "tfbatch.schedules")


def main(folder: Path) -> None:
    """Writes the pages."""
    for name in LAZY:
        module = importlib.import_module(name)
        for public in module.__all__:
            setattr(module, public, getattr(module, public))
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        pdoc.pdoc("tfbatch", output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
